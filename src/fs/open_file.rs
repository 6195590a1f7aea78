//! Open files: one per inode, however many handles lead to it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::backing::Backing;
use super::dirs::{Dir, stored};
use super::error::{Error, Result};
use super::failures::Failures;
use super::file_key::NewKey;
use super::io::OpenMode;
use super::slot::{ContentGuard, Slot};
use super::{EncryptedFs, Ino};
use crate::content::{ContentKey, FileContent};
use crate::crypto::{DataKey, Suite};
use crate::envelope::{Envelope, EnvelopeError, Place, TailLog};
use crate::kms::{Action, Caller, Requester};
use crate::names::EncodedName;
use crate::sys::dir::Access;
use crate::sys::{self, Errno, Stat, Time};

/// A file that is open, or whose last writes are still being put in order.
pub struct OpenFile {
    /// Its inode.
    pub ino: Ino,
    /// Its backing file.
    pub backing: Arc<Backing>,
    /// Handles through which it may be written: the kernel may hold pages of it that it has not written yet.
    pub writers: AtomicUsize,
    /// Its content. An empty file has none until the first write gives it a key.
    pub(super) content: Slot,
    /// Its envelope, so that every further open is put before the KMS as the first was. Locked while it is made.
    pub(super) envelope: Mutex<Option<Envelope>>,
    /// The directory that its envelope is, or shall be, bound to: it stays that after the file was unlinked. None while
    /// it has names in several.
    pub(super) home: Mutex<Option<Arc<Dir>>>,
    /// The key for the first write, asked for when the file was opened: if the KMS refuses, the open fails and not a
    /// write that was already answered.
    pub(super) reserved: Mutex<Option<NewKey>>,
    /// Writing out what came before must not change it.
    mtime: Mutex<Mtime>,
    /// Whether the background thread looks after it.
    pub(super) queued: AtomicBool,
    /// What the background thread could not do.
    pub(super) failures: Failures,
    /// What its sidecar said when its last known name went, and where: it has no sidecar any more.
    pub(super) orphan: Mutex<Option<(Envelope, Place)>>,
    /// Whether its sidecar is surely on the disk.
    pub(super) sidecar_synced: AtomicBool,
    /// Whether its name is a long one: then syncing it must make the side symlink durable too.
    pub long_name: AtomicBool,
    /// Handles whose users have no leave any more.
    pub(super) without_leave: AtomicUsize,
}

/// What the modification time of an open file shall be.
#[derive(Debug, Clone, Copy)]
enum Mtime {
    /// What it was when the file was opened: to put in order what a crash left, be it found much later, is no change.
    Found(Time),
    /// What a caller set.
    Set(Time),
    /// What the backing file says.
    Changed,
}

impl OpenFile {
    pub(super) fn new(ino: Ino, fd: OwnedFd, writable: bool, tails: &Arc<TailLog>) -> Self {
        Self {
            ino,
            backing: Arc::new(Backing::new(fd, writable).with_tails(tails)),
            writers: AtomicUsize::new(0),
            content: Slot::default(),
            envelope: Mutex::new(None),
            home: Mutex::new(None),
            reserved: Mutex::new(None),
            mtime: Mutex::new(Mtime::Changed),
            queued: AtomicBool::new(false),
            failures: Failures::default(),
            orphan: Mutex::new(None),
            sidecar_synced: AtomicBool::new(false),
            long_name: AtomicBool::new(false),
            without_leave: AtomicUsize::new(0),
        }
    }

    /// Whether somebody has it open who may not use it any more.
    pub fn is_closed_to_some(&self) -> bool {
        self.without_leave.load(Ordering::Acquire) > 0
    }

