//! The content of a file under the XTS suite (docs/format.md section 5a): one data unit for each block, in place.
//!
//! Invariants:
//! - the backing file is as long as the plain one, and nothing is kept in memory that is not on it, but for a tail
//!   that [`resize`] still has to write;
//! - each single write to the backing file changes units as a whole, and a unit never crosses a page: whatever of a
//!   request the death of the process leaves, every unit reads as old or as new;
//! - a whole unit of zeros on the backing file is a hole and reads as zeros; a short one never is.

mod change;
mod holes;
mod keys;
mod resize;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use zeroize::{Zeroize, Zeroizing};

use super::geometry::{BLOCK, CipherOffset};
use super::{BackingFile, ContentState, Durability, Error};
use crate::crypto::{DataKey, derive};

use keys::UnitKeys;
use resize::Mend;

pub use resize::{TAIL_RECORD_LEN, TailRecord};

/// The largest file: no offset is larger.
const MAX_SIZE: u64 = i64::MAX as u64;

const UNIT: usize = BLOCK as usize;

thread_local! {
    /// Ciphertext of a request that does not begin and end at units: one buffer for each thread.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What changes only under the lock for writing.
struct State {
    /// Size in bytes, plain and on the backing file.
    size: u64,
    /// Some of what is on the backing file may be on the disk.
    durable: bool,
    /// The tail that a cut left is still to be written.
    mend: Option<Mend>,
}

/// The content of one file under the XTS suite, for all who have it open. Reads run in parallel, writes one at a time.
pub struct XtsContent<B: BackingFile> {
    backing: B,
    keys: UnitKeys,
    /// The file's id, under which a tail is kept.
    id: [u8; 16],
    durability: Durability,
    state: RwLock<State>,
    /// Whether a tail is still to be written: kept beside the lock, so that asking never waits.
    dirty: AtomicBool,
}

impl<B: BackingFile> XtsContent<B> {
    /// The content of a file that is known to be empty: nothing is read.
    ///
    /// # Errors
    /// [`Error::EqualHalves`].
    pub fn create(backing: B, key: DataKey, durability: Durability) -> Result<Self, Error> {
        Ok(Self {
            backing,
            id: derive::file_id(&key),
            keys: UnitKeys::new(key)?,
            durability,
            state: RwLock::new(State { size: 0, durable: false, mend: None }),
            dirty: AtomicBool::new(false),
        })
    }

    /// Opens the content of an existing file. Nothing can show that `key` is not its own.
    ///
    /// # Errors
    /// [`Error::EqualHalves`]; [`Error::Io`].
    pub fn open(backing: B, key: DataKey, durability: Durability) -> Result<Self, Error> {
        let content = Self::create(backing, key, durability)?;
        let mut state = content.state.write();
        state.size = content.backing.len()?;
        state.durable = state.size > 0;
        state.mend = content.find_mend(state.size)?;
        content.publish(&state);
        drop(state);
        Ok(content)
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.state.read().size
    }

    /// The backing file.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// What is still to be done.
    pub fn state(&self) -> ContentState {
        let dirty = self.dirty.load(Ordering::Acquire);
        ContentState { dirty, unsettled: dirty, needs_barrier: false }
    }

    fn publish(&self, state: &State) {
        self.dirty.store(state.mend.is_some(), Ordering::Release);
    }

    /// Reads from `at` on into `out`; returns the bytes read, fewer only at the end of the file.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the backing file was cut behind our back; [`Error::Io`].
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<usize, Error> {
        let state = self.state.read();
        self.read_in(&state, at, out)
    }

    fn read_in(&self, state: &State, at: u64, out: &mut [u8]) -> Result<usize, Error> {
        let len = state.size.saturating_sub(at).min(out.len() as u64) as usize;
        let (out, end) = (&mut out[..len], at + len as u64);
        if out.is_empty() {
            return Ok(0);
        }
        if at.is_multiple_of(BLOCK) && (end.is_multiple_of(BLOCK) || end == state.size) {
            self.read_sealed(state, at, out)?;
            self.keys.open(at / BLOCK, out)?;
            return Ok(len);
        }
        let from = at - at % BLOCK;
        let until = end.next_multiple_of(BLOCK).min(state.size);
        SEALED.with_borrow_mut(|buffer| {
            buffer.resize((until - from) as usize, 0);
            self.read_sealed(state, from, buffer)?;
            self.keys.open(from / BLOCK, buffer)?;
            out.copy_from_slice(&buffer[(at - from) as usize..][..len]);
            buffer.zeroize();
            Ok(len)
        })
    }

    /// The ciphertext at `at`, as it is once everything is written.
    fn read_sealed(&self, state: &State, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let found = self.backing.read_at(out, CipherOffset(at))?;
        if found < out.len() {
            return Err(Error::Truncated { expected: at + out.len() as u64, found: at + found as u64 });
        }
        if let Some(mend) = &state.mend {
            mend.apply(at, out);
        }
        Ok(())
    }

    /// The plaintext of unit `number`, with zeros behind the end of the file.
    fn read_unit(&self, state: &State, number: u64) -> Result<Zeroizing<[u8; UNIT]>, Error> {
        let mut plain = Zeroizing::new([0; UNIT]);
        self.read_in(state, number * BLOCK, &mut plain[..])?;
        Ok(plain)
    }

    /// Makes everything durable: by fsync(2) if `all`, else by fdatasync(2).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self, all: bool) -> Result<(), Error> {
        let mut state = self.state.write();
        self.make_ready(&mut state)?;
        if all {
            self.backing.sync_all()?
        } else {
            self.backing.sync_data()?
        }
        state.durable = state.size > 0;
        Ok(())
    }

    /// Writes the tail that a cut left.
    ///
    /// # Errors
    /// [`Error::Io`]; the next commit tries again.
    pub fn commit(&self) -> Result<(), Error> {
        if self.state().dirty { self.make_ready(&mut self.state.write()) } else { Ok(()) }
    }
}

/// The end of a change of `len` bytes at `at`.
fn end_of(at: u64, len: u64) -> Result<u64, Error> {
    let end = at.saturating_add(len);
    if end > MAX_SIZE { Err(Error::TooLarge { size: end }) } else { Ok(end) }
}
