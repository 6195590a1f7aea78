//! Names: looking up, making and removing objects, hard links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::attr::{PRIVILEGES, SETGID};
use super::dirs::{Dir, Gift, stored};
use super::error::Result;
use super::inode::Attributes;
use super::io::OpenMode;
use super::leave::Leave;
use super::open_file::is_long;
use super::removal::unseen_name;
use super::sidecars::Spot;
use super::{Attr, EncryptedFs, Error, Ino, Location};
use crate::crypto::{DataKey, derive};
use crate::envelope::{Envelope, EnvelopeStore, Kind, Object, Place};
use crate::kms::{Action, Caller, Requester};
use crate::names::EncodedName;
use crate::sys::dir::{Access, RenameFlags};
use crate::sys::{self, Errno, FileKind, Stat};

/// What the kernel is told of an object: it holds one more reference to it.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// Its attributes.
    pub attr: Attr,
    /// Tells it from an earlier object with the same inode number.
    pub generation: u64,
}

/// A file that was made and opened.
#[derive(Debug, Clone, Copy)]
pub struct Created {
    /// What the kernel is told.
    pub looked: Looked,
    /// The handle.
    pub handle: u64,
}

/// The mode of a new object.
#[derive(Debug, Clone, Copy)]
pub struct NewMode {
    /// Permission bits as asked for.
    pub perm: u32,
    /// The caller's file mode creation mask.
    pub umask: u32,
}

impl EncryptedFs {
    pub(super) fn tell(&self, at: Location, attr: Attr) -> Looked {
        let generation =
            self.inodes.looked_up(attr.ino, at, &attr.stat, self.sizes.corrections(attr.ino, attr.stat.btime));
        Looked { attr, generation }
    }

    pub(super) fn look(&self, parent: &Dir, name: &EncodedName, at: Location) -> Result<Looked> {
        let stat = sys::stat::at(parent.fd(), stored(name))?;
        if stat.kind == FileKind::Symlink {
            self.note_symlink(&at, stat.size);
        }
        let attr = self.plain_at(parent, stored(name), stat)?;
        Ok(self.tell(at, attr))
    }

