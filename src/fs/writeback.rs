//! The background thread that puts writes in order: what a crash must find, and then what it need not find any more.
//!
//! Writes that must wait for a barrier are kept in memory until a sync asks for them, or until this thread
//! does. Afterwards, once the disk has them, it drops the parts that a crash would have needed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::EncryptedFs;
use super::open_file::OpenFile;
use crate::sys::Errno;

/// How often the thread looks.
const TICK: Duration = Duration::from_millis(250);
/// How long a write may wait in memory.
const COMMIT_AFTER: Duration = Duration::from_secs(1);
/// How long after its last commit a file is settled.
const SETTLE_AFTER: Duration = Duration::from_secs(3);
/// More files than this are not left behind: whoever closes the next one settles it.
const MAX_QUEUED: usize = 512;

/// A file that cannot be put in order is tried again after twice the time, up to this many doublings.
const MAX_DOUBLINGS: u32 = 6;

struct Entry {
    file: Arc<OpenFile>,
    /// When it was queued, or last looked after.
    since: Instant,
    /// How often in a row that failed.
    failures: u32,
    /// Why: each cause goes to the log once.
    cause: Option<Errno>,
}

impl Entry {
    fn new(file: Arc<OpenFile>) -> Self {
        Self { file, since: Instant::now(), failures: 0, cause: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        let dirty = self.file.content().is_some_and(|content| content.state().dirty);
        let wait = if dirty { COMMIT_AFTER } else { SETTLE_AFTER };
        now - self.since >= wait * (1 << self.failures.min(MAX_DOUBLINGS))
    }

    /// Notes how the work on it ended; true if that should be told to the log.
    fn looked_after(&mut self, failed: Option<Errno>) -> bool {
        self.since = Instant::now();
        self.failures = if failed.is_some() { self.failures + 1 } else { 0 };
        let is_news = failed.is_some() && failed != self.cause;
        self.cause = failed;
        is_news
    }
}

#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    stopped: bool,
}

/// The files that wait.
#[derive(Default)]
pub struct Writeback {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Writeback {
    /// Starts the thread, which ends when `fs` is shut down or dropped.
    pub fn start(fs: &Arc<EncryptedFs>) {
        let fs = Arc::downgrade(fs);
        let run = move || while let Some(true) = Weak::upgrade(&fs).map(|fs| fs.tend()) {};
        // Without the thread, syncs and closing still put everything in order, only later.
        if let Err(error) = std::thread::Builder::new().name("writeback".into()).spawn(run) {
            log::warn!("no background writer: {error}");
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.queue.lock().stopped = true;
        self.wake.notify_all();
    }
}

impl EncryptedFs {
    /// One round of the thread; false when it shall end.
    fn tend(&self) -> bool {
        let mut queue = self.writeback.queue.lock();
        self.writeback.wake.wait_for(&mut queue, TICK);
        if queue.stopped {
            return false;
        }
        let now = Instant::now();
        let due = queue.entries.iter().filter(|entry| entry.is_due(now));
        let due: Vec<Arc<OpenFile>> = due.map(|entry| entry.file.clone()).collect();
        drop(queue);
        for file in due {
            self.tend_file(&file);
        }
        true
    }

    fn tend_file(&self, file: &Arc<OpenFile>) {
        if !needs_care(file) {
            return self.dequeue(file);
        }
        let dirty = file.content().is_some_and(|content| content.state().dirty);
        let failed = self.with_space(|| if dirty { file.commit() } else { file.settle() }).err();
        if let Some(error) = &failed {
            file.failures.note(error.errno());
        }
        let mut queue = self.writeback.queue.lock();
        let entry = queue.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.file, file));
        let is_news = entry.is_some_and(|entry| entry.looked_after(failed.as_ref().map(|error| error.errno())));
        drop(queue);
        if let Some(error) = failed.filter(|_| is_news) {
            let path = self.inodes.path(file.ino);
            log::error!(
                "{path}: what was written last is kept in memory and tried again: {error}. Next: see to the backing store (space, quota, disk)"
            );
        }
    }

