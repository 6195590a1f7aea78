//! Letting go of what has no name any more, while nobody waits.
//!
//! The backing store gives the space of a removed object back when the last descriptor of it is closed. For a small file
//! that takes ten times as long as removing the name. So whoever removes a name holds the object by a descriptor (O_PATH)
//! and hands that to the thread of this file.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use super::dirs::Dir;
use super::error::Result;
use super::{EncryptedFs, Errno};
use crate::sys::dir::Access;
use crate::sys::{self, Stat};

/// Most objects that wait to be let go: whoever removes one more does it alone, so that descriptors stay few.
const MAX_WAITING: usize = 64;

/// What the thread is sent.
enum Job {
    File(#[expect(dead_code, reason = "it is closed by being dropped")] OwnedFd),
    Dir(#[expect(dead_code, reason = "it is closed by being dropped")] Arc<Dir>),
    /// All that came before is done: say so.
    Tell(SyncSender<()>),
}

/// The thread, which ends when this is dropped.
pub struct Closer(Option<SyncSender<Job>>);

impl Closer {
    /// Starts the thread, unless the store is one where it would not help: then things are let go where they are removed.
    pub fn start(store: BorrowedFd<'_>) -> Self {
        if !sys::stat::frees_when_closed(store).unwrap_or(false) {
            return Self(None);
        }
        let (send, jobs) = mpsc::sync_channel(MAX_WAITING);
        let started = std::thread::Builder::new().name("closer".into()).spawn(move || run(&jobs));
        if let Err(error) = &started {
            log::warn!("removed files are closed by whoever removes them: {error}");
        }
        Self(started.is_ok().then_some(send))
    }

    fn send(&self, job: Job) {
        if let Some(sender) = &self.0
            && let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = sender.try_send(job)
        {
            drop(job);
        }
    }

    /// Closes a directory that nobody knows any more.
    pub fn close_dir(&self, dir: Arc<Dir>) {
        self.send(Job::Dir(dir));
    }

    /// Waits until all that was handed over is closed.
    pub fn finish(&self) {
        let Some(sender) = &self.0 else { return };
        let (tell, told) = mpsc::sync_channel(1);
        if sender.send(Job::Tell(tell)).is_ok() {
            let _ = told.recv();
        }
    }

    /// The same, but no longer than `most`: for an answer that need not be exact.
    pub fn finish_within(&self, most: Duration) {
        let Some(sender) = &self.0 else { return };
        let (tell, told) = mpsc::sync_channel(1);
        if sender.try_send(Job::Tell(tell)).is_ok() {
            let _ = told.recv_timeout(most);
        }
    }
}

fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        if let Job::Tell(tell) = job {
            // Who asked may have given up.
            let _ = tell.send(());
        }
    }
}

/// An object that is about to lose a name. It is let go when this is dropped.
pub struct Leaving<'a> {
    closer: &'a Closer,
    held: Option<OwnedFd>,
}

impl Leaving<'_> {
    /// What is left of it, if it is held.
    pub fn stat(&self) -> Option<Stat> {
        self.held.as_ref().and_then(|fd| sys::stat::of_fd(fd).ok())
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(fd) = self.held.take() {
            self.closer.send(Job::File(fd));
        }
    }
}

impl EncryptedFs {
    /// Holds what is stored as `name`, which is about to be removed or replaced.
    pub(super) fn leaving(&self, dir: &Dir, name: &[u8]) -> Leaving<'_> {
        let open = || sys::dir::open(dir.fd(), name, Access::Place).ok();
        Leaving { closer: &self.closer, held: self.closer.0.as_ref().and_then(|_| open()) }
    }

    /// Runs `act`, which needs space, and once more if there is none before removed files have given theirs back.
    pub(super) fn with_space<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        match act() {
            Err(error) if matches!(error.errno(), Errno::NOSPC | Errno::DQUOT) => {
                self.closer.finish();
                act()
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_was_handed_over_is_closed_once_that_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"x").unwrap();
        let folder = fs::File::open(dir.path()).unwrap();
        let held = sys::dir::open(folder.as_fd(), b"f", Access::Place).unwrap();
        let number = fs::metadata(&path).unwrap().ino();
        let is_open = || {
            let mut all = fs::read_dir("/proc/self/fd").unwrap().flatten();
            all.any(|fd| fs::metadata(fd.path()).is_ok_and(|found| found.ino() == number && found.is_file()))
        };
        assert!(is_open());
        let closer = Closer::start(folder.as_fd());
        drop(Leaving { closer: &closer, held: Some(held) });
        closer.finish();
        assert!(!is_open());
    }
}
