//! The backing file of an open file, as `content` wants to see it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::content::{BackingFile, CipherOffset};
use crate::sys::{self, Errno};

/// One descriptor for all handles of an inode. It is replaced when a handle comes that may write and the
/// first one could not.
pub struct Backing {
    fd: RwLock<Arc<OwnedFd>>,
    writable: AtomicBool,
}

impl Backing {
    /// The file that `fd` is open on.
    pub fn new(fd: OwnedFd, writable: bool) -> Self {
        Self { fd: RwLock::new(Arc::new(fd)), writable: AtomicBool::new(writable) }
    }

    /// The same for a file that is not kept open; for as long as `fd` can be written, so can this.
    pub fn shared(fd: &Arc<OwnedFd>) -> Self {
        Self { fd: RwLock::new(fd.clone()), writable: AtomicBool::new(true) }
    }

    /// The descriptor of the moment.
    pub fn fd(&self) -> Arc<OwnedFd> {
        self.fd.read().clone()
    }

    /// Whether it can be written through.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Takes a descriptor that can be written through.
    pub fn make_writable(&self, fd: OwnedFd) {
        *self.fd.write() = Arc::new(fd);
        self.writable.store(true, Ordering::Release);
    }

    fn with<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>) -> io::Result<T> {
        // The clone keeps the descriptor open without holding the lock during the call.
        let fd = self.fd();
        act(fd.as_fd()).map_err(io::Error::from)
    }
}

impl BackingFile for Backing {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        self.with(|fd| sys::file::read_at(fd, buf, at.0))
    }

    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        self.with(|fd| sys::file::write_at(fd, buf, at.0))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|fd| Ok(sys::stat::of_fd(fd)?.size))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|fd| sys::file::set_len(fd, len))
    }

    fn allocate(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        self.with(|fd| sys::file::allocate(fd, at.0, len))
    }

    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        self.with(|fd| match sys::file::punch_hole(fd, at.0, len) {
            // The hole is in the META; giving the space back is a courtesy the store may not know.
            Err(Errno::OPNOTSUPP) => Ok(()),
            other => other,
        })
    }

    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        self.with(|fd| Ok(sys::file::next_data(fd, at.0)?.map(CipherOffset)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(sys::file::sync_data)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.with(sys::file::sync_all)
    }
}
