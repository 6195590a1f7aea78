//! lost+found: where a repair puts what has no name that a mount would show.
//!
//! The stored bytes stay as they are. What is there can be read if its key was found, and its name says where it was.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fsck;
use super::objects::{Object, Unlocked};
use super::report::Problem;
use super::restore::io_error;
use super::walk::{Below, Dir, Node};
use crate::crypto::{Suite, derive, random};
use crate::envelope::{Entry, Envelope, EnvelopeError, Kind, Place};
use crate::kms::KeyId;
use crate::names::{DirNames, NAME_MAX, NEW_DIRECTORY};
use crate::sys::dir::{Access, RenameFlags};
use crate::sys::{self, Errno, FileKind};

const LOST: &str = "lost+found";
/// Names that are tried before giving up.
const MAX_TRIES: u32 = 10_000;

/// An object under a name that is not shown.
pub(super) struct Stray {
    node: Arc<Node>,
    parent: Arc<Node>,
    /// What its envelope is bound to.
    place: Place,
    cmk: KeyId,
    suite: Suite,
    problem: Problem,
    detail: &'static str,
}

impl Stray {
    pub(super) fn new(dir: &Dir, object: &Object<'_>, problem: Problem, detail: &'static str) -> Self {
        let (node, parent) = (object.node.clone(), dir.node.clone());
        Self { node, parent, place: dir.place(), cmk: dir.cmk.clone(), suite: dir.suite, problem, detail }
    }
}

/// The root directory, as far as lost+found needs it.
pub(super) struct Root {
    id: [u8; 16],
    names: DirNames,
    cmk: KeyId,
    suite: Suite,
}

/// lost+found, open.
struct Lost {
    fd: OwnedFd,
    plain: String,
    id: [u8; 16],
    place: Place,
    names: DirNames,
}

/// How an envelope follows its object.
enum Bound {
    /// It opens there as it is, or nowhere.
    Free,
    /// It is MOVING now; the plain one for afterwards.
    Moving(OwnedFd, Envelope, Envelope),
    /// The sidecar for the new name.
    Beside(Envelope),
}

