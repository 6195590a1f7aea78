//! Unlock slots: ways to the root key of a keystore, as LUKS2 has them.
//!
//! A slot derives a key and a 32-byte commitment from its secret and its own salt. The commitment is compared, in constant
//! time, before anything is unwrapped: GCM alone would let one sealed root key open under several secrets.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::recovery::RecoveryKey;
use super::{KeystoreError, clock};
use crate::crypto::passphrase::{self, Argon2Cost, MEMORY_FLOOR_KIB};
use crate::crypto::{GcmKey, NONCE_LEN, Nonce, Secret, TAG_LEN, Tag, derive, random};

/// Length of an encoded slot in bytes.
pub const SLOT_LEN: usize = 136;
/// Most slots of one keystore.
pub const MAX_SLOTS: usize = 32;
/// Default time for one try of a passphrase, in milliseconds.
pub const DEFAULT_UNLOCK_MS: u32 = 1000;
// Encoded bytes that the wrapped root key is bound to: everything before its nonce.
const BOUND_LEN: usize = 76;
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const LANES: u32 = 4;
const MAX_KEY_FILE: u64 = 1024 * 1024;

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// A passphrase, stretched by Argon2id.
    Passphrase,
    /// A file of random bytes.
    KeyFile,
    /// The recovery key.
    RecoveryKey,
}

impl SlotKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
            Self::RecoveryKey => "recovery key",
        }
    }

    fn id(self) -> u8 {
        match self {
            Self::Passphrase => 1,
            Self::KeyFile => 2,
            Self::RecoveryKey => 3,
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        [Self::Passphrase, Self::KeyFile, Self::RecoveryKey].into_iter().find(|kind| kind.id() == id)
    }
}

/// A secret that may open a slot.
#[derive(Debug)]
pub enum UnlockSecret {
    /// A passphrase, without a line end.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The hash of a key file.
    KeyFile(Secret<32>),
    /// A recovery key.
    RecoveryKey(RecoveryKey),
}

impl UnlockSecret {
    /// A passphrase.
    ///
    /// # Errors
    /// [`KeystoreError::EmptyPassphrase`].
    pub fn passphrase(bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeystoreError> {
        if bytes.is_empty() { Err(KeystoreError::EmptyPassphrase) } else { Ok(Self::Passphrase(bytes)) }
    }

    /// A key file: 32 bytes to 1 MiB, all of which count, readable by its owner only.
    ///
    /// # Errors
    /// [`KeystoreError::KeyFile`] if it is too short, too long or open to others; [`KeystoreError::Io`].
    pub fn key_file(path: &Path) -> Result<Self, KeystoreError> {
        let refuse = |reason| Err(KeystoreError::KeyFile { path: path.to_path_buf(), reason });
        let mut file = File::open(path).map_err(KeystoreError::io("open key file", path))?;
        let metadata = file.metadata().map_err(KeystoreError::io("stat key file", path))?;
        if !metadata.is_file() {
            return refuse("is not a regular file");
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return refuse("is readable or writable by others; make it private with chmod 600");
        }
        if !(32..=MAX_KEY_FILE).contains(&metadata.len()) {
            return refuse("must have 32 bytes to 1 MiB; make one with: head -c 64 /dev/urandom");
        }
        // Reserved in one piece, so that no copy stays behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
        let read = file.by_ref().take(metadata.len()).read_to_end(&mut bytes);
        read.map_err(KeystoreError::io("read key file", path))?;
        if bytes.len() < 32 {
            return refuse("became shorter while it was read");
        }
        let mut digest = derive::sha256(&bytes);
        Ok(Self::KeyFile(Secret::take(&mut digest).expect("SHA-256 has 32 bytes")))
    }

    /// The kind of slot it can open.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::RecoveryKey(_) => SlotKind::RecoveryKey,
        }
    }

    /// Key-encryption key and commitment. `None` if the cost is out of bounds.
    fn keys(&self, salt: &[u8; 16], cost: Argon2Cost) -> Option<(GcmKey, [u8; 32])> {
        Some(match self {
            Self::Passphrase(bytes) => derive::slot_keys(&passphrase::derive(bytes, salt, cost).ok()?, salt),
            Self::KeyFile(secret) => derive::slot_keys(secret, salt),
            Self::RecoveryKey(key) => derive::slot_keys(key.secret(), salt),
        })
    }
}

const NO_COST: Argon2Cost = Argon2Cost { memory_kib: 0, passes: 0, lanes: 0 };

/// One way to the root key. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number, never used twice in one keystore.
    pub id: u32,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made, in unix seconds.
    pub created: u64,
    /// The cost of one try; zeros for kinds whose secrets are uniform already.
    pub cost: Argon2Cost,
    salt: [u8; 16],
    commitment: [u8; 32],
    nonce: Nonce,
    wrapped: [u8; 32],
    tag: Tag,
}

