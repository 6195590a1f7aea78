//! `kmsfs fsck`: checks a volume that is not mounted, restores lost keys, repairs.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::HumanBytes;
use serde::Serialize;

use super::bar::Bar;
use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::mount_options::AuditPaths;
use super::output;
use super::recording::Recording;
use super::unlock::{copy_path, lock_volume, unlock};
use crate::envelope::{Access, Source, VolumeHeader};
use crate::kms::{CopyState, KeyId, LocalKms, UnlockSecret};
use crate::maintain::Progress;
use crate::maintain::fsck::{self, Counts, Failure as Ended, Finding, Options, Outcome, Problem, Severity, Sink, Site};
use crate::sys;

/// Arguments of `kmsfs fsck`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The volume
    dir: PathBuf,
    /// Look only below this directory, named as in the mount
    path: Option<PathBuf>,
    /// Make envelopes that are missing again, from the mirrors: for a tree that was copied without extended attributes
    #[arg(long)]
    restore_keys: bool,
    /// With --restore-keys: also replace envelopes that do not open where they are. What was moved or exchanged behind
    /// kmsfs's back is then bound to where it is now; each such object is listed
    #[arg(long, requires = "restore_keys")]
    accept_moved: bool,
    /// Mend what can be mended, and move what no mount would show to lost+found
    #[arg(long)]
    repair: bool,
    /// With --repair: put a sealed copy of the keys into a volume that has none. One made with --detached has none on
    /// purpose
    #[arg(long, requires = "repair")]
    keys_copy: bool,
    /// Change nothing; tell what --restore-keys and --repair would do
    #[arg(long)]
    dry_run: bool,
    /// Leave the contents of blocks out: everything but them is checked
    #[arg(long)]
    quick: bool,
    /// How many threads [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

impl Args {
    fn changes(&self) -> bool {
        (self.restore_keys || self.repair) && !self.dry_run
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let root = args.dir.canonicalize().map_err(|error| Failure::io(&args.dir, "resolve", &error))?;
    let (header, _) = VolumeHeader::load(&root)?;
    header.check_features(!args.changes())?;
    let options = options(args)?;
    let keystore = args.keystore.dir()?;
    let access = if args.changes() { Access::Write } else { Access::Read };
    let mut locked = lock_volume(&root, access)?;
    locked.record_pid()?;
    let (kms, volume) = args.keystore.secret.unlock(|secret| open(&header, &keystore, &secret))?;
    // Deep trees need a descriptor for each directory on the way; without more of them they are told as unreadable.
    let _ = sys::process::raise_open_files();
    let site =
        Site::open(&root, &volume, &*kms, args.changes()).map_err(|error| Failure::io(&root, "open", &error.into()))?;
    let progress = Arc::new(Progress::default());
    let printer = Printer::new(args, Bar::show_work(&progress, "checking", args.json));
    printer.start(&root)?;
    let outcome = std::thread::scope(|scope| {
        if printer.bar.is_visible() {
            scope.spawn(|| progress.count(&root));
        }
        let outcome = fsck::run(&site, &options, &progress, &printer);
        progress.stop.store(true, Ordering::Relaxed);
        outcome
    });
    let mut outcome = outcome.unwrap_or_else(Outcome::failed);
    if options.below.is_none() && outcome.failure.is_none() {
        check_copy(args, &root, &kms, volume.header.key(), &outcome, &printer);
    }
    if args.changes() {
        site.give_folder_to_owner();
    }
    printer.end(&outcome)?;
    if let Some(ended) = outcome.failure.take() {
        return Err(failure(&root, ended));
    }
    verdict(&printer)
}

/// Unlocks the volume; if volume.json was edited, with its copy, so that the rest can be checked.
fn open(
    header: &VolumeHeader,
    keystore: &Path,
    secret: &UnlockSecret,
) -> Result<(Arc<LocalKms>, crate::envelope::Volume), Failure> {
    let recording = Some(Recording::of(header, AuditPaths::No)?);
    let refused = match unlock(header, keystore, secret, recording) {
        Err(failure) if failure.code == Code::NotAVolume => failure,
        done => return done,
    };
    match VolumeHeader::read(header.root(), Source::Backup) {
        Ok(backup) => unlock(&backup, keystore, secret, recording).map_err(|_| refused),
        Err(_) => Err(refused),
    }
}

fn options(args: &Args) -> Result<Options, Failure> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let below = args.path.as_deref().map(plain_names).transpose()?;
    Ok(Options {
        quick: args.quick,
        restore_keys: args.restore_keys,
        accept_moved: args.accept_moved,
        repair: args.repair,
        dry_run: args.dry_run,
        threads: args.threads.unwrap_or_else(cores).max(1),
        below: below.filter(|names| !names.is_empty()),
    })
}

