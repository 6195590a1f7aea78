//! Short forms of system calls on paths, each giving the errno.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use rustix::io::Errno;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, XattrFlags};

pub type Answer<T> = Result<T, Errno>;

/// The errno of a std error.
pub fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or_else(|| panic!("an error without errno: {error}"))
}

/// What std said, as errno.
pub fn said<T>(outcome: std::io::Result<T>) -> Answer<T> {
    outcome.map_err(|error| errno(&error))
}

/// Bytes that tell their own position and `seed`: no two aligned 8-byte words of one seed are alike.
pub fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let word =
        |i: u64| (i ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93).to_le_bytes();
    let first = offset / 8;
    let count = (len as u64 + offset % 8).div_ceil(8);
    let mut bytes = Vec::with_capacity(8 * count as usize);
    (first..first + count).for_each(|i| bytes.extend_from_slice(&word(i)));
    let skip = (offset % 8) as usize;
    bytes[skip..skip + len].to_vec()
}

/// Open for reading and writing, made if need be, never cut.
pub fn open_rw(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.unwrap_or_else(|e| panic!("open {}: {e}", path.display()))
}

pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

pub fn mkdir(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|e| panic!("mkdir {}: {e}", path.display()));
}

pub fn lstat(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("lstat {}: {e}", path.display()))
}

/// Permission bits, with suid, sgid and sticky.
pub fn mode(path: &Path) -> u32 {
    lstat(path).mode() & 0o7777
}

pub fn chmod(path: &Path, mode: u32) {
    let changed = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    changed.unwrap_or_else(|e| panic!("chmod {mode:o} {}: {e}", path.display()));
}

/// lchown(2).
pub fn chown(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
}

pub fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Answer<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

pub fn mknod(path: &Path, kind: FileType, mode: u32, device: u64) -> Answer<()> {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device)
}

pub fn mkdir_mode(path: &Path, mode: u32) -> Answer<()> {
    rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode))
}

/// Sets times, in seconds and nanoseconds; the link itself if `path` is one.
pub fn set_times(path: &Path, access: (i64, i64), change: (i64, i64)) -> Answer<()> {
    let spec = |(tv_sec, tv_nsec)| rustix::fs::Timespec { tv_sec, tv_nsec };
    let times = rustix::fs::Timestamps { last_access: spec(access), last_modification: spec(change) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Value of an extended attribute, of the link itself if `path` is one.
pub fn get_xattr(path: &Path, name: &str) -> Answer<Vec<u8>> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::lgetxattr(path, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Answer<()> {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
}

pub fn remove_xattr(path: &Path, name: &str) -> Answer<()> {
    rustix::fs::lremovexattr(path, name)
}

/// Names of extended attributes, sorted.
pub fn list_xattrs(path: &Path) -> Answer<Vec<String>> {
    let mut list = vec![0u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut list)?;
    let names = list[..len].split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut names: Vec<String> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Names in a directory, as bytes, sorted.
pub fn names(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("read directory {}: {e}", dir.display()));
    let mut names: Vec<Vec<u8>> = entries.map(|e| e.expect("entry").file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

/// Every object below `root`, parents before children, without `root` itself; symlinks are not followed.
pub fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for name in names(&dir) {
            let path = dir.join(OsStr::from_bytes(&name));
            if lstat(&path).is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// `root/name` for a name of any bytes.
pub fn child(root: &Path, name: &[u8]) -> PathBuf {
    root.join(OsStr::from_bytes(name))
}
