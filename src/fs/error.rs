//! What can go wrong in the filesystem, and the errno that each case becomes.

use crate::content;
use crate::envelope::{EnvelopeError, MalformedEnvelope, StoreError, VolumeError};
use crate::kms::{KeystoreError, KmsError};
use crate::names::NameError;
use crate::sys::Errno;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backing store refused, or the request is not allowed: the kernel's own words.
    #[error("{0}")]
    Sys(Errno),
    /// The content of a file does not authenticate, or could not be read or written.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// The envelope of a file or directory is missing or damaged, or its key was refused.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// What the volume has only once, its header or its log of mirrors, could not be read or written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The keystore, or the volume's copy of it, could not be read or written.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// A name cannot be stored, or a stored name does not authenticate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A symlink target or an attribute value does not authenticate.
    #[error("{0} does not authenticate: it was altered in the backing tree, or belongs elsewhere")]
    Forged(&'static str),
}

impl From<MalformedEnvelope> for Error {
    fn from(error: MalformedEnvelope) -> Self {
        Self::Envelope(error.into())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io(error) => error.into(),
            // Two requests changed one envelope at the same time; the caller may try again.
            StoreError::Exists | StoreError::Changed => Self::Sys(Errno::AGAIN),
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Sys(errno)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Sys(crate::sys::errno_of(&error))
    }
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The number the caller of the system call sees.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Sys(errno) => *errno,
            Self::Content(content::Error::Io(error)) => crate::sys::errno_of(error),
            Self::Content(content::Error::TooLarge { .. }) => Errno::FBIG,
            Self::Content(_) | Self::Forged(_) => Errno::IO,
            Self::Envelope(EnvelopeError::Kms(error)) if error.is_refusal() => Errno::ACCESS,
            Self::Envelope(_) => Errno::IO,
            Self::Volume(VolumeError::Io { source, .. }) | Self::Keystore(KeystoreError::Io { source, .. }) => {
                crate::sys::errno_of(source)
            }
            Self::Volume(VolumeError::Kms { source: KmsError::InvalidCiphertext(_), .. }) => Errno::IO,
            Self::Volume(VolumeError::Kms { .. }) => Errno::ACCESS,
            Self::Volume(_) | Self::Keystore(_) => Errno::IO,
            Self::Name(NameError::TooLong) => Errno::NAMETOOLONG,
            Self::Name(_) => Errno::INVAL,
        }
    }

    /// Whether the owner of the volume should read of it in the log: damage and attacks, not
    /// the everyday refusals.
    pub fn is_alarming(&self) -> bool {
        match self {
            Self::Sys(errno) => *errno == Errno::IO,
            Self::Content(content::Error::TooLarge { .. }) | Self::Name(_) => false,
            Self::Content(content::Error::Io(error)) => crate::sys::errno_of(error) != Errno::NOSPC,
            Self::Envelope(EnvelopeError::Kms(error)) => matches!(error, KmsError::InvalidCiphertext(_)),
            Self::Content(_) | Self::Envelope(_) | Self::Volume(_) | Self::Keystore(_) | Self::Forged(_) => true,
        }
    }
}
