//! The state of a keystore in memory: CMKs, aliases, grants and access keys, immutable once shared, and its plain encoding.
//!
//! Encoding: `length u32 | JSON | secrets`. The secrets stand outside of the JSON, 32 bytes each, in the order of keys
//! and versions, so that no serialiser ever copies one into a buffer that is not wiped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::clock::now;
use super::key::{Cmk, KeyState, KeyVersion, RotationType};
use super::key_record::CmkRecord;
use super::{AccessKey, Grant, InvalidCiphertext, KeyId, KmsError};
use crate::crypto::{Secret, random};

const MINUTE: u64 = 60;

/// Prefix of every alias.
pub const ALIAS_PREFIX: &str = "alias/";

/// What a set is made of.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) cmks: Vec<Cmk>,
    pub(super) aliases: BTreeMap<String, Alias>,
    pub(super) deleted: Vec<DeletedKey>,
    pub(super) grants: Vec<Grant>,
    pub(super) access_keys: Vec<AccessKey>,
}

/// What an alias names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AliasRecord", into = "AliasRecord")]
pub struct Alias {
    /// The CMK.
    pub target: KeyId,
    /// When it was made, in unix seconds; `None` in keystores that did not record it.
    pub created: Option<u64>,
    /// When it was last pointed at a CMK.
    pub updated: Option<u64>,
}

/// An alias as it is sealed: the id of its target, or that and more.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum AliasRecord {
    Target(KeyId),
    Full(FullAlias),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FullAlias {
    key: KeyId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated: Option<u64>,
}

impl From<AliasRecord> for Alias {
    fn from(record: AliasRecord) -> Self {
        match record {
            AliasRecord::Target(target) => Self { target, created: None, updated: None },
            AliasRecord::Full(FullAlias { key, created, updated }) => Self { target: key, created, updated },
        }
    }
}

impl From<Alias> for AliasRecord {
    fn from(alias: Alias) -> Self {
        match (alias.created, alias.updated) {
            (None, None) => Self::Target(alias.target),
            (created, updated) => Self::Full(FullAlias { key: alias.target, created, updated }),
        }
    }
}

/// Everything that a keystore holds. Cloning copies pointers; secrets are shared, never copied.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: BTreeMap<KeyId, Arc<Cmk>>,
    by_number: HashMap<u32, Arc<Cmk>>,
    aliases: BTreeMap<String, Alias>,
    // The same the other way round: by target and name.
    by_target: BTreeSet<(KeyId, String)>,
    // By the CMK and then by their own ids, so that those of one CMK are found together.
    grants: BTreeMap<KeyId, BTreeMap<String, Arc<Grant>>>,
    access_keys: BTreeMap<String, Arc<AccessKey>>,
    // By number: no other CMK may get one of these, and blobs under them are told from damaged ones.
    deleted: BTreeMap<u32, DeletedKey>,
}

/// What is left of a CMK after its deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletedKey {
    /// Its id.
    pub id: KeyId,
    /// Its number in blobs.
    pub number: u32,
    /// When its key material was destroyed, in unix seconds.
    pub deleted: u64,
}

