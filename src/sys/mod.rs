//! Raw system calls, in safe dress.
//!
//! This room knows descriptors, paths and errno. It refuses to know keys, formats and FUSE.

pub mod atomic;
pub mod xattr;
