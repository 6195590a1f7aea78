//! Reading and writing open files.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::Result;
use super::leave::Leave;
use super::open_file::OpenFile;
use super::{EncryptedFs, Ino};
use crate::kms::Caller;
use crate::sys::{self, Errno};

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenMode {
    /// It may be written through this handle.
    pub write: bool,
    /// It is cut to nothing first.
    pub truncate: bool,
    /// Every write goes to the end, as whoever writes says.
    pub append: bool,
    /// Every write goes to the end that the backing store has, whatever the kernel takes for it: others write there, too.
    pub finds_end: bool,
    /// It must not exist yet.
    pub exclusive: bool,
    /// It may not be read through this handle.
    pub write_only: bool,
}

impl OpenMode {
    /// To write only, what is there or will be.
    pub(super) const WRITE: Self =
        Self { write: true, truncate: false, append: false, finds_end: false, exclusive: false, write_only: true };
}

/// What stands behind a file handle.
pub struct FileHandle {
    /// The file.
    pub file: Arc<OpenFile>,
    /// How it was opened.
    pub mode: OpenMode,
    /// Who opened it and what for: writes out of the kernel's cache come in nobody's name.
    pub leave: Leave,
    /// The failures that were told through it.
    seen: AtomicU64,
}

/// A file that was opened.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// The handle.
    pub handle: u64,
}

/// What fallocate(2) is asked to do with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Reserve space.
    Reserve {
        /// The size stays even if the range ends behind it.
        keep_size: bool,
    },
    /// Give space back; reads give zeros.
    PunchHole,
    /// Make it read as zeros.
    Zero {
        /// The size stays even if the range ends behind it.
        keep_size: bool,
    },
}

impl EncryptedFs {
    /// Opens a regular file.
    pub fn open(&self, caller: &Caller, ino: Ino, mode: OpenMode) -> Result<Opened> {
        if mode.write || mode.truncate {
            self.writable()?;
            self.upkeep.guards.admit_writer(ino)?;
            // The backing store judges the first open only.
            if let Some(file) = self.files.peek(ino) {
                file.backing.admit(mode.append && !mode.truncate)?;
            }
        }
        if mode.truncate
            && let Some((file, action)) = self.cut_unread(caller, ino, mode)?
        {
            return Ok(Opened { handle: self.new_handle(Leave::new(*caller, action), file, mode)? });
        }
        let asked = OpenMode { write: mode.write || mode.truncate, ..mode };
        let (file, action) = self.acquire_file(caller, ino, asked)?;
        if mode.truncate
            && let Err(error) = self.truncate_open(caller, &file, 0)
        {
            self.release_file(&file);
            return Err(self.report(ino, error));
        }
        Ok(Opened { handle: self.new_handle(Leave::new(*caller, action), file, mode)? })
    }

    pub(super) fn new_handle(&self, leave: Leave, file: Arc<OpenFile>, mode: OpenMode) -> Result<u64> {
        file.writers.fetch_add(mode.write.into(), Ordering::SeqCst);
        // After it is counted: of a guard that is set at the same time, one of both sees the other.
        if mode.write
            && let Err(error) = self.upkeep.guards.admit_writer(file.ino)
        {
            file.writers.fetch_sub(1, Ordering::SeqCst);
            self.release_file(&file);
            return Err(error);
        }
        let seen = file.failures.sample();
        Ok(self.file_handles.insert(FileHandle { file, mode, leave, seen }))
    }

    /// Whether the file may be written through any handle.
    pub fn has_writers(&self, handle: u64) -> bool {
        self.file_handles.get(handle).is_ok_and(|handle| handle.file.writers.load(Ordering::Acquire) > 0)
    }

    /// Reads at `at`; short only at the end of the file.
    pub fn read(&self, handle: u64, at: u64, out: &mut [u8]) -> Result<usize> {
        let handle = self.file_handles.get(handle)?;
        self.require_leave(&handle)?;
        match self.content_of(&handle.file)? {
            Some(content) => content.read(at, out).map_err(|error| self.report(handle.file.ino, error.into())),
            None => Ok(0),
        }
    }

    /// Writes all of `data` at `at`: also where a handle appends, for what a write(2) appends comes in several parts, in any
    /// order. Only a handle that finds the end itself does so, but for writes out of the kernel's cache, which already stand
    /// where they belong.
    pub fn write(&self, handle: u64, at: u64, data: &[u8], origin: WriteOrigin) -> Result<()> {
        let handle = self.file_handles.get(handle)?;
        let file = &handle.file;
        match origin {
            WriteOrigin::Cache => self.require_writer(&handle)?,
            WriteOrigin::Caller | WriteOrigin::PrivilegesEnd => self.require_leave(&handle)?,
        }
        // What was written before its CMK was disabled still goes where it belongs. For others not even for a moment: who lets
        // them in again waits for all who hold it.
        let kept = if origin == WriteOrigin::Cache { file.content() } else { None };
        let content = kept.map_or_else(|| self.content_for_writing(file), Ok);
        // Before, lest a commit on the way restores it; and after, for one that was set on the way.
        file.pin_mtime(None);
        let written = content.and_then(|content| {
            if handle.mode.finds_end && origin != WriteOrigin::Cache {
                content.append(data)?;
                return Ok(());
            }
            self.with_space(|| Ok(content.write(at, data)?))
        });
        file.pin_mtime(None);
        // After an error, too: a part may have been written.
        self.after_write(file);
        if let Some(fd) = file.backing.to_push() {
            self.pusher.push(fd);
        }
        written.map_err(|error| self.report(file.ino, error))?;
        if origin == WriteOrigin::PrivilegesEnd { self.end_privileges(file) } else { Ok(()) }
    }

