//! The mount obeys: key policies, grants and states decide for each user what opens, and the audit log has all of it.
//!
//! Run as root, on a system that has the user `tests` (scripts/machine.sh) besides `daemon`.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/raw.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod raw;

#[path = "obey/audit.rs"]
mod audit;
#[path = "obey/grants.rs"]
mod grants;
#[path = "obey/policies.rs"]
mod policies;
#[path = "obey/scene.rs"]
mod scene;
