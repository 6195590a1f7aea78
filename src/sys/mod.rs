//! System calls, relative to directory descriptors.
//!
//! The only room that names libc and rustix. It refuses to know keys, plain names and FUSE: it moves
//! bytes and reports errno. Every function is one system call unless its text says otherwise.
//!
//! Invariants:
//! - no function follows a symlink in the last component of a name;
//! - nothing here changes the state of the whole process but [`process`] and [`allocator`].

pub mod allocator;
pub mod atomic;
pub mod background;
pub mod control;
pub mod dir;
pub mod file;
pub mod process;
pub mod push;
pub mod ready;
pub mod stat;
pub mod users;
pub mod xattr;

pub use rustix::io::Errno;
pub use stat::{FileKind, Stat, Time};

/// The errno inside an I/O error; EIO if it carries none.
pub fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
