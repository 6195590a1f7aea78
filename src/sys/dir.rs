//! Operations on names in an open directory.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RawDir, SeekFrom, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::{Errno, Result};

use super::{FileKind, Time};

pub use rustix::fs::RenameFlags;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
    /// As a place only (O_PATH): needs no permission on the object itself.
    Place,
}

impl Access {
    fn flags(self) -> OFlags {
        let access = match self {
            Self::Read => OFlags::RDONLY | OFlags::NONBLOCK,
            Self::ReadWrite => OFlags::RDWR | OFlags::NONBLOCK,
            Self::Place => OFlags::PATH,
        };
        access | OFlags::NOFOLLOW | OFlags::CLOEXEC
    }
}

/// Opens the directory at `path`, following symlinks.
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens `name` in `dir`.
pub fn open(dir: BorrowedFd<'_>, name: &[u8], access: Access) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, access.flags(), Mode::empty())
}

/// Opens the directory `name` in `dir`.
pub fn open_dir(dir: BorrowedFd<'_>, name: &[u8], access: Access) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, access.flags() | OFlags::DIRECTORY, Mode::empty())
}

/// A second, independent descriptor of the open directory `dir`, with a position of its own.
pub fn reopen_dir(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    open_dir(dir, b".", Access::Read)
}

/// Opens again, with other rights, the file that `fd` is open on, even if it has no name any more
/// (through `/proc/self/fd`).
pub fn reopen(fd: BorrowedFd<'_>, access: Access) -> Result<OwnedFd> {
    let flags = access.flags() - OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, proc_path(fd).as_str(), flags, Mode::empty())
}

/// A path to the file that `fd` is open on: for calls that take no O_PATH descriptor.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes and opens the regular file `name`, which must not exist.
pub fn create(dir: BorrowedFd<'_>, name: &[u8], perm: u32) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(perm))
}

/// Makes the directory `name`.
pub fn make_dir(dir: BorrowedFd<'_>, name: &[u8], perm: u32) -> Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(perm))
}

/// Makes a fifo, socket, device node or empty regular file.
pub fn make_node(dir: BorrowedFd<'_>, name: &[u8], kind: FileKind, perm: u32, rdev: u64) -> Result<()> {
    use rustix::fs::FileType;
    let kind = match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Directory | FileKind::Symlink => return Err(Errno::INVAL),
    };
    rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(perm), rdev)
}

