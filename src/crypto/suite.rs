//! The cipher suites a file can be sealed with.

/// A content suite, by its number on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM over 4 KiB blocks, with authenticated size and holes.
    Gcm4k = 1,
    /// AES-256-XTS over 4 KiB units: length preserving, not authenticated.
    Xts4k = 2,
}

impl Suite {
    /// The suite with this number, if this version knows it.
    pub fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Gcm4k),
            2 => Some(Self::Xts4k),
            _ => None,
        }
    }

    /// The suite that [`Suite::name`] gives this word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Gcm4k, Self::Xts4k].into_iter().find(|suite| suite.name() == name)
    }

    /// The number on disk.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The word for it in configuration files and encryption contexts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcm4k => "gcm",
            Self::Xts4k => "xts",
        }
    }
}
