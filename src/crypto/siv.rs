//! AES-256-SIV (RFC 5297): deterministic authenticated encryption for names.

use aes::Aes256Enc;
use aes::cipher::BlockCipherEncrypt;
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

/// A part of an AES-256-SIV key that can tell quickly what a key did *not* seal: one AES block instead of all of them
/// twice. It authenticates nothing.
pub struct SivProbe(Aes256Enc);

impl SivProbe {
    /// Expands the second half of the 64-byte key.
    pub fn new(key: &Secret<64>) -> Self {
        let (_, second) = key.expose().split_last_chunk::<32>().expect("64 bytes have a second half");
        Self(Aes256Enc::new(second.into()))
    }

    /// The last block of what `sealed` would open as, with its length (1 to 16); `None` if nothing was sealed.
    pub fn last_block(&self, sealed: &[u8]) -> Option<([u8; 16], usize)> {
        let (siv, body) = sealed.split_first_chunk::<SIV_LEN>()?;
        let blocks = body.chunks(16);
        let number = (blocks.len() as u128).checked_sub(1)?;
        let last = blocks.last()?;
        // RFC 5297 section 2.6: two bits of the counter start as zeros.
        let start = u128::from_be_bytes(*siv) & !(1 << 63 | 1 << 31);
        let mut block = start.wrapping_add(number).to_be_bytes().into();
        self.0.encrypt_block(&mut block);
        let mut plain: [u8; 16] = block.into();
        plain.iter_mut().zip(last).for_each(|(byte, sealed)| *byte ^= sealed);
        Some((plain, last.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_sees_the_last_block() {
        let key = Secret::<64>::random();
        let (siv, probe) = (SivKey::new(&key), SivProbe::new(&key));
        for len in 1..70 {
            let plain: Vec<u8> = (1..=len).collect();
            let (block, found) = probe.last_block(&siv.seal(&[], &plain)).unwrap();
            let last = plain.chunks(16).last().unwrap();
            assert_eq!((&block[..found], found), (last, last.len()));
        }
        assert!(probe.last_block(&siv.seal(&[], b"")).is_none());
    }
}
