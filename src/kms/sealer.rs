//! Sealing of single records: `nonce | ciphertext | tag`, bound to the keystore and to the record's own name.

use zeroize::Zeroizing;

use super::bundle::Header;
use crate::crypto::{GcmKey, NONCE_LEN, Nonce, Secret, TAG_LEN, derive, random};

/// Name of the record that vouches for all others.
pub(super) const STATE: &[u8] = b"state";

pub(super) struct Sealer {
    key: GcmKey,
    keystore: [u8; 16],
    header: Vec<u8>,
}

impl Sealer {
    pub(super) fn new(root: &Secret<32>, header: &Header) -> Self {
        Self { key: derive::store_key(root), keystore: *header.keystore.as_bytes(), header: header.encode(0) }
    }

    fn aad(&self, name: &[u8]) -> Vec<u8> {
        // The digest of the state is what the slots and the generation are authenticated with.
        let extra = if name == STATE { &self.header[..] } else { &[] };
        [&self.keystore[..], name, extra].concat()
    }

    pub(super) fn seal(&self, name: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: Nonce = random::array();
        let mut sealed = vec![0; plain.len()];
        let tag = self.key.seal(&nonce, &self.aad(name), plain, &mut sealed);
        [&nonce[..], &sealed, &tag].concat()
    }

    pub(super) fn open(&self, name: &[u8], record: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = record.split_first_chunk::<NONCE_LEN>()?;
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let mut plain = Zeroizing::new(vec![0; sealed.len()]);
        self.key.open(nonce, &self.aad(name), sealed, tag, &mut plain).ok()?;
        Some(plain)
    }
}
