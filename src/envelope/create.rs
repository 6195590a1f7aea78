//! Making a volume in an empty directory.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::crypto::Suite;
use crate::crypto::derive::directory_id;
use crate::kms::{KeyId, Kms, Requester};
use crate::sys::xattr::{self, Target};
use crate::sys::{atomic, atomic::TEMPORARY_PREFIX};

use super::keys_log::{KEYS_LOG, KeysLog};
use super::lock::LOCK;
use super::sidecar::DIRECTORY_SIDECAR;
use super::volume::{BACKUP, PRIMARY};
use super::{ATTRIBUTE, Access, Binder, EnvelopeStore, Envelopes, Kind, NameForm, Object, Place, Placement, Sealer};
use super::{KMSFS_DIR, LINKS_DIR, StoreError, Volume, VolumeError, VolumeHeader, lock};

/// What an interrupted attempt may have left of the root directory's envelope.
const ROOT_SIDECARS: [&str; 2] = [DIRECTORY_SIDECAR, ".kmsfs.tmp.k"];

/// The choices for a new volume.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// The CMK for the volume key and for new data keys.
    pub key: &'a KeyId,
    /// The suite for new files.
    pub suite: Suite,
    /// Where envelopes lie.
    pub placement: Placement,
    /// How names are written.
    pub names: NameForm,
    /// Pairs for every encryption context; their keys may not begin with `kmsfs:`.
    pub labels: &'a BTreeMap<String, String>,
}

/// Makes a volume in the empty directory `root`: `.kmsfs/` with all that belongs in it, and the
/// envelope of the root directory. When this returns, everything is durable.
///
/// volume.json is written last, so a volume that has one is complete. What a crash leaves behind
/// before that is removed by the next attempt.
///
/// # Errors
/// [`VolumeError`]; then what was made has been removed.
pub fn create_volume(root: &Path, kms: &dyn Kms, new: &NewVolume<'_>) -> Result<Volume, VolumeError> {
    check_vacant(root)?;
    // All requests to the KMS come first, so that a refusal leaves no trace.
    let volume = VolumeHeader::generate(root, kms, new)?;
    let binder = Binder::new(&volume.header);
    let sealer = Sealer { binder: &binder, kms, requester: Requester::Own };
    let refused = || VolumeError::envelope(root);
    let (key, envelope) = sealer.create(new.key, Kind::directory(new.suite), Place::ROOT).map_err(refused())?;
    let mirror = sealer.mirror(&envelope, Place::ROOT).map_err(refused())?;
    let envelope = envelope.encode();

    let folder = root.join(KMSFS_DIR);
    DirBuilder::new().mode(0o700).create(&folder).map_err(VolumeError::io(&folder))?;
    let parts = Parts { envelope: &envelope, id: directory_id(&key), mirror: &mirror };
    match fill(root, &parts, &volume.header) {
        Ok(()) => Ok(volume),
        Err(e) => {
            remove_parts(root, &envelope);
            Err(e)
        }
    }
}

/// What goes into the root directory and into keys.log.
struct Parts<'a> {
    envelope: &'a [u8],
    id: [u8; 16],
    mirror: &'a [u8],
}

fn fill(root: &Path, parts: &Parts<'_>, header: &VolumeHeader) -> Result<(), VolumeError> {
    let _lock = lock(root, Access::Write)?;
    let directory = File::open(root).map_err(VolumeError::io(root))?;
    let root_object = Object::Directory(directory.as_fd());
    let store = Envelopes::new(header.placement());
    match store.create(root_object, parts.envelope) {
        Ok(()) => {}
        Err(StoreError::Io(e)) if xattr::is_unsupported(&e) => {
            return Err(VolumeError::NoXattrs { path: root.to_owned() });
        }
        Err(StoreError::Io(e)) => return Err(VolumeError::io(root)(e)),
        Err(StoreError::Exists | StoreError::Changed) => return Err(VolumeError::Foreign { root: root.to_owned() }),
    }
    let links = root.join(LINKS_DIR);
    DirBuilder::new().mode(0o700).create(&links).map_err(VolumeError::io(&links))?;
    let keys_log = KeysLog::open(root)?;
    keys_log.append(&parts.id, parts.mirror)?;
    keys_log.sync()?;
    for path in [&links, &root.join(KMSFS_DIR)] {
        atomic::sync_directory(path).map_err(VolumeError::io(path))?;
    }
    store.sync(root_object).and_then(|()| directory.sync_all()).map_err(VolumeError::io(root))?;
    header.store()?;
    // The caller may just have made `root`; one who may not even read its parent did not.
    let _ = atomic::sync_directory(&root.join(".."));
    Ok(())
}

