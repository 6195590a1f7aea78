//! AES-256-XTS (IEEE 1619, NIST SP 800-38E): length preserving, and not authenticated.
//!
//! A data unit is a content block of 4096 bytes, or what is left of one at the end of a file if that is 16 bytes or
//! more; fewer bytes are for [`super::tail`].

use subtle::ConstantTimeEq;

use super::Secret;

#[cfg(feature = "aws-lc")]
use super::aws_xts as provider;
#[cfg(not(feature = "aws-lc"))]
use super::portable_xts as provider;

/// The shortest data unit in bytes: one AES block.
pub const MIN_UNIT: usize = 16;

/// Both halves of the key are equal, which would make XTS a weaker cipher (FIPS 140-3 IG C.I).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the two halves of an XTS key must differ")]
pub struct EqualHalves;

/// What every provider of AES-256-XTS must do. The key schedules are made once, in `new`.
///
/// Bytes are consecutive data units, the first of them number `first`; the last one may be short.
pub trait Xts: Sized + Send + Sync {
    /// The name shown by `kmsfs speed`.
    const NAME: &'static str;
    /// Expands the pair of keys, which differ.
    fn new(pair: &[u8; 64]) -> Self;
    /// Encrypts `plain` into `sealed`, which has the same length.
    fn encrypt(&self, first: u64, plain: &[u8], sealed: &mut [u8]);
    /// Decrypts in place.
    fn decrypt(&self, first: u64, bytes: &mut [u8]);
}

/// The provider this build uses by default.
pub type DefaultXts = provider::Aes256Xts;
/// The pure-Rust provider: always built, so that tests compare the two byte for byte.
pub type PortableXts = super::portable_xts::Aes256Xts;

/// The tweak of a data unit before it is encrypted: its number as 128 bits, the lowest byte first (IEEE 1619 section 5.1).
pub(super) fn tweak(number: u64) -> [u8; 16] {
    u128::from(number).to_le_bytes()
}

/// An expanded pair of AES-256 keys.
pub struct XtsKey<P: Xts = DefaultXts>(P);

impl<P: Xts> XtsKey<P> {
    /// Expands the pair: the first half encrypts data, the second the number of the unit.
    ///
    /// # Errors
    /// [`EqualHalves`].
    pub fn new(pair: &Secret<64>) -> Result<Self, EqualHalves> {
        let (data, tweak) = pair.expose().split_at(32);
        if bool::from(data.ct_eq(tweak)) {
            return Err(EqualHalves);
        }
        Ok(Self(P::new(pair.expose())))
    }

    /// Encrypts consecutive data units, the first of them number `first`; `sealed` has the length of `plain`.
    ///
    /// # Panics
    /// If the last unit is shorter than [`MIN_UNIT`].
    pub fn encrypt(&self, first: u64, plain: &[u8], sealed: &mut [u8]) {
        self.0.encrypt(first, plain, sealed);
    }

    /// Decrypts consecutive data units in place. What comes out is not authenticated.
    ///
    /// # Panics
    /// If the last unit is shorter than [`MIN_UNIT`].
    pub fn decrypt(&self, first: u64, bytes: &mut [u8]) {
        self.0.decrypt(first, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::derive::sha256;

    /// The keys of IEEE 1619 vector 10: digits of e and of pi.
    const VECTOR_10: &str = "2718281828459045235360287471352662497757247093699959574966967627\
                             3141592653589793238462643383279502884197169399375105820974944592";

    fn key() -> XtsKey {
        let mut bytes = data_encoding::HEXLOWER.decode(VECTOR_10.as_bytes()).unwrap();
        XtsKey::new(&Secret::take(&mut bytes).unwrap()).unwrap()
    }

    #[test]
    fn vector_10_of_ieee_1619() {
        let plain: Vec<u8> = (0..512).map(|i| i as u8).collect();
        let mut unit = plain.clone();
        key().encrypt(0xff, &mut unit);
        assert_eq!(data_encoding::HEXLOWER.encode(&unit[..16]), "1c3b3a102f770386e4836c99e370cf9b");
        let hash = data_encoding::HEXLOWER.encode(&sha256(&unit));
        assert_eq!(hash, "e97e974fa393af794f7a4684395814cf820de60a01eaec677d87b452e316b364");
        key().decrypt(0xff, &mut unit);
        assert_eq!(unit, plain);
    }

    #[test]
    fn stolen_ciphertext_agrees_with_openssl() {
        // Computed with OpenSSL through python3-cryptography.
        for (len, hash) in [
            (16, "a671e167fec972f25bfdebb3aecdac11eeedc6c83d8d80f8dbc36428d953af38"),
            (17, "d8e075a84a1c3b2d1ba3f62c00a1c86e0b3b67ed77e4ed37e055a8a1a8d048b8"),
            (31, "b86e4318f7b45bbf14ccd30e4dc491e8d45560135e8eb9627bf25c7920fe75a6"),
            (4095, "8c0c82cff4322ceb8bce0d94217c11a40887bd59fcab667d8f34ea8157c6012f"),
        ] {
            let mut unit: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            key().encrypt(7, &mut unit);
            assert_eq!(data_encoding::HEXLOWER.encode(&sha256(&unit)), hash, "{len}");
        }
    }

    #[test]
    fn equal_halves_are_refused() {
        assert_eq!(XtsKey::new(&Secret::build(|bytes| bytes.fill(7))).err(), Some(EqualHalves));
    }
}
