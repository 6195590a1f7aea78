//! kmsfs through real mounts: POSIX behaviour, faults, secrets, and a model that runs beside.
//!
//! Run as root. `KMSFS_TEST_PLAIN=1` runs the POSIX tests in a plain directory, which proves the tests.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/ops.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod ops;
#[path = "mount/raw.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod raw;

#[path = "mount/files.rs"]
mod files;
#[path = "mount/holes.rs"]
mod holes;
#[path = "mount/links.rs"]
mod links;
#[path = "mount/names.rs"]
mod names;
#[path = "mount/perms.rs"]
mod perms;
