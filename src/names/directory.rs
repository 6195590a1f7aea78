//! The names in one directory (docs/format.md section 6).

use crate::crypto::derive::{hash_long_name, long_name_key, name_key};
use crate::crypto::siv::SivKey;
use crate::crypto::{DataKey, Secret};

use super::{NAME_MAX, NameEncoding, NameError};

/// How internal names begin.
const INTERNAL: &[u8] = b".kmsfs";
/// How the name of a side symlink begins.
pub const SIDE: &str = ".kmsfs.n.";
/// How the name of a directory begins that is being made, or that an interrupted mkdir left.
pub const NEW_DIRECTORY: &str = ".kmsfs.new.";
/// Bytes of the hash that stand for a long name: 192 bits, far beyond any birthday bound.
const HASH_LEN: usize = 24;
/// Padding works in units of this many bytes.
const UNIT: usize = 16;
/// The longest padded name.
const PADDED_MAX: usize = NAME_MAX + 1;

/// Whether a stored name is kmsfs's own and never shown.
pub fn is_internal(stored: &[u8]) -> bool {
    stored.starts_with(INTERNAL)
}

/// How a plain name is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedName {
    /// The stored name.
    Short(String),
    /// A name too long to be stored whole.
    Long {
        /// The stored name: a hash of the plain one.
        stored: String,
        /// The name of the symlink beside it, made before it and removed after it.
        side: String,
        /// The target of that symlink: the plain name, sealed.
        target: String,
    },
}

impl EncodedName {
    /// The name under which the object lies in the backing directory.
    pub fn stored(&self) -> &str {
        match self {
            Self::Short(stored) | Self::Long { stored, .. } => stored,
        }
    }
}

/// What a stored name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// The plain name.
    Short(Vec<u8>),
    /// A long name: read the symlink of this name, then call [`DirNames::decode_long`].
    NeedsSide(String),
}

/// Encrypts and decrypts the names in one directory.
pub struct DirNames {
    key: SivKey,
    long_key: Secret<32>,
    encoding: NameEncoding,
}

impl DirNames {
    /// The names in the directory that has this data key.
    pub fn new(directory: &DataKey, encoding: NameEncoding) -> Self {
        Self { key: name_key(directory), long_key: long_name_key(directory), encoding }
    }

    /// How `plain` is stored. The same name always gives the same result.
    ///
    /// # Errors
    /// [`NameError::TooLong`] above 255 bytes; [`NameError::Invalid`] for what is no name.
    pub fn encode(&self, plain: &[u8]) -> Result<EncodedName, NameError> {
        check(plain)?;
        let (short_max, _) = self.encoding.short_limits();
        let sealed = self.encoding.write(&self.seal(plain));
        if plain.len() <= short_max {
            return Ok(EncodedName::Short(sealed));
        }
        let stored = self.long_form(plain);
        let side = side_name(&stored);
        Ok(EncodedName::Long { stored, side, target: sealed })
    }

    /// What the stored name stands for.
    ///
    /// # Errors
    /// [`NameError::Malformed`] or [`NameError::BadTag`]: such a name must not be shown.
    pub fn decode(&self, stored: &[u8]) -> Result<Decoded, NameError> {
        if let Some(side) = self.side_of(stored)? {
            return Ok(Decoded::NeedsSide(side));
        }
        let (short_max, _) = self.encoding.short_limits();
        match self.open(stored)? {
            plain if plain.len() <= short_max => Ok(Decoded::Short(plain)),
            _ => Err(NameError::Malformed),
        }
    }

    /// The plain name that `stored` stands for, given the target of its side symlink.
    ///
    /// # Errors
    /// [`NameError::Malformed`] or [`NameError::BadTag`], also if the target is another name's.
    pub fn decode_long(&self, stored: &[u8], side_target: &[u8]) -> Result<Vec<u8>, NameError> {
        let (short_max, _) = self.encoding.short_limits();
        let plain = self.open(side_target)?;
        // A short name in long form would be a second stored name for it.
        if plain.len() <= short_max {
            return Err(NameError::Malformed);
        }
        if self.long_form(&plain).as_bytes() != stored {
            return Err(NameError::BadTag);
        }
        Ok(plain)
    }

    /// Whether `text`, a short stored name or the target of a side symlink, was sealed in this directory.
    pub fn sealed(&self, text: &[u8]) -> bool {
        self.open(text).is_ok()
    }

    /// The side name of a stored long name; `None` if it is not of that form.
    fn side_of(&self, stored: &[u8]) -> Result<Option<String>, NameError> {
        let (letter, len) = self.encoding.long_form();
        // No short name is that short: 32 bytes at least, in 43 or 52 characters.
        if stored.len() != len || stored[0] != letter as u8 {
            return Ok(None);
        }
        let hash = self.encoding.read(&stored[1..]).ok_or(NameError::Malformed)?;
        let mut side = String::from(SIDE);
        self.encoding.append(&hash, &mut side);
        Ok(Some(side))
    }

    fn long_form(&self, plain: &[u8]) -> String {
        let hash = hash_long_name(&self.long_key, plain);
        let mut stored = String::from(self.encoding.long_form().0);
        self.encoding.append(&hash[..HASH_LEN], &mut stored);
        stored
    }

    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut padded = [0; PADDED_MAX];
        padded[..plain.len()].copy_from_slice(plain);
        padded[plain.len()] = 0x80;
        self.key.seal(&[], &padded[..self.padded_len(plain.len())])
    }

    fn open(&self, text: &[u8]) -> Result<Vec<u8>, NameError> {
        let sealed = self.encoding.read(text).ok_or(NameError::Malformed)?;
        let mut padded = self.key.open(&[], &sealed)?;
        let end = padded.iter().rposition(|byte| *byte != 0).ok_or(NameError::Malformed)?;
        if padded[end] != 0x80 || padded.len() != self.padded_len(end) {
            return Err(NameError::Malformed);
        }
        padded.truncate(end);
        check(&padded).map_err(|_| NameError::Malformed)?;
        Ok(padded)
    }

    /// To what length a plain name of `len` bytes is padded.
    fn padded_len(&self, len: usize) -> usize {
        let (short_max, padded_max) = self.encoding.short_limits();
        let padded = (len + 1).next_multiple_of(UNIT);
        if len <= short_max { padded.min(padded_max) } else { padded }
    }
}

fn side_name(stored: &str) -> String {
    format!("{SIDE}{}", &stored[1..])
}

/// Refuses what Linux refuses as the name of a new file.
fn check(plain: &[u8]) -> Result<(), NameError> {
    if plain.len() > NAME_MAX {
        return Err(NameError::TooLong);
    }
    let valid = !matches!(plain, b"" | b"." | b"..") && !plain.iter().any(|byte| matches!(byte, 0 | b'/'));
    if valid { Ok(()) } else { Err(NameError::Invalid) }
}
