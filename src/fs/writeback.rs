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

/// How often the thread looks.
const TICK: Duration = Duration::from_millis(250);
/// How long a write may wait in memory.
const COMMIT_AFTER: Duration = Duration::from_secs(1);
/// How long after its last commit a file is settled.
const SETTLE_AFTER: Duration = Duration::from_secs(3);
/// More files than this are not left behind: whoever closes the next one settles it.
const MAX_QUEUED: usize = 512;

struct Entry {
    file: Arc<OpenFile>,
    /// When it was queued, or last committed.
    since: Instant,
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
        let due: Vec<Arc<OpenFile>> = queue
            .entries
            .iter()
            .filter(|entry| {
                let dirty = entry.file.content().is_some_and(|content| content.state().dirty);
                now - entry.since >= if dirty { COMMIT_AFTER } else { SETTLE_AFTER }
            })
            .map(|entry| entry.file.clone())
            .collect();
        drop(queue);
        for file in due {
            self.tend_file(&file);
        }
        true
    }

    fn tend_file(&self, file: &Arc<OpenFile>) {
        let state = file.content().map(|content| content.state()).unwrap_or_default();
        let unlinked = file.stat().is_ok_and(|stat| stat.nlink == 0);
        let result = match (unlinked, state.dirty, state.unsettled) {
            (true, _, _) | (false, false, false) => {
                // Nobody can read it after a crash, or nothing is left to do.
                return self.dequeue(file);
            }
            (false, true, _) => file.commit(),
            (false, false, true) => file.settle(),
        };
        if let Err(error) = result {
            let _ = self.report(file.ino, error);
        }
        let mut queue = self.writeback.queue.lock();
        if let Some(entry) = queue.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.file, file)) {
            entry.since = Instant::now();
        }
    }

    fn dequeue(&self, file: &Arc<OpenFile>) {
        self.writeback.queue.lock().entries.retain(|entry| !Arc::ptr_eq(&entry.file, file));
        file.queued.store(false, Ordering::Release);
        let state = file.content().map(|content| content.state()).unwrap_or_default();
        self.files.leave(file.ino);
        if state.dirty {
            // Written to between the look and the leave.
            self.after_write(file);
        }
    }

    /// A file was written to: the thread looks after it from now on.
    pub(super) fn after_write(&self, file: &Arc<OpenFile>) {
        self.sizes.forget(file.ino);
        if file.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.files.acquire(file.ino).is_some() {
            self.writeback.queue.lock().entries.push(Entry { file: file.clone(), since: Instant::now() });
        }
    }

    /// A user of a file leaves. The last one leaves what is undone to the thread, if that has not too much already.
    pub(super) fn release_file(&self, file: &Arc<OpenFile>) {
        if self.writeback.queue.lock().entries.len() > MAX_QUEUED
            && let Err(error) = file.commit().and_then(|()| file.settle())
        {
            let _ = self.report(file.ino, error);
        }
        self.files.leave(file.ino);
    }

    /// Puts every file in order: at the end of the mount.
    pub(super) fn settle_all(&self) {
        let entries = std::mem::take(&mut self.writeback.queue.lock().entries);
        for entry in entries {
            if let Err(error) = entry.file.commit().and_then(|()| entry.file.settle()) {
                let _ = self.report(entry.file.ino, error);
            }
            self.files.leave(entry.file.ino);
        }
    }
}
