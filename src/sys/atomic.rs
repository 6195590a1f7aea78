//! Replacing a whole file so that a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names of temporary files begin. They are internal names of a backing tree.
pub const TEMPORARY_PREFIX: &str = ".kmsfs.tmp.";

/// Makes `path` hold `bytes`, with permissions `mode` (less the umask), whether or not it existed. Root gives it to the owner
/// of the directory: what a mount of root's writes beside a user's files must not lock that user out.
///
/// The bytes go to a temporary file beside `path`, which is synced and renamed over it; then the
/// directory is synced. After a crash or power cut at any moment, `path` is whole: what it was
/// before, or all of `bytes`. Once this has returned, it is `bytes`. What may be left over is a
/// file whose name begins with [`TEMPORARY_PREFIX`]; it means nothing and can be removed.
///
/// # Errors
/// Those of open, write, fsync and rename. `path` is then what it was before, unless only the
/// last step failed, the sync of the directory: then it is new, but may be old after a power cut.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let directory = parent(path)?;
    let (temporary, mut file) = create_temporary(directory, mode)?;
    give_to_owner(directory, &file);
    let renamed = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(e) = renamed {
        // Already failing: the leftover is harmless, and the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    sync_directory(directory)
}

/// Makes durable which names are in `directory`, and its extended attributes.
///
/// # Errors
/// Those of open and fsync.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Only root may, and where it cannot be done (a network filesystem) the file is usable all the same.
fn give_to_owner(directory: &Path, file: &File) {
    if let (Ok(owner), Ok(made)) = (fs::metadata(directory), file.metadata())
        && (owner.uid(), owner.gid()) != (made.uid(), made.gid())
    {
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

/// The directory that holds `path`; the current one for a bare name.
fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the root directory is no file")),
    }
}

fn create_temporary(directory: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{TEMPORARY_PREFIX}{}.{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
            // Left by a crashed process that had this id: take the next number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(file) => return Ok((path, file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_made_and_replaced_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        replace(&path, 0o600, b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let before = File::open(&path).unwrap();
        replace(&path, 0o600, b"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        // The old inode was not written to: a reader that has it open still reads the old file.
        assert_eq!(io::read_to_string(before).unwrap(), "one");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, 0o600, b"x").is_err(), "a file cannot be renamed over a directory");
        assert_eq!(names(dir.path()), ["d"]);
        assert!(replace(&dir.path().join("absent/f"), 0o600, b"x").is_err());
    }

    #[test]
    fn leftovers_of_a_crash_are_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _file) = create_temporary(dir.path(), 0o600).unwrap();
        let number: u64 = first.to_str().unwrap().rsplit('.').next().unwrap().parse().unwrap();
        for next in number + 1..number + 40 {
            fs::write(dir.path().join(format!("{TEMPORARY_PREFIX}{}.{next}", std::process::id())), b"").unwrap();
        }
        replace(&dir.path().join("f"), 0o600, b"x").unwrap();
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"x");
    }
}
