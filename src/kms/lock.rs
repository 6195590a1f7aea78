//! One process at a time: sled has no other way, and changes would be lost without it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::KeystoreError;

const LOCK_NAME: &str = "lock";

/// Locks the keystore in `dir` for this process, waiting until `deadline`, and notes the pid in the lock file.
pub(super) fn take(dir: &Path, deadline: Instant) -> Result<File, KeystoreError> {
    let path = dir.join(LOCK_NAME);
    let mut file = loop {
        let file = wait_for(dir, &path, deadline)?;
        // A restore moves the whole directory aside: then this is the lock of the former one, and nobody's.
        let locked = file.metadata().map_err(KeystoreError::io("look at", &path))?;
        if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino())) {
            break file;
        }
    };
    // Only for the message above; the lock itself is what counts.
    let note = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    note.map_err(KeystoreError::io("write", &path))?;
    Ok(file)
}

fn wait_for(dir: &Path, path: &Path, deadline: Instant) -> Result<File, KeystoreError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open.map_err(KeystoreError::io("open", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(KeystoreError::io("lock", path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let pid = (&file).take(20).read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
                return Err(KeystoreError::InUse { dir: dir.to_path_buf(), pid });
            }
        }
    }
}
