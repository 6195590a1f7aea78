//! What stands in the backing tree for file names, symlink targets and extended attributes
//! (docs/format.md sections 6 to 8).
//!
//! This room turns bytes into bytes. It refuses to know files, descriptors, directories on a
//! disk and envelopes: callers make the side symlinks and store the attributes.
//!
//! Invariants:
//! - what is handed out as a plain name authenticated, under the key of that directory, and was
//!   stored in the one form in which kmsfs stores it: no plain name has two stored names;
//! - no plain name that comes out is empty, `.`, `..`, over 255 bytes or has a `/` or a zero byte;
//! - no stored name begins with a dot, so internal names (`.kmsfs...`) never meet them.

mod directory;
mod probe;
mod symlink;
#[cfg(test)]
mod tests;
mod text;
mod xattr;

pub use directory::{Decoded, DirNames, EncodedName, NEW_DIRECTORY, SIDE, is_internal};
pub use probe::{NameProbe, SealedName};
pub use symlink::{LONG_LINK_LEN, LongLink, SealedLink, Symlinks, plain_len};
pub use text::NameEncoding;
pub use xattr::{VALUE_OVERHEAD, XATTR_NAME_MAX, Xattrs, is_hidden_xattr};

/// Longest plain name, in bytes.
pub const NAME_MAX: usize = 255;

/// A plain name or path for a line of text: control characters escaped, so that it stays one line.
pub fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Why a name cannot be stored, or why what is stored is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than the filesystem allows (ENAMETOOLONG).
    #[error("the name is too long")]
    TooLong,
    /// Empty, `.`, `..`, or with a `/` or a zero byte.
    #[error("the name is not valid")]
    Invalid,
    /// The stored text is not what kmsfs writes: a foreign file, or a damaged name.
    #[error("the stored name is malformed")]
    Malformed,
    /// The stored text was made under another key, for another directory, or was altered.
    #[error("the stored name does not authenticate in this directory")]
    BadTag,
}

impl From<crate::crypto::BadTag> for NameError {
    fn from(_: crate::crypto::BadTag) -> Self {
        Self::BadTag
    }
}
