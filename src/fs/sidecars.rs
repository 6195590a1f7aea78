//! Sidecars follow the names: what is done for them before and after a name is made, moved or removed
//! (docs/format.md section 4). Without sidecars nothing here does anything.
//!
//! Invariants:
//! - a name that leads to a file with content has, at every moment, a sidecar that opens it;
//! - a file with several names has a sidecar, and one key, under each of them;
//! - a sidecar that a crash left is never taken for that of a new file;
//! - names change only under `places`, locked for writing.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;

use super::dirs::{Dir, stored};
use super::error::{Error, Result};
use super::open_file::{OpenFile, require_file};
use super::places::Held;
use super::{EncryptedFs, Ino};
use crate::content;
use crate::crypto::DataKey;
use crate::envelope::{Entry, Envelope, EnvelopeStore, Kind, Object, Place, SidecarStore};
use crate::fs::backing::Backing;
use crate::kms::Requester;
use crate::names::Xattrs;
use crate::sys::dir::Access;
use crate::sys::xattr::Target;
use crate::sys::{self, Errno, FileKind};

/// What a rename does to the sidecar of one name. The file that comes there opens by `new`.
pub(super) struct Move {
    new: Option<Envelope>,
    /// Opens the file that is there before.
    old: Option<Envelope>,
}

/// What a sidecar gave.
pub(super) struct SidecarKey {
    pub(super) key: DataKey,
    pub(super) envelope: Envelope,
    /// Where it was found; `None` for a file that has no name any more.
    pub(super) home: Option<Arc<Dir>>,
}

/// A name in an open directory.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) dir: &'a Dir,
    pub(super) name: &'a [u8],
    /// The regular file that is there.
    pub(super) file: Option<Ino>,
}

impl<'a> Spot<'a> {
    fn entry(&self) -> Entry<'a> {
        Entry { dir: self.dir.fd(), name: self.name }
    }
}

impl EncryptedFs {
    /// Held while a name is made, changed or removed.
    pub(super) fn names_lock(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.envelopes.sidecars().map(|_| self.places.hold_all())
    }

    /// Held while a name is made in `dir`: nobody shreds that meanwhile.
    ///
    /// # Errors
    /// Those of a directory that was shredded just now: it has no key any more.
    pub(super) fn making_lock(&self, dir: &Dir) -> Result<(Option<RwLockWriteGuard<'_, ()>>, Option<Held<'_>>)> {
        let all = self.names_lock();
        let one = all.is_none().then(|| self.places.hold(dir.ino));
        self.dir(dir.ino)?;
        Ok((all, one))
    }

    /// Runs `act`, which makes or removes a sidecar in `dir`, although the directory may be closed to its owner.
    fn in_dir<T>(&self, dir: &Dir, act: impl Fn() -> Result<T>) -> Result<T> {
        self.relaxed(dir.fd(), b".", 0o300, act)
    }

    /// Before a regular file is made: a sidecar that a crash left beside the name belongs to another one.
    pub(super) fn clear_stale(&self, dir: &Dir, name: &[u8]) -> Result<()> {
        let Some(sidecars) = self.envelopes.sidecars() else { return Ok(()) };
        let at = Entry { dir: dir.fd(), name };
        if sidecars.get(at)?.is_some() && sys::stat::at(dir.fd(), name).is_err_and(|error| error == Errno::NOENT) {
            sidecars.remove(at)?;
        }
        Ok(())
    }

    /// After a name is gone. A stale sidecar does no harm, so failure is none.
    pub(super) fn drop_sidecar(&self, dir: &Dir, name: &[u8]) {
        if let Some(sidecars) = self.envelopes.sidecars() {
            let _ = self.in_dir(dir, || Ok(sidecars.remove(Entry { dir: dir.fd(), name })?));
        }
    }

    /// Stores the first envelope of an open file beside its name. `places` must be held. That of a file without a name
    /// is kept in memory: nobody finds the file after a crash.
    pub(super) fn store_sidecar(&self, file: &OpenFile, envelope: &Envelope) -> Result<()> {
        let bytes = envelope.encode();
        let fd = file.backing.fd();
        let made = self.at_location(file.ino, |parent, name, _| {
            let object = Object::file(fd.as_fd(), parent.fd(), stored(name));
            self.in_dir(parent, || Ok(self.envelopes.create(object, &bytes)?))
        });
        match made {
            Err(Error::Sys(Errno::STALE)) => {
                let place = file.home().map_or(Place::Linked, |home| home.place());
                *file.orphan.lock() = Some((envelope.clone(), place));
                Ok(())
            }
            made => made,
        }
    }

