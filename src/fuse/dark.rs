//! Empties the kernel's caches of what the KMS refuses, on a thread of its own: the kernel sends writes while it waits
//! for us, and takes locks that requests hold, so the workers must be free.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::fs::{EncryptedFs, Ino, KeyBell};

/// What is open is asked for again at least this far apart, whatever the user wants.
const SHORTEST: Duration = Duration::from_millis(500);

/// The thread, which ends when this is dropped.
pub(super) struct Keeper {
    bell: Arc<KeyBell>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread. It looks whenever `bell` rings and, for what a change has missed, every `ttl`.
    pub(super) fn start(
        fs: Arc<EncryptedFs>,
        notifier: Notifier,
        bell: Arc<KeyBell>,
        ttl: Duration,
    ) -> io::Result<Self> {
        let rung = bell.clone();
        let look = move || {
            while rung.wait(ttl.max(SHORTEST)) {
                // Keys that are disabled later must go dark, too.
                if catch_unwind(AssertUnwindSafe(|| shut(&fs, &notifier))).is_err() {
                    log::error!(
                        "internal error while keys were looked at; it is tried again within {ttl:?}. Next: please report this as a bug"
                    );
                }
            }
        };
        let thread = thread::Builder::new().name("keys".into()).spawn(look)?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // It panics only if the filesystem does, which the hook has reported.
            let _ = thread.join();
        }
    }
}

fn shut(fs: &EncryptedFs, notifier: &Notifier) {
    let faded = fs.fade();
    if faded.is_empty() {
        return;
    }
    for ino in faded.files.iter().chain(&faded.shared) {
        told(notifier.inval_inode(number(*ino), 0, 0));
    }
    fs.darken(&faded.files);
    for (at, ino) in &faded.names {
        told(notifier.inval_entry(number(at.parent), OsStr::from_bytes(&at.name)));
        told(notifier.inval_inode(number(*ino), 0, 0));
    }
    for ino in &faded.dirs {
        told(notifier.inval_inode(number(*ino), 0, 0));
    }
    // What was read or written meanwhile.
    for ino in faded.files.iter().chain(&faded.shared) {
        told(notifier.inval_inode(number(*ino), 0, 0));
    }
    let (files, dirs) = (faded.files.len(), faded.dirs.len());
    if files + dirs > 0 {
        log::warn!("{files} open files and {dirs} directories are out of reach until their keys are enabled again");
    }
    if faded.handles > 0 {
        log::warn!("{} open files and directories are closed to users who have no leave any more", faded.handles);
    }
}

fn number(ino: Ino) -> INodeNo {
    INodeNo(ino.0)
}

/// The kernel need not know what it is asked to forget.
fn told(answer: io::Result<()>) {
    if let Err(error) = answer
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("the kernel keeps what it has cached of a file whose key is refused: {error}");
    }
}
