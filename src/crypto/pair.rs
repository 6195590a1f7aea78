//! Key pairs: RSA (RFC 8017), NIST P-256 and P-384 (FIPS 186-5) and Ed25519 (RFC 8032), and RSA-OAEP.
//!
//! They come from AWS-LC. A build without it makes and uses none: see [`SUPPORTED`].

use zeroize::Zeroizing;

#[cfg(not(feature = "aws-lc"))]
use self::absent as provider;
#[cfg(feature = "aws-lc")]
use super::aws_pair as provider;

/// Whether this build has key pairs.
pub const SUPPORTED: bool = cfg!(feature = "aws-lc");

/// A kind of key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairSpec {
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
    /// The curve P-256.
    P256,
    /// The curve P-384.
    P384,
    /// The curve edwards25519.
    Ed25519,
}

impl PairSpec {
    /// The length of an RSA modulus; 0 for curves.
    pub fn modulus_bits(self) -> usize {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
            Self::P256 | Self::P384 | Self::Ed25519 => 0,
        }
    }
}

/// A fresh key pair.
pub struct KeyPair {
    /// SubjectPublicKeyInfo, DER (RFC 5280 section 4.1).
    pub public: Vec<u8>,
    /// PKCS#8 version 1, DER (RFC 5208).
    pub private: Zeroizing<Vec<u8>>,
}

/// The hash of RSA-OAEP, for the label and for MGF1 alike (RFC 8017 section 7.1). The label is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oaep {
    /// SHA-1, which is sound in this place and what old clients have.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Oaep {
    /// The longest message, in bytes, under a modulus of `bits` bits.
    pub fn max_plaintext(self, bits: usize) -> usize {
        let hash = if self == Self::Sha1 { 20 } else { 32 };
        bits / 8 - 2 * hash - 2
    }
}

/// A key or a ciphertext that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key pair cannot be made or used")]
pub struct PairError;

/// Makes a key pair. One of RSA with 4096 bits may take seconds.
///
/// # Errors
/// [`PairError`] in a build without key pairs.
pub fn generate(spec: PairSpec) -> Result<KeyPair, PairError> {
    provider::generate(spec)
}

/// Encrypts for the holder of an RSA key, given as SubjectPublicKeyInfo.
///
/// # Errors
/// [`PairError`] if `public` is no RSA key or `plain` is longer than [`Oaep::max_plaintext`].
pub fn oaep_encrypt(public: &[u8], oaep: Oaep, plain: &[u8]) -> Result<Vec<u8>, PairError> {
    provider::oaep_encrypt(public, oaep, plain)
}

/// Decrypts with an RSA key, given as PKCS#8.
///
/// # Errors
/// [`PairError`] if `private` is no RSA key or `sealed` was not encrypted for it, under this hash: one error for all reasons.
pub fn oaep_decrypt(private: &[u8], oaep: Oaep, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PairError> {
    provider::oaep_decrypt(private, oaep, sealed)
}

#[cfg(not(feature = "aws-lc"))]
mod absent {
    use super::{KeyPair, Oaep, PairError, PairSpec, Zeroizing};

    pub(super) fn generate(_spec: PairSpec) -> Result<KeyPair, PairError> {
        Err(PairError)
    }

    pub(super) fn oaep_encrypt(_public: &[u8], _oaep: Oaep, _plain: &[u8]) -> Result<Vec<u8>, PairError> {
        Err(PairError)
    }

    pub(super) fn oaep_decrypt(_private: &[u8], _oaep: Oaep, _sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PairError> {
        Err(PairError)
    }
}

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    use super::*;

    #[test]
    fn oaep_takes_messages_up_to_its_limit_and_opens_under_the_same_hash_only() {
        let pair = generate(PairSpec::Rsa2048).unwrap();
        for (oaep, other, most) in [(Oaep::Sha1, Oaep::Sha256, 214), (Oaep::Sha256, Oaep::Sha1, 190)] {
            assert_eq!(oaep.max_plaintext(2048), most);
            let plain = vec![7; most];
            let sealed = oaep_encrypt(&pair.public, oaep, &plain).unwrap();
            assert_eq!(sealed.len(), 256);
            assert_eq!(*oaep_decrypt(&pair.private, oaep, &sealed).unwrap(), plain);
            assert_eq!(oaep_decrypt(&pair.private, other, &sealed).unwrap_err(), PairError);
            assert_eq!(oaep_encrypt(&pair.public, oaep, &vec![7; most + 1]).unwrap_err(), PairError);
            for (at, bit) in [(0, 1), (100, 4), (255, 1)] {
                let mut bad = sealed.clone();
                bad[at] ^= bit;
                assert_eq!(oaep_decrypt(&pair.private, oaep, &bad).unwrap_err(), PairError);
            }
            for len in [0, 1, 255] {
                assert_eq!(oaep_decrypt(&pair.private, oaep, &sealed[..len]).unwrap_err(), PairError);
            }
        }
        assert_eq!((Oaep::Sha1.max_plaintext(4096), Oaep::Sha256.max_plaintext(3072)), (470, 318));
    }

    #[test]
    fn every_kind_has_the_object_identifier_of_its_algorithm() {
        const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
        const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
        let has = |der: &[u8], oid: &[u8]| der.windows(oid.len()).any(|window| window == oid);
        let kinds =
            [(PairSpec::Rsa2048, RSA), (PairSpec::P256, P256), (PairSpec::P384, P384), (PairSpec::Ed25519, ED25519)];
        for (spec, oid) in kinds {
            let (one, two) = (generate(spec).unwrap(), generate(spec).unwrap());
            assert!(has(&one.public, oid) && has(&one.private, oid), "{spec:?}");
            assert!(one.public != two.public && one.private != two.private, "{spec:?}");
        }
    }
}
