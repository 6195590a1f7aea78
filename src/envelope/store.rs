//! Where envelopes lie.

use std::io;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;

use crate::sys::xattr::{self, Mode, Target};

/// The extended attribute that holds an envelope: four letters after the namespace, so that an
/// envelope of 68 bytes stays inside a default ext4 inode.
pub const ATTRIBUTE: &str = "user.kmsf";

/// Why an envelope was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is one already.
    #[error("the object has an envelope already")]
    Exists,
    /// It is not, or no longer, the one that was expected: load it again.
    #[error("the envelope was changed by another request meanwhile")]
    Changed,
    /// The backing store failed.
    #[error("cannot store the envelope: {0}")]
    Io(#[from] io::Error),
}

/// A placement of envelopes. Descriptors are those of the backing object, open for reading or writing.
pub trait EnvelopeStore: Send + Sync {
    /// The bytes of the object's envelope, if it has one.
    fn load(&self, object: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>>;

    /// Gives the object its first envelope.
    fn create(&self, object: BorrowedFd<'_>, envelope: &[u8]) -> Result<(), StoreError>;

    /// Replaces the envelope `expected` by `new`.
    fn replace(&self, object: BorrowedFd<'_>, expected: &[u8], new: &[u8]) -> Result<(), StoreError>;
}

/// Envelopes in the attribute `user.kmsf` of the backing file or directory.
///
/// Setting it is atomic on every filesystem that journals its metadata; it is durable after fsync of the object.
#[derive(Debug, Default)]
pub struct XattrStore {
    /// Held from comparing to replacing. A volume has one writing process ([`super::lock()`]), so no other lock is needed.
    replacing: Mutex<()>,
}

impl EnvelopeStore for XattrStore {
    fn load(&self, object: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
        xattr::get(Target::Open(object), ATTRIBUTE.as_bytes())
    }

    fn create(&self, object: BorrowedFd<'_>, envelope: &[u8]) -> Result<(), StoreError> {
        match xattr::set(Target::Open(object), ATTRIBUTE.as_bytes(), envelope, Mode::Create) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::Exists),
            done => Ok(done?),
        }
    }

    fn replace(&self, object: BorrowedFd<'_>, expected: &[u8], new: &[u8]) -> Result<(), StoreError> {
        let _replacing = self.replacing.lock();
        if self.load(object)?.as_deref() != Some(expected) {
            return Err(StoreError::Changed);
        }
        match xattr::set(Target::Open(object), ATTRIBUTE.as_bytes(), new, Mode::Replace) {
            Err(e) if xattr::is_missing(&e) => Err(StoreError::Changed),
            done => Ok(done?),
        }
    }
}
