//! Between the kernel's numbers, fuser's types and ours. Pure functions, nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, OpenAccMode, OpenFlags, Request, TimeOrNow, WriteFlags};

use super::caching::Caching;
use crate::fs::{Allocation, Attr, Caller, FileKind, Ino, NewMode, OpenMode, RenameFlags, SetTime, Time};
use crate::fs::{Errno, WriteOrigin, XattrMode};

// asm-generic/fcntl.h, which every Linux architecture but alpha, mips, parisc and sparc follows. FUSE passes the
// flags of open(2) as the kernel was given them.
const O_EXCL: i32 = 0o200;
const O_TRUNC: i32 = 0o1000;
const O_APPEND: i32 = 0o2000;
#[cfg(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))]
compile_error!("the flags of open(2) have other values on this architecture: see fuse/convert.rs");

// linux/xattr.h
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

// linux/fs.h
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

// linux/falloc.h
const FALLOC_FL_KEEP_SIZE: i32 = 0x01;
const FALLOC_FL_PUNCH_HOLE: i32 = 0x02;
const FALLOC_FL_ZERO_RANGE: i32 = 0x10;
const PUNCH_AND_KEEP: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const ZERO_AND_KEEP: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

/// Permission bits with suid, sgid and sticky.
const PERMISSIONS: u32 = 0o7777;

/// What stat(2) proposes as a length for reads and writes: a block of ours.
const BLOCK_SIZE: u32 = 4096;

/// Who makes a request. Requests that the kernel makes for itself, as writes out of its cache, come as root.
pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// Our inode number.
pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

/// An errno for the kernel. It takes ENOSYS as the word that a whole operation does not exist and never asks
/// again, so where the backing store said so for one file, the file gets EOPNOTSUPP.
pub(super) fn errno(errno: Errno) -> fuser::Errno {
    let errno = if errno == Errno::NOSYS { Errno::OPNOTSUPP } else { errno };
    fuser::Errno::from_i32(errno.raw_os_error())
}

/// Type of a file.
pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes of a file.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: stat.size,
        blocks: stat.blocks,
        atime: stat.atime.into(),
        mtime: stat.mtime.into(),
        ctime: stat.ctime.into(),
        perm: (stat.perm & PERMISSIONS) as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: kernel_dev(stat.rdev),
        ..bare_attr(attr.ino, stat.kind)
    }
}

/// Attributes that say no more than number and type: for `.` and `..` in a listing, of which the kernel reads
/// nothing else, and, with number 0, for a name that does not exist.
pub(super) fn bare_attr(ino: Ino, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// A device number in the kernel's 32 bits (`new_encode_dev` of linux/kdev_t.h): minor 0-7, major 8-19, minor
/// 20-31. The C library's `makedev` spreads wider numbers over 64 bits but lays these 32 out alike. A device that
/// does not fit is shown as 0, which is none: the kernel could not name it either.
pub(super) fn kernel_dev(dev: u64) -> u32 {
    u32::try_from(dev).unwrap_or(0)
}

/// The other way round.
pub(super) fn libc_dev(dev: u32) -> u64 {
    dev.into()
}

/// The mode of a new object.
pub(super) fn new_mode(mode: u32, umask: u32) -> NewMode {
    NewMode { perm: mode & PERMISSIONS, umask }
}

/// Permission bits of a mode.
pub(super) fn perm(mode: u32) -> u32 {
    mode & PERMISSIONS
}

/// How a file is opened.
pub(super) fn open_mode(flags: OpenFlags, caching: Caching) -> OpenMode {
    let append = flags.0 & O_APPEND != 0;
    OpenMode {
        write: flags.acc_mode() != OpenAccMode::O_RDONLY,
        truncate: flags.0 & O_TRUNC != 0,
        append,
        // One writer's kernel knows the end.
        finds_end: append && caching == Caching::Shared,
        exclusive: flags.0 & O_EXCL != 0,
        write_only: flags.acc_mode() == OpenAccMode::O_WRONLY,
    }
}

/// Where a write comes from. The end of privileges comes first: it must not be lost.
pub(super) fn write_origin(flags: WriteFlags) -> WriteOrigin {
    if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
        WriteOrigin::PrivilegesEnd
    } else if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
        WriteOrigin::Cache
    } else {
        WriteOrigin::Caller
    }
}