    /// Makes the sidecar of an open file durable, once for each time it is opened.
    pub(super) fn sync_sidecar(&self, file: &OpenFile) -> Result<()> {
        if self.envelopes.sidecars().is_none() || file.sidecar_synced.load(Ordering::Acquire) {
            return Ok(());
        }
        let _places = self.places.hold(file.ino);
        let fd = file.backing.fd();
        let synced = self.at_location(file.ino, |parent, name, _| {
            Ok(self.envelopes.sync(Object::file(fd.as_fd(), parent.fd(), stored(name)))?)
        });
        match synced {
            Err(Error::Sys(Errno::STALE)) => Ok(()),
            Ok(()) => {
                // A first write, which needs a sidecar, may still come.
                file.sidecar_synced.store(file.content().is_some(), Ordering::Release);
                Ok(())
            }
            other => other,
        }
    }

    /// The key of an open file and its envelope, and the directory that this is bound to, out of the sidecar of one of its
    /// names. `places` must be held.
    ///
    /// A sidecar that opens two files is settled on the way: this is the one that is here.
    pub(super) fn sidecar_key(
        &self,
        requester: Requester<'_>,
        file: &OpenFile,
        sidecars: &SidecarStore,
    ) -> Result<Option<SidecarKey>> {
        let found = self.at_location(file.ino, |parent, name, _| {
            Ok((parent.clone(), name.clone(), sidecars.get(Entry { dir: parent.fd(), name: stored(name) })?))
        });
        let (parent, name, bytes) = match found {
            Err(Error::Sys(Errno::STALE)) => return self.orphan_key(requester, file),
            found => found?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let envelope = Envelope::parse(&bytes)?;
        require_file(&envelope)?;
        let fits = |key: &DataKey| is_key_of(&file.backing, key);
        let (key, alone) = self.sealer(requester).unlock_fitting(&envelope, parent.place(), fits)?;
        if envelope.is_moving() && !self.config.read_only {
            let fd = file.backing.fd();
            let object = Object::file(fd.as_fd(), parent.fd(), stored(&name));
            let settled = self.in_dir(&parent, || Ok(sidecars.replace(object, &bytes, &alone.encode())?));
            if let Err(error) = settled {
                log::warn!("{}: its sidecar still opens another file, too: {error}", self.inodes.path(file.ino));
            }
        }
        Ok(Some(SidecarKey { key, envelope: alone, home: Some(parent) }))
    }

    /// The key of an open file that has no name any more.
    fn orphan_key(&self, requester: Requester<'_>, file: &OpenFile) -> Result<Option<SidecarKey>> {
        let orphan = file.orphan.lock();
        let Some((envelope, place)) = &*orphan else { return Ok(None) };
        let fits = |key: &DataKey| is_key_of(&file.backing, key);
        let (key, envelope) = self.sealer(requester).unlock_fitting(envelope, *place, fits)?;
        Ok(Some(SidecarKey { key, envelope, home: None }))
    }

    /// Before the file at `spot` may lose its last name: whoever has it open keeps its envelope.
    pub(super) fn keep_envelope(&self, spot: Spot<'_>) -> Result<()> {
        let (Some(sidecars), Some(ino)) = (self.envelopes.sidecars(), spot.file) else { return Ok(()) };
        if let Some(file) = self.files.peek(ino)
            && let Some(bytes) = sidecars.get(spot.entry())?
        {
            let envelope = Envelope::parse(&bytes).ok();
            *file.orphan.lock() = envelope.map(|envelope| (envelope, spot.dir.place()));
        }
        Ok(())
    }

    /// The envelope of the file at `spot`, for that file alone.
    fn envelope_at(&self, sidecars: &SidecarStore, spot: Spot<'_>) -> Result<Option<Envelope>> {
        let Some(bytes) = sidecars.get(spot.entry())?.filter(|_| spot.file.is_some()) else { return Ok(None) };
        let envelope = Envelope::parse(&bytes)?;
        require_file(&envelope)?;
        if !envelope.is_moving() {
            return Ok(Some(envelope));
        }
        let open = || Ok(sys::dir::open(spot.dir.fd(), spot.name, Access::Read)?);
        let backing = Backing::new(self.relaxed(spot.dir.fd(), spot.name, 0o400, open)?, false);
        let fits = |key: &DataKey| is_key_of(&backing, key);
        Ok(Some(self.own_sealer().unlock_fitting(&envelope, spot.dir.place(), fits)?.1))
    }

    /// The same, bound to `place`. A file that has none yet is given a key if `insist`.
    fn envelope_for(&self, spot: Spot<'_>, place: Place, insist: bool) -> Result<Option<Envelope>> {
        let (Some(sidecars), Some(ino)) = (self.envelopes.sidecars(), spot.file) else { return Ok(None) };
        let found = match self.envelope_at(sidecars, spot)? {
            None if insist => {
                let (_, envelope) = self.own_sealer().create(&spot.dir.cmk(), Kind::FileGcm, spot.dir.place())?;
                self.in_dir(spot.dir, || Ok(sidecars.put(spot.entry(), &envelope.encode())?))?;
                if let Some(file) = self.files.peek(ino) {
                    // What was prepared for the first write is void.
                    *file.reserved.lock() = None;
                }
                Some(envelope)
            }
            found => found,
        };
        let bound = |envelope: Envelope| self.own_sealer().bound(&envelope, spot.dir.place(), place);
        Ok(found.map(bound).transpose()?)
    }

    /// Before a further name is made: its sidecar, and that of the name which `from` is.
    pub(super) fn put_link(&self, from: Spot<'_>, to: Spot<'_>) -> Result<()> {
        let Some(sidecars) = self.envelopes.sidecars() else { return Ok(()) };
        if sys::stat::at(to.dir.fd(), to.name).is_ok() {
            return Err(Errno::EXIST.into());
        }
        if let Some(envelope) = self.envelope_for(from, to.dir.place(), true)? {
            sidecars.put(to.entry(), &envelope.encode())?;
        }
        Ok(())
    }

    /// What must be done for the name `to` when what is at `from` is renamed to it. Nothing is changed there yet.
    pub(super) fn plan_move(&self, from: Spot<'_>, to: Spot<'_>) -> Result<Move> {
        let old = match self.envelope_for(to, to.dir.place(), false) {
            // What does not open is not lost by being replaced.
            Err(error) if error.is_alarming() => None,
            old => old?,
        };
        // An empty file without a key must not open by the key of the one that it replaces.
        let new = self.envelope_for(from, to.dir.place(), old.is_some())?;
        Ok(Move { new, old })
    }

    /// Before the rename: the sidecar of `to` opens the file that is there, and the one that will be.
    pub(super) fn announce(&self, to: Spot<'_>, planned: &Move) -> Result<()> {
        let (Some(sidecars), Some(new)) = (self.envelopes.sidecars(), &planned.new) else { return Ok(()) };
        let both = planned.old.as_ref().map(|old| new.or(old)).transpose()?;
        Ok(sidecars.put(to.entry(), &both.as_ref().unwrap_or(new).encode())?)
    }

    /// After the rename, successful or not: the sidecar of `to` opens only the file that is there. If that fails, the
    /// next who opens the file settles it.
    pub(super) fn settle_move(&self, to: Spot<'_>, planned: &Move, renamed: bool) {
        let Some(sidecars) = self.envelopes.sidecars() else { return };
        let (here, gone) = if renamed { (&planned.new, &planned.old) } else { (&planned.old, &planned.new) };
        let settled = match (here, gone) {
            (Some(envelope), Some(_)) => sidecars.put(to.entry(), &envelope.encode()),
            (None, _) if renamed || planned.new.is_some() => sidecars.remove(to.entry()).map(drop),
            _ => Ok(()),
        };
        if let Err(error) = settled {
            log::warn!("{}: a sidecar is out of date: {error}", self.inodes.path(to.dir.ino));
        }
    }

    /// The sealer of the attributes of a regular file, by its sidecar; `None` if it has none.
    pub(super) fn sidecar_xattrs(
        &self,
        requester: Requester<'_>,
        ino: Ino,
        sidecars: &SidecarStore,
    ) -> Result<Option<Xattrs>> {
        let _places = self.places.hold(ino);
        if let Some(file) = self.files.peek(ino) {
            let known = file.envelope.lock().clone();
            if let Some(envelope) = known {
                let place = self.place_of(&file)?;
                return Ok(Some(Xattrs::new(&self.sealer(requester).unlock(&envelope, place)?)));
            }
            return Ok(self.sidecar_key(requester, &file, sidecars)?.map(|found| Xattrs::new(&found.key)));
        }
        self.at_location(ino, |parent, name, stat| {
            let file = (stat.kind == FileKind::File).then_some(ino);
            let Some(envelope) = self.envelope_at(sidecars, Spot { dir: parent, name: stored(name), file })? else {
                return Ok(None);
            };
            Ok(Some(Xattrs::new(&self.sealer(requester).unlock(&envelope, parent.place())?)))
        })
    }

    /// After the rename: whoever has the file open shows its new envelope to the KMS from now on.
    pub(super) fn follow_move(&self, ino: Ino, to: &Arc<Dir>, planned: &Move) {
        let Some(file) = self.files.peek(ino) else { return };
        if file.home().is_some_and(|home| home.ino == to.ino) {
            return;
        }
        file.set_home(Some(to.clone()));
        if let Some(envelope) = &planned.new {
            file.set_envelope(envelope.clone());
        }
    }
}

/// Whether `key` is that of the content of a file or, if it is empty, of its attributes. Any key can be that of a file
/// that has neither.
pub fn is_key_of(backing: &Backing, key: &DataKey) -> bool {
    if let Ok(Some(is_key)) = content::is_sealed_under(backing, key) {
        return is_key;
    }
    let names = sys::xattr::list(Target::Open(backing.fd().as_fd())).unwrap_or_default();
    let mut sealed = names.iter().filter(|name| crate::names::is_hidden_xattr(name)).peekable();
    let xattrs = Xattrs::new(key);
    sealed.peek().is_none() || sealed.any(|name| xattrs.decode_name(name).is_some())
}
