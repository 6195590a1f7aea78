//! `keystore.bundle`: a whole keystore, or some of its CMKs, sealed in one file (bytes in docs/kms.md).
//!
//! The header and the slots are in the clear, but authenticated with the sealed state; a checksum tells a torn file from
//! an attacked one, and does so without any secret.

use std::path::Path;

use zeroize::Zeroizing;

use super::KeystoreError;
use super::keyset::KeySet;
use super::slots::{self, MAX_SLOTS, SLOT_LEN, Slot, UnlockSecret};
use crate::crypto::{NONCE_LEN, Nonce, Secret, TAG_LEN, Tag, derive, random};

const MAGIC: [u8; 8] = *b"KMSFSbdl";
const VERSION: u16 = 1;
const FLAG_SUBSET: u16 = 1;
const FIXED_LEN: usize = 44;
const CHECKSUM_LEN: usize = 32;
/// Larger files are refused unread: about 400,000 CMKs fit.
pub const MAX_LEN: u64 = 64 * 1024 * 1024;

/// What stands in the clear at the beginning of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The keystore it belongs to.
    pub keystore: uuid::Uuid,
    /// One more at every change of the keystore.
    pub generation: u64,
    /// Whether only some of the CMKs are in it.
    pub is_subset: bool,
    /// The ways to the root key.
    pub slots: Vec<Slot>,
}

impl Header {
    /// The root key that `secret` opens, and the number of the slot that it opened.
    ///
    /// # Errors
    /// [`KeystoreError::WrongSecret`].
    pub(super) fn unlock(&self, secret: &UnlockSecret) -> Result<(Secret<32>, u32), KeystoreError> {
        let found = slots::unlock(&self.slots, self.keystore.as_bytes(), secret);
        found.ok_or(KeystoreError::WrongSecret(secret.kind().name()))
    }

    /// Its bytes; the length of what follows is part of them.
    pub(super) fn encode(&self, sealed_len: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_LEN + self.slots.len() * SLOT_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(if self.is_subset { FLAG_SUBSET } else { 0 }).to_le_bytes());
        out.extend_from_slice(self.keystore.as_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&(self.slots.len() as u32).to_le_bytes());
        out.extend_from_slice(&sealed_len.to_le_bytes());
        for slot in &self.slots {
            out.extend_from_slice(&slot.encode());
        }
        out
    }

    /// Reads a header from the beginning of `bytes`: the header, its length, and the length of what follows.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize, usize), Malformed> {
        let fixed: &[u8; FIXED_LEN] = bytes.first_chunk().ok_or(Malformed::Is("it is too short"))?;
        if fixed[..8] != MAGIC {
            return Err(Malformed::Is("it is not a keystore bundle"));
        }
        let version = u16::from_le_bytes(part(&fixed[8..10]));
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let flags = u16::from_le_bytes(part(&fixed[10..12]));
        let count = u32::from_le_bytes(part(&fixed[36..40])) as usize;
        let sealed_len = u32::from_le_bytes(part(&fixed[40..44])) as usize;
        if flags & !FLAG_SUBSET != 0 || !(1..=MAX_SLOTS).contains(&count) {
            return Err(Malformed::Is("its header is not valid"));
        }
        let end = FIXED_LEN + count * SLOT_LEN;
        let encoded = bytes.get(FIXED_LEN..end).ok_or(Malformed::Is("it ends within the slots"))?;
        let (chunks, _) = encoded.as_chunks::<SLOT_LEN>();
        let slots = chunks.iter().map(Slot::decode).collect::<Option<Vec<Slot>>>();
        let header = Self {
            keystore: uuid::Uuid::from_bytes(part(&fixed[12..28])),
            generation: u64::from_le_bytes(part(&fixed[28..36])),
            is_subset: flags & FLAG_SUBSET != 0,
            slots: slots.ok_or(Malformed::Is("a slot is not valid"))?,
        };
        Ok((header, end, sealed_len))
    }
}

fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the part was cut to this length")
}

/// Why bytes are no bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// This is wrong with them.
    Is(&'static str),
    /// They are of another version.
    Version(u16),
}

impl Malformed {
    pub(super) fn at(self, path: &Path) -> KeystoreError {
        match self {
            Self::Is(reason) => KeystoreError::damaged(path, reason),
            Self::Version(version) => KeystoreError::UnsupportedVersion { path: path.to_path_buf(), version },
        }
    }
}

