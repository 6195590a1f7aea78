//! A volume's own copy of the keystore: only the keys that the volume needs, sealed as the keystore's bundle is.

use std::path::Path;

use super::LocalKms;
use crate::kms::bundle::{self, Header};
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

impl LocalKms {
    /// Brings a volume's copy of the keystore up to date: the CMKs that it has already, and `key`. Whether it was written:
    /// not if it is as new, is of another keystore, or is what this KMS reads. On error it is as it was.
    ///
    /// # Errors
    /// [`KeystoreError::Io`].
    pub fn update_copy(&self, copy: &Path, key: &KeyId) -> Result<bool, KeystoreError> {
        let Some(source) = self.source.as_ref().filter(|source| source.path != copy) else { return Ok(false) };
        let _held = bundle_file::hold_copy(copy)?;
        let header = Header { is_subset: true, ..source.header.lock().clone() };
        let keys = self.keys();
        let mut ids = vec![key.clone()];
        if let Ok(former) = bundle_file::read(copy) {
            let (known, found) = (header.generation, former.header.generation);
            let is_foreign = former.header.keystore != header.keystore;
            let former = former.open(&source.root).unwrap_or_default();
            if is_foreign || (found >= known && former.resolve(&ids[0].0).is_ok()) {
                return Ok(false);
            }
            if found > known {
                return Err(KeystoreError::RolledBack { path: copy.to_path_buf(), known: found, found: known });
            }
            ids.extend(former.keys().map(|cmk| cmk.id.clone()));
        }
        // What was deleted must not live on here.
        ids.retain(|id| keys.resolve(&id.0).is_ok());
        bundle_file::replace_copy(copy, &bundle::seal(&header, &keys.subset(&ids)?, &source.root))?;
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

    /// Writes a volume's copy of the keystore, with the CMKs `ids`. On error it is as it was.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if one of them does not exist, or [`KeystoreError::Io`].
    pub fn write_copy(&self, copy: &Path, ids: &[KeyId]) -> Result<(), KeystoreError> {
        let Some(source) = &self.source else { return Ok(()) };
        let _held = bundle_file::hold_copy(copy)?;
        let header = Header { is_subset: true, ..source.header.lock().clone() };
        bundle_file::replace_copy(copy, &bundle::seal(&header, &self.keys().subset(ids)?, &source.root))
    }
}