    /// Looks `name` up: one system call, and no key but the directory's.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Looked> {
        let dir = self.dir(parent)?;
        let encoded = dir.encode(name)?;
        self.look(&dir, &encoded, Location::new(parent, name)).map_err(|error| self.report_name(parent, name, error))
    }

    /// Makes and opens a regular file, which must not exist.
    ///
    /// # Errors
    /// If it exists: EEXIST if `mode` insists that it does not. Else ESTALE: the kernel, which knew of no file and so has asked
    /// for nobody's permission, looks again and opens it like any other.
    pub fn create(&self, caller: &Caller, parent: Ino, name: &[u8], new: NewMode, mode: OpenMode) -> Result<Created> {
        self.writable()?;
        let dir = self.dir(parent)?;
        let encoded = dir.encode(name)?;
        let perm = dir.creation_perm(new.perm, new.umask)?;
        let path = || self.inodes.path_in(parent, name);
        let key = self.key_for(Requester::user(caller, &path), &dir)?;
        dir.prepare(&encoded)?;
        let changes = self.inodes.attribute_changes();
        let fd = match self.with_space(|| self.make_file(&dir, stored(&encoded), perm)) {
            Ok(fd) => fd,
            Err(Error::Sys(Errno::EXIST)) if !mode.exclusive => return Err(Errno::STALE.into()),
            Err(error) => {
                if error.errno() != Errno::EXIST {
                    dir.retire(&encoded);
                }
                return Err(error);
            }
        };
        let made = self.give_to_caller(caller, &dir, &fd).and_then(|()| Ok(sys::stat::of_fd(&fd)?));
        let stat = match made {
            Ok(stat) => stat,
            Err(error) => {
                let _ = sys::dir::unlink(dir.fd(), stored(&encoded));
                dir.retire(&encoded);
                return Err(error);
            }
        };
        // Stores that tell no birth may have given it the number of an earlier one.
        self.sizes.forget(self.ino_of(&stat)?);
        let looked = self.tell(Location::new(parent, name), self.plain(stat)?);
        self.inodes.learned(looked.attr.ino, Attributes::NoCapability, changes);
        let file = self.adopt_file(looked.attr.ino, fd, (&dir, key), is_long(&encoded));
        let action = self.action_of_new_file(caller, &dir, mode);
        let handle = self.new_handle(Leave::new(*caller, action), file, mode)?;
        Ok(Created { looked, handle })
    }

    fn make_file(&self, dir: &Dir, name: &[u8], perm: u32) -> Result<OwnedFd> {
        let _names = self.making_lock(dir)?;
        self.clear_stale(dir, name)?;
        Ok(sys::dir::create(dir.fd(), name, perm)?)
    }

    /// Gives a new file to the caller.
    fn give_to_caller(&self, caller: &Caller, dir: &Dir, fd: &OwnedFd) -> Result<()> {
        if !self.is_foreign(caller) {
            return Ok(());
        }
        let stat = sys::stat::of_fd(fd)?;
        sys::file::chown(fd.as_fd(), Some(caller.uid), group_for(caller, dir, &stat)?)?;
        if stat.perm & PRIVILEGES != 0 && stat.kind == FileKind::File {
            // chown(2) took them away.
            sys::file::chmod(fd.as_fd(), stat.perm)?;
        }
        Ok(())
    }

    /// The same for what has no descriptor, and was just made as `kind`.
    ///
    /// # Errors
    /// ESTALE if the name leads to something else by now: that is nothing to be given away.
    fn give_name_to_caller(&self, caller: &Caller, dir: &Dir, name: &[u8], kind: FileKind) -> Result<()> {
        if !self.is_foreign(caller) {
            return Ok(());
        }
        let place = sys::dir::open(dir.fd(), name, Access::Place)?;
        let stat = sys::stat::of_fd(&place)?;
        if stat.kind != kind || stat.nlink != 1 || ![self.uid, caller.uid].contains(&stat.uid) {
            return Err(Errno::STALE.into());
        }
        sys::dir::chown_place(place.as_fd(), Some(caller.uid), group_for(caller, dir, &stat)?)?;
        if stat.perm & PRIVILEGES != 0 && stat.kind != FileKind::Symlink {
            sys::dir::chmod_place(place.as_fd(), stat.perm)?;
        }
        Ok(())
    }

    /// Makes an object of this kind by `make`, which gets the directory and the stored name, gives it to the caller and
    /// tells the kernel. If anything fails, nothing is left.
    fn make(
        &self,
        caller: &Caller,
        (at, kind): (Location, FileKind),
        make: impl Fn(&Arc<Dir>, &EncodedName) -> Result<()>,
    ) -> Result<Looked> {
        self.writable()?;
        let dir = self.dir(at.parent)?;
        let encoded = dir.encode(&at.name)?;
        dir.prepare(&encoded)?;
        let made = self.with_space(|| {
            let _names = self.making_lock(&dir)?;
            make(&dir, &encoded)
        });
        if let Err(error) = made {
            if error.errno() != Errno::EXIST {
                dir.retire(&encoded);
            }
            return Err(error);
        }
        let given = self.give_name_to_caller(caller, &dir, stored(&encoded), kind);
        let told = given.and_then(|()| self.look(&dir, &encoded, at.clone()));
        told.inspect_err(|error| {
            if error.errno() == Errno::STALE {
                // What has the name now is somebody else's.
                return;
            }
            let home = self.long_links.take(&at).then(|| self.home_to_remove(&dir, stored(&encoded))).flatten();
            let _ = sys::dir::unlink(dir.fd(), stored(&encoded));
            if let Some(home) = home {
                self.long_links.remove(&home);
            }
            dir.retire(&encoded);
        })
    }

    /// Makes a fifo, socket, device node or empty regular file.
    pub fn mknod(&self, caller: &Caller, at: Location, kind: FileKind, new: NewMode, rdev: u64) -> Result<Looked> {
        let dir = self.dir(at.parent)?;
        let perm = dir.creation_perm(new.perm, new.umask)?;
        if kind == FileKind::File {
            let path = || self.inodes.path_in(at.parent, &at.name);
            self.require_for_new_file(Requester::user(caller, &path), &dir)?;
        }
        self.make(caller, (at, kind), |dir, name| {
            self.clear_stale(dir, stored(name))?;
            Ok(sys::dir::make_node(dir.fd(), stored(name), kind, perm, rdev)?)
        })
    }

    /// Makes a symlink.
    pub fn symlink(&self, caller: &Caller, at: Location, target: &[u8]) -> Result<Looked> {
        let noted = at.clone();
        let path = || self.inodes.path_in(noted.parent, &noted.name);
        let requester = Requester::user(caller, &path);
        self.require_for_symlink(requester, Action::GenerateDataKey, &*self.dir(at.parent)?)?;
        self.make(caller, (at, FileKind::Symlink), |dir, name| {
            self.make_symlink(dir, stored(name), noted.clone(), target)
        })
    }

    /// Makes a directory: beside its place first, so that it never stands there without an envelope.
    pub fn mkdir(&self, caller: &Caller, at: Location, new: NewMode) -> Result<Looked> {
        self.writable()?;
        let parent = self.dir(at.parent)?;
        let encoded = parent.encode(&at.name)?;
        let perm = parent.creation_perm(new.perm, new.umask)?;
        let temporary = unseen_name();
        parent.prepare(&encoded)?;
        let path = || self.inodes.path_in(at.parent, &at.name);
        let maker = (caller, Requester::user(caller, &path));
        let make = || {
            self.make_dir(maker, &parent, temporary.as_bytes(), perm).inspect_err(|_| {
                let _ = self.discard(&parent, temporary.as_bytes());
            })
        };
        let made = self.with_space(make).and_then(|(fd, key)| {
            let _names = self.making_lock(&parent)?;
            put_new(parent.fd(), temporary.as_bytes(), stored(&encoded))?;
            Ok((fd, key))
        });
        let (fd, (key, gift)) = made.inspect_err(|error| {
            let _ = self.discard(&parent, temporary.as_bytes());
            if error.errno() != Errno::EXIST {
                parent.retire(&encoded);
            }
        })?;
        let attr = self.plain(sys::stat::of_fd(&fd)?)?;
        self.adopt_dir(self.make_dir_handle(attr.ino, fd, key, gift));
        Ok(self.tell(at, attr))
    }

    fn make_dir(
        &self,
        (caller, requester): (&Caller, Requester<'_>),
        parent: &Dir,
        name: &[u8],
        perm: u32,
    ) -> Result<(OwnedFd, (DataKey, Gift))> {
        // The owner's bits are needed to open it and to set the envelope; what was not asked for goes again.
        sys::dir::make_dir(parent.fd(), name, perm | 0o700)?;
        let fd = sys::dir::open_dir(parent.fd(), name, Access::Read)?;
        let (key, envelope) =
            self.sealer(requester).create(&parent.cmk(), Kind::directory(parent.suite()), parent.place())?;
        self.envelopes.create(Object::Directory(fd.as_fd()), &envelope.encode())?;
        self.log_mirror(&key, &envelope, parent.place())?;
        // Once it has its name it must never be without its key, not even after a power cut.
        self.envelopes.sync(Object::Directory(fd.as_fd()))?;
        let surplus = 0o700 & !perm;
        let made_perm = if surplus == 0 { None } else { Some(sys::stat::of_fd(&fd)?.perm) };
        self.give_to_caller(caller, parent, &fd)?;
        if let Some(perm) = made_perm {
            sys::file::chmod(fd.as_fd(), perm & !surplus)?;
        }
        Ok((fd, (key, self.gift_of(&envelope)?)))
    }

    fn unlink_backing(&self, dir: &Dir, name: &EncodedName, at: &Location) -> Result<()> {
        let _names = self.names_lock();
        if self.envelopes.sidecars().is_some() {
            let stat = self.stat_in(dir, name)?;
            let file = if stat.kind == FileKind::File { Some(self.ino_of(&stat)?) } else { None };
            self.keep_envelope(Spot { dir, name: stored(name), file })?;
        }
        self.inodes.attributes_change();
        let leaving = self.leaving(dir, stored(name));
        sys::dir::unlink(dir.fd(), stored(name))?;
        if self.inodes.has_links()
            && let Some(stat) = leaving.stat()
            && stat.nlink > 0
            && let Ok(ino) = self.ino_of(&stat)
        {
            self.inodes.unlinked(ino, at);
        }
        drop(leaving);
        self.drop_sidecar(dir, stored(name));
        Ok(())
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        let dir = self.dir(parent)?;
        let encoded = dir.encode(name)?;
        let at = Location::new(parent, name);
        let long_link = self.long_links.take(&at);
        let home = if long_link { self.home_to_remove(&dir, stored(&encoded)) } else { None };
        if let Err(error) = self.unlink_backing(&dir, &encoded, &at) {
            if long_link {
                self.long_links.note(at);
            }
            return Err(error);
        }
        if let Some(home) = home {
            self.long_links.remove(&home);
        }
        dir.retire(&encoded);
        Ok(())
    }

    /// The kernel gives up `count` references to `ino`.
    pub fn forget(&self, ino: Ino, count: u64) {
        if self.inodes.forget(ino, count) && ino != Ino::ROOT {
            // A directory that was removed answered through its descriptor until now.
            if let Some(dir) = self.dirs.forget(ino) {
                self.closer.close_dir(dir);
            }
            self.suites.forget(ino);
        }
    }

    /// Appends the mirror of a directory's key to `.kmsfs/keys.log`.
    pub(super) fn log_mirror(&self, key: &DataKey, envelope: &Envelope, place: Place) -> Result<()> {
        let mirror = self.own_sealer().mirror(envelope, place)?;
        self.append_log(&derive::directory_id(key), &mirror)
    }

    pub(super) fn append_log(&self, id: &[u8; 16], mirror: &[u8]) -> Result<()> {
        match &self.keys_log {
            Some(log) => log.append(id, mirror).map_err(|error| {
                log::error!("{error}");
                Error::Sys(Errno::IO)
            }),
            None => Err(Errno::ROFS.into()),
        }
    }

    /// Attributes of a backing object, for callers that hold its directory.
    pub(super) fn stat_in(&self, dir: &Dir, name: &EncodedName) -> Result<Stat> {
        Ok(sys::stat::at(dir.fd(), stored(name))?)
    }
}

/// The group that a new object gets besides its owner. None if the store gave it that of its directory: because that is
/// setgid, or because the store always does (mount option grpid).
fn group_for(caller: &Caller, dir: &Dir, new: &Stat) -> Result<Option<u32>> {
    let inherited = new.gid != sys::process::effective_gid() || sys::stat::of_fd(dir.fd())?.perm & SETGID != 0;
    Ok((!inherited).then_some(caller.gid))
}

/// Gives what was made as `temporary` its name, unless that is taken.
///
/// # Errors
/// EEXIST if it is.
fn put_new(dir: BorrowedFd<'_>, temporary: &[u8], name: &[u8]) -> Result<()> {
    match sys::dir::rename(dir, temporary, dir, name, RenameFlags::NOREPLACE) {
        // Stores as NFS know no flags. The kernel locks the directory, and a volume has one writer.
        Err(Errno::INVAL) => match sys::stat::at(dir, name) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(Errno::NOENT) => Ok(sys::dir::rename(dir, temporary, dir, name, RenameFlags::empty())?),
            Err(error) => Err(error.into()),
        },
        done => Ok(done?),
    }
}
