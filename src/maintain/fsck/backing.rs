//! The backing file of an object on a walk.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::content::{BackingFile, CipherOffset};
use crate::sys;

/// One open file. Nothing on a walk changes content, so that what changes lengths is refused by the descriptor.
pub(super) struct Backing(pub(super) OwnedFd);

impl BackingFile for Backing {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        Ok(sys::file::read_at(self.0.as_fd(), buf, at.0)?)
    }

    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        Ok(sys::file::write_at(self.0.as_fd(), buf, at.0)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(sys::stat::of_fd(&self.0)?.size)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(sys::file::set_len(self.0.as_fd(), len)?)
    }

    fn allocate(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        Ok(sys::file::allocate(self.0.as_fd(), at.0, len)?)
    }

    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        Ok(sys::file::punch_hole(self.0.as_fd(), at.0, len)?)
    }

    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        Ok(sys::file::next_data(self.0.as_fd(), at.0)?.map(CipherOffset))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(sys::file::sync_data(self.0.as_fd())?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(sys::file::sync_all(self.0.as_fd())?)
    }
}
