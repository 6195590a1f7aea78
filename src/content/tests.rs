//! Tests of the room as a whole. Power cuts and kills are in `tests/core_crash.rs`.

mod backing;
mod faults;
mod model;
mod salts;
mod tamper;
mod threads;
