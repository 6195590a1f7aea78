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
    /// Destroying an old version of its key material.
    Retire,
}

impl KeyState {
    /// The one table of what is allowed when (AWS KMS developer guide, "Key states"). Reading metadata is always allowed.
    pub fn permits(self, operation: Operation) -> bool {
        use Operation::{AliasTarget, CancelDeletion, EnableOrDisable, Retire, Rotate, ScheduleDeletion, Unwrap, Wrap};
        match operation {
            Wrap | Unwrap | Rotate => self == Self::Enabled,
            EnableOrDisable | ScheduleDeletion | AliasTarget | Retire => !self.is_pending(),
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
    /// From 1, without gaps: a destroyed version keeps its number.
    pub number: u16,
    /// When it was made, in unix seconds.
    pub created: u64,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Whole(Arc<Secret<32>>),
    /// Since then, in unix seconds.
    Destroyed(u64),
}

impl KeyVersion {
    fn generate(number: u16) -> Self {
        Self { number, created: now(), material: Material::Whole(Arc::new(Secret::random())) }
    }

    /// When its material was destroyed, in unix seconds. `None` if it was not.
    pub fn destroyed(&self) -> Option<u64> {
        match self.material {
            Material::Destroyed(when) => Some(when),
            Material::Whole(_) => None,
        }
    }

    /// Its secret, unless that was destroyed.
    pub(super) fn material(&self) -> Option<&Arc<Secret<32>>> {
        match &self.material {
            Material::Whole(secret) => Some(secret),
            Material::Destroyed(_) => None,
        }
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
    // Never empty; the numbers grow by one; the last one is never destroyed.
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

    /// All versions of its key material, oldest first, those that were destroyed among them.
    pub fn versions(&self) -> &[KeyVersion] {
        &self.versions
    }

    /// The version that wraps.
    pub fn newest(&self) -> &KeyVersion {
        self.versions.last().expect("a CMK has at least one version")
    }

    /// The number and the secret that wrap.
    pub(super) fn wrapping(&self) -> (u16, &Secret<32>) {
        let newest = self.newest();
        (newest.number, newest.material().expect("the newest version is never destroyed"))
    }

    /// The version with this number. Each one unwraps until it is destroyed.
    pub fn version(&self, number: u16) -> Option<&KeyVersion> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// Whether its waiting period is over: it is not in the keystore any more, even if nobody has removed it yet.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, KeyState::PendingDeletion { deletion_date } if deletion_date <= now())
    }

    /// Refuses what the state forbids.
    ///
    /// # Errors
    /// [`KmsError::Disabled`] or [`KmsError::InvalidState`], as AWS KMS does; [`KmsError::NotFound`] once its deletion date
    /// has passed.
    pub fn require(&self, operation: Operation) -> Result<(), KmsError> {
        if self.is_gone() {
            return Err(KmsError::NotFound(self.id.0.clone()));
        }
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

    /// The same CMK without the secret of this version, which is not the newest one.
    pub(super) fn without(&self, number: u16) -> Result<Self, KeystoreError> {
        let key = || self.id.0.clone();
        if number == self.newest().number {
            return Err(KeystoreError::NewestVersion { key: key(), version: number });
        }
        let mut retired = self.clone();
        let version = retired.versions.iter_mut().find(|version| version.number == number);
        let version = version.ok_or_else(|| KeystoreError::NoSuchVersion { key: key(), version: number })?;
        if version.destroyed().is_some() {
            return Err(KeystoreError::VersionDestroyed { key: key(), version: number });
        }
        version.material = Material::Destroyed(now());
        Ok(retired)
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
    // Version 1 first, without gaps.
    versions: Vec<VersionRecord>,
}

/// When a version was made, in unix seconds, and when it was destroyed.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum VersionRecord {
    Whole(u64),
    Destroyed { created: u64, destroyed: u64 },
}

impl VersionRecord {
    fn of(version: &KeyVersion) -> Self {
        let created = version.created;
        version.destroyed().map_or(Self::Whole(created), |destroyed| Self::Destroyed { created, destroyed })
    }
}

impl CmkRecord {
    pub(super) fn of(cmk: &Cmk) -> Self {
        Self {
            id: cmk.id.clone(),
            number: cmk.number,
            description: cmk.description.clone(),
            created: cmk.created,
            state: cmk.state,
            versions: cmk.versions.iter().map(VersionRecord::of).collect(),
        }
    }

    /// The CMK; each version that was not destroyed takes the next secret of 32 bytes. `None` if they do not suffice, or
    /// if there is no version or the newest one was destroyed.
    pub(super) fn with_secrets(self, mut next: impl FnMut() -> Option<Secret<32>>) -> Option<Cmk> {
        if !matches!(self.versions.last()?, VersionRecord::Whole(_)) || self.versions.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut versions = Vec::with_capacity(self.versions.len());
        for (number, record) in (1..=u16::MAX).zip(self.versions) {
            let (created, material) = match record {
                VersionRecord::Whole(created) => (created, Material::Whole(Arc::new(next()?))),
                VersionRecord::Destroyed { created, destroyed } => (created, Material::Destroyed(destroyed)),
            };
            versions.push(KeyVersion { number, created, material });
        }
        Some(Cmk {
            id: self.id,
            number: self.number,
            description: self.description,
            created: self.created,
            state: self.state,
            versions,
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
        cmk.state = KeyState::PendingDeletion { deletion_date: u64::MAX };
        assert!(matches!(cmk.require(Operation::Wrap), Err(KmsError::InvalidState(_))));
        assert!(matches!(cmk.require(Operation::ScheduleDeletion), Err(KmsError::InvalidState(_))));
        assert_eq!(cmk.require(Operation::CancelDeletion), Ok(()));
    }

    #[test]
    fn rotation_adds_a_version_and_keeps_the_old_secret() {
        let one = Cmk::generate(1, "");
        let two = one.rotated().unwrap();
        assert_eq!(two.newest().number, 2);
        assert_eq!(two.version(1).unwrap().material(), one.newest().material());
        assert_ne!(two.newest().material(), one.newest().material());
        assert!(two.version(0).is_none() && two.version(3).is_none());
    }

    #[test]
    fn a_version_that_was_destroyed_is_remembered_and_the_newest_one_stays() {
        let three = Cmk::generate(1, "").rotated().unwrap().rotated().unwrap();
        let left = three.without(2).unwrap();
        assert!(left.version(2).unwrap().destroyed().is_some() && left.version(2).unwrap().material().is_none());
        assert_eq!(left.version(3).unwrap().material(), three.version(3).unwrap().material());
        assert!(matches!(left.without(2), Err(KeystoreError::VersionDestroyed { version: 2, .. })));
        assert!(matches!(left.without(3), Err(KeystoreError::NewestVersion { version: 3, .. })));
        for number in [0, 4] {
            assert!(matches!(left.without(number), Err(KeystoreError::NoSuchVersion { .. })));
        }
        assert_eq!(left.rotated().unwrap().newest().number, 4);
    }

    #[test]
    fn a_key_is_gone_when_its_date_has_passed() {
        let pending = |date| Cmk::generate(1, "").with_state(KeyState::PendingDeletion { deletion_date: date });
        assert!(matches!(pending(now() + 100).require(Operation::Unwrap), Err(KmsError::InvalidState(_))));
        for operation in [Operation::Unwrap, Operation::CancelDeletion] {
            assert!(matches!(pending(now()).require(operation), Err(KmsError::NotFound(_))));
        }
    }
}
