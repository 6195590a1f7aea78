//! `kmsfs fsck`, from the command line as a user would type it, on volumes that real mounts filled.
//!
//! That it finds attacks is shown in `attack.rs`, that it finds nothing wrong after kill -9 in `crash.rs`.

#[path = "mount/check.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod check;
#[path = "mount/disk.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod disk;
#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/ops.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod ops;
#[path = "mount/raw.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod raw;
#[path = "attack/victim.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod victim;

#[path = "fsck/checks.rs"]
mod checks;
#[path = "fsck/losses.rs"]
mod losses;
#[path = "fsck/repairs.rs"]
mod repairs;
#[path = "fsck/restores.rs"]
mod restores;
#[path = "fsck/scene.rs"]
mod scene;
#[path = "fsck/suites.rs"]
mod suites;
