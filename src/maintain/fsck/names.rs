//! The walk's visitor: the names in a directory, and what each leads to.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::Fsck;
use super::backing::Backing;
use super::lost::Stray;
use super::objects::Object;
use super::report::{Problem, add};
use super::walk::{Below, Dir, Node, Visitor};
use crate::content::read_mirror;
use crate::envelope::{ATTRIBUTE, DIRECTORY_SIDECAR, Entry, FILE_SIDECAR, KMSFS_DIR, sidecar_name};
use crate::names::{Decoded, NEW_DIRECTORY, SIDE, SealedName, is_internal};
use crate::sys::atomic::TEMPORARY_PREFIX;
use crate::sys::dir::Access;
use crate::sys::xattr::{self, Target};
use crate::sys::{self, Errno, FileKind};

/// What mkfs puts into the root of a filesystem.
const FSCK_FOLDER: &[u8] = b"lost+found";

impl Visitor for Fsck<'_> {
    fn enter(&self, dir: &Dir, names: &mut Vec<Box<[u8]>>) -> Option<Below> {
        let is_root = dir.node.depth == 0;
        let mut internal: Vec<Box<[u8]>> = Vec::new();
        names.retain(|name| {
            if is_internal(name) {
                internal.push(name.clone());
            }
            !(is_internal(name) || is_root && **name == *FSCK_FOLDER)
        });
        internal.retain(|name| !(is_root && **name == *KMSFS_DIR.as_bytes()));
        let fits = names.is_empty() || names.iter().any(|name| self.name_in(dir, name).is_ok());
        if !fits && let Some(record) = self.other_owner(dir) {
            names.clear();
            return self.exchange_key(dir, record);
        }
        if !internal.is_empty() {
            self.internal(dir, &internal, names);
        }
        None
    }

    fn visit(&self, dir: &Dir, name: &[u8]) -> Option<Below> {
        self.progress.object();
        let stat = match sys::stat::at(&dir.fd, name) {
            Ok(stat) => stat,
            Err(error) => {
                self.unreadable(&Node::below(&dir.node, name, None), error);
                return None;
            }
        };
        let (plain, bad) = match self.name_in(dir, name) {
            Ok(plain) => (Some(plain), None),
            Err(bad) => (None, Some(bad)),
        };
        let object = Object::entry(dir, name, plain.as_deref(), stat);
        if stat.dev != self.site.device {
            self.report(Problem::OtherFilesystem, &object.node, "");
            return None;
        }
        if let Some((problem, detail)) = bad {
            if !self.is_ours(dir, &object) {
                self.report(Problem::NameForeign, &object.node, "");
                return None;
            }
            let stray = Stray::new(dir, &object, problem, detail);
            if self.options.repair {
                self.strays.lock().push(stray);
            } else {
                self.report(problem, &object.node, detail);
            }
        }
        match stat.kind {
            FileKind::Directory => return self.directory(&object, bad.is_some()),
            FileKind::File => self.file(&object, bad.is_some()),
            FileKind::Symlink => drop(self.symlink(&object)),
            _ => add(&self.counts.special, 1),
        }
        None
    }

    fn failed(&self, node: &Node, error: Errno) {
        self.unseen.store(true, Ordering::Relaxed);
        self.unreadable(node, error);
    }
}

