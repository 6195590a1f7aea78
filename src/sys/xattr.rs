//! Extended attributes by descriptor.
//!
//! A missing attribute is `None`, never an error. Names are full names, with their namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// What the attributes belong to.
#[derive(Debug, Clone, Copy)]
pub enum Target<'fd> {
    /// A descriptor opened for reading or writing (`O_DIRECTORY` for a directory).
    Open(BorrowedFd<'fd>),
    /// An `O_PATH` descriptor, which the f*xattr calls refuse: reached as `/proc/self/fd/N`.
    /// The kernel jumps to that very inode, so a symlink is not followed.
    OPath(BorrowedFd<'fd>),
}

impl<'fd> From<BorrowedFd<'fd>> for Target<'fd> {
    fn from(fd: BorrowedFd<'fd>) -> Self {
        Self::Open(fd)
    }
}

/// Whether an attribute may, must or must not exist when it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Made or replaced.
    Set,
    /// Made; `EEXIST` if it is there (`XATTR_CREATE`).
    Create,
    /// Replaced; `ENODATA` if it is not there (`XATTR_REPLACE`).
    Replace,
}

impl Mode {
    fn flags(self) -> XattrFlags {
        match self {
            Self::Set => XattrFlags::empty(),
            Self::Create => XattrFlags::CREATE,
            Self::Replace => XattrFlags::REPLACE,
        }
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The longest value that Linux has (XATTR_SIZE_MAX).
const LEN_MAX: usize = 64 << 10;
/// Longer lists of names are as good as none (ERANGE) for whoever only wants to know whether there are any.
const LIST_MAX: usize = 1024;
/// Most attributes are shorter than this, so that one system call reads them.
const USUAL_LEN: usize = 256;

/// The length of attribute `name`.
///
/// # Errors
/// Those of getxattr(2), but for `ENODATA`.
pub fn len(target: Target<'_>, name: &[u8]) -> io::Result<Option<usize>> {
    present(match target {
        Target::Open(fd) => rustix::fs::fgetxattr_query(fd, name),
        Target::OPath(fd) => rustix::fs::getxattr_query(proc_path(fd), name),
    })
}

/// Reads attribute `name` into `buffer` and gives its length.
///
/// # Errors
/// `ERANGE` if `buffer` is too short; `EOPNOTSUPP` if the filesystem has no such attributes.
pub fn get_into(target: Target<'_>, name: &[u8], buffer: &mut [u8]) -> io::Result<Option<usize>> {
    present(match target {
        Target::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
        Target::OPath(fd) => rustix::fs::getxattr(proc_path(fd), name, buffer),
    })
}

fn present<T>(read: Result<T, Errno>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Reads attribute `name`.
///
/// # Errors
/// Those of getxattr(2), but for `ENODATA` and `ERANGE`.
pub fn get(target: Target<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut usual = [0; USUAL_LEN];
    match get_into(target, name, &mut usual) {
        Err(e) if is_range(&e) => {}
        read => return Ok(read?.map(|len| usual[..len].to_vec())),
    }
    // The value may grow between the two calls: then ask again.
    loop {
        let Some(len) = len(target, name)? else { return Ok(None) };
        let mut value = vec![0; len.max(1)];
        match get_into(target, name, &mut value) {
            Err(e) if is_range(&e) => {}
            Ok(Some(len)) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Ok(None) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Reads attribute `name` of what is called `entry` in `dir`, which need not be open. A symlink is not followed.
///
/// # Errors
/// Those of lgetxattr(2), but for `ENODATA`.
pub fn get_at(dir: BorrowedFd<'_>, entry: &[u8], name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = [proc_path(dir).as_bytes(), b"/", entry].concat();
    let mut value = vec![0; USUAL_LEN];
    loop {
        match present(rustix::fs::lgetxattr(&path[..], name, &mut value[..])) {
            Err(e) if is_range(&e) && value.len() < LEN_MAX => value.resize(LEN_MAX, 0),
            read => {
                return Ok(read?.map(|len| {
                    value.truncate(len);
                    value
                }));
            }
        }
    }
}

/// Sets attribute `name`.
///
/// # Errors
/// Those of setxattr(2), among them `EEXIST` and `ENODATA` as `mode` says.
pub fn set(target: Target<'_>, name: &[u8], value: &[u8], mode: Mode) -> io::Result<()> {
    let flags = mode.flags();
    match target {
        Target::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags)?,
        Target::OPath(fd) => rustix::fs::setxattr(proc_path(fd), name, value, flags)?,
    }
    Ok(())
}

/// The names of all attributes that the caller may see.
///
/// # Errors
/// Those of listxattr(2), but for `ERANGE`.
pub fn list(target: Target<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0; USUAL_LEN];
    loop {
        let read = match target {
            Target::Open(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
            Target::OPath(fd) => rustix::fs::listxattr(proc_path(fd), &mut names[..]),
        };
        match read {
            Ok(len) => {
                names.truncate(len);
                let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                return Ok(names.map(<[u8]>::to_vec).collect());
            }
            Err(Errno::RANGE) => {
                let len = match target {
                    Target::Open(fd) => rustix::fs::flistxattr_query(fd),
                    Target::OPath(fd) => rustix::fs::listxattr_query(proc_path(fd)),
                }?;
                names.resize(len.max(1), 0);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// The names of all attributes of what is called `entry` in `dir`, which need not be open. A symlink is not followed.
///
/// # Errors
/// Those of llistxattr(2).
pub fn list_at(dir: BorrowedFd<'_>, entry: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let path = [proc_path(dir).as_bytes(), b"/", entry].concat();
    let mut names = [0; LIST_MAX];
    let len = rustix::fs::llistxattr(&path[..], &mut names[..])?;
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Removes attribute `name` and says whether it was there.
///
/// # Errors
/// Those of removexattr(2), but for `ENODATA`.
pub fn remove(target: Target<'_>, name: &[u8]) -> io::Result<bool> {
    let removed = present(match target {
        Target::Open(fd) => rustix::fs::fremovexattr(fd, name),
        Target::OPath(fd) => rustix::fs::removexattr(proc_path(fd), name),
    });
    Ok(removed?.is_some())
}

/// Whether `error` says that the filesystem has no extended attributes of this namespace.
pub fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

/// Whether `error` says that an attribute which had to exist does not.
pub fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODATA.raw_os_error())
}

fn is_range(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::RANGE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{Mode as FileMode, OFlags};

    use super::*;

    /// A file on the filesystem of the build, and both kinds of descriptor for it.
    fn file() -> (tempfile::TempDir, File, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let open = File::create(&path).unwrap();
        let o_path = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW, FileMode::empty()).unwrap();
        (dir, open, o_path)
    }

    #[test]
    fn both_kinds_of_descriptor_reach_the_same_attributes() {
        let (_dir, open, o_path) = file();
        let (open, o_path) = (Target::Open(open.as_fd()), Target::OPath(o_path.as_fd()));
        assert_eq!(get(open, b"user.a").unwrap(), None);
        assert_eq!(get(o_path, b"user.a").unwrap(), None);
        set(o_path, b"user.a", b"one", Mode::Create).unwrap();
        assert_eq!(get(open, b"user.a").unwrap().unwrap(), b"one");
        set(open, b"user.b", b"", Mode::Set).unwrap();
        assert_eq!(get(o_path, b"user.b").unwrap().unwrap(), b"");
        for target in [open, o_path] {
            let mut names = list(target).unwrap();
            names.retain(|name| name.starts_with(b"user."));
            names.sort();
            assert_eq!(names, [b"user.a", b"user.b"]);
        }
        assert!(remove(o_path, b"user.a").unwrap());
        assert!(!remove(open, b"user.a").unwrap());
    }

    #[test]
    fn create_and_replace_insist() {
        let (_dir, open, _) = file();
        let open = Target::from(open.as_fd());
        assert!(is_missing(&set(open, b"user.a", b"1", Mode::Replace).unwrap_err()));
        set(open, b"user.a", b"1", Mode::Create).unwrap();
        assert_eq!(set(open, b"user.a", b"2", Mode::Create).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        set(open, b"user.a", b"2", Mode::Replace).unwrap();
        assert_eq!(get(open, b"user.a").unwrap().unwrap(), b"2");
    }

    #[test]
    fn long_values_and_long_lists_are_read_whole() {
        let (_dir, open, _) = file();
        let open = Target::from(open.as_fd());
        let value = vec![7; USUAL_LEN + 1];
        set(open, b"user.long", &value, Mode::Set).unwrap();
        assert_eq!(get(open, b"user.long").unwrap().unwrap(), value);
        assert!(is_range(&get_into(open, b"user.long", &mut [0; 8]).unwrap_err()));
        for i in 0..30 {
            set(open, format!("user.attribute.number.{i:03}").as_bytes(), b"x", Mode::Set).unwrap();
        }
        let names = list(open).unwrap();
        assert_eq!(names.iter().filter(|name| name.starts_with(b"user.")).count(), 31);
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let (dir, open, _) = file();
        set(Target::from(open.as_fd()), b"user.a", b"1", Mode::Set).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        let link = rustix::fs::open(&link, OFlags::PATH | OFlags::NOFOLLOW, FileMode::empty()).unwrap();
        assert!(!matches!(get(Target::OPath(link.as_fd()), b"user.a"), Ok(Some(_))));
    }

    #[test]
    fn proc_has_no_user_attributes() {
        let file = File::open("/proc/self/status").unwrap();
        let error = set(Target::from(file.as_fd()), b"user.a", b"1", Mode::Set).unwrap_err();
        assert!(is_unsupported(&error) || error.kind() == io::ErrorKind::PermissionDenied);
    }
}
