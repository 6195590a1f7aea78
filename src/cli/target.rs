//! What a path on the command line stands for: a volume, or a part of one that is mounted.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failure::{Code, Failure};
use super::init::caller;
use super::keystore::KeystoreArgs;
use super::mount_options::AuditPaths;
use super::mounts;
use super::recording::Recording;
use super::unlock::{copy_path, lock_volume, unlock};
use crate::content::Durability;
use crate::envelope::{Access, KMSFS_DIR, Volume, VolumeHeader, VolumeLock};
use crate::fs::upkeep::{AdoptKey, Answer, Request};
use crate::fs::{EncryptedFs, Errno, FsConfig};
use crate::kms::LocalKms;
use crate::maintain::{Mounted, Refusal, Start, Tree, Unmounted};
use crate::sys;

/// Where to work.
pub(super) enum Target {
    /// Through a mount, whose process has the keys.
    Mounted {
        /// The directory from which the walk begins.
        dir: PathBuf,
        /// What of it.
        start: Start,
    },
    /// On a whole volume that is not mounted.
    Volume(PathBuf),
}

impl Target {
    /// Finds out what `path` is. Symlinks are followed.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        let path = path.canonicalize().map_err(|error| Failure::io(path, "find", &error))?;
        let mounts = mounts::list()?;
        if is_volume(&path) {
            // Another volume may be mounted over it: who answers must be this one.
            let of_it = mounts.into_iter().filter(|mount| mount.backing == path);
            let mount = of_it.into_iter().find(|mount| serves(&mount.mountpoint, &path));
            return Ok(match mount {
                Some(mount) => Self::Mounted { dir: mount.mountpoint, start: Start::Volume },
                None => Self::Volume(path),
            });
        }
        let start = if mounts.iter().any(|mount| mount.mountpoint == path) {
            Start::Volume
        } else if path.is_dir() {
            Start::Directory
        } else {
            Start::Entry(path.file_name().unwrap_or_default().as_bytes().to_vec())
        };
        let dir = match &start {
            Start::Entry(_) => path.parent().unwrap_or(&path).to_path_buf(),
            _ => path.clone(),
        };
        match Mounted::open(&dir) {
            Ok(_) => Ok(Self::Mounted { dir, start }),
            Err(refusal) => Err(not_there(&path, &refusal)),
        }
    }
}

/// Whether the volume in `backing` answers at `mountpoint`.
fn serves(mountpoint: &Path, backing: &Path) -> bool {
    let asked = Mounted::open(mountpoint).and_then(|tree| tree.ask(&tree.top()?, &Request::Standing));
    matches!(asked, Ok(Answer::Standing(standing)) if standing.backing.0 == backing.as_os_str().as_bytes())
}

fn is_volume(path: &Path) -> bool {
    let folder = path.join(KMSFS_DIR);
    folder.join("volume.json").exists() || folder.join("volume.json.bak").exists()
}

fn not_there(path: &Path, refusal: &Refusal) -> Failure {
    let shown = path.display();
    if matches!(refusal.errno, Errno::PERM | Errno::ACCESS) {
        let next = "run it as root, or as the user who mounted the volume";
        return Failure::new(Code::Other, shown, refusal, next);
    }
    match path.ancestors().find(|above| is_volume(above)) {
        Some(volume) => {
            let why = "it is inside of a backing tree, where names are encrypted";
            let volume = volume.display();
            Failure::new(Code::Usage, shown, why, format!("name the volume, {volume}, or a path in its mount"))
        }
        None => {
            let next = "name a volume, or a path in the mount of one; kmsfs status lists them";
            Failure::new(Code::NotAVolume, shown, "it is in no volume of kmsfs", next)
        }
    }
}

/// A refusal at a path, for the user.
pub(super) fn refused(path: &Path, refusal: &Refusal) -> Failure {
    let next = match refusal.errno {
        Errno::PERM => "run it as root, or as the user who mounted the volume",
        Errno::ROFS => "mount the volume for writing, or unmount it first",
        Errno::NOTCONN => "the process that serves the mount is gone: unmount and mount again",
        _ => "see the log, and docs/operations.md",
    };
    Failure::new(Code::Other, path.display(), refusal, next)
}

/// A volume opened in this process; it is released when this is dropped.
pub(super) struct Opened {
    fs: Arc<EncryptedFs>,
    kms: Arc<LocalKms>,
    _lock: VolumeLock,
}

impl Opened {
    /// Unlocks the volume in `path` and keeps others out of it.
    pub(super) fn open(path: &Path, keystore: &KeystoreArgs) -> Result<Self, Failure> {
        let dir = keystore.dir()?;
        Self::unlocked(path, |header| {
            let recording = Some(Recording::of(header, AuditPaths::No)?);
            keystore.secret.unlock(|secret| unlock(header, &dir, &secret, recording))
        })
    }

    /// The same, with keys that are unlocked already.
    pub(super) fn with(path: &Path, kms: &Arc<LocalKms>) -> Result<Self, Failure> {
        Self::unlocked(path, |header| Ok((kms.clone(), header.clone().unlock(&**kms)?)))
    }

    fn unlocked(
        path: &Path,
        unlock: impl FnOnce(&VolumeHeader) -> Result<(Arc<LocalKms>, Volume), Failure>,
    ) -> Result<Self, Failure> {
        let (header, _) = VolumeHeader::load(path)?;
        header.check_features(false)?;
        let mut lock = lock_volume(path, Access::Write)?;
        lock.record_pid()?;
        let (kms, volume) = unlock(&header)?;
        let config = FsConfig {
            backing: path.to_path_buf(),
            read_only: false,
            durability: Durability::Atomic,
            allow_other: false,
        };
        sys::process::clear_umask();
        let opened = EncryptedFs::new(volume, kms.clone(), config);
        let fs = opened.map_err(|error| {
            Failure::new(Code::NotAVolume, path.display(), error, "look at it with: kmsfs fsck; see docs/operations.md")
        })?;
        fs.on_new_cmk(adopt(&kms, path));
        Ok(Self { fs, kms, _lock: lock })
    }

    /// It, for walks.
    pub(super) fn tree(&self) -> Unmounted {
        Unmounted::new(self.fs.clone(), caller())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.fs.shut_down();
        // Threads of the filesystem may keep it beyond the end of this process.
        self.kms.flush_record();
    }
}

/// Gives the volume's own copy of its keys another CMK, before that is used; a volume without a copy stays without.
pub(super) fn adopt(kms: &Arc<LocalKms>, volume: &Path) -> AdoptKey {
    let (kms, copy) = (kms.clone(), copy_path(volume));
    Box::new(move |key| {
        if !copy.exists() {
            return Ok(());
        }
        kms.update_copy(&copy, key).map(|_| ())
    })
}
