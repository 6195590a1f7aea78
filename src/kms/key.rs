//! Customer master keys: their states, their versions of key material, and what each state permits.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::clock::now;
use super::key_spec::KeySpec;
use super::policy::Policy;
use super::{KeyId, KeystoreError, KmsError};
use crate::crypto::{Secret, derive};

/// Longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 8192;
/// Length of a day in seconds.
pub(super) const DAY: u64 = 24 * 60 * 60;

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
    /// Encrypt, GenerateDataKey and its kin, and ReEncrypt to this key.
    Wrap,
    /// Decrypt, and ReEncrypt from this key.
    Unwrap,
    /// GetPublicKey.
    PublicKey,
    /// CreateGrant.
    CreateGrant,
    /// EnableKeyRotation or DisableKeyRotation.
    ConfigureRotation,
    /// RotateKeyOnDemand.
    Rotate,
    /// EnableKey or DisableKey.
    EnableOrDisable,
    /// UpdateKeyDescription, TagResource and UntagResource.
    Annotate,
    /// ScheduleKeyDeletion.
    ScheduleDeletion,
    /// CancelKeyDeletion.
    CancelDeletion,
    /// Becoming the target of an alias.
    AliasTarget,
    /// Destroying an old version of its key material.
    Retire,
    /// PutKeyPolicy.
    SetPolicy,
    /// Everything else: looking at it, and ending grants.
    Look,
}

impl Operation {
    /// Whether it changes a key, which nobody does with a service managed one.
    fn edits(self) -> bool {
        use Operation::{
            AliasTarget, Annotate, CancelDeletion, ConfigureRotation, CreateGrant, EnableOrDisable, Look, PublicKey,
            Retire, Rotate, ScheduleDeletion, SetPolicy, Unwrap, Wrap,
        };
        match self {
            Wrap | Unwrap | PublicKey | CreateGrant | Look => false,
            ConfigureRotation | Rotate | EnableOrDisable | Annotate | ScheduleDeletion | CancelDeletion
            | AliasTarget | Retire | SetPolicy => true,
        }
    }
}

impl KeyState {
    /// The one table of what is allowed when (AWS KMS developer guide, "Key states").
    pub fn permits(self, operation: Operation) -> bool {
        use Operation::{
            AliasTarget, Annotate, CancelDeletion, ConfigureRotation, CreateGrant, EnableOrDisable, Look, PublicKey,
            Retire, Rotate, ScheduleDeletion, SetPolicy, Unwrap, Wrap,
        };
        match operation {
            Wrap | Unwrap | PublicKey | CreateGrant | ConfigureRotation | Rotate => self == Self::Enabled,
            EnableOrDisable | Annotate | ScheduleDeletion | AliasTarget | Retire => !self.is_pending(),
            CancelDeletion => self.is_pending(),
            SetPolicy | Look => true,
        }
    }

    /// Whether its deletion is scheduled.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::PendingDeletion { .. })
    }

    /// AWS's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion { .. } => "PendingDeletion",
        }
    }
}

/// Who looks after a CMK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyManager {
    /// The owner of the keystore.
    #[default]
    Customer,
    /// kmsfs itself: nobody edits it.
    Service,
}

/// Why a version of key material was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RotationType {
    /// A period was over.
    Automatic,
    /// Somebody asked for it.
    OnDemand,
}

/// Automatic rotation, which is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutomaticRotation {
    /// When it was turned on, in unix seconds: periods count from here, whatever else happens.
    pub enabled: u64,
    /// The period, 90 to 2560 days.
    pub period_days: u32,
}

impl AutomaticRotation {
    /// When the next rotation is due, if the last automatic one was at `last`, in unix seconds.
    fn next(self, last: u64) -> u64 {
        let period = u64::from(self.period_days.max(1)) * DAY;
        let passed = last.saturating_sub(self.enabled) / period;
        self.enabled.saturating_add((passed + 1).saturating_mul(period))
    }
}

