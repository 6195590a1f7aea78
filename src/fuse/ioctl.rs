//! ioctl(2): the inode flags of chattr(1) and lsattr(1).

use crate::fs::{EncryptedFs, Errno, Result};

// linux/fs.h. The commands name a long, but the kernel passes an int to a FUSE server.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
/// Linux asks for this before each FS_IOC_SETFLAGS (seen with 6.18), to learn what changes.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;

/// Length of `struct fsxattr`, which begins with the flags; extents and project are all zero here.
const FSXATTR_LEN: usize = 28;

/// The flags that have a bit in `fsx_xflags` too: as FS_*_FL and as FS_XFLAG_*.
const XFLAGS: [(u32, u32); 5] = [
    (0x0000_0008, 0x20), // SYNC
    (0x0000_0010, 0x08), // IMMUTABLE
    (0x0000_0020, 0x10), // APPEND
    (0x0000_0040, 0x80), // NODUMP
    (0x0000_0080, 0x40), // NOATIME
];

/// Answers `command` on an open file or directory; returns the `out_size` bytes that the caller expects.
///
/// # Errors
/// ENOTTY for commands that are not known, FS_IOC_FSSETXATTR among them: there are no project ids here. FS_IOC32_SETFLAGS
/// too: Linux makes FS_IOC_SETFLAGS of it for 32-bit callers, and asks for owner and privileges only there. EINVAL if the
/// argument is too short.
pub(super) fn call(fs: &EncryptedFs, handle: u64, command: u32, input: &[u8], out_size: u32) -> Result<Vec<u8>> {
    match command {
        FS_IOC_GETFLAGS | FS_IOC32_GETFLAGS => Ok(output(fs.inode_flags(handle)?, out_size)?),
        FS_IOC_SETFLAGS => {
            fs.set_inode_flags(handle, argument(input)?)?;
            Ok(Vec::new())
        }
        FS_IOC_FSGETXATTR => Ok(fsxattr(fs.inode_flags(handle)?, out_size)?),
        _ => Err(Errno::NOTTY.into()),
    }
}

fn fsxattr(flags: u32, out_size: u32) -> std::result::Result<Vec<u8>, Errno> {
    if out_size as usize != FSXATTR_LEN {
        return Err(Errno::INVAL);
    }
    let xflags = XFLAGS.iter().filter(|(flag, _)| flags & flag != 0).fold(0u32, |sum, (_, xflag)| sum | xflag);
    let mut out = xflags.to_ne_bytes().to_vec();
    out.resize(FSXATTR_LEN, 0);
    Ok(out)
}

/// The kernel refuses a reply of any other length than it asked for. A long beside an int is filled with zeros,
/// behind it, as a little-endian machine lays it out; on a big-endian one the kernel only asks for an int.
fn output(flags: u32, out_size: u32) -> std::result::Result<Vec<u8>, Errno> {
    let flags = flags.to_ne_bytes();
    match out_size as usize {
        4 => Ok(flags.to_vec()),
        8 if cfg!(target_endian = "little") => Ok([flags, [0; 4]].concat()),
        _ => Err(Errno::INVAL),
    }
}

fn argument(input: &[u8]) -> std::result::Result<u32, Errno> {
    Ok(u32::from_ne_bytes(*input.first_chunk().ok_or(Errno::INVAL)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_has_the_length_that_was_asked_for() {
        assert_eq!(output(0x10, 4), Ok(0x10u32.to_ne_bytes().to_vec()));
        assert_eq!(output(0x10, 0), Err(Errno::INVAL));
        assert_eq!(output(0x10, 16), Err(Errno::INVAL));
    }

    #[test]
    fn extended_flags_say_what_the_flags_say() {
        let immutable_and_append = fsxattr(0x0008_0030, 28).unwrap();
        assert_eq!(immutable_and_append.len(), 28);
        assert_eq!(argument(&immutable_and_append), Ok(0x18));
        assert_eq!(fsxattr(0, 4), Err(Errno::INVAL));
    }

    #[test]
    fn a_short_argument_is_refused() {
        assert_eq!(argument(&0x20u32.to_ne_bytes()), Ok(0x20));
        assert_eq!(argument(&[1, 2, 3]), Err(Errno::INVAL));
    }
}
