//! Unlocked directories: a descriptor, the key of the names, and what new entries inherit.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};

use super::error::{Error, Result};
use super::side_file;
use super::{EncryptedFs, Ino, Location};
use crate::crypto::{DataKey, Suite, derive};
use crate::envelope::{Envelope, EnvelopeError, EnvelopeStore, Object, Place};
use crate::kms::{KeyId, KeyOrigin};
use crate::names::{Decoded, DirNames, EncodedName, Xattrs};
use crate::sys::dir::Access;
use crate::sys::xattr::Target;
use crate::sys::{self, Errno, FileKind, Stat};

/// Most directories that are kept open.
const MAX_OPEN: usize = 512;

/// No directory lies deeper. Where others change the tree, locations that are out of date may lead in a circle.
const MAX_DEPTH: usize = 1 << 16;

/// An open, unlocked directory.
pub struct Dir {
    /// Its inode.
    pub ino: Ino,
    fd: OwnedFd,
    /// Its id, which the envelopes of its entries are bound to.
    pub id: [u8; 16],
    /// None while its CMK refuses.
    secrets: RwLock<Option<Secrets>>,
    /// Whether its CMK refused when that was last asked.
    is_dark: AtomicBool,
    /// Long names lie in files and not in symlinks: the store need not have any.
    sides_are_files: bool,
    /// What wrapped its key: its entries get their keys under the same CMK.
    origin: RwLock<KeyOrigin>,
    /// The suite that it gives to new entries.
    suite: RwLock<Suite>,
    /// Whether it has a default ACL; unknown until asked, and again when the ACL is set.
    has_default_acl: RwLock<Option<bool>>,
}

/// What only an unlocked directory has.
struct Secrets {
    /// Its key, which also seals its extended attributes.
    key: DataKey,
    names: DirNames,
}

impl Dir {
    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where the envelopes of its entries are bound to.
    pub fn place(&self) -> Place {
        Place::In(self.id)
    }

    /// The CMK for the keys of new entries: the one that wrapped this directory's own.
    pub fn cmk(&self) -> KeyId {
        self.origin.read().key.clone()
    }

    /// The suite of new entries.
    pub fn suite(&self) -> Suite {
        *self.suite.read()
    }

