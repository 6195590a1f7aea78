//! The backing file of an open file, as `content` wants to see it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::content::{BackingFile, CipherOffset, TailRecord};
use crate::envelope::TailLog;
use crate::sys::file::{APPEND_ONLY, IMMUTABLE};
use crate::sys::{self, Errno};

/// No file is so long.
const UNKNOWN: u64 = u64::MAX;

/// What was written is pushed to the disk when it is this long, in bytes.
const PUSH_AFTER: u64 = 8 << 20;

/// One descriptor for all handles of an inode. It is replaced when a handle comes that may write and the
/// first one could not.
pub struct Backing {
    fd: RwLock<Arc<OwnedFd>>,
    writable: AtomicBool,
    /// Which of [`IMMUTABLE`] and [`APPEND_ONLY`] were set while this was open. Locked while inode flags are looked at or
    /// changed, and while a write is let past them.
    fixed: Mutex<u32>,
    /// Whether anything was written since the modification time was set last.
    touched: AtomicBool,
    /// The length that was found when it was opened, until it is used or the file is changed; else [`UNKNOWN`].
    found_len: AtomicU64,
    /// Bytes written since the disk was last told to take them.
    unpushed: AtomicU64,
    /// Where the end of an XTS file is kept while it is cut.
    tails: Option<Arc<TailLog>>,
}

impl Backing {
    /// The file that `fd` is open on.
    pub fn new(fd: OwnedFd, writable: bool) -> Self {
        Self {
            fd: RwLock::new(Arc::new(fd)),
            writable: AtomicBool::new(writable),
            touched: AtomicBool::new(false),
            found_len: AtomicU64::new(UNKNOWN),
            fixed: Mutex::new(0),
            unpushed: AtomicU64::new(0),
            tails: None,
        }
    }

    /// The same, with a place for the end of an XTS file.
    pub fn with_tails(self, tails: &Arc<TailLog>) -> Self {
        Self { tails: Some(tails.clone()), ..self }
    }

