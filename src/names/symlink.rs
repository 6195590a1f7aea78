//! Symlink targets (docs/format.md section 7).

use crate::crypto::derive::symlink_key;
use crate::crypto::{DataKey, GcmKey, NONCE_LEN, TAG_LEN, random};

use super::{NameEncoding, NameError};

/// Targets are base64url in every volume: a symlink's text keeps its case on any store.
const TEXT: NameEncoding = NameEncoding::Base64Url;
const AAD: &[u8] = b"symlink";
/// Bytes that sealing adds to a target.
const OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// The longest target whose sealed text fits into a symlink of 4095 bytes.
const SHORT_MAX: usize = 3043;
/// The longest target Linux takes.
const TARGET_MAX: usize = 4095;
const ID_LEN: usize = 16;
const ID_TEXT_LEN: usize = 22;

/// Length of the text of a symlink whose target has another home: it tells it from every other.
pub const LONG_LINK_LEN: u64 = 1 + ID_TEXT_LEN as u64 + 1 + 5;

/// How a symlink target is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedLink {
    /// The target of the backing symlink.
    Short(String),
    /// A target too long for that.
    Long(LongLink),
}

/// A target with a home of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongLink {
    /// The target of the backing symlink, which names the home.
    pub text: String,
    /// The name of the home in `.kmsfs/links/`. It is made before the symlink and removed after it.
    pub home_name: String,
    /// What the home holds.
    pub home_bytes: Vec<u8>,
}

/// The plain length of a target whose backing symlink has `backing_len` bytes, without reading it.
/// `None`: read the text, and ask [`Symlinks::parse_long`].
pub fn plain_len(backing_len: u64) -> Option<u64> {
    // base64url without padding: four characters for three bytes, and never 1 modulo 4.
    let bytes = backing_len.checked_mul(3)? / 4;
    if backing_len % 4 == 1 { None } else { bytes.checked_sub(OVERHEAD as u64) }
}

/// Encrypts and decrypts the targets of a volume's symlinks.
pub struct Symlinks {
    key: GcmKey,
}

impl Symlinks {
    /// The symlinks of the volume that has this data key.
    pub fn new(volume: &DataKey) -> Self {
        Self { key: symlink_key(volume) }
    }

    /// Seals a target, under a fresh nonce.
    ///
    /// # Errors
    /// [`NameError::Invalid`] if it is empty or has a zero byte; [`NameError::TooLong`] above 4095 bytes.
    pub fn seal(&self, target: &[u8]) -> Result<SealedLink, NameError> {
        if target.is_empty() || target.contains(&0) {
            return Err(NameError::Invalid);
        }
        if target.len() > TARGET_MAX {
            return Err(NameError::TooLong);
        }
        if target.len() > SHORT_MAX {
            return Ok(SealedLink::Long(self.seal_long(target)));
        }
        Ok(SealedLink::Short(TEXT.write(&seal(&self.key, AAD, target))))
    }

    /// Seals a target for another home whatever its length, for a store that takes no long symlinks (XFS: 1024 bytes).
    /// The target must be one that [`Symlinks::seal`] takes.
    pub fn seal_long(&self, target: &[u8]) -> LongLink {
        let sealed = seal(&self.key, AAD, target);
        let home_name = TEXT.write(&random::array::<ID_LEN>());
        let text = format!("L{home_name}.{:05}", target.len());
        LongLink { text, home_name, home_bytes: sealed }
    }

    /// The target sealed in the text of a backing symlink.
    ///
    /// # Errors
    /// [`NameError::Malformed`] or [`NameError::BadTag`].
    pub fn open_short(&self, text: &[u8]) -> Result<Vec<u8>, NameError> {
        let sealed = TEXT.read(text).ok_or(NameError::Malformed)?;
        let target = open(&self.key, AAD, &sealed)?;
        if target.len() <= SHORT_MAX { Ok(target) } else { Err(NameError::Malformed) }
    }

    /// If the text of a backing symlink says that its target has another home: the name of that home
    /// in `.kmsfs/links/`, and the plain length of the target. The text is not authenticated.
    pub fn parse_long(text: &[u8]) -> Option<(String, usize)> {
        let text = text.strip_prefix(b"L").filter(|rest| rest.len() == ID_TEXT_LEN + 6)?;
        let (id, len) = text.split_at(ID_TEXT_LEN);
        let len = len.strip_prefix(b".").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        let len: usize = std::str::from_utf8(len).ok()?.parse().ok()?;
        // Only base64url may become part of a path.
        let id = TEXT.read(id).filter(|_| (1..=TARGET_MAX).contains(&len))?;
        Some((TEXT.write(&id), len))
    }

    /// The target in a home, whose symlink gave its length as `plain_len`.
    ///
    /// # Errors
    /// [`NameError::Malformed`] if it has another length; [`NameError::BadTag`].
    pub fn open_long(&self, home_bytes: &[u8], plain_len: usize) -> Result<Vec<u8>, NameError> {
        if home_bytes.len() != plain_len + OVERHEAD {
            return Err(NameError::Malformed);
        }
        open(&self.key, AAD, home_bytes)
    }
}

/// `nonce | ciphertext | tag`.
pub(super) fn seal(key: &GcmKey, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce = random::array::<NONCE_LEN>();
    let mut sealed = vec![0; plain.len() + OVERHEAD];
    let (body, tag_at) = sealed.split_at_mut(NONCE_LEN + plain.len());
    body[..NONCE_LEN].copy_from_slice(&nonce);
    let tag = key.seal(&nonce, aad, plain, &mut body[NONCE_LEN..]);
    tag_at.copy_from_slice(&tag);
    sealed
}

/// The reverse of [`seal`].
pub(super) fn open(key: &GcmKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NameError> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(NameError::Malformed)?;
    let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(NameError::Malformed)?;
    let mut plain = vec![0; body.len()];
    key.open(nonce, aad, body, tag, &mut plain)?;
    Ok(plain)
}
