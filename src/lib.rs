//! kmsfs: a FUSE filesystem that encrypts transparently, with envelope encryption.
//!
//! The crate is a library only so that tests reach its rooms; the library is no promised API.
//! `docs/architecture.md` has the map and the table of allowed arrows, which
//! `tests/architecture.rs` enforces; `docs/format.md` has the bytes on disk.

pub mod cli;
pub mod content;
pub mod crypto;
pub mod envelope;
pub mod fs;
pub mod fuse;
pub mod kms;
pub mod maintain;
pub mod names;
pub mod sys;
