//! The audit log: one JSON line for each use of a key, allowed or denied, in CloudTrail's shape (docs/kms.md section 7).
//!
//! This room writes events and checks that none was changed. It refuses to know who decides about a request, and why.
//!
//! Several processes write at the same time: mounts, a server, commands. They share one file and one chain, and append in batches
//! under a lock, because then one count and one MAC (the anchor) vouch for all of it. With a chain for each process, the
//! chains themselves would have to be counted, and whoever removes the last one of a short command would remove it whole.
//!
//! Invariants:
//! - no plaintext, ciphertext, key bytes or grant token stands in the log: parameters are taken over by a list (`parameters`);
//! - a line vouches for all lines before it (`chain`), the anchor for their number (`store`);
//! - a change of the keystore is on the disk before it is answered; an event that is not written is counted, and the count is
//!   written (`queue`);
//! - whoever records an allowed use never waits for the disk.

mod chain;
mod entry;
mod error;
mod event;
mod files;
mod last_use;
mod parameters;
mod query;
mod queue;
mod repeated;
mod sealed;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::time::Duration;

pub use chain::Keys;
pub use entry::{Pattern, PatternUse};
pub use error::AuditError;
pub use event::{Detail, Event, FileStart, Gap, Repeated, Resource, Torn, UserIdentity, is_read_only};
pub use last_use::{LastUse, LastUses};
pub use query::{Filter, InTimeOrder, Reader, learn_alias};
pub use repeated::Uses;
pub use verify::{Fault, Head, Verified, verify};
pub use writer::{FOLDER, Log};

use error::Problem;

/// How a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// A file that has so many bytes is followed by another one.
    pub max_file_bytes: u64,
    /// How many files are kept, the newest included.
    pub kept_files: u64,
    /// How many events may wait to be written.
    pub queue: usize,
    /// How long lines may lie in the page cache, without the anchor.
    pub sync_interval: Duration,
    /// How often a line is written for uses that are counted.
    pub repeat_interval: Duration,
}

impl Default for Options {
    /// 16 files of 64 MiB; 16,384 events; a second; a minute.
    fn default() -> Self {
        Self {
            max_file_bytes: 64 << 20,
            kept_files: 16,
            queue: 16 * 1024,
            sync_interval: Duration::from_secs(1),
            repeat_interval: Duration::from_secs(60),
        }
    }
}
