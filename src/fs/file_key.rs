//! Data keys of files: asked for when a file is made or opened, and stored before its first byte.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::dirs::{Dir, stored};
use super::error::{Error, Result};
use super::io::OpenMode;
use super::open_file::{OpenFile, require_file};
use super::slot::ContentGuard;
use super::{EncryptedFs, Ino};
use crate::content::{BackingFile, ContentKey, FileContent};
use crate::crypto::{DataKey, Suite};
use crate::envelope::{Envelope, EnvelopeError, EnvelopeStore, Kind, Object, Place};
use crate::kms::{Action, Caller, KeyId, Requester};
use crate::sys::{self, Errno};

/// A data key, its envelope, and whether that is on the backing file already.
pub(super) struct NewKey {
    pub(super) key: DataKey,
    pub(super) envelope: Envelope,
    pub(super) is_stored: bool,
}

/// What a file without a key would be given one under, and bound to.
pub(super) struct Birth {
    pub(super) key: KeyId,
    pub(super) kind: Kind,
    pub(super) place: Place,
    /// The directory; `None` if it is bound to none.
    home: Option<Arc<Dir>>,
}

impl EncryptedFs {
    /// The key for a file that is about to be made in `parent`.
    pub(super) fn key_for(&self, requester: Requester<'_>, parent: &Dir) -> Result<NewKey> {
        let (key, envelope) =
            self.sealer(requester).create(&parent.cmk(), Kind::file(parent.suite()), parent.place())?;
        Ok(NewKey { key, envelope, is_stored: false })
    }

