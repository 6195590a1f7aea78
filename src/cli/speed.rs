//! `kmsfs speed`: what the ciphers do on this machine, on one core.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::failure::Failure;
use super::output;
use crate::crypto::aead::{BLOCK_LEN, DefaultGcm, Gcm, PortableGcm};
use crate::crypto::derive;
use crate::crypto::xts::{DefaultXts, PortableXts, Xts, XtsKey};
use crate::crypto::{BlockAad, DataKey, GcmKey, Secret, Suite};
use crate::kms::{EncryptionContext, Kms, KmsError, LocalKms, Requester};

/// How long each figure is measured.
const SPAN: Duration = Duration::from_millis(300);

/// Arguments of `kmsfs speed`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut figures = gcm::<DefaultGcm>("default");
    figures.extend(gcm::<PortableGcm>("portable"));
    figures.extend(xts::<DefaultXts>("default"));
    figures.extend(xts::<PortableXts>("portable"));
    figures.push(siv());
    figures.extend(wrapping()?);
    if args.json {
        return output::json(&figures);
    }
    figures.iter().try_for_each(|f| output::line(format!("{:<52} {:>10.3} {}", f.what, f.value, f.unit)))
}

/// How often `work` runs in a second.
fn rate(mut work: impl FnMut()) -> f64 {
    // Warms caches and lets the clock of the core rise.
    for _ in 0..64 {
        work();
    }
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < SPAN {
        for _ in 0..64 {
            work();
        }
        count += 64;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

fn gcm<P: Gcm>(role: &str) -> Vec<Figure> {
    let key = GcmKey::<P>::new(Secret::<32>::random().expose());
    let aad = BlockAad { number: 1, len: BLOCK_LEN as u32, suite: Suite::Gcm4k }.encode();
    let (plain, mut sealed, mut opened) = ([7; BLOCK_LEN], [0; BLOCK_LEN], [0; BLOCK_LEN]);
    let nonce = [1; 12];
    let tag = key.seal(&nonce, &aad, &plain, &mut sealed);
    let mut scratch = [0; BLOCK_LEN];
    let sealing = rate(|| {
        black_box(key.seal(&nonce, &aad, black_box(&plain), &mut scratch));
    });
    let opening = rate(|| {
        key.open(&nonce, &aad, black_box(&sealed), &tag, &mut opened).expect("it was sealed with this key");
    });
    let figure = |verb: &str, rate: f64| Figure {
        what: format!("AES-256-GCM, {} ({role}), {verb} 4 KiB blocks", P::NAME),
        value: rate * BLOCK_LEN as f64 / 1e9,
        unit: "GB/s",
    };
    vec![figure("seal", sealing), figure("open", opening)]
}

fn xts<P: Xts>(role: &str) -> Vec<Figure> {
    let key = XtsKey::<P>::new(&derive::xts_keys(&DataKey::random(), 0)).expect("derived halves differ");
    let (mut unit, mut sealed) = ([7; BLOCK_LEN], [0; BLOCK_LEN]);
    let sealing = rate(|| key.encrypt(1, black_box(&unit), black_box(&mut sealed)));
    let opening = rate(|| key.decrypt(1, black_box(&mut unit)));
    let figure = |verb: &str, rate: f64| Figure {
        what: format!("AES-256-XTS, {} ({role}), {verb} 4 KiB units", P::NAME),
        value: rate * BLOCK_LEN as f64 / 1e9,
        unit: "GB/s",
    };
    vec![figure("encrypt", sealing), figure("decrypt", opening)]
}

fn siv() -> Figure {
    let key = derive::name_key(&DataKey::random());
    let per_second = rate(|| {
        black_box(key.seal(&[], black_box(&[7; 32])));
    });
    Figure { what: "AES-256-SIV, names of 32 bytes".to_owned(), value: per_second / 1e6, unit: "million/s" }
}

fn wrapping() -> Result<Vec<Figure>, KmsError> {
    let (kms, key) = LocalKms::ephemeral();
    let labels = [("kmsfs:volume", "00000000-0000-4000-8000-000000000000"), ("kmsfs:kind", "file-gcm")];
    let context = EncryptionContext::new(labels).expect("two short pairs are a context");
    let (_, blob) = kms.generate_data_key(Requester::Own, &key, &context)?;
    let wrap = rate(|| {
        black_box(kms.generate_data_key(Requester::Own, &key, &context).is_ok());
    });
    let unwrap = rate(|| {
        black_box(kms.decrypt(Requester::Own, &blob.0, &context).is_ok());
    });
    let figure = |what: &str, rate: f64| Figure { what: what.to_owned(), value: rate / 1e3, unit: "thousand/s" };
    Ok(vec![figure("data keys made and wrapped", wrap), figure("data keys unwrapped", unwrap)])
}