    /// Whether somebody has it open for writing.
    pub(super) fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// The content, to be put in order: unless the file is empty and has no key yet, or its CMK refused. Users of the file
    /// get it from [`EncryptedFs::content_of`].
    pub fn content(&self) -> Option<ContentGuard<'_>> {
        self.content.get()
    }

    /// Attributes of the backing file.
    pub fn stat(&self) -> Result<Stat> {
        Ok(sys::stat::of_fd(&*self.backing.fd())?)
    }

    /// The file moved to `home`, or (`None`) has names in several directories: what was prepared for the old place is void.
    pub fn set_home(&self, home: Option<Arc<Dir>>) {
        *self.home.lock() = home;
        *self.reserved.lock() = None;
    }

    /// The directory that its envelope is, or shall be, bound to.
    pub fn home(&self) -> Option<Arc<Dir>> {
        self.home.lock().clone()
    }

    /// The stored envelope moved with the file, was wrapped anew, or is good in more directories now. A file that was cut
    /// to nothing has it in reserve.
    pub fn set_envelope(&self, envelope: Envelope) {
        let mut slot = self.envelope.lock();
        if slot.is_some() {
            *slot = Some(envelope);
        } else if let Some(new) = self.reserved.lock().as_mut().filter(|new| new.is_stored) {
            new.envelope = envelope;
        }
    }

    /// Writes out what is pending, without touching the modification time if that was set since.
    pub fn commit(&self) -> Result<()> {
        match self.content() {
            Some(content) if content.state().dirty && self.backing.is_writable() => {
                content.commit()?;
                self.restore_mtime()
            }
            _ => Ok(()),
        }
    }

    /// Makes everything durable: fdatasync, or fsync if `all`.
    pub fn sync(&self, all: bool) -> Result<()> {
        match self.content() {
            Some(content) if self.backing.is_writable() => {
                content.sync(all)?;
                self.restore_mtime()
            }
            _ => Ok(sys::file::sync_all(self.backing.fd().as_fd())?),
        }
    }

    /// Makes everything durable and drops what was kept for a crash.
    pub fn settle(&self) -> Result<()> {
        match self.content() {
            Some(content) if self.backing.is_writable() => {
                content.settle()?;
                self.restore_mtime()
            }
            _ => Ok(()),
        }
    }

    /// Makes everything durable and leaves nothing to be written later.
    pub fn finish(&self) -> Result<()> {
        self.sync(true)?;
        self.settle()
    }

    pub(super) fn restore_mtime(&self) -> Result<()> {
        let mtime = *self.mtime.lock();
        if let Mtime::Found(time) | Mtime::Set(time) = mtime
            && self.backing.was_touched()
        {
            let times = (sys::dir::SetTime::Keep, sys::dir::SetTime::At(time));
            super::attr::set_times(self.backing.fd().as_fd(), times)?;
        }
        Ok(())
    }

    /// The modification time that was set last, if content did not change since.
    pub fn pinned_mtime(&self) -> Option<Time> {
        match *self.mtime.lock() {
            Mtime::Set(time) => Some(time),
            Mtime::Found(_) | Mtime::Changed => None,
        }
    }

    /// The modification time was set to `time` (`None`: content changed after it was set).
    pub fn pin_mtime(&self, time: Option<Time>) {
        *self.mtime.lock() = time.map_or(Mtime::Changed, Mtime::Set);
    }
}

/// Which files are open. A file stays as long as it has users: handles, and the background thread.
#[derive(Default)]
pub struct OpenFiles {
    files: Mutex<HashMap<Ino, (Arc<OpenFile>, usize)>>,
}

impl OpenFiles {
    /// All of them.
    pub fn all(&self) -> Vec<Arc<OpenFile>> {
        self.files.lock().values().map(|(file, _)| file.clone()).collect()
    }

    /// The open file of `ino`, without becoming a user of it.
    pub fn peek(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        self.files.lock().get(&ino).map(|(file, _)| file.clone())
    }

    /// The open file of `ino`, with one more user.
    pub fn acquire(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        self.files.lock().get_mut(&ino).map(|(file, users)| {
            *users += 1;
            file.clone()
        })
    }

    /// One more user of `file`; false if it is not the open file of its inode any more.
    pub fn join(&self, file: &Arc<OpenFile>) -> bool {
        match self.files.lock().get_mut(&file.ino) {
            Some((open, users)) if Arc::ptr_eq(open, file) => {
                *users += 1;
                true
            }
            _ => false,
        }
    }

