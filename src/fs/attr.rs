//! Attributes: what stat(2) shows and what chmod, chown, truncate and utimes change.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::dirs::{Dir, stored};
use super::error::{Error, Result};
use super::io::OpenMode;
use super::open_file::OpenFile;
use super::{EncryptedFs, Ino};
use crate::crypto::Suite;
use crate::kms::Caller;
use crate::sys::dir::{Access, SetTime};
use crate::sys::xattr::{Mode, Target};
use crate::sys::{self, Errno, FileKind, Stat, Time};

/// Attributes of a plain file.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// Its inode.
    pub ino: Ino,
    /// The attributes; `size` is the plain size.
    pub stat: Stat,
    /// It is open, and its CMK refuses or one of its users has no leave any more: nobody shall remember these.
    pub is_shut: bool,
}

/// What a setattr changes; `None` and [`SetTime::Keep`] leave a thing as it is.
#[derive(Debug, Clone, Copy)]
pub struct Changes {
    /// Permission bits.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: SetTime,
    /// Last change of content.
    pub mtime: SetTime,
    /// What the kernel takes the last change of attributes for. It is the store's to set, and never set from here.
    pub ctime: Option<Time>,
}

impl Changes {
    /// Only these permission bits.
    pub fn of_perm(perm: u32) -> Self {
        let (atime, mtime) = (SetTime::Keep, SetTime::Keep);
        Self { perm: Some(perm), uid: None, gid: None, size: None, atime, mtime, ctime: None }
    }

    /// Whether the store says all this already of an object that nobody has open. After each rename the kernel tells the times
    /// as it keeps them: a modification time that is none of its changes, and a change time that the store has noted itself.
    fn are_known_to(&self, stat: &Stat) -> bool {
        self.is_mtime_only()
            && self.mtime == SetTime::At(stat.mtime)
            && self.ctime.is_some_and(|ctime| ctime <= stat.ctime)
    }

    fn is_mtime_only(&self) -> bool {
        self.are_times_only() && self.atime == SetTime::Keep
    }

    fn are_times_only(&self) -> bool {
        self.perm.is_none() && self.uid.is_none() && self.gid.is_none() && self.size.is_none()
    }
}

const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
pub(super) const PRIVILEGES: u32 = SETUID | SETGID;
pub(super) const CAPABILITY: &[u8] = b"security.capability";
const GROUP_EXECUTE: u32 = 0o010;

/// The permission bits that remain when someone who may not keep the others changes a file's content (write(2),
/// truncate(2)): no suid, and sgid only where it is a mark for mandatory locking (chmod(2)).
pub fn without_privileges(perm: u32) -> u32 {
    let drop_group = if perm & GROUP_EXECUTE != 0 { SETGID } else { 0 };
    perm & !(SETUID | drop_group)
}

/// Sets the times of what is open. chattr +a and +i forbid that, but the kernel tells the modification time of writes in this way:
/// one that was allowed must not fail afterwards.
pub(super) fn set_times(fd: BorrowedFd<'_>, (atime, mtime): (SetTime, SetTime)) -> Result<()> {
    match sys::file::set_times(fd, atime, mtime) {
        Err(Errno::PERM) if atime == SetTime::Keep => Ok(()),
        done => Ok(done?),
    }
}

/// Runs `act`, which writes in nobody's name to the file that `fd` is open on: nobody shall see it by the modification time, nor
/// by the lack of what a store takes from a file with each write: its capabilities, and suid and sgid if the daemon may not
/// keep them. Where somebody else `may_write` too, before or after, the capabilities go: they were not given to what is written
/// there.
pub(super) fn unnoticed(
    fd: BorrowedFd<'_>,
    may_write: impl Fn() -> bool,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = sys::stat::of_fd(fd)?;
    let capability = || sys::xattr::get(Target::Open(fd), CAPABILITY).unwrap_or_default();
    let had = if may_write() { None } else { capability() };
    act()?;
    let had = had.filter(|_| !may_write());
    let perm = sys::stat::of_fd(fd)?.perm;
    let taken = before.perm & !perm & PRIVILEGES;
    // From root no store takes them: then it was somebody's wish.
    let is_taken = taken != 0 && sys::process::effective_uid() != 0;
    let restored = if is_taken { sys::file::chmod(fd, perm | taken) } else { Ok(()) };
    let restored = restored.map_err(std::io::Error::from).and_then(|()| match had {
        Some(had) if capability().is_none() => sys::xattr::set(Target::Open(fd), CAPABILITY, &had, Mode::Create),
        _ => Ok(()),
    });
    if let Err(error) = restored {
        let ino = before.ino;
        log::warn!("inode {ino}: it lost suid, sgid or capabilities: {error}. Next: chmod and setcap, as they were");
    }
    set_times(fd, (SetTime::Keep, SetTime::At(before.mtime)))
}