    /// close(2) of one descriptor: what can be written out without waiting for the disk is.
    ///
    /// # Errors
    /// Also what failed in the background since the last fsync or close.
    pub fn flush(&self, handle: u64) -> Result<()> {
        let handle = self.file_handles.get(handle)?;
        let file = &handle.file;
        if !handle.mode.write {
            // Who only reads is not to hear what became of others' writes.
            return Ok(());
        }
        let waits_for_disk = file.content().is_none_or(|content| content.state().needs_barrier);
        let committed = if waits_for_disk { Ok(()) } else { self.with_space(|| file.commit()) };
        let told = file.failures.tell(&handle.seen);
        committed.map_err(|error| self.report(file.ino, error)).and(told)
    }

    /// The last descriptor of a handle is gone.
    pub fn release(&self, handle: u64) {
        if let Some(handle) = self.file_handles.remove(handle) {
            handle.file.writers.fetch_sub(handle.mode.write.into(), Ordering::AcqRel);
            self.restored(&handle);
            self.release_file(&handle.file);
        }
    }

    /// Makes a file durable, and what its name needs.
    ///
    /// # Errors
    /// Also what failed in the background since the last fsync or close.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let handle = self.file_handles.get(handle)?;
        let file = &handle.file;
        // The sync itself is not tried twice: what the store could not write it reports once.
        let synced = self.with_space(|| file.commit()).and_then(|()| file.sync(!data_only));
        let told = file.failures.tell(&handle.seen);
        synced.map_err(|error| self.report(file.ino, error)).and(told)?;
        self.sync_sidecar(file)?;
        if file.long_name.load(Ordering::Relaxed) {
            // The side symlink is an object of its own, which the sync of the file need not cover on every store.
            match self.at_location(file.ino, |parent, _, _| Ok(sys::dir::sync(parent.fd())?)) {
                Err(super::Error::Sys(Errno::STALE)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// fallocate(2).
    pub fn fallocate(&self, caller: &Caller, handle: u64, at: u64, len: u64, what: Allocation) -> Result<()> {
        let handle = self.file_handles.get(handle)?;
        let file = &handle.file;
        self.require_leave(&handle)?;
        // As fallocate(2) has it: who may only append may reserve.
        file.backing.admit(matches!(what, Allocation::Reserve { .. }))?;
        file.pin_mtime(None);
        let act = || {
            let content = self.content_for_writing(file)?;
            match what {
                Allocation::Reserve { keep_size } => content.allocate(at, len, keep_size)?,
                Allocation::PunchHole => content.punch_hole(at, len)?,
                Allocation::Zero { keep_size } => content.zero_range(at, len, keep_size)?,
            }
            Ok(())
        };
        let done = self.with_space(act);
        file.pin_mtime(None);
        self.after_write(file);
        done.map_err(|error| self.report(file.ino, error))?;
        self.changed(caller, file)
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    ///
    /// # Errors
    /// ENXIO at or behind the end of the file.
    pub fn seek(&self, handle: u64, at: u64, hole: bool) -> Result<u64> {
        let handle = self.file_handles.get(handle)?;
        self.require_leave(&handle)?;
        let Some(content) = self.content_of(&handle.file)? else { return Err(Errno::NXIO.into()) };
        let found = if hole { content.seek_hole(at) } else { content.seek_data(at) };
        let found = found.map_err(|error| self.report(handle.file.ino, error.into()))?;
        Ok(found.ok_or(Errno::NXIO)?)
    }

    /// copy_file_range(2): through memory, block by block; the data keys differ. Returns the bytes copied.
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64> {
        const STEP: usize = 1 << 20;
        self.require_leave(&*self.file_handles.get(to.0)?)?;
        let mut buffer = vec![0; STEP.min(usize::try_from(len).unwrap_or(STEP))];
        let mut done = 0;
        while done < len {
            let step = buffer.len().min(usize::try_from(len - done).unwrap_or(STEP));
            let copied = self.read(from.0, from.1 + done, &mut buffer[..step]).and_then(|got| {
                if got > 0 {
                    self.write(to.0, to.1 + done, &buffer[..got], WriteOrigin::Cache)?;
                }
                Ok(got)
            });
            match copied {
                Ok(0) => break,
                Ok(got) => done += got as u64,
                // What was copied counts; the next call meets the error again.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The inode flags of chattr(1).
    pub fn inode_flags(&self, handle: u64) -> Result<u32> {
        match self.file_handles.get(handle) {
            Ok(handle) => Ok(handle.file.backing.flags()?),
            Err(_) => Ok(sys::file::flags(self.any_fd(handle)?.as_fd())?),
        }
    }

    /// Sets the inode flags of chattr(1).
    pub fn set_inode_flags(&self, handle: u64, flags: u32) -> Result<()> {
        self.writable()?;
        let Ok(handle) = self.file_handles.get(handle) else {
            return Ok(sys::file::set_flags(self.any_fd(handle)?.as_fd(), flags)?);
        };
        let file = &handle.file;
        if flags & (sys::file::IMMUTABLE | sys::file::APPEND_ONLY) != 0 {
            // What was written before is put where it belongs before that is forbidden.
            file.finish().map_err(|error| self.report(file.ino, error))?;
        }
        Ok(file.backing.set_flags(flags)?)
    }

    fn any_fd(&self, handle: u64) -> Result<Arc<std::os::fd::OwnedFd>> {
        match self.file_handles.get(handle) {
            Ok(handle) => Ok(handle.file.backing.fd()),
            Err(_) => self.dir_handles.get(handle)?.fd(),
        }
    }
}

/// Where a write comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOrigin {
    /// From the caller, as it was asked for.
    Caller,
    /// From the kernel's page cache: it already stands where it belongs.
    Cache,
    /// From a caller who may not keep suid and sgid bits on what is written.
    PrivilegesEnd,
}
