//! A backing tree made by the rooms of this crate, read by `tests/decoder.py`, which knows only docs/format.md.
//!
//! Needs python3 with the package `cryptography` 38 or later; without it, the test says so and passes,
//! unless `KMSFS_REQUIRE_DECODER` is set (as it is where the checks are binding).
#![allow(clippy::unwrap_used, reason = "a test should panic, in its helpers too")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use data_encoding::HEXLOWER;
use kmsfs::content::{Durability, XtsContent};
use kmsfs::crypto::{DataKey, Suite, derive, random};
use kmsfs::envelope::{
    Binder, Envelope, EnvelopeStore, Envelopes, Kind, LINKS_DIR, NameForm, NewVolume, Object, Place, Placement, Sealer,
    Volume, create_volume, root_envelope, sidecar_name,
};
use kmsfs::kms::{KeyId, Requester};
use kmsfs::names::{DirNames, EncodedName, LongLink, NameEncoding, SealedLink, Symlinks, Xattrs};
use kmsfs::sys::xattr::{self, Mode, Target};
use kmsfs::{crypto, kms};
use serde_json::{Value, json};

#[path = "../src/envelope/tests/fake.rs"]
mod fake;
mod memory;
use fake::FakeKms;

fn decoder(arguments: &[&Path]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decoder.py");
    Command::new("python3").arg("-B").arg(script).args(arguments).output().expect("python3 must start")
}

fn is_available() -> bool {
    let probe = "from cryptography.hazmat.primitives.ciphers.aead import AESSIV";
    let available = Command::new("python3").args(["-c", probe]).output().is_ok_and(|output| output.status.success());
    assert!(available || std::env::var_os("KMSFS_REQUIRE_DECODER").is_none(), "python3-cryptography is missing");
    if !available {
        eprintln!("not tested: python3 with cryptography 38 or later is missing");
    }
    available
}

/// Makes objects in the backing directory `path`, which has data key `key`.
struct Maker<'a> {
    volume: &'a Volume,
    sealer: Sealer<'a>,
    encoding: NameEncoding,
    path: PathBuf,
    key: DataKey,
}

impl Maker<'_> {
    fn place(&self) -> Place {
        Place::In(derive::directory_id(&self.key))
    }

    fn envelopes(&self) -> Envelopes {
        Envelopes::new(self.volume.header.placement())
    }

    fn stored(&self, name: &str) -> PathBuf {
        match DirNames::new(&self.key, self.encoding).encode(name.as_bytes()).unwrap() {
            EncodedName::Short(stored) => self.path.join(stored),
            EncodedName::Long { stored, side, target } => {
                match self.volume.header.placement() {
                    Placement::Xattr => symlink(target, self.path.join(side)).unwrap(),
                    Placement::Sidecar => fs::write(self.path.join(side), target).unwrap(),
                }
                self.path.join(stored)
            }
        }
    }

    fn create(&self, kind: Kind) -> (DataKey, Envelope) {
        self.sealer.create(self.volume.header.key(), kind, self.place()).unwrap()
    }

    /// An inline file with one extended attribute; `change` may replace its envelope.
    fn file(&self, name: &str, content: &[u8], change: impl Fn(Envelope) -> Envelope) -> PathBuf {
        let (key, envelope) = self.create(Kind::FileGcm);
        let path = self.stored(name);
        let mirror = self.sealer.mirror(&envelope, self.place()).unwrap();
        fs::write(&path, inline(&key, &mirror, content)).unwrap();
        let file = File::open(&path).unwrap();
        let directory = File::open(&self.path).unwrap();
        let object = Object::file(file.as_fd(), directory.as_fd(), path.file_name().unwrap().as_bytes());
        self.envelopes().create(object, &change(envelope).encode()).unwrap();
        let xattrs = Xattrs::new(&key);
        let value = xattrs.seal_value(b"note", content);
        let stored = xattrs.encode_name(b"note").unwrap();
        xattr::set(Target::Open(file.as_fd()), stored.as_bytes(), &value, Mode::Create).unwrap();
        path
    }

    fn directory(&self, name: &str) -> Self {
        let (key, envelope) = self.create(Kind::Directory);
        let path = self.stored(name);
        fs::create_dir(&path).unwrap();
        let directory = File::open(&path).unwrap();
        self.envelopes().create(Object::Directory(directory.as_fd()), &envelope.encode()).unwrap();
        Self { path, key, ..*self }
    }

    /// A file under the XTS suite.
    fn xts_file(&self, name: &str, content: &[u8]) {
        let (key, envelope) = self.create(Kind::FileXts);
        let memory = std::sync::Arc::<memory::Memory>::default();
        XtsContent::create(memory.clone(), key, Durability::Atomic).unwrap().write(0, content).unwrap();
        let path = self.stored(name);
        fs::write(&path, &*memory.0.lock().unwrap()).unwrap();
        let file = File::open(path).unwrap();
        self.envelopes().create(Object::File { fd: file.as_fd(), at: None }, &envelope.encode()).unwrap();
    }

    fn symlink(&self, name: &str, target: &str) {
        let text = match Symlinks::new(&self.volume.key).seal(target.as_bytes()).unwrap() {
            SealedLink::Short(text) => text,
            SealedLink::Long(LongLink { text, home_name, home_bytes }) => {
                fs::write(self.volume.header.root().join(LINKS_DIR).join(home_name), home_bytes).unwrap();
                text
            }
        };
        symlink(text, self.stored(name)).unwrap();
    }
}

