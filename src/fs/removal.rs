//! Removing directories: what is kmsfs's own in them is no entry, and goes with them.

use std::os::fd::{AsFd, OwnedFd};

use super::dirs::{Dir, stored};
use super::error::Result;
use super::{EncryptedFs, Ino};
use crate::crypto::random;
use crate::envelope::DIRECTORY_SIDECAR;
use crate::names::NEW_DIRECTORY;
use crate::sys::dir::{Access, RenameFlags};
use crate::sys::{self, Errno, FileKind};

/// A name for a directory that is not there yet, or not any more.
pub(super) fn unseen_name() -> String {
    format!("{NEW_DIRECTORY}{:016x}", u64::from_le_bytes(random::array()))
}

impl EncryptedFs {
    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let dir = self.dir(parent)?;
        let encoded = dir.encode(name)?;
        let names = self.names_lock();
        match sys::dir::remove_dir(dir.fd(), stored(&encoded)) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let aside = self.set_aside(&dir, stored(&encoded))?;
                if let Err(error) = self.discard(&dir, aside.as_bytes()) {
                    self.put_back(&dir, &aside, stored(&encoded));
                    return Err(error);
                }
            }
            other => other?,
        }
        drop(names);
        dir.retire(&encoded);
        Ok(())
    }

    /// Renames a directory without entries to an unseen name: nobody shall meet it without its key, not even after a
    /// crash.
    ///
    /// # Errors
    /// ENOTEMPTY if it has entries; then nothing was changed.
    fn set_aside(&self, parent: &Dir, name: &[u8]) -> Result<String> {
        let open = || Ok(sys::dir::open_dir(parent.fd(), name, Access::Read)?);
        self.internals(&self.relaxed(parent.fd(), name, 0o700, open)?)?;
        let aside = unseen_name();
        sys::dir::rename(parent.fd(), name, parent.fd(), aside.as_bytes(), RenameFlags::empty())?;
        Ok(aside)
    }

    /// Runs `replace`, which gives the name of a directory without entries to another one.
    pub(super) fn with_aside(&self, parent: &Dir, name: &[u8], replace: impl FnOnce() -> Result<()>) -> Result<()> {
        let aside = self.set_aside(parent, name)?;
        let replaced = replace();
        match &replaced {
            Ok(()) => {
                if let Err(error) = self.discard(parent, aside.as_bytes()) {
                    log::warn!(
                        "{}: {aside} is left of a directory that was replaced: {error}",
                        self.inodes.path(parent.ino)
                    );
                }
            }
            Err(_) => self.put_back(parent, &aside, name),
        }
        replaced
    }

    /// Undoes [`EncryptedFs::set_aside`].
    fn put_back(&self, parent: &Dir, aside: &str, name: &[u8]) {
        let back = sys::dir::rename(parent.fd(), aside.as_bytes(), parent.fd(), name, RenameFlags::empty());
        if let Err(error) = back {
            log::error!("{}: a directory in it is called {aside} now: {error}", self.inodes.path(parent.ino));
        }
    }

    /// Removes a directory without entries, and what is kmsfs's own in it: the key last.
    ///
    /// # Errors
    /// ENOTEMPTY if it has entries; with any error the key is still there.
    pub(super) fn discard(&self, parent: &Dir, name: &[u8]) -> Result<()> {
        let open = || Ok(sys::dir::open_dir(parent.fd(), name, Access::Read)?);
        let fd = self.relaxed(parent.fd(), name, 0o700, open)?;
        self.relaxed(parent.fd(), name, 0o700, || self.empty(&fd))?;
        let removed = sys::dir::remove_dir(parent.fd(), name);
        if let Err(error) = removed {
            log::warn!("{}: something is left of a directory that was removed: {error}", self.inodes.path(parent.ino));
        }
        Ok(())
    }

    fn empty(&self, dir: &OwnedFd) -> Result<()> {
        let mut has_key = false;
        for (name, kind) in self.internals(dir)? {
            if name == DIRECTORY_SIDECAR.as_bytes() {
                has_key = true;
            } else if kind == Some(FileKind::Directory) {
                // An interrupted mkdir or rmdir.
                let inner = sys::dir::open_dir(dir.as_fd(), &name, Access::Read)?;
                self.empty(&inner)?;
                sys::dir::remove_dir(dir.as_fd(), &name)?;
            } else {
                sys::dir::unlink(dir.as_fd(), &name)?;
            }
        }
        if has_key {
            sys::dir::unlink(dir.as_fd(), DIRECTORY_SIDECAR.as_bytes())?;
        }
        Ok(())
    }

    /// What is in a directory that has no entries.
    ///
    /// # Errors
    /// ENOTEMPTY if it has any.
    fn internals(&self, dir: &OwnedFd) -> Result<Vec<(Vec<u8>, Option<FileKind>)>> {
        let mut found = Vec::new();
        let mut empty = true;
        sys::dir::list(dir.as_fd(), 0, |entry| {
            if entry.name == b"." || entry.name == b".." {
                return true;
            }
            empty = crate::names::is_internal(entry.name);
            let kind = entry.kind.or_else(|| sys::stat::at(dir, entry.name).ok().map(|stat| stat.kind));
            found.push((entry.name.to_vec(), kind));
            empty
        })?;
        if empty { Ok(found) } else { Err(Errno::NOTEMPTY.into()) }
    }
}
