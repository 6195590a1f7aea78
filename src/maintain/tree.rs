//! A volume as walks see it: plain directories that answer requests, mounted or not.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::fs::upkeep::{Answer, Request};
use crate::fs::{Caller, EncryptedFs, Errno, Ino};
use crate::sys::control::{MESSAGE_LEN, exchange};
use crate::sys::dir::{Access, open_dir, open_path};

/// Why a directory did not open, or a request was refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The number of the error.
    pub errno: Errno,
    /// Its text.
    pub reason: String,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, reason: errno.to_string() }
    }
}

impl From<crate::fs::Error> for Refusal {
    fn from(error: crate::fs::Error) -> Self {
        Self { errno: error.errno(), reason: error.to_string() }
    }
}

/// A volume, or a part of one. Any thread may ask.
pub trait Tree: Sync {
    /// An open directory.
    type Dir: Send + Sync;

    /// The directory at which the walk begins.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn top(&self) -> Result<Self::Dir, Refusal>;

    /// The directory with the plain name `name` in `parent`.
    ///
    /// # Errors
    /// If it cannot be opened; ENOENT if it is gone.
    fn open(&self, parent: &Self::Dir, name: &[u8]) -> Result<Self::Dir, Refusal>;

    /// Makes a request to the volume, at this directory.
    ///
    /// # Errors
    /// What the volume refuses.
    fn ask(&self, dir: &Self::Dir, request: &Request) -> Result<Answer, Refusal>;
}

/// A directory in the mount of a volume. The process that serves the mount has the keys, so no passphrase is needed.
pub struct Mounted {
    top: OwnedFd,
}

impl Mounted {
    /// The directory at `path`.
    ///
    /// # Errors
    /// If it cannot be opened; ENOTTY if it lies in no mount of kmsfs.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let mounted = Self { top: open_path(path)? };
        mounted.ask(&mounted.top, &Request::Standing)?;
        Ok(mounted)
    }
}

impl Tree for Mounted {
    type Dir = OwnedFd;

    fn top(&self) -> Result<OwnedFd, Refusal> {
        Ok(open_dir(self.top.as_fd(), b".", Access::Read)?)
    }

    fn open(&self, parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Refusal> {
        Ok(open_dir(parent.as_fd(), name, Access::Read)?)
    }

    fn ask(&self, dir: &OwnedFd, request: &Request) -> Result<Answer, Refusal> {
        let message = serde_json::to_vec(request).map_err(|_| Errno::INVAL)?;
        let mut buffer = Box::new([0; MESSAGE_LEN]);
        buffer.get_mut(..message.len()).ok_or(Errno::MSGSIZE)?.copy_from_slice(&message);
        exchange(dir.as_fd(), &mut buffer)?;
        let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
        let answer = serde_json::from_slice(&buffer[..end]);
        refused(answer.map_err(|error| Refusal { errno: Errno::PROTO, reason: error.to_string() })?)
    }
}

/// Handles are of mounts; they are counted from 1.
const NO_HANDLE: u64 = 0;

/// A volume that nobody has mounted, unlocked in this process.
pub struct Unmounted {
    fs: Arc<EncryptedFs>,
    caller: Caller,
}

impl Unmounted {
    /// The whole of `fs`.
    pub fn new(fs: Arc<EncryptedFs>, caller: Caller) -> Self {
        Self { fs, caller }
    }
}

/// A directory that was looked up, until this is dropped.
pub struct LookedUp {
    ino: Ino,
    fs: Arc<EncryptedFs>,
}

impl Drop for LookedUp {
    fn drop(&mut self) {
        if self.ino != Ino::ROOT {
            self.fs.forget(self.ino, 1);
        }
    }
}

impl Tree for Unmounted {
    type Dir = LookedUp;

    fn top(&self) -> Result<LookedUp, Refusal> {
        Ok(LookedUp { ino: Ino::ROOT, fs: self.fs.clone() })
    }

    fn open(&self, parent: &LookedUp, name: &[u8]) -> Result<LookedUp, Refusal> {
        let looked = self.fs.lookup(parent.ino, name)?;
        Ok(LookedUp { ino: looked.attr.ino, fs: self.fs.clone() })
    }

    fn ask(&self, dir: &LookedUp, request: &Request) -> Result<Answer, Refusal> {
        refused(self.fs.upkeep(&self.caller, (dir.ino, NO_HANDLE), request)?)
    }
}

fn refused(answer: Answer) -> Result<Answer, Refusal> {
    match answer {
        Answer::Refused { errno, reason } => Err(Refusal { errno: Errno::from_raw_os_error(errno), reason }),
        answer => Ok(answer),
    }
}
