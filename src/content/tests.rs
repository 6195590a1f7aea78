//! Tests of the room as a whole. Power cuts and kills are in `tests/core_crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod ahead;
mod backing;
mod barriers;
mod faults;
mod holes;
mod model;
mod refusals;
mod salts;
mod sync_faults;
mod tamper;
mod threads;
mod xts;