impl KeySet {
    /// All CMKs, by id.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Cmk>> {
        self.keys.values()
    }

    /// All aliases with their targets, by name.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &KeyId)> {
        self.aliases.iter().map(|(name, alias)| (name.as_str(), &alias.target))
    }

    /// All aliases, by name, with what is known of them.
    pub fn alias_entries(&self) -> impl Iterator<Item = (&str, &Alias)> {
        self.aliases.iter().map(|(name, alias)| (name.as_str(), alias))
    }

    /// The target of an alias.
    pub fn alias(&self, name: &str) -> Option<&KeyId> {
        self.aliases.get(name).map(|alias| &alias.target)
    }

    /// The aliases of a CMK, sorted.
    pub fn aliases_of<'a>(&'a self, key: &'a KeyId) -> impl Iterator<Item = &'a str> {
        let first = (key.clone(), String::new());
        self.by_target.range(first..).take_while(move |(target, _)| target == key).map(|(_, name)| name.as_str())
    }

    /// The grants of a CMK, by id, those that have expired among them.
    pub fn grants(&self, key: &KeyId) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants.get(key).into_iter().flat_map(BTreeMap::values)
    }

    /// All grants, by CMK and id.
    pub fn all_grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants.values().flat_map(BTreeMap::values)
    }

    /// One grant of a CMK.
    pub fn grant(&self, key: &KeyId, id: &str) -> Option<&Arc<Grant>> {
        self.grants.get(key)?.get(id)
    }

    /// All access keys, by id.
    pub fn access_keys(&self) -> impl Iterator<Item = &Arc<AccessKey>> {
        self.access_keys.values()
    }

    /// The access key with this id.
    pub fn access_key(&self, id: &str) -> Option<&Arc<AccessKey>> {
        self.access_keys.get(id)
    }

    /// The CMK that blobs call `number`.
    pub fn by_number(&self, number: u32) -> Option<&Arc<Cmk>> {
        self.by_number.get(&number)
    }

    /// The CMK with this id, or that this alias points at.
    ///
    /// # Errors
    /// [`KmsError::NotFound`].
    pub fn resolve(&self, name: &str) -> Result<&Arc<Cmk>, KmsError> {
        let id = if name.starts_with(ALIAS_PREFIX) { self.alias(name).cloned() } else { Some(KeyId(name.to_owned())) };
        id.and_then(|id| self.keys.get(&id)).ok_or_else(|| KmsError::NotFound(name.to_owned()))
    }

    /// The CMKs that were deleted, by number.
    pub fn deleted(&self) -> impl Iterator<Item = &DeletedKey> {
        self.deleted.values()
    }

    /// The id of the CMK that blobs call `number`, even if that was deleted.
    pub(super) fn id_of(&self, number: u32) -> Option<&KeyId> {
        let known = self.by_number.get(&number).map(|cmk| &cmk.id);
        known.or_else(|| self.deleted.get(&number).map(|deleted| &deleted.id))
    }

    /// The CMK that blobs call `number`, to unwrap with.
    ///
    /// # Errors
    /// [`KmsError::NotFound`] if it was deleted, [`KmsError::InvalidCiphertext`] if there never was one.
    pub(super) fn of_blob(&self, number: u32) -> Result<&Arc<Cmk>, KmsError> {
        self.by_number.get(&number).ok_or_else(|| match self.deleted.get(&number) {
            Some(deleted) => KmsError::NotFound(deleted.id.0.clone()),
            None => KmsError::InvalidCiphertext(InvalidCiphertext::UnknownKey(number)),
        })
    }

    /// A number that no CMK here has or had.
    pub(super) fn free_number(&self) -> u32 {
        loop {
            let number = u32::from_le_bytes(random::array());
            if !self.by_number.contains_key(&number) && !self.deleted.contains_key(&number) {
                return number;
            }
        }
    }

    /// Adds a CMK, or replaces the one with the same id.
    pub(super) fn put(&mut self, cmk: Cmk) {
        let cmk = Arc::new(cmk);
        self.by_number.insert(cmk.number, Arc::clone(&cmk));
        self.keys.insert(cmk.id.clone(), cmk);
    }

    /// Deletes the CMKs whose waiting period is over, with their aliases and grants; answers which.
    pub(super) fn delete_gone(&mut self) -> Vec<KeyId> {
        let gone: Vec<Arc<Cmk>> = self.keys.values().filter(|cmk| cmk.is_gone()).cloned().collect();
        for cmk in &gone {
            self.keys.remove(&cmk.id);
            self.by_number.remove(&cmk.number);
            self.aliases.retain(|_, alias| alias.target != cmk.id);
            self.by_target.retain(|(target, _)| *target != cmk.id);
            self.grants.remove(&cmk.id);
            self.put_deleted(DeletedKey { id: cmk.id.clone(), number: cmk.number, deleted: now() });
        }
        gone.iter().map(|cmk| cmk.id.clone()).collect()
    }

    fn put_deleted(&mut self, deleted: DeletedKey) {
        self.deleted.insert(deleted.number, deleted);
    }

    /// Points an alias at a key, which must be in the set.
    pub(super) fn put_alias(&mut self, name: &str, target: KeyId) {
        let now = Some(now());
        let created = self.aliases.get(name).map_or(now, |alias| alias.created);
        self.insert_alias(name, Alias { target, created, updated: now });
    }

    fn insert_alias(&mut self, name: &str, alias: Alias) {
        self.remove_alias(name);
        self.by_target.insert((alias.target.clone(), name.to_owned()));
        self.aliases.insert(name.to_owned(), alias);
    }

    /// Adds a grant of a key, which must be in the set.
    pub(super) fn put_grant(&mut self, grant: Grant) {
        self.grants.entry(grant.key.clone()).or_default().insert(grant.id.clone(), Arc::new(grant));
    }

    /// Takes a grant away. Whether it was there.
    pub(super) fn remove_grant(&mut self, key: &KeyId, id: &str) -> bool {
        self.grants.get_mut(key).is_some_and(|grants| grants.remove(id).is_some())
    }

    /// Adds an access key.
    pub(super) fn put_access_key(&mut self, key: AccessKey) {
        self.access_keys.insert(key.id.clone(), Arc::new(key));
    }

    /// Takes an access key away. Whether it was there.
    pub(super) fn remove_access_key(&mut self, id: &str) -> bool {
        self.access_keys.remove(id).is_some()
    }

    /// Gives every CMK whose automatic rotation is due one version more, however many periods have passed; answers which.
    pub(super) fn rotate_due(&mut self) -> Vec<KeyId> {
        let due: Vec<Arc<Cmk>> = self.keys.values().filter(|cmk| cmk.is_rotation_due()).cloned().collect();
        let rotated = due.iter().filter_map(|cmk| cmk.rotated(RotationType::Automatic).ok());
        rotated
            .map(|cmk| {
                let id = cmk.id.clone();
                self.put(cmk);
                id
            })
            .collect()
    }

    /// Takes away the grants that have ended by themselves; answers how many.
    pub(super) fn drop_expired_grants(&mut self) -> usize {
        let (now, before) = (now(), self.all_grants().count());
        for grants in self.grants.values_mut() {
            grants.retain(|_, grant| !grant.is_expired(now));
        }
        before - self.all_grants().count()
    }

    /// When something happens by itself next, in unix seconds: a rotation, a deletion, or grants that have ended go, all
    /// those of a minute together.
    pub fn next_event(&self) -> Option<u64> {
        let of_key = |cmk: &Arc<Cmk>| match cmk.state {
            KeyState::Enabled => cmk.next_rotation(),
            KeyState::PendingDeletion { deletion_date } => Some(deletion_date),
            KeyState::Disabled => None,
        };
        let ends = self.all_grants().filter_map(|grant| grant.expires);
        let dropped = ends.map(|end| end.checked_next_multiple_of(MINUTE).unwrap_or(u64::MAX));
        self.keys.values().filter_map(of_key).chain(dropped).min()
    }

    /// Takes an alias away.
    pub(super) fn remove_alias(&mut self, name: &str) {
        if let Some(alias) = self.aliases.remove(name) {
            self.by_target.remove(&(alias.target, name.to_owned()));
        }
    }

    /// Only these CMKs, with their aliases and grants, and all that is known of deleted ones. No access keys: those are for
    /// the keystore's own door.
    pub(super) fn subset(&self, ids: &[KeyId]) -> Result<Self, KmsError> {
        let mut subset = Self::default();
        for id in ids {
            subset.put(Cmk::clone(self.resolve(&id.0)?));
        }
        let aliases = self.aliases.iter().filter(|(_, alias)| ids.contains(&alias.target));
        for (name, alias) in aliases {
            subset.insert_alias(name, alias.clone());
        }
        let grants = self.grants.iter().filter(|(id, _)| subset.keys.contains_key(id));
        subset.grants = grants.map(|(id, grants)| (id.clone(), grants.clone())).collect();
        subset.deleted.clone_from(&self.deleted);
        Ok(subset)
    }

    /// What a copy of some of these CMKs shall hold: `ids`, and those that it had before, in `former`. What was deleted here is
    /// gone there too. A CMK that this set has never had stays as it is: that copy may be the only one, and this set may be
    /// restored from another.
    ///
    /// # Errors
    /// [`KmsError::NotFound`] for one of `ids`.
    pub(super) fn renewed(&self, ids: &[KeyId], former: &Self) -> Result<Self, KmsError> {
        let known = former.keys.keys().filter(|id| self.keys.contains_key(id));
        let mut ids = ids.to_vec();
        ids.extend(known.cloned());
        let mut renewed = self.subset(&ids)?;
        for cmk in former.strangers_to(self) {
            renewed.by_number.insert(cmk.number, Arc::clone(cmk));
            renewed.keys.insert(cmk.id.clone(), Arc::clone(cmk));
            if let Some(grants) = former.grants.get(&cmk.id) {
                renewed.grants.insert(cmk.id.clone(), grants.clone());
            }
        }
        for (name, alias) in &former.aliases {
            // An alias is somebody else's by now, perhaps.
            if renewed.keys.contains_key(&alias.target)
                && !self.keys.contains_key(&alias.target)
                && self.alias(name).is_none()
            {
                renewed.insert_alias(name, alias.clone());
            }
        }
        for deleted in former.deleted.values().filter(|deleted| self.id_of(deleted.number).is_none()) {
            renewed.put_deleted(deleted.clone());
        }
        Ok(renewed)
    }

    /// The CMKs that `other` does not have and has never had, by their numbers in blobs.
    pub(super) fn strangers_to<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Arc<Cmk>> {
        self.keys.values().filter(|cmk| other.id_of(cmk.number).is_none())
    }

    /// The set of these parts. `None` if ids or numbers repeat, or an alias or a grant points nowhere.
    pub(super) fn assemble(parts: Parts) -> Option<Self> {
        let Parts { cmks, aliases, deleted, grants, access_keys } = parts;
        let counts = (cmks.len(), deleted.len(), grants.len(), access_keys.len());
        let mut set = Self::default();
        for (name, alias) in aliases {
            set.insert_alias(&name, alias);
        }
        for cmk in cmks {
            set.put(cmk);
        }
        for deleted in deleted {
            set.put_deleted(deleted);
        }
        for grant in grants {
            set.put_grant(grant);
        }
        for key in access_keys {
            set.put_access_key(key);
        }
        let found = (set.keys.len(), set.deleted.len(), set.all_grants().count(), set.access_keys.len());
        let whole = found == counts && set.by_number.len() == counts.0;
        let mut targets = set.aliases.values().map(|alias| &alias.target).chain(set.grants.keys());
        (whole && targets.all(|id| set.keys.contains_key(id))).then_some(set)
    }

    /// The plain encoding; equal sets have equal encodings.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let record = SetRecord {
            keys: self.keys().map(|cmk| CmkRecord::of(cmk)).collect(),
            aliases: self.aliases.clone(),
            deleted: self.deleted().cloned().collect(),
            grants: self.all_grants().map(|grant| Grant::clone(grant)).collect(),
            access_keys: self.access_keys().map(|key| AccessKey::clone(key)).collect(),
        };
        encode(&record, self.keys.values().map(AsRef::as_ref))
    }

    /// What [`KeySet::encode`] encoded; `None` for anything else.
    pub(super) fn decode(plain: &[u8]) -> Option<Self> {
        let (mut record, mut secrets): (SetRecord, _) = split(plain)?;
        let mut cmks = Vec::new();
        for record in std::mem::take(&mut record.keys) {
            cmks.push(with_secrets(record, &mut secrets)?);
        }
        let SetRecord { aliases, deleted, grants, access_keys, .. } = record;
        let parts = Parts { cmks, aliases, deleted, grants, access_keys };
        secrets.is_empty().then(|| Self::assemble(parts))?
    }
}

