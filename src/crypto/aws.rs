//! The default provider: AWS-LC through aws-lc-rs.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as AwsNonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::Zeroize;

use super::BadTag;
use super::aead::{Gcm, Nonce, TAG_LEN, Tag};

pub struct Aes256Gcm(LessSafeKey);

impl Gcm for Aes256Gcm {
    const NAME: &'static str = "AWS-LC";

    fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes fits AES-256-GCM");
        Self(LessSafeKey::new(key))
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        let mut tag = [0; TAG_LEN];
        self.0
            .seal_out_of_place_scatter(
                AwsNonce::assume_unique_for_key(*nonce),
                Aad::from(aad),
                plain,
                sealed,
                &[],
                &mut tag,
            )
            .expect("a request is far below the length limit of GCM");
        tag
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], sealed: &[u8], tag: &Tag, plain: &mut [u8]) -> Result<(), BadTag> {
        let nonce = AwsNonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_separate_gather(nonce, Aad::from(aad), sealed, tag, plain);
        opened.map_err(|_| {
            plain.zeroize();
            BadTag
        })
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

pub fn hkdf_expand(key: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    Prk::new_less_safe(HKDF_SHA256, key)
        .expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("every derived key is shorter than 255 hash lengths");
}