/// A key policy that was stored. One that this version cannot read any more leaves the key to the owner alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct KeyPolicy {
    text: String,
    read: Arc<Policy>,
}

impl KeyPolicy {
    /// The document, as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<Policy> for KeyPolicy {
    fn from(policy: Policy) -> Self {
        Self { text: policy.text().to_owned(), read: Arc::new(policy) }
    }
}

impl From<String> for KeyPolicy {
    fn from(text: String) -> Self {
        let read = Policy::parse(&text).unwrap_or_else(|_| Policy::default_for_api());
        Self { text, read: Arc::new(read) }
    }
}

impl From<KeyPolicy> for String {
    fn from(policy: KeyPolicy) -> Self {
        policy.text
    }
}

/// The policy of every key that has none of its own.
static MOUNT_POLICY: LazyLock<KeyPolicy> = LazyLock::new(|| Policy::mount_default().into());

/// A key pair at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedPair {
    /// SubjectPublicKeyInfo, DER.
    #[serde(with = "super::base64")]
    pub public: Vec<u8>,
    /// The private key as PKCS#8, DER, sealed under the version's material: `nonce 12 | ciphertext | tag 16`.
    #[serde(with = "super::base64")]
    pub(super) sealed: Vec<u8>,
}

/// One generation of a CMK's secret.
#[derive(Debug, Clone)]
pub struct KeyVersion {
    /// From 1, without gaps: a destroyed version keeps its number.
    pub number: u16,
    /// When it was made, in unix seconds.
    pub created: u64,
    /// What made it; `None` for the first one, and where it was not recorded.
    pub rotation: Option<RotationType>,
    pub(super) material: Material,
}

#[derive(Debug, Clone)]
pub(super) enum Material {
    Whole(Arc<Secret<32>>),
    /// Since then, in unix seconds.
    Destroyed(u64),
}

