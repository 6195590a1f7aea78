//! Whose names are these? For a directory whose envelope is lost, among many keys.

use crate::crypto::DataKey;
use crate::crypto::derive::name_probe;
use crate::crypto::siv::SivProbe;

use super::NameEncoding;

/// A sealed name: a short stored name, or the target of a side symlink.
pub struct SealedName(Vec<u8>);

#[expect(clippy::len_without_is_empty, reason = "only the length of what is sealed is ever asked for")]
impl SealedName {
    /// The bytes in `text`; `None` if it is no name.
    pub fn read(text: &[u8], encoding: NameEncoding) -> Option<Self> {
        encoding.read(text).map(Self)
    }

    /// Bytes, with the SIV.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Tells quickly which names a directory key did not seal. What passes is to be opened by [`super::DirNames`].
pub struct NameProbe(SivProbe);

impl NameProbe {
    /// The probe of the directory that has this data key.
    pub fn new(directory: &DataKey) -> Self {
        Self(name_probe(directory))
    }

    /// Whether `name` may have been sealed in this directory; of those that were not, one in 250 passes.
    pub fn may_hold(&self, name: &SealedName) -> bool {
        let Some((block, len)) = self.0.last_block(&name.0) else { return false };
        // The padding has its first byte in the last block, always.
        block[..len].iter().rposition(|byte| *byte != 0).is_some_and(|end| block[end] == 0x80)
    }
}
