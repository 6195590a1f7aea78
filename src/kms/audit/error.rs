//! Errors of the audit log.

use std::io;
use std::path::PathBuf;

use crate::kms::KeystoreError;

/// Why an event could not be recorded, or the log not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process holds the log for longer than any write takes.
    #[error("the audit log {} is held by another process", .0.display())]
    Busy(PathBuf),
    /// The log cannot be written now, so nothing may be changed that should stand in it.
    #[error(
        "the audit log {} cannot be written: {reason}. Next: make room, or make the folder writable, and try again",
        dir.display()
    )]
    Closed {
        /// The folder of the log.
        dir: PathBuf,
        /// What keeps it from being written.
        reason: String,
    },
}

impl AuditError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

impl From<KeystoreError> for AuditError {
    fn from(error: KeystoreError) -> Self {
        match error {
            KeystoreError::Io { action, path, source } => Self::Io { action, path, source },
            other => Self::Closed { dir: PathBuf::new(), reason: other.to_string() },
        }
    }
}

/// What is wrong with a sealed file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// The system does not let it be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It was changed, or is of another keystore.
    #[error("does not authenticate: it was changed, or is of another keystore")]
    Forged,
}