/// Undoes [`fill`]. Errors cannot matter: another one is being reported, and what is left is
/// removed by the next attempt.
fn remove_parts(root: &Path, envelope: &[u8]) {
    // Never another volume's envelope.
    if let Ok(directory) = File::open(root)
        && foreign_envelope(&directory, Some(envelope)).is_none()
    {
        let _ = remove_envelope(root, &directory);
    }
    let _ = fs::remove_dir_all(root.join(KMSFS_DIR));
}

/// The placement in which a directory has an envelope, other than `own`.
fn foreign_envelope(directory: &File, own: Option<&[u8]>) -> Option<Placement> {
    let is_foreign = |placement: &Placement| {
        let found = Envelopes::new(*placement).load(Object::Directory(directory.as_fd()));
        matches!(found, Ok(Some(found)) if Some(&found[..]) != own)
    };
    [Placement::Xattr, Placement::Sidecar].into_iter().find(is_foreign)
}

/// Removes the envelope of the root directory, wherever it is.
fn remove_envelope(root: &Path, directory: &File) -> io::Result<()> {
    match xattr::remove(Target::Open(directory.as_fd()), ATTRIBUTE.as_bytes()) {
        Err(e) if xattr::is_unsupported(&e) => {}
        removed => drop(removed?),
    }
    for sidecar in ROOT_SIDECARS {
        match fs::remove_file(root.join(sidecar)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Refuses a directory in which something is, other than the remains of an interrupted attempt,
/// which it removes.
fn check_vacant(root: &Path) -> Result<(), VolumeError> {
    let mut has_folder = false;
    let mut is_empty = true;
    for entry in fs::read_dir(root).map_err(VolumeError::io(root))? {
        let name = entry.map_err(VolumeError::io(root))?.file_name();
        match name.to_str() {
            Some(KMSFS_DIR) => has_folder = true,
            // In the root of an ext4 filesystem, unavoidable and never shown.
            Some("lost+found") => {}
            Some(name) if ROOT_SIDECARS.contains(&name) => {}
            _ => is_empty = false,
        }
    }
    if has_folder && !is_remains(root)? {
        return Err(VolumeError::Exists { root: root.to_owned() });
    }
    if !is_empty {
        return Err(VolumeError::NotEmpty { root: root.to_owned() });
    }
    let directory = File::open(root).map_err(VolumeError::io(root))?;
    if !has_folder {
        return match foreign_envelope(&directory, None) {
            Some(_) => Err(VolumeError::Foreign { root: root.to_owned() }),
            None => Ok(()),
        };
    }
    let _lock = lock(root, Access::Write)?;
    remove_envelope(root, &directory).map_err(VolumeError::io(root))?;
    let folder = root.join(KMSFS_DIR);
    fs::remove_dir_all(&folder).map_err(VolumeError::io(&folder))
}

/// Whether `.kmsfs` holds no more than what [`fill`] makes before the header.
fn is_remains(root: &Path) -> Result<bool, VolumeError> {
    let folder = root.join(KMSFS_DIR);
    let links = root.join(LINKS_DIR);
    for path in [PRIMARY, BACKUP].map(|file| root.join(file)) {
        if path.exists() {
            return Ok(false);
        }
    }
    for entry in fs::read_dir(&folder).map_err(VolumeError::io(&folder))? {
        let path = entry.map_err(VolumeError::io(&folder))?.path();
        let expected = if path == links {
            fs::read_dir(&links).map_err(VolumeError::io(&links))?.next().is_none()
        } else {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            path == root.join(LOCK) || path == root.join(KEYS_LOG) || name.starts_with(TEMPORARY_PREFIX)
        };
        if !expected {
            return Ok(false);
        }
    }
    Ok(true)
}
