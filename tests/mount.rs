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

#[path = "mount/dark.rs"]
mod dark;
#[path = "mount/disk.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod disk;
#[path = "mount/faults.rs"]
mod faults;
#[path = "mount/files.rs"]
mod files;
#[path = "mount/flags.rs"]
mod flags;
#[path = "mount/holes.rs"]
mod holes;
#[path = "mount/lifecycle.rs"]
mod lifecycle;
#[path = "mount/links.rs"]
mod links;
#[path = "mount/locks.rs"]
mod locks;
#[path = "mount/model.rs"]
mod model;
#[path = "mount/names.rs"]
mod names;
#[path = "mount/perms.rs"]
mod perms;
#[path = "mount/place.rs"]
mod place;
#[path = "mount/privileges.rs"]
mod privileges;
#[path = "mount/scale.rs"]
mod scale;
#[path = "mount/secrets.rs"]
mod secrets;
#[path = "mount/stale.rs"]
mod stale;
#[path = "mount/suites.rs"]
mod suites;
#[path = "mount/xattrs.rs"]
mod xattrs;
