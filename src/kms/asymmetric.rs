//! CMKs that are RSA key pairs. The private key is at rest under the CMK's one version of key material.

use zeroize::Zeroizing;

use super::Cmk;
use super::key::SealedPair;
use super::key_spec::KeySpec;
use crate::crypto::pair::{self, PairError};
use crate::crypto::{GcmKey, NONCE_LEN, Nonce, Secret, TAG_LEN, derive, random};

impl Cmk {
    /// The same CMK as one of this kind, with a fresh key pair if the kind has one.
    ///
    /// # Errors
    /// [`PairError`] if this build has no key pairs.
    pub(super) fn of_spec(mut self, spec: KeySpec) -> Result<Self, PairError> {
        self.spec = spec;
        if let Some(kind) = spec.pair() {
            let made = pair::generate(kind)?;
            let sealed = seal(&sealing_key(&self), &self.id.0, &made.private);
            self.pair = Some(SealedPair { public: made.public, sealed });
        }
        Ok(self)
    }

    /// Its public key, as SubjectPublicKeyInfo. `None` if it is symmetric.
    pub fn public_key(&self) -> Option<&[u8]> {
        self.pair.as_ref().map(|pair| &pair.public[..])
    }

    /// Its private key, as PKCS#8. `None` if it is symmetric, or if the record was put together from two CMKs.
    pub(super) fn private_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        let pair = self.pair.as_ref()?;
        open(&sealing_key(self), &self.id.0, &pair.sealed)
    }
}

fn sealing_key(cmk: &Cmk) -> GcmKey {
    let (_, material): (u16, &Secret<32>) = cmk.wrapping();
    derive::pair_key(material)
}

fn seal(key: &GcmKey, id: &str, plain: &[u8]) -> Vec<u8> {
    let nonce: Nonce = random::array();
    let mut sealed = vec![0; plain.len()];
    let tag = key.seal(&nonce, id.as_bytes(), plain, &mut sealed);
    [&nonce[..], &sealed, &tag].concat()
}

fn open(key: &GcmKey, id: &str, record: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = record.split_first_chunk::<NONCE_LEN>()?;
    let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
    let mut plain = Zeroizing::new(vec![0; sealed.len()]);
    key.open(nonce, id.as_bytes(), sealed, tag, &mut plain).ok()?;
    Some(plain)
}

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    use super::*;
    use crate::crypto::pair::{Oaep, oaep_decrypt, oaep_encrypt};
    use crate::kms::keyset::{decode_cmk, encode_cmk};

    #[test]
    fn a_key_pair_survives_its_record_and_opens_with_its_own_material_only() {
        let cmk = Cmk::generate(1, "").of_spec(KeySpec::Rsa2048).unwrap();
        let plain = encode_cmk(&cmk);
        let private = cmk.private_key().unwrap();
        assert!(!plain.windows(64).any(|window| window == &private[100..164]));
        let again = decode_cmk(&plain).unwrap();
        let sealed = oaep_encrypt(again.public_key().unwrap(), Oaep::Sha256, b"hello").unwrap();
        assert_eq!(*oaep_decrypt(&again.private_key().unwrap(), Oaep::Sha256, &sealed).unwrap(), b"hello");
        let mut mixed = Cmk::generate(2, "").of_spec(KeySpec::Rsa2048).unwrap();
        mixed.pair.clone_from(&cmk.pair);
        assert!(mixed.private_key().is_none());
        mixed.pair = None;
        assert!(decode_cmk(&encode_cmk(&mixed)).is_none());
    }
}
