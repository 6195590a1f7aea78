//! Which volumes use a keystore: a list beside it, so that a version is not retired, nor a key deleted, while a volume
//! that nobody thought of still needs it. Only uuids and paths; losing it loses a warning, not data.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::failure::{Code, Failure};
use crate::envelope::VolumeHeader;
use crate::sys::atomic;

const LIST: &str = "volumes.json";

/// The volumes by uuid, where they were seen last.
pub(super) type Volumes = BTreeMap<String, PathBuf>;

/// The list of the keystore in `keystore`; empty if there is none.
pub(super) fn list(keystore: &Path) -> Result<Volumes, Failure> {
    let path = keystore.join(LIST);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            let next = "remove it; mounting each volume once lists it again";
            Failure::new(Code::Keystore, path.display(), format!("it is damaged: {error}"), next)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Volumes::new()),
        Err(error) => Err(Failure::io(&path, "read", &error)),
    }
}

/// Notes where a volume is. That it could not be noted is a warning: it is usable all the same.
pub(super) fn note(keystore: &Path, header: &VolumeHeader, volume: &Path) {
    let done = volume.canonicalize().map_err(|error| Failure::io(volume, "find", &error)).and_then(|volume| {
        let mut volumes = list(keystore)?;
        if volumes.insert(header.uuid().to_owned(), volume.clone()) == Some(volume) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&volumes).map_err(|error| Failure::of(Code::Other, error))?;
        let path = keystore.join(LIST);
        atomic::replace(&path, 0o600, &text).map_err(|error| Failure::io(&path, "write", &error))
    });
    if let Err(failure) = done {
        log::warn!("the keystore does not know of this volume: {}", failure.text);
    }
}
