//! Errors of the keystore and its control plane.

use std::io;
use std::path::{Path, PathBuf};

use super::KmsError;
use super::bundle::MAX_LEN;
use super::explain::Unexplained;
use super::recovery::RecoveryKeyError;

/// Why a keystore, a bundle or a control-plane request failed. Every text names the file or key and the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
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
    /// There is no keystore in this directory.
    #[error("no keystore at {}. Next: name another with --keystore, or make one with kmsfs init", .0.display())]
    NotFound(PathBuf),
    /// There is a keystore in this directory already.
    #[error("{} holds a keystore already; it was left alone", .0.display())]
    AlreadyExists(PathBuf),
    /// Another process has the keystore open.
    #[error("the keystore {} is in use by {}. Next: try again when that command has ended", dir.display(), holder(*.pid))]
    InUse {
        /// The keystore.
        dir: PathBuf,
        /// Who holds it, if known.
        pid: Option<u32>,
    },
    /// A file does not parse, or does not authenticate.
    #[error("{} is damaged: {reason}. Next: put back a copy of keystore.bundle from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer version wrote it.
    #[error("{} has version {version}, this kmsfs reads version 1. Next: use a newer kmsfs", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// The bundle belongs to another keystore than the records, or than the one that was opened before.
    #[error(
        "{} belongs to keystore {found}, not to {expected}. Next: put back the right keystore.bundle, \
         or move the wrong one away", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The keystore it should be of.
        expected: String,
        /// The keystore it is of.
        found: String,
    },
    /// The bundle is older than the one read before.
    #[error("{} went back from generation {known} to {found}; the newer keys stay in use", path.display())]
    RolledBack {
        /// The file.
        path: PathBuf,
        /// The generation read before.
        known: u64,
        /// The generation in the file.
        found: u64,
    },
    /// No slot opens with this secret.
    #[error("wrong {0}: it opens no unlock slot of this keystore")]
    WrongSecret(&'static str),
    /// The recovery key was mistyped.
    #[error(transparent)]
    RecoveryKey(#[from] RecoveryKeyError),
    /// A key file cannot be used.
    #[error("key file {}: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A passphrase is empty.
    #[error("an empty passphrase protects nothing; give another one")]
    EmptyPassphrase,
    /// No slot has this number.
    #[error("there is no unlock slot {0}")]
    NoSuchSlot(u32),
    /// The last slot may not go.
    #[error("slot {0} is the last one: without it nothing opens the keystore. Next: add another slot first")]
    LastSlot(u32),
    /// All 32 slots are taken.
    #[error("there are 32 unlock slots already. Next: remove one")]
    TooManySlots,
    /// An alias name is not allowed.
    #[error(
        "alias name {0:?} is not allowed: alias/ and then letters, digits, / _ - , 256 bytes at most, not alias/aws/ \
         or alias/svc/"
    )]
    InvalidAlias(String),
    /// The alias exists.
    #[error("{0} exists already. Next: kmsfs key alias update, or choose another name")]
    AliasExists(String),
    /// A description is too long.
    #[error("a description may have at most 8192 characters")]
    DescriptionTooLong,
    /// The waiting period is out of range.
    #[error("the waiting period must be 7 to 30 days, not {0}. Next: give --days")]
    WaitingPeriod(u32),
    /// This build makes no key pairs.
    #[error("this kmsfs was built without AWS-LC and has no asymmetric keys. Next: make a symmetric key")]
    NoKeyPairs,
    /// A key pair has one version only.
    #[error("key {0} is asymmetric and cannot be rotated. Next: create another key and point the alias at it")]
    NotRotatable(String),
    /// All 65,535 versions are used.
    #[error("key {0} has as many versions of key material as fit. Next: create another key and point the alias at it")]
    TooManyVersions(String),
    /// The bundle would be longer than any reader takes.
    #[error(
        "the keystore would have more than {} MiB; nothing was changed. Next: revoke grants, shorten policies, or delete keys",
        MAX_LEN >> 20
    )]
    TooLarge,
    /// The version that wraps may not be destroyed.
    #[error("version {version} of key {key} is the newest: it wraps new data keys. Next: kmsfs key rotate {key}")]
    NewestVersion {
        /// The CMK.
        key: String,
        /// The version.
        version: u16,
    },
    /// The CMK has no such version.
    #[error("key {key} has no version {version}. Next: see its versions with kmsfs key describe {key}")]
    NoSuchVersion {
        /// The CMK.
        key: String,
        /// The version.
        version: u16,
    },
    /// The version was destroyed before.
    #[error("version {version} of key {key} was destroyed already; nothing was changed")]
    VersionDestroyed {
        /// The CMK.
        key: String,
        /// The version.
        version: u16,
    },
    /// A backup, or what was given as one, is not what may be put in this place.
    #[error("{}: {reason}. Next: {next}", path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What can be done.
        next: String,
    },
    /// A change failed and taking it back failed as well.
    #[error(
        "{} could not be written ({reason}) and the change could not be taken back: it may or may not be in \
         force when the keystore is opened again. Next: make the directory writable, then look with kmsfs key list",
        path.display()
    )]
    InDoubt {
        /// The keystore.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A request cannot be explained.
    #[error(transparent)]
    Unexplained(Unexplained),
    /// The key or its state forbids the request.
    #[error(transparent)]
    Kms(#[from] KmsError),
}

impl From<Unexplained> for KeystoreError {
    fn from(error: Unexplained) -> Self {
        match error {
            Unexplained::Kms(error) => Self::Kms(error),
            other => Self::Unexplained(other),
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl KeystoreError {
    /// Turns an I/O error into one that names the file.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// The finding that `path` is damaged.
    pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), reason: reason.into() }
    }
}
