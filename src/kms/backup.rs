//! Backups of a keystore: its bundle, in a file of its own, and the way back.
//!
//! A backup is a bundle like any other (docs/kms.md section 4): sealed, with its slots and a checksum. So a copy of
//! `keystore.bundle` that somebody made by hand can be restored in the same way.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::bundle::{self, Bundle, Header};
use super::bundle_file::{self, BUNDLE_NAME};
use super::keyset::KeySet;
use super::keystore::{LOCK_WAIT, Verified};
use super::service::record_opening;
use super::slots::UnlockSecret;
use super::{Keystore, KeystoreError, clock, lock};
use crate::crypto::Secret;

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// What was in the backup.
    pub backup: Verified,
    /// Where the keystore is now that was there before.
    pub replaced: Option<PathBuf>,
}

fn refused(path: &Path, reason: impl Into<String>, next: impl Into<String>) -> KeystoreError {
    KeystoreError::Backup { path: path.to_path_buf(), reason: reason.into(), next: next.into() }
}

/// A backup whose every record was opened.
struct Opened {
    bundle: Bundle,
    keys: KeySet,
    root: Secret<32>,
}

fn open(file: &Path, secret: &UnlockSecret) -> Result<Opened, KeystoreError> {
    let bundle = bundle_file::read(file).map_err(|error| match error {
        KeystoreError::Damaged { path, reason } => {
            let next = "take another copy; a volume's .kmsfs/keystore.bundle has the keys of that volume";
            refused(&path, format!("this is no whole backup of a keystore: {reason}"), next)
        }
        error => error,
    })?;
    let (root, _) = bundle.header.unlock(secret)?;
    let keys = bundle
        .open(&root)
        .ok_or_else(|| refused(file, "its state does not authenticate: it was altered", "take another copy"))?;
    Ok(Opened { bundle, keys, root })
}

/// Opens a backup, and every record in it. Changes nothing.
///
/// # Errors
/// [`KeystoreError::Backup`] if it is damaged or no backup, [`KeystoreError::WrongSecret`],
/// [`KeystoreError::UnsupportedVersion`] or [`KeystoreError::Io`].
pub fn verify_backup(file: &Path, secret: &UnlockSecret) -> Result<Verified, KeystoreError> {
    let Opened { bundle, keys, .. } = open(file, secret)?;
    Ok(Verified::of_bundle(&file.to_string_lossy(), &bundle.header, &keys))
}

impl Keystore {
    /// Writes the whole keystore, sealed as it is, to `file`, and reads it back. An older backup of the same keystore is
    /// replaced at once, unless it has keys that this keystore has never had; anything else is left alone. On error `file` is
    /// as it was.
    ///
    /// # Errors
    /// [`KeystoreError::Backup`] if `file` holds anything else or more, or [`KeystoreError::Io`].
    pub fn backup(&self, file: &Path) -> Result<(), KeystoreError> {
        match bundle_file::read(file) {
            Err(error) if bundle_file::is_missing(&error) => {}
            Err(KeystoreError::Damaged { .. } | KeystoreError::UnsupportedVersion { .. }) => {
                let reason = "there is a file already that is no whole backup of a keystore; it was left alone";
                return Err(refused(file, reason, "give another name, or remove it"));
            }
            Err(error) => return Err(error),
            Ok(there) => self.may_replace(file, &there)?,
        }
        bundle_file::replace_copy(file, &bundle::seal(&self.state.header, &self.state.keys, &self.root))?;
        let written = bundle_file::read(file)?;
        match written.open(&self.root) {
            Some(_) => Ok(()),
            None => Err(KeystoreError::damaged(file, "what was written does not read back")),
        }
    }

    fn may_replace(&self, file: &Path, there: &Bundle) -> Result<(), KeystoreError> {
        let own = &self.state.header;
        let reason = if there.header.keystore != own.keystore {
            format!("there is a backup of another keystore already, {}; it was left alone", there.header.keystore)
        } else if there.header.generation > own.generation {
            let (there, own) = (there.header.generation, own.generation);
            format!(
                "there is a newer backup already, of generation {there}, and this keystore is at {own}; it was left alone"
            )
        } else if let Some(keys) = there.open(&self.root) {
            match keys.strangers_to(&self.state.keys).next() {
                None => return Ok(()),
                // Restored from the copy of one volume, it does not have the keys of others.
                Some(cmk) => format!(
                    "the backup that is there has keys that this keystore lacks, such as {}; it was left alone",
                    cmk.id.0
                ),
            }
        } else {
            "there is a file already that was altered, or sealed under another root key; it was left alone".to_owned()
        };
        Err(refused(file, reason, "give another name, or remove it"))
    }
}

