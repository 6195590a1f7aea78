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
    fn encrypt(&self, first: u128, plain: &[u8], sealed: &mut [u8]);
    /// Decrypts in place.
    fn decrypt(&self, first: u128, bytes: &mut [u8]);
}

/// The provider this build uses by default.
pub type DefaultXts = provider::Aes256Xts;
/// The pure-Rust provider: always built, so that tests compare the two byte for byte.
pub type PortableXts = super::portable_xts::Aes256Xts;

/// The tweak of a data unit before it is encrypted: its number as 128 bits, the lowest byte first (IEEE 1619 section 5.1).
pub(super) fn tweak(number: u128) -> [u8; 16] {
    number.to_le_bytes()
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
        self.0.encrypt(first.into(), plain, sealed);
    }

    /// Decrypts consecutive data units in place. What comes out is not authenticated.
    ///
    /// # Panics
    /// If the last unit is shorter than [`MIN_UNIT`].
    pub fn decrypt(&self, first: u64, bytes: &mut [u8]) {
        self.0.decrypt(first.into(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use aes::Aes256;
    use aes::cipher::KeyInit;
    use data_encoding::HEXLOWER;
    use proptest::prelude::{any, proptest};
    use xts_mode::{Xts128, get_tweak_default};

    use super::*;
    use crate::crypto::aead::BLOCK_LEN;
    use crate::crypto::derive::sha256;

    /// The keys of IEEE 1619 vector 10: digits of e and of pi.
    const VECTOR_10: &str = "2718281828459045235360287471352662497757247093699959574966967627\
                             3141592653589793238462643383279502884197169399375105820974944592";

    fn pair(hex: &str) -> [u8; 64] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn agrees<P: Xts>(pair: &[u8; 64], number: u128, plain: &[u8], sealed: &[u8]) {
        let key = P::new(pair);
        let mut out = vec![0; plain.len()];
        key.encrypt(number, plain, &mut out);
        assert!(out == sealed, "{} encrypts {} bytes otherwise", P::NAME, plain.len());
        key.decrypt(number, &mut out);
        assert!(out == plain, "{} decrypts {} bytes otherwise", P::NAME, plain.len());
    }

    #[test]
    fn vectors_of_nist_and_ieee() {
        let lines = include_str!("../../tests/vectors/xts.txt").lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for line in lines {
            let fields: Vec<Vec<u8>> =
                line.split(' ').map(|field| HEXLOWER.decode(field.as_bytes()).unwrap()).collect();
            let [key, tweak, plain, sealed] = &fields[..] else { panic!("four fields") };
            let key = key[..].try_into().unwrap();
            let number = u128::from_le_bytes(tweak[..].try_into().unwrap());
            agrees::<DefaultXts>(key, number, plain, sealed);
            agrees::<PortableXts>(key, number, plain, sealed);
            count += 1;
        }
        assert_eq!(count, 8);
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
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut sealed = vec![0; len];
            PortableXts::new(&pair(VECTOR_10)).encrypt(7, &plain, &mut sealed);
            assert_eq!(HEXLOWER.encode(&sha256(&sealed)), hash, "{len}");
            agrees::<DefaultXts>(&pair(VECTOR_10), 7, &plain, &sealed);
        }
    }

    fn oracle(pair: &[u8; 64], first: u64, plain: &[u8]) -> Vec<u8> {
        let expand = |half: &[u8]| Aes256::new_from_slice(half).unwrap();
        let xts = Xts128::new(expand(&pair[..32]), expand(&pair[32..]));
        let mut sealed = plain.to_vec();
        xts.encrypt_area(&mut sealed, BLOCK_LEN, first.into(), get_tweak_default);
        sealed
    }

    proptest! {
        #[test]
        fn both_providers_agree_with_xts_mode(
            key in any::<[u8; 32]>(),
            first in 0_u64..1 << 28,
            units in 0_usize..4,
            tail in 16_usize..=BLOCK_LEN,
        ) {
            let pair: [u8; 64] = [key, sha256(&key)].concat().try_into().unwrap();
            let plain: Vec<u8> = (0..units * BLOCK_LEN + tail).map(|i| (i * 31 + i / 256) as u8).collect();
            let sealed = oracle(&pair, first, &plain);
            agrees::<DefaultXts>(&pair, first.into(), &plain, &sealed);
            agrees::<PortableXts>(&pair, first.into(), &plain, &sealed);
        }
    }

    #[test]
    fn threads_share_a_key() {
        let key = XtsKey::<DefaultXts>::new(&Secret::random()).unwrap();
        let plain = [9; 3 * BLOCK_LEN];
        let mut expected = [0; 3 * BLOCK_LEN];
        key.encrypt(5, &plain, &mut expected);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut out = [0; 3 * BLOCK_LEN];
                        key.encrypt(5, &plain, &mut out);
                        assert_eq!(out, expected);
                        key.decrypt(5, &mut out);
                        assert_eq!(out, plain);
                    }
                });
            }
        });
    }

    #[test]
    fn equal_halves_are_refused() {
        let key = XtsKey::<DefaultXts>::new(&Secret::build(|bytes| bytes.fill(7)));
        assert_eq!(key.err(), Some(EqualHalves));
    }
}
