//! One object: its envelope, and what its key opens.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fsck;
use super::backing::Backing;
use super::report::{Problem, add};
use super::site::{Denied, Site};
use super::walk::{Below, Dir, Node};
use crate::content::is_sealed_under;
use crate::crypto::{DataKey, Suite, derive};
use crate::envelope::{ATTRIBUTE, Envelope, EnvelopeError, EnvelopeStore, Kind, Object as Stored, Place};
use crate::kms::{InvalidCiphertext, KeyId, KmsError};
use crate::names::{Symlinks, Xattrs};
use crate::sys::dir::Access;
use crate::sys::xattr::{self, Target};
use crate::sys::{self, Errno, FileKind, Stat};

/// An entry of a directory, or the root.
pub(super) struct Object<'a> {
    pub(super) node: Arc<Node>,
    /// The directory it is in.
    pub(super) parent: BorrowedFd<'a>,
    /// What its envelope is bound to.
    pub(super) place: Place,
    pub(super) stat: Stat,
    /// The CMK for a new key.
    pub(super) cmk: &'a KeyId,
    /// The suite that it gives on if it gets a new key.
    pub(super) suite: Suite,
}

impl<'a> Object<'a> {
    /// The root directory.
    pub(super) fn root(site: &'a Site<'_>, stat: Stat) -> Self {
        let (parent, suite) = (site.root_fd.as_fd(), site.header.suite());
        Self { node: Node::root(), parent, place: Place::ROOT, stat, cmk: &site.key, suite }
    }

    /// An entry of `dir`.
    pub(super) fn entry(dir: &'a Dir, stored: &[u8], plain: Option<&[u8]>, stat: Stat) -> Self {
        let node = Node::below(&dir.node, stored, plain);
        Self { node, parent: dir.fd.as_fd(), place: dir.place(), stat, cmk: &dir.cmk, suite: dir.suite }
    }

    /// As the placement of envelopes wants to be told of it.
    pub(super) fn stored<'b>(&'b self, fd: BorrowedFd<'b>) -> Stored<'b> {
        match self.stat.kind {
            FileKind::Directory => Stored::Directory(fd),
            _ => Stored::file(fd, self.parent, self.name()),
        }
    }

    /// The id of the place where it is, under which `keys.log` has the key of an XTS file.
    pub(super) fn place_id(&self) -> Option<[u8; 16]> {
        match self.place {
            Place::In(directory) => Some(derive::place_id(&directory, self.name())),
            Place::Linked => None,
        }
    }

    /// The name to reach it by.
    pub(super) fn name(&self) -> &[u8] {
        if self.node.stored.is_empty() { b"." } else { &self.node.stored }
    }
}

/// An envelope that opened.
pub(super) struct Unlocked {
    pub(super) key: DataKey,
    /// The envelope; of a MOVING one, the part that is of this object and this place.
    pub(super) envelope: Envelope,
    /// What is stored, if it is MOVING.
    pub(super) moving: Option<Vec<u8>>,
}

/// Why an envelope did not open.
pub(super) struct Closed {
    pub(super) problem: Problem,
    pub(super) detail: String,
    /// What is stored.
    pub(super) stored: Option<Vec<u8>>,
}

impl Closed {
    pub(super) fn new(problem: Problem, detail: impl ToString, stored: Option<Vec<u8>>) -> Self {
        Self { problem, detail: detail.to_string(), stored }
    }

    fn of_kms(error: &KmsError, stored: Vec<u8>) -> Self {
        let (problem, detail) = match error {
            KmsError::InvalidCiphertext(InvalidCiphertext::WrongContext) => (Problem::EnvelopeMoved, String::new()),
            KmsError::InvalidCiphertext(InvalidCiphertext::Malformed) => (Problem::EnvelopeMalformed, String::new()),
            KmsError::InvalidCiphertext(reason) => (Problem::KeyUnknown, reason.to_string()),
            refused => (Problem::KeyRefused, refused.to_string()),
        };
        Self::new(problem, detail, Some(stored))
    }
}