    /// The content of `file`, which is given a key if it has none yet.
    ///
    /// Its envelope is on the backing file before the first byte is.
    pub(super) fn content_for_writing<'f>(&self, file: &'f OpenFile) -> Result<ContentGuard<'f>> {
        if let Some(content) = self.content_of(file)? {
            return Ok(content);
        }
        let _held = self.places.hold(file.ino);
        let mut envelope = file.envelope.lock();
        if let Some(content) = file.content() {
            return Ok(content);
        }
        let (key, suite) = self.file_key(file, &mut envelope)?;
        let content = FileContent::create(suite, file.backing.clone(), key, self.config.durability)?;
        file.content.fill(content);
        // Nothing, if its CMK was disabled just now and the file was shut at once.
        Ok(file.content().ok_or(Errno::ACCESS)?)
    }

    fn file_key(&self, file: &OpenFile, slot: &mut Option<Envelope>) -> Result<(ContentKey, Suite)> {
        let (key, envelope) = self.owner_key(file)?;
        if envelope.kind() == Kind::FileXts {
            self.log_first_place(file, &envelope)?;
            *slot = Some(envelope);
            return Ok((ContentKey { key, mirror: None }, Suite::Xts4k));
        }
        let place = if envelope.is_linked() { Place::Linked } else { self.place_of(file)? };
        let mirror = match self.own_sealer().mirror(&envelope, place) {
            Ok(mirror) => mirror.try_into().ok(),
            // The key was given at open, and what was written since must not be lost. `light` makes up for it.
            Err(EnvelopeError::Kms(error)) if error.is_refusal() => None,
            Err(error) => return Err(error.into()),
        };
        *slot = Some(envelope);
        Ok((ContentKey { key, mirror }, Suite::Gcm4k))
    }

    /// The data key of an open file, stored now if it is new. `places` must be held.
    pub(super) fn owner_key(&self, file: &OpenFile) -> Result<(DataKey, Envelope)> {
        let reserved = file.reserved.lock().take();
        let new = match reserved {
            Some(new) if new.is_stored || self.is_fresh(file, &new.envelope)? => new,
            _ => self.new_key(Requester::Own, file)?,
        };
        let NewKey { key, envelope, is_stored } = new;
        if is_stored {
            return Ok((key, envelope));
        }
        let store = || {
            if self.envelopes.sidecars().is_some() {
                return self.store_sidecar(file, &envelope);
            }
            let create =
                |fd: BorrowedFd<'_>| Ok(self.envelopes.create(Object::File { fd, at: None }, &envelope.encode())?);
            file.backing.past_flags(create, |error| matches!(error, Error::Sys(Errno::PERM)))
        };
        match self.with_space(store) {
            Err(Error::Sys(Errno::ACCESS)) => {
                self.at_location(file.ino, |parent, name, _| self.relaxed(parent.fd(), stored(name), 0o200, store))?
            }
            // An attribute was set meanwhile, and with it came a key.
            Err(Error::Sys(Errno::AGAIN)) => {
                let NewKey { key, envelope, .. } = self.new_key(Requester::Own, file)?;
                return Ok((key, envelope));
            }
            other => other?,
        }
        Ok((key, envelope))
    }

    /// Whether a key that was asked for at open is what would be given now: its CMK may have been rotated, or another
    /// one have been set for the directory, and who rewrapped the tree since found no envelope here.
    fn is_fresh(&self, file: &OpenFile, envelope: &Envelope) -> Result<bool> {
        // What the directory gives on now: the one that the file was opened in may have left the cache and come back.
        let home = file.home().map(|home| self.dir(home.ino).unwrap_or(home));
        let cmk = match home {
            // Another suite may have been set for the directory, too.
            Some(home) if envelope.kind() != Kind::file(home.suite()) => return Ok(false),
            Some(home) => home.cmk(),
            None => self.origin_of(envelope)?.key,
        };
        Ok(self.kms.is_current(&envelope.blob().0, &cmk).map_err(EnvelopeError::Kms)?)
    }

    /// A key for a file without content: the one it has already, from an attribute or from content that was cut
    /// away, or a fresh one under the CMK of its directory (of the root, if it has no name left). A file with several
    /// links is bound to no directory. `places` must be held.
    pub(super) fn new_key(&self, requester: Requester<'_>, file: &OpenFile) -> Result<NewKey> {
        if let Some((key, envelope)) = self.stored_key(requester, file)? {
            return Ok(NewKey { key, envelope, is_stored: true });
        }
        let Birth { key, kind, place, home } = self.birth_of(file)?;
        *file.home.lock() = home;
        let (key, envelope) = self.sealer(requester).create(&key, kind, place)?;
        Ok(NewKey { key, envelope, is_stored: false })
    }

    pub(super) fn birth_of(&self, file: &OpenFile) -> Result<Birth> {
        // Not where it was opened: of its names, another one may be left.
        let found = self.at_location(file.ino, |parent, _, stat| Ok((parent.clone(), stat.nlink)));
        let (home, giver) = match found {
            Ok((parent, 1)) => (Some(parent.clone()), parent),
            Ok((parent, _)) => (None, parent),
            Err(Error::Sys(Errno::STALE)) => (None, self.dir(Ino::ROOT)?),
            Err(error) => return Err(error),
        };
        let place = home.as_ref().map_or(Place::Linked, |home| home.place());
        Ok(Birth { key: giver.cmk(), kind: Kind::file(giver.suite()), place, home })
    }

    /// The key for a file that is opened to be written and holds nothing, and what the user was let in for. Who may also read
    /// through the handle needs leave to read what others will write. `places` must be held.
    pub(super) fn key_at_open(
        &self,
        requester: Requester<'_>,
        file: &OpenFile,
        mode: OpenMode,
    ) -> Result<(NewKey, Action)> {
        let new = self.new_key(requester, file)?;
        if !new.is_stored && mode.write_only {
            return Ok((new, Action::GenerateDataKey));
        }
        if !new.is_stored {
            self.require_for_file(requester, Action::Decrypt, file)?;
        }
        Ok((new, Action::Decrypt))
    }

    /// The key that an open file has, and its envelope. `places` must be held.
    pub(super) fn stored_key(&self, requester: Requester<'_>, file: &OpenFile) -> Result<Option<(DataKey, Envelope)>> {
        if let Some(sidecars) = self.envelopes.sidecars() {
            let Some(found) = self.sidecar_key(requester, file, sidecars)? else { return Ok(None) };
            if let Some(home) = found.home {
                *file.home.lock() = Some(home);
            }
            return Ok(Some((found.key, found.envelope)));
        }
        let Some(stored) = self.load_envelope(file)? else { return Ok(None) };
        let envelope = Envelope::parse(&stored)?;
        require_file(&envelope)?;
        let place = self.place_of(file)?;
        let key = self.sealer(requester).unlock(&envelope, place)?;
        Ok(Some((key, envelope)))
    }

    fn load_envelope(&self, file: &OpenFile) -> Result<Option<Vec<u8>>> {
        let fd = file.backing.fd();
        let object = Object::File { fd: fd.as_fd(), at: None };
        match self.envelopes.load(object) {
            Err(error) if sys::errno_of(&error) == Errno::ACCESS => self.at_location(file.ino, |parent, name, _| {
                let load = || Ok(self.envelopes.load(object)?);
                self.relaxed(parent.fd(), stored(name), 0o400, load)
            }),
            other => Ok(other?),
        }
    }

    /// O_TRUNC of a file that nobody has open: what it held need not be readable, but its key must be given. One more
    /// user of the file, if it was cut, and what that user was let in for.
    pub(super) fn cut_unread(
        &self,
        caller: &Caller,
        ino: Ino,
        mode: OpenMode,
    ) -> Result<Option<(Arc<OpenFile>, Action)>> {
        if self.files.peek(ino).is_some() {
            return Ok(None);
        }
        let file = self.files.enter(self.open_backing(ino, true)?);
        let cut = self.cut_if_unread(caller, &file, mode);
        match cut {
            Ok(Some(action)) => {
                self.sizes.forget(ino);
                Ok(Some((file, action)))
            }
            other => {
                self.files.leave(ino);
                other.map(|_| None).map_err(|error| self.report(ino, error))
            }
        }
    }

    fn cut_if_unread(&self, caller: &Caller, file: &OpenFile, mode: OpenMode) -> Result<Option<Action>> {
        let _held = self.places.hold(file.ino);
        // Whoever opens it at the same time waits, and finds it empty.
        let _envelope = file.envelope.lock();
        if !file.content.is_unkeyed() || !file.backing.is_writable() {
            return Ok(None);
        }
        let path = || self.inodes.path(file.ino);
        let (key, action) = self.key_at_open(Requester::user(caller, &path), file, mode)?;
        file.backing.set_len(0)?;
        *file.reserved.lock() = Some(key);
        self.changed(caller, file)?;
        Ok(Some(action))
    }
}
