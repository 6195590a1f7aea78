//! Which suite files are under, and which one directories give on (docs/format.md sections 4 and 9).
//!
//! The plain size of a file follows from the length of its backing file, but each suite has its own rule. So in a volume
//! that may hold XTS files, the kind of a file's envelope is read when it is looked up first: one system call. Other
//! volumes pay nothing.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::dirs::{Dir, stored};
use super::error::{Error, Result};
use super::open_file::OpenFile;
use super::{EncryptedFs, Ino};
use crate::crypto::{Suite, derive};
use crate::envelope::{ATTRIBUTE, Envelope, EnvelopeError, EnvelopeStore, Kind, Object, Place};
use crate::names::EncodedName;
use crate::sys::{self, Errno, FileKind, Stat, Time};

/// The suites of files with content, for as long as the kernel knows them. A file keeps its suite.
#[derive(Default)]
pub struct Suites {
    /// Whether the volume may hold XTS files.
    mixed: AtomicBool,
    /// The birth of the file tells it from an earlier one of the same number.
    known: Mutex<HashMap<Ino, (Option<Time>, Suite)>>,
}

impl Suites {
    /// Those of a volume that has, or has not, the feature `xts`.
    pub fn new(mixed: bool) -> Self {
        Self { mixed: AtomicBool::new(mixed), known: Mutex::default() }
    }

    fn are_mixed(&self) -> bool {
        self.mixed.load(Ordering::Acquire)
    }

    fn get(&self, ino: Ino, stat: &Stat) -> Option<Suite> {
        let known = self.known.lock().get(&ino).copied();
        known.filter(|(born, _)| *born == stat.btime).map(|(_, suite)| suite)
    }

    /// The kernel does not know `ino` any more.
    pub fn forget(&self, ino: Ino) {
        if self.are_mixed() {
            self.known.lock().remove(&ino);
        }
    }
}

impl EncryptedFs {
    /// The suite of the regular file that `stat` describes, as far as that is known without a look at it.
    pub(super) fn known_suite(&self, ino: Ino, stat: &Stat) -> Suite {
        if self.suites.are_mixed() { self.suites.get(ino, stat).unwrap_or(Suite::Gcm4k) } else { Suite::Gcm4k }
    }

    /// Refuses XTS in a volume that says to have none: its sizes would be told wrong.
    pub(super) fn check_suite(&self, suite: Suite) -> Result<()> {
        let fits = suite == Suite::Gcm4k || self.suites.are_mixed();
        if fits { Ok(()) } else { Err(Error::Forged("the envelope")) }
    }

    /// Finds out the suite of what is stored as `name`. Of a file whose envelope is missing or damaged, which cannot be
    /// opened, it is that of its directory.
    pub(super) fn learn_suite(&self, parent: &Dir, name: &[u8], stat: &Stat) -> Result<()> {
        if !self.suites.are_mixed() || stat.kind != FileKind::File || stat.size == 0 {
            return Ok(());
        }
        let ino = self.ino_of(stat)?;
        if self.suites.get(ino, stat).is_some() {
            return Ok(());
        }
        let read = || sys::xattr::get_at(parent.fd(), name, ATTRIBUTE.as_bytes()).map_err(Error::from);
        let envelope = match self.relaxed(parent.fd(), name, 0o400, read) {
            Err(Error::Sys(Errno::ACCESS | Errno::PERM)) => None,
            other => other?,
        };
        let suite = envelope.and_then(|bytes| Envelope::parse(&bytes).ok()).map(|envelope| envelope.kind().suite());
        self.suites.known.lock().insert(ino, (stat.btime, suite.unwrap_or_else(|| parent.suite())));
        Ok(())
    }

    /// Makes `suite` the one of files and directories that are made in the directory `ino` from now on. What is in it
    /// keeps its own.
    ///
    /// # Errors
    /// ENOTDIR; EOPNOTSUPP for XTS in a volume whose envelopes lie in sidecars; what the KMS and the backing store say.
    pub fn set_suite(&self, ino: Ino, suite: Suite) -> Result<()> {
        self.writable()?;
        let dir = self.dir(ino)?;
        if suite == Suite::Xts4k && self.envelopes.sidecars().is_some() {
            return Err(Errno::OPNOTSUPP.into());
        }
        if suite == Suite::Xts4k && !self.suites.are_mixed() {
            // Before the first envelope says so: a reader that does not know of XTS would tell wrong sizes.
            self.declare_xts()?;
            self.suites.mixed.store(true, Ordering::Release);
        }
        let set = |place: Place| {
            let _held = self.places.hold(ino);
            let fd = sys::dir::reopen_dir(dir.fd())?;
            let object = Object::Directory(fd.as_fd());
            let old = self.envelopes.load(object)?.ok_or(EnvelopeError::NoEnvelope)?;
            let envelope = Envelope::parse(&old)?;
            let kind = Kind::directory(suite);
            if envelope.kind() == kind {
                return Ok(());
            }
            let new = self.own_sealer().with_kind(&envelope, place, kind)?;
            self.append_log(&dir.id, &self.own_sealer().mirror(&new, place)?)?;
            self.envelopes.replace(object, &old, &new.encode())?;
            Ok(sys::dir::sync(fd.as_fd())?)
        };
        if ino == Ino::ROOT {
            set(Place::ROOT)?;
        } else {
            self.at_location(ino, |parent, name, _| {
                self.relaxed(parent.fd(), stored(name), 0o700, || set(parent.place()))
            })?;
        }
        self.dirs.gives_on(ino, suite);
        Ok(())
    }

    /// A name leads to an XTS file now: the mirror of its key goes to `.kmsfs/keys.log`, under the id of that place. It is
    /// looked for there only when the envelope is lost, so a failure is told and is none.
    pub(super) fn log_place(&self, parent: &Dir, name: &EncodedName, ino: Ino) {
        if !self.suites.are_mixed() {
            return;
        }
        let logged = self.with_envelope((ino, FileKind::File), parent, stored(name), |_, bytes| {
            let envelope = Envelope::parse(&bytes)?;
            if envelope.kind() != Kind::FileXts {
                return Ok(());
            }
            self.append_place(&envelope, parent, stored(name))
        });
        if let Err(error) = logged {
            log::warn!("{}: the recovery copy of its key is not in keys.log: {error}", self.inodes.path(ino));
        }
    }

    /// The same for a file that is given its key. One without a name needs no recovery.
    pub(super) fn log_first_place(&self, file: &OpenFile, envelope: &Envelope) -> Result<()> {
        let logged = self.at_location(file.ino, |parent, name, _| self.append_place(envelope, parent, stored(name)));
        match logged {
            Err(Error::Sys(Errno::STALE)) => Ok(()),
            // The key was given at open, and what was written since must not be lost.
            Err(Error::Envelope(EnvelopeError::Kms(error))) if error.is_refusal() => {
                log::warn!("{}: the recovery copy of its key is not in keys.log: {error}", self.inodes.path(file.ino));
                Ok(())
            }
            other => other,
        }
    }

    pub(super) fn append_place(&self, envelope: &Envelope, parent: &Dir, name: &[u8]) -> Result<()> {
        let place = if envelope.is_linked() { Place::Linked } else { parent.place() };
        let mirror = self.own_sealer().mirror(envelope, place)?;
        self.append_log(&derive::place_id(&parent.id, name), &mirror)
    }
}
