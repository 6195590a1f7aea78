//! Names and values of extended attributes (docs/format.md section 8).
//!
//! Only `user.*` is encrypted; the other namespaces mean something to the kernel.

use crate::crypto::derive::{xattr_name_key, xattr_value_key};
use crate::crypto::siv::SivKey;
use crate::crypto::{BadTag, DataKey, GcmKey, NONCE_LEN, TAG_LEN};

use super::symlink::{open, seal};
use super::{NameEncoding, NameError};

/// Attribute names keep their case on any store.
const TEXT: NameEncoding = NameEncoding::Base64Url;
const PREFIX: &[u8] = b"user.kmsx.";
const ENVELOPE: &[u8] = b"user.kmsf";

/// Bytes that sealing adds to a value.
pub const VALUE_OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// Longest NAME in `user.NAME`, in bytes: its stored name has 254 of the 255 that Linux takes.
pub const XATTR_NAME_MAX: usize = 167;

/// Whether a stored full name is kmsfs's own and may be shown at most as what it decrypts to.
pub fn is_hidden_xattr(stored: &[u8]) -> bool {
    stored == ENVELOPE || stored.starts_with(PREFIX)
}

/// Encrypts and decrypts the `user.*` attributes of one file or directory.
pub struct Xattrs {
    names: SivKey,
    values: GcmKey,
}

impl Xattrs {
    /// The attributes of the file or directory that has this data key.
    pub fn new(owner: &DataKey) -> Self {
        Self { names: xattr_name_key(owner), values: xattr_value_key(owner) }
    }

    /// The stored full name of `user.NAME`; `name` is NAME.
    ///
    /// # Errors
    /// [`NameError::TooLong`] above 167 bytes; [`NameError::Invalid`] if empty or with a zero byte.
    pub fn encode_name(&self, name: &[u8]) -> Result<String, NameError> {
        if name.len() > XATTR_NAME_MAX {
            return Err(NameError::TooLong);
        }
        if name.is_empty() || name.contains(&0) {
            return Err(NameError::Invalid);
        }
        let mut stored = String::from("user.kmsx.");
        TEXT.append(&self.names.seal(&[], name), &mut stored);
        Ok(stored)
    }

    /// NAME of the attribute with this stored full name. `None` if it is not one of this owner's
    /// sealed attributes: then it must not be shown.
    pub fn decode_name(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let sealed = TEXT.read(stored.strip_prefix(PREFIX)?)?;
        let name = self.names.open(&[], &sealed).ok()?;
        (!name.is_empty() && !name.contains(&0)).then_some(name)
    }

    /// Seals the value of `user.NAME`, bound to `name`, under a fresh nonce: `VALUE_OVERHEAD` bytes longer.
    pub fn seal_value(&self, name: &[u8], value: &[u8]) -> Vec<u8> {
        seal(&self.values, name, value)
    }

    /// Opens a stored value of `user.NAME`.
    ///
    /// # Errors
    /// If it is another attribute's or another owner's, was altered, or is no sealed value.
    pub fn open_value(&self, name: &[u8], stored: &[u8]) -> Result<Vec<u8>, BadTag> {
        open(&self.values, name, stored).map_err(|_| BadTag)
    }
}