/// Makes a keystore in `dir` of a backup that `secret` opens. A keystore that is there is replaced only if `force` says so,
/// and is kept beside as `DIR.replaced-TIME`. On error nothing has changed.
///
/// # Errors
/// What [`verify_backup`] says; [`KeystoreError::AlreadyExists`] without `force`; [`KeystoreError::Backup`] if the keystore
/// that is there is another one or newer; [`KeystoreError::InUse`]; or [`KeystoreError::Io`].
pub fn restore_backup(file: &Path, dir: &Path, secret: &UnlockSecret, force: bool) -> Result<Restored, KeystoreError> {
    if Keystore::exists(dir) && !force {
        return Err(KeystoreError::AlreadyExists(dir.to_path_buf()));
    }
    let Opened { bundle, keys, root } = open(file, secret)?;
    let backup = Verified::of_bundle(&file.to_string_lossy(), &bundle.header, &keys);
    let bytes = bundle::seal(&bundle.header, &keys, &root);
    bundle_file::make_private_dir(dir)?;
    let replaced = if Keystore::exists(dir) {
        Some(replace(file, dir, &bundle.header, &bytes)?)
    } else {
        let _lock = lock::take(dir, Instant::now() + LOCK_WAIT)?;
        bundle_file::replace_copy(&dir.join(BUNDLE_NAME), &bytes)?;
        None
    };
    // Makes the records. Should that fail, the next command that opens it does so.
    let opened = Keystore::open(dir)?.unlock(secret)?;
    if let Err(error) = record_opening(&opened) {
        log::error!("{error}");
    }
    Ok(Restored { backup, replaced })
}

/// Puts a new keystore in the place of the one in `dir`; answers where that one is now.
fn replace(file: &Path, dir: &Path, backup: &Header, bytes: &[u8]) -> Result<PathBuf, KeystoreError> {
    let lock = match Keystore::open(dir) {
        Ok(there) => {
            may_restore(file, dir, backup, there.header())?;
            there.close(Instant::now() + LOCK_WAIT)?
        }
        // Nothing of it can be read, so nothing tells which one it is.
        Err(KeystoreError::Damaged { .. } | KeystoreError::Foreign { .. }) => {
            lock::take(dir, Instant::now() + LOCK_WAIT)?
        }
        Err(error) => return Err(error),
    };
    let free = |what: &str| {
        let mut names = (clock::now()..).map(|time| beside(dir, &format!(".{what}-{time}")));
        names.find(|name| !name.exists()).expect("not every second has a directory")
    };
    let (fresh, aside) = (free("new"), free("replaced"));
    bundle_file::make_private_dir(&fresh)?;
    let exchanged =
        bundle_file::replace_copy(&fresh.join(BUNDLE_NAME), bytes).and_then(|()| exchange(dir, &fresh, &aside));
    if exchanged.is_err() {
        // It holds nothing but a copy of the backup.
        let _ = fs::remove_dir_all(&fresh);
    }
    drop(lock);
    exchanged.map(|()| aside)
}

fn exchange(dir: &Path, fresh: &Path, aside: &Path) -> Result<(), KeystoreError> {
    fs::rename(dir, aside).map_err(KeystoreError::io("move aside", dir))?;
    if let Err(error) = fs::rename(fresh, dir) {
        if let Err(error) = fs::rename(aside, dir) {
            log::error!("{} could not be moved back to {}: {error}", aside.display(), dir.display());
        }
        return Err(KeystoreError::io("replace", dir)(error));
    }
    bundle_file::sync_dir(dir.parent().unwrap_or(dir))
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(dir);
    name.push(suffix);
    PathBuf::from(name)
}

fn may_restore(file: &Path, dir: &Path, backup: &Header, there: &Header) -> Result<(), KeystoreError> {
    let place = dir.display();
    let reason = if backup.keystore != there.keystore {
        format!("it is of keystore {}, but {place} holds {}", backup.keystore, there.keystore)
    } else if backup.generation < there.generation {
        let (old, new) = (backup.generation, there.generation);
        format!("it is of generation {old}, older than {place}, which is at {new}: changes since would be undone")
    } else if backup.is_subset && !there.is_subset {
        format!("it holds only the keys of one volume, but {place} is a whole keystore")
    } else {
        return Ok(());
    };
    Err(refused(
        file,
        reason,
        format!("restore it elsewhere with --keystore, or move {place} away first; nothing was changed"),
    ))
}
