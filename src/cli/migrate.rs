//! `kmsfs migrate`: wrapped keys out of the attributes into files of their own, or back.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::bar::Bar;
use super::failure::{Code, Failure};
use super::init::PlacementName;
use super::keystore::KeystoreArgs;
use super::mount_options::AuditPaths;
use super::output::{self, line};
use super::recording::Recording;
use super::unlock::{lock_volume, unlock};
use crate::envelope::{Access, Binder, Envelopes, Placement, Sealer, VolumeError, VolumeHeader, root_envelope};
use crate::kms::Requester;
use crate::maintain::{self, FailedPath, Migration, Progress};
use crate::sys;

/// Arguments of `kmsfs migrate`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The volume; nobody may have it mounted
    volume: PathBuf,
    /// Where the wrapped keys shall lie
    #[arg(long, value_enum)]
    placement: PlacementName,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Done<'a> {
    placement: &'static str,
    moved: u64,
    keyless: u64,
    bare: u64,
    sides: u64,
    stale: u64,
    failed: u64,
    failures: &'a [FailedPath],
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let to = Placement::from(args.placement);
    let (header, _) = VolumeHeader::load(&args.volume)?;
    header.check_unknown(false)?;
    let root = args.volume.canonicalize().map_err(|error| Failure::io(&args.volume, "resolve", &error))?;
    let mut locked = lock_volume(&root, Access::Write)?;
    locked.record_pid()?;
    if header.placement() == to && !header.is_migrating() {
        return line(format!("{}: its wrapped keys are in the placement {} already", root.display(), to.name()));
    }
    check(&header, to)?;
    let dir = args.keystore.dir()?;
    let recording = Some(Recording::of(&header, AuditPaths::No)?);
    let (kms, volume) = args.keystore.secret.unlock(|secret| unlock(&header, &dir, &secret, recording))?;
    sys::process::clear_umask();
    let marked = volume.header.placed(&*kms, to, true)?;
    marked.store()?;
    let progress = Arc::new(Progress::default());
    let bar = Bar::show(&progress, "moving", args.json);
    let binder = Binder::new(&marked);
    let sealer = Sealer { binder: &binder, kms: &*kms, requester: Requester::Own };
    let moved = maintain::migrate(&root, &sealer, to, &progress);
    drop(bar);
    let report = moved.map_err(|error| Failure::io(&root, "move the wrapped keys of", &error))?;
    if report.failed == 0 {
        marked.placed(&*kms, to, false)?.store()?;
    }
    tell(args, to, &report)
}

/// Refuses what cannot come to a good end, before anything is changed.
fn check(header: &VolumeHeader, to: Placement) -> Result<(), Failure> {
    let root = header.root();
    let found = |placement| root_envelope(root, &Envelopes::new(placement));
    match found(to) {
        // A store without attributes takes none.
        Err(error @ VolumeError::NoXattrs { .. }) => return Err(error.into()),
        // Where a move was interrupted, it may be in either place.
        Err(error) if header.is_migrating() && found(other(to)).is_err() => return Err(error.into()),
        _ if header.is_migrating() => {}
        _ => drop(found(header.placement())?),
    }
    if to == Placement::Sidecar && header.has_xts() {
        let next = "leave its wrapped keys in the attributes";
        let why = "it may hold files under the suite xts, whose keys cannot be told apart after a crash";
        return Err(Failure::new(Code::Usage, root.display(), why, next));
    }
    Ok(())
}

fn other(placement: Placement) -> Placement {
    if placement == Placement::Xattr { Placement::Sidecar } else { Placement::Xattr }
}

fn tell(args: &Args, to: Placement, report: &Migration) -> Result<(), Failure> {
    let Migration { moved, keyless, bare, sides, stale, failed, failures } = report;
    let shown = args.volume.display();
    if args.json {
        let (moved, keyless, bare, sides, stale, failed) = (*moved, *keyless, *bare, *sides, *stale, *failed);
        output::json(&Done { placement: to.name(), moved, keyless, bare, sides, stale, failed, failures })?;
    } else {
        line(format!("{moved} moved, {keyless} without a key, {failed} failed; {stale} stale ones removed"))?;
        if *bare > 0 {
            line(format!("{bare} have no wrapped key at all, and did not open before: kmsfs fsck --restore-keys"))?;
        }
        line("No content was read or written, and no key was changed or rewrapped.")?;
    }
    for failure in failures {
        eprintln!("kmsfs: {}: {}", failure.path, failure.reason);
    }
    if *failed > 0 {
        let next =
            format!("see to what is named above, then finish it: kmsfs migrate {shown} --placement {}", to.name());
        return Err(Failure::new(
            Code::Other,
            shown,
            format!("{failed} objects failed, and it cannot be mounted"),
            next,
        ));
    }
    Ok(())
}
