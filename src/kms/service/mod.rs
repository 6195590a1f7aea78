//! The operations of AWS KMS, by name: JSON in, JSON out, as `kmsfs serve` and the command line speak them.
//!
//! This room turns a request into calls of the keystore and of the data plane. It refuses to know HTTP, signatures, sockets
//! and terminals.
//!
//! Invariants:
//! - every operation is authorised for the calling principal before anything else about the key is told;
//! - every use of a key, allowed or denied, is handed to the audit log;
//! - an error carries AWS's name and AWS's words; what the wire must not say is in its detail, for the owner's log.

mod call;
mod error;

pub use call::{Call, Source};
pub use error::{ApiError, Code};