/// A bundle whose shape and checksum were checked.
#[derive(Debug)]
pub struct Bundle {
    /// What stands in the clear.
    pub header: Header,
    // Header and slots as they stand in the file: the associated data.
    clear: Vec<u8>,
    nonce: Nonce,
    sealed: Vec<u8>,
    tag: Tag,
}

impl Bundle {
    /// Checks shape and checksum.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, clear_len, sealed_len) = Header::decode(bytes)?;
        if bytes.len() != clear_len + NONCE_LEN + sealed_len + TAG_LEN + CHECKSUM_LEN {
            return Err(Malformed::Is("its length is wrong: it was cut or added to"));
        }
        let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_LEN);
        if derive::sha256(body) != checksum {
            return Err(Malformed::Is("its checksum does not match"));
        }
        let (clear, rest) = body.split_at(clear_len);
        let (nonce, rest) = rest.split_at(NONCE_LEN);
        let (sealed, tag) = rest.split_at(sealed_len);
        Ok(Self { header, clear: clear.to_vec(), nonce: part(nonce), sealed: sealed.to_vec(), tag: part(tag) })
    }

    /// The CMKs in it. `None` if it was not sealed under this root key or does not decode.
    pub(super) fn open(&self, root: &Secret<32>) -> Option<KeySet> {
        KeySet::decode(&self.plain(root)?)
    }

    /// The plain encoding of the state in it. `None` if it was not sealed under this root key.
    pub(super) fn plain(&self, root: &Secret<32>) -> Option<Zeroizing<Vec<u8>>> {
        let mut plain = Zeroizing::new(vec![0; self.sealed.len()]);
        derive::bundle_key(root).open(&self.nonce, &self.clear, &self.sealed, &self.tag, &mut plain).ok()?;
        Some(plain)
    }
}

/// The bytes of a bundle.
pub(super) fn seal(header: &Header, keys: &KeySet, root: &Secret<32>) -> Vec<u8> {
    let plain = keys.encode();
    let mut bytes = header.encode(u32::try_from(plain.len()).expect("a keystore is far below 4 GiB"));
    let nonce: Nonce = random::array();
    let mut sealed = vec![0; plain.len()];
    let tag = derive::bundle_key(root).seal(&nonce, &bytes, &plain, &mut sealed);
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(&tag);
    let checksum = derive::sha256(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::key::Cmk;
    use crate::kms::recovery::RecoveryKey;
    use proptest::prelude::*;

    fn sample() -> (Vec<u8>, Secret<32>, UnlockSecret) {
        let (root, secret) = (Secret::random(), UnlockSecret::RecoveryKey(RecoveryKey::generate()));
        let keystore = uuid::Uuid::new_v4();
        let slot = Slot::seal(1, keystore.as_bytes(), &root, &secret, slots::calibrate(1));
        let header = Header { keystore, generation: 9, is_subset: false, slots: vec![slot] };
        let mut keys = KeySet::default();
        keys.put(Cmk::generate(5, "d"));
        (seal(&header, &keys, &root), root, secret)
    }

    #[test]
    fn a_bundle_opens_with_its_secret() {
        let (bytes, root, secret) = sample();
        let bundle = Bundle::parse(&bytes).unwrap();
        assert_eq!(bundle.header.unlock(&secret).unwrap(), (root, 1));
        let keys = bundle.open(&bundle.header.unlock(&secret).unwrap().0).unwrap();
        assert_eq!(keys.by_number(5).unwrap().description, "d");
        assert!(bundle.open(&Secret::random()).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found_without_a_secret() {
        let (bytes, ..) = sample();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Bundle::parse(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Bundle::parse(&bytes[..len]).is_err(), "cut to {len}");
        }
        assert!(Bundle::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_forged_checksum_does_not_help() {
        let (bytes, root, _) = sample();
        for at in 0..bytes.len() - CHECKSUM_LEN {
            let mut bad = bytes[..bytes.len() - CHECKSUM_LEN].to_vec();
            bad[at] ^= 1;
            let checksum = derive::sha256(&bad);
            bad.extend_from_slice(&checksum);
            assert!(Bundle::parse(&bad).ok().and_then(|bundle| bundle.open(&root)).is_none(), "byte {at}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let (mut bytes, ..) = sample();
        bytes[8] = 2;
        assert_eq!(Bundle::parse(&bytes).unwrap_err(), Malformed::Version(2));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Bundle::parse(&tail).is_err());
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&[1, 0, 0, 0]);
            bytes.extend_from_slice(&tail);
            prop_assert!(Bundle::parse(&bytes).is_err());
        }
    }
}
