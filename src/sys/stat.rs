//! Attributes of files and of filesystems, by statx(2) and fstatvfs(3).

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, StatVfs, StatxFlags, StatxTimestamp, makedev};
use rustix::io::Result;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl FileKind {
    /// The kind in the `S_IFMT` bits of a mode; a regular file if they say nothing, as mknod(2) has it.
    pub fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::File,
        }
    }
}

/// A point in time: seconds since the epoch (may be negative) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below a billion.
    pub nanos: u32,
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let base = if time.seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
        base + Duration::from_nanos(time.nanos.into())
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let borrow = i64::from(before.subsec_nanos() > 0);
                let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Self { seconds: -(before.as_secs() as i64) - borrow, nanos }
            }
        }
    }
}

impl From<StatxTimestamp> for Time {
    fn from(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanos: time.tv_nsec }
    }
}

/// What statx(2) says of a file.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Device the file lies on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky: 12 bits.
    pub perm: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of device nodes.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte units.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Creation, where the store keeps it.
    pub btime: Option<Time>,
}

fn statx<Fd: AsFd>(dir: Fd, name: &[u8], flags: AtFlags) -> Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let s = rustix::fs::statx(dir, name, flags | AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let mode = u32::from(s.stx_mode);
    Ok(Stat {
        dev: makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        kind: FileKind::from_mode(mode),
        perm: mode & 0o7777,
        nlink: s.stx_nlink,
        uid: s.stx_uid,
        gid: s.stx_gid,
        rdev: makedev(s.stx_rdev_major, s.stx_rdev_minor),
        size: s.stx_size,
        blocks: s.stx_blocks,
        atime: s.stx_atime.into(),
        mtime: s.stx_mtime.into(),
        ctime: s.stx_ctime.into(),
        btime: (s.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| s.stx_btime.into()),
    })
}

/// Attributes of the open file `fd`.
pub fn of_fd<Fd: AsFd>(fd: Fd) -> Result<Stat> {
    statx(fd, b"", AtFlags::EMPTY_PATH)
}

/// Attributes of `name` in `dir`; a symlink is not followed.
pub fn at<Fd: AsFd>(dir: Fd, name: &[u8]) -> Result<Stat> {
    statx(dir, name, AtFlags::empty())
}

/// Filesystems that make inode numbers up whenever they load an object: FAT, exFAT, and what FUSE serves from paths.
const FLEETING: [u32; 3] = [0x4d44, 0x2011_bab0, 0x6573_5546];

/// Whether the filesystem that `fd` lies on keeps the inode number of an object that nobody has open.
pub fn keeps_inode_numbers<Fd: AsFd>(fd: Fd) -> Result<bool> {
    // The type has another width and sign on each machine.
    Ok(!FLEETING.contains(&(rustix::fs::fstatfs(fd)?.f_type as u32)))
}

/// Filesystems of local disks on which closing what has no name any more is the slow part of removing it: ext2 to ext4, XFS,
/// btrfs, F2FS, bcachefs and ZFS. (NFS would give another name to what is open.)
const LOCAL: [u32; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1];

/// Whether what is open can lose its name on the filesystem that `fd` lies on, and its space is given back when it is closed.
pub fn frees_when_closed<Fd: AsFd>(fd: Fd) -> Result<bool> {
    Ok(LOCAL.contains(&(rustix::fs::fstatfs(fd)?.f_type as u32)))
}

/// Free space and limits of the filesystem that `fd` lies on.
pub fn filesystem<Fd: AsFd>(fd: Fd) -> Result<StatVfs> {
    rustix::fs::fstatvfs(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_there_and_back() {
        for (seconds, nanos) in [(0, 0), (946_684_799, 123_456_789), (-1, 0), (-1, 1), (-5, 999_999_999), (1 << 33, 7)]
        {
            let time = Time { seconds, nanos };
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }
}
