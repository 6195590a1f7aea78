//! AES-256-XTS (IEEE 1619, NIST SP 800-38E): length preserving, and not authenticated.
//!
//! The portable implementation, one AES block after the other. No volume can be made with it yet; `kmsfs speed` shows
//! what it costs.

use aes::Aes256;
use aes::cipher::KeyInit;
use subtle::ConstantTimeEq;
use xts_mode::{Xts128, get_tweak_default};

use super::Secret;

/// The shortest data unit in bytes: one AES block.
pub const MIN_UNIT: usize = 16;

/// Both halves of the key are equal, which would make XTS a weaker cipher (FIPS 140-3 IG C.I).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the two halves of an XTS key must differ")]
pub struct EqualHalves;

/// An expanded pair of AES-256 keys.
pub struct XtsKey(Xts128<Aes256>);

impl XtsKey {
    /// Expands the pair: the first half encrypts data, the second the number of the unit.
    ///
    /// # Errors
    /// [`EqualHalves`].
    pub fn new(pair: &Secret<64>) -> Result<Self, EqualHalves> {
        let (data, tweak) = pair.expose().split_at(32);
        if bool::from(data.ct_eq(tweak)) {
            return Err(EqualHalves);
        }
        let expand = |half: &[u8]| Aes256::new_from_slice(half).expect("half of 64 bytes is an AES-256 key");
        Ok(Self(Xts128::new(expand(data), expand(tweak))))
    }

    /// Encrypts data unit `number` in place.
    ///
    /// # Panics
    /// If it is shorter than [`MIN_UNIT`].
    pub fn encrypt(&self, number: u64, unit: &mut [u8]) {
        self.0.encrypt_sector(unit, get_tweak_default(number.into()));
    }

    /// Decrypts data unit `number` in place. What comes out is not authenticated.
    ///
    /// # Panics
    /// If it is shorter than [`MIN_UNIT`].
    pub fn decrypt(&self, number: u64, unit: &mut [u8]) {
        self.0.decrypt_sector(unit, get_tweak_default(number.into()));
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
