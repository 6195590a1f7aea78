//! The wrapped data key beside each file and directory, and the volume header
//! (docs/format.md sections 4 and 9).
//!
//! This room knows which bytes hold a wrapped key, where they lie and to what they are bound. It
//! refuses to know content, names, FUSE and what is inside a CiphertextBlob, and keeps no key:
//! it hands data keys on and forgets them.
//!
//! Invariants:
//! - an [`Envelope`] comes from [`Envelope::parse`] or from a KMS, never from loose parts;
//! - kind and place are in the encryption context, so neither can be changed without the KMS;
//! - a mirror has a context of its own and never opens as an envelope;
//! - an envelope in store is replaced only by one who knows what it was.

mod binder;
mod canonical;
mod create;
mod error;
mod keys_log;
mod lock;
mod probe;
mod record;
mod sidecar;
mod store;
mod tail_log;
#[cfg(test)]
mod tests;
mod volume;

pub use binder::{Binder, EnvelopeError, Place, Sealer};
pub use create::{NewVolume, create_volume};
pub use error::VolumeError;
pub use keys_log::{KeysLog, MirrorRecord};
pub use lock::{Access, VolumeLock, lock};
pub use probe::{StoreAbilities, probe_store};
pub use record::{Envelope, Kind, MalformedEnvelope};
pub use sidecar::{DIRECTORY_SIDECAR, FILE_SIDECAR, SidecarStore, sidecar_name};
pub use store::{ATTRIBUTE, Entry, EnvelopeStore, Envelopes, Object, Placement, StoreError, XattrStore};
pub use tail_log::TailLog;
pub use volume::{KMSFS_DIR, LINKS_DIR, NameForm, Source, Volume, VolumeHeader, root_envelope};