    fn secrets(&self) -> Result<MappedRwLockReadGuard<'_, Secrets>> {
        Ok(RwLockReadGuard::try_map(self.secrets.read(), Option::as_ref).map_err(|_| Errno::ACCESS)?)
    }

    /// The sealer of its extended attributes.
    ///
    /// # Errors
    /// EACCES while its CMK refuses.
    pub fn xattrs(&self) -> Result<Xattrs> {
        Ok(Xattrs::new(&self.secrets()?.key))
    }

    /// What wrapped its key.
    pub fn origin(&self) -> KeyOrigin {
        self.origin.read().clone()
    }

    /// Its CMK refuses: its key is dropped. Whether that is news.
    pub fn darken(&self) -> bool {
        let mut secrets = self.secrets.write();
        self.is_dark.store(true, Ordering::Relaxed);
        secrets.take().is_some()
    }

    fn lighten(&self, key: DataKey, names: DirNames) {
        let mut secrets = self.secrets.write();
        *secrets = Some(Secrets { key, names });
        self.is_dark.store(false, Ordering::Relaxed);
    }

    /// How `plain` is stored here.
    pub fn encode(&self, plain: &[u8]) -> Result<EncodedName> {
        Ok(self.secrets()?.names.encode(plain)?)
    }

    /// The plain name of the entry stored as `stored`: one readlink for a long name.
    ///
    /// # Errors
    /// [`Error::Name`] if it does not authenticate in this directory.
    pub fn decode(&self, stored: &[u8]) -> Result<Vec<u8>> {
        let secrets = self.secrets()?;
        match secrets.names.decode(stored)? {
            Decoded::Short(plain) => Ok(plain),
            Decoded::NeedsSide(side) => {
                let target = if self.sides_are_files {
                    side_file::read(self.fd(), &side)?
                } else {
                    sys::dir::read_link(self.fd(), side.as_bytes())?
                };
                Ok(secrets.names.decode_long(stored, &target)?)
            }
        }
    }

    /// The permission bits a new entry gets: without a default ACL the caller's umask applies, with one the
    /// store does what the ACL says.
    pub fn creation_perm(&self, perm: u32, umask: u32) -> Result<u32> {
        let known = *self.has_default_acl.read();
        let has = match known {
            Some(has) => has,
            None => {
                let has = match sys::xattr::get(Target::Open(self.fd()), b"system.posix_acl_default") {
                    Ok(value) => value.is_some(),
                    Err(error) if sys::xattr::is_unsupported(&error) => false,
                    Err(error) => return Err(error.into()),
                };
                *self.has_default_acl.write() = Some(has);
                has
            }
        };
        Ok(if has { perm } else { perm & !umask })
    }

    /// The default ACL is about to change.
    pub fn forget_default_acl(&self) {
        *self.has_default_acl.write() = None;
    }

    /// Makes the side symlink, or side file, that a long name needs, before the name itself is made.
    pub fn prepare(&self, name: &EncodedName) -> Result<()> {
        let EncodedName::Long { side, target, .. } = name else { return Ok(()) };
        if self.sides_are_files {
            return Ok(side_file::make(self.fd(), side, target.as_bytes())?);
        }
        match sys::dir::make_symlink(self.fd(), side.as_bytes(), target.as_bytes()) {
            // Left by an operation that failed or was cut short: it says the same.
            Err(Errno::EXIST) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the side symlink of a long name that is gone. A stale one does no harm, so failure is none.
    pub fn retire(&self, name: &EncodedName) {
        if let EncodedName::Long { side, .. } = name {
            let _ = sys::dir::unlink(self.fd(), side.as_bytes());
        }
    }
}

/// What a directory gives to new entries.
pub struct Gift {
    /// What wrapped its key.
    pub origin: KeyOrigin,
    /// The suite.
    pub suite: Suite,
}

/// The bytes under which an entry is stored.
pub fn stored(name: &EncodedName) -> &[u8] {
    match name {
        EncodedName::Short(stored) | EncodedName::Long { stored, .. } => stored.as_bytes(),
    }
}

/// The open directories, the least recently used of which is closed when there are too many.
#[derive(Default)]
pub struct DirCache {
    dirs: Mutex<HashMap<Ino, (Arc<Dir>, u64)>>,
    clock: AtomicU64,
}

impl DirCache {
    fn get(&self, ino: Ino) -> Option<Arc<Dir>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        self.dirs.lock().get_mut(&ino).map(|(dir, used)| {
            *used = now;
            dir.clone()
        })
    }

    fn insert(&self, dir: Arc<Dir>) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut dirs = self.dirs.lock();
        if dirs.len() >= MAX_OPEN {
            // An eighth at a time, so that the sort is rare.
            let mut used: Vec<u64> =
                dirs.iter().filter(|(ino, _)| **ino != Ino::ROOT).map(|(_, (_, used))| *used).collect();
            used.sort_unstable();
            let limit = used[used.len() / 8];
            dirs.retain(|ino, (_, used)| *ino == Ino::ROOT || *used > limit);
        }
        dirs.insert(dir.ino, (dir, now));
    }

    /// The key of the directory `ino` was wrapped anew, by `origin`.
    pub fn rewrapped(&self, ino: Ino, origin: &KeyOrigin) {
        if let Some((dir, _)) = self.dirs.lock().get(&ino) {
            *dir.origin.write() = origin.clone();
        }
    }

    /// New entries of the directory `ino` get `suite` from now on.
    pub fn gives_on(&self, ino: Ino, suite: Suite) {
        if let Some((dir, _)) = self.dirs.lock().get(&ino) {
            *dir.suite.write() = suite;
        }
    }

    /// The directory `ino` if it is open, even if its CMK refuses.
    pub fn peek(&self, ino: Ino) -> Option<Arc<Dir>> {
        self.dirs.lock().get(&ino).map(|(dir, _)| dir.clone())
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Dir>> {
        self.dirs.lock().values().map(|(dir, _)| dir.clone()).collect()
    }

    /// Gives up the directory `ino`, for the caller to close.
    pub fn forget(&self, ino: Ino) -> Option<Arc<Dir>> {
        self.dirs.lock().remove(&ino).map(|(dir, _)| dir)
    }
}