/// The names in a path as of the mount.
fn plain_names(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::ParentDir | Component::Prefix(_) => {
                let next = "name a directory as it is called in the mount, from its root on";
                return Err(Failure::new(Code::Usage, path.display(), "it has .. in it", next));
            }
        }
    }
    Ok(names)
}

fn failure(root: &Path, ended: Ended) -> Failure {
    match ended {
        Ended::Io { what, error } => {
            let failure = Failure::io(root, &what, &error);
            let next = "what was done so far is complete; run the command again";
            Failure::of(failure.code, format!("cannot {what} in {}: {error}. Next: {next}", root.display()))
        }
        Ended::Volume(error) => error.into(),
        Ended::NoSuchDirectory(path) => {
            let next = "name a directory as it is called in the mount; if its envelope is lost, one above it";
            Failure::new(Code::Usage, path, "there is no directory of that name that opens", next)
        }
    }
}

/// Checks the volume's own copy of its keys, and writes it anew if that was asked for.
fn check_copy(args: &Args, root: &Path, kms: &LocalKms, key: &KeyId, outcome: &Outcome, printer: &Printer) {
    let mut ids: Vec<KeyId> = outcome.keys.iter().cloned().collect();
    if !ids.contains(key) {
        ids.push(key.clone());
    }
    let copy = copy_path(root);
    let (problem, detail) = match kms.look_at_copy(&copy, &ids) {
        CopyState::Good => return,
        CopyState::Missing => (Problem::KeysCopyMissing, String::new()),
        CopyState::Old => (Problem::KeysCopyOld, String::new()),
        CopyState::Foreign => (Problem::KeysCopyForeign, String::new()),
        CopyState::Damaged(why) => (Problem::KeysCopyDamaged, why),
    };
    let mendable = match problem {
        Problem::KeysCopyMissing => args.keys_copy,
        Problem::KeysCopyForeign => false,
        _ => args.repair,
    };
    let mut mended = None;
    if mendable {
        let written = if args.dry_run { Ok(()) } else { kms.write_copy(&copy, &ids) };
        match written {
            Ok(()) => mended = Some("it was written from the keystore".to_owned()),
            Err(error) => eprintln!("kmsfs: {error}"),
        }
    }
    printer.finding(&fsck::finding(problem, None, ".kmsfs/keystore.bundle".to_owned(), &detail, mended));
}

/// The exit code: what is left, however much was mended.
fn verdict(printer: &Printer) -> Result<(), Failure> {
    let left = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    match (left(&printer.errors), left(&printer.warnings)) {
        (0, 0) => Ok(()),
        (0, warnings) => Err(Failure::found(Code::Warnings, format!("{warnings} warnings"))),
        (errors, _) => Err(Failure::found(Code::Damaged, format!("{errors} errors"))),
    }
}

/// Writes findings to standard output as they come: lines, or the members of one JSON object.
struct Printer {
    json: bool,
    quick: bool,
    dry_run: bool,
    restored: bool,
    bar: Bar,
    errors: AtomicU64,
    warnings: AtomicU64,
    notes: AtomicU64,
    mended: AtomicU64,
    is_first: AtomicBool,
}