impl Fsck<'_> {
    /// Keeps what lost+found will need of the root.
    pub(super) fn keep_root(&self, root: &Below) {
        let names = DirNames::new(&root.key, self.site.encoding);
        let kept = Root { id: derive::directory_id(&root.key), names, cmk: root.cmk.clone(), suite: root.suite };
        // A run has one root.
        let _ = self.root.set(kept);
    }

    /// Moves what was found under names that are not shown; what lies deepest first, because paths change.
    pub(super) fn move_strays(&self) {
        let mut strays = std::mem::take(&mut *self.strays.lock());
        if strays.is_empty() {
            return;
        }
        strays.sort_by_key(|stray| std::cmp::Reverse(stray.node.depth));
        let lost = match if self.options.dry_run { Ok(None) } else { self.lost_and_found().map(Some) } {
            Ok(lost) => lost,
            Err(error) => return self.fail(&format!("make {LOST}"), error),
        };
        for stray in strays {
            if self.stop.load(Ordering::Relaxed) {
                return self.report(stray.problem, &stray.node, stray.detail);
            }
            let moved = match &lost {
                None => Some(format!("it was moved to /{LOST}")),
                Some(lost) => self.rescue(lost, &stray).map_err(|error| self.store_failed(&stray.node, &error)).ok(),
            };
            match moved {
                Some(done) => self.mended(stray.problem, &stray.node, stray.detail, done),
                None => self.report(stray.problem, &stray.node, stray.detail),
            }
        }
    }

    /// Moves one object, its envelope with it.
    fn rescue(&self, lost: &Lost, stray: &Stray) -> io::Result<String> {
        let parent = stray.parent.open(self.site.root_fd.as_fd())?;
        let stat = sys::stat::at(&parent, &stray.node.stored)?;
        let (node, place) = (stray.node.clone(), stray.place);
        let object = Object { node, parent: parent.as_fd(), place, stat, cmk: &stray.cmk, suite: stray.suite };
        self.changed.store(true, Ordering::Relaxed);
        let (bound, mirror) = self.announce(&object, lost)?;
        let base = name_of(&stray.parent.path(), &stray.node.stored);
        for number in 0..MAX_TRIES {
            let plain = numbered(&base, number);
            let name = lost.names.encode(plain.as_bytes()).map_err(io::Error::other)?;
            if sys::stat::at(&lost.fd, name.stored().as_bytes()).is_ok() {
                continue;
            }
            self.site.make_side(lost.fd.as_fd(), &name)?;
            if let Some(mirror) = &mirror {
                self.append_record(&derive::place_id(&lost.id, name.stored().as_bytes()), mirror)?;
            }
            self.carry(&object, lost, name.stored().as_bytes(), &bound)?;
            return Ok(format!("it was moved to /{}/{}", lost.plain, crate::names::shown(plain.as_bytes())));
        }
        Err(Errno::EXIST.into())
    }

    /// Renames an object, and lets its envelope follow. Nobody else makes names here: the volume is locked.
    fn carry(&self, object: &Object<'_>, lost: &Lost, to: &[u8], bound: &Bound) -> io::Result<()> {
        let there = Entry { dir: lost.fd.as_fd(), name: to };
        if let (Bound::Beside(envelope), Some(sidecars)) = (bound, self.site.envelopes.sidecars()) {
            sidecars.put(there, &envelope.encode())?;
        }
        sys::dir::rename(object.parent, object.name(), there.dir, to, RenameFlags::empty())?;
        match (bound, self.site.envelopes.sidecars()) {
            (Bound::Moving(fd, moving, last), _) => {
                let node = Node::below(&object.node, to, None);
                let moved = Object { node, parent: there.dir, place: lost.place, ..*object };
                self.store_envelope(&moved, fd.as_fd(), Some(&moving.encode()), last).map_err(io_error)
            }
            (Bound::Beside(_), Some(sidecars)) => {
                sidecars.remove(Entry { dir: object.parent, name: object.name() }).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Makes the envelope good in lost+found, too. What has none that opens is moved as it is. With the mirror for the
    /// place there of an XTS file.
    fn announce(&self, object: &Object<'_>, lost: &Lost) -> io::Result<(Bound, Option<Vec<u8>>)> {
        let open = || match object.stat.kind {
            FileKind::Directory => sys::dir::open_dir(object.parent, object.name(), Access::Read),
            _ => sys::dir::open(object.parent, object.name(), Access::Read),
        };
        let kind = match object.stat.kind {
            FileKind::File => Kind::FileGcm,
            FileKind::Directory => Kind::Directory,
            _ => return Ok((Bound::Free, None)),
        };
        let fd = self.site.relaxed(object.parent, object.name(), 0o500, open)?;
        let Ok(Unlocked { key, envelope, moving }) = self.unlock(object, fd.as_fd(), kind) else {
            return Ok((Bound::Free, None));
        };
        let is_xts = envelope.kind() == Kind::FileXts;
        let mirror = is_xts.then(|| self.site.sealer().mirror(&envelope, object.place).map_err(refused)).transpose()?;
        Ok((self.bind(object, fd, Unlocked { key, envelope, moving }, lost)?, mirror))
    }

    /// The same for what was unlocked.
    fn bind(&self, object: &Object<'_>, fd: OwnedFd, unlocked: Unlocked, lost: &Lost) -> io::Result<Bound> {
        let Unlocked { envelope, moving, .. } = unlocked;
        let (sealer, is_file) = (self.site.sealer(), object.stat.kind == FileKind::File);
        if is_file && self.site.envelopes.sidecars().is_some() {
            return Ok(Bound::Beside(sealer.bound(&envelope, object.place, lost.place).map_err(refused)?));
        }
        if envelope.is_linked() {
            return Ok(Bound::Free);
        }
        let stored = moving.unwrap_or_else(|| envelope.encode());
        let store = |new: &Envelope| self.store_envelope(object, fd.as_fd(), Some(&stored), new).map_err(io_error);
        if is_file && object.stat.nlink > 1 {
            store(&sealer.linked(&envelope, object.place).map_err(refused)?)?;
            return Ok(Bound::Free);
        }
        let (moving, last) = sealer.moving(&envelope, object.place, lost.place).map_err(refused)?;
        store(&moving)?;
        Ok(Bound::Moving(fd, moving, last))
    }

    /// Opens lost+found in the root of the volume, or makes it.
    fn lost_and_found(&self) -> io::Result<Lost> {
        let root = self.root.get().ok_or(Errno::NOENT)?;
        let root_fd = self.site.root_fd.as_fd();
        for number in 0..MAX_TRIES {
            let plain = if number == 0 { LOST.to_owned() } else { format!("{LOST}.{number}") };
            let name = root.names.encode(plain.as_bytes()).map_err(io::Error::other)?;
            let stored = name.stored().as_bytes();
            let node = Node::below(&Node::root(), stored, Some(plain.as_bytes()));
            let stat = match sys::stat::at(root_fd, stored) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return self.make_lost(root, stored, plain),
                Err(error) => return Err(error.into()),
            };
            if stat.kind != FileKind::Directory {
                continue;
            }
            let fd = sys::dir::open_dir(root_fd, stored, Access::Read)?;
            let place = Place::In(root.id);
            let object = Object { node, parent: root_fd, place, stat, cmk: &root.cmk, suite: root.suite };
            if let Ok(Unlocked { key, .. }) = self.unlock(&object, fd.as_fd(), Kind::Directory) {
                return Ok(self.lost(fd, plain, &key));
            }
        }
        Err(Errno::EXIST.into())
    }

    /// As mkdir does: beside its place first, so that it never stands there without an envelope.
    fn make_lost(&self, root: &Root, stored: &[u8], plain: String) -> io::Result<Lost> {
        let root_fd = self.site.root_fd.as_fd();
        let temporary = format!("{NEW_DIRECTORY}{:016x}", u64::from_le_bytes(random::array()));
        sys::dir::make_dir(root_fd, temporary.as_bytes(), 0o700)?;
        let fd = sys::dir::open_dir(root_fd, temporary.as_bytes(), Access::Read)?;
        self.site.give_to_owner(root_fd, temporary.as_bytes());
        let node = Node::below(&Node::root(), temporary.as_bytes(), None);
        let stat = sys::stat::of_fd(&fd)?;
        let place = Place::In(root.id);
        let object = Object { node, parent: root_fd, place, stat, cmk: &root.cmk, suite: root.suite };
        let sealer = self.site.sealer();
        let (key, envelope) = sealer.create(object.cmk, Kind::directory(root.suite), object.place).map_err(refused)?;
        let mirror = sealer.mirror(&envelope, object.place).map_err(refused)?;
        self.append_record(&derive::directory_id(&key), &mirror)?;
        self.store_envelope(&object, fd.as_fd(), None, &envelope).map_err(io_error)?;
        sys::dir::rename(root_fd, temporary.as_bytes(), root_fd, stored, RenameFlags::empty())?;
        Ok(self.lost(fd, plain, &key))
    }

    fn lost(&self, fd: OwnedFd, plain: String, key: &crate::crypto::DataKey) -> Lost {
        let id = derive::directory_id(key);
        Lost { fd, plain, id, place: Place::In(id), names: DirNames::new(key, self.site.encoding) }
    }
}

fn refused(error: EnvelopeError) -> io::Error {
    io::Error::other(error)
}

/// A name that says where an object was: the directories above it, and its stored name.
fn name_of(parent: &str, stored: &[u8]) -> String {
    let parent = parent.trim_matches('/').replace('/', ":");
    let stored = crate::names::shown(stored).replace('/', ":");
    if parent.is_empty() { stored } else { format!("{parent}:{stored}") }
}

/// The same with a number, if there is one already; of what is too long, the end.
fn numbered(base: &str, number: u32) -> String {
    let prefix = if number == 0 { String::new() } else { format!("{number}:") };
    let mut from = base.len().saturating_sub(NAME_MAX - prefix.len());
    while !base.is_char_boundary(from) {
        from += 1;
    }
    let name = format!("{prefix}{}", &base[from..]);
    if matches!(name.as_str(), "." | ".." | "") { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_things_were_and_always_fit() {
        assert_eq!(name_of("/", b"Xy"), "Xy");
        assert_eq!(name_of("/a/b", b"Xy"), "a:b:Xy");
        assert_eq!(numbered("a:b:Xy", 0), "a:b:Xy");
        assert_eq!(numbered("a:b:Xy", 3), "3:a:b:Xy");
        for len in [254, 255, 256, 300] {
            for number in [0, 7, 9999] {
                let name = numbered(&"\u{e4}".repeat(len), number);
                assert!((1..=NAME_MAX).contains(&name.len()));
                assert!(number == 0 || name.starts_with(&format!("{number}:")));
            }
        }
        assert_eq!(numbered("..", 0), "_..");
    }
}
