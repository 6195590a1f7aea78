//! AES-256-SIV (RFC 5297): deterministic authenticated encryption for names.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use parking_lot::Mutex;

use super::{BadTag, Secret};

/// Bytes that SIV adds to a plaintext.
pub const SIV_LEN: usize = 16;

/// An expanded AES-256-SIV key.
///
/// The crate's MAC state is updated in place and cannot be cloned, hence the lock: it is held for
/// about a microsecond.
pub struct SivKey(Mutex<Aes256Siv>);

impl SivKey {
    /// Expands the 64-byte key: the first half authenticates, the second encrypts.
    pub fn new(key: &Secret<64>) -> Self {
        Self(Mutex::new(Aes256Siv::new(key.expose().into())))
    }

    /// Seals `plain`, bound to `headers`: the 16-byte SIV, then the ciphertext.
    pub fn seal(&self, headers: &[&[u8]], plain: &[u8]) -> Vec<u8> {
        self.0.lock().encrypt(headers, plain).expect("a name is far below the length limit of SIV")
    }

    /// Opens what [`SivKey::seal`] made under the same headers.
    ///
    /// # Errors
    /// If it was made under another key or other headers, or was altered.
    pub fn open(&self, headers: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, BadTag> {
        self.0.lock().decrypt(headers, sealed).map_err(|_| BadTag)
    }
}