/// docs/format.md section 5.1, the inline form.
fn inline(key: &DataKey, mirror: &[u8], content: &[u8]) -> Vec<u8> {
    let (salt, nonce): ([u8; 16], [u8; 12]) = (random::array(), random::array());
    let mut page = vec![0; 512 + content.len()];
    page[..8].copy_from_slice(b"KMSm\x01\x01\x02\x0c");
    page[24..32].copy_from_slice(&(content.len() as u64).to_le_bytes());
    page[64..80].copy_from_slice(&salt);
    page[80..112].copy_from_slice(&derive::commitment(key));
    let head = page[..484].to_vec();
    let tag = derive::group_keys(key, 0, &salt).block.seal(&nonce, &head, content, &mut page[512..]);
    page[152..220].copy_from_slice(mirror);
    page[484..496].copy_from_slice(&nonce);
    page[496..512].copy_from_slice(&tag);
    page
}

fn file_line(path: &str, content: &[u8]) -> Value {
    let sha256 = HEXLOWER.encode(&derive::sha256(content));
    let note = HEXLOWER.encode(content);
    json!({"path": path, "type": "file", "size": content.len(), "sha256": sha256, "xattrs": {"note": note}})
}

fn read_by_decoder(form: NameForm, encoding: NameEncoding, placement: Placement) {
    let kms = FakeKms::new(7);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    // No volume with sidecars has XTS files.
    let has_xts = placement == Placement::Xattr;
    let suite = if has_xts { Suite::Xts4k } else { Suite::Gcm4k };
    let new = NewVolume { key: &KeyId("cmk-3".into()), suite, placement, names: form, labels: &labels };
    let volume = create_volume(&root, &kms, &new).unwrap();
    let binder = Binder::new(&volume.header);
    let sealer = Sealer { binder: &binder, kms: &kms, requester: Requester::Own };
    let envelope = root_envelope(&root, &Envelopes::new(placement)).unwrap();
    let key = sealer.unlock(&envelope, Place::ROOT).unwrap();
    let top = Maker { volume: &volume, sealer, encoding, path: root.clone(), key };

    top.file("plain.txt", b"hello", |envelope| envelope);
    kms.rotate();
    let sub = top.directory("d");
    let long = "n".repeat(255);
    sub.file(&long, &[b'x'; 3584], |envelope| envelope);
    sub.file("linked", b"two places", |envelope| sealer.linked(&envelope, sub.place()).unwrap());
    sub.file("moving away", b"old", |envelope| sealer.moving(&envelope, sub.place(), top.place()).unwrap().0);
    fs::write(sub.stored("empty"), b"").unwrap();
    if placement == Placement::Sidecar {
        // After a crash while one file replaced another: either may be there.
        let (_, other) = sub.create(Kind::FileGcm);
        sub.file("first of two", b"1", |envelope| envelope.or(&other).unwrap());
        sub.file("second of two", b"2", |envelope| other.or(&envelope).unwrap());
    }
    if has_xts {
        top.xts_file("xts", &[b'y'; 4096 + 5]);
    }
    let target = "t".repeat(4000);
    sub.symlink("short link", "../plain.txt");
    sub.symlink("long link", &target);

    let keys = dir.path().join("keys.json");
    let secrets: Vec<Value> = [1, 2]
        .map(|version| (version, HEXLOWER.encode(kms.material(3, version).expose())))
        .map(|(version, secret)| json!({"number": 3, "version": version, "secret": secret}))
        .into();
    fs::write(&keys, json!({ "keys": secrets }).to_string()).unwrap();
    let output = decoder(&["list".as_ref(), &keys, &root]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut found: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut expected = vec![
        json!({"path": ".", "type": "directory"}),
        json!({"path": "d", "type": "directory"}),
        file_line("plain.txt", b"hello"),
        file_line(&format!("d/{long}"), &[b'x'; 3584]),
        file_line("d/linked", b"two places"),
        file_line("d/moving away", b"old"),
        json!({"path": "d/empty", "type": "file", "size": 0, "sha256": HEXLOWER.encode(&derive::sha256(b""))}),
        json!({"path": "d/short link", "type": "symlink", "target": "../plain.txt"}),
        json!({"path": "d/long link", "type": "symlink", "target": target}),
    ];
    if placement == Placement::Sidecar {
        expected.extend([file_line("d/first of two", b"1"), file_line("d/second of two", b"2")]);
    }
    if has_xts {
        let sha256 = HEXLOWER.encode(&derive::sha256(&[b'y'; 4101]));
        expected.push(json!({"path": "xts", "type": "file", "size": 4101, "sha256": sha256}));
    }
    for lines in [&mut found, &mut expected] {
        lines.sort_by_key(|line| line["path"].to_string());
    }
    assert_eq!(found, expected);

    // Moved behind kmsfs's back, into a directory where its name is right but its place is not.
    let name = DirNames::new(&top.key, encoding).encode(b"stray").unwrap();
    let with_sidecar = |from: PathBuf, to: PathBuf| {
        let sidecar = |path: &Path| path.with_file_name(sidecar_name(path.file_name().unwrap().as_bytes()));
        if placement == Placement::Sidecar {
            fs::rename(sidecar(&from), sidecar(&to)).unwrap();
        }
        fs::rename(from, to).unwrap();
    };
    with_sidecar(sub.stored("linked"), root.join(name.stored()));
    assert!(decoder(&["list".as_ref(), &keys, &root]).status.success(), "LINKED belongs to no place");
    let moved = sub.file("bound", b"here", |envelope| envelope);
    with_sidecar(moved, root.join(name.stored()));
    let output = decoder(&["list".as_ref(), &keys, &root]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not open in this place"));
}

#[test]
fn the_decoder_reads_a_tree_with_base64url_names() {
    if is_available() {
        read_by_decoder(NameForm::Base64Url, NameEncoding::Base64Url, Placement::Xattr);
    }
}

#[test]
fn the_decoder_reads_a_tree_with_base32_names() {
    if is_available() {
        read_by_decoder(NameForm::Base32, NameEncoding::Base32, Placement::Xattr);
    }
}

#[test]
fn the_decoder_reads_a_tree_with_sidecars() {
    if is_available() {
        read_by_decoder(NameForm::Base32, NameEncoding::Base32, Placement::Sidecar);
    }
}

#[test]
fn the_decoder_agrees_with_the_vectors() {
    if is_available() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
        let output = decoder(&["check".as_ref(), &vectors.join("primitives.json"), &vectors.join("format1.json")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
