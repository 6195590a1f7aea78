//! Why a volume cannot be made or opened, and what the user can do.

use std::io;
use std::path::{Path, PathBuf};

use crate::kms::{KeyId, KmsError};

use super::{EnvelopeError, MalformedEnvelope};

/// A volume that cannot be made, opened or locked.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No header at all.
    #[error("{0} is no kmsfs volume (it has no .kmsfs/volume.json); make one with: kmsfs init {0}", root.display())]
    NotAVolume {
        /// The directory.
        root: PathBuf,
    },
    /// A header that cannot be read as one.
    #[error("{0} is damaged: {reason}; restore it from a backup of the volume", file.display())]
    Damaged {
        /// The header file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another format.
    #[error("{0} has format {found}; this kmsfs reads format 1: use a kmsfs that reads format {found}", file.display())]
    Format {
        /// The header file.
        file: PathBuf,
        /// The format it names.
        found: u64,
    },
    /// A feature without which the volume would be misread.
    #[error("{0} needs the feature {feature:?}, which this kmsfs does not know; use a newer one", file.display())]
    Incompat {
        /// The header file.
        file: PathBuf,
        /// The feature.
        feature: String,
    },
    /// A feature without which the volume must not be written.
    #[error("{0} has the feature {feature:?}, which this kmsfs cannot write; mount it read-only (-o ro) or use a newer kmsfs", file.display())]
    ReadOnly {
        /// The header file.
        file: PathBuf,
        /// The feature.
        feature: String,
    },
    /// The volume key does not unwrap under this header.
    #[error("{0} was changed or belongs to another volume: its volume key does not unwrap; {advice}", file.display())]
    Edited {
        /// The header file.
        file: PathBuf,
        /// What to do, which depends on whether the other copy opens.
        advice: String,
    },
    /// The CMK is in another keystore.
    #[error("the key of {0} is not in this keystore (CMK {1}); name the keystore with --keystore, or restore it from .kmsfs/keystore.bundle", file.display(), key.0)]
    WrongKeystore {
        /// The header file.
        file: PathBuf,
        /// The CMK that the header names.
        key: KeyId,
    },
    /// The version of key material that wrapped the volume key was destroyed: the tree is older than the keystore.
    #[error("{0} needs a version of the key {1} that was destroyed (kmsfs key retire). Next: name a keystore from before with --keystore, or make one of a backup: kmsfs keystore restore", file.display(), key.0)]
    Retired {
        /// The header file.
        file: PathBuf,
        /// The CMK that the header names.
        key: KeyId,
    },
    /// The KMS refused.
    #[error("cannot get the volume key of {0}: {source}", root.display())]
    Kms {
        /// The directory.
        root: PathBuf,
        /// Its answer.
        source: KmsError,
    },
    /// A backing store without user attributes.
    #[error("{0} is on a filesystem without extended attributes (user.*), which hold the wrapped keys; make the volume with --placement sidecar, or use another filesystem", path.display())]
    NoXattrs {
        /// The directory.
        path: PathBuf,
    },
    /// A move to another placement was begun and not finished.
    #[error("{0} is on its way to the placement {placement}; finish that: kmsfs migrate {0} --placement {placement}", root.display())]
    Migrating {
        /// The directory.
        root: PathBuf,
        /// Where its envelopes are to lie.
        placement: &'static str,
    },
    /// The root directory has no envelope, or no readable one.
    #[error("the root directory {0} cannot be opened: {source}", root.display())]
    RootEnvelope {
        /// The directory.
        root: PathBuf,
        /// What is wrong with it.
        source: EnvelopeError,
    },
    /// Another process has it.
    #[error("{0} is in use{1}; unmount it there first", root.display(), holder(*pid))]
    InUse {
        /// The directory.
        root: PathBuf,
        /// The writer; `None` if the others only read.
        pid: Option<u32>,
    },
    /// There is a volume already.
    #[error("{0} is a kmsfs volume already", root.display())]
    Exists {
        /// The directory.
        root: PathBuf,
    },
    /// A volume is made only in an empty directory: kmsfs would hide what is there.
    #[error("{0} is not empty; make the volume in an empty directory and copy the files into its mount", root.display())]
    NotEmpty {
        /// The directory.
        root: PathBuf,
    },
    /// The directory belongs to the backing tree of another volume.
    #[error("{0} is a directory of another kmsfs volume (it has the attribute user.kmsf or the file .kmsfs.k); choose a directory outside of it", root.display())]
    Foreign {
        /// The directory.
        root: PathBuf,
    },
    /// A label that cannot be in an encryption context.
    #[error("{0}")]
    Label(String),
    /// The backing store failed.
    #[error("{0}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!(" by the process {pid}"),
        None => String::from(" by a read-only mount"),
    }
}

impl VolumeError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn kms(root: &Path) -> impl FnOnce(KmsError) -> Self {
        let root = root.to_owned();
        move |source| Self::Kms { root, source }
    }

    pub(super) fn envelope(root: &Path) -> impl FnOnce(EnvelopeError) -> Self {
        let root = root.to_owned();
        move |source| match source {
            EnvelopeError::Kms(source) => Self::Kms { root, source },
            source => Self::RootEnvelope { root, source },
        }
    }

    pub(super) fn malformed(root: &Path) -> impl FnOnce(MalformedEnvelope) -> Self {
        let root = root.to_owned();
        move |e| Self::RootEnvelope { root, source: e.into() }
    }
}
