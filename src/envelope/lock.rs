//! One writer for each volume.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::VolumeError;

pub(super) const LOCK: &str = ".kmsfs/lock";

/// What a process does with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Alone: nobody else may read or write.
    Write,
    /// Together with other readers.
    Read,
}

/// A held lock. It goes when this is dropped, or with the last process that inherited it.
#[derive(Debug)]
pub struct VolumeLock {
    /// `None` where a reader could not even make the lock file: nobody writes there.
    file: Option<File>,
    path: PathBuf,
    access: Access,
}

/// Locks the volume in the directory `root` (flock(2) on `.kmsfs/lock`). Never waits.
///
/// # Errors
/// [`VolumeError::InUse`] with the pid of the writer; [`VolumeError::Io`].
pub fn lock(root: &Path, access: Access) -> Result<VolumeLock, VolumeError> {
    let path = root.join(LOCK);
    let Some(mut file) = open(&path, access).map_err(VolumeError::io(&path))? else {
        return Ok(VolumeLock { file: None, path, access });
    };
    let locked = match access {
        Access::Write => file.try_lock(),
        Access::Read => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::Error(e)) => return Err(VolumeError::io(&path)(e)),
        Err(TryLockError::WouldBlock) => {
            // Readers do not write their pid: where they hold it, the file names an earlier writer.
            let by_readers = access == Access::Write && file.try_lock_shared().is_ok();
            let pid = if by_readers { None } else { read_pid(&mut file) };
            return Err(VolumeError::InUse { root: root.to_owned(), pid });
        }
    }
    let mut lock = VolumeLock { file: Some(file), path, access };
    lock.record_pid()?;
    Ok(lock)
}

impl VolumeLock {
    /// Writes the id of this process into the lock file: a lock survives fork(2), the id does not.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn record_pid(&mut self) -> Result<(), VolumeError> {
        match (&mut self.file, self.access) {
            (Some(file), Access::Write) => write_pid(file).map_err(VolumeError::io(&self.path)),
            _ => Ok(()),
        }
    }
}

impl Drop for VolumeLock {
    /// A child between its fork(2) and its execve(2) has the descriptor, too, and must not keep the lock.
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Closing unlocks as well.
            let _ = file.unlock();
        }
    }
}

fn open(path: &Path, access: Access) -> io::Result<Option<File>> {
    let make = |path| OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    if access == Access::Write {
        return make(path).map(Some);
    }
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match make(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
                Ok(None)
            }
            made => made.map(Some),
        },
        opened => opened.map(Some),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".kmsfs")).unwrap();
        dir
    }

    #[test]
    fn a_second_writer_is_told_who_has_it() {
        let dir = root();
        let first = lock(dir.path(), Access::Write).unwrap();
        for access in [Access::Write, Access::Read] {
            match lock(dir.path(), access) {
                Err(VolumeError::InUse { pid: Some(pid), .. }) => assert_eq!(pid, std::process::id()),
                other => panic!("{other:?}"),
            }
        }
        drop(first);
        lock(dir.path(), Access::Write).unwrap();
    }

    #[test]
    fn readers_share_and_keep_writers_out_without_writing() {
        let dir = root();
        fs::write(dir.path().join(LOCK), "999999999\n").unwrap();
        let readers = [lock(dir.path(), Access::Read).unwrap(), lock(dir.path(), Access::Read).unwrap()];
        assert!(matches!(lock(dir.path(), Access::Write), Err(VolumeError::InUse { pid: None, .. })));
        assert_eq!(fs::read_to_string(dir.path().join(LOCK)).unwrap(), "999999999\n");
        drop(readers);
        lock(dir.path(), Access::Write).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(LOCK)).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn the_error_names_the_directory_and_the_process() {
        let error = VolumeError::InUse { root: "/vault".into(), pid: Some(7) };
        assert_eq!(error.to_string(), "/vault is in use by the process 7; unmount it there first");
    }
}