impl Fsck<'_> {
    /// Unlocks the envelope of an open object, which must be of this kind.
    pub(super) fn unlock(&self, object: &Object<'_>, fd: BorrowedFd<'_>, kind: Kind) -> Result<Unlocked, Closed> {
        let site = self.site;
        let load = || site.envelopes.load(object.stored(fd));
        let loaded = site.relaxed(object.parent, object.name(), 0o400, load);
        let stored = match loaded {
            Ok(Some(stored)) => stored,
            Ok(None) => return Err(Closed::new(Problem::EnvelopeMissing, "", None)),
            Err(error) if error.is_denied() => return Err(Closed::new(Problem::NotReadable, "", None)),
            Err(error) => return Err(Closed::new(Problem::StoreFailed, error, None)),
        };
        let Ok(envelope) = Envelope::parse(&stored) else {
            return Err(Closed::new(Problem::EnvelopeMalformed, "", Some(stored)));
        };
        if envelope.kind().is_directory() != kind.is_directory() {
            let detail = format!("it says {}", envelope.kind().name());
            return Err(Closed::new(Problem::EnvelopeKind, detail, Some(stored)));
        }
        let fits = |key: &DataKey| is_key_of(object, fd, envelope.kind(), key);
        match site.sealer().unlock_fitting(&envelope, object.place, fits) {
            Ok(_) if !self.is_declared(envelope.kind()) => {
                Err(Closed::new(Problem::XtsUndeclared, envelope.kind().name(), Some(stored)))
            }
            Ok((key, alone)) => {
                if let Ok(origin) = site.kms.origin(&alone.blob().0) {
                    self.keys.lock().insert(origin.key);
                }
                Ok(Unlocked { key, envelope: alone, moving: envelope.is_moving().then_some(stored) })
            }
            Err(EnvelopeError::Kms(error)) => Err(Closed::of_kms(&error, stored)),
            Err(_) => Err(Closed::new(Problem::EnvelopeMalformed, "", Some(stored))),
        }
    }

    /// Whether the header says that there may be objects of this kind: whoever does not know of XTS would tell wrong sizes.
    pub(super) fn is_declared(&self, kind: Kind) -> bool {
        kind.suite() == Suite::Gcm4k || self.site.header.has_xts()
    }

    /// Tells that an object cannot be read.
    pub(super) fn unreadable(&self, node: &Node, error: Errno) {
        match error {
            // Gone since it was listed: a read-only mount of a tree that others change.
            Errno::NOENT => {}
            error if error.is_denied() => self.report(Problem::NotReadable, node, ""),
            error => self.report(Problem::StoreFailed, node, &error.to_string()),
        }
    }

    /// A directory; what is returned is to be walked.
    pub(super) fn directory(&self, object: &Object<'_>, bad_name: bool) -> Option<Below> {
        let open = || sys::dir::open_dir(object.parent, object.name(), Access::Read);
        let fd = match self.site.relaxed(object.parent, object.name(), 0o500, open) {
            Ok(fd) => fd,
            Err(error) => {
                self.unseen.store(true, Ordering::Relaxed);
                self.unreadable(&object.node, error);
                return None;
            }
        };
        let unlocked = match self.unlock(object, fd.as_fd(), Kind::Directory) {
            Ok(unlocked) => Some(unlocked),
            Err(closed) => self.restore_directory(object, &fd, closed, bad_name),
        };
        let Some(Unlocked { key, envelope, moving }) = unlocked else {
            self.unseen.store(true, Ordering::Relaxed);
            return None;
        };
        add(&self.counts.directories, 1);
        self.records.claim(&derive::directory_id(&key));
        self.check_record(object, &key, &envelope, &derive::directory_id(&key));
        self.finish_move(object, fd.as_fd(), moving.as_deref(), &envelope);
        self.xattrs(object, fd.as_fd(), Some(&key));
        let cmk = self.site.kms.origin(&envelope.blob().0).map_or_else(|_| object.cmk.clone(), |origin| origin.key);
        Some(Below { node: object.node.clone(), key, cmk, suite: envelope.kind().suite(), place: object.place })
    }

    /// A regular file.
    pub(super) fn file(&self, object: &Object<'_>, bad_name: bool) {
        add(&self.counts.files, 1);
        let open = || sys::dir::open(object.parent, object.name(), Access::Read);
        let backing = match self.site.relaxed(object.parent, object.name(), 0o400, open) {
            Ok(fd) => Arc::new(Backing(fd)),
            Err(error) => return self.unreadable(&object.node, error),
        };
        let unlocked = match self.unlock(object, backing.0.as_fd(), Kind::FileGcm) {
            Ok(Unlocked { key, envelope, moving })
                if envelope.kind() == Kind::FileGcm && self.is_other_content(&backing, &key) =>
            {
                let stored = moving.unwrap_or_else(|| envelope.encode());
                let detail = "it opens, but the content has another key: one of them is another file's";
                let closed = Closed::new(Problem::EnvelopeMoved, detail, Some(stored));
                self.restore_file(object, &backing, closed, bad_name)
            }
            Ok(unlocked) => Some(unlocked),
            Err(Closed { problem: Problem::EnvelopeMissing, .. }) if object.stat.size == 0 => {
                return self.xattrs(object, backing.0.as_fd(), None);
            }
            Err(closed) => self.restore_file(object, &backing, closed, bad_name),
        };
        let Some(unlocked) = unlocked else { return };
        self.finish_move(object, backing.0.as_fd(), unlocked.moving.as_deref(), &unlocked.envelope);
        // A record for a name that is not shown restores nothing; what is empty needs none.
        let needs_record = unlocked.envelope.kind() == Kind::FileXts && !bad_name && object.stat.size > 0;
        if let Some(id) = object.place_id().filter(|_| needs_record) {
            self.check_record(object, &unlocked.key, &unlocked.envelope, &id);
        }
        // What several names lead to is looked at once; that it opens under each was seen above.
        if object.stat.nlink > 1 && !self.seen.lock().insert(object.stat.ino) {
            return;
        }
        self.xattrs(object, backing.0.as_fd(), Some(&unlocked.key));
        if object.stat.size > 0 {
            self.content(object, backing, unlocked);
        }
    }

    /// A symlink. Whether its target opened.
    pub(super) fn symlink(&self, object: &Object<'_>) -> bool {
        add(&self.counts.symlinks, 1);
        let text = match sys::dir::read_link(object.parent, object.name()) {
            Ok(text) => text,
            Err(error) => {
                self.unreadable(&object.node, error);
                return false;
            }
        };
        let Some((home, len)) = Symlinks::parse_long(&text) else {
            let opens = self.site.symlinks.open_short(&text).is_ok();
            if !opens {
                self.report(Problem::SymlinkForged, &object.node, "");
            }
            return opens;
        };
        let opened = self.read_home(&home).map(|bytes| self.site.symlinks.open_long(&bytes, len).is_ok());
        match opened {
            Ok(true) => {}
            Ok(false) => self.report(Problem::SymlinkForged, &object.node, &format!(".kmsfs/links/{home}")),
            Err(Errno::NOENT) => self.report(Problem::HomeMissing, &object.node, &format!(".kmsfs/links/{home}")),
            Err(error) => self.unreadable(&object.node, error),
        }
        self.homes.lock().insert(home);
        opened == Ok(true)
    }

    /// The extended attributes of a file or directory, under its key.
    fn xattrs(&self, object: &Object<'_>, fd: BorrowedFd<'_>, key: Option<&DataKey>) {
        let target = Target::Open(fd);
        let listed = self.site.relaxed(object.parent, object.name(), 0o400, || xattr::list(target));
        let names = match listed {
            Ok(names) => names,
            Err(error) if xattr::is_unsupported(&error) => return,
            Err(error) => return self.unreadable(&object.node, sys::errno_of(&error)),
        };
        let mut sealer = None;
        for name in names.iter().filter(|name| name.starts_with(b"user.") && *name != b"user.kmsf") {
            let shown = crate::names::shown(name);
            if !crate::names::is_hidden_xattr(name) {
                self.report(Problem::XattrForeign, &object.node, &shown);
                continue;
            }
            let Some(key) = key else {
                self.report(Problem::XattrForged, &object.node, &format!("{shown}; there is no envelope for it"));
                continue;
            };
            let sealer = sealer.get_or_insert_with(|| Xattrs::new(key));
            let value = self.site.relaxed(object.parent, object.name(), 0o400, || xattr::get(target, name));
            let opens = match (sealer.decode_name(name), value) {
                (Some(plain), Ok(Some(value))) => sealer.open_value(&plain, &value).is_ok(),
                // Removed since it was listed.
                (Some(_), Ok(None)) => true,
                _ => false,
            };
            if !opens {
                self.report(Problem::XattrForged, &object.node, &shown);
            }
        }
    }
}