#[derive(Serialize)]
struct Total<'a> {
    complete: bool,
    #[serde(flatten)]
    objects: &'a Counts,
    errors: u64,
    warnings: u64,
    notes: u64,
    /// In a dry run: would be mended.
    mended: u64,
}

impl Printer {
    fn new(args: &Args, bar: Bar) -> Self {
        Self {
            json: args.json,
            quick: args.quick,
            dry_run: args.dry_run,
            restored: args.restore_keys,
            bar,
            errors: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
            notes: AtomicU64::new(0),
            mended: AtomicU64::new(0),
            is_first: AtomicBool::new(true),
        }
    }

    fn start(&self, root: &Path) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let head = serde_json::json!({ "volume": root, "quick": self.quick, "dry_run": self.dry_run });
        let head = head.to_string();
        output::put(format!("{},\n\"findings\": [", head.trim_end_matches('}')))
    }

    fn end(&self, outcome: &Outcome) -> Result<(), Failure> {
        let (counts, complete) = (&outcome.counts, outcome.complete);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [errors, warnings, notes, mended] = [&self.errors, &self.warnings, &self.notes, &self.mended].map(get);
        if self.json {
            let total = Total { complete, objects: counts, errors, warnings, notes, mended };
            let total = serde_json::to_string(&total).map_err(|e| Failure::of(Code::Other, e))?;
            return output::put(format!("\n],\n\"counts\": {total}\n}}\n"));
        }
        let [directories, files, links] = [&counts.directories, &counts.files, &counts.symlinks].map(get);
        let read =
            if self.quick { "sizes and names only".to_owned() } else { HumanBytes(get(&counts.bytes)).to_string() };
        let mut text = format!("{directories} directories, {files} files ({read}), {links} symlinks: ");
        let done = if self.dry_run { "to be mended" } else { "mended" };
        text += &format!("{errors} errors, {warnings} warnings, {notes} notes, {mended} {done}\n");
        if !complete {
            text += "Not all directories opened: what lies below them was not looked at.\n";
        }
        if self.restored && mended > 0 {
            text += "Restored objects are bound to where they are now; a mirror does not tell where they were. \
                     Extended attributes (user.*) that a copy dropped cannot be restored.\n";
        }
        output::put(text)
    }

    fn text(&self, finding: &Finding) -> String {
        let severity = match (&finding.mended, finding.severity) {
            (Some(_), _) if self.dry_run => "to mend",
            (Some(_), _) => "mended",
            (None, Severity::Error) => "error",
            (None, Severity::Warning) => "warning",
            (None, Severity::Note) => "note",
        };
        let what = finding.path.as_deref().unwrap_or(&finding.stored);
        let then = match (&finding.mended, finding.next) {
            (Some(done), _) => format!("; {done}"),
            (None, Some(next)) => format!(". Next: {next}"),
            (None, None) => String::new(),
        };
        let stored = match &finding.path {
            Some(path) if path != "/" => format!(" [{}]", finding.stored),
            _ => String::new(),
        };
        format!("{severity}: {what}: {}{then}{stored}\n", finding.text)
    }
}

impl Sink for Printer {
    fn finding(&self, finding: &Finding) {
        let counter = match (&finding.mended, finding.severity) {
            (Some(_), _) => &self.mended,
            (None, Severity::Error) => &self.errors,
            (None, Severity::Warning) => &self.warnings,
            (None, Severity::Note) => &self.notes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let text = if self.json { serde_json::to_string(finding).unwrap_or_default() } else { self.text(finding) };
        self.bar.above(|| {
            let separator = match (self.json, self.is_first.swap(false, Ordering::Relaxed)) {
                (false, _) => "",
                (true, true) => "\n",
                (true, false) => ",\n",
            };
            // A reader that went away does not end a repair.
            let _ = write!(std::io::stdout().lock(), "{separator}{text}");
        });
    }
}
