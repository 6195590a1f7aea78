//! `kmsfs fsck`: checks a volume, makes lost envelopes again from their mirrors, and brings into reach what no mount shows.
//!
//! It works on the backing tree itself, because it must not need what it looks at: a volume whose root directory has lost
//! its envelope cannot be mounted, but it can be checked.
//!
//! Invariants:
//! - whoever calls holds the volume's lock: shared to look, exclusive to change;
//! - without `restore_keys` and `repair` nothing is written;
//! - an envelope that opens where it is stays, and one that does not is replaced only where the user consents or where
//!   the object ends in lost+found: a mirror proves nothing about the place of an object;
//! - every change is complete in itself, so that a run that was killed is simply repeated.

mod backing;
mod content;
mod folder;
mod lost;
mod names;
mod objects;
mod records;
mod report;
mod restore;
mod site;
mod walk;

use std::collections::{BTreeSet, HashSet};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Progress;
use crate::crypto::derive;
use crate::envelope::{KeysLog, TailLog, VolumeError};
use crate::kms::KeyId;
use crate::names::{Decoded, DirNames};
use crate::sys::{self, Errno, FileKind};

pub use report::{Counts, Finding, Problem, Severity, Sink};
pub use site::Site;

use lost::{Root, Stray};
use objects::Object;
use records::Records;
use walk::{Below, Node, walk};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Leave the contents of blocks out.
    pub quick: bool,
    /// Make missing envelopes from mirrors.
    pub restore_keys: bool,
    /// Replace envelopes, too, that do not open where they are.
    pub accept_moved: bool,
    /// Mend what can be mended.
    pub repair: bool,
    /// Change nothing, but tell what would be done.
    pub dry_run: bool,
    /// How many threads.
    pub threads: usize,
    /// Only what lies below this plain path.
    pub below: Option<Vec<Vec<u8>>>,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Failure {
    /// The store takes no more, or failed.
    Io {
        /// What was being done, and to what.
        what: String,
        /// Its answer.
        error: io::Error,
    },
    /// keys.log, or tails, cannot be read.
    Volume(VolumeError),
    /// The path does not lead to a directory that opens.
    NoSuchDirectory(String),
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Counts of objects.
    pub counts: Counts,
    /// Everything below the start was reached.
    pub complete: bool,
    /// The CMKs that keys in the volume are wrapped under, as far as they opened.
    pub keys: BTreeSet<KeyId>,
    /// Why it ended early, if it did; what was changed before is complete.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// Of a run that did not begin.
    pub fn failed(failure: Failure) -> Self {
        Self { counts: Counts::default(), complete: false, keys: BTreeSet::new(), failure: Some(failure) }
    }
}

/// One run.
pub(super) struct Fsck<'a> {
    site: &'a Site<'a>,
    options: &'a Options,
    progress: &'a Progress,
    sink: &'a dyn Sink,
    counts: Counts,
    records: Records,
    /// What interrupted cuts of XTS files left.
    tails: TailLog,
    /// For what is missing in it; absent where nothing may be written.
    log: Option<KeysLog>,
    /// Files with several names that were looked at under one of them.
    seen: Mutex<HashSet<u64>>,
    /// Homes of long symlinks that some symlink names.
    homes: Mutex<HashSet<String>>,
    keys: Mutex<BTreeSet<KeyId>>,
    strays: Mutex<Vec<Stray>>,
    root: OnceLock<Root>,
    /// A directory did not open: what lies below it was not seen.
    unseen: AtomicBool,
    changed: AtomicBool,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

/// Checks, and mends what `options` ask for. The caller holds the volume's lock, exclusively for changes.
///
/// # Errors
/// If keys.log or tails cannot be read; then nothing was changed.
pub fn run(site: &Site<'_>, options: &Options, progress: &Progress, sink: &dyn Sink) -> Result<Outcome, Failure> {
    let examined = KeysLog::examine(&site.root).map_err(Failure::Volume)?;
    let tails = TailLog::open(&site.root).map_err(Failure::Volume)?;
    let log = if site.writable { Some(KeysLog::open(&site.root).map_err(Failure::Volume)?) } else { None };
    let run = Fsck {
        site,
        options,
        progress,
        sink,
        counts: Counts::default(),
        records: Records::new(examined),
        tails,
        log,
        seen: Mutex::default(),
        homes: Mutex::default(),
        keys: Mutex::default(),
        strays: Mutex::default(),
        root: OnceLock::new(),
        unseen: AtomicBool::new(false),
        changed: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        failure: Mutex::default(),
    };
    let failure = run.everything().err();
    let complete = failure.is_none() && !run.unseen.into_inner();
    Ok(Outcome { counts: run.counts, complete, keys: run.keys.into_inner(), failure })
}

