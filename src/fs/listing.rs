//! Reading directories.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::dirs::{Dir, stored};
use super::error::Result;
use super::leave::Leave;
use super::{Attr, EncryptedFs, Ino, Location, Looked};
use crate::kms::{Action, Caller, Requester};
use crate::names;
use crate::sys::{self, Errno, FileKind};

/// An open directory. It has a descriptor of its own, because positions belong to descriptors.
pub struct DirHandle {
    pub(super) dir: Arc<Dir>,
    /// Who opened it: further parts of a listing come in nobody's name.
    pub(super) leave: Leave,
    fd: OnceLock<Arc<OwnedFd>>,
}

impl DirHandle {
    /// The descriptor, opened when it is first needed: many directories are opened only to be closed.
    pub fn fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.clone());
        }
        let fd = Arc::new(sys::dir::reopen_dir(self.dir.fd())?);
        Ok(self.fd.get_or_init(|| fd).clone())
    }
}

/// An entry of a directory.
pub struct ListedEntry<'a> {
    /// Its plain name.
    pub name: &'a [u8],
    /// Its inode.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Where to go on after it.
    pub next: u64,
}

impl EncryptedFs {
    /// Opens a directory for listing.
    pub fn opendir(&self, caller: &Caller, ino: Ino) -> Result<u64> {
        let dir = self.dir(ino).map_err(|error| self.report(ino, error))?;
        let path = || self.inodes.path(ino);
        self.require_for_dir(Requester::user(caller, &path), &dir)?;
        let leave = Leave::new(*caller, Action::Decrypt);
        let handle = DirHandle { dir, leave, fd: OnceLock::new() };
        Ok(self.dir_handles.insert(handle))
    }

    /// Ends a handle of [`EncryptedFs::opendir`].
    pub fn releasedir(&self, handle: u64) {
        self.dir_handles.remove(handle);
        self.upkeep.guards.release(handle);
    }

    /// Calls `each` for the entries from position `from` on, until it returns false. What is internal is not shown,
    /// nor is a name that does not authenticate: that goes to the log.
    pub fn readdir(&self, handle: u64, from: u64, mut each: impl FnMut(ListedEntry<'_>) -> bool) -> Result<()> {
        let handle = self.dir_handles.get(handle)?;
        self.require_listing(&handle)?;
        let fd = handle.fd()?;
        let dir = &handle.dir;
        self.lit(dir)?;
        let mut refused = Ok(());
        sys::dir::list(fd.as_fd(), from, |entry| {
            if names::is_internal(entry.name) {
                return true;
            }
            let dots = entry.name == b"." || entry.name == b"..";
            let plain = if dots { Ok(entry.name.to_vec()) } else { dir.decode(entry.name) };
            let name = match plain {
                Ok(name) => name,
                // Its CMK was disabled just now: a part of a listing would look like the whole.
                Err(error) if error.errno() == Errno::ACCESS => {
                    refused = Err(error);
                    return false;
                }
                Err(error) => {
                    let stored = super::shown(entry.name);
                    let path = self.inodes.path(dir.ino);
                    log::error!(
                        "{path}: the stored name {stored} is not shown: {error}. Next: restore it from a backup, or remove it from the backing tree"
                    );
                    return true;
                }
            };
            let kind = entry.kind.or_else(|| sys::stat::at(dir.fd(), entry.name).ok().map(|stat| stat.kind));
            let ino = self.listed_ino(dir, entry.name, entry.ino);
            each(ListedEntry { name: &name, ino, kind: kind.unwrap_or(FileKind::File), next: entry.next })
        })?;
        refused
    }

    /// `..` leads to the backing parent; in the root of the mount that is not for the caller to see.
    fn listed_ino(&self, dir: &Dir, name: &[u8], backing: u64) -> Ino {
        let is_root = backing == self.root_id.1 || (dir.ino == Ino::ROOT && name == b"..");
        if is_root { Ino::ROOT } else { Ino(backing) }
    }

    /// Looks an entry up that was just listed: for a listing with attributes. None if it is gone by now.
    pub fn look_listed(&self, handle: u64, name: &[u8]) -> Result<Option<Looked>> {
        let dir = self.dir_handles.get(handle)?.dir.clone();
        let encoded = dir.encode(name)?;
        let stat = match sys::stat::at(dir.fd(), stored(&encoded)) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let at = Location::new(dir.ino, name);
        if stat.kind == FileKind::Symlink {
            self.note_symlink(&at, stat.size);
        }
        let attr: Attr = self.plain_at(&dir, stored(&encoded), stat)?;
        Ok(Some(self.tell(at, attr)))
    }

    /// Makes the entries of a directory durable, and the envelope of the directory with them.
    pub fn fsyncdir(&self, handle: u64) -> Result<()> {
        Ok(sys::dir::sync(self.dir_handles.get(handle)?.dir.fd())?)
    }
}
