//! Operations on an open file.

use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, Gid, Mode, SeekFrom, Uid};
use rustix::io::{Errno, Result};

use super::dir::{SetTime, timestamps};

/// Reads at `at` until `buf` is full or the file ends; returns the bytes read. Goes on after interruptions.
pub fn read_at(fd: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match rustix::io::pread(fd, &mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at `at`. On error a part may have been written.
pub fn write_at(fd: BorrowedFd<'_>, buf: &[u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match rustix::io::pwrite(fd, &buf[done..], at + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets the length.
pub fn set_len(fd: BorrowedFd<'_>, len: u64) -> Result<()> {
    rustix::fs::ftruncate(fd, len)
}

/// Reserves space without changing the length.
pub fn allocate(fd: BorrowedFd<'_>, at: u64, len: u64) -> Result<()> {
    rustix::fs::fallocate(fd, FallocateFlags::KEEP_SIZE, at, len)
}

/// Gives space back; the range reads as zeros.
pub fn punch_hole(fd: BorrowedFd<'_>, at: u64, len: u64) -> Result<()> {
    rustix::fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len)
}

/// fdatasync(2): content, and what is needed to find it again.
pub fn sync_data(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fdatasync(fd)
}

/// fsync(2).
pub fn sync_all(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fsync(fd)
}

/// syncfs(2): everything on the filesystem that `fd` lies on.
pub fn sync_filesystem(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::syncfs(fd)
}

/// Sets owner, group or both.
pub fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::fchown(fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
}

/// Sets the permission bits.
pub fn chmod(fd: BorrowedFd<'_>, perm: u32) -> Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(perm))
}

/// Sets access and modification time.
pub fn set_times(fd: BorrowedFd<'_>, atime: SetTime, mtime: SetTime) -> Result<()> {
    rustix::fs::futimens(fd, &timestamps(atime, mtime))
}

/// The inode flag of chattr +i: nothing of the file may be changed.
pub const IMMUTABLE: u32 = rustix::fs::IFlags::IMMUTABLE.bits();
/// The inode flag of chattr +a: the file may only be opened for writing to append.
pub const APPEND_ONLY: u32 = rustix::fs::IFlags::APPEND.bits();

/// The inode flags that chattr(1) shows (FS_IOC_GETFLAGS).
pub fn flags(fd: BorrowedFd<'_>) -> Result<u32> {
    Ok(rustix::fs::ioctl_getflags(fd)?.bits())
}

/// Sets the inode flags that chattr(1) sets (FS_IOC_SETFLAGS).
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    rustix::fs::ioctl_setflags(fd, rustix::fs::IFlags::from_bits_retain(flags))
}

/// The first place at or behind `at` that is in a hole (SEEK_HOLE); the end of the file is one. `at` must not lie behind it.
/// Moves the position of the descriptor.
pub fn next_hole(fd: BorrowedFd<'_>, at: u64) -> Result<u64> {
    match rustix::fs::seek(fd, SeekFrom::Hole(at)) {
        // The store does not know holes, or the file was cut meanwhile.
        Err(Errno::INVAL | Errno::NXIO) => rustix::fs::seek(fd, SeekFrom::End(0)),
        other => other,
    }
}

/// The first place at or behind `at` that may hold data (SEEK_DATA); `at` itself where the store cannot tell.
/// Moves the position of the descriptor.
pub fn next_data(fd: BorrowedFd<'_>, at: u64) -> Result<Option<u64>> {
    match rustix::fs::seek(fd, SeekFrom::Data(at)) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error),
    }
}
