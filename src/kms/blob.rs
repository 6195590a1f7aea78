//! The CiphertextBlob of the embedded KMS (docs/format.md section 3): the one place that knows its bytes.

use zeroize::Zeroizing;

use super::{CiphertextBlob, EncryptionContext, InvalidCiphertext};
use crate::crypto::{BadTag, DataKey, NONCE_LEN, Nonce, Secret, TAG_LEN, Tag, derive, random};

/// Length of a blob around a 32-byte key.
pub const LEN: usize = OVERHEAD + 32;
/// Longest plaintext, in bytes (AWS KMS API reference, Encrypt).
pub const MAX_PLAINTEXT: usize = 4096;
const FORMAT: u8 = 1;
const HEADER_LEN: usize = 7;
const NONCE_END: usize = HEADER_LEN + NONCE_LEN;
const OVERHEAD: usize = NONCE_END + TAG_LEN;

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
    header: &'a [u8; HEADER_LEN],
    nonce: &'a Nonce,
    sealed: &'a [u8],
    tag: &'a Tag,
}

impl<'a> Blob<'a> {
    /// Checks length and format.
    ///
    /// # Errors
    /// [`InvalidCiphertext::Malformed`] for another format, for version 0, or if it is not around 1 to 4096 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidCiphertext> {
        let parts = bytes.split_first_chunk::<HEADER_LEN>().and_then(|(header, rest)| {
            let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
            let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
            Some((header, nonce, sealed, tag))
        });
        let (header, nonce, sealed, tag) = parts.ok_or(InvalidCiphertext::Malformed)?;
        let [format, n0, n1, n2, n3, v0, v1] = *header;
        let origin = Origin { number: u32::from_le_bytes([n0, n1, n2, n3]), version: u16::from_le_bytes([v0, v1]) };
        if format != FORMAT || origin.version == 0 || !(1..=MAX_PLAINTEXT).contains(&sealed.len()) {
            return Err(InvalidCiphertext::Malformed);
        }
        Ok(Self { origin, header, nonce, sealed, tag })
    }

    /// Checks that it is around a data key of 32 bytes.
    ///
    /// # Errors
    /// [`InvalidCiphertext::Malformed`] for any other length.
    pub fn of_data_key(bytes: &'a [u8]) -> Result<Self, InvalidCiphertext> {
        if bytes.len() == LEN { Self::parse(bytes) } else { Err(InvalidCiphertext::Malformed) }
    }

    /// Opens it with the material that [`Blob::origin`] names.
    ///
    /// # Errors
    /// [`BadTag`] under another context or other material, or if the blob was altered.
    pub fn open(&self, material: &Secret<32>, context: &EncryptionContext) -> Result<Zeroizing<Vec<u8>>, BadTag> {
        let mut plain = Zeroizing::new(vec![0; self.sealed.len()]);
        self.open_into(material, context, &mut plain)?;
        Ok(plain)
    }

    /// Unwraps the data key that it is around.
    ///
    /// # Errors
    /// As [`Blob::open`]; also if what it is around has not 32 bytes.
    pub fn unwrap_key(&self, material: &Secret<32>, context: &EncryptionContext) -> Result<DataKey, BadTag> {
        if self.sealed.len() != 32 {
            return Err(BadTag);
        }
        let mut outcome = Ok(());
        let plain = Secret::build(|out| outcome = self.open_into(material, context, out));
        outcome.map(|()| DataKey::from_secret(plain))
    }

    fn open_into(&self, material: &Secret<32>, context: &EncryptionContext, out: &mut [u8]) -> Result<(), BadTag> {
        let key = derive::wrap_key(material, self.nonce, context.canonical());
        let aad = [&self.header[..], context.canonical()].concat();
        key.open(self.nonce, &aad, self.sealed, self.tag, out)
    }
}

/// Seals `plain`, of 1 to 4096 bytes, with `material`, which is what `origin` names.
pub fn seal(origin: Origin, material: &Secret<32>, plain: &[u8], context: &EncryptionContext) -> CiphertextBlob {
    debug_assert!((1..=MAX_PLAINTEXT).contains(&plain.len()), "callers check the length");
    let nonce: Nonce = random::array();
    let mut blob = Vec::with_capacity(OVERHEAD + plain.len());
    blob.push(FORMAT);
    blob.extend_from_slice(&origin.number.to_le_bytes());
    blob.extend_from_slice(&origin.version.to_le_bytes());
    let aad = [&blob[..], context.canonical()].concat();
    blob.extend_from_slice(&nonce);
    blob.resize(NONCE_END + plain.len(), 0);
    let key = derive::wrap_key(material, &nonce, context.canonical());
    let tag = key.seal(&nonce, &aad, plain, &mut blob[NONCE_END..]);
    blob.extend_from_slice(&tag);
    CiphertextBlob(blob)
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
        let blob = seal(origin, &material, key.expose(), &context).0;
        assert_eq!(blob.len(), LEN);
        assert_eq!(blob[..7], [1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Blob::parse(&blob).unwrap().unwrap_key(&material, &context).unwrap(), key);
        for bit in 0..LEN * 8 {
            let mut bad = blob.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The origin is only a claim until GCM has checked it, hence the same material here.
            let opened = Blob::parse(&bad).map(|blob| blob.open(&material, &context).is_ok());
            assert_ne!(opened, Ok(true), "bit {bit}");
        }
        let mut long = blob.clone();
        long.push(0);
        for other in (0..LEN).map(|len| &blob[..len]).chain([&long[..]]) {
            assert_eq!(Blob::of_data_key(other).unwrap_err(), InvalidCiphertext::Malformed);
            assert!(Blob::parse(other).map_or(true, |blob| blob.open(&material, &context).is_err()));
        }
    }

    #[test]
    fn two_blobs_of_one_key_differ_everywhere_but_in_the_header() {
        let (material, key, context) = (Secret::random(), DataKey::random(), context("v"));
        let origin = Origin { number: 7, version: 1 };
        let (a, b) =
            (seal(origin, &material, key.expose(), &context).0, seal(origin, &material, key.expose(), &context).0);
        assert_eq!(a[..HEADER_LEN], b[..HEADER_LEN]);
        assert_ne!(a[HEADER_LEN..NONCE_END], b[HEADER_LEN..NONCE_END]);
        assert_ne!(a[NONCE_END..], b[NONCE_END..]);
    }

    #[test]
    fn anything_of_1_to_4096_bytes_is_sealed_and_nothing_else_is_a_blob() {
        let (material, context) = (Secret::random(), context("v"));
        let origin = Origin { number: 7, version: 1 };
        for len in [1, 31, 33, MAX_PLAINTEXT] {
            let plain = vec![9; len];
            let blob = seal(origin, &material, &plain, &context).0;
            assert_eq!(*Blob::parse(&blob).unwrap().open(&material, &context).unwrap(), plain);
            assert_eq!(Blob::parse(&blob).unwrap().unwrap_key(&material, &context), Err(BadTag));
        }
        let mut long = seal(origin, &material, &[9; MAX_PLAINTEXT], &context).0;
        assert_eq!(Blob::parse(&long[..OVERHEAD]).unwrap_err(), InvalidCiphertext::Malformed);
        long.push(0);
        assert_eq!(Blob::parse(&long).unwrap_err(), InvalidCiphertext::Malformed);
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
