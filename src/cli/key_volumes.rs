//! Which volumes use a CMK, as far as can be told without looking at every file.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::Failure;
use super::mounts;
use super::unlock::copy_path;
use crate::envelope::VolumeHeader;
use crate::kms::{Cmk, Keystore};

/// A volume that has a CMK.
#[derive(Debug, Serialize)]
pub(super) struct Usage {
    /// The backing directory.
    volume: PathBuf,
    mounted_on: Option<PathBuf>,
    /// The volume itself is under it: without the CMK it does not mount.
    is_volume_key: bool,
}

impl Usage {
    pub(super) fn text(&self) -> String {
        let how =
            if self.is_volume_key { "the volume itself is under it" } else { "some of its files may be under it" };
        let mounted = self.mounted_on.as_ref().map(|path| format!(" (mounted on {})", path.display()));
        format!("{}{}: {how}", self.volume.display(), mounted.unwrap_or_default())
    }
}

/// The volumes among those that are mounted, and `named`, that have `cmk`.
///
/// # Errors
/// If one of `named` is no volume. What is mounted but cannot be read is passed over.
pub(super) fn of(keystore: &Keystore, cmk: &Cmk, named: &[PathBuf]) -> Result<Vec<Usage>, Failure> {
    let mut usages = Vec::new();
    let mounts = mounts::list()?;
    for dir in named {
        let volume = dir.canonicalize().map_err(|error| Failure::io(dir, "resolve", &error))?;
        let mounted_on = mounts.iter().find(|mount| mount.backing == volume).map(|mount| mount.mountpoint.clone());
        VolumeHeader::load(&volume)?;
        usages.extend(of_volume(keystore, cmk, &volume, mounted_on));
    }
    for mount in mounts {
        if !usages.iter().any(|usage| usage.volume == mount.backing) {
            usages.extend(of_volume(keystore, cmk, &mount.backing, Some(mount.mountpoint)));
        }
    }
    Ok(usages)
}

fn of_volume(keystore: &Keystore, cmk: &Cmk, volume: &Path, mounted_on: Option<PathBuf>) -> Option<Usage> {
    let (header, _) = VolumeHeader::load(volume).ok()?;
    let is_volume_key = *header.key() == cmk.id;
    let has_copy = || keystore.keys_of_copy(&copy_path(volume)).is_some_and(|keys| keys.contains(&cmk.id));
    (is_volume_key || has_copy()).then(|| Usage { volume: volume.to_path_buf(), mounted_on, is_volume_key })
}
