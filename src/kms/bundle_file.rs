//! Reading and atomically replacing bundle files.
//!
//! A bundle is replaced by a synced temporary file and a rename; the generation before it stays as `*.old`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::KeystoreError;
use super::bundle::{Bundle, Header, MAX_LEN};
use super::owner::give_to_owner;

/// Name of the bundle in a keystore and in a volume's `.kmsfs` folder.
pub const BUNDLE_NAME: &str = "keystore.bundle";

/// `path` with `suffix` behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Where the generation before is kept.
pub(super) fn old_path(path: &Path) -> PathBuf {
    beside(path, ".old")
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a file of a keystore is one that a crash left while a bundle was replaced.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_prefix(BUNDLE_NAME).is_some_and(|rest| rest == ".tmp" || rest == ".old.tmp")
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), KeystoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(KeystoreError::io("sync directory", dir))
}

/// Makes a directory, and those above it, for its owner only.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), KeystoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(KeystoreError::io("create directory", dir))
}

/// Reads one bundle file, without looking for an older one.
///
/// # Errors
/// [`KeystoreError::Io`], [`KeystoreError::Damaged`] or [`KeystoreError::UnsupportedVersion`].
pub(super) fn read(path: &Path) -> Result<Bundle, KeystoreError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(KeystoreError::io("open", path))?;
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(KeystoreError::io("read", path))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(KeystoreError::damaged(path, "it is longer than any bundle"));
    }
    Bundle::parse(&bytes).map_err(|malformed| malformed.at(path))
}

/// What stands in the clear in a bundle file: its keystore, generation and slots. Needs no secret; nothing is authenticated.
///
/// # Errors
/// [`KeystoreError::Io`], [`KeystoreError::Damaged`] or [`KeystoreError::UnsupportedVersion`].
pub fn read_bundle_header(path: &Path) -> Result<Header, KeystoreError> {
    read(path).map(|bundle| bundle.header)
}

/// A bundle, and whether it is the older generation because the newest could not be read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bundle: Bundle,
    pub(super) from_old: bool,
}

/// Reads a bundle; if it is missing or damaged, the generation before it, with a warning.
///
/// # Errors
/// As [`read`], if neither can be read.
pub(super) fn load(path: &Path) -> Result<Loaded, KeystoreError> {
    let newest = match read(path) {
        Ok(bundle) => return Ok(Loaded { bundle, from_old: false }),
        Err(error) => error,
    };
    let old = old_path(path);
    let replaceable = matches!(newest, KeystoreError::Damaged { .. }) || is_missing(&newest);
    match read(&old) {
        Ok(bundle) if replaceable => {
            log::warn!("{newest}; using {}, one change older", old.display());
            Ok(Loaded { bundle, from_old: true })
        }
        _ => Err(newest),
    }
}

/// Whether the error says that the file does not exist.
pub(super) fn is_missing(error: &KeystoreError) -> bool {
    matches!(error, KeystoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}

/// A new bundle, durable under a temporary name, waiting to be published. Dropping it removes it.
pub(super) struct Staged {
    path: PathBuf,
    temporary: PathBuf,
}

impl Staged {
    /// Writes and syncs `bytes` beside `path`. Everything that needs room on the disk happens here.
    pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<Self, KeystoreError> {
        let staged = Self { path: path.to_path_buf(), temporary: beside(path, ".tmp") };
        let write = || -> io::Result<()> {
            match fs::remove_file(&staged.temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // A new one, which follows no link that lies there.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged.temporary)?;
            give_to_owner(parent(path), &file);
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(KeystoreError::io("write", &staged.temporary))?;
        Ok(staged)
    }

    /// Makes it the current bundle, and the current one the old one.
    ///
    /// # Errors
    /// [`KeystoreError::Io`]; the bundle that was current is current again then.
    pub(super) fn publish(self) -> Result<(), KeystoreError> {
        let old = old_path(&self.path);
        // A damaged one must not take the place of a whole one.
        let is_whole = read(&self.path).is_ok();
        let had_one =
            is_whole && keep_as(&self.path, &old).map_err(KeystoreError::io("keep the former bundle as", &old))?;
        fs::rename(&self.temporary, &self.path).map_err(KeystoreError::io("replace", &self.path))?;
        sync_dir(parent(&self.path)).inspect_err(|_| {
            let put_back = if had_one { keep_as(&old, &self.path).map(drop) } else { fs::remove_file(&self.path) };
            if let Err(error) = put_back {
                log::error!("{} could not be put back: {error}", self.path.display());
            }
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already if it was published; a leftover is overwritten by the next change.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Lets `to` name the same file as `from`, by one rename. Whether there was a `from`.
fn keep_as(from: &Path, to: &Path) -> io::Result<bool> {
    let temporary = beside(to, ".tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let linked = match fs::hard_link(from, &temporary) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        // A file system without hard links.
        Err(_) => fs::copy(from, &temporary).map(drop),
        done => done,
    };
    linked.and_then(|()| fs::rename(&temporary, to)).map(|()| true)
}

/// Keeps others from replacing a volume's copy as long as this is held: a mount and commands may want to at the same time, and
/// each takes over what it finds. A store without locks does without.
///
/// # Errors
/// [`KeystoreError::Io`] if there is no such folder.
pub(super) fn hold_copy(path: &Path) -> Result<File, KeystoreError> {
    let dir = parent(path);
    let held = File::open(dir).map_err(KeystoreError::io("open directory", dir))?;
    if let Err(error) = held.lock() {
        log::debug!("{} cannot be locked: {error}", dir.display());
    }
    Ok(held)
}

/// Replaces a volume's copy durably. The one before is not kept: it may open with a secret that has been removed.
///
/// # Errors
/// [`KeystoreError::Io`]; the file is as it was then, unless only the sync of the directory failed.
pub(super) fn replace_copy(path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
    let staged = Staged::write(path, bytes)?;
    fs::rename(&staged.temporary, path).map_err(KeystoreError::io("replace", path))?;
    sync_dir(parent(path))
}

/// Replaces a bundle durably, keeping the one before it.
///
/// # Errors
/// [`KeystoreError::Io`]; the file is as it was then.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
    Staged::write(path, bytes)?.publish()
}