impl Fsck<'_> {
    /// Whether an object whose name is not shown was made by kmsfs: it has an envelope, a mirror, a record or a sealed target; or
    /// it could have none of these, and its name has the form of ours.
    fn is_ours(&self, dir: &Dir, object: &Object<'_>) -> bool {
        let sealed = SealedName::read(object.name(), self.site.encoding).is_some_and(|name| name.len() >= 32);
        let has_form = sealed || matches!(dir.names.decode(object.name()), Ok(Decoded::NeedsSide(_)));
        let has_envelope = || {
            if let Some(sidecars) = self.site.envelopes.sidecars() {
                let own = Entry { dir: object.parent, name: object.name() };
                let inside = || sys::dir::open_dir(object.parent, object.name(), Access::Read);
                return match object.stat.kind {
                    FileKind::Directory => {
                        inside().is_ok_and(|fd| sys::stat::at(&fd, DIRECTORY_SIDECAR.as_bytes()).is_ok())
                    }
                    _ => matches!(sidecars.get(own), Ok(Some(_))),
                };
            }
            let place = sys::dir::open(object.parent, object.name(), Access::Place);
            let load = |fd: &OwnedFd| xattr::get(Target::OPath(fd.as_fd()), ATTRIBUTE.as_bytes());
            place.is_ok_and(|fd| matches!(load(&fd), Ok(Some(_))))
        };
        let has_mirror = || {
            let open = sys::dir::open(object.parent, object.name(), Access::Read);
            open.is_ok_and(|fd| matches!(read_mirror(&Backing(fd)), Ok(Some(_))))
        };
        let has_record = || object.place_id().is_some_and(|id| self.records.of(&id).is_some());
        match object.stat.kind {
            FileKind::File if object.stat.size > 0 => has_envelope() || has_mirror() || has_record(),
            FileKind::File | FileKind::Directory => has_form || has_envelope(),
            FileKind::Symlink => {
                let text = sys::dir::read_link(object.parent, object.name()).unwrap_or_default();
                has_form || self.site.symlinks.open_short(&text).is_ok()
            }
            _ => has_form,
        }
    }

    /// Internal names in a directory that has these others.
    fn internal(&self, dir: &Dir, internal: &[Box<[u8]>], names: &[Box<[u8]>]) {
        let mut sides: HashSet<Vec<u8>> = HashSet::new();
        let has_sidecars = self.site.envelopes.sidecars().is_some();
        // A side symlink without its object may be all that tells the name of one that has lost it; a sidecar, its key.
        let mut all_known = true;
        for name in names {
            match dir.names.decode(name) {
                Ok(Decoded::Short(_)) => {}
                Ok(Decoded::NeedsSide(side)) => {
                    all_known &= self.name_in(dir, name).is_ok();
                    sides.insert(side.into_bytes());
                }
                Err(_) => all_known = false,
            }
        }
        let mut of: Option<HashSet<Vec<u8>>> = None;
        for name in internal {
            let node = Node::below(&dir.node, name, None);
            if name.starts_with(SIDE.as_bytes()) {
                if !sides.contains(&**name) {
                    let kind = if has_sidecars { FileKind::File } else { FileKind::Symlink };
                    self.leftover(Problem::SideOrphan, dir, &node, all_known.then_some(kind));
                }
            } else if has_sidecars && **name == *DIRECTORY_SIDECAR.as_bytes() {
                // The directory was unlocked with it.
            } else if has_sidecars && name.starts_with(FILE_SIDECAR.as_bytes()) {
                let of = of.get_or_insert_with(|| names.iter().map(|name| sidecar_name(name).into_bytes()).collect());
                if !of.contains(&**name) {
                    self.leftover(Problem::SidecarOrphan, dir, &node, all_known.then_some(FileKind::File));
                }
            } else if name.starts_with(NEW_DIRECTORY.as_bytes()) {
                self.leftover(Problem::Leftover, dir, &node, Some(FileKind::Directory));
            } else if name.starts_with(TEMPORARY_PREFIX.as_bytes()) {
                self.leftover(Problem::Leftover, dir, &node, Some(FileKind::File));
            } else {
                self.report_internal(Problem::InternalUnknown, node.stored_path(), "", None);
            }
        }
    }

    /// Tells of a leftover; a repair removes it if it is what it should be. A directory goes only if it is empty.
    fn leftover(&self, problem: Problem, dir: &Dir, node: &Node, removable: Option<FileKind>) {
        let kind = sys::stat::at(&dir.fd, &node.stored).ok().map(|stat| stat.kind);
        if !self.options.repair || kind.is_none() || kind != removable {
            return self.report_internal(problem, node.stored_path(), "", None);
        }
        let done = self.mend(node, "it was removed".to_owned(), || {
            let removed = match kind {
                Some(FileKind::Directory) => sys::dir::remove_dir(dir.fd.as_fd(), &node.stored),
                _ => sys::dir::unlink(dir.fd.as_fd(), &node.stored),
            };
            Ok(removed?)
        });
        if done.is_some() {
            self.report_internal(problem, node.stored_path(), "", done);
        }
    }
}
