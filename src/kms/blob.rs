//! The CiphertextBlob of the embedded KMS (docs/format.md section 3): the one place that knows its bytes.

use super::{CiphertextBlob, EncryptionContext, InvalidCiphertext};
use crate::crypto::{BadTag, DataKey, NONCE_LEN, Nonce, Secret, TAG_LEN, Tag, derive, random};

/// Length of a blob around a 32-byte key.
pub const LEN: usize = 67;
const FORMAT: u8 = 1;
const HEADER_LEN: usize = 7;
const NONCE_END: usize = HEADER_LEN + NONCE_LEN;
const KEY_END: usize = NONCE_END + 32;

/// Which key material a blob was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Number of the CMK in its keystore.
    pub number: u32,
    /// Version of its key material, from 1.
    pub version: u16,
}

/// A blob whose shape was checked; nothing in it is authenticated yet.
#[derive(Debug)]
pub struct Blob<'a> {
    /// What it claims to be made with.
    pub origin: Origin,
    bytes: &'a [u8; LEN],
}

impl<'a> Blob<'a> {
    /// Checks length and format.
    ///
    /// # Errors
    /// [`InvalidCiphertext::Malformed`] for any other length or format, or for version 0.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidCiphertext> {
        let bytes: &[u8; LEN] = bytes.try_into().map_err(|_| InvalidCiphertext::Malformed)?;
        let [format, n0, n1, n2, n3, v0, v1, ..] = *bytes;
        let origin = Origin { number: u32::from_le_bytes([n0, n1, n2, n3]), version: u16::from_le_bytes([v0, v1]) };
        if format != FORMAT || origin.version == 0 {
            return Err(InvalidCiphertext::Malformed);
        }
        Ok(Self { origin, bytes })
    }

    /// Unwraps the data key with the material that [`Blob::origin`] names.
    ///
    /// # Errors
    /// [`BadTag`] under another context or other material, or if the blob was altered.
    pub fn open(&self, material: &Secret<32>, context: &EncryptionContext) -> Result<DataKey, BadTag> {
        let nonce: &Nonce = array(&self.bytes[HEADER_LEN..NONCE_END]);
        let tag: &Tag = array(&self.bytes[KEY_END..]);
        let key = derive::wrap_key(material, nonce, context.canonical());
        let aad = [&self.bytes[..HEADER_LEN], context.canonical()].concat();
        let mut outcome = Ok(());
        let plain = Secret::build(|out| outcome = key.open(nonce, &aad, &self.bytes[NONCE_END..KEY_END], tag, out));
        outcome.map(|()| DataKey::from_secret(plain))
    }
}

/// Wraps `data_key` with `material`, which is what `origin` names.
pub fn seal(origin: Origin, material: &Secret<32>, data_key: &DataKey, context: &EncryptionContext) -> CiphertextBlob {
    let nonce: Nonce = random::array();
    let mut blob = Vec::with_capacity(LEN);
    blob.push(FORMAT);
    blob.extend_from_slice(&origin.number.to_le_bytes());
    blob.extend_from_slice(&origin.version.to_le_bytes());
    let aad = [&blob[..], context.canonical()].concat();
    blob.extend_from_slice(&nonce);
    let mut wrapped = [0; 32];
    let key = derive::wrap_key(material, &nonce, context.canonical());
    let tag = key.seal(&nonce, &aad, data_key.expose(), &mut wrapped);
    blob.extend_from_slice(&wrapped);
    blob.extend_from_slice(&tag);
    debug_assert_eq!(blob.len(), KEY_END + TAG_LEN);
    CiphertextBlob(blob)
}

fn array<const N: usize>(part: &[u8]) -> &[u8; N] {
    part.try_into().expect("the part was cut to this length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn context(value: &str) -> EncryptionContext {
        EncryptionContext::new([("k", value)]).unwrap()
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let (material, key, context) = (Secret::random(), DataKey::random(), context("v"));
        let origin = Origin { number: 0x0403_0201, version: 0x0605 };
        let blob = seal(origin, &material, &key, &context).0;
        assert_eq!(blob.len(), LEN);
        assert_eq!(blob[..7], [1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Blob::parse(&blob).unwrap().open(&material, &context).unwrap(), key);
        for bit in 0..LEN * 8 {
            let mut bad = blob.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The origin is only a claim until GCM has checked it, hence the same material here.
            let opened = Blob::parse(&bad).map(|blob| blob.open(&material, &context).is_ok());
            assert_ne!(opened, Ok(true), "bit {bit}");
        }
        for len in 0..LEN {
            assert_eq!(Blob::parse(&blob[..len]).unwrap_err(), InvalidCiphertext::Malformed);
        }
        let mut long = blob;
        long.push(0);
        assert_eq!(Blob::parse(&long).unwrap_err(), InvalidCiphertext::Malformed);
    }

    #[test]
    fn two_blobs_of_one_key_differ_everywhere_but_in_the_header() {
        let (material, key, context) = (Secret::random(), DataKey::random(), context("v"));
        let origin = Origin { number: 7, version: 1 };
        let (a, b) = (seal(origin, &material, &key, &context).0, seal(origin, &material, &key, &context).0);
        assert_eq!(a[..HEADER_LEN], b[..HEADER_LEN]);
        assert_ne!(a[HEADER_LEN..NONCE_END], b[HEADER_LEN..NONCE_END]);
        assert_ne!(a[NONCE_END..], b[NONCE_END..]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(blob) = Blob::parse(&bytes) {
                prop_assert!(blob.open(&Secret::random(), &context("v")).is_err());
            }
        }
    }
}
