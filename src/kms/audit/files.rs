//! Files of the log, opened so that their names lead to nothing else.
//!
//! Root may write the log of another user's keystore (a mount for all users), in a folder where that user may make any file:
//! a link there must not turn the writer against files of root's. So a link is never followed, nothing but a regular file of
//! the folder's owner is opened, and what root makes is given to the owner through its descriptor.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::kms::owner::give_to_owner;

const ROOT: u32 = 0;

fn refused(what: &str) -> Error {
    let next = "the audit log uses only regular files of its folder's owner. Next: remove it";
    Error::other(format!("it is {what}, and {next}"))
}

/// Refuses a folder that is a link to somebody else's.
pub(super) fn check_folder(dir: &Path) -> Result<()> {
    let (named, found) = (fs::symlink_metadata(dir)?, fs::metadata(dir)?);
    if !found.is_dir() {
        return Err(Error::new(ErrorKind::NotADirectory, "it is no directory"));
    }
    if named.uid() == found.uid() { Ok(()) } else { Err(refused("a link to a folder of another user")) }
}

fn check(dir: &Path, named: &Metadata) -> Result<()> {
    if named.is_symlink() {
        return Err(refused("a symbolic link"));
    }
    if !named.is_file() {
        return Err(refused("no regular file"));
    }
    let owner = fs::metadata(dir)?.uid();
    // Nobody else can have put something into root's folder.
    let is_owners = owner == ROOT || named.uid() == owner;
    // Root's own, until it was given away.
    let is_fresh = named.uid() == ROOT && named.nlink() == 1;
    if is_owners || is_fresh { Ok(()) } else { Err(refused("a file of another user")) }
}

/// Opens a file in `dir` that is there.
pub(super) fn open(dir: &Path, path: &Path, options: &OpenOptions) -> Result<File> {
    let named = fs::symlink_metadata(path)?;
    check(dir, &named)?;
    // Neither makes nor empties anything, so that opening what has just taken its place does no harm.
    let file = options.open(path)?;
    let opened = file.metadata()?;
    let is_same = (opened.dev(), opened.ino()) == (named.dev(), named.ino());
    if is_same { Ok(file) } else { Err(refused("replaced while it is opened")) }
}

/// Opens a file in `dir` for writing, and makes it if it is missing.
pub(super) fn open_or_make(dir: &Path, path: &Path) -> Result<File> {
    match open(dir, path, OpenOptions::new().append(true)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        done => return done,
    }
    // create_new follows no link.
    let file = match OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
        // Another writer was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return open(dir, path, OpenOptions::new().append(true));
        }
        file => file?,
    };
    give_to_owner(dir, &file);
    Ok(file)
}

/// Replaces a file in `dir` durably.
pub(super) fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        give_to_owner(dir, &file);
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // A leftover is removed by the next one.
        let _ = fs::remove_file(&temporary);
    })?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    #[test]
    fn links_and_other_things_are_not_opened_and_nothing_behind_them_changes() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("audit");
        fs::create_dir(&dir).unwrap();
        let target = base.path().join("target");
        fs::write(&target, "precious").unwrap();
        let path = |name: &str| dir.join(name);
        symlink(&target, path("link")).unwrap();
        symlink(base.path().join("new"), path("dangling")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        for (name, words) in
            [("link", "a symbolic link"), ("dangling", "a symbolic link"), ("folder", "no regular file")]
        {
            for opened in [open_or_make(&dir, &path(name)), open(&dir, &path(name), OpenOptions::new().read(true))] {
                let error = opened.unwrap_err().to_string();
                assert!(error.contains(words) && error.contains("Next: "), "{name}: {error}");
            }
        }
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert!(!base.path().join("new").exists());
        assert!(open_or_make(&dir, &path("fresh")).is_ok() && open_or_make(&dir, &path("fresh")).is_ok());
        assert_eq!(fs::metadata(path("fresh")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_folder_may_be_a_link_only_to_one_of_the_same_user() {
        let base = tempfile::tempdir().unwrap();
        let (own, link, file) = (base.path().join("own"), base.path().join("link"), base.path().join("file"));
        fs::create_dir(&own).unwrap();
        symlink(&own, &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(check_folder(&own).is_ok() && check_folder(&link).is_ok() && check_folder(&file).is_err());
        // Who is root can make something for another user.
        if fs::metadata(&own).unwrap().uid() == ROOT {
            lchown(&link, Some(1234), Some(1234)).unwrap();
            assert!(check_folder(&link).unwrap_err().to_string().contains("of another user"));
            let theirs = own.join("theirs");
            fs::write(&theirs, "").unwrap();
            chown(&own, Some(1234), Some(1234)).unwrap();
            chown(&theirs, Some(1235), Some(1235)).unwrap();
            assert!(open_or_make(&own, &theirs).unwrap_err().to_string().contains("of another user"));
            chown(&theirs, Some(1234), Some(1234)).unwrap();
            assert!(open_or_make(&own, &theirs).is_ok());
            assert_eq!(open_or_make(&own, &own.join("made")).unwrap().metadata().unwrap().uid(), 1234);
            let precious = base.path().join("precious");
            fs::write(&precious, "").unwrap();
            fs::hard_link(&precious, own.join("hard")).unwrap();
            assert!(open_or_make(&own, &own.join("hard")).unwrap_err().to_string().contains("of another user"));
            assert_eq!(fs::metadata(&precious).unwrap().uid(), ROOT);
        }
    }
}
