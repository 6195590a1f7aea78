//! A volume that a walk works on: its descriptor, its keys, and access to what its owner's own modes lock away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::envelope::{Binder, EnvelopeStore, Envelopes, NameForm, Object, Sealer, StoreError, Volume, VolumeHeader};
use crate::envelope::{DIRECTORY_SIDECAR, sidecar_name};
use crate::fs::side_file;
use crate::kms::{KeyId, Kms, Requester};
use crate::names::{EncodedName, NameEncoding, Symlinks};
use crate::sys::{self, Errno, FileKind};

/// An unlocked volume, and whether it may be changed.
pub struct Site<'a> {
    /// The root of the backing tree.
    pub root: PathBuf,
    /// The same, open.
    pub root_fd: OwnedFd,
    /// The device it lies on: what lies on another is no part of the volume.
    pub device: u64,
    /// The KMS.
    pub kms: &'a dyn Kms,
    /// The header.
    pub header: VolumeHeader,
    /// The CMK for new data keys where no directory says otherwise.
    pub key: KeyId,
    /// How names are written.
    pub encoding: NameEncoding,
    /// The volume's symlinks.
    pub symlinks: Symlinks,
    /// Where envelopes lie.
    pub envelopes: Envelopes,
    /// The lock is exclusive, and the user asked for changes.
    pub writable: bool,
    binder: Binder,
    /// One mode at a time is wider than its owner set it.
    widened: Mutex<()>,
}

impl<'a> Site<'a> {
    /// Opens the unlocked volume in the directory `root`, whose lock the caller holds.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(root: &Path, volume: &Volume, kms: &'a dyn Kms, writable: bool) -> Result<Self, Errno> {
        let root_fd = sys::dir::open_path(root)?;
        Ok(Self {
            root: root.to_owned(),
            device: sys::stat::of_fd(&root_fd)?.dev,
            root_fd,
            kms,
            header: volume.header.clone(),
            key: volume.header.key().clone(),
            encoding: match volume.header.names() {
                NameForm::Base64Url => NameEncoding::Base64Url,
                NameForm::Base32 => NameEncoding::Base32,
            },
            symlinks: Symlinks::new(&volume.key),
            envelopes: Envelopes::new(volume.header.placement()),
            writable,
            binder: Binder::new(&volume.header),
            widened: Mutex::new(()),
        })
    }

    /// Asks the KMS for keys of this volume.
    pub fn sealer(&self) -> Sealer<'_> {
        Sealer { binder: &self.binder, kms: self.kms, requester: Requester::Own }
    }

    /// Runs `act`; if permission is denied and `name` is our own, once more with `bits` added to its mode, which is put
    /// back at once. Where nothing may be changed, no mode is. A crash in between leaves the wider mode, for its owner only.
    pub fn relaxed<T, E: From<Errno> + Denied>(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        bits: u32,
        act: impl Fn() -> Result<T, E>,
    ) -> Result<T, E> {
        let denied = match act() {
            Err(error) if error.is_denied() => error,
            other => return other,
        };
        let _widened = self.widened.lock();
        let stat = sys::stat::at(dir, name)?;
        let ours = stat.uid == sys::process::effective_uid() && stat.kind != FileKind::Symlink;
        if !self.writable || !ours || stat.perm & bits == bits {
            return Err(denied);
        }
        sys::dir::chmod(dir, name, stat.perm | bits)?;
        let result = act();
        let restored = sys::dir::chmod(dir, name, stat.perm);
        let value = result?;
        restored?;
        Ok(value)
    }

    /// The sealed long name in a side symlink, or in the file that stands for one.
    pub fn read_side(&self, dir: BorrowedFd<'_>, side: &[u8]) -> Result<Vec<u8>, Errno> {
        match (self.envelopes.sidecars(), std::str::from_utf8(side)) {
            (Some(_), Ok(side)) => side_file::read(dir, side),
            _ => sys::dir::read_link(dir, side),
        }
    }

    /// Makes it. One that is there says the same.
    pub fn make_side(&self, dir: BorrowedFd<'_>, name: &EncodedName) -> Result<(), Errno> {
        let EncodedName::Long { side, target, .. } = name else { return Ok(()) };
        if self.envelopes.sidecars().is_some() {
            return side_file::make(dir, side, target.as_bytes());
        }
        match sys::dir::make_symlink(dir, side.as_bytes(), target.as_bytes()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stores an envelope in the place of `old`, although its owner's own modes may forbid that.
    pub fn store(
        &self,
        (dir, name): (BorrowedFd<'_>, &[u8]),
        to: Object<'_>,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> Result<(), StoreError> {
        let store = || match old {
            None => self.envelopes.create(to, new),
            Some(old) => self.envelopes.replace(to, old, new),
        };
        // Only errors of the store can have to do with the mode.
        let act = || match store() {
            Err(StoreError::Io(error)) => Err(error),
            other => Ok(other),
        };
        let relaxed = match (self.envelopes.sidecars(), to) {
            // It is a file in the directory.
            (Some(_), Object::File { .. }) => self.relaxed(dir, b".", 0o300, act),
            (Some(_), Object::Directory(_)) => self.relaxed(dir, name, 0o300, act),
            (None, _) => self.relaxed(dir, name, 0o600, act),
        };
        relaxed.map_err(StoreError::Io)??;
        if self.envelopes.sidecars().is_some() {
            let (dir, sidecar) = match to {
                Object::Directory(fd) => (fd, DIRECTORY_SIDECAR.to_owned()),
                Object::File { .. } => (dir, sidecar_name(name)),
            };
            self.give_to_owner(dir, sidecar.as_bytes());
        }
        Ok(())
    }

    /// Gives what root made in a directory to the directory's owner, who may not be able to mount the volume else. One
    /// that cannot be given stays root's.
    pub fn give_to_owner(&self, dir: BorrowedFd<'_>, name: &[u8]) {
        let (Ok(made), Ok(owner)) = (sys::stat::at(dir, name), sys::stat::of_fd(dir)) else { return };
        if sys::process::effective_uid() == 0 && made.uid == 0 && owner.uid != 0 {
            let _ = sys::dir::chown(dir, name, Some(owner.uid), Some(owner.gid));
        }
    }

    /// The same for all that is in the folder `.kmsfs`.
    pub fn give_folder_to_owner(&self) {
        let Ok(folder) = self.folder() else { return };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let listed = sys::dir::list(folder.as_fd(), 0, |entry| {
            names.push(entry.name.to_vec());
            true
        });
        if listed.is_ok() {
            names.iter().filter(|name| name[0] != b'.').for_each(|name| self.give_to_owner(folder.as_fd(), name));
        }
    }

    /// The folder `.kmsfs`.
    pub fn folder(&self) -> Result<OwnedFd, Errno> {
        sys::dir::open_dir(self.root_fd.as_fd(), crate::envelope::KMSFS_DIR.as_bytes(), sys::dir::Access::Read)
    }
}

/// An error that may say that permission is denied.
pub trait Denied {
    /// Whether it does.
    fn is_denied(&self) -> bool;
}

impl Denied for Errno {
    fn is_denied(&self) -> bool {
        matches!(*self, Errno::ACCESS | Errno::PERM)
    }
}

impl Denied for std::io::Error {
    fn is_denied(&self) -> bool {
        sys::errno_of(self).is_denied()
    }
}
