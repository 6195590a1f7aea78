//! Which volumes use a keystore: a list beside it, so that a version is not retired, nor a key deleted, while a volume
//! that nobody thought of still needs it. Only uuids and paths.
//!
//! A keystore that was restored has no list, or lost one. It does not know of any volume then, and that is not the same as that
//! there is none: until somebody says otherwise, the volumes of before stand in it as one that cannot be found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::failure::{Code, Failure};
use crate::envelope::VolumeHeader;
use crate::sys::atomic;

const LIST: &str = "volumes.json";

/// Stands for the volumes that were used before the list was begun.
pub(super) const UNLISTED: &str = "unlisted";

/// The volumes by uuid, where they were seen last.
pub(super) type Volumes = BTreeMap<String, PathBuf>;

/// The list of the keystore in `keystore`.
pub(super) fn list(keystore: &Path) -> Result<Volumes, Failure> {
    let path = keystore.join(LIST);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            let next = "remove it; mounting each volume once lists it again";
            Failure::new(Code::Keystore, path.display(), format!("it is damaged: {error}"), next)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Volumes::from([(UNLISTED.to_owned(), "volumes of before this list".into())]))
        }
        Err(error) => Err(Failure::io(&path, "read", &error)),
    }
}

/// Begins the list of a keystore that was just made, which no volume uses yet.
pub(super) fn begin(keystore: &Path) {
    warned(save(keystore, &Volumes::new()));
}

/// Lets the keystore that was restored over another go on with the list of that one.
pub(super) fn take_over(keystore: &Path, replaced: &Path) {
    warned(list(replaced).and_then(|volumes| save(keystore, &volumes)));
}

/// Notes where a volume is. That it could not be noted is a warning: it is usable all the same.
pub(super) fn note(keystore: &Path, header: &VolumeHeader, volume: &Path) {
    let noted = || {
        let volume = volume.canonicalize().map_err(|error| Failure::io(volume, "find", &error))?;
        // Two mounts may begin at once.
        let open = File::open(keystore).map_err(|error| Failure::io(keystore, "open", &error))?;
        open.lock().map_err(|error| Failure::io(keystore, "lock", &error))?;
        let mut volumes = list(keystore)?;
        if volumes.insert(header.uuid().to_owned(), volume.clone()) == Some(volume) {
            return Ok(());
        }
        save(keystore, &volumes)
    };
    warned(noted());
}

fn save(keystore: &Path, volumes: &Volumes) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(volumes).map_err(|error| Failure::of(Code::Other, error))?;
    let path = keystore.join(LIST);
    atomic::replace(&path, 0o600, &text).map_err(|error| Failure::io(&path, "write", &error))
}

fn warned(done: Result<(), Failure>) {
    if let Err(failure) = done {
        log::warn!("the keystore does not know of this volume: {}", failure.text);
    }
}
