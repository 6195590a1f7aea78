//! The two ways to write bytes as a name.

use std::sync::LazyLock;

use data_encoding::{BASE64URL_NOPAD, Encoding, Specification};

/// How a volume writes encrypted names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameEncoding {
    /// RFC 4648 section 5, without padding: the default.
    Base64Url,
    /// RFC 4648 section 6 in lower case, without padding: for stores that ignore case.
    Base32,
}

static BASE64: Encoding = BASE64URL_NOPAD;

/// Lower-case base32 is in no crate; it refuses non-zero trailing bits, as BASE64URL_NOPAD does.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("the alphabet of base32 is a valid specification")
});

impl NameEncoding {
    /// The encoding that a volume header calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "base64url" => Some(Self::Base64Url),
            "base32" => Some(Self::Base32),
            _ => None,
        }
    }

    /// The word for it in a volume header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base64Url => "base64url",
            Self::Base32 => "base32",
        }
    }

    fn encoding(self) -> &'static Encoding {
        match self {
            Self::Base64Url => &BASE64,
            Self::Base32 => &BASE32,
        }
    }

    pub(super) fn write(self, bytes: &[u8]) -> String {
        self.encoding().encode(bytes)
    }

    /// Appends to `text`.
    pub(super) fn append(self, bytes: &[u8], text: &mut String) {
        self.encoding().encode_append(bytes, text);
    }

    /// `None` unless `text` is what [`NameEncoding::write`] makes of the result.
    pub(super) fn read(self, text: &[u8]) -> Option<Vec<u8>> {
        self.encoding().decode(text).ok()
    }

    /// The longest plain name that is stored whole, and the length to which it is padded: its
    /// encoding, with 16 bytes of SIV, is the longest that fits into 255 characters.
    pub(super) fn short_limits(self) -> (usize, usize) {
        match self {
            Self::Base64Url => (174, 175),
            Self::Base32 => (142, 143),
        }
    }

    /// What a stored name that stands for a long one begins with, and its length.
    pub(super) fn long_form(self) -> (char, usize) {
        match self {
            Self::Base64Url => ('L', 33),
            Self::Base32 => ('l', 40),
        }
    }
}