impl Slot {
    /// Wraps `root` for `secret`. `cost` matters to passphrases only, and must be acceptable.
    pub(super) fn seal(
        id: u32,
        keystore: &[u8; 16],
        root: &Secret<32>,
        secret: &UnlockSecret,
        cost: Argon2Cost,
    ) -> Self {
        let kind = secret.kind();
        let mut slot = Self {
            id,
            kind,
            created: clock::now(),
            cost: if kind == SlotKind::Passphrase { cost } else { NO_COST },
            salt: random::array(),
            commitment: [0; 32],
            nonce: random::array(),
            wrapped: [0; 32],
            tag: [0; TAG_LEN],
        };
        let (kek, commitment) = secret.keys(&slot.salt, slot.cost).expect("calibrated costs are within bounds");
        slot.commitment = commitment;
        slot.tag = kek.seal(&slot.nonce, &slot.aad(keystore), root.expose(), &mut slot.wrapped);
        slot
    }

    /// The root key, if `secret` is this slot's.
    pub(super) fn open(&self, keystore: &[u8; 16], secret: &UnlockSecret) -> Option<Secret<32>> {
        if secret.kind() != self.kind {
            return None;
        }
        let (kek, commitment) = secret.keys(&self.salt, self.cost)?;
        if !bool::from(commitment.ct_eq(&self.commitment)) {
            return None;
        }
        let mut outcome = Ok(());
        let root =
            Secret::build(|out| outcome = kek.open(&self.nonce, &self.aad(keystore), &self.wrapped, &self.tag, out));
        outcome.ok().map(|()| root)
    }

    fn aad(&self, keystore: &[u8; 16]) -> Vec<u8> {
        [&keystore[..], &self.encode()[..BOUND_LEN]].concat()
    }

    /// Its bytes (docs/kms.md).
    pub(super) fn encode(&self) -> [u8; SLOT_LEN] {
        let mut out = [0; SLOT_LEN];
        out[0..4].copy_from_slice(&self.id.to_le_bytes());
        out[4] = self.kind.id();
        out[8..12].copy_from_slice(&self.cost.memory_kib.to_le_bytes());
        out[12..16].copy_from_slice(&self.cost.passes.to_le_bytes());
        out[16..20].copy_from_slice(&self.cost.lanes.to_le_bytes());
        out[20..28].copy_from_slice(&self.created.to_le_bytes());
        out[28..44].copy_from_slice(&self.salt);
        out[44..76].copy_from_slice(&self.commitment);
        out[76..76 + NONCE_LEN].copy_from_slice(&self.nonce);
        out[88..120].copy_from_slice(&self.wrapped);
        out[120..].copy_from_slice(&self.tag);
        out
    }

    /// The slot of these bytes. `None` for an unknown kind, a cost out of bounds or a reserved byte that is set.
    pub(super) fn decode(bytes: &[u8; SLOT_LEN]) -> Option<Self> {
        let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let slot = Self {
            id: word(0)?,
            kind: SlotKind::from_id(bytes[4])?,
            cost: Argon2Cost { memory_kib: word(8)?, passes: word(12)?, lanes: word(16)? },
            created: u64::from_le_bytes(bytes[20..28].try_into().ok()?),
            salt: bytes[28..44].try_into().ok()?,
            commitment: bytes[44..76].try_into().ok()?,
            nonce: bytes[76..88].try_into().ok()?,
            wrapped: bytes[88..120].try_into().ok()?,
            tag: bytes[120..].try_into().ok()?,
        };
        let cost_fits = match slot.kind {
            SlotKind::Passphrase => slot.cost.is_acceptable(),
            SlotKind::KeyFile | SlotKind::RecoveryKey => slot.cost == NO_COST,
        };
        (cost_fits && bytes[5..8] == [0; 3]).then_some(slot)
    }
}

/// The root key that `secret` opens, and the number of the slot that it opened.
pub(super) fn unlock(slots: &[Slot], keystore: &[u8; 16], secret: &UnlockSecret) -> Option<(Secret<32>, u32)> {
    slots.iter().find_map(|slot| Some((slot.open(keystore, secret)?, slot.id)))
}

/// The cost at which one derivation takes about `unlock_ms` milliseconds on this machine: more memory first, up to 1 GiB
/// or a quarter of the machine's, then more passes. Never below 64 MiB, one pass and 4 lanes.
pub fn calibrate(unlock_ms: u32) -> Argon2Cost {
    let floor = Argon2Cost { memory_kib: MEMORY_FLOOR_KIB, passes: 1, lanes: LANES };
    // No machine computes the floor in so little time: measuring would only cost.
    if unlock_ms < 5 {
        return floor;
    }
    let started = Instant::now();
    let measured = passphrase::derive(b"calibration", &[0; 16], floor);
    debug_assert!(measured.is_ok(), "the floor is within bounds");
    scale(floor, started.elapsed(), Duration::from_millis(unlock_ms.into()), memory_limit_kib())
}

