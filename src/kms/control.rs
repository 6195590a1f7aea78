//! The control plane: CMKs, their states, and aliases.
//!
//! Management operations take a key id or an alias. On error nothing has changed, but for [`KeystoreError::InDoubt`],
//! which says that a change could be neither finished nor taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::now;
use super::key::{AutomaticRotation, Cmk, DAY, KeyManager, KeyState, MAX_DESCRIPTION, Operation, RotationType};
use super::key_spec::KeySpec;
use super::keyset::{ALIAS_PREFIX, KeySet};
use super::policy::Policy;
use super::{Grant, KeyId, Keystore, KeystoreError, KmsError};

const MAX_ALIAS: usize = 256;
/// Prefixes of names that only services give: AWS's own, and those of kmsfs.
pub(super) const RESERVED: &[&str] = &["alias/aws/", "alias/svc/"];

fn check_alias(name: &str) -> Result<(), KeystoreError> {
    let rest = name.strip_prefix(ALIAS_PREFIX).unwrap_or_default();
    let letters = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte));
    if rest.is_empty()
        || !letters
        || name.len() > MAX_ALIAS
        || RESERVED.iter().any(|reserved| name.starts_with(reserved))
    {
        return Err(KeystoreError::InvalidAlias(name.to_owned()));
    }
    Ok(())
}

/// What a new CMK is like.
pub(super) struct NewKey<'a> {
    pub(super) description: &'a str,
    pub(super) spec: KeySpec,
    pub(super) manager: KeyManager,
    /// None is the mount policy.
    pub(super) policy: Option<Policy>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) rotation: Option<AutomaticRotation>,
    /// A first name for it, which is new.
    pub(super) alias: Option<&'a str>,
}

impl<'a> NewKey<'a> {
    /// A symmetric one, under the mount policy.
    pub(super) fn described(description: &'a str) -> Self {
        Self {
            description,
            spec: KeySpec::Symmetric,
            manager: KeyManager::Customer,
            policy: None,
            tags: BTreeMap::new(),
            rotation: None,
            alias: None,
        }
    }
}

impl Keystore {
    /// Edits what the keystore holds, durably. On error nothing has changed.
    pub(super) fn change<T>(
        &mut self,
        edit: impl FnOnce(&mut KeySet) -> Result<T, KeystoreError>,
    ) -> Result<T, KeystoreError> {
        let mut keys = KeySet::clone(&self.state.keys);
        let answer = edit(&mut keys)?;
        self.commit(self.state.header.slots.clone(), keys)?;
        Ok(answer)
    }

    pub(super) fn change_key(
        &mut self,
        name: &str,
        operation: Operation,
        edit: impl FnOnce(&Cmk) -> Result<Cmk, KeystoreError>,
    ) -> Result<(), KeystoreError> {
        self.change(|keys| {
            let cmk = keys.resolve(name)?;
            cmk.require(operation)?;
            let edited = edit(cmk)?;
            keys.put(edited);
            Ok(())
        })
    }

    fn set_state(&mut self, name: &str, operation: Operation, state: KeyState) -> Result<(), KeystoreError> {
        self.change_key(name, operation, |cmk| Ok(cmk.with_state(state)))
    }

    /// CreateKey: a new, enabled, symmetric CMK under the mount policy. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::DescriptionTooLong`], or what [`KeystoreError`] says of writing.
    pub fn create_key(&mut self, description: &str) -> Result<KeyId, KeystoreError> {
        self.create_cmk(NewKey::described(description))
    }

    /// CreateKey: a new, enabled CMK. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::DescriptionTooLong`], [`KeystoreError::NoKeyPairs`], or what [`KeystoreError`] says of writing.
    pub(super) fn create_cmk(&mut self, new: NewKey<'_>) -> Result<KeyId, KeystoreError> {
        if new.description.chars().count() > MAX_DESCRIPTION {
            return Err(KeystoreError::DescriptionTooLong);
        }
        let mut cmk = Cmk::generate(self.state.keys.free_number(), new.description)
            .of_spec(new.spec)
            .map_err(|_| KeystoreError::NoKeyPairs)?;
        cmk.manager = new.manager;
        cmk.policy = new.policy.map(Into::into);
        cmk.tags = new.tags;
        cmk.rotation = new.rotation;
        self.change(|keys| {
            let id = cmk.id.clone();
            keys.put(cmk);
            if let Some(alias) = new.alias {
                keys.put_alias(alias, id.clone());
            }
            Ok(id)
        })
    }

    /// Edits what is said about a CMK. On error nothing has changed.
    ///
    /// # Errors
    /// [`KmsError::NotFound`], or of writing.
    pub(super) fn edit(&mut self, id: &KeyId, edit: impl FnOnce(&mut Cmk)) -> Result<(), KeystoreError> {
        self.change_key(&id.0, Operation::Look, |cmk| {
            let mut edited = cmk.clone();
            edit(&mut edited);
            Ok(edited)
        })
    }

    /// Adds a grant. On error nothing has changed.
    ///
    /// # Errors
    /// [`KmsError::NotFound`] if its CMK is not there, or of writing.
    pub(super) fn put_grant(&mut self, grant: Grant) -> Result<(), KeystoreError> {
        self.change(|keys| {
            keys.resolve(&grant.key.0)?;
            keys.put_grant(grant);
            Ok(())
        })
    }