/// A time to be set.
pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::At(requested_time(time)),
    }
}

/// The time the kernel sent. fuser 0.18 counts the nanoseconds of a time before 1970 backwards (-5 s and 250 ms
/// arrive as -5.25 s, where -4.75 s is meant), so such a time is taken apart the way fuser put it together.
pub(super) fn requested_time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => time.into(),
        Err(before) => {
            let before = before.duration();
            Time { seconds: 0i64.saturating_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

/// Flags of renameat2(2). What is unknown is left in: the backing store refuses it.
pub(super) fn rename_flags(flags: fuser::RenameFlags) -> RenameFlags {
    RenameFlags::from_bits_retain(flags.bits())
}

/// Flags of setxattr(2).
///
/// # Errors
/// EINVAL for unknown ones and for both at once.
pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Set),
        XATTR_CREATE => Ok(XattrMode::Create),
        XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::INVAL),
    }
}

/// Mode of fallocate(2).
///
/// # Errors
/// EOPNOTSUPP for all that we cannot do.
pub(super) fn allocation(mode: i32) -> Result<Allocation, Errno> {
    match mode {
        0 => Ok(Allocation::Reserve { keep_size: false }),
        FALLOC_FL_KEEP_SIZE => Ok(Allocation::Reserve { keep_size: true }),
        PUNCH_AND_KEEP => Ok(Allocation::PunchHole),
        FALLOC_FL_ZERO_RANGE => Ok(Allocation::Zero { keep_size: false }),
        ZERO_AND_KEEP => Ok(Allocation::Zero { keep_size: true }),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// Whether lseek(2) looks for a hole; else it looks for data. The kernel answers the other kinds itself.
///
/// # Errors
/// EINVAL for those; ENXIO for a negative offset, which lies in no file.
pub(super) fn seek_target(offset: i64, whence: i32) -> Result<(u64, bool), Errno> {
    let hole = match whence {
        SEEK_DATA => false,
        SEEK_HOLE => true,
        _ => return Err(Errno::INVAL),
    };
    Ok((u64::try_from(offset).map_err(|_| Errno::NXIO)?, hole))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// fuser 0.18's `system_time_from_time`, as a request arrives.
    fn as_fuser_sends(seconds: i64, nanos: u32) -> TimeOrNow {
        let distance = Duration::new(seconds.unsigned_abs(), nanos);
        TimeOrNow::SpecificTime(if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance })
    }

    #[test]
    fn times_arrive_as_the_kernel_sent_them_before_1970_too() {
        for (seconds, nanos) in [(0, 0), (0, 1), (1 << 33, 999_999_999), (-1, 0), (-5, 250_000_000), (-1, 999_999_999)]
        {
            let set = set_time(Some(as_fuser_sends(seconds, nanos)));
            assert_eq!(set, SetTime::At(Time { seconds, nanos }));
        }
        assert_eq!(set_time(Some(TimeOrNow::Now)), SetTime::Now);
        assert_eq!(set_time(None), SetTime::Keep);
    }

    #[test]
    fn the_earliest_time_is_no_overflow() {
        let set = set_time(Some(TimeOrNow::SpecificTime(UNIX_EPOCH - Duration::from_secs(1 << 63))));
        assert_eq!(set, SetTime::At(Time { seconds: i64::MIN, nanos: 0 }));
    }

    /// `new_encode_dev` of linux/kdev_t.h.
    fn new_encode_dev(major: u32, minor: u32) -> u32 {
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    /// `makedev` of the C library (gnu_dev_makedev(3)).
    fn makedev(major: u64, minor: u64) -> u64 {
        ((major & 0xffff_f000) << 32) | ((major & 0xfff) << 8) | ((minor & 0xffff_ff00) << 12) | (minor & 0xff)
    }

    #[test]
    fn device_numbers_survive_the_way_there_and_back() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (259, 70_000), (0xfff, 0xf_ffff)] {
            let (kernel, libc) = (new_encode_dev(major, minor), makedev(major.into(), minor.into()));
            assert_eq!(kernel_dev(libc), kernel, "{major}:{minor}");
            assert_eq!(libc_dev(kernel), libc, "{major}:{minor}");
        }
    }

    #[test]
    fn a_device_the_kernel_cannot_name_is_none() {
        assert_eq!(kernel_dev(makedev(0x1000, 1)), 0);
    }

    #[test]
    fn open_flags_say_what_open_asked_for() {
        let open_mode = |flags| open_mode(OpenFlags(flags), Caching::OneWriter);
        let mode = open_mode(0);
        assert!(!mode.write && !mode.truncate && !mode.append && !mode.exclusive);
        assert!(open_mode(1).write, "O_WRONLY");
        let mode = open_mode(2 | O_TRUNC | O_APPEND | O_EXCL);
        assert!(mode.write && mode.truncate && mode.append && mode.exclusive);
        assert!(!open_mode(0o100 | 0o4000).write, "O_CREAT and O_NONBLOCK are none of ours");
    }

    #[test]
    fn the_end_is_looked_for_only_where_others_write() {
        assert!(!open_mode(OpenFlags(1 | O_APPEND), Caching::OneWriter).finds_end);
        assert!(open_mode(OpenFlags(1 | O_APPEND), Caching::Shared).finds_end);
        assert!(!open_mode(OpenFlags(1), Caching::Shared).finds_end);
    }

    #[test]
    fn privileges_end_even_when_a_write_comes_from_the_cache() {
        let cache = WriteFlags::FUSE_WRITE_CACHE;
        assert_eq!(write_origin(WriteFlags::empty()), WriteOrigin::Caller);
        assert_eq!(write_origin(WriteFlags::FUSE_WRITE_LOCKOWNER), WriteOrigin::Caller);
        assert_eq!(write_origin(cache), WriteOrigin::Cache);
        assert_eq!(write_origin(cache | WriteFlags::FUSE_WRITE_KILL_SUIDGID), WriteOrigin::PrivilegesEnd);
    }

    #[test]
    fn only_the_allocations_we_can_do_pass() {
        assert_eq!(allocation(0), Ok(Allocation::Reserve { keep_size: false }));
        assert_eq!(allocation(1), Ok(Allocation::Reserve { keep_size: true }));
        assert_eq!(allocation(3), Ok(Allocation::PunchHole));
        assert_eq!(allocation(0x10), Ok(Allocation::Zero { keep_size: false }));
        assert_eq!(allocation(0x11), Ok(Allocation::Zero { keep_size: true }));
        for refused in [0x02, 0x08, 0x13, 0x20, 0x40, 0x41] {
            assert_eq!(allocation(refused), Err(Errno::OPNOTSUPP), "{refused:#x}");
        }
    }

    #[test]
    fn seeking_is_for_data_and_holes() {
        assert_eq!(seek_target(7, SEEK_DATA), Ok((7, false)));
        assert_eq!(seek_target(7, SEEK_HOLE), Ok((7, true)));
        assert_eq!(seek_target(-1, SEEK_HOLE), Err(Errno::NXIO));
        assert_eq!(seek_target(0, 2), Err(Errno::INVAL));
    }

    #[test]
    fn an_attribute_is_made_or_replaced_not_both() {
        assert_eq!(xattr_mode(0), Ok(XattrMode::Set));
        assert_eq!(xattr_mode(1), Ok(XattrMode::Create));
        assert_eq!(xattr_mode(2), Ok(XattrMode::Replace));
        assert_eq!(xattr_mode(3), Err(Errno::INVAL));
    }

    #[test]
    fn rename_flags_keep_their_bits() {
        assert_eq!(rename_flags(fuser::RenameFlags::RENAME_NOREPLACE), RenameFlags::NOREPLACE);
        assert_eq!(rename_flags(fuser::RenameFlags::RENAME_EXCHANGE), RenameFlags::EXCHANGE);
        assert_eq!(rename_flags(fuser::RenameFlags::RENAME_WHITEOUT), RenameFlags::WHITEOUT);
    }

    #[test]
    fn enosys_would_switch_an_operation_off_for_the_whole_mount() {
        assert_eq!(errno(Errno::NOSYS), fuser::Errno::EOPNOTSUPP);
        assert_eq!(errno(Errno::NOENT), fuser::Errno::ENOENT);
    }
}
