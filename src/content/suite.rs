//! The content of a file of either suite: what `fs` holds of an open file.

use super::{BackingFile, Content, ContentKey, ContentState, Durability, Error, MIRROR_LEN, XtsContent};
use crate::crypto::Suite;

/// The content of one file, for all who have it open. Reads run in parallel, writes one at a time.
///
/// Each operation is that of the same name of [`Content`], for the suite that the file was made with.
#[expect(clippy::large_enum_variant, reason = "one for each open file, which it stays in")]
pub enum FileContent<B: BackingFile> {
    /// AES-256-GCM: authenticated blocks behind META pages.
    Gcm(Content<B>),
    /// AES-256-XTS: units in place, not authenticated.
    Xts(XtsContent<B>),
}

/// Calls the operation of the suite.
macro_rules! each {
    ($content:expr, $inner:ident => $call:expr) => {
        match $content {
            FileContent::Gcm($inner) => $call,
            FileContent::Xts($inner) => $call,
        }
    };
}

impl<B: BackingFile> FileContent<B> {
    /// The content of a file that is known to be empty: nothing is read. The XTS suite has no place for a mirror.
    ///
    /// # Errors
    /// [`Error::EqualHalves`].
    pub fn create(suite: Suite, backing: B, key: ContentKey, durability: Durability) -> Result<Self, Error> {
        match suite {
            Suite::Gcm4k => Ok(Self::Gcm(Content::create(backing, key, durability))),
            Suite::Xts4k => Ok(Self::Xts(XtsContent::create(backing, key.key, durability)?)),
        }
    }

    /// Opens the content of an existing file.
    ///
    /// # Errors
    /// As [`Content::open`].
    pub fn open(suite: Suite, backing: B, key: ContentKey, durability: Durability) -> Result<Self, Error> {
        match suite {
            Suite::Gcm4k => Ok(Self::Gcm(Content::open(backing, key, durability)?)),
            Suite::Xts4k => Ok(Self::Xts(XtsContent::open(backing, key.key, durability)?)),
        }
    }

    /// The suite it is sealed under.
    pub fn suite(&self) -> Suite {
        match self {
            Self::Gcm(_) => Suite::Gcm4k,
            Self::Xts(_) => Suite::Xts4k,
        }
    }

    /// The backing file.
    pub fn backing(&self) -> &B {
        each!(self, content => content.backing())
    }

    /// The plain size in bytes.
    pub fn size(&self) -> u64 {
        each!(self, content => content.size())
    }

    /// What is still to be done.
    pub fn state(&self) -> ContentState {
        each!(self, content => content.state())
    }

    /// The mirror of the key that lies in the file, if its suite has a place for one.
    pub fn mirror(&self) -> Option<[u8; MIRROR_LEN]> {
        match self {
            Self::Gcm(content) => content.mirror(),
            Self::Xts(_) => None,
        }
    }

    /// Whether there is such a place, and no mirror is in it.
    pub fn lacks_mirror(&self) -> bool {
        match self {
            Self::Gcm(content) => content.lacks_mirror(),
            Self::Xts(_) => false,
        }
    }

    /// Replaces that mirror.
    ///
    /// # Errors
    /// As [`Content::replace_mirror`].
    pub fn replace_mirror(&self, mirror: &[u8; MIRROR_LEN]) -> Result<(), Error> {
        match self {
            Self::Gcm(content) => content.replace_mirror(mirror),
            Self::Xts(_) => Ok(()),
        }
    }

    /// Reads from `at` on; returns the bytes read, fewer only at the end of the file.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<usize, Error> {
        each!(self, content => content.read(at, out))
    }

    /// Writes all of `data` at `at`. A gap behind the old end reads as zeros.
    ///
    /// # Errors
    /// As [`Content::write`].
    pub fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        each!(self, content => content.write(at, data))
    }

    /// Writes `data` at the end; returns where that was.
    ///
    /// # Errors
    /// As [`Content::append`].
    pub fn append(&self, data: &[u8]) -> Result<u64, Error> {
        each!(self, content => content.append(data))
    }

    /// Sets the plain size: what is cut is gone, what is added reads as zeros.
    ///
    /// # Errors
    /// As [`Content::truncate`].
    pub fn truncate(&self, size: u64) -> Result<(), Error> {
        each!(self, content => content.truncate(size))
    }

    /// Reserves space for a range. The size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// As [`Content::allocate`].
    pub fn allocate(&self, at: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        each!(self, content => content.allocate(at, len, keep_size))
    }

    /// Makes a range read as zeros and gives its space back. The size stays.
    ///
    /// # Errors
    /// As [`Content::punch_hole`].
    pub fn punch_hole(&self, at: u64, len: u64) -> Result<(), Error> {
        each!(self, content => content.punch_hole(at, len))
    }

    /// Makes a range read as zeros. The size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// As [`Content::zero_range`].
    pub fn zero_range(&self, at: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        each!(self, content => content.zero_range(at, len, keep_size))
    }

    /// The first byte at or behind `at` that is not in a hole; `None` if there is none before the end.
    ///
    /// # Errors
    /// As [`Content::seek_data`].
    pub fn seek_data(&self, at: u64) -> Result<Option<u64>, Error> {
        each!(self, content => content.seek_data(at))
    }

    /// The first byte at or behind `at` that is in a hole; the end of the file is one. `None` at or behind the end.
    ///
    /// # Errors
    /// As [`Content::seek_hole`].
    pub fn seek_hole(&self, at: u64) -> Result<Option<u64>, Error> {
        each!(self, content => content.seek_hole(at))
    }

    /// Puts everything on the backing file.
    ///
    /// # Errors
    /// As [`Content::commit`].
    pub fn commit(&self) -> Result<(), Error> {
        each!(self, content => content.commit())
    }

    /// Commits, and makes everything durable: by fsync(2) if `all`, else by fdatasync(2).
    ///
    /// # Errors
    /// As [`Content::sync`].
    pub fn sync(&self, all: bool) -> Result<(), Error> {
        each!(self, content => content.sync(all))
    }

    /// Commits, waits for the disk where that is promised, and drops what was kept for a crash.
    ///
    /// # Errors
    /// As [`Content::settle`].
    pub fn settle(&self) -> Result<(), Error> {
        match self {
            Self::Gcm(content) => content.settle(),
            Self::Xts(content) => content.commit(),
        }
    }
}
