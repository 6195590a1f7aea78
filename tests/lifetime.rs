//! Keys over a lifetime: rotated, rewrapped, retired, separated, shredded; on real mounts, with the built binary.
//!
//! Run as root.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/ops.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod ops;
#[path = "mount/raw.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod raw;

#[path = "mount/disk.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod disk;
#[path = "lifetime/keys.rs"]
mod keys;
#[path = "lifetime/rekey.rs"]
mod rekey;
#[path = "lifetime/rewrap.rs"]
mod rewrap;
#[path = "lifetime/tree.rs"]
mod tree;
