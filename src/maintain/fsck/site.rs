//! A volume that a walk works on: its descriptor, its keys, and access to what its owner's own modes lock away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::envelope::{Binder, NameForm, Sealer, Volume, VolumeHeader, XattrStore};
use crate::kms::{Caller, KeyId, Kms};
use crate::names::{NameEncoding, Symlinks};
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
    /// Who asks it.
    pub caller: Caller,
    /// The header.
    pub header: VolumeHeader,
    /// The CMK for new data keys where no directory says otherwise.
    pub key: KeyId,
    /// How names are written.
    pub encoding: NameEncoding,
    /// The volume's symlinks.
    pub symlinks: Symlinks,
    /// Where envelopes lie.
    pub envelopes: XattrStore,
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
    pub fn open(root: &Path, volume: &Volume, kms: &'a dyn Kms, caller: Caller, writable: bool) -> Result<Self, Errno> {
        let root_fd = sys::dir::open_path(root)?;
        Ok(Self {
            root: root.to_owned(),
            device: sys::stat::of_fd(&root_fd)?.dev,
            root_fd,
            kms,
            caller,
            header: volume.header.clone(),
            key: volume.header.key().clone(),
            encoding: match volume.header.names() {
                NameForm::Base64Url => NameEncoding::Base64Url,
                NameForm::Base32 => NameEncoding::Base32,
            },
            symlinks: Symlinks::new(&volume.key),
            envelopes: XattrStore::default(),
            writable,
            binder: Binder::new(&volume.header),
            widened: Mutex::new(()),
        })
    }

    /// Asks the KMS for keys of this volume.
    pub fn sealer(&self) -> Sealer<'_> {
        Sealer { binder: &self.binder, kms: self.kms, caller: &self.caller }
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
