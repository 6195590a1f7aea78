//! Who may open a keystore: its slots; and sealed copies of it for volumes.

use std::path::Path;

use super::bundle::{self, Header};
use super::grant::TokenKey;
use super::recovery::RecoveryKey;
use super::slots::{self, MAX_SLOTS, Slot, SlotKind, UnlockSecret};
use super::{AccessKey, KeyId, Keystore, KeystoreError, bundle_file};

impl Keystore {
    fn with_slot(&self, secret: &UnlockSecret, unlock_ms: u32) -> Result<(Vec<Slot>, u32), KeystoreError> {
        let header = &self.state.header;
        if header.slots.len() >= MAX_SLOTS {
            return Err(KeystoreError::TooManySlots);
        }
        let id = header.slots.iter().map(|slot| slot.id).max().map_or(1, |id| id.saturating_add(1));
        let cost = slots::calibrate(unlock_ms);
        let mut slots = header.slots.clone();
        slots.push(Slot::seal(id, header.keystore.as_bytes(), &self.root, secret, cost));
        Ok((slots, id))
    }

    fn commit_slots(&mut self, slots: Vec<Slot>) -> Result<(), KeystoreError> {
        let keys = (*self.state.keys).clone();
        self.commit(slots, keys)
    }

    /// The key of the grant tokens of this keystore.
    pub(super) fn grant_token_key(&self) -> TokenKey {
        TokenKey::derive(&self.root)
    }

    /// Adds an access key. On error nothing has changed.
    ///
    /// # Errors
    /// Of writing.
    pub fn add_access_key(&mut self, key: AccessKey) -> Result<(), KeystoreError> {
        self.change(|keys| {
            keys.put_access_key(key);
            Ok(())
        })
    }

    /// Takes an access key away. Whether it was there. On error nothing has changed.
    ///
    /// # Errors
    /// Of writing.
    pub fn remove_access_key(&mut self, id: &str) -> Result<bool, KeystoreError> {
        self.change(|keys| Ok(keys.remove_access_key(id)))
    }

    /// Adds a slot for `secret` and answers its number. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::TooManySlots`], or of writing.
    pub fn add_slot(&mut self, secret: &UnlockSecret, unlock_ms: u32) -> Result<u32, KeystoreError> {
        let (slots, id) = self.with_slot(secret, unlock_ms)?;
        self.commit_slots(slots)?;
        Ok(id)
    }

    /// Adds a slot for a fresh recovery key, which is handed out this once. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::TooManySlots`], or of writing.
    pub fn add_recovery_key(&mut self) -> Result<RecoveryKey, KeystoreError> {
        let secret = UnlockSecret::RecoveryKey(RecoveryKey::generate());
        self.add_slot(&secret, 0)?;
        let UnlockSecret::RecoveryKey(key) = secret else { unreachable!("it was made as one above") };
        Ok(key)
    }

    /// Removes a slot, and every trace of it in the files of the keystore, as [`Keystore::retire`] does. Copies in volumes and
    /// backups keep it. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::NoSuchSlot`], [`KeystoreError::LastSlot`], or of writing.
    pub fn remove_slot(&mut self, id: u32) -> Result<(), KeystoreError> {
        if !self.state.header.slots.iter().any(|slot| slot.id == id) {
            return Err(KeystoreError::NoSuchSlot(id));
        }
        self.remove_slots(&[id])
    }

    fn remove_slots(&mut self, ids: &[u32]) -> Result<(), KeystoreError> {
        let mut slots = self.state.header.slots.clone();
        slots.retain(|slot| !ids.contains(&slot.id));
        if slots.is_empty() {
            return Err(KeystoreError::LastSlot(ids.first().copied().unwrap_or_default()));
        }
        let keys = (*self.state.keys).clone();
        self.destroy(slots, keys)
    }

    /// Replaces every passphrase by a new one: also those that a change left which was killed half-way. The new slot is
    /// written, read back and opened before an old one goes. On error nothing has changed.
    ///
    /// # Errors
    /// [`KeystoreError::EmptyPassphrase`] if `new` is no passphrase, [`KeystoreError::Damaged`] if it does not read back,
    /// or of writing.
    pub fn change_passphrase(&mut self, new: &UnlockSecret, unlock_ms: u32) -> Result<(), KeystoreError> {
        if new.kind() != SlotKind::Passphrase {
            return Err(KeystoreError::EmptyPassphrase);
        }
        let passphrases = self.state.header.slots.iter().filter(|slot| slot.kind == SlotKind::Passphrase);
        let old: Vec<u32> = passphrases.map(|slot| slot.id).collect();
        let before = self.state.header.slots.clone();
        let added = self.add_slot(new, unlock_ms)?;
        let changed = self.read_back(new, added).and_then(|()| self.remove_slots(&old));
        match changed {
            Ok(()) => self.unlocked_by = added,
            Err(_) => self.commit_slots(before)?,
        }
        changed
    }

    fn read_back(&self, secret: &UnlockSecret, slot: u32) -> Result<(), KeystoreError> {
        let path = self.bundle_path();
        let bundle = bundle_file::read(&path)?;
        let slot = bundle.header.slots.iter().find(|candidate| candidate.id == slot);
        let root = slot.and_then(|slot| slot.open(bundle.header.keystore.as_bytes(), secret));
        let opens = root.is_some_and(|root| root == self.root && bundle.open(&root).is_some());
        if opens { Ok(()) } else { Err(KeystoreError::damaged(&path, "the new passphrase does not open it")) }
    }

    /// The slot that `secret` opens; for checking that a recovery key or passphrase still works.
    ///
    /// # Errors
    /// [`KeystoreError::WrongSecret`].
    pub fn check_secret(&self, secret: &UnlockSecret) -> Result<u32, KeystoreError> {
        self.state.header.unlock(secret).map(|(_, slot)| slot)
    }

    /// Writes a sealed copy of these CMKs, with the same slots, to `path` (a volume's `.kmsfs/keystore.bundle`). On error
    /// `path` is as it was.
    ///
    /// # Errors
    /// [`KeystoreError::Kms`] if a CMK does not exist, or [`KeystoreError::Io`].
    pub fn export_subset(&self, ids: &[KeyId], path: &Path) -> Result<(), KeystoreError> {
        let keys = self.state.keys.subset(ids)?;
        let header = Header { is_subset: true, ..self.state.header.clone() };
        bundle_file::replace_copy(path, &bundle::seal(&header, &keys, &self.root))
    }
}
