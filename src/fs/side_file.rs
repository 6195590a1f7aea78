//! Side symlinks in the shape of files: for stores that know no symlinks.

use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::dir::{Access, RenameFlags};
use crate::sys::{self, Errno};

/// Longer than any sealed name.
const LEN_MAX: usize = 512;

/// The text of a side file.
pub fn read(dir: BorrowedFd<'_>, side: &str) -> Result<Vec<u8>, Errno> {
    let file = sys::dir::open(dir, side.as_bytes(), Access::Read)?;
    let mut text = vec![0; LEN_MAX];
    let len = sys::file::read_at(file.as_fd(), &mut text, 0)?;
    text.truncate(len);
    Ok(text)
}

/// Durable before the name that needs it can be. One that is there was left by an operation that failed or was cut
/// short, and says the same.
pub fn make(dir: BorrowedFd<'_>, side: &str, text: &[u8]) -> Result<(), Errno> {
    if sys::stat::at(dir, side.as_bytes()).is_ok() {
        return Ok(());
    }
    let temporary = format!(".kmsfs.tmp.{:016x}", u64::from_le_bytes(crate::crypto::random::array()));
    let made = || {
        let file = sys::dir::create(dir, temporary.as_bytes(), 0o600)?;
        sys::file::write_at(file.as_fd(), text, 0)?;
        sys::file::sync_all(file.as_fd())?;
        sys::dir::rename(dir, temporary.as_bytes(), dir, side.as_bytes(), RenameFlags::empty())
    };
    made().inspect_err(|_| {
        let _ = sys::dir::unlink(dir, temporary.as_bytes());
    })
}