impl EncryptedFs {
    /// The directory `ino`, unlocked. Directories above it that are not open are opened on the way.
    ///
    /// # Errors
    /// ESTALE if it is not where it was seen. Never ENOENT: the kernel would remember that of a name in it.
    pub(super) fn dir(&self, ino: Ino) -> Result<Arc<Dir>> {
        // A directory that is being renamed has two places, the new one last; afterwards it has that alone.
        for is_newest in [false, true, false] {
            match self.dir_by(ino, is_newest) {
                Err(Error::Sys(Errno::STALE)) => {}
                other => return other,
            }
        }
        Err(Errno::STALE.into())
    }

    /// The same by the first place of each directory on the way, or the newest one.
    fn dir_by(&self, ino: Ino, is_newest: bool) -> Result<Arc<Dir>> {
        if let Some(dir) = self.dirs.get(ino) {
            self.lit(&dir)?;
            return Ok(dir);
        }
        let mut below = Vec::new();
        let mut at = ino;
        let mut dir = loop {
            if let Some(dir) = self.dirs.get(at) {
                self.lit(&dir)?;
                break dir;
            }
            if self.inodes.kind(at).is_some_and(|kind| kind != FileKind::Directory) {
                return Err(Errno::NOTDIR.into());
            }
            let mut locations = self.inodes.locations(at);
            let location = if is_newest { locations.last() } else { locations.next() }.ok_or(Errno::STALE)?;
            let parent = location.parent;
            if below.len() >= MAX_DEPTH {
                return Err(Errno::LOOP.into());
            }
            below.push((at, location));
            at = parent;
        };
        while let Some((ino, location)) = below.pop() {
            dir = self.open_dir_in(&dir, ino, &location)?;
            self.dirs.insert(dir.clone());
        }
        Ok(dir)
    }

