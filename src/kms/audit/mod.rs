//! The audit log: one JSON line for each use of a key, allowed or denied, in CloudTrail's shape (docs/kms.md).
//!
//! This room writes events and checks that none was changed. It refuses to know who decides about a request, and why.
//!
//! Invariants:
//! - no plaintext, ciphertext, key bytes or grant token stands in the log: parameters are taken over by a list ([`parameters`]).

mod event;
mod parameters;

pub use event::{Detail, Event, FileStart, Gap, Repeated, Resource, Torn, UserIdentity, is_read_only};
