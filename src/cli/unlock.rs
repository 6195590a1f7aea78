//! Unlocking a volume, and keeping others out of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::keystore_record;
use super::mounts;
use super::recording::Recording;
use super::users::{SystemUsers, owner_of};
use crate::envelope::{Access, KMSFS_DIR, Volume, VolumeError, VolumeHeader, VolumeLock, lock};
use crate::kms::{BUNDLE_NAME, Keystore, KeystoreError, LocalKms, UnlockSecret, read_bundle_header};
use crate::sys;

/// How long a volume that is in use, but not mounted any more, is waited for.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// Takes the volume's lock. After fusermount3 -u its last process may still be putting writes in order: it is waited for.
pub(super) fn lock_volume(backing: &Path, access: Access) -> Result<VolumeLock, Failure> {
    let started = Instant::now();
    loop {
        match lock(backing, access) {
            Err(VolumeError::InUse { .. }) if started.elapsed() < RELEASE_WAIT && !is_mounted(backing) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            locked => return Ok(locked?),
        }
    }
}

fn is_mounted(backing: &Path) -> bool {
    mounts::list().is_ok_and(|mounts| mounts.iter().any(|mount| mount.backing == backing))
}

/// Where a volume has its own copy of its keys.
pub(super) fn copy_path(volume: &Path) -> PathBuf {
    volume.join(KMSFS_DIR).join(BUNDLE_NAME)
}

/// Unlocks the volume with the keystore or, if that is missing or does not know the volume's key, with the volume's own
/// copy of its keys. What the keys are used for from then on, for this too, is recorded as `recording` says.
pub(super) fn unlock(
    header: &VolumeHeader,
    keystore: &Path,
    secret: &UnlockSecret,
    recording: Option<Recording>,
) -> Result<(Arc<LocalKms>, Volume), Failure> {
    let copy = copy_path(header.root());
    let start = |kms: &LocalKms| recording.map_or(Ok(()), |recording| recording.start(kms, keystore));
    let refused = match open_kms(keystore, secret) {
        Ok(kms) => {
            start(&kms)?;
            match header.clone().unlock(&kms) {
                Ok(volume) => return Ok((for_users(kms, owner_of(keystore)?), volume)),
                Err(error @ VolumeError::WrongKeystore { .. }) => Failure::from(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(error @ (KeystoreError::NotFound(_) | KeystoreError::Damaged { .. } | KeystoreError::Foreign { .. })) => {
            error.into()
        }
        Err(error @ KeystoreError::WrongSecret(_)) if is_of_another(&copy, keystore) => error.into(),
        Err(error) => return Err(error.into()),
    };
    // Whatever is wrong with the copy, the first refusal is the one to tell.
    let Ok(kms) = LocalKms::open_bundle(&copy, secret) else { return Err(refused) };
    start(&kms)?;
    let Ok(volume) = header.clone().unlock(&kms) else { return Err(refused) };
    eprintln!("kmsfs: note: {}; using the volume's own copy of its keys, {}", refused.text, copy.display());
    // Whoever unlocked the copy has its secret, and is the owner as far as anybody can tell here.
    Ok((for_users(kms, sys::process::effective_uid()), volume))
}

/// With the users of this system. Who owns the keystore is the root of its account.
fn for_users(kms: LocalKms, owner: u32) -> Arc<LocalKms> {
    Arc::new(kms.with_users(Box::new(SystemUsers), owner))
}

/// Whether the volume's copy is of another keystore: another passphrase may open it then.
fn is_of_another(copy: &Path, keystore: &Path) -> bool {
    let uuid = |path: &Path| read_bundle_header(path).map(|header| header.keystore).ok();
    uuid(copy).is_some_and(|copied| uuid(&keystore.join(BUNDLE_NAME)) != Some(copied))
}

/// The keys of the keystore in `dir`, as its newest bundle has them. The records are opened only to mend that: a server may have
/// them open.
///
/// # Errors
/// As [`Keystore::open`] and [`LocalKms::open_newest`].
pub(super) fn open_kms(dir: &Path, secret: &UnlockSecret) -> Result<LocalKms, KeystoreError> {
    if !Keystore::exists(dir) {
        return Err(KeystoreError::NotFound(dir.to_path_buf()));
    }
    let bundle = dir.join(BUNDLE_NAME);
    match LocalKms::open_newest(&bundle, secret) {
        Err(KeystoreError::Damaged { .. } | KeystoreError::Io { .. }) => {
            // Opening the keystore writes the bundle anew from its records. The bundle before the last change must not be
            // taken instead: that change may have been to disable a key.
            keystore_record::opening(&Keystore::open(dir)?.unlock(secret)?);
            LocalKms::open_newest(&bundle, secret)
        }
        opened => opened,
    }
}
