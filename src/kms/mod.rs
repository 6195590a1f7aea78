//! The embedded key management service, in the words and by the rules of AWS KMS.
//!
//! This room keeps customer master keys (CMKs) and wraps data keys under them. It refuses to know
//! files, paths of the user's data, FUSE and errno.
//!
//! Invariants:
//! - key material leaves this room only sealed; data keys leave it only through [`Kms`];
//! - a CiphertextBlob is opaque to everyone else;
//! - a mutation is durable before it is answered, and the bundle mirrors it.

mod access;
mod access_key;
pub mod api;
mod asymmetric;
pub mod audit;
pub mod authorize;
mod backup;
mod base64;
mod blob;
mod bundle;
mod bundle_file;
mod clock;
mod context;
mod control;
mod error;
pub mod explain;
pub mod grant;
mod key;
mod key_record;
mod key_spec;
mod keyset;
mod keystore;
mod local;
mod lock;
mod owner;
pub mod policy;
mod principal;
mod recorder;
mod recovery;
mod sealer;
pub mod service;
mod slots;
mod stamp;
#[cfg(test)]
mod tests;
mod users;
mod warden;

pub use access_key::AccessKey;
pub use backup::{Restored, restore_backup, verify_backup};
pub use bundle::Header as KeystoreHeader;
pub use bundle_file::{BUNDLE_NAME, read_bundle_header};
pub use context::{ContextError, EncryptionContext};
pub use error::KeystoreError;
pub use grant::{Constraint, Grant};
pub use key::{AutomaticRotation, Cmk, KeyManager, KeyState, KeyVersion, Operation, RotationType, SealedPair};
pub use key_spec::KeySpec;
pub use keyset::{Alias, DeletedKey, KeySet};
pub use keystore::{Keystore, LockedKeystore, Part, Verified};
pub use local::{BundleWatcher, CopyState, LocalKms};
pub use principal::{ACCOUNT, Principal, root_arn};
pub use recorder::MountAudit;
pub use recovery::{RecoveryKey, RecoveryKeyError};
pub use slots::{DEFAULT_UNLOCK_MS, Slot, SlotKind, UnlockSecret};
pub use users::{LocalUser, Users, principal_in_mounts};

use crate::crypto::DataKey;

/// What policies see as `kms:ViaService` in requests that come through a mount.
pub const VIA_MOUNT: &str = "kmsfs.local";

/// Who makes a request: the local user behind a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id, for the audit log.
    pub pid: u32,
}

/// What a user wants a key for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To open what is sealed under it.
    Decrypt,
    /// To seal something new under it.
    GenerateDataKey,
}

/// What a user asks of a key through a mount.
#[derive(Clone, Copy)]
pub struct UserRequest<'a> {
    /// The user.
    pub caller: &'a Caller,
    /// The plain path of what the key belongs to, for the audit log: told only if the log wants it.
    pub path: &'a dyn Fn() -> String,
}

/// In whose name a key is used.
#[derive(Clone, Copy)]
pub enum Requester<'a> {
    /// What serves the files does so on its own: a mount that unlocks a directory to look a name up, a command. Whoever
    /// runs it has unlocked the keystore, so only the state of the key counts.
    Own,
    /// A user, through a mount: the policy and the grants of the key decide as well, and the use is recorded.
    User(UserRequest<'a>),
}

impl<'a> Requester<'a> {
    /// A user, whose request is about what has this path.
    pub fn user(caller: &'a Caller, path: &'a dyn Fn() -> String) -> Self {
        Self::User(UserRequest { caller, path })
    }
}

/// What the KMS returns for a wrapped key. Nothing outside this room looks inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CiphertextBlob(pub Vec<u8>);

/// The id of a CMK (a uuid in text).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

/// Which CMK, and which version of its key material, wrapped a data key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct KeyOrigin {
    /// The CMK.
    pub key: KeyId,
    /// The version of its key material.
    pub version: u16,
}

/// Why the KMS refused. Variants carry AWS's exception names; the detail is for the owner's log only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// DisabledException.
    #[error("key {0} is disabled; enable it with: kmsfs key enable {0}")]
    Disabled(String),
    /// KMSInvalidStateException: pending deletion.
    #[error("key {0} is pending deletion; cancel with: kmsfs key cancel-deletion {0}")]
    InvalidState(String),
    /// KMSInvalidStateException: not pending deletion.
    #[error("key {0} is not pending deletion")]
    NotPending(String),
    /// AccessDeniedException: kmsfs looks after the key itself.
    #[error("key {0} is managed by kmsfs and cannot be changed")]
    ServiceManaged(String),
    /// NotFoundException.
    #[error("key {0} does not exist in this keystore")]
    NotFound(String),
    /// AccessDeniedException.
    #[error("access denied: {0}")]
    AccessDenied(String),
    /// InvalidCiphertextException. Outside, all reasons look alike (an oracle tells too much).
    #[error("the ciphertext is invalid")]
    InvalidCiphertext(InvalidCiphertext),
}

