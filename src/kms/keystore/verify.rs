//! Looking at everything that a keystore consists of, without repairing any of it.

use super::{Header, LockedKeystore, bundle_file};
use crate::crypto::{Secret, derive};
use crate::kms::bundle::Bundle;
use crate::kms::bundle_file::BUNDLE_NAME;
use crate::kms::keyset::KeySet;
use crate::kms::{KeystoreError, UnlockSecret};

/// One of the places where a keystore is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// Its name in the directory of the keystore.
    pub name: String,
    /// What is wrong with it; `None` if every record of it was opened and is what it should be.
    pub fault: Option<String>,
    /// Its generation, if it could be read.
    pub generation: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// The keystore's uuid.
    pub keystore: String,
    /// The newest generation.
    pub generation: u64,
    /// CMKs in it.
    pub keys: usize,
    /// Versions of key material that were not destroyed, of all CMKs.
    pub versions: usize,
    /// Aliases in it.
    pub aliases: usize,
    /// Whether only some of the CMKs are in it, as in a volume's copy.
    pub is_subset: bool,
    /// The places, one by one.
    pub parts: Vec<Part>,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.parts.iter().all(|part| part.fault.is_none())
    }

    fn of(header: &Header, keys: &KeySet, parts: Vec<Part>) -> Self {
        let versions = keys.keys().flat_map(|cmk| cmk.versions()).filter(|version| version.destroyed().is_none());
        Self {
            keystore: header.keystore.to_string(),
            generation: header.generation,
            keys: keys.keys().count(),
            versions: versions.count(),
            aliases: keys.aliases().count(),
            is_subset: header.is_subset,
            parts,
        }
    }

    /// A bundle by itself, which opened.
    pub(in crate::kms) fn of_bundle(name: &str, header: &Header, keys: &KeySet) -> Self {
        let part = Part { name: name.to_owned(), fault: None, generation: Some(header.generation) };
        Self::of(header, keys, vec![part])
    }
}

/// A place whose records were opened, or why that was not possible.
type Found = Result<(Header, KeySet), String>;

fn open(read: Result<Bundle, KeystoreError>, root: &Secret<32>) -> Found {
    let bundle = read.map_err(|error| match error {
        KeystoreError::Damaged { reason, .. } => reason,
        error if bundle_file::is_missing(&error) => "it is missing".to_owned(),
        error => error.to_string(),
    })?;
    let keys = bundle.open(root).ok_or("its state does not authenticate")?;
    Ok((bundle.header, keys))
}

fn same(one: &(Header, KeySet), other: &(Header, KeySet)) -> bool {
    one.0 == other.0 && derive::sha256(&one.1.encode()) == derive::sha256(&other.1.encode())
}

impl LockedKeystore {
    /// Opens every record of the keystore, its bundle and the one before that, and compares them. Changes nothing.
    ///
    /// # Errors
    /// [`KeystoreError::WrongSecret`], or [`KeystoreError::Damaged`] if neither records nor bundle can be opened.
    pub fn verify(self, secret: &UnlockSecret) -> Result<Verified, KeystoreError> {
        let (root, _) = self.header().unlock(secret)?;
        let path = self.dir.join(BUNDLE_NAME);
        let old_path = bundle_file::old_path(&path);
        let records: Found = self.records.and_then(|(records, header)| {
            let keys = records.load(&root, &header)?;
            Ok((header, keys))
        });
        let bundle = open(bundle_file::read(&path), &root);
        let is_first = !old_path.exists();
        let old = open(bundle_file::read(&old_path), &root);
        let candidates = [&records, &bundle, &old].map(|found| found.as_ref().ok());
        let newest = candidates.into_iter().flatten().max_by_key(|(header, _)| header.generation);
        let Some(newest) = newest else {
            return Err(KeystoreError::damaged(&self.dir, "neither its records nor its bundles can be opened"));
        };
        let current = |name: &str, found: &Found| {
            let fault = match found {
                Ok(found) if same(found, newest) => None,
                Ok((header, _)) if header.generation < newest.0.generation => Some("it is out of date".to_owned()),
                Ok(_) => Some("it says something else than the others".to_owned()),
                Err(fault) => Some(fault.clone()),
            };
            part(name, found, fault)
        };
        let former = match &old {
            _ if is_first => None,
            Ok(found) if found.0.keystore == newest.0.keystore => None,
            Ok(_) => Some("it belongs to another keystore".to_owned()),
            Err(fault) => Some(fault.clone()),
        };
        let mut parts = vec![current(super::RECORDS_NAME, &records), current(BUNDLE_NAME, &bundle)];
        if !is_first {
            parts.push(part(&format!("{BUNDLE_NAME}.old"), &old, former));
        }
        Ok(Verified::of(&newest.0, &newest.1, parts))
    }
}

fn part(name: &str, found: &Found, fault: Option<String>) -> Part {
    let generation = found.as_ref().ok().map(|(header, _)| header.generation);
    Part { name: name.to_owned(), fault, generation }
}
