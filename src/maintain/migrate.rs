//! Migrate: the envelopes of a whole volume to another placement.
//!
//! Two walks over the backing tree, which nobody else uses. The first copies every envelope to its new place, the second
//! removes the old copies; in between everything is made durable. Either can be cut short anywhere and done again: an
//! object that has no old copy any more has its new one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::crypto::derive::directory_id;
use crate::crypto::{DataKey, random};
use crate::envelope::{Envelope, EnvelopeStore, Envelopes, FILE_SIDECAR, KMSFS_DIR, Object, Place, Placement, Sealer};
use crate::fs::{Backing, is_key_of};
use crate::names::{SIDE, is_internal};
use crate::sys::dir::{Access, RenameFlags, SetTime};
use crate::sys::{self, Errno, FileKind, Stat};

use super::{FailedPath, Progress};

/// More failures are counted, but not listed.
const MAX_LISTED: usize = 1000;
/// Longer than the text of any side symlink.
const SIDE_MAX: usize = 512;

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    /// Names and directories whose envelope is in its new place.
    pub moved: u64,
    /// Empty files, which have no envelope.
    pub keyless: u64,
    /// Files with content, and directories, that have no envelope anywhere: they did not open before, either.
    pub bare: u64,
    /// Long names whose side changed from a symlink to a file, or back.
    pub sides: u64,
    /// Sidecars that belonged to no name, and were removed.
    pub stale: u64,
    /// What could not be moved.
    pub failed: u64,
    /// Which, up to a thousand.
    pub failures: Vec<FailedPath>,
}

/// Moves all envelopes of the volume in `root` to `to`. The caller holds its lock, and has marked its header.
///
/// # Errors
/// If the root directory cannot be opened, or the store cannot be synced.
pub fn migrate(root: &Path, sealer: &Sealer<'_>, to: Placement, progress: &Progress) -> io::Result<Migration> {
    let from = if to == Placement::Xattr { Placement::Sidecar } else { Placement::Xattr };
    let mut walk = Walk {
        sealer,
        old: Envelopes::new(from),
        new: Envelopes::new(to),
        to,
        progress,
        removing: false,
        report: Migration::default(),
        path: Vec::new(),
    };
    let top = sys::dir::open_path(root)?;
    for removing in [false, true] {
        walk.removing = removing;
        walk.tree(&top)?;
        sys::file::sync_filesystem(top.as_fd())?;
        if walk.report.failed > 0 {
            // The old copies stay until there is a new one of each.
            break;
        }
    }
    Ok(walk.report)
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<(Vec<u8>, FileKind)>> {
    let mut names = Vec::new();
    sys::dir::list(dir.as_fd(), 0, |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push((entry.name.to_vec(), entry.kind));
        }
        true
    })?;
    let kind_of = |name: &[u8]| sys::stat::at(dir, name).map(|stat| stat.kind);
    // What is internal comes last: by then the names have what they need of it.
    names.sort_by_key(|(name, _)| is_internal(name));
    let known = |(name, kind): (Vec<u8>, Option<FileKind>)| {
        let kind = kind.map_or_else(|| kind_of(&name), Ok)?;
        Ok((name, kind))
    };
    names.into_iter().map(known).collect()
}

struct Walk<'a> {
    sealer: &'a Sealer<'a>,
    old: Envelopes,
    new: Envelopes,
    to: Placement,
    progress: &'a Progress,
    /// The second walk.
    removing: bool,
    report: Migration,
    /// Stored names from the root to where the walk is.
    path: Vec<Vec<u8>>,
}

