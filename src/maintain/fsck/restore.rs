//! Envelopes from mirrors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fsck;
use super::backing::Backing;
use super::objects::{Closed, Object, Unlocked, fits_attributes};
use super::records::Samples;
use super::report::Problem;
use super::walk::{Below, Dir};
use crate::content::{Content, ContentKey, Durability, Error, read_mirror};
use crate::crypto::{DataKey, derive};
use crate::envelope::{Envelope, EnvelopeStore, Kind, MirrorRecord, Object as Stored, Place, StoreError};

/// What a restored envelope is told as.
const RESTORED: &str = "an envelope was made from the mirror";
/// The same for one that was replaced: the mirror proves nothing about the place.
const REBOUND: &str = "a new envelope binds what is there now to this place";
const NO_MIRROR: &str = "and no mirror that opens";
const FRESH: &str = "it is empty, so it got a fresh key";
const FRESH_LOST: &str = "it got a fresh key; what is in it goes to lost+found, without its names";

impl Fsck<'_> {
    /// Whether an envelope that did not open may be made anew.
    fn may_restore(&self, closed: &Closed, bad_name: bool) -> bool {
        use Problem::{EnvelopeKind, EnvelopeMalformed, EnvelopeMissing, EnvelopeMoved, KeyUnknown};
        let lost =
            matches!(closed.problem, EnvelopeMissing | EnvelopeMalformed | EnvelopeKind | EnvelopeMoved | KeyUnknown);
        let consented = closed.problem == EnvelopeMissing || self.options.accept_moved;
        lost && ((self.options.restore_keys && consented) || (self.options.repair && bad_name))
    }

    fn told(closed: &Closed) -> &'static str {
        if closed.problem == Problem::EnvelopeMissing { RESTORED } else { REBOUND }
    }

    fn give_up(&self, object: &Object<'_>, closed: &Closed) {
        match closed.problem {
            Problem::StoreFailed => self.report(Problem::StoreFailed, &object.node, &closed.detail),
            problem => self.report(problem, &object.node, &closed.detail),
        }
    }

    /// The key of a file whose envelope did not open, from the mirror in it. What cannot be restored is told.
    pub(super) fn restore_file(
        &self,
        object: &Object<'_>,
        backing: &Arc<Backing>,
        closed: Closed,
        bad_name: bool,
    ) -> Option<Unlocked> {
        let hint = |hint: &str| if closed.detail.is_empty() { hint.to_owned() } else { closed.detail.clone() };
        let mirror = match read_mirror(&**backing) {
            Ok(mirror) => mirror,
            Err(error) => {
                self.store_failed(&object.node, &error);
                return None;
            }
        };
        if !self.may_restore(&closed, bad_name) {
            let detail = if mirror.is_none() { hint("and no mirror") } else { closed.detail.clone() };
            self.report(closed.problem, &object.node, &detail);
            return None;
        }
        // It may have a name in another directory as well; of sidecars, each name has its own.
        let is_shared = object.stat.nlink > 1 && self.site.envelopes.sidecars().is_none();
        let place = if is_shared { Place::Linked } else { object.place };
        let sealer = self.site.sealer();
        let restored = match mirror {
            Some(mirror) => sealer.restore(&mirror, Kind::FileGcm, place).map_err(|_| NO_MIRROR),
            None => self.key_without_mirror(object, backing.0.as_fd(), &closed, place),
        };
        let (key, envelope) = match restored {
            Ok(restored) => restored,
            Err(why) => {
                self.report(closed.problem, &object.node, &hint(why));
                return None;
            }
        };
        let again = sealer.unlock(&envelope, object.place).ok()?;
        if envelope.kind() == Kind::FileGcm
            && let Some(detail) = fits(backing, key)
        {
            self.report(closed.problem, &object.node, &detail);
            return None;
        }
        let fd = backing.0.as_fd();
        match self.put_envelope(object, fd, &closed, &envelope) {
            Ok(()) => Some(Unlocked { key: again, envelope, moving: None }),
            // Another of its names came first.
            Err(StoreError::Exists | StoreError::Changed) => self.unlock(object, fd, Kind::FileGcm).ok(),
            Err(StoreError::Io(_)) => None,
        }
    }

    /// The key of an XTS file whose envelope did not open. Nothing in it shows whose key fits, so what keys.log says of its
    /// place is believed. An envelope of another place came with the file, or was put there: it counts only where keys.log
    /// does not contradict, because a wrong key would turn the content into noise, and the right one would be gone.
    fn key_without_mirror(
        &self,
        object: &Object<'_>,
        fd: BorrowedFd<'_>,
        closed: &Closed,
        place: Place,
    ) -> Result<(DataKey, Envelope), &'static str> {
        let record = object.place_id().filter(|_| self.is_declared(Kind::FileXts)).and_then(|id| self.records.of(&id));
        let sealer = self.site.sealer();
        let recorded = record.and_then(|record| sealer.restore(&record.mirror, Kind::FileXts, place).ok());
        let stored = closed.stored.as_deref().filter(|_| closed.problem == Problem::EnvelopeMoved);
        let moved = stored.and_then(|stored| Envelope::parse(stored).ok());
        let found = match moved.filter(|moved| moved.kind() == Kind::FileXts && self.is_declared(Kind::FileXts)) {
            None => recorded.ok_or(NO_MIRROR)?,
            Some(moved) => {
                let from_there = |id: &[u8; 16]| {
                    let key = sealer.unlock(&moved, Place::In(*id)).ok()?;
                    Some((key, sealer.bound(&moved, Place::In(*id), place).ok()?))
                };
                let followed = self.records.directories().find_map(from_there);
                match (followed, recorded) {
                    (Some(followed), None) => followed,
                    (Some(followed), Some((key, _))) if followed.0 == key => followed,
                    (None, _) => return Err("and it is of no directory of keys.log"),
                    (Some(_), Some(_)) => {
                        return Err("keys.log has another key for this place, and nothing shows whose it is");
                    }
                }
            }
        };
        if fits_attributes(fd, &found.0) { Ok(found) } else { Err("and the mirror opens none of its attributes") }
    }

    /// The key of a directory whose envelope did not open: the one of keys.log under which its names authenticate, or a
    /// fresh one if it has none. What cannot be restored is told.
    pub(super) fn restore_directory(
        &self,
        object: &Object<'_>,
        fd: &OwnedFd,
        closed: Closed,
        bad_name: bool,
    ) -> Option<Unlocked> {
        if !self.may_restore(&closed, bad_name) {
            self.give_up(object, &closed);
            return None;
        }
        let samples = match Samples::of(fd, self.site) {
            Ok(samples) => samples,
            Err(error) => {
                self.unreadable(&object.node, error);
                return None;
            }
        };
        let parent = match object.place {
            Place::In(id) => Some(id),
            Place::Linked => None,
        };
        let sealer = self.site.sealer();
        if let Some(record) = self.records.owner(sealer, self.site.encoding, &samples, parent.as_ref()) {
            let (key, envelope) = sealer.restore(&record.mirror, Kind::Directory, object.place).ok()?;
            if !self.is_declared(envelope.kind()) {
                self.report(Problem::XtsUndeclared, &object.node, envelope.kind().name());
                return None;
            }
            let stored = self.put_envelope(object, fd.as_fd(), &closed, &envelope);
            return stored.is_ok().then_some(Unlocked { key, envelope, moving: None });
        }
        // A malformed or foreign envelope may still be of use elsewhere; only where there is none is nothing lost.
        let is_missing = closed.problem == Problem::EnvelopeMissing;
        let told = match (samples.is_empty, self.options.repair) {
            (true, _) if is_missing => FRESH,
            (false, true) if is_missing => FRESH_LOST,
            _ => {
                let detail = format!("{}; its names tell no key of keys.log", closed.problem.facts().1);
                self.report(Problem::KeyLost, &object.node, &detail);
                return None;
            }
        };
        self.fresh_key(object, fd.as_fd(), told)
    }

    /// For a directory whose key opens none of its names: the record of another key that does. Its envelope is another
    /// directory's then.
    pub(super) fn other_owner(&self, dir: &Dir) -> Option<&MirrorRecord> {
        if self.records.is_new(&dir.id) {
            return None;
        }
        let samples = Samples::of(&dir.fd, self.site).ok()?;
        let sealer = self.site.sealer();
        self.records.owner(sealer, self.site.encoding, &samples, None).filter(|record| record.directory != dir.id)
    }

    /// Tells that a directory has the envelope of another one; with the user's consent it gets its own again, under which
    /// it is to be walked.
    pub(super) fn exchange_key(&self, dir: &Dir, record: &MirrorRecord) -> Option<Below> {
        let detail = "it is that of another directory: the names in this one have another key";
        if !(self.options.restore_keys && self.options.accept_moved) {
            self.unseen.store(true, Ordering::Relaxed);
            self.report(Problem::EnvelopeMoved, &dir.node, detail);
            return None;
        }
        let (key, envelope) = self.site.sealer().restore(&record.mirror, Kind::Directory, dir.own_place).ok()?;
        if !self.is_declared(envelope.kind()) {
            self.report(Problem::XtsUndeclared, &dir.node, envelope.kind().name());
            return None;
        }
        let suite = envelope.kind().suite();
        let done = self.mend(&dir.node, REBOUND.to_owned(), || {
            let object = Stored::Directory(dir.fd.as_fd());
            let old = self.site.envelopes.load(object)?;
            let own = (dir.fd.as_fd(), &b"."[..]);
            self.site.store(own, object, old.as_deref(), &envelope.encode()).map_err(io_error)
        });
        self.mended(Problem::EnvelopeMoved, &dir.node, detail, done?);
        Some(Below { node: dir.node.clone(), key, cmk: dir.cmk.clone(), suite, place: dir.own_place })
    }

    fn fresh_key(&self, object: &Object<'_>, fd: BorrowedFd<'_>, told: &str) -> Option<Unlocked> {
        let made = self.new_directory_key(object, fd, told);
        match made {
            Ok((unlocked, Some(done))) => {
                self.mended(Problem::EnvelopeMissing, &object.node, "", done);
                Some(unlocked)
            }
            Ok((_, None)) => None,
            Err(error) => {
                self.report(Problem::KeyRefused, &object.node, &error.to_string());
                None
            }
        }
    }

    fn new_directory_key(
        &self,
        object: &Object<'_>,
        fd: BorrowedFd<'_>,
        told: &str,
    ) -> Result<(Unlocked, Option<String>), crate::envelope::EnvelopeError> {
        let sealer = self.site.sealer();
        let (key, envelope) = sealer.create(object.cmk, Kind::directory(object.suite), object.place)?;
        let mirror = sealer.mirror(&envelope, object.place)?;
        self.records.note_new(derive::directory_id(&key));
        let done = self.mend(&object.node, told.to_owned(), || {
            self.append_record(&derive::directory_id(&key), &mirror)?;
            self.store_envelope(object, fd, None, &envelope).map_err(io_error)
        });
        Ok((Unlocked { key, envelope, moving: None }, done))
    }

    /// Appends to keys.log.
    pub(super) fn append_record(&self, id: &[u8; 16], mirror: &[u8]) -> io::Result<()> {
        let log = self.log.as_ref().ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        log.append(id, mirror).map_err(|error| match error {
            crate::envelope::VolumeError::Io { source, .. } => source,
            other => io::Error::other(other),
        })
    }

    /// Stores a restored envelope and tells so. An error of the store is told as well.
    fn put_envelope(
        &self,
        object: &Object<'_>,
        fd: BorrowedFd<'_>,
        closed: &Closed,
        envelope: &Envelope,
    ) -> Result<(), StoreError> {
        let mut refused = None;
        let done = self.mend(&object.node, Self::told(closed).to_owned(), || {
            match self.store_envelope(object, fd, closed.stored.as_deref(), envelope) {
                Err(StoreError::Io(error)) => Err(error),
                Err(other) => {
                    refused = Some(other);
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        });
        match (refused, done) {
            (Some(refused), _) => Err(refused),
            (None, Some(done)) => {
                self.mended(closed.problem, &object.node, &closed.detail, done);
                Ok(())
            }
            (None, None) => Err(StoreError::Io(io::ErrorKind::Other.into())),
        }
    }

    /// Stores an envelope in the place of `old`.
    pub(super) fn store_envelope(
        &self,
        object: &Object<'_>,
        fd: BorrowedFd<'_>,
        old: Option<&[u8]>,
        new: &Envelope,
    ) -> Result<(), StoreError> {
        self.site.store((object.parent, object.name()), object.stored(fd), old, &new.encode())
    }

    /// Makes a MOVING envelope plain: of what is stored, only the part stays that opened here.
    pub(super) fn finish_move(&self, object: &Object<'_>, fd: BorrowedFd<'_>, moving: Option<&[u8]>, alone: &Envelope) {
        let Some(stored) = moving else { return };
        let store = || self.store_envelope(object, fd, Some(stored), alone).map_err(io_error);
        let done =
            self.options.repair.then(|| self.mend(&object.node, "it is bound to this place alone".to_owned(), store));
        match done.flatten() {
            Some(done) => self.mended(Problem::EnvelopeMoving, &object.node, "", done),
            None => self.report(Problem::EnvelopeMoving, &object.node, ""),
        }
    }

    /// Whether keys.log has the mirror of a key, of a directory or of an XTS file, under `id`; a repair appends it.
    pub(super) fn check_record(&self, object: &Object<'_>, key: &DataKey, envelope: &Envelope, id: &[u8; 16]) {
        let sealer = self.site.sealer();
        let problem = match self.records.of(id) {
            // Made in this run, or by another thread of it.
            None if self.records.is_new(id) => return,
            None => Problem::RecordMissing,
            Some(record) => match sealer.mirrored(&record.mirror, envelope.kind()) {
                // An interrupted set-suite leaves a record of the other kind, which a restore would take.
                Ok(mirrored) if mirrored == *key && kind_of(record) == Some(envelope.kind()) => return,
                Ok(mirrored) if mirrored != *key && envelope.kind() == Kind::FileXts => Problem::RecordOther,
                _ => Problem::RecordWrong,
            },
        };
        // Which of two keys is the file's, only the user can tell: what is appended is what a restore takes.
        let is_plain = problem != Problem::RecordOther || self.options.accept_moved;
        let done = (self.options.repair && is_plain).then(|| {
            let mirror = sealer.mirror(envelope, object.place).ok()?;
            self.mend(&object.node, "it was appended".to_owned(), || self.append_record(id, &mirror))
        });
        match done.flatten() {
            Some(done) => self.mended(problem, &object.node, "", done),
            None => self.report(problem, &object.node, ""),
        }
    }
}

pub(super) fn io_error(error: StoreError) -> io::Error {
    match error {
        StoreError::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn kind_of(record: &MirrorRecord) -> Option<Kind> {
    Envelope::parse(&record.mirror).ok().map(|mirror| mirror.kind())
}

/// Why a file is not sealed under the key that its mirror gave; `None` if it is.
fn fits(backing: &Arc<Backing>, key: DataKey) -> Option<String> {
    let opened = Content::open(backing.clone(), ContentKey { key, mirror: None }, Durability::Fast);
    match opened {
        // What else is wrong with it is told when it is read.
        Ok(_) | Err(Error::Truncated { .. }) => None,
        Err(error) => Some(format!("and the mirror is of no use: {error}")),
    }
}
