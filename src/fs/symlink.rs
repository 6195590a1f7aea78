//! Symlinks: sealed targets, and the other home of the long ones.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;

use super::dirs::{Dir, stored};
use super::error::{Error, Result};
use super::{EncryptedFs, Ino, Location};
use crate::kms::{Action, Caller, Requester};
use crate::names::{SealedLink, Symlinks};
use crate::sys::dir::Access;
use crate::sys::{self, Errno};

/// The folder of long targets, and the names that lead to one: those must be removed with their names.
///
/// The kernel removes only names that it looked up before, so no long symlink is missed.
pub struct LongLinks {
    folder: Option<OwnedFd>,
    known: Mutex<HashSet<(Ino, Box<[u8]>)>>,
}

impl LongLinks {
    /// Opens `.kmsfs/links` below `root`.
    pub fn open(root: BorrowedFd<'_>) -> Result<Self> {
        let folder = match sys::dir::open_dir(root, b".kmsfs/links", Access::Read) {
            Ok(folder) => Some(folder),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { folder, known: Mutex::default() })
    }

    fn folder(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.folder.as_ref().ok_or(Errno::NOENT)?.as_fd())
    }

    /// Whether the name was seen to be a long symlink; it is forgotten.
    pub fn take(&self, at: &Location) -> bool {
        let mut known = self.known.lock();
        !known.is_empty() && known.remove(&(at.parent, at.name.clone()))
    }

    /// Remembers that the name leads to a long symlink.
    pub fn note(&self, at: Location) {
        self.known.lock().insert((at.parent, at.name));
    }

    fn read(&self, home: &str) -> Result<Vec<u8>> {
        let file = sys::dir::open(self.folder()?, home.as_bytes(), Access::Read)?;
        let mut bytes = vec![0; sys::stat::of_fd(&file)?.size.min(1 << 16) as usize];
        let length = sys::file::read_at(file.as_fd(), &mut bytes, 0)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Writes a target and makes it durable: it is rare, and the symlink that needs it must not outlive it.
    fn write(&self, home: &str, bytes: &[u8]) -> Result<()> {
        let file = sys::dir::create(self.folder()?, home.as_bytes(), 0o600)?;
        let written = sys::file::write_at(file.as_fd(), bytes, 0)
            .and_then(|()| sys::file::sync_all(file.as_fd()))
            .and_then(|()| sys::dir::sync(self.folder.as_ref().ok_or(Errno::NOENT)?));
        written.inspect_err(|_| self.remove(home))?;
        Ok(())
    }

    /// Removes a target whose last symlink is gone. A stale one does no harm, so failure is none.
    pub fn remove(&self, home: &str) {
        if let Ok(folder) = self.folder() {
            let _ = sys::dir::unlink(folder, home.as_bytes());
        }
    }
}

impl EncryptedFs {
    /// Makes the symlink stored as `name`. A target that the store takes in no symlink gets another home.
    pub(super) fn make_symlink(&self, parent: &Dir, name: &[u8], at: Location, target: &[u8]) -> Result<()> {
        let long = match self.symlinks.seal(target)? {
            SealedLink::Short(text) => match sys::dir::make_symlink(parent.fd(), name, text.as_bytes()) {
                Err(Errno::NAMETOOLONG) => self.symlinks.seal_long(target),
                made => return Ok(made?),
            },
            SealedLink::Long(long) => long,
        };
        self.long_links.write(&long.home_name, &long.home_bytes)?;
        if let Err(error) = sys::dir::make_symlink(parent.fd(), name, long.text.as_bytes()) {
            self.long_links.remove(&long.home_name);
            return Err(error.into());
        }
        self.long_links.note(at);
        Ok(())
    }

    /// The plain length of a symlink's target. Only a long one must be read for it.
    pub(super) fn link_len(&self, parent: &Dir, name: &[u8], backing_len: u64) -> Result<u64> {
        if let Some(length) = crate::names::plain_len(backing_len) {
            return Ok(length);
        }
        let text = sys::dir::read_link(parent.fd(), name)?;
        Ok(Symlinks::parse_long(&text).map_or(0, |(_, length)| length as u64))
    }

    /// Notes that a symlink with this backing length was looked up.
    pub(super) fn note_symlink(&self, at: &Location, backing_len: u64) {
        if crate::names::plain_len(backing_len).is_none() {
            self.long_links.note(at.clone());
        }
    }

    /// The other home of the long symlink `name`, if it has no name but this one.
    pub(super) fn home_to_remove(&self, parent: &Dir, name: &[u8]) -> Option<String> {
        let last = sys::stat::at(parent.fd(), name).is_ok_and(|stat| stat.nlink == 1);
        let text = sys::dir::read_link(parent.fd(), name).ok().filter(|_| last)?;
        Symlinks::parse_long(&text).map(|(home, _)| home)
    }

    /// The plain target of a symlink.
    pub fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        let path = || self.inodes.path(ino);
        let target = self.at_location(ino, |parent, name, _| {
            self.require_for_symlink(Requester::user(caller, &path), Action::Decrypt, parent)?;
            let text = sys::dir::read_link(parent.fd(), stored(name))?;
            let opened = match Symlinks::parse_long(&text) {
                None => self.symlinks.open_short(&text),
                Some((home, length)) => self.symlinks.open_long(&self.long_links.read(&home)?, length),
            };
            opened.map_err(|_| Error::Forged("the target of this symlink"))
        });
        target.map_err(|error| self.report(ino, error))
    }
}
