//! The pure-Rust provider: RustCrypto's aes-gcm, hkdf and sha2.

use aes_gcm::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

use super::BadTag;
use super::aead::{Gcm, Nonce, Tag};

pub struct Aes256Gcm(aes_gcm::Aes256Gcm);

impl Gcm for Aes256Gcm {
    const NAME: &'static str = "RustCrypto";

    fn new(key: &[u8; 32]) -> Self {
        Self(aes_gcm::Aes256Gcm::new(key.into()))
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        let buffer = InOutBuf::new(plain, sealed).expect("both sides of a seal have the same length");
        self.0
            .encrypt_inout_detached(nonce.into(), aad, buffer)
            .expect("a request is far below the length limit of GCM")
            .into()
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], sealed: &[u8], tag: &Tag, plain: &mut [u8]) -> Result<(), BadTag> {
        let buffer = InOutBuf::new(sealed, &mut *plain).expect("both sides of an open have the same length");
        let opened = self.0.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into());
        opened.map_err(|_| {
            plain.zeroize();
            BadTag
        })
    }
}

pub fn hkdf_expand(key: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    Hkdf::<Sha256>::from_prk(key)
        .expect("a key of one hash length is a valid PRK")
        .expand_multi_info(info, out)
        .expect("every derived key is shorter than 255 hash lengths");
}