/// A file without names that nobody has open: it answers once more, to a request whose answer nobody looks at.
fn gone(ino: Ino, kind: FileKind) -> Attr {
    let time = Time { seconds: 0, nanos: 0 };
    let stat = Stat {
        dev: 0,
        ino: ino.0,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: None,
    };
    Attr { ino, stat, is_shut: false }
}

impl EncryptedFs {
    /// What `stat` of a backing object means for the plain one.
    pub(super) fn plain(&self, mut stat: Stat) -> Result<Attr> {
        let ino = self.ino_of(&stat)?;
        stat.perm = self.relaxed.shown(ino, stat.perm);
        let mut is_shut = false;
        // The length of a symlink may have to be read: see `plain_at`.
        if stat.kind == FileKind::File {
            let open = self.files.peek(ino);
            let size = open.as_ref().and_then(|file| file.content().map(|content| content.size()));
            stat.size = match size {
                Some(size) => size,
                None if self.known_suite(ino, &stat) == Suite::Xts4k => stat.size,
                None => self.sizes.told(ino, stat.btime, stat.size),
            };
            if let Some(time) = open.as_ref().and_then(|file| file.pinned_mtime()) {
                stat.mtime = time;
            }
            is_shut = open.is_some_and(|file| file.content.is_shut() || file.is_closed_to_some());
        }
        Ok(Attr { ino, stat, is_shut })
    }

    /// The same for the object stored as `name` in `parent`.
    pub(super) fn plain_at(&self, parent: &Dir, name: &[u8], mut stat: Stat) -> Result<Attr> {
        if stat.kind == FileKind::Symlink {
            stat.size = self.link_len(parent, name, stat.size)?;
        }
        self.learn_suite(parent, name, &stat)?;
        self.plain(stat)
    }

    /// Attributes of `ino`; through its handle where it is open.
    ///
    /// # Errors
    /// EACCES through a handle of a file whose CMK refuses, or whose user has no leave any more: so the kernel asks before each write(2) that it means to keep
    /// to itself for a while.
    pub fn getattr(&self, ino: Ino, handle: Option<u64>) -> Result<Attr> {
        if let Some(file) = handle.and_then(|_| self.open_file_of(ino, handle)) {
            self.require_light(&file)?;
        }
        if let Some(handle) = handle.and_then(|handle| self.file_handles.get(handle).ok()) {
            self.require_leave(&handle)?;
        }
        self.attributes(ino, handle)
    }

    fn attributes(&self, ino: Ino, handle: Option<u64>) -> Result<Attr> {
        if let Some(file) = self.open_file_of(ino, handle) {
            return self.plain(file.stat()?);
        }
        match self.inodes.kind(ino) {
            Some(FileKind::Directory) | None => self.getattr_of_dir(ino),
            Some(_) => self.at_location(ino, |parent, name, stat| self.plain_at(parent, stored(name), *stat)),
        }
    }

