//! The bytes of an envelope (docs/format.md section 4).

use crate::crypto::Suite;
use crate::kms::CiphertextBlob;

const KIND_MASK: u8 = 0x0f;
const MOVING: u8 = 0x40;
const LINKED: u8 = 0x80;

/// What an envelope's key encrypts, and under which suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A file under the GCM suite.
    FileGcm = 1,
    /// A file under the XTS suite.
    FileXts = 2,
    /// A directory: the names in it. Files that are made in it are under the GCM suite.
    Directory = 3,
    /// A directory that gives the XTS suite to files and directories that are made in it.
    DirectoryXts = 4,
}

impl Kind {
    /// All kinds, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::FileGcm, Self::FileXts, Self::Directory, Self::DirectoryXts];

    /// A file under `suite`.
    pub fn file(suite: Suite) -> Self {
        match suite {
            Suite::Gcm4k => Self::FileGcm,
            Suite::Xts4k => Self::FileXts,
        }
    }

    /// A directory that gives `suite` on.
    pub fn directory(suite: Suite) -> Self {
        match suite {
            Suite::Gcm4k => Self::Directory,
            Suite::Xts4k => Self::DirectoryXts,
        }
    }

    /// The suite of a file, or the one that a directory gives on.
    pub fn suite(self) -> Suite {
        match self {
            Self::FileGcm | Self::Directory => Suite::Gcm4k,
            Self::FileXts | Self::DirectoryXts => Suite::Xts4k,
        }
    }

    /// Whether it is a directory's.
    pub fn is_directory(self) -> bool {
        matches!(self, Self::Directory | Self::DirectoryXts)
    }

    /// The word for it in encryption contexts.
    pub fn name(self) -> &'static str {
        match self {
            Self::FileGcm => "file-gcm",
            Self::FileXts => "file-xts",
            Self::Directory => "directory",
            Self::DirectoryXts => "directory-xts",
        }
    }

    pub(super) fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// Bytes that are no envelope of format 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the envelope is malformed")]
pub struct MalformedEnvelope;

/// A wrapped data key with what is known of it without a KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub(super) kind: Kind,
    pub(super) linked: bool,
    pub(super) blob: CiphertextBlob,
    pub(super) old_place: Option<CiphertextBlob>,
}

impl Envelope {
    /// What the key encrypts. Not authenticated before the envelope was unlocked.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether its context names no parent, because the object has or had links in two directories.
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// Whether a move to another directory was begun: it opens in the new place and in the old one.
    pub fn is_moving(&self) -> bool {
        self.old_place.is_some()
    }

    /// The wrapped key; of a MOVING envelope, the one for the new place.
    pub fn blob(&self) -> &CiphertextBlob {
        &self.blob
    }

    /// The wrapped key for the old place of a MOVING envelope.
    pub fn old_place(&self) -> Option<&CiphertextBlob> {
        self.old_place.as_ref()
    }

    /// What opens the object of `self` and that of `other`: for a name that may lead to either after a crash. Both
    /// must be bound to the directory of that name.
    ///
    /// # Errors
    /// [`MalformedEnvelope`] if there is no such envelope: for different kinds, LINKED or MOVING ones.
    pub fn or(&self, other: &Self) -> Result<Self, MalformedEnvelope> {
        let is_plain = |envelope: &Self| !envelope.linked && !envelope.is_moving();
        if self.kind != other.kind || !is_plain(self) || !is_plain(other) || u16::try_from(self.blob.0.len()).is_err() {
            return Err(MalformedEnvelope);
        }
        Ok(Self { old_place: Some(other.blob.clone()), ..self.clone() })
    }

    /// Reads the bytes of an envelope.
    ///
    /// # Errors
    /// [`MalformedEnvelope`] for an unknown kind, a bit that must be 0, or a missing blob.
    pub fn parse(bytes: &[u8]) -> Result<Self, MalformedEnvelope> {
        let (&code, rest) = bytes.split_first().ok_or(MalformedEnvelope)?;
        if code & !(KIND_MASK | MOVING | LINKED) != 0 {
            return Err(MalformedEnvelope);
        }
        let kind = Kind::from_code(code & KIND_MASK).ok_or(MalformedEnvelope)?;
        let linked = code & LINKED != 0;
        let (blob, old_place) = match code & MOVING {
            0 => (rest, None),
            // What is linked has no place that it could move from.
            _ if linked => return Err(MalformedEnvelope),
            _ => {
                let (len, blobs) = rest.split_first_chunk().ok_or(MalformedEnvelope)?;
                let len = usize::from(u16::from_le_bytes(*len));
                let (blob, old) = blobs.split_at_checked(len).ok_or(MalformedEnvelope)?;
                (blob, Some(old))
            }
        };
        if blob.is_empty() || old_place.is_some_and(<[u8]>::is_empty) {
            return Err(MalformedEnvelope);
        }
        let old_place = old_place.map(|old| CiphertextBlob(old.to_vec()));
        Ok(Self { kind, linked, blob: CiphertextBlob(blob.to_vec()), old_place })
    }

    /// The bytes of the envelope: 68 with the embedded KMS, 137 while MOVING.
    pub fn encode(&self) -> Vec<u8> {
        let mut code = self.kind.code();
        if self.linked {
            code |= LINKED;
        }
        let mut bytes = Vec::with_capacity(1 + 2 + 2 * self.blob.0.len());
        match &self.old_place {
            None => {
                bytes.push(code);
                bytes.extend_from_slice(&self.blob.0);
            }
            Some(old) => {
                bytes.push(code | MOVING);
                let len = u16::try_from(self.blob.0.len()).expect("the Sealer refuses longer blobs");
                bytes.extend_from_slice(&len.to_le_bytes());
                bytes.extend_from_slice(&self.blob.0);
                bytes.extend_from_slice(&old.0);
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_on_disk() {
        let envelope = Envelope::parse(&[0x83, 9, 9]).unwrap();
        assert_eq!((envelope.kind(), envelope.is_linked(), envelope.is_moving()), (Kind::Directory, true, false));
        let envelope = Envelope::parse(&[0x41, 2, 0, 7, 8, 9]).unwrap();
        assert_eq!((envelope.kind(), envelope.is_linked(), envelope.is_moving()), (Kind::FileGcm, false, true));
        assert_eq!((&envelope.blob().0[..], &envelope.old_place().unwrap().0[..]), (&[7, 8][..], &[9][..]));
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let cases: [&[u8]; 12] = [
            b"",
            &[0x01],             // no blob
            &[0x00, 1],          // no kind
            &[0x05, 1],          // unknown kind
            &[0x11, 1],          // bit 4
            &[0x21, 1],          // bit 5
            &[0x41],             // MOVING without a length
            &[0x41, 1],          // half a length
            &[0x41, 1, 0, 7],    // no old blob
            &[0x41, 0, 0, 7],    // no new blob
            &[0x41, 9, 0, 7, 8], // length beyond the end
            &[0xc1, 1, 0, 7, 8], // LINKED and MOVING
        ];
        for case in cases {
            assert_eq!(Envelope::parse(case), Err(MalformedEnvelope), "{case:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_written_back_byte_for_byte(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(envelope) = Envelope::parse(&bytes) {
                prop_assert_eq!(envelope.encode(), bytes);
            }
        }
    }
}
