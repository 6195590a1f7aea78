//! Walks over a whole volume: rewrap, fsck and what else takes a while.
//!
//! This room decides what is visited, in which order and how often, and counts what became of it. It refuses to know
//! terminals, passphrases and FUSE: a mounted volume is asked through an ioctl(2), which is the business of `sys`.
//!
//! Invariants:
//! - a walk that ends early, by a signal or by an error, leaves everything readable and is finished by running it again;
//! - what failed is reported with its path; nothing is skipped silently;
//! - descriptors are bounded by the depth of the tree, not by its size.

pub mod fsck;
mod migrate;
mod progress;
mod rekey;
mod rewrap;
mod tree;

pub use migrate::{Migration, migrate};
pub use progress::Progress;
pub use rekey::{Journal, Rekeyed, rekey};
pub use rewrap::{FailedPath, Report, Rewrap, Start, rewrap};
pub use tree::{Mounted, Refusal, Tree, Unmounted};