fn scale(floor: Argon2Cost, took: Duration, wanted: Duration, limit_kib: u32) -> Argon2Cost {
    let factor = wanted.as_secs_f64() / took.as_secs_f64().max(1e-6);
    let memory = (f64::from(floor.memory_kib) * factor).min(f64::from(limit_kib)).max(f64::from(floor.memory_kib));
    let passes = factor * f64::from(floor.memory_kib) / memory;
    Argon2Cost { memory_kib: memory as u32, passes: (passes.round() as u32).clamp(1, 64), lanes: floor.lanes }
}

fn memory_limit_kib() -> u32 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    // Unknown means the floor: a slot that cannot be opened again on its own machine would be worse.
    let quarter = total.map_or(0, |kib| kib / 4);
    u32::try_from(quarter).unwrap_or(u32::MAX).clamp(MEMORY_FLOOR_KIB, MAX_MEMORY_KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [7; 16];

    fn recovery_slot() -> (Slot, Secret<32>, UnlockSecret) {
        let (root, secret) = (Secret::random(), UnlockSecret::RecoveryKey(RecoveryKey::generate()));
        (Slot::seal(3, &UUID, &root, &secret, NO_COST), root, secret)
    }

    #[test]
    fn a_slot_opens_for_its_secret_and_keystore_only() {
        let (slot, root, secret) = recovery_slot();
        let slot = Slot::decode(&slot.encode()).unwrap();
        assert_eq!(slot.open(&UUID, &secret), Some(root));
        assert_eq!(slot.open(&[8; 16], &secret), None);
        assert_eq!(slot.open(&UUID, &UnlockSecret::RecoveryKey(RecoveryKey::generate())), None);
    }

    #[test]
    fn no_bit_of_a_slot_can_be_changed() {
        let (slot, _, secret) = recovery_slot();
        let bytes = slot.encode();
        for bit in 0..SLOT_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            let opened = Slot::decode(&bad).and_then(|slot| slot.open(&UUID, &secret));
            assert_eq!(opened, None, "bit {bit}");
        }
    }

    #[test]
    fn a_passphrase_slot_opens_and_absurd_costs_are_refused_before_they_are_paid() {
        let passphrase = |text: &str| UnlockSecret::passphrase(Zeroizing::new(text.as_bytes().to_vec())).unwrap();
        let root = Secret::random();
        let slot = Slot::seal(1, &UUID, &root, &passphrase("right"), calibrate(1));
        assert_eq!(slot.open(&UUID, &passphrase("right")), Some(root));
        assert_eq!(slot.open(&UUID, &passphrase("wrong")), None);
        let mut bytes = slot.encode();
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Slot::decode(&bytes).is_none());
        bytes[8..12].copy_from_slice(&8u32.to_le_bytes());
        assert!(Slot::decode(&bytes).is_none());
        assert!(UnlockSecret::passphrase(Zeroizing::default()).is_err());
    }

    #[test]
    fn scaling_takes_memory_first_then_passes() {
        let floor = Argon2Cost { memory_kib: 65536, passes: 1, lanes: 4 };
        let ms = Duration::from_millis;
        assert_eq!(scale(floor, ms(100), ms(50), 1 << 20), floor);
        assert_eq!(scale(floor, ms(100), ms(800), 1 << 20), Argon2Cost { memory_kib: 8 * 65536, ..floor });
        assert_eq!(scale(floor, ms(100), ms(800), 131_072), Argon2Cost { memory_kib: 131_072, passes: 4, lanes: 4 });
        assert!(scale(floor, ms(0), ms(60_000), 1 << 20).is_acceptable());
    }

    #[test]
    fn a_key_file_must_be_private_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let chmod = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&path, [1; 64]).unwrap();
        chmod(0o644);
        assert!(matches!(UnlockSecret::key_file(&path), Err(KeystoreError::KeyFile { .. })));
        chmod(0o600);
        let root = Secret::random();
        let slot = Slot::seal(1, &UUID, &root, &UnlockSecret::key_file(&path).unwrap(), NO_COST);
        assert_eq!(slot.open(&UUID, &UnlockSecret::key_file(&path).unwrap()), Some(root));
        std::fs::write(&path, [1; 63]).unwrap();
        assert_eq!(slot.open(&UUID, &UnlockSecret::key_file(&path).unwrap()), None);
        std::fs::write(&path, [1; 31]).unwrap();
        assert!(matches!(UnlockSecret::key_file(&path), Err(KeystoreError::KeyFile { .. })));
        assert!(matches!(UnlockSecret::key_file(dir.path()), Err(KeystoreError::KeyFile { .. })));
    }
}
