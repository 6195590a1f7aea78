//! A volume's own copy of the keystore: only the keys that the volume needs, sealed as the keystore's bundle is.

use std::path::Path;

use super::LocalKms;
use crate::crypto::Secret;
use crate::kms::bundle::{self, Header};
use crate::kms::keyset::KeySet;
use crate::kms::{KeyId, KeystoreError, bundle_file};

/// What a volume's copy of the keystore is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyState {
    /// As new as the keystore, or what was unlocked itself.
    Good,
    /// Of an earlier generation; the next mount renews it.
    Old,
    /// Not there.
    Missing,
    /// It does not open, or lacks a key; why.
    Damaged(String),
    /// Of another keystore.
    Foreign,
}

/// A copy as it is before it is written anew.
#[derive(Default)]
struct Former {
    header: Option<Header>,
    keys: KeySet,
}

impl Former {
    /// Reads a copy, which `root` may open. Of one that is missing or damaged nothing is known.
    fn read(copy: &Path, root: &Secret<32>) -> Result<Self, KeystoreError> {
        let bundle = match bundle_file::read(copy) {
            Ok(bundle) => bundle,
            Err(error) if bundle_file::is_missing(&error) => return Ok(Self::default()),
            Err(error @ KeystoreError::Damaged { .. }) => {
                log::warn!(
                    "{error}; it is written anew. Next: kmsfs fsck --repair, which adds the keys of directories"
                );
                return Ok(Self::default());
            }
            // It may be whole, and hold more than anyone knows of.
            Err(error) => return Err(error),
        };
        let keys = bundle.open(root).unwrap_or_default();
        Ok(Self { header: Some(bundle.header), keys })
    }
}

impl LocalKms {
    /// Brings a volume's copy of the keystore up to date: the CMKs that it has already, and `key`. Whether it was written:
    /// not if it is as new, is of another keystore, or is what this KMS reads. On error it is as it was.
    ///
    /// # Errors
    /// [`KeystoreError::RolledBack`] if it is newer, [`KeystoreError::UnsupportedVersion`] or [`KeystoreError::Io`].
    pub fn update_copy(&self, copy: &Path, key: &KeyId) -> Result<bool, KeystoreError> {
        let Some(source) = self.source.as_ref().filter(|source| source.path != copy) else { return Ok(false) };
        let _held = bundle_file::hold_copy(copy)?;
        let header = Header { is_subset: true, ..source.header.lock().clone() };
        let former = Former::read(copy, &source.root)?;
        if let Some(found) = &former.header {
            let (known, found, is_foreign) = (header.generation, found.generation, found.keystore != header.keystore);
            if is_foreign || (found >= known && former.keys.resolve(&key.0).is_ok()) {
                return Ok(false);
            }
            if found > known {
                return Err(KeystoreError::RolledBack { path: copy.to_path_buf(), known: found, found: known });
            }
        }
        let keys = self.keys();
        // What was deleted must not live on here.
        if former.keys.strangers_to(&keys).next().is_some() {
            log::warn!(
                "{} has keys that the keystore lacks, and keeps them. Next: to open what is under them, restore it into a \
                 keystore of its own (kmsfs keystore restore --keystore DIR) and mount with that",
                copy.display()
            );
        }
        let own: Vec<KeyId> = keys.resolve(&key.0).map(|cmk| cmk.id.clone()).into_iter().collect();
        let renewed = keys.renewed(&own, &former.keys)?;
        bundle_file::replace_copy(copy, &bundle::seal(&header, &renewed, &source.root))?;
        Ok(true)
    }

    /// What a volume's copy of the keystore is, as far as these keys tell. It should hold the CMKs `ids`.
    pub fn look_at_copy(&self, copy: &Path, ids: &[KeyId]) -> CopyState {
        let Some(source) = &self.source else { return CopyState::Good };
        if source.path == copy {
            return CopyState::Good;
        }
        let found = match bundle_file::read(copy) {
            Ok(found) => found,
            Err(error) if bundle_file::is_missing(&error) => return CopyState::Missing,
            Err(error) => return CopyState::Damaged(error.to_string()),
        };
        if found.header.keystore != source.keystore {
            return CopyState::Foreign;
        }
        let Some(keys) = found.open(&source.root) else {
            return CopyState::Damaged("it does not open with the keystore's root key".to_owned());
        };
        if let Some(id) = ids.iter().find(|id| keys.resolve(&id.0).is_err()) {
            return CopyState::Damaged(format!("it has no key {}", id.0));
        }
        if found.header.generation < self.generation() { CopyState::Old } else { CopyState::Good }
    }

    /// Writes a volume's copy of the keystore, with the CMKs `ids` and those that it has already. On error it is as it was.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if one of them does not exist, [`KeystoreError::UnsupportedVersion`] or [`KeystoreError::Io`].
    pub fn write_copy(&self, copy: &Path, ids: &[KeyId]) -> Result<(), KeystoreError> {
        let Some(source) = &self.source else { return Ok(()) };
        let _held = bundle_file::hold_copy(copy)?;
        let header = Header { is_subset: true, ..source.header.lock().clone() };
        let former = Former::read(copy, &source.root)?;
        let renewed = self.keys().renewed(ids, &former.keys)?;
        bundle_file::replace_copy(copy, &bundle::seal(&header, &renewed, &source.root))
    }
}