impl KmsError {
    /// Whether the CMK does not want to, now or for ever; else something is wrong with the blob.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::InvalidCiphertext(reason) if !matches!(reason, InvalidCiphertext::VersionDestroyed(..)))
    }
}

/// The reason behind an InvalidCiphertextException: for the owner's log and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCiphertext {
    /// Not a blob of this KMS.
    #[error("malformed blob")]
    Malformed,
    /// Its key number names no CMK here.
    #[error("unknown key number {0}")]
    UnknownKey(u32),
    /// The CMK has no such version of key material.
    #[error("key number {0} has no version {1}")]
    UnknownVersion(u32, u16),
    /// That version of the CMK's key material was destroyed.
    #[error("version {1} of key number {0} was destroyed")]
    VersionDestroyed(u32, u16),
    /// Wrong encryption context, or an altered blob: GCM cannot tell which.
    #[error("wrong encryption context or altered blob")]
    WrongContext,
}

/// The data plane: all that the filesystem may ask of a KMS.
pub trait Kms: Send + Sync {
    /// GenerateDataKey: a fresh data key, and the same key wrapped under the newest version of `key`.
    fn generate_data_key(
        &self,
        requester: Requester<'_>,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(DataKey, CiphertextBlob), KmsError>;

    /// Decrypt: the data key in `blob`, if it was wrapped under exactly this context.
    fn decrypt(&self, requester: Requester<'_>, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KmsError>;

    /// ReEncrypt: the same data key under the newest version of `to_key` (of the blob's own CMK if `None`)
    /// and another context. No user asks for it through a mount: envelopes follow the objects that users move.
    fn re_encrypt(
        &self,
        blob: &[u8],
        from_context: &EncryptionContext,
        to_key: Option<&KeyId>,
        to_context: &EncryptionContext,
    ) -> Result<CiphertextBlob, KmsError>;

    /// Whether `blob` is wrapped under the newest version of `key`.
    fn is_current(&self, blob: &[u8], key: &KeyId) -> Result<bool, KmsError>;

    /// Leave for a user to use a CMK where no data key is wrapped or unwrapped: for a listing, a symlink, an empty file. It is
    /// recorded like every other use.
    ///
    /// # Errors
    /// [`KmsError::AccessDenied`], or what the state of the CMK forbids.
    fn authorize(
        &self,
        request: UserRequest<'_>,
        action: Action,
        key: &KeyId,
        context: &EncryptionContext,
    ) -> Result<(), KmsError>;

    /// Whether a user has such leave now. Nothing is recorded: meant to be asked again for everything that is open.
    ///
    /// # Errors
    /// Those of [`Kms::authorize`].
    fn allows(&self, caller: &Caller, action: Action, key: &KeyId, context: &EncryptionContext)
    -> Result<(), KmsError>;

    /// What wrapped `blob`, as it says itself: authenticated only once it was decrypted.
    fn origin(&self, blob: &[u8]) -> Result<KeyOrigin, KmsError>;

    /// Whether what `origin` wrapped may be unwrapped now, as far as its CMK and version matter. Cheap: meant to be asked
    /// again for everything that is open when the keystore has changed.
    ///
    /// # Errors
    /// What [`Kms::decrypt`] would answer.
    fn permits(&self, origin: &KeyOrigin) -> Result<(), KmsError>;

    /// Whether new data keys may be wrapped under `key` now, as far as its state matters.
    ///
    /// # Errors
    /// What [`Kms::generate_data_key`] would answer.
    fn may_wrap(&self, key: &KeyId) -> Result<(), KmsError>;

    /// The id behind an id or an alias.
    fn resolve(&self, name: &str) -> Result<KeyId, KmsError>;

    /// The aliases of a CMK, sorted.
    fn aliases(&self, key: &KeyId) -> Vec<String>;

    /// Puts into force what was changed in the keystore before this call.
    fn refresh(&self) -> Result<(), KeystoreError>;
}