/// Whether `key` is that of an open object: a sidecar may hold that of another one, too. Any key can be that of a file
/// that has neither attributes nor content that tells.
fn is_key_of(object: &Object<'_>, fd: BorrowedFd<'_>, kind: Kind, key: &DataKey) -> bool {
    if object.stat.kind != FileKind::File {
        return true;
    }
    if kind == Kind::FileXts {
        return fits_attributes(fd, key);
    }
    let sealed = fd.try_clone_to_owned().map(Backing).and_then(|backing| is_sealed_under(&backing, key));
    if let Ok(Some(is_key)) = sealed {
        return is_key;
    }
    fits_attributes(fd, key)
}

/// Whether `key` opens the name of an attribute of an open object, or it has none.
pub(super) fn fits_attributes(fd: BorrowedFd<'_>, key: &DataKey) -> bool {
    let names = xattr::list(Target::Open(fd)).unwrap_or_default();
    let is_sealed = |name: &[u8]| crate::names::is_hidden_xattr(name) && name != ATTRIBUTE.as_bytes();
    let mut sealed = names.iter().filter(|name| is_sealed(name)).peekable();
    let xattrs = Xattrs::new(key);
    sealed.peek().is_none() || sealed.any(|name| xattrs.decode_name(name).is_some())
}