    /// Lets go of a file that needs nothing any more.
    fn dequeue(&self, file: &Arc<OpenFile>) {
        let mut queue = self.writeback.queue.lock();
        let Some(index) = queue.entries.iter().position(|entry| Arc::ptr_eq(&entry.file, file)) else { return };
        queue.entries.swap_remove(index);
        drop(queue);
        file.queued.swap(false, Ordering::AcqRel);
        // Who wrote before this found the flag set, and left the file to us.
        if needs_care(file) && !file.queued.swap(true, Ordering::AcqRel) {
            return self.writeback.queue.lock().entries.push(Entry::new(file.clone()));
        }
        self.files.leave(file.ino);
    }

    /// A file was written to: the thread looks after it from now on. The caller is a user of it.
    pub(super) fn after_write(&self, file: &Arc<OpenFile>) {
        self.sizes.forget(file.ino);
        if file.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let joined = self.files.join(file);
        debug_assert!(joined, "who writes is a user");
        self.writeback.queue.lock().entries.push(Entry::new(file.clone()));
    }

    /// A user of a file leaves. What is undone is left to the thread, if that has not too much already; a file that needs
    /// nothing any more is closed at once, because descriptors are few.
    pub(super) fn release_file(&self, file: &Arc<OpenFile>) {
        if file.queued.load(Ordering::Acquire) {
            let crowded = self.writeback.queue.lock().entries.len() > MAX_QUEUED;
            if crowded && let Err(error) = file.commit().and_then(|()| file.settle()) {
                file.failures.note(error.errno());
            }
            if !needs_care(file) {
                self.dequeue(file);
            }
        }
        self.files.leave(file.ino);
    }

    /// Puts every file in order: at the end of the mount.
    pub(super) fn settle_all(&self) {
        let entries = std::mem::take(&mut self.writeback.queue.lock().entries);
        for entry in entries.into_iter().filter(|entry| needs_care(&entry.file)) {
            if let Err(error) = entry.file.commit().and_then(|()| entry.file.settle()) {
                let path = self.inodes.path(entry.file.ino);
                log::error!("{path}: what was written last is lost, as the mount ends: {error}");
            }
        }
    }
}

/// Whether anything is left to do. Nobody can read an unlinked file after a crash.
fn needs_care(file: &OpenFile) -> bool {
    let state = file.content().map(|content| content.state()).unwrap_or_default();
    (state.dirty || state.unsettled) && !file.stat().is_ok_and(|stat| stat.nlink == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Ino;

    fn entry() -> Entry {
        let fd = tempfile::tempfile().unwrap().into();
        let tails = crate::envelope::TailLog::open(std::path::Path::new("/nonexistent")).unwrap();
        Entry::new(Arc::new(OpenFile::new(Ino(7), fd, true, &Arc::new(tails))))
    }

    #[test]
    fn a_cause_is_told_once_until_it_goes_away() {
        let mut entry = entry();
        assert!(entry.looked_after(Some(Errno::NOSPC)));
        assert!(!entry.looked_after(Some(Errno::NOSPC)));
        assert!(entry.looked_after(Some(Errno::IO)));
        assert!(!entry.looked_after(None));
        assert!(entry.looked_after(Some(Errno::NOSPC)));
    }

    #[test]
    fn what_fails_is_tried_less_and_less_often() {
        let mut entry = entry();
        assert!(entry.is_due(entry.since + SETTLE_AFTER));
        entry.looked_after(Some(Errno::NOSPC));
        assert!(!entry.is_due(entry.since + SETTLE_AFTER));
        for _ in 0..100 {
            entry.looked_after(Some(Errno::NOSPC));
        }
        assert!(entry.is_due(entry.since + SETTLE_AFTER * (1 << MAX_DOUBLINGS)));
        entry.looked_after(None);
        assert!(entry.is_due(entry.since + SETTLE_AFTER));
    }
}