/// Encodes one CMK by itself.
pub(super) fn encode_cmk(cmk: &Cmk) -> Zeroizing<Vec<u8>> {
    encode(&CmkRecord::of(cmk), std::iter::once(cmk))
}

/// What [`encode_cmk`] encoded; `None` for anything else.
pub(super) fn decode_cmk(plain: &[u8]) -> Option<Cmk> {
    let (record, mut secrets) = split(plain)?;
    let cmk = with_secrets(record, &mut secrets)?;
    secrets.is_empty().then_some(cmk)
}

/// Encodes one alias by itself: the id of its target as it is, if nothing else is known.
pub(super) fn encode_alias(alias: &Alias) -> Vec<u8> {
    match AliasRecord::from(alias.clone()) {
        AliasRecord::Target(id) => id.0.into_bytes(),
        full @ AliasRecord::Full(_) => serde_json::to_vec(&full).expect("an alias is a plain structure"),
    }
}

/// What [`encode_alias`] encoded; `None` for anything else.
pub(super) fn decode_alias(plain: &[u8]) -> Option<Alias> {
    let record = if plain.first() == Some(&b'{') {
        AliasRecord::Full(serde_json::from_slice(plain).ok()?)
    } else {
        AliasRecord::Target(KeyId(String::from_utf8(plain.to_vec()).ok()?))
    };
    Some(record.into())
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetRecord {
    keys: Vec<CmkRecord>,
    aliases: BTreeMap<String, Alias>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<DeletedKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    grants: Vec<Grant>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    access_keys: Vec<AccessKey>,
}

fn encode<'a>(record: &impl Serialize, cmks: impl Iterator<Item = &'a Cmk> + Clone) -> Zeroizing<Vec<u8>> {
    let json = serde_json::to_vec(record).expect("records are plain structures with text keys");
    let length = u32::try_from(json.len()).expect("a keystore is far below 4 GiB");
    let materials = cmks.flat_map(Cmk::versions).filter_map(KeyVersion::material);
    let secrets = 32 * materials.clone().count();
    // Reserved in one piece: growing would leave copies of secrets behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(4 + json.len() + secrets));
    plain.extend_from_slice(&length.to_le_bytes());
    plain.extend_from_slice(&json);
    for material in materials {
        plain.extend_from_slice(material.expose());
    }
    plain
}