    /// Enters `file` with one user, unless another thread was first: then its file is the one.
    pub fn enter(&self, file: OpenFile) -> Arc<OpenFile> {
        let mut files = self.files.lock();
        let (file, users) = files.entry(file.ino).or_insert_with(|| (Arc::new(file), 0));
        *users += 1;
        file.clone()
    }

    /// One user less; the last one closes the file.
    pub fn leave(&self, ino: Ino) {
        let mut files = self.files.lock();
        if let Some((_, users)) = files.get_mut(&ino) {
            *users -= 1;
            if *users == 0 {
                files.remove(&ino);
            }
        }
    }
}

impl EncryptedFs {
    /// Opens `ino`, or joins those who have it open, as one more user; with what the user was let in for.
    pub(super) fn acquire_file(&self, caller: &Caller, ino: Ino, mode: OpenMode) -> Result<(Arc<OpenFile>, Action)> {
        let file = match self.files.acquire(ino) {
            Some(file) => file,
            None => self.files.enter(self.open_backing(ino, mode.write)?),
        };
        let path = || self.inodes.path(ino);
        let admitted = self.admit(Requester::user(caller, &path), &file, mode);
        let action = admitted.map_err(|error| {
            self.files.leave(ino);
            self.report(ino, error)
        })?;
        if file.backing.is_writable() && file.content().is_some_and(|content| content.state().unsettled) {
            // Opening it found what a crash left, or it is busy already.
            self.after_write(&file);
        }
        Ok((file, action))
    }

    /// What every open must pass, the first and all later ones: the KMS's word, and a descriptor with enough rights.
    fn admit(&self, requester: Requester<'_>, file: &OpenFile, mode: OpenMode) -> Result<Action> {
        if mode.write && !file.backing.is_writable() {
            file.backing.make_writable(self.reopen_writable(file)?);
        }
        let _held = self.places.hold(file.ino);
        let mut envelope = file.envelope.lock();
        if file.content.is_shut() {
            self.light(requester, file, &mut envelope)?;
            return Ok(Action::Decrypt);
        }
        if !file.content.is_unkeyed() {
            if let Some(envelope) = &*envelope {
                let place = self.place_of(file)?;
                self.sealer(requester).unlock(envelope, place)?;
            }
            return Ok(Action::Decrypt);
        }
        let backing_len = file.backing.current_len()?;
        if backing_len == 0 {
            return self.admit_to_empty(requester, file, mode);
        }
        let (key, loaded) = self.stored_key(requester, file)?.ok_or(EnvelopeError::NoEnvelope)?;
        let suite = loaded.kind().suite();
        self.check_suite(suite)?;
        let content = self.open_content(file, key, suite)?;
        if suite == Suite::Gcm4k {
            self.sizes.compare(file.ino, (backing_len, content.size()), || Ok(file.stat()?.btime))?;
        }
        *envelope = Some(loaded);
        file.content.fill(content);
        Ok(Action::Decrypt)
    }

    /// What others write into an empty file later can be read through this handle.
    fn admit_to_empty(&self, requester: Requester<'_>, file: &OpenFile, mode: OpenMode) -> Result<Action> {
        if !mode.write {
            self.require_for_file(requester, Action::Decrypt, file)?;
            return Ok(Action::Decrypt);
        }
        let (new, action) = self.key_at_open(requester, file, mode)?;
        *file.reserved.lock() = Some(new);
        Ok(action)
    }

    /// The content of a file that has a key.
    pub(super) fn open_content(
        &self,
        file: &OpenFile,
        key: DataKey,
        suite: Suite,
    ) -> Result<FileContent<Arc<Backing>>> {
        let key = ContentKey { key, mirror: None };
        Ok(FileContent::open(suite, file.backing.clone(), key, self.config.durability)?)
    }

    pub(super) fn open_backing(&self, ino: Ino, write: bool) -> Result<OpenFile> {
        for location in self.inodes.locations(ino) {
            let Some((parent, name)) = self.reach(&location)? else { continue };
            let opened = self.open_either(&parent, stored(&name), write);
            let (fd, writable) = match opened {
                // Another object has the name now, perhaps one that cannot be opened so.
                Err(_) if !self.leads_to(&parent, &name, ino) => continue,
                other => other?,
            };
            let stat = sys::stat::of_fd(&fd)?;
            if self.ino_of(&stat)? == ino {
                let file = OpenFile::new(ino, fd, writable, &self.tails);
                file.backing.found_len(stat.size);
                *file.mtime.lock() = Mtime::Found(stat.mtime);
                *file.home.lock() = Some(parent);
                file.long_name.store(is_long(&name), Ordering::Relaxed);
                return Ok(file);
            }
        }
        Err(Errno::STALE.into())
    }

