//! What a backing store can do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::Path;

use crate::sys::xattr::{self, Target};

use super::{ATTRIBUTE, VolumeError};

/// A name that `init` knows to be left over, and the same in capitals.
const PROBE: (&str, &str) = (".kmsfs.tmp.k", ".KMSFS.TMP.K");

/// What matters to the form of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreAbilities {
    /// It keeps extended attributes of users.
    pub has_xattrs: bool,
    /// It tells upper from lower case.
    pub tells_case: bool,
}

/// Tries out the store on which the directory `root` lies, with a file that is removed again.
///
/// # Errors
/// [`VolumeError::Io`] if no file can be made there.
pub fn probe_store(root: &Path) -> Result<StoreAbilities, VolumeError> {
    let tried = || -> io::Result<StoreAbilities> {
        let has_xattrs = match xattr::get(Target::Open(File::open(root)?.as_fd()), ATTRIBUTE.as_bytes()) {
            Err(error) if xattr::is_unsupported(&error) => false,
            found => found.map(|_| true)?,
        };
        let path = root.join(PROBE.0);
        OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        let other = fs::symlink_metadata(root.join(PROBE.1));
        fs::remove_file(&path)?;
        let tells_case = match other {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        Ok(StoreAbilities { has_xattrs, tells_case })
    };
    tried().map_err(VolumeError::io(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_of_the_build_is_told_right() {
        let dir = tempfile::tempdir().unwrap();
        let abilities = probe_store(dir.path()).unwrap();
        assert_eq!(abilities, StoreAbilities { has_xattrs: true, tells_case: true });
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
