//! `kmsfs rekey`: new data keys, contents sealed anew.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::bar::Bar;
use super::failure::{Code, Failure};
use super::keystore::state_folder;
use super::output::{self, line};
use super::target::{Target, refused};
use crate::fs::upkeep::{Answer, Request};
use crate::maintain::{self, FailedPath, Journal, Mounted, Progress, Start, Tree};

/// Arguments of `kmsfs rekey`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A file or directory in a mount
    path: PathBuf,
    /// Rekey what an earlier run, which did not finish, has done already, too
    #[arg(long)]
    restart: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Done<'a> {
    rekeyed: u64,
    bytes: u64,
    done_before: u64,
    not_shredded: u64,
    failed: &'a [FailedPath],
}

/// A file of inode numbers, eight bytes each, which is removed when nothing is left to do. A file made after the job began
/// has a new key anyway, so a number that was used again does no harm.
struct Numbers {
    path: PathBuf,
    file: File,
    done: HashSet<u64>,
}

impl Numbers {
    /// Where: among the user's own state, as a mount need not show where its keystore is.
    fn open(volume: &str, restart: bool) -> Result<Self, Failure> {
        let folder = state_folder("rekey")?;
        fs::create_dir_all(&folder).map_err(|error| Failure::io(&folder, "create", &error))?;
        let path = folder.join(format!("rekey-{volume}"));
        let failed = |error: &std::io::Error| Failure::io(&path, "open", error);
        let open = File::options().read(true).append(true).create(true).open(&path);
        let mut file = open.map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let next = "wait for it, or end it and run this again";
                return Err(Failure::new(Code::InUse, "rekey", "another rekey of this volume is running", next));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        if restart {
            file.set_len(0).map_err(|error| failed(&error))?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        // A torn last number is of a file that will be done once more.
        let (numbers, torn) = bytes.as_chunks::<8>();
        if !torn.is_empty() {
            file.set_len((bytes.len() - torn.len()) as u64).map_err(|error| failed(&error))?;
        }
        let done = numbers.iter().map(|number| u64::from_le_bytes(*number)).collect();
        Ok(Self { path, file, done })
    }

    fn finish(self) {
        // One that stays makes the next run skip what this one did, and says so in its counts.
        let _ = fs::remove_file(&self.path);
    }
}

impl Journal for Numbers {
    fn is_done(&self, ino: u64) -> bool {
        self.done.contains(&ino)
    }

    fn done(&mut self, ino: u64) -> std::io::Result<()> {
        self.done.insert(ino);
        self.file.write_all(&ino.to_le_bytes())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Target::Mounted { dir, start } = Target::of(&args.path)? else {
        return Err(not_mounted(&args.path));
    };
    let told = |refusal| refused(&args.path, &refusal);
    let tree = Mounted::open(&dir).map_err(told)?;
    let top = tree.top().map_err(told)?;
    let Ok(Answer::Standing(standing)) = tree.ask(&top, &Request::Begin) else {
        return Err(Failure::of(Code::Other, "the mount is served by another version of kmsfs"));
    };
    let mut journal = Numbers::open(&standing.volume, args.restart)?;
    let progress = Arc::new(Progress::default());
    let _bar = Bar::show(&progress, "rekeying", args.json);
    let name = match &start {
        Start::Entry(name) => Some(&name[..]),
        Start::Volume | Start::Directory => {
            if let Ok(Answer::Count(entries)) = tree.ask(&top, &Request::Count) {
                progress.objects_found.store(entries, Ordering::Relaxed);
                progress.is_counted.store(true, Ordering::Relaxed);
            }
            None
        }
    };
    let report = maintain::rekey(&tree, name, &mut journal, &progress).map_err(told)?;
    drop(_bar);
    if report.failed.is_empty() {
        journal.finish();
    }
    tell(args, &report)
}

fn tell(args: &Args, report: &maintain::Rekeyed) -> Result<(), Failure> {
    let maintain::Rekeyed { rekeyed, bytes, done_before, not_shredded, failed } = report;
    if args.json {
        let (rekeyed, bytes, done_before, not_shredded) = (*rekeyed, *bytes, *done_before, *not_shredded);
        output::json(&Done { rekeyed, bytes, done_before, not_shredded, failed })?;
    } else {
        line(format!(
            "{rekeyed} files rekeyed ({bytes} bytes), {done_before} done before, {} left as they were",
            failed.len()
        ))?;
        if *done_before > 0 {
            line("What was done before was done by an earlier run, which did not finish. To do that again: --restart")?;
        }
        if *not_shredded > 0 {
            line(format!("{not_shredded} old files were open: they go when they are closed, but were not shredded"))?;
        }
        line(
            "Names are still under the keys of their directories. What snapshots, backups and the store itself keep of the \
             old files can still be read with the old keys.",
        )?;
    }
    for failure in failed {
        eprintln!("kmsfs: {}: {}", failure.path, failure.reason);
    }
    if failed.is_empty() {
        return Ok(());
    }
    let why = format!("{} files were left as they were", failed.len());
    let next = "see to what is named above, then run it again: what is done is skipped";
    Err(Failure::new(Code::Other, args.path.display(), why, next))
}

pub(super) fn not_mounted(path: &Path) -> Failure {
    let next = format!("kmsfs mount {} MOUNTPOINT, then name a path in the mount", path.display());
    Failure::new(Code::Usage, path.display(), "the volume is not mounted", next)
}
