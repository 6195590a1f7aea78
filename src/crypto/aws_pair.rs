//! Key pairs of AWS-LC, through aws-lc-rs.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _,
};
use zeroize::Zeroizing;

use super::pair::{KeyPair, Oaep, PairError, PairSpec};

impl From<Unspecified> for PairError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

pub(super) fn generate(spec: PairSpec) -> Result<KeyPair, PairError> {
    match spec {
        PairSpec::Rsa2048 => rsa(KeySize::Rsa2048),
        PairSpec::Rsa3072 => rsa(KeySize::Rsa3072),
        PairSpec::Rsa4096 => rsa(KeySize::Rsa4096),
        PairSpec::P256 => ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
        PairSpec::P384 => ec(&ECDSA_P384_SHA384_ASN1_SIGNING),
        PairSpec::Ed25519 => {
            let key = Ed25519KeyPair::generate()?;
            let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
            Ok(pair(public.as_ref(), key.to_pkcs8v1()?.as_ref()))
        }
    }
}

fn rsa(size: KeySize) -> Result<KeyPair, PairError> {
    let key = PrivateDecryptingKey::generate(size)?;
    let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
    let private: Pkcs8V1Der<'_> = key.as_der()?;
    Ok(pair(public.as_ref(), private.as_ref()))
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> Result<KeyPair, PairError> {
    let key = EcdsaKeyPair::generate(algorithm)?;
    let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
    Ok(pair(public.as_ref(), key.to_pkcs8v1()?.as_ref()))
}

fn pair(public: &[u8], private: &[u8]) -> KeyPair {
    KeyPair { public: public.to_vec(), private: Zeroizing::new(private.to_vec()) }
}

fn algorithm(oaep: Oaep) -> &'static OaepAlgorithm {
    match oaep {
        Oaep::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Oaep::Sha256 => &OAEP_SHA256_MGF1SHA256,
    }
}

pub(super) fn oaep_encrypt(public: &[u8], oaep: Oaep, plain: &[u8]) -> Result<Vec<u8>, PairError> {
    let key = PublicEncryptingKey::from_der(public).map_err(|_| PairError)?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut sealed = vec![0; key.ciphertext_size()];
    let length = key.encrypt(algorithm(oaep), plain, &mut sealed, None)?.len();
    sealed.truncate(length);
    Ok(sealed)
}

pub(super) fn oaep_decrypt(private: &[u8], oaep: Oaep, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PairError> {
    let key = PrivateDecryptingKey::from_pkcs8(private).map_err(|_| PairError)?;
    let key = OaepPrivateDecryptingKey::new(key)?;
    let mut plain = Zeroizing::new(vec![0; key.min_output_size()]);
    let length = key.decrypt(algorithm(oaep), sealed, &mut plain, None)?.len();
    plain.truncate(length);
    Ok(plain)
}
