//! The state of a keystore in memory: CMKs and aliases, immutable once shared, and its plain encoding.
//!
//! Encoding: `length u32 | JSON | secrets`. The secrets stand outside of the JSON, 32 bytes each, in the order of keys
//! and versions, so that no serialiser ever copies one into a buffer that is not wiped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::{Cmk, CmkRecord};
use super::{KeyId, KmsError};
use crate::crypto::{Secret, random};

/// Prefix of every alias.
pub const ALIAS_PREFIX: &str = "alias/";

/// CMKs and aliases. Cloning copies pointers; secrets are shared, never copied.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: BTreeMap<KeyId, Arc<Cmk>>,
    by_number: HashMap<u32, Arc<Cmk>>,
    aliases: BTreeMap<String, KeyId>,
}

impl KeySet {
    /// All CMKs, by id.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Cmk>> {
        self.keys.values()
    }

    /// All aliases with their targets, by name.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &KeyId)> {
        self.aliases.iter().map(|(name, id)| (name.as_str(), id))
    }

    /// The target of an alias.
    pub fn alias(&self, name: &str) -> Option<&KeyId> {
        self.aliases.get(name)
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
        let id =
            if name.starts_with(ALIAS_PREFIX) { self.aliases.get(name).cloned() } else { Some(KeyId(name.to_owned())) };
        id.and_then(|id| self.keys.get(&id)).ok_or_else(|| KmsError::NotFound(name.to_owned()))
    }

    /// A number that no CMK here has.
    pub(super) fn free_number(&self) -> u32 {
        loop {
            let number = u32::from_le_bytes(random::array());
            if !self.by_number.contains_key(&number) {
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

    /// Points an alias at a key, which must be in the set.
    pub(super) fn put_alias(&mut self, name: &str, target: KeyId) {
        self.aliases.insert(name.to_owned(), target);
    }

    /// Takes an alias away.
    pub(super) fn remove_alias(&mut self, name: &str) {
        self.aliases.remove(name);
    }

    /// Only these CMKs, with their aliases.
    pub(super) fn subset(&self, ids: &[KeyId]) -> Result<Self, KmsError> {
        let mut subset = Self::default();
        for id in ids {
            subset.put(Cmk::clone(self.resolve(&id.0)?));
        }
        let aliases = self.aliases.iter().filter(|(_, id)| subset.keys.contains_key(id));
        subset.aliases = aliases.map(|(name, id)| (name.clone(), id.clone())).collect();
        Ok(subset)
    }

    /// The set of these parts. `None` if ids or numbers repeat or an alias points nowhere.
    pub(super) fn assemble(cmks: Vec<Cmk>, aliases: BTreeMap<String, KeyId>) -> Option<Self> {
        let count = cmks.len();
        let mut set = Self { aliases, ..Self::default() };
        for cmk in cmks {
            set.put(cmk);
        }
        let whole = set.keys.len() == count && set.by_number.len() == count;
        (whole && set.aliases.values().all(|id| set.keys.contains_key(id))).then_some(set)
    }

    /// The plain encoding; equal sets have equal encodings.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let record =
            SetRecord { keys: self.keys().map(|cmk| CmkRecord::of(cmk)).collect(), aliases: self.aliases.clone() };
        encode(&record, self.keys.values().map(AsRef::as_ref))
    }

    /// What [`KeySet::encode`] encoded; `None` for anything else.
    pub(super) fn decode(plain: &[u8]) -> Option<Self> {
        let (record, mut secrets): (SetRecord, _) = split(plain)?;
        let mut cmks = Vec::new();
        for record in record.keys {
            cmks.push(with_secrets(record, &mut secrets)?);
        }
        secrets.is_empty().then(|| Self::assemble(cmks, record.aliases))?
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetRecord {
    keys: Vec<CmkRecord>,
    aliases: BTreeMap<String, KeyId>,
}

fn encode<'a>(record: &impl Serialize, cmks: impl Iterator<Item = &'a Cmk> + Clone) -> Zeroizing<Vec<u8>> {
    let json = serde_json::to_vec(record).expect("records are plain structures with text keys");
    let length = u32::try_from(json.len()).expect("a keystore is far below 4 GiB");
    let secrets = 32 * cmks.clone().map(|cmk| cmk.versions().len()).sum::<usize>();
    // Reserved in one piece: growing would leave copies of secrets behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(4 + json.len() + secrets));
    plain.extend_from_slice(&length.to_le_bytes());
    plain.extend_from_slice(&json);
    for version in cmks.flat_map(Cmk::versions) {
        plain.extend_from_slice(version.material.expose());
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
    let mut materials = Vec::new();
    for _ in 0..record.version_count() {
        let (material, rest) = secrets.split_first_chunk::<32>()?;
        materials.push(Secret::build(|out| out.copy_from_slice(material)));
        *secrets = rest;
    }
    record.with_materials(materials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KeySet {
        let mut set = KeySet::default();
        let cmk = Cmk::generate(set.free_number(), "one").rotated().unwrap();
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
        assert_eq!(a.versions()[1].material, b.versions()[1].material);
        assert_eq!(*encode_cmk(&decode_cmk(&encode_cmk(a)).unwrap()), *encode_cmk(a));
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