    /// Takes grants of a CMK away. On error nothing has changed.
    ///
    /// # Errors
    /// Of writing.
    pub(super) fn remove_grants(&mut self, key: &KeyId, ids: &[String]) -> Result<(), KeystoreError> {
        self.change(|keys| {
            for id in ids {
                keys.remove_grant(key, id);
            }
            Ok(())
        })
    }

    /// CreateAlias: `alias` must be new, `target` must not be pending deletion. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::InvalidAlias`], [`KeystoreError::AliasExists`], [`KeystoreError::Kms`], or of writing.
    pub fn create_alias(&mut self, alias: &str, target: &str) -> Result<(), KeystoreError> {
        check_alias(alias)?;
        if self.state.keys.alias(alias).is_some() {
            return Err(KeystoreError::AliasExists(alias.to_owned()));
        }
        self.point_alias(alias, target)
    }

    /// UpdateAlias: points an existing alias at another key. Blobs made before still name the former key, which unwraps
    /// them. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if alias or target do not exist or the target is pending deletion, or of writing.
    pub fn update_alias(&mut self, alias: &str, target: &str) -> Result<(), KeystoreError> {
        self.state.keys.alias(alias).ok_or_else(|| KmsError::NotFound(alias.to_owned()))?;
        self.point_alias(alias, target)
    }

    fn point_alias(&mut self, alias: &str, target: &str) -> Result<(), KeystoreError> {
        self.change(|keys| {
            let cmk = keys.resolve(target)?;
            cmk.require(Operation::AliasTarget)?;
            let id = cmk.id.clone();
            keys.put_alias(alias, id);
            Ok(())
        })
    }

    /// DeleteAlias; its key is untouched. On error nothing has changed.
    ///
    /// # Errors
    /// [`KmsError::NotFound`], or of writing.
    pub fn delete_alias(&mut self, alias: &str) -> Result<(), KeystoreError> {
        self.change(|keys| {
            keys.alias(alias).ok_or_else(|| KmsError::NotFound(alias.to_owned()))?;
            keys.remove_alias(alias);
            Ok(())
        })
    }

    /// ListKeys, by id.
    pub fn list_keys(&self) -> Vec<Arc<Cmk>> {
        self.state.keys.keys().cloned().collect()
    }

    /// DescribeKey, by id or alias and in every state.
    ///
    /// # Errors
    /// [`KmsError::NotFound`].
    pub fn describe_key(&self, name: &str) -> Result<Arc<Cmk>, KeystoreError> {
        Ok(Arc::clone(self.state.keys.resolve(name)?))
    }

    /// The id behind an alias or an id.
    ///
    /// # Errors
    /// [`KmsError::NotFound`].
    pub fn resolve(&self, name: &str) -> Result<KeyId, KeystoreError> {
        Ok(self.state.keys.resolve(name)?.id.clone())
    }

    /// EnableKey; enabling an enabled key is fine. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if it does not exist or is pending deletion, or of writing.
    pub fn enable(&mut self, name: &str) -> Result<(), KeystoreError> {
        self.set_state(name, Operation::EnableOrDisable, KeyState::Enabled)
    }

    /// DisableKey; live mounts notice within a second. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if it does not exist or is pending deletion, or of writing.
    pub fn disable(&mut self, name: &str) -> Result<(), KeystoreError> {
        self.set_state(name, Operation::EnableOrDisable, KeyState::Disabled)
    }

    /// RotateKeyOnDemand: one version of key material more. Old versions stay and unwrap; nothing is rewrapped. On error
    /// nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if it does not exist or is not enabled, [`KeystoreError::TooManyVersions`], or of writing.
    pub fn rotate(&mut self, name: &str) -> Result<u16, KeystoreError> {
        self.change_key(name, Operation::Rotate, |cmk| cmk.rotated(RotationType::OnDemand))?;
        Ok(self.state.keys.resolve(name)?.newest().number)
    }

    /// ScheduleKeyDeletion after 7 to 30 days; answers when that is, in unix seconds. Until then nothing is wrapped or
    /// unwrapped under it, and it can be taken back. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::WaitingPeriod`], [`KeystoreError::Kms`] if it does not exist or is scheduled already, or of writing.
    pub fn schedule_deletion(&mut self, name: &str, days: u32) -> Result<u64, KeystoreError> {
        self.check_deletable(name, days)?;
        let deletion_date = now() + u64::from(days) * DAY;
        self.set_state(name, Operation::ScheduleDeletion, KeyState::PendingDeletion { deletion_date })?;
        Ok(deletion_date)
    }

    /// Whether [`Keystore::schedule_deletion`] would do it.
    ///
    /// # Errors
    /// Those of [`Keystore::schedule_deletion`], but for writing.
    pub fn check_deletable(&self, name: &str, days: u32) -> Result<(), KeystoreError> {
        if !(7..=30).contains(&days) {
            return Err(KeystoreError::WaitingPeriod(days));
        }
        Ok(self.state.keys.resolve(name)?.require(Operation::ScheduleDeletion)?)
    }

    /// CancelKeyDeletion; the key is disabled afterwards, as with AWS KMS. On error nothing has changed.
    ///
    /// # Errors
    /// [`KmsError::NotPending`], [`KmsError::NotFound`], or of writing.
    pub fn cancel_deletion(&mut self, name: &str) -> Result<(), KeystoreError> {
        self.set_state(name, Operation::CancelDeletion, KeyState::Disabled)
    }
}
