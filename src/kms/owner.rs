//! Files that root makes in a directory of another user's. A mount or a command of root's must not lock the owner of a keystore
//! out of it.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Gives `file`, which root may have made, to whoever owns `dir`.
pub(super) fn give_to_owner(dir: &Path, file: &File) {
    let give = || {
        let (owner, made) = (fs::metadata(dir)?, file.metadata()?);
        let is_theirs = (owner.uid(), owner.gid()) == (made.uid(), made.gid());
        if is_theirs { Ok(()) } else { fchown(file, Some(owner.uid()), Some(owner.gid())) }
    };
    if let Err(error) = give() {
        log::debug!("a file in {} stays with who made it: {error}", dir.display());
    }
}
