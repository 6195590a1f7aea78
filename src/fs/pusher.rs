//! Having the disk begin with what it will be waited for.
//!
//! The kernel's page cache hands over what is to go to the disk, but here that only moves it to the page cache of the backing
//! store. Of a long file all of it would be left to the fsync, or, when blocks are overwritten, to the next barrier. So the store is
//! told to begin while more is being sealed. Only a thread of its own can do that: when the queue of the disk is full, the call
//! waits.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use crate::sys;

/// Most files that wait to be pushed. One more is not: its writes go to the disk later.
const MAX_WAITING: usize = 4;

/// The thread, which ends when this is dropped.
pub struct Pusher(Option<SyncSender<Arc<OwnedFd>>>);

impl Pusher {
    /// Starts the thread.
    pub fn start() -> Self {
        let (send, files) = mpsc::sync_channel::<Arc<OwnedFd>>(MAX_WAITING);
        let run = move || files.iter().for_each(|file| sys::push::begin_writing(file.as_fd()));
        match std::thread::Builder::new().name("pusher".into()).spawn(run) {
            Ok(_) => Self(Some(send)),
            Err(error) => {
                log::warn!("long files go to the disk when they are synced: {error}");
                Self(None)
            }
        }
    }

    /// Has the store begin to write `file` to the disk, without waiting for it.
    pub fn push(&self, file: Arc<OwnedFd>) {
        if let Some(sender) = &self.0 {
            // It is advice: when there is much to do already, it can be missed.
            let _ = sender.try_send(file);
        }
    }
}