fn split<T: DeserializeOwned>(plain: &[u8]) -> Option<(T, &[u8])> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (json, secrets) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(json).ok()?, secrets))
}

fn with_secrets(record: CmkRecord, secrets: &mut &[u8]) -> Option<Cmk> {
    record.with_secrets(|| {
        let (material, rest) = secrets.split_first_chunk::<32>()?;
        *secrets = rest;
        Some(Secret::build(|out| out.copy_from_slice(material)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::key::{KeyState, RotationType};

    fn sample() -> KeySet {
        let mut set = KeySet::default();
        let cmk = Cmk::generate(set.free_number(), "one").rotated(RotationType::OnDemand).unwrap();
        set.put_alias("alias/one", cmk.id.clone());
        set.put(cmk);
        set.put(Cmk::generate(set.free_number(), "two"));
        set
    }

    #[test]
    fn a_set_survives_its_encoding() {
        let set = sample();
        let again = KeySet::decode(&set.encode()).unwrap();
        assert_eq!(*again.encode(), *set.encode());
        let (a, b) = (set.resolve("alias/one").unwrap(), again.resolve("alias/one").unwrap());
        assert_eq!(a.versions()[1].material(), b.versions()[1].material());
        assert_eq!(*encode_cmk(&decode_cmk(&encode_cmk(a)).unwrap()), *encode_cmk(a));
    }

    #[test]
    fn what_was_destroyed_has_no_secret_in_the_encoding_and_is_remembered() {
        let mut set = sample();
        let before = set.resolve("alias/one").unwrap().clone();
        set.put(before.without(1).unwrap());
        let doomed = set.keys().find(|cmk| cmk.id != before.id).unwrap().clone();
        set.put(doomed.with_state(KeyState::PendingDeletion { deletion_date: 1 }));
        assert_eq!(set.delete_gone(), std::slice::from_ref(&doomed.id));
        let plain = set.encode();
        for lost in [before.version(1), doomed.version(1)] {
            let secret = lost.unwrap().material().unwrap().expose();
            assert!(!plain.windows(32).any(|window| window == secret));
        }
        let again = KeySet::decode(&plain).unwrap();
        assert_eq!(*again.encode(), *plain);
        assert!(again.resolve("alias/one").unwrap().version(1).unwrap().destroyed().is_some());
        assert_eq!(again.of_blob(doomed.number).unwrap_err(), KmsError::NotFound(doomed.id.0.clone()));
        assert!(again.resolve(&doomed.id.0).is_err() && again.deleted().count() == 1);
    }

    #[test]
    fn an_encoding_whose_newest_version_was_destroyed_is_refused() {
        let json = br#"{"keys":[{"id":"k","number":1,"description":"","created":1,"state":"Enabled",
            "versions":[1,{"created":2,"destroyed":3}]}],"aliases":{}}"#;
        let plain = [&(json.len() as u32).to_le_bytes()[..], json, &[7; 32]].concat();
        assert!(KeySet::decode(&plain).is_none());
    }

    #[test]
    fn a_cut_or_lengthened_encoding_is_refused() {
        let plain = sample().encode();
        for len in 0..plain.len() {
            assert!(KeySet::decode(&plain[..len]).is_none(), "cut to {len}");
        }
        let mut long = plain.to_vec();
        long.push(0);
        assert!(KeySet::decode(&long).is_none());
    }

    #[test]
    fn a_subset_has_its_keys_and_their_aliases_only() {
        let set = sample();
        let id = set.resolve("alias/one").unwrap().id.clone();
        let subset = set.subset(std::slice::from_ref(&id)).unwrap();
        assert_eq!((subset.keys().count(), subset.aliases().count()), (1, 1));
        let other = set.keys().find(|cmk| cmk.id != id).unwrap().id.clone();
        assert_eq!(set.subset(std::slice::from_ref(&other)).unwrap().aliases().count(), 0);
        assert!(set.subset(&[KeyId("nowhere".into())]).is_err());
    }
}
