//! The part of a CMK that is no secret, as it is sealed: one JSON object (docs/kms.md section 4).
//!
//! A member that has its default is left out, so that records of older keystores say the same as they did.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::KeyId;
use super::key::{
    AutomaticRotation, Cmk, KeyManager, KeyPolicy, KeyState, KeyVersion, Material, RotationType, SealedPair,
};
use super::key_spec::KeySpec;
use crate::crypto::Secret;

/// A CMK without its secrets.
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
    #[serde(default, skip_serializing_if = "is_default")]
    spec: KeySpec,
    #[serde(default, skip_serializing_if = "is_default")]
    manager: KeyManager,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<KeyPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<AutomaticRotation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair: Option<SealedPair>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A version: when it was made, in unix seconds, or that and more.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum VersionRecord {
    Made(u64),
    Full(FullVersion),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FullVersion {
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destroyed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<RotationType>,
}

impl VersionRecord {
    fn of(version: &KeyVersion) -> Self {
        let (created, destroyed, rotation) = (version.created, version.destroyed(), version.rotation);
        match (destroyed, rotation) {
            (None, None) => Self::Made(created),
            _ => Self::Full(FullVersion { created, destroyed, rotation }),
        }
    }

    fn into_full(self) -> FullVersion {
        match self {
            Self::Made(created) => FullVersion { created, destroyed: None, rotation: None },
            Self::Full(full) => full,
        }
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
            versions: cmk.versions().iter().map(VersionRecord::of).collect(),
            spec: cmk.spec,
            manager: cmk.manager,
            tags: cmk.tags.clone(),
            policy: cmk.policy.clone(),
            rotation: cmk.rotation,
            pair: cmk.pair.clone(),
        }
    }

    /// The CMK; each version that was not destroyed takes the next secret of 32 bytes. `None` if they do not suffice, if
    /// there is no version or the newest one was destroyed, or if it has a key pair and should not or the reverse.
    pub(super) fn with_secrets(self, mut next: impl FnMut() -> Option<Secret<32>>) -> Option<Cmk> {
        let fits = self.versions.len() <= usize::from(u16::MAX) && self.pair.is_some() == self.spec.is_asymmetric();
        if !fits {
            return None;
        }
        let mut versions = Vec::with_capacity(self.versions.len());
        for (number, record) in (1..=u16::MAX).zip(self.versions) {
            let FullVersion { created, destroyed, rotation } = record.into_full();
            let material = match destroyed {
                None => Material::Whole(Arc::new(next()?)),
                Some(when) => Material::Destroyed(when),
            };
            versions.push(KeyVersion { number, created, rotation, material });
        }
        versions.last()?.material()?;
        Some(Cmk {
            id: self.id,
            number: self.number,
            description: self.description,
            created: self.created,
            state: self.state,
            spec: self.spec,
            manager: self.manager,
            tags: self.tags,
            policy: self.policy,
            rotation: self.rotation,
            pair: self.pair,
            versions,
        })
    }
}