    fn open_dir_in(&self, parent: &Dir, ino: Ino, location: &Location) -> Result<Arc<Dir>> {
        let name = parent.encode(&location.name)?;
        let open = |access| -> Result<(OwnedFd, Option<Vec<u8>>)> {
            let fd = sys::dir::open_dir(parent.fd(), stored(&name), access)?;
            let envelope = self.envelopes.load(Object::Directory(fd.as_fd()))?;
            Ok((fd, envelope))
        };
        let opened = self.relaxed(parent.fd(), stored(&name), 0o700, || open(Access::Read));
        let (fd, envelope) = opened.map_err(|error| match error {
            // Nothing has the name any more, or something else.
            Error::Sys(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Errno::STALE.into(),
            other => other,
        })?;
        if self.ino_of(&sys::stat::of_fd(&fd)?)? != ino && self.keeps_numbers {
            return Err(Errno::STALE.into());
        }
        let (key, gift) = self.unlock_dir(envelope, parent.place()).map_err(|error| self.report(ino, error))?;
        Ok(Arc::new(self.make_dir_handle(ino, fd, key, gift)))
    }

    /// Unlocks an open directory again, if its CMK refused before and does not any more.
    pub(super) fn lit(&self, dir: &Dir) -> Result<()> {
        if !dir.is_dark.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The envelope in store is what counts: it may have been wrapped anew since.
        let place = match self.inodes.locations(dir.ino).next() {
            _ if dir.ino == Ino::ROOT => Place::ROOT,
            Some(location) => self.dir(location.parent)?.place(),
            None => return Err(Errno::STALE.into()),
        };
        let (key, gift) = self.unlock_dir(self.envelopes.load(Object::Directory(dir.fd()))?, place)?;
        if derive::directory_id(&key) != dir.id {
            return Err(Error::Forged("the envelope of a directory"));
        }
        *dir.origin.write() = gift.origin;
        *dir.suite.write() = gift.suite;
        let names = DirNames::new(&key, self.name_encoding);
        dir.lighten(key, names);
        Ok(())
    }

    fn unlock_dir(&self, envelope: Option<Vec<u8>>, place: Place) -> Result<(DataKey, Gift)> {
        let envelope = Envelope::parse(&envelope.ok_or(EnvelopeError::NoEnvelope)?)?;
        super::open_file::require_directory(&envelope)?;
        self.check_suite(envelope.kind().suite())?;
        let key = self.own_sealer().unlock(&envelope, place)?;
        Ok((key, self.gift_of(&envelope)?))
    }

    /// What a directory with this envelope gives to new entries.
    pub(super) fn gift_of(&self, envelope: &Envelope) -> Result<Gift> {
        Ok(Gift { origin: self.origin_of(envelope)?, suite: envelope.kind().suite() })
    }

    /// What wrapped the key in an envelope.
    pub(super) fn origin_of(&self, envelope: &Envelope) -> Result<KeyOrigin> {
        Ok(self.kms.origin(&envelope.blob().0).map_err(EnvelopeError::Kms)?)
    }

    /// A handle for a directory whose key is known.
    pub(super) fn make_dir_handle(&self, ino: Ino, fd: OwnedFd, key: DataKey, gift: Gift) -> Dir {
        let names = DirNames::new(&key, self.name_encoding);
        Dir {
            ino,
            fd,
            id: derive::directory_id(&key),
            secrets: RwLock::new(Some(Secrets { key, names })),
            is_dark: AtomicBool::new(false),
            sides_are_files: self.envelopes.sidecars().is_some(),
            origin: RwLock::new(gift.origin),
            suite: RwLock::new(gift.suite),
            has_default_acl: RwLock::new(None),
        }
    }

    /// Opens the root directory: the first thing a mount does.
    pub(super) fn open_root(&self, fd: OwnedFd) -> Result<()> {
        let envelope = self.envelopes.load(Object::Directory(fd.as_fd()))?;
        let (key, gift) = self.unlock_dir(envelope, Place::ROOT)?;
        self.dirs.insert(Arc::new(self.make_dir_handle(Ino::ROOT, fd, key, gift)));
        Ok(())
    }

    /// Enters a directory that was just made.
    pub(super) fn adopt_dir(&self, dir: Dir) {
        self.dirs.insert(Arc::new(dir));
    }

    /// The directory of a place where an object was seen, and the stored name. None if that directory is gone, or the
    /// kernel forgot it: an object with several links is known by the others still.
    pub(super) fn reach(&self, location: &Location) -> Result<Option<(Arc<Dir>, EncodedName)>> {
        let parent = match self.dir(location.parent) {
            Err(Error::Sys(Errno::STALE | Errno::NOTDIR)) => return Ok(None),
            other => other?,
        };
        let name = parent.encode(&location.name)?;
        Ok(Some((parent, name)))
    }

    /// Calls `act` with an open parent and the stored name, for each place where `ino` was seen, until one
    /// still leads to it.
    ///
    /// # Errors
    /// ESTALE if none does.
    pub(super) fn at_location<T>(
        &self,
        ino: Ino,
        mut act: impl FnMut(&Arc<Dir>, &EncodedName, &Stat) -> Result<T>,
    ) -> Result<T> {
        for location in self.inodes.locations(ino) {
            let Some((parent, name)) = self.reach(&location)? else { continue };
            match sys::stat::at(parent.fd(), stored(&name)) {
                Ok(stat) if self.ino_of(&stat)? == ino => return act(&parent, &name, &stat),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Sys(Errno::STALE))
    }
}