/// Makes the symlink `name` with the text `target`.
pub fn make_symlink(dir: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> Result<()> {
    rustix::fs::symlinkat(target, dir, name)
}

/// The text of the symlink `name`. Bumps its access time as the store is mounted to.
pub fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// Gives the file `name` in `from` the further name `to_name` in `to`.
pub fn link(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, to_name: &[u8]) -> Result<()> {
    rustix::fs::linkat(from, name, to, to_name, AtFlags::empty())
}

/// Gives the open file `fd` a name, through `/proc/self/fd`: works for any descriptor.
pub fn link_fd(fd: BorrowedFd<'_>, to: BorrowedFd<'_>, to_name: &[u8]) -> Result<()> {
    rustix::fs::linkat(CWD, proc_path(fd).as_str(), to, to_name, AtFlags::SYMLINK_FOLLOW)
}

/// Removes a name that is not a directory's.
pub fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// Removes an empty directory.
pub fn remove_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// renameat2(2).
pub fn rename(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, to_name: &[u8], flags: RenameFlags) -> Result<()> {
    rustix::fs::renameat_with(from, name, to, to_name, flags)
}

/// Sets the owner, the group or both, of `name` itself.
pub fn chown(dir: BorrowedFd<'_>, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::chownat(dir, name, uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets the permission bits of `name`.
///
/// # Errors
/// ELOOP if it is a symlink.
pub fn chmod(dir: BorrowedFd<'_>, name: &[u8], perm: u32) -> Result<()> {
    chmod_place(open(dir, name, Access::Place)?.as_fd(), perm)
}

/// Sets the owner, the group or both, of what `place` is open on, be that with O_PATH.
pub fn chown_place(place: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::chownat(place, "", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
}

/// Sets the permission bits of what `place` is open on, be that with O_PATH. By a name, chmod(2) would follow a symlink that
/// was put there meanwhile, out of the backing tree.
///
/// # Errors
/// ELOOP if it is a symlink: some stores keep a mode for those.
pub fn chmod_place(place: BorrowedFd<'_>, perm: u32) -> Result<()> {
    match super::file::chmod(place, perm) {
        // Opened with O_PATH.
        Err(Errno::BADF) => {}
        done => return done,
    }
    if super::stat::of_fd(place)?.kind == FileKind::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmodat(CWD, proc_path(place).as_str(), Mode::from_raw_mode(perm), AtFlags::empty())
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Keep,
    /// The time of the call.
    Now,
    /// This one.
    At(Time),
}

/// The pair that utimensat(2) takes.
pub(super) fn timestamps(atime: SetTime, mtime: SetTime) -> Timestamps {
    let spec = |time| match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        SetTime::At(at) => Timespec { tv_sec: at.seconds, tv_nsec: at.nanos.into() },
    };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// Sets access and modification time of `name` itself.
pub fn set_times(dir: BorrowedFd<'_>, name: &[u8], atime: SetTime, mtime: SetTime) -> Result<()> {
    rustix::fs::utimensat(dir, name, &timestamps(atime, mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// One entry of a directory.
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its inode number.
    pub ino: u64,
    /// Its type, if the store says so.
    pub kind: Option<FileKind>,
    /// Where to go on after it: stable for as long as the directory is open, and never reused.
    pub next: u64,
}

/// Calls `each` for the entries from position `from` on until it returns false. Several system calls.
pub fn list(dir: BorrowedFd<'_>, from: u64, mut each: impl FnMut(Entry<'_>) -> bool) -> Result<()> {
    use rustix::fs::FileType;
    rustix::fs::seek(dir, SeekFrom::Start(from))?;
    let mut buffer = [const { MaybeUninit::uninit() }; 32 * 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let kind = match entry.file_type() {
            FileType::RegularFile => Some(FileKind::File),
            FileType::Directory => Some(FileKind::Directory),
            FileType::Symlink => Some(FileKind::Symlink),
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::CharacterDevice => Some(FileKind::CharDevice),
            FileType::BlockDevice => Some(FileKind::BlockDevice),
            _ => None,
        };
        let name = entry.file_name().to_bytes();
        if !each(Entry { name, ino: entry.ino(), kind, next: entry.next_entry_cookie() }) {
            break;
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable.
pub fn sync<Fd: AsFd>(dir: Fd) -> Result<()> {
    rustix::fs::fsync(dir)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn chmod_leaves_the_target_of_a_symlink_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o7777;
        fs::write(at("target"), b"x").unwrap();
        fs::set_permissions(at("target"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("target", at("link")).unwrap();
        let dir = open_path(folder.path()).unwrap();
        assert_eq!(chmod(dir.as_fd(), b"link", 0o4777), Err(Errno::LOOP));
        assert_eq!(mode("target"), 0o600);
        chmod(dir.as_fd(), b"target", 0o640).unwrap();
        assert_eq!(mode("target"), 0o640);
    }

    #[test]
    fn a_place_keeps_to_the_object_whose_name_went_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("first"), b"x").unwrap();
        let dir = open_path(folder.path()).unwrap();
        let place = open(dir.as_fd(), b"first", Access::Place).unwrap();
        fs::rename(at("first"), at("moved")).unwrap();
        fs::write(at("first"), b"y").unwrap();
        chmod_place(place.as_fd(), 0o604).unwrap();
        chown_place(place.as_fd(), None, None).unwrap();
        assert_eq!(fs::metadata(at("moved")).unwrap().mode() & 0o777, 0o604);
        assert_ne!(fs::metadata(at("first")).unwrap().mode() & 0o777, 0o604);
    }
}