impl KeyVersion {
    fn generate(number: u16, rotation: Option<RotationType>) -> Self {
        Self { number, created: now(), rotation, material: Material::Whole(Arc::new(Secret::random())) }
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
    /// Its kind.
    pub spec: KeySpec,
    /// Who looks after it.
    pub manager: KeyManager,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its policy. A key without one has the mount policy.
    pub policy: Option<KeyPolicy>,
    /// Automatic rotation, if it is on.
    pub rotation: Option<AutomaticRotation>,
    /// Its key pair, if it is asymmetric: then it has one version only.
    pub(super) pair: Option<SealedPair>,
    // Never empty; the numbers grow by one; the last one is never destroyed.
    pub(super) versions: Vec<KeyVersion>,
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
            spec: KeySpec::Symmetric,
            manager: KeyManager::Customer,
            tags: BTreeMap::new(),
            policy: None,
            rotation: None,
            pair: None,
            versions: vec![KeyVersion::generate(1, None)],
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
    /// [`KmsError::Disabled`], [`KmsError::InvalidState`] or [`KmsError::NotPending`], as AWS KMS does; [`KmsError::NotFound`]
    /// once its deletion date has passed; [`KmsError::ServiceManaged`].
    pub fn require(&self, operation: Operation) -> Result<(), KmsError> {
        if self.is_gone() {
            return Err(KmsError::NotFound(self.id.0.clone()));
        }
        if self.manager == KeyManager::Service && operation.edits() {
            return Err(KmsError::ServiceManaged(self.id.0.clone()));
        }
        match self.state {
            state if state.permits(operation) => Ok(()),
            _ if operation == Operation::CancelDeletion => Err(KmsError::NotPending(self.id.0.clone())),
            KeyState::PendingDeletion { .. } => Err(KmsError::InvalidState(self.id.0.clone())),
            KeyState::Enabled | KeyState::Disabled => Err(KmsError::Disabled(self.id.0.clone())),
        }
    }

    /// The same CMK in another state.
    pub(super) fn with_state(&self, state: KeyState) -> Self {
        Self { state, ..self.clone() }
    }

    /// The policy that counts for it.
    pub fn policy(&self) -> &Policy {
        &self.policy_record().read
    }

    /// The text of the policy that counts for it.
    pub fn policy_text(&self) -> &str {
        self.policy_record().text()
    }

    fn policy_record(&self) -> &KeyPolicy {
        self.policy.as_ref().unwrap_or(&MOUNT_POLICY)
    }

    /// The public id of one version of its key material, 64 hexadecimal digits: it tells versions apart and says nothing
    /// about the secret.
    pub fn material_id(&self, version: u16) -> String {
        let name = format!("kmsfs1 material {} {version}", self.id.0);
        data_encoding::HEXLOWER.encode(&derive::sha256(name.as_bytes()))
    }

    /// When the next automatic rotation is due, in unix seconds. It may be in the past: a key that is not enabled is not
    /// rotated, and is at once when it is enabled again.
    pub fn next_rotation(&self) -> Option<u64> {
        let automatic = self.versions.iter().rev().find(|version| version.rotation == Some(RotationType::Automatic));
        // A rotation before this schedule began does not count in it.
        self.rotation.map(|rotation| rotation.next(automatic.map_or(0, |version| version.created)))
    }

    /// Whether an automatic rotation is to be made now.
    pub(super) fn is_rotation_due(&self) -> bool {
        self.state == KeyState::Enabled && self.next_rotation().is_some_and(|due| due <= now())
    }

    /// How often it was rotated on demand.
    pub fn on_demand_rotations(&self) -> usize {
        let others = [None, Some(RotationType::OnDemand)];
        self.versions.iter().skip(1).filter(|version| others.contains(&version.rotation)).count()
    }

    /// The same CMK with one version more.
    pub(super) fn rotated(&self, why: RotationType) -> Result<Self, KeystoreError> {
        if self.spec.is_asymmetric() {
            return Err(KeystoreError::NotRotatable(self.id.0.clone()));
        }
        let number =
            self.newest().number.checked_add(1).ok_or_else(|| KeystoreError::TooManyVersions(self.id.0.clone()))?;
        let mut rotated = self.clone();
        rotated.versions.push(KeyVersion::generate(number, Some(why)));
        Ok(rotated)
    }

    /// Whether the secret of this version may be destroyed, if nothing needs it.
    ///
    /// # Errors
    /// Those of [`crate::kms::Keystore::retire`], but for writing.
    pub fn check_retirable(&self, number: u16) -> Result<(), KeystoreError> {
        self.require(Operation::Retire)?;
        self.without(number).map(|_| ())
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
        let two = one.rotated(RotationType::OnDemand).unwrap();
        assert_eq!(two.newest().number, 2);
        assert_eq!(two.version(1).unwrap().material(), one.newest().material());
        assert_ne!(two.newest().material(), one.newest().material());
        assert!(two.version(0).is_none() && two.version(3).is_none());
    }

    #[test]
    fn a_version_that_was_destroyed_is_remembered_and_the_newest_one_stays() {
        let three =
            Cmk::generate(1, "").rotated(RotationType::OnDemand).unwrap().rotated(RotationType::OnDemand).unwrap();
        let left = three.without(2).unwrap();
        assert!(left.version(2).unwrap().destroyed().is_some() && left.version(2).unwrap().material().is_none());
        assert_eq!(left.version(3).unwrap().material(), three.version(3).unwrap().material());
        assert!(matches!(left.without(2), Err(KeystoreError::VersionDestroyed { version: 2, .. })));
        assert!(matches!(left.without(3), Err(KeystoreError::NewestVersion { version: 3, .. })));
        for number in [0, 4] {
            assert!(matches!(left.without(number), Err(KeystoreError::NoSuchVersion { .. })));
        }
        assert_eq!(left.rotated(RotationType::OnDemand).unwrap().newest().number, 4);
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