    /// The same for a file that is not kept open; for as long as `fd` can be written, so can this.
    pub fn shared(fd: &Arc<OwnedFd>) -> Self {
        Self {
            fd: RwLock::new(fd.clone()),
            writable: AtomicBool::new(true),
            touched: AtomicBool::new(false),
            found_len: AtomicU64::new(UNKNOWN),
            fixed: Mutex::new(0),
            unpushed: AtomicU64::new(0),
            tails: None,
        }
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

    /// The inode flags, as chattr(1) left them.
    pub fn flags(&self) -> Result<u32, Errno> {
        let _fixed = self.fixed.lock();
        sys::file::flags(self.fd().as_fd())
    }

    /// Sets the inode flags of chattr(1).
    pub fn set_flags(&self, flags: u32) -> Result<(), Errno> {
        let mut fixed = self.fixed.lock();
        sys::file::set_flags(self.fd().as_fd(), flags)?;
        *fixed = flags & (IMMUTABLE | APPEND_ONLY);
        Ok(())
    }

    /// Whether the file may be opened for writing (to append or not), or cut.
    ///
    /// # Errors
    /// EPERM if its flags forbid that.
    pub fn admit(&self, append: bool) -> Result<(), Errno> {
        let forbidden = if append { IMMUTABLE } else { IMMUTABLE | APPEND_ONLY };
        if *self.fixed.lock() & forbidden == 0 { Ok(()) } else { Err(Errno::PERM) }
    }

    /// A change that the kernel or we took on before the flags were set, or on behalf of who had the file open for writing
    /// before: pages of the kernel's cache cannot be refused any more, they could only be lost. So flags that forbid it are
    /// set aside for that moment; a crash within it leaves the file without them.
    ///
    /// # Errors
    /// What `act` answers, EPERM (as `is_refusal` knows it) only if no flag is why.
    pub fn past_flags<T, E: From<Errno>>(
        &self,
        act: impl Fn(BorrowedFd<'_>) -> Result<T, E>,
        is_refusal: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let fd = self.fd();
        match act(fd.as_fd()) {
            Err(error) if is_refusal(&error) => {}
            done => return done,
        }
        let fixed = self.fixed.lock();
        if *fixed == 0 {
            // They were taken away meanwhile, or it is not for the flags.
            return act(fd.as_fd());
        }
        let flags = sys::file::flags(fd.as_fd())?;
        sys::file::set_flags(fd.as_fd(), flags & !*fixed)?;
        let done = act(fd.as_fd());
        if let Err(errno) = sys::file::set_flags(fd.as_fd(), flags) {
            log::error!(
                "inode {}: the flags of chattr(1) were set aside for a change and could not be set again: {errno}. Next: chattr +i or +a, as they were",
                sys::stat::of_fd(&*fd).map_or(0, |stat| stat.ino)
            );
        }
        done
    }

    /// Notes its length, which was just found.
    pub fn found_len(&self, len: u64) {
        self.found_len.store(len, Ordering::Release);
    }

    /// The length in bytes, from the store only if it is not known.
    pub fn current_len(&self) -> io::Result<u64> {
        match self.found_len.load(Ordering::Acquire) {
            UNKNOWN => self.with(|fd| Ok(sys::stat::of_fd(fd)?.size)),
            len => Ok(len),
        }
    }

    /// It has, or shall have, another modification time than was set.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// Whether the store may have given it another modification time since this was asked last.
    pub fn was_touched(&self) -> bool {
        self.touched.swap(false, Ordering::AcqRel)
    }

    /// The descriptor, once so much was written that the disk should begin with it: see `pusher`.
    pub fn to_push(&self) -> Option<Arc<OwnedFd>> {
        let is_much = self.unpushed.load(Ordering::Relaxed) >= PUSH_AFTER;
        (is_much && self.unpushed.swap(0, Ordering::Relaxed) >= PUSH_AFTER).then(|| self.fd())
    }

    /// For what changes the modification time: noted afterwards, so that it is never missed.
    fn change(&self, act: impl Fn(BorrowedFd<'_>) -> Result<(), Errno>) -> io::Result<()> {
        self.found_len.store(UNKNOWN, Ordering::Release);
        let done = self.past_flags(act, |errno| *errno == Errno::PERM);
        self.touch();
        Ok(done?)
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
        self.unpushed.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.change(|fd| sys::file::write_at(fd, buf, at.0))
    }

    fn write_parts(&self, parts: &mut [IoSlice<'_>], at: CipherOffset) -> io::Result<()> {
        self.unpushed.fetch_add(parts.iter().map(|part| part.len() as u64).sum(), Ordering::Relaxed);
        self.change(|fd| sys::file::write_parts(fd, &mut parts.to_vec(), at.0))
    }

    fn len(&self) -> io::Result<u64> {
        let len = self.current_len();
        self.found_len.store(UNKNOWN, Ordering::Release);
        len
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|fd| sys::file::set_len(fd, len))
    }

    fn allocate(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        self.change(|fd| sys::file::allocate(fd, at.0, len))
    }

    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        self.change(|fd| sys::file::punch_hole(fd, at.0, len))
    }

    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        self.with(|fd| Ok(sys::file::next_data(fd, at.0)?.map(CipherOffset)))
    }

    fn next_hole(&self, at: CipherOffset) -> io::Result<CipherOffset> {
        self.with(|fd| Ok(CipherOffset(sys::file::next_hole(fd, at.0)?)))
    }

    fn keep_tail(&self, record: &TailRecord, durable: bool) -> io::Result<()> {
        self.tails.as_ref().ok_or(io::ErrorKind::Unsupported)?.keep(record, durable)
    }

    fn kept_tail(&self, id: &[u8; 16]) -> io::Result<Option<TailRecord>> {
        Ok(self.tails.as_ref().and_then(|tails| tails.get(id)))
    }

    fn drop_tail(&self, id: &[u8; 16]) -> io::Result<()> {
        self.tails.as_ref().map_or(Ok(()), |tails| tails.forget(id))
    }

    fn will_read(&self, at: CipherOffset, len: u64) {
        // Advice is never needed.
        let _ = self.with(|fd| sys::file::will_read(fd, at.0, len));
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unpushed.store(0, Ordering::Relaxed);
        self.with(sys::file::sync_data)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.unpushed.store(0, Ordering::Relaxed);
        self.with(sys::file::sync_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_much_is_pushed_once_unless_it_was_synced() {
        let file = Backing::new(tempfile::tempfile().unwrap().into(), true);
        let part = vec![0; (PUSH_AFTER / 2) as usize];
        let write = |parts: u64| {
            for i in 0..parts {
                file.write_at(&part, CipherOffset(i * PUSH_AFTER / 2)).unwrap();
            }
        };
        write(1);
        assert!(file.to_push().is_none());
        file.write_parts(&mut [IoSlice::new(&part)], CipherOffset(0)).unwrap();
        assert!(file.to_push().is_some());
        assert!(file.to_push().is_none());
        write(2);
        file.sync_data().unwrap();
        assert!(file.to_push().is_none());
        write(3);
        file.sync_all().unwrap();
        write(1);
        assert!(file.to_push().is_none());
    }
}
