//! Customer master keys: their states, their versions of key material, and what each state permits.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{KeyId, KeystoreError, KmsError};
use crate::crypto::Secret;

/// Longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 8192;

/// Seconds since 1970. A clock before that counts as 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The state of a CMK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyState {
    /// Everything is allowed.
    Enabled,
    /// Nothing is wrapped or unwrapped until it is enabled again.
    Disabled,
    /// Like disabled, and the waiting period before its deletion is running.
    PendingDeletion {
        /// When the waiting period ends, in unix seconds.
        deletion_date: u64,
    },
}

/// What can be asked of a CMK, as far as its state matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// GenerateDataKey, and ReEncrypt to this key.
    Wrap,
    /// Decrypt, and ReEncrypt from this key.
    Unwrap,
    /// EnableKey or DisableKey.
    EnableOrDisable,
    /// RotateKeyOnDemand.
    Rotate,
    /// ScheduleKeyDeletion.
    ScheduleDeletion,
    /// CancelKeyDeletion.
    CancelDeletion,
    /// Becoming the target of an alias.
    AliasTarget,
}

impl KeyState {
    /// The one table of what is allowed when (AWS KMS developer guide, "Key states"). Reading metadata is always allowed.
    pub fn permits(self, operation: Operation) -> bool {
        use Operation::{AliasTarget, CancelDeletion, EnableOrDisable, Rotate, ScheduleDeletion, Unwrap, Wrap};
        match operation {
            Wrap | Unwrap | Rotate => self == Self::Enabled,
            EnableOrDisable | ScheduleDeletion | AliasTarget => !self.is_pending(),
            CancelDeletion => self.is_pending(),
        }
    }

    fn is_pending(self) -> bool {
        matches!(self, Self::PendingDeletion { .. })
    }
}

/// One generation of a CMK's secret.
#[derive(Debug, Clone)]
pub struct KeyVersion {
    /// From 1, without gaps.
    pub number: u16,
    /// When it was made, in unix seconds.
    pub created: u64,
    pub(super) material: Arc<Secret<32>>,
}

impl KeyVersion {
    fn generate(number: u16) -> Self {
        Self { number, created: now(), material: Arc::new(Secret::random()) }
    }
}

/// A customer master key.
#[derive(Debug, Clone)]
pub struct Cmk {
    /// Its id, a uuid in text.
    pub id: KeyId,
    /// Its number in blobs: random, and unique in its keystore.
    pub number: u32,
    /// What the owner says about it.
    pub description: String,
    /// When it was made, in unix seconds.
    pub created: u64,
    /// Its state.
    pub state: KeyState,
    // Never empty; version n is at index n - 1.
    versions: Vec<KeyVersion>,
}

impl Cmk {
    /// A fresh, enabled CMK with one version.
    pub(super) fn generate(number: u32, description: &str) -> Self {
        Self {
            id: KeyId(uuid::Uuid::new_v4().to_string()),
            number,
            description: description.to_owned(),
            created: now(),
            state: KeyState::Enabled,
            versions: vec![KeyVersion::generate(1)],
        }
    }

    /// All versions of its key material, oldest first.
    pub fn versions(&self) -> &[KeyVersion] {
        &self.versions
    }

    /// The version that wraps.
    pub fn newest(&self) -> &KeyVersion {
        self.versions.last().expect("a CMK has at least one version")
    }

    /// The version with this number; every one of them unwraps.
    pub fn version(&self, number: u16) -> Option<&KeyVersion> {
        self.versions.get(usize::from(number).checked_sub(1)?)
    }

    /// Refuses what the state forbids.
    ///
    /// # Errors
    /// [`KmsError::Disabled`] or [`KmsError::InvalidState`], as AWS KMS does.
    pub fn require(&self, operation: Operation) -> Result<(), KmsError> {
        match self.state {
            state if state.permits(operation) => Ok(()),
            KeyState::PendingDeletion { .. } => Err(KmsError::InvalidState(self.id.0.clone())),
            KeyState::Enabled | KeyState::Disabled => Err(KmsError::Disabled(self.id.0.clone())),
        }
    }

    /// The same CMK in another state.
    pub(super) fn with_state(&self, state: KeyState) -> Self {
        Self { state, ..self.clone() }
    }

    /// The same CMK with one version more.
    pub(super) fn rotated(&self) -> Result<Self, KeystoreError> {
        let number =
            self.newest().number.checked_add(1).ok_or_else(|| KeystoreError::TooManyVersions(self.id.0.clone()))?;
        let mut rotated = self.clone();
        rotated.versions.push(KeyVersion::generate(number));
        Ok(rotated)
    }
}

/// The part of a CMK that is no secret, as it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CmkRecord {
    id: KeyId,
    number: u32,
    description: String,
    created: u64,
    state: KeyState,
    // When each version was made, version 1 first.
    versions: Vec<u64>,
}

impl CmkRecord {
    pub(super) fn of(cmk: &Cmk) -> Self {
        Self {
            id: cmk.id.clone(),
            number: cmk.number,
            description: cmk.description.clone(),
            created: cmk.created,
            state: cmk.state,
            versions: cmk.versions.iter().map(|version| version.created).collect(),
        }
    }

    /// How many secrets of 32 bytes follow the record.
    pub(super) fn version_count(&self) -> usize {
        self.versions.len()
    }

    /// The CMK, with its secrets in the order of versions. `None` if their number is wrong.
    pub(super) fn with_materials(self, materials: Vec<Secret<32>>) -> Option<Cmk> {
        if materials.is_empty() || materials.len() != self.versions.len() || materials.len() > usize::from(u16::MAX) {
            return None;
        }
        let versions = (1..=u16::MAX).zip(self.versions).zip(materials);
        let versions =
            versions.map(|((number, created), material)| KeyVersion { number, created, material: Arc::new(material) });
        Some(Cmk {
            id: self.id,
            number: self.number,
            description: self.description,
            created: self.created,
            state: self.state,
            versions: versions.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enabled_key_wraps_and_unwraps() {
        let mut cmk = Cmk::generate(1, "");
        assert_eq!(cmk.require(Operation::Unwrap), Ok(()));
        cmk.state = KeyState::Disabled;
        assert!(matches!(cmk.require(Operation::Unwrap), Err(KmsError::Disabled(_))));
        assert_eq!(cmk.require(Operation::ScheduleDeletion), Ok(()));
        cmk.state = KeyState::PendingDeletion { deletion_date: 1 };
        assert!(matches!(cmk.require(Operation::Wrap), Err(KmsError::InvalidState(_))));
        assert!(matches!(cmk.require(Operation::ScheduleDeletion), Err(KmsError::InvalidState(_))));
        assert_eq!(cmk.require(Operation::CancelDeletion), Ok(()));
    }

    #[test]
    fn rotation_adds_a_version_and_keeps_the_old_secret() {
        let one = Cmk::generate(1, "");
        let two = one.rotated().unwrap();
        assert_eq!(two.newest().number, 2);
        assert_eq!(two.version(1).unwrap().material, one.newest().material);
        assert_ne!(two.newest().material, one.newest().material);
        assert!(two.version(0).is_none() && two.version(3).is_none());
    }
}
