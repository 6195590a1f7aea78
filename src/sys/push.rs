//! Telling the store to begin writing to the disk.

#![allow(unsafe_code, reason = "sync_file_range(2) has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Begins to write what was written to the file to the disk, without waiting for it: advice only, nothing is promised. Stores
/// without sync_file_range(2) do nothing.
pub fn begin_writing(fd: BorrowedFd<'_>) {
    // SAFETY: the call takes a descriptor, which is borrowed and so open, and three numbers; it touches no memory of ours.
    unsafe {
        libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}
