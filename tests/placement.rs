//! Sidecars: names that change while the daemon is killed, stores without attributes, and moves between placements.
//!
//! Run as root. Each test mounts volumes of its own.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/ops.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod ops;

#[path = "placement/migrate.rs"]
mod migrate;
#[path = "placement/steps.rs"]
mod steps;
#[path = "placement/stores.rs"]
mod stores;
