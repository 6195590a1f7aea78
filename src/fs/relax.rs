//! Getting at files whose mode locks out their own owner.
//!
//! The mount checks permissions before it asks us, but a mount of an unprivileged user works with that
//! user's own rights on the backing tree: without this, a file of mode 0200 could not be sealed block by
//! block, nor one of mode 0444 get a new envelope. A crash in between leaves the wider mode for the owner only.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::{EncryptedFs, Ino};
use crate::sys::dir::Access;
use crate::sys::{self, Errno, FileKind};

/// The objects whose mode is wider for the moment. Locked while a mode changes, and for no other system call.
#[derive(Default)]
pub struct Relaxed {
    modes: Mutex<HashMap<Ino, Mode>>,
    /// As many as there are, so that others need not lock.
    count: AtomicUsize,
}

struct Mode {
    /// What the user set, and sees.
    perm: u32,
    /// What it is widened by.
    added: u32,
    /// Requests that need it.
    users: usize,
}

impl Relaxed {
    /// The permission bits to show of `ino`, which has `perm` on the backing store.
    pub fn shown(&self, ino: Ino, perm: u32) -> u32 {
        if self.count.load(Ordering::Acquire) == 0 {
            return perm;
        }
        self.modes.lock().get(&ino).map_or(perm, |mode| mode.perm)
    }

    /// Sets the permission bits of `ino` by `chmod`, which may get more of them for the moment.
    pub fn set(&self, ino: Ino, perm: u32, chmod: impl FnOnce(u32) -> std::result::Result<(), Errno>) -> Result<()> {
        let mut modes = self.modes.lock();
        let Some(mode) = modes.get_mut(&ino) else { return Ok(chmod(perm)?) };
        chmod(perm | mode.added)?;
        mode.perm = perm;
        Ok(())
    }

    /// Widens the mode of `ino` by `bits`. False if that would change nothing. `perm` looks at the mode: under the lock, so
    /// that one which is set meanwhile is not put back.
    fn begin(
        &self,
        ino: Ino,
        perm: impl FnOnce() -> std::result::Result<u32, Errno>,
        bits: u32,
        chmod: impl FnOnce(u32) -> std::result::Result<(), Errno>,
    ) -> Result<bool> {
        let mut modes = self.modes.lock();
        let perm = perm()?;
        if !modes.contains_key(&ino) && perm & bits == bits {
            return Ok(false);
        }
        let known = modes.get(&ino).map_or((perm, 0), |mode| (mode.perm, mode.added));
        chmod(known.0 | known.1 | bits)?;
        let mode = modes.entry(ino).or_insert(Mode { perm, added: 0, users: 0 });
        mode.added |= bits;
        mode.users += 1;
        self.count.store(modes.len(), Ordering::Release);
        Ok(true)
    }

    /// The last user puts back what the user set.
    fn end(&self, ino: Ino, chmod: impl FnOnce(u32) -> std::result::Result<(), Errno>) -> Result<()> {
        let mut modes = self.modes.lock();
        let Some(mode) = modes.get_mut(&ino) else { return Ok(()) };
        mode.users -= 1;
        if mode.users > 0 {
            return Ok(());
        }
        let perm = mode.perm;
        let restored = chmod(perm);
        modes.remove(&ino);
        self.count.store(modes.len(), Ordering::Release);
        Ok(restored?)
    }
}

impl EncryptedFs {
    /// Runs `act`; if permission is denied and the object at `name` is our own, runs it once more with `bits` added
    /// to the object's mode, which is put back afterwards. A read-only mount changes no mode.
    pub(super) fn relaxed<T>(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        bits: u32,
        act: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let denied = match act() {
            Err(Error::Sys(errno)) if errno == Errno::ACCESS || errno == Errno::PERM => Error::Sys(errno),
            other => return other,
        };
        let place = sys::dir::open(dir, name, Access::Place)?;
        let stat = sys::stat::of_fd(&place)?;
        if self.config.read_only || stat.uid != self.uid || stat.kind == FileKind::Symlink {
            return Err(denied);
        }
        let ino = self.ino_of(&stat)?;
        let chmod = |perm| sys::dir::chmod_place(place.as_fd(), perm);
        if !self.relaxed.begin(ino, || Ok(sys::stat::of_fd(&place)?.perm), bits, chmod)? {
            return Err(denied);
        }
        let result = act();
        let restored = self.relaxed.end(ino, chmod);
        let value = result?;
        restored?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_last_of_several_users_puts_the_mode_back() {
        let (relaxed, ino, perm) = (Relaxed::default(), Ino(7), Cell::new(0o400));
        let chmod = |new| {
            perm.set(new);
            Ok(())
        };
        assert!(!relaxed.begin(ino, || Ok(perm.get()), 0o400, chmod).unwrap(), "it has these bits");
        assert!(relaxed.begin(ino, || Ok(perm.get()), 0o600, chmod).unwrap());
        assert!(relaxed.begin(ino, || Ok(perm.get()), 0o600, chmod).unwrap());
        assert_eq!((perm.get(), relaxed.shown(ino, perm.get())), (0o600, 0o400));
        relaxed.end(ino, chmod).unwrap();
        assert_eq!(perm.get(), 0o600);
        relaxed.end(ino, chmod).unwrap();
        assert_eq!((perm.get(), relaxed.shown(ino, perm.get())), (0o400, 0o400));
    }

    #[test]
    fn a_mode_that_is_set_meanwhile_stays() {
        let (relaxed, ino, perm) = (Relaxed::default(), Ino(7), Cell::new(0o044));
        let chmod = |new| {
            perm.set(new);
            Ok(())
        };
        assert!(relaxed.begin(ino, || Ok(perm.get()), 0o400, chmod).unwrap());
        relaxed.set(ino, 0o111, chmod).unwrap();
        assert_eq!((perm.get(), relaxed.shown(ino, perm.get())), (0o511, 0o111));
        relaxed.end(ino, chmod).unwrap();
        assert_eq!(perm.get(), 0o111);
        relaxed.set(ino, 0o700, chmod).unwrap();
        assert_eq!(perm.get(), 0o700);
    }

    #[test]
    fn the_mode_is_looked_at_where_no_other_can_be_set_meanwhile() {
        let (relaxed, ino, perm) = (Relaxed::default(), Ino(7), Cell::new(0o044));
        let chmod = |new| {
            perm.set(new);
            Ok(())
        };
        let look = || {
            assert!(relaxed.modes.is_locked());
            Ok(perm.get())
        };
        assert!(relaxed.begin(ino, look, 0o400, chmod).unwrap());
        relaxed.end(ino, chmod).unwrap();
        assert_eq!(perm.get(), 0o044);
    }
}
