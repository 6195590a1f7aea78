//! When each key was last used: what GetKeyLastUsage answers.
//!
//! The log keeps this beside its files, so that the answer does not depend on how many of them are kept. Every writer brings
//! what it saw when it syncs, and the later use wins.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::chain::Keys;
use super::entry::Entry;
use super::{AuditError, sealed};
use crate::kms::KeyId;

/// The name of the file.
pub(super) const KIND: &str = "last-use";

/// The last cryptographic operation with a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// The operation, by AWS's name.
    pub operation: String,
    /// When, in unix seconds.
    pub time: u64,
    /// The id of its event in the log.
    pub event: Uuid,
}

/// The last uses of all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUses {
    /// Since when uses are noted, in unix seconds (`TrackingStartDate`).
    pub since: u64,
    /// By key id.
    pub keys: BTreeMap<KeyId, LastUse>,
}

impl LastUses {
    /// Takes over what a line says.
    pub(super) fn note(&mut self, entry: &Entry) {
        let Some((operation, keys, time)) = entry.last_use() else { return };
        for key in &*keys {
            self.merge(key, operation, time, entry.id());
        }
    }

    fn merge(&mut self, key: &KeyId, operation: &str, time: u64, event: Uuid) {
        match self.keys.get_mut(key) {
            Some(known) if known.time > time => {}
            // Most are like the last one.
            Some(known) if known.operation == operation => {
                known.time = time;
                known.event = event;
            }
            _ => {
                self.keys.insert(key.clone(), LastUse { operation: operation.to_owned(), time, event });
            }
        }
    }

    /// What is on disk in `dir`, with `self` merged into it; a file that is missing or damaged counts as empty from `now` on.
    pub(super) fn merged(&self, dir: &Path, keys: &Keys, now: u64) -> Self {
        let stored = sealed::load(dir, KIND, keys).unwrap_or_else(|problem| {
            log::warn!("{} {problem}; the last uses of keys are noted anew", dir.join(KIND).display());
            None
        });
        let mut all = stored.unwrap_or(Self { since: now, keys: BTreeMap::new() });
        for (key, used) in &self.keys {
            all.merge(key, &used.operation, used.time, used.event);
        }
        all
    }

    /// Writes `self`, merged with what is there, and empties it.
    pub(super) fn save(&mut self, dir: &Path, keys: &Keys, now: u64) -> Result<(), AuditError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        sealed::save(dir, KIND, keys, &self.merged(dir, keys, now))?;
        self.keys.clear();
        Ok(())
    }
}
