//! The content of one file: blocks, META pages and the order in which they are written (docs/format.md section 5).
//!
//! This room turns plain offsets into sealed blocks on a [`BackingFile`]. It refuses to know names, envelopes,
//! the KMS, FUSE and errno.
//!
//! Invariants:
//! - no plaintext leaves before its tag verified, and none of a block that does not verify;
//! - what was on the backing file before a write can be read until what replaces it is there too;
//! - an error leaves what was readable readable, and what is pending pending.

mod ahead;
mod commit;
mod file;
mod geometry;
mod group;
mod holes;
mod inline;
mod meta;
mod mirror;
mod owner;
mod place;
mod read;
mod resalt;
mod resize;
mod suite;
#[cfg(test)]
mod tests;
mod unsynced;
mod verify;
mod write;
mod xts;

use std::io::{self, IoSlice};
use std::sync::Arc;

pub use file::{Content, ContentKey, ContentState};
pub use geometry::{CipherOffset, INLINE_MAX, MAX_SIZE, backing_len, plain_size};
pub use meta::MIRROR_LEN;
pub use mirror::{lacks_mirror, read_mirror, write_mirror};
pub use owner::is_sealed_under;
pub use suite::FileContent;
pub use verify::Verified;
pub use xts::{TAIL_RECORD_LEN, TailRecord, XtsContent};

/// What is promised for a power cut (docs/format.md section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A synced block reads as it was synced, or as a later write left it: one barrier for each batch of overwrites.
    Atomic,
    /// The same after the death of the process, but a power cut may damage blocks that were being overwritten.
    Fast,
}

/// Why content could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A block is not what was written there.
    #[error("block {block} does not authenticate: it was altered or moved in the backing file")]
    CorruptBlock {
        /// Its number.
        block: u64,
    },
    /// A META page is not what was written there.
    #[error("the META page of group {group} is damaged ({reason})")]
    CorruptMeta {
        /// The group.
        group: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The backing file is too short.
    #[error("the backing file was cut: {expected} bytes belong to it, {found} are there")]
    Truncated {
        /// The length that the authenticated size demands, in bytes.
        expected: u64,
        /// The length found.
        found: u64,
    },
    /// No file may be so long.
    #[error("a file of {size} bytes is too large")]
    TooLarge {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// A key that XTS must not be used with; chance brings it about once in 2^256.
    #[error("the two halves of the file's XTS key are equal: copy the file to give it another")]
    EqualHalves,
    /// The backing store refused.
    #[error("the backing store failed: {0}")]
    Io(#[from] io::Error),
}

/// The ciphertext of one file: the joint between this room and the disk.
#[expect(clippy::len_without_is_empty, reason = "the length is all that is ever asked for")]
pub trait BackingFile: Send + Sync {
    /// Fills `buf` from `at` on, unless the file ends; returns the bytes read.
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize>;
    /// Advice: this range will be read soon.
    fn will_read(&self, _at: CipherOffset, _len: u64) {}
    /// Writes all of `buf`.
    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()>;
    /// Writes all of `parts`, none of them empty and at most 64, one behind the other.
    fn write_parts(&self, parts: &mut [IoSlice<'_>], at: CipherOffset) -> io::Result<()> {
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(&whole, at)
    }
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space; the length stays.
    fn allocate(&self, at: CipherOffset, len: u64) -> io::Result<()>;
    /// Gives space back; the range reads as zeros.
    ///
    /// # Errors
    /// `Unsupported` where the store cannot; then it is as before.
    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()>;
    /// The first place at or behind `at` that may hold anything but zeros.
    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>>;
    /// The first place at or behind `at` that is in a hole of the store; the end of the file is one.
    fn next_hole(&self, _at: CipherOffset) -> io::Result<CipherOffset> {
        Ok(CipherOffset(self.len()?))
    }
    /// fdatasync(2).
    fn sync_data(&self) -> io::Result<()>;
    /// fsync(2).
    fn sync_all(&self) -> io::Result<()>;

    /// Keeps what the tail of an XTS file shall be where it outlives the process, under the id that the record begins with;
    /// where it outlives a power cut if `durable`. Takes the place of another record of that id.
    fn keep_tail(&self, _record: &TailRecord, _durable: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The record that is kept under `id`.
    fn kept_tail(&self, _id: &[u8; 16]) -> io::Result<Option<TailRecord>> {
        Ok(None)
    }
    /// Forgets the record under `id`, if there is one.
    fn drop_tail(&self, _id: &[u8; 16]) -> io::Result<()> {
        Ok(())
    }
}

impl<B: BackingFile> BackingFile for Arc<B> {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        (**self).read_at(buf, at)
    }
    fn will_read(&self, at: CipherOffset, len: u64) {
        (**self).will_read(at, len);
    }
    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        (**self).write_at(buf, at)
    }
    fn write_parts(&self, parts: &mut [IoSlice<'_>], at: CipherOffset) -> io::Result<()> {
        (**self).write_parts(parts, at)
    }
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn allocate(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        (**self).allocate(at, len)
    }
    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        (**self).punch_hole(at, len)
    }
    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        (**self).next_data(at)
    }
    fn next_hole(&self, at: CipherOffset) -> io::Result<CipherOffset> {
        (**self).next_hole(at)
    }
    fn keep_tail(&self, record: &TailRecord, durable: bool) -> io::Result<()> {
        (**self).keep_tail(record, durable)
    }
    fn kept_tail(&self, id: &[u8; 16]) -> io::Result<Option<TailRecord>> {
        (**self).kept_tail(id)
    }
    fn drop_tail(&self, id: &[u8; 16]) -> io::Result<()> {
        (**self).drop_tail(id)
    }
    fn sync_data(&self) -> io::Result<()> {
        (**self).sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        (**self).sync_all()
    }
}