impl Fsck<'_> {
    fn everything(&self) -> Result<(), Failure> {
        let whole = self.options.below.is_none();
        if whole {
            self.folder();
        }
        if let Some(root) = self.root_directory() {
            self.keep_root(&root);
            let start = match &self.options.below {
                Some(names) => self.descend(root, names)?,
                None => root,
            };
            walk(self.site.root_fd.as_fd(), self.site.encoding, start, self, self.options.threads, &self.stop);
            self.move_strays();
        }
        if whole {
            self.homes();
        }
        self.make_durable();
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// The root directory, unlocked.
    fn root_directory(&self) -> Option<Below> {
        let fd = self.site.root_fd.as_fd();
        match sys::stat::of_fd(fd) {
            Ok(stat) => self.directory(&Object::root(self.site, stat), false),
            Err(error) => {
                self.fail("read the root of the backing tree", error.into());
                None
            }
        }
    }

    /// The directory behind a plain path, unlocked on the way.
    fn descend(&self, root: Below, names: &[Vec<u8>]) -> Result<Below, Failure> {
        let mut at = root;
        for plain in names {
            let not_there = || Failure::NoSuchDirectory(at.node.path());
            let dir_names = DirNames::new(&at.key, self.site.encoding);
            let encoded = dir_names.encode(plain).map_err(|_| not_there())?;
            let fd = at.node.open(self.site.root_fd.as_fd()).map_err(|_| not_there())?;
            let stored = encoded.stored().as_bytes();
            let stat = sys::stat::at(&fd, stored).map_err(|_| not_there())?;
            if stat.kind != FileKind::Directory {
                return Err(not_there());
            }
            let node = Node::below(&at.node, stored, Some(plain));
            let place = crate::envelope::Place::In(derive::directory_id(&at.key));
            let object = Object { node, parent: fd.as_fd(), place, stat, cmk: &at.cmk, suite: at.suite };
            let below = self.directory(&object, false).ok_or_else(|| Failure::NoSuchDirectory(object.node.path()))?;
            at = below;
        }
        Ok(at)
    }

    /// Tells of a problem with an object.
    fn report(&self, problem: Problem, node: &Node, detail: &str) {
        self.tell(problem, Some(node.path()), node.stored_path(), detail, None);
    }

    /// The same, and what was done about it.
    fn mended(&self, problem: Problem, node: &Node, detail: &str, done: String) {
        self.tell(problem, Some(node.path()), node.stored_path(), detail, Some(done));
    }

    /// Tells of a problem with something that no mount shows.
    fn report_internal(&self, problem: Problem, stored: String, detail: &str, done: Option<String>) {
        self.tell(problem, None, stored, detail, done);
    }

    fn tell(&self, problem: Problem, path: Option<String>, stored: String, detail: &str, mended: Option<String>) {
        let finding = finding(problem, path, stored, detail, mended);
        self.sink.finding(&finding);
    }

    /// Does what mends something, but for a dry run. `None` if it failed, which is told.
    fn mend(&self, node: &Node, done: String, act: impl FnOnce() -> io::Result<()>) -> Option<String> {
        if self.options.dry_run {
            return Some(done);
        }
        self.changed.store(true, Ordering::Relaxed);
        match act() {
            Ok(()) => Some(done),
            Err(error) => {
                self.store_failed(node, &error);
                None
            }
        }
    }

    /// Tells of an error of the backing store. One that the next object would meet as well ends the run.
    fn store_failed(&self, node: &Node, error: &io::Error) {
        use ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | ReadOnlyFilesystem => {
                self.fail(&format!("write to {}", node.stored_path()), io::Error::from(sys::errno_of(error)));
            }
            PermissionDenied => self.report(Problem::NotReadable, node, ""),
            _ => self.report(Problem::StoreFailed, node, &error.to_string()),
        }
    }

    fn fail(&self, what: &str, error: io::Error) {
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().get_or_insert(Failure::Io { what: what.to_owned(), error });
    }

    /// What was changed is on the disk when this returns.
    fn make_durable(&self) {
        if !self.changed.load(Ordering::Relaxed) {
            return;
        }
        let logged = self.log.as_ref().map_or(Ok(()), KeysLog::sync);
        if let Err(error) = logged {
            self.failure.lock().get_or_insert(Failure::Volume(error));
        }
        if let Err(error) = sys::file::sync_filesystem(self.site.root_fd.as_fd()) {
            self.fail("sync the filesystem of the volume", error.into());
        }
    }

    /// The plain name of an entry, or why it is not shown.
    fn name_in(&self, dir: &walk::Dir, stored: &[u8]) -> Result<Vec<u8>, (Problem, &'static str)> {
        use crate::names::NameError;
        let forged = |error| match error {
            NameError::Malformed => (Problem::NameForged, "it is not what kmsfs writes"),
            _ => (Problem::NameForged, ""),
        };
        match dir.names.decode(stored).map_err(forged)? {
            Decoded::Short(plain) => Ok(plain),
            Decoded::NeedsSide(side) => match self.site.read_side(dir.fd.as_fd(), side.as_bytes()) {
                Ok(target) => dir
                    .names
                    .decode_long(stored, &target)
                    .map_err(|_| (Problem::NameLost, "the symlink .kmsfs.n.* beside it is of another name")),
                Err(Errno::NOENT) => Err((Problem::NameLost, "the symlink .kmsfs.n.* beside it is missing")),
                Err(_) => Err((Problem::NameLost, "the symlink .kmsfs.n.* beside it cannot be read")),
            },
        }
    }
}

/// A finding with the words that belong to its problem.
pub fn finding(
    problem: Problem,
    path: Option<String>,
    stored: String,
    detail: &str,
    mended: Option<String>,
) -> Finding {
    let (severity, means, next) = problem.facts();
    let text = if detail.is_empty() { means.to_owned() } else { format!("{means} ({detail})") };
    Finding { severity, problem, path, stored, text, next: mended.is_none().then_some(next), mended }
}