/// A directory on the way to where the walk is.
struct Level {
    fd: OwnedFd,
    /// What the envelopes in it are bound to, if its own opens.
    place: Option<Place>,
    /// Directories in it that are still to be visited.
    below: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn tree(&mut self, top: &OwnedFd) -> io::Result<()> {
        let mut levels = vec![self.directory(sys::dir::reopen_dir(top.as_fd())?, Some(Place::ROOT))];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.below.pop() else {
                levels.pop();
                self.path.pop();
                continue;
            };
            let place = level.place;
            self.path.push(name.clone());
            let opened = permitted(level.fd.as_fd(), &name, 0o700, || {
                sys::dir::open_dir(level.fd.as_fd(), &name, Access::Read).map_err(io::Error::from)
            });
            match opened {
                Ok(fd) => {
                    let below = self.directory(fd, place);
                    levels.push(below);
                }
                Err(error) => {
                    self.failed(&error);
                    self.path.pop();
                }
            }
        }
        Ok(())
    }

    /// A directory and the files in it.
    fn directory(&mut self, fd: OwnedFd, parent: Option<Place>) -> Level {
        let before = sys::stat::of_fd(&fd);
        let object = Object::Directory(fd.as_fd());
        let place = parent.and_then(|parent| self.place_in(object, parent));
        let is_lost_and_found = self.path.len() == 1 && self.path[0] == b"lost+found";
        let mut below = Vec::new();
        if !is_lost_and_found {
            if let Err(error) = self.envelope(object, |_, bytes| Ok(bytes)) {
                self.failed(&error);
            }
            match entries(&fd) {
                Ok(found) => below = self.entries(&fd, place, found),
                Err(error) => self.failed(&error),
            }
        }
        if let Ok(before) = before {
            // What users see of the directory has not changed.
            let _ = sys::file::set_times(fd.as_fd(), SetTime::Keep, SetTime::At(before.mtime));
        }
        Level { fd, place, below }
    }

    /// What the envelopes in a directory are bound to: needed only for files with several names, or after a crash.
    fn place_in(&self, object: Object<'_>, parent: Place) -> Option<Place> {
        let stored = [&self.old, &self.new].into_iter().find_map(|store| store.load(object).ok().flatten())?;
        let key = self.sealer.unlock(&Envelope::parse(&stored).ok()?, parent).ok()?;
        Some(Place::In(directory_id(&key)))
    }

    /// Returns the directories.
    fn entries(&mut self, dir: &OwnedFd, place: Option<Place>, found: Vec<(Vec<u8>, FileKind)>) -> Vec<Vec<u8>> {
        let mut below = Vec::new();
        for (name, kind) in found {
            if self.path.is_empty() && name == KMSFS_DIR.as_bytes() {
                continue;
            }
            self.path.push(name.clone());
            let done = match kind {
                _ if is_internal(&name) => self.internal(dir, &name, kind),
                FileKind::Directory => {
                    below.push(name.clone());
                    Ok(())
                }
                FileKind::File => self.file(dir, &name, place),
                _ => Ok(()),
            };
            if let Err(error) = done {
                self.failed(&error);
            }
            self.path.pop();
        }
        below
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], place: Option<Place>) -> io::Result<()> {
        let stat = sys::stat::at(dir, name)?;
        permitted(dir.as_fd(), name, 0o600, || {
            let fd = sys::dir::open(dir.as_fd(), name, Access::Read)?;
            let object = Object::file(fd.as_fd(), dir.as_fd(), name);
            self.envelope(object, |walk, bytes| walk.alone(fd.as_fd(), &stat, place, bytes))
        })
    }

    /// Moves the envelope of one object, which `adapt` may change for its new place.
    fn envelope(
        &mut self,
        object: Object<'_>,
        adapt: impl FnOnce(&Self, Vec<u8>) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let old = match self.old.load(object) {
            Err(error) if sys::xattr::is_unsupported(&error) => None,
            old => old?,
        };
        if self.removing {
            if old.is_some() && self.new.load(object)?.is_some() {
                self.old.remove(object)?;
            }
            return Ok(());
        }
        let now = self.new.load(object)?;
        self.progress.object();
        match (old, now) {
            (Some(old), now) => {
                let wanted = adapt(self, old)?;
                // Of several names, the first has brought it already: it is LINKED, wrapped anew each time.
                let is_there = now.is_some_and(|now| now == wanted || both_linked(&now, &wanted));
                if !is_there {
                    self.new.put(object, &wanted)?;
                }
                self.report.moved += 1;
            }
            (None, Some(_)) => self.report.moved += 1,
            (None, None) if is_empty_file(object) => self.report.keyless += 1,
            (None, None) => self.report.bare += 1,
        }
        Ok(())
    }

    /// The envelope of a file for an attribute, which all its names share: for this file alone, and for all its places. What
    /// does not open stays as it is.
    fn alone(&self, fd: BorrowedFd<'_>, stat: &Stat, place: Option<Place>, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let (Placement::Xattr, Some(place), Ok(mut envelope)) = (self.to, place, Envelope::parse(&bytes)) else {
            return Ok(bytes);
        };
        if envelope.is_moving() {
            let backing = Backing::new(fd.try_clone_to_owned()?, false);
            let fits = |key: &DataKey| is_key_of(&backing, key);
            if let Ok((_, found)) = self.sealer.unlock_fitting(&envelope, place, fits) {
                envelope = found;
            }
        }
        if stat.nlink > 1
            && let Ok(linked) = self.sealer.linked(&envelope, place)
        {
            envelope = linked;
        }
        Ok(envelope.encode())
    }

    /// Side symlinks change their shape; sidecars go in the second walk, those too that belong to no name.
    fn internal(&mut self, dir: &OwnedFd, name: &[u8], kind: FileKind) -> io::Result<()> {
        if name.starts_with(SIDE.as_bytes()) && !self.removing {
            let is_wanted = (kind == FileKind::File) == (self.to == Placement::Sidecar);
            if !is_wanted {
                self.side(dir, name, kind)?;
                self.report.sides += 1;
            }
        }
        if self.removing && self.to == Placement::Xattr && name.starts_with(FILE_SIDECAR.as_bytes()) {
            match sys::dir::unlink(dir.as_fd(), name) {
                Ok(()) => self.report.stale += 1,
                // It went with its name.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn side(&self, dir: &OwnedFd, name: &[u8], kind: FileKind) -> io::Result<()> {
        let dir = dir.as_fd();
        let temporary = format!(".kmsfs.tmp.{:016x}", u64::from_le_bytes(random::array()));
        let made = || -> Result<(), Errno> {
            if kind == FileKind::Symlink {
                let text = sys::dir::read_link(dir, name)?;
                let file = sys::dir::create(dir, temporary.as_bytes(), 0o600)?;
                sys::file::write_at(file.as_fd(), &text, 0)?;
                // The symlink it replaces may be the only copy on the disk.
                sys::file::sync_all(file.as_fd())?;
            } else {
                let file = sys::dir::open(dir, name, Access::Read)?;
                let mut text = vec![0; SIDE_MAX];
                let len = sys::file::read_at(file.as_fd(), &mut text, 0)?;
                sys::dir::make_symlink(dir, temporary.as_bytes(), &text[..len])?;
            }
            sys::dir::rename(dir, temporary.as_bytes(), dir, name, RenameFlags::empty())
        };
        Ok(made().inspect_err(|_| {
            let _ = sys::dir::unlink(dir, temporary.as_bytes());
        })?)
    }

    fn failed(&mut self, error: &io::Error) {
        self.report.failed += 1;
        if self.report.failures.len() < MAX_LISTED {
            let path = self.path.iter().map(|name| crate::names::shown(name)).collect::<Vec<_>>().join("/");
            self.report.failures.push(FailedPath { path, reason: error.to_string() });
        }
    }
}

fn is_empty_file(object: Object<'_>) -> bool {
    matches!(object, Object::File { fd, .. } if sys::stat::of_fd(fd).is_ok_and(|stat| stat.size == 0))
}

fn both_linked(a: &[u8], b: &[u8]) -> bool {
    let is_linked = |bytes: &[u8]| Envelope::parse(bytes).is_ok_and(|envelope| envelope.is_linked());
    is_linked(a) && is_linked(b)
}

/// Runs `act`; if the mode of the object `name` locks out its owner, once more with `bits` added to the mode for the moment.
fn permitted<T>(dir: BorrowedFd<'_>, name: &[u8], bits: u32, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let denied = match act() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        done => return done,
    };
    let stat = sys::stat::at(dir, name)?;
    if stat.perm & bits == bits || sys::dir::chmod(dir, name, stat.perm | bits).is_err() {
        return Err(denied);
    }
    let done = act();
    sys::dir::chmod(dir, name, stat.perm)?;
    done
}