    /// Its attributes can be told even if its CMK refuses, like those of a directory that is not open.
    fn getattr_of_dir(&self, ino: Ino) -> Result<Attr> {
        if let Some(dir) = self.dirs.peek(ino) {
            return self.plain(sys::stat::of_fd(dir.fd())?);
        }
        match self.dir(ino) {
            // A directory that was removed still answers through its descriptor.
            Ok(dir) => self.plain(sys::stat::of_fd(dir.fd())?),
            Err(error) if error.errno() == Errno::ACCESS => self.at_location(ino, |_, _, stat| self.plain(*stat)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn open_file_of(&self, ino: Ino, handle: Option<u64>) -> Option<Arc<OpenFile>> {
        let by_handle = handle.and_then(|handle| self.file_handles.get(handle).ok()).map(|handle| handle.file.clone());
        by_handle.filter(|file| file.ino == ino).or_else(|| self.files.peek(ino))
    }

    /// Applies `changes`; returns the attributes afterwards.
    pub fn setattr(&self, caller: &Caller, ino: Ino, changes: &Changes, handle: Option<u64>) -> Result<Attr> {
        self.writable()?;
        if let Some(size) = changes.size {
            self.set_size(caller, ino, size, handle)?;
        }
        match self.open_file_of(ino, handle) {
            Some(file) => self.change_open(&file, changes)?,
            None if self.inodes.kind(ino) == Some(FileKind::Directory) || ino == Ino::ROOT => {
                let dir = self.dir(ino)?;
                self.change_fd(ino, dir.fd(), changes)?;
            }
            None => match self.change_named(ino, changes) {
                Ok(Some(known)) => return Ok(known),
                // The kernel keeps times, and tells them when it likes: also of a file that is gone and that nobody has open.
                // The same of a file that may not be changed any more (chattr +i).
                Err(Error::Sys(Errno::PERM)) if changes.is_mtime_only() => {}
                Err(Error::Sys(Errno::STALE)) if changes.are_times_only() => {
                    return self.inodes.kind(ino).map(|kind| gone(ino, kind)).ok_or(Errno::STALE.into());
                }
                Err(error) => return Err(error),
                Ok(None) => {}
            },
        }
        self.attributes(ino, handle)
    }

    /// Changes what nobody has open. Its attributes, if there was nothing to change.
    fn change_named(&self, ino: Ino, changes: &Changes) -> Result<Option<Attr>> {
        self.at_location(ino, |parent, name, stat| {
            let (dir, name) = (parent.fd(), stored(name));
            if changes.are_known_to(stat) {
                return self.plain_at(parent, name, *stat).map(Some);
            }
            if changes.uid.is_some() || changes.gid.is_some() || changes.perm.is_some() {
                let place = sys::dir::open(dir, name, Access::Place)?;
                // Not what others have put there since.
                if self.ino_of(&sys::stat::of_fd(&place)?)? != ino {
                    return Err(Errno::STALE.into());
                }
                self.change_rights(ino, place.as_fd(), changes)?;
            }
            if (changes.atime, changes.mtime) != (SetTime::Keep, SetTime::Keep) {
                sys::dir::set_times(dir, name, changes.atime, changes.mtime)?;
            }
            Ok(None)
        })
    }

    fn change_open(&self, file: &OpenFile, changes: &Changes) -> Result<()> {
        if changes.perm.is_some_and(|perm| perm & PRIVILEGES != 0) {
            // What was written before must not end them later.
            file.finish()?;
        }
        if changes.mtime != SetTime::Keep {
            // What was written before must not change the time later, when it is put on the disk.
            let waits_for_disk = file.content().is_some_and(|content| content.state().needs_barrier);
            if !waits_for_disk {
                file.commit()?;
            } else if let SetTime::At(time) = changes.mtime
                && changes.is_mtime_only()
            {
                // It is set when what waits is written. Until then it is shown from here.
                file.pin_mtime(Some(time));
                file.backing.touch();
                return Ok(());
            }
        }
        if changes.mtime != SetTime::Keep {
            // What was written before is about to be undone.
            file.backing.was_touched();
        }
        let fd = file.backing.fd();
        self.change_fd(file.ino, fd.as_fd(), changes)?;
        match changes.mtime {
            SetTime::Keep => {}
            SetTime::At(time) => file.pin_mtime(Some(time)),
            SetTime::Now => file.pin_mtime(Some(sys::stat::of_fd(&*fd)?.mtime)),
        }
        Ok(())
    }

    /// Changes owner, group and permission bits through any descriptor, an O_PATH one as well.
    fn change_rights(&self, ino: Ino, fd: BorrowedFd<'_>, changes: &Changes) -> Result<()> {
        // The owner first: chown(2) clears suid and sgid, which a mode in the same request means to set.
        if changes.uid.is_some() || changes.gid.is_some() {
            sys::dir::chown_place(fd, changes.uid, changes.gid)?;
        }
        if let Some(perm) = changes.perm {
            self.relaxed.set(ino, perm, |perm| sys::dir::chmod_place(fd, perm))?;
        }
        Ok(())
    }

    fn change_fd(&self, ino: Ino, fd: BorrowedFd<'_>, changes: &Changes) -> Result<()> {
        self.change_rights(ino, fd, changes)?;
        if (changes.atime, changes.mtime) != (SetTime::Keep, SetTime::Keep) {
            set_times(fd, (changes.atime, changes.mtime))?;
        }
        Ok(())
    }

    fn set_size(&self, caller: &Caller, ino: Ino, size: u64, handle: Option<u64>) -> Result<()> {
        self.upkeep.guards.admit_writer(ino)?;
        let by_handle = handle.and_then(|handle| self.file_handles.get(handle).ok());
        if let Some(handle) = by_handle.filter(|handle| handle.file.ino == ino) {
            self.require_leave(&handle)?;
            return self.truncate_open(caller, &handle.file, size).map_err(|error| self.report(ino, error));
        }
        let (file, _) = self.acquire_file(caller, ino, OpenMode::WRITE)?;
        let result = self.truncate_open(caller, &file, size).map_err(|error| self.report(ino, error));
        self.release_file(&file);
        result
    }

    pub(super) fn truncate_open(&self, caller: &Caller, file: &Arc<OpenFile>, size: u64) -> Result<()> {
        if size == 0 && file.content.is_unkeyed() {
            return Ok(());
        }
        file.backing.admit(false)?;
        let content = self.content_for_writing(file)?;
        file.pin_mtime(None);
        let cut = content.truncate(size);
        drop(content);
        file.pin_mtime(None);
        self.after_write(file);
        cut?;
        if size == 0 {
            // What was never written out is cut without the backing file.
            sys::file::set_times(file.backing.fd().as_fd(), SetTime::Keep, SetTime::Now)?;
        }
        self.changed(caller, file)
    }

    /// The content changed on behalf of `caller`: privileges that were given to the old content end, as
    /// write(2) and chmod(2) say, unless the caller is root.
    pub(super) fn changed(&self, caller: &Caller, file: &OpenFile) -> Result<()> {
        if caller.uid == 0 { Ok(()) } else { self.end_privileges(file) }
    }

    /// The same where the kernel has decided that the privileges end.
    pub(super) fn end_privileges(&self, file: &OpenFile) -> Result<()> {
        let stat = file.stat()?;
        let perm = without_privileges(stat.perm);
        if perm != stat.perm {
            sys::file::chmod(file.backing.fd().as_fd(), perm)?;
        }
        Ok(())
    }

    /// Space and limits of the backing store, with names as long as ours may be.
    pub fn statfs(&self) -> Result<Filesystem> {
        // What was removed is not to be counted, but for what takes long: a desktop asks every second.
        self.closer.finish_within(Duration::from_millis(100));
        let s = sys::stat::filesystem(&self.root)?;
        Ok(Filesystem {
            blocks: s.f_blocks,
            free: s.f_bfree,
            available: s.f_bavail,
            files: s.f_files,
            files_free: s.f_ffree,
            block_size: s.f_bsize as u32,
            fragment_size: s.f_frsize as u32,
        })
    }
}

/// Space on a filesystem, in units of `fragment_size` bytes.
#[derive(Debug, Clone, Copy)]
pub struct Filesystem {
    /// All of it.
    pub blocks: u64,
    /// What is free.
    pub free: u64,
    /// What is free for unprivileged users.
    pub available: u64,
    /// Number of inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred length of a transfer.
    pub block_size: u32,
    /// The unit.
    pub fragment_size: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sgid_survives_a_write_where_it_means_locking() {
        assert_eq!(without_privileges(0o6755), 0o755);
        assert_eq!(without_privileges(0o2644), 0o2644);
        assert_eq!(without_privileges(0o4700), 0o700);
    }
}
