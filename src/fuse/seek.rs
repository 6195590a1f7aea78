//! SEEK_DATA and SEEK_HOLE in files that are being written.
//!
//! The kernel asks without writing its dirty pages first, and what was never written looks like a hole: `cp` of a
//! file that is still being written would lose data. So the pages are called in before the answer. That makes the
//! kernel send writes while it waits for us, which the workers must be free to take: hence a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use fuser::{INodeNo, Notifier, ReplyLseek};

use super::reply;
use crate::fs::EncryptedFs;

/// A question that waits for its answer.
pub(super) struct Question {
    /// The file.
    pub(super) ino: INodeNo,
    /// A handle of it.
    pub(super) handle: u64,
    /// From where on.
    pub(super) at: u64,
    /// For a hole, not for data.
    pub(super) hole: bool,
    /// Who asked.
    pub(super) reply: ReplyLseek,
}

/// The thread, which ends when this is dropped.
pub(super) struct Seeker(Sender<Question>);

impl Seeker {
    /// Starts the thread.
    pub(super) fn start(fs: Arc<EncryptedFs>, notifier: Notifier) -> io::Result<Self> {
        let (ask, questions) = mpsc::channel::<Question>();
        thread::Builder::new().name("seek".into()).spawn(move || {
            for Question { ino, handle, at, hole, reply } in questions {
                // All pages from the first on; those that are dirty are written.
                if let Err(error) = notifier.inval_inode(ino, 0, 0) {
                    log::warn!("the kernel keeps its pages of a file that is searched for holes: {error}");
                }
                reply::sought(reply, fs.seek(handle, at, hole));
            }
        })?;
        Ok(Self(ask))
    }

    /// Answers later. If the thread is gone, dropping the question answers EIO.
    pub(super) fn ask(&self, question: Question) {
        if self.0.send(question).is_err() {
            log::error!("the thread that searches for holes is gone");
        }
    }
}
