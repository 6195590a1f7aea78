//! Getting at files whose mode locks out their own owner.
//!
//! The mount checks permissions before it asks us, but a mount of an unprivileged user works with that
//! user's own rights on the backing tree: without this, a file of mode 0200 could not be sealed block by
//! block, nor one of mode 0444 get a new envelope. A crash in between leaves the wider mode for the owner only.

use std::os::fd::BorrowedFd;

use super::error::{Error, Result};
use crate::sys::{self, Errno, FileKind};

/// Runs `act`; if permission is denied and the object at `name` is our own, runs it once more with `bits` added
/// to the object's mode, which is put back afterwards.
pub fn retry<T>(dir: BorrowedFd<'_>, name: &[u8], bits: u32, act: impl Fn() -> Result<T>) -> Result<T> {
    let denied = match act() {
        Err(Error::Sys(errno)) if errno == Errno::ACCESS || errno == Errno::PERM => Error::Sys(errno),
        other => return other,
    };
    let stat = sys::stat::at(dir, name)?;
    let ours = stat.uid == sys::process::effective_uid();
    if !ours || stat.perm & bits == bits || stat.kind == FileKind::Symlink {
        return Err(denied);
    }
    sys::dir::chmod(dir, name, stat.perm | bits)?;
    let result = act();
    let restored = sys::dir::chmod(dir, name, stat.perm);
    let value = result?;
    restored?;
    Ok(value)
}
