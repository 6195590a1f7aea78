//! AES-256-GCM (NIST SP 800-38D) over whole requests: out of place, with detached tags.

use zeroize::Zeroize;

use super::{BadTag, Suite};

#[cfg(feature = "aws-lc")]
use super::aws as provider;
#[cfg(not(feature = "aws-lc"))]
use super::portable as provider;

/// Length of a GCM nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// Length of a GCM tag in bytes.
pub const TAG_LEN: usize = 16;
/// Length of a content block in bytes.
pub const BLOCK_LEN: usize = 4096;

/// A 96-bit nonce.
pub type Nonce = [u8; NONCE_LEN];
/// A 128-bit authentication tag.
pub type Tag = [u8; TAG_LEN];

/// What every provider of AES-256-GCM must do. The key schedule is made once, in `new`.
pub trait Gcm: Sized + Send + Sync {
    /// The name shown by `kmsfs speed`.
    const NAME: &'static str;
    /// Expands the key.
    fn new(key: &[u8; 32]) -> Self;
    /// Seals `plain` into `sealed`, which has the same length.
    fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag;
    /// Opens `sealed` into `plain`, which has the same length. On failure `plain` is wiped.
    fn open(&self, nonce: &Nonce, aad: &[u8], sealed: &[u8], tag: &Tag, plain: &mut [u8]) -> Result<(), BadTag>;
}

/// The provider this build uses by default.
pub type DefaultGcm = provider::Aes256Gcm;
/// The pure-Rust provider: always built, so that tests compare the two byte for byte.
pub type PortableGcm = super::portable::Aes256Gcm;

/// HKDF-Expand with SHA-256 (RFC 5869 section 2.3) by the default provider; `out` has at most 8160 bytes.
pub(super) fn hkdf_expand(key: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    provider::hkdf_expand(key, info, out);
}

/// HKDF-Expand by the pure-Rust provider, for comparison in tests.
pub fn portable_hkdf_expand(key: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    super::portable::hkdf_expand(key, info, out);
}

/// HKDF-Expand by the default provider, for comparison in tests.
pub fn default_hkdf_expand(key: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    hkdf_expand(key, info, out);
}

/// The associated data of a content block: 16 bytes, one GHASH block (docs/format.md, "Blocks").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockAad {
    /// Number of the block in its file.
    pub number: u64,
    /// Length of the plaintext: 4096, or less in the last block.
    pub len: u32,
    /// The suite it is sealed under.
    pub suite: Suite,
}

impl BlockAad {
    /// The bytes that are authenticated.
    pub fn encode(self) -> [u8; 16] {
        let mut aad = [0; 16];
        aad[..8].copy_from_slice(&self.number.to_le_bytes());
        aad[8..12].copy_from_slice(&self.len.to_le_bytes());
        aad[12] = self.suite.id();
        aad[13] = 1;
        aad
    }
}

/// An expanded AES-256-GCM key.
pub struct GcmKey<P: Gcm = DefaultGcm>(P);

impl<P: Gcm> GcmKey<P> {
    /// Expands a 256-bit key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(P::new(key))
    }

    /// Seals one message; `sealed` has the length of `plain`.
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        self.0.seal(nonce, aad, plain, sealed)
    }

    /// Opens one message; `plain` has the length of `sealed` and is wiped on failure.
    pub fn open(&self, nonce: &Nonce, aad: &[u8], sealed: &[u8], tag: &Tag, plain: &mut [u8]) -> Result<(), BadTag> {
        self.0.open(nonce, aad, sealed, tag, plain)
    }

    /// Seals consecutive blocks of a file, the first of them number `first`; only the last may be short.
    /// `nonces` and `tags` hold one entry for each block.
    pub fn seal_blocks(&self, first: u64, nonces: &[Nonce], plain: &[u8], sealed: &mut [u8], tags: &mut [Tag]) {
        let blocks = plain.chunks(BLOCK_LEN).zip(sealed.chunks_mut(BLOCK_LEN));
        for (i, (plain, sealed)) in blocks.enumerate() {
            let aad = BlockAad { number: first + i as u64, len: plain.len() as u32, suite: Suite::Gcm4k };
            tags[i] = self.seal(&nonces[i], &aad.encode(), plain, sealed);
        }
    }

    /// Opens consecutive blocks. `entry(i)` gives nonce and tag of the i-th one.
    ///
    /// # Errors
    /// The index of the first block that does not authenticate; then the whole of `plain` is wiped.
    pub fn open_blocks<'a>(
        &self,
        first: u64,
        entry: impl Fn(usize) -> (&'a Nonce, &'a Tag),
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), usize> {
        let mut bad = None;
        for (i, (sealed, plain)) in sealed.chunks(BLOCK_LEN).zip(plain.chunks_mut(BLOCK_LEN)).enumerate() {
            let (nonce, tag) = entry(i);
            let aad = BlockAad { number: first + i as u64, len: sealed.len() as u32, suite: Suite::Gcm4k };
            if self.open(nonce, &aad.encode(), sealed, tag, plain).is_err() {
                bad = Some(i);
                break;
            }
        }
        match bad {
            None => Ok(()),
            Some(index) => {
                plain.zeroize();
                Err(index)
            }
        }
    }
}