    fn leads_to(&self, parent: &Dir, name: &EncodedName, ino: Ino) -> bool {
        self.stat_in(parent, name).is_ok_and(|stat| self.ino_of(&stat).is_ok_and(|found| found == ino))
    }

    /// For reading and writing if that is allowed: sealing needs to read, and a later handle may write.
    fn open_either(&self, parent: &Dir, name: &[u8], write: bool) -> Result<(OwnedFd, bool)> {
        let read_write = || Ok(sys::dir::open(parent.fd(), name, Access::ReadWrite)?);
        if write {
            return Ok((self.relaxed(parent.fd(), name, 0o600, read_write)?, true));
        }
        if !self.config.read_only
            && let Ok(fd) = read_write()
        {
            return Ok((fd, true));
        }
        let read = || Ok(sys::dir::open(parent.fd(), name, Access::Read)?);
        Ok((self.relaxed(parent.fd(), name, 0o400, read)?, false))
    }

    fn reopen_writable(&self, file: &OpenFile) -> Result<OwnedFd> {
        let through_proc = sys::dir::reopen(file.backing.fd().as_fd(), Access::ReadWrite);
        if let Ok(fd) = through_proc {
            return Ok(fd);
        }
        self.at_location(file.ino, |parent, name, _| {
            let open = || Ok(sys::dir::open(parent.fd(), stored(name), Access::ReadWrite)?);
            self.relaxed(parent.fd(), stored(name), 0o600, open)
        })
    }

    /// What the envelope of `file` is, or shall be, bound to: its directory. A file without a name is bound to none.
    pub(super) fn place_of(&self, file: &OpenFile) -> Result<Place> {
        if let Some(parent) = &*file.home.lock() {
            return Ok(parent.place());
        }
        match self.at_location(file.ino, |parent, _, _| Ok(parent.place())) {
            Err(Error::Sys(Errno::STALE)) => Ok(Place::Linked),
            other => other,
        }
    }

    /// The same for an object that need not be open.
    pub(super) fn place_by_name(&self, ino: Ino) -> Result<Place> {
        match self.files.peek(ino) {
            Some(file) => self.place_of(&file),
            None => self.at_location(ino, |parent, _, _| Ok(parent.place())),
        }
    }

    /// `ino`, which may be open, got this name.
    pub(super) fn note_long_name(&self, name: &EncodedName, ino: Ino) {
        if is_long(name)
            && let Some(file) = self.files.peek(ino)
        {
            file.long_name.store(true, Ordering::Relaxed);
        }
    }

    /// Enters a file that was just made, with one user.
    pub(super) fn adopt_file(
        &self,
        ino: Ino,
        fd: OwnedFd,
        (parent, key): (&Arc<Dir>, NewKey),
        long_name: bool,
    ) -> Arc<OpenFile> {
        let file = OpenFile::new(ino, fd, true, &self.tails);
        *file.home.lock() = Some(parent.clone());
        *file.reserved.lock() = Some(key);
        file.long_name.store(long_name, Ordering::Relaxed);
        self.files.enter(file)
    }
}

/// The kind of an envelope must be one of the object it lies on: an attacker can move attributes about.
pub fn require_file(envelope: &Envelope) -> Result<()> {
    if envelope.kind().is_directory() { Err(Error::Forged("the envelope")) } else { Ok(()) }
}

/// The same for a directory.
pub fn require_directory(envelope: &Envelope) -> Result<()> {
    if envelope.kind().is_directory() { Ok(()) } else { Err(Error::Forged("the envelope")) }
}

/// Whether a name is stored hashed.
pub fn is_long(name: &EncodedName) -> bool {
    matches!(name, crate::names::EncodedName::Long { .. })
}
