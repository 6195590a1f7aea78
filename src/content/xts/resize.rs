//! Changing the size, and the tail that a cut leaves.
//!
//! A short unit is encrypted otherwise than the beginning of a longer one, and no system call cuts a file and writes its
//! end in one step. So what the tail shall be is kept apart first ([`BackingFile::keep_tail`]), then the file is cut, then
//! the tail written, then the record dropped: whoever opens the file in between finds the record.

use super::change::ZEROS;
use super::keys::is_hole;
use super::{State, UNIT, XtsContent, end_of};
use crate::content::geometry::{BLOCK, CipherOffset};
use crate::content::{BackingFile, Durability, Error};
use crate::crypto::derive::sha256;

/// Length of a kept tail in bytes: a record never crosses a page.
pub const TAIL_RECORD_LEN: usize = 128;
/// Most bytes that differ between a short unit and the beginning of a longer one: the last whole AES block, and what
/// follows it.
const MAX_DIFFERENCE: usize = 31;
/// Bytes of a record before its checksum.
const CHECKED: usize = 96;

/// What is kept of a file that is being cut (docs/format.md section 5a.4).
pub type TailRecord = [u8; TAIL_RECORD_LEN];

/// The end of the backing file as it shall be.
pub struct Mend {
    at: u64,
    sealed: Vec<u8>,
}

impl Mend {
    /// Puts the end of the file into ciphertext that was read at `at`.
    pub fn apply(&self, at: u64, out: &mut [u8]) {
        let from = self.at.max(at);
        let until = (self.at + self.sealed.len() as u64).min(at + out.len() as u64);
        if from < until {
            out[(from - at) as usize..(until - at) as usize]
                .copy_from_slice(&self.sealed[(from - self.at) as usize..(until - self.at) as usize]);
        }
    }
}

fn encode(id: &[u8; 16], size: u64, old: &[u8], new: &[u8]) -> TailRecord {
    let mut record = [0; TAIL_RECORD_LEN];
    record[..16].copy_from_slice(id);
    record[16..24].copy_from_slice(&size.to_le_bytes());
    record[24] = new.len() as u8;
    record[32..32 + old.len()].copy_from_slice(old);
    record[64..64 + new.len()].copy_from_slice(new);
    let check = sha256(&record[..CHECKED]);
    record[CHECKED..].copy_from_slice(&check);
    record
}

/// Size, old and new end; `None` if it is no record of `id`.
fn decode<'r>(record: &'r TailRecord, id: &[u8; 16]) -> Option<(u64, &'r [u8], &'r [u8])> {
    let (size, len) = (u64::from_le_bytes(*record[16..].first_chunk()?), usize::from(record[24]));
    let fits = record[..16] == *id
        && record[CHECKED..] == sha256(&record[..CHECKED])
        && (1..=MAX_DIFFERENCE).contains(&len)
        && len as u64 <= size;
    fits.then(|| (size, &record[32..32 + len], &record[64..64 + len]))
}

impl<B: BackingFile> XtsContent<B> {
    /// Sets the size: what is cut is gone, what is added reads as zeros.
    ///
    /// # Errors
    /// The size is what it was, or, after an error of the backing store on the way, already the new one, or one between.
    pub fn truncate(&self, size: u64) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.truncate_in(&mut state, size);
        self.publish(&state);
        result
    }

    pub(super) fn truncate_in(&self, state: &mut State, size: u64) -> Result<(), Error> {
        end_of(size, 0)?;
        if size == 0 && state.size > 0 {
            // Nothing is left that could need mending.
            self.backing.set_len(0)?;
            let mended = std::mem::replace(state, State { size: 0, durable: false, mend: None }).mend.is_some();
            return if mended { Ok(self.backing.drop_tail(&self.id)?) } else { Ok(()) };
        }
        self.make_ready(state)?;
        if size > state.size { self.grow(state, size) } else { self.cut(state, size) }
    }

    fn grow(&self, state: &mut State, size: u64) -> Result<(), Error> {
        self.fill_up_to(state, size)?;
        if size > state.size && size.is_multiple_of(BLOCK) {
            self.backing.set_len(size)?;
            state.size = size;
        }
        if size > state.size {
            // A short unit is never a hole: it comes with the length, in one write.
            let from = state.size.max(size - size % BLOCK);
            self.put(state, from, &ZEROS[..(size - from) as usize])?;
        }
        Ok(())
    }

    fn cut(&self, state: &mut State, size: u64) -> Result<(), Error> {
        let (number, len) = (size / BLOCK, (size % BLOCK) as usize);
        if size == state.size || len == 0 {
            return self.set_len(state, size);
        }
        let at = number * BLOCK;
        let mut old = self.sealed_unit(state, number)?;
        if is_hole(&old, 0) {
            self.put(state, at, &ZEROS)?;
            old = self.sealed_unit(state, number)?;
        }
        let plain = self.read_unit(state, number)?;
        let mut new = vec![0; len];
        self.keys.seal(number, &plain[..len], &mut new)?;
        let Some(from) = new.iter().zip(&old).position(|(new, old)| new != old) else {
            return self.set_len(state, size);
        };
        let ordered = state.durable && self.durability == Durability::Atomic;
        let record = encode(&self.id, size, &old[from..len], &new[from..]);
        self.backing.keep_tail(&record, ordered)?;
        if let Err(error) = self.set_len(state, size) {
            let _ = self.backing.drop_tail(&self.id);
            return Err(error);
        }
        state.mend = Some(Mend { at: at + from as u64, sealed: new.split_off(from) });
        self.make_ready(state)
    }

    fn set_len(&self, state: &mut State, size: u64) -> Result<(), Error> {
        if size != state.size {
            self.backing.set_len(size)?;
            state.size = size;
        }
        Ok(())
    }

    fn sealed_unit(&self, state: &State, number: u64) -> Result<Vec<u8>, Error> {
        let at = number * BLOCK;
        let mut sealed = vec![0; (state.size - at).min(UNIT as u64) as usize];
        self.read_sealed(state, at, &mut sealed)?;
        Ok(sealed)
    }

    /// The tail that is still to be written to a file of `size` bytes: a cut was interrupted.
    pub(super) fn find_mend(&self, size: u64) -> Result<Option<Mend>, Error> {
        let Some(record) = self.backing.kept_tail(&self.id)? else { return Ok(None) };
        if let Some((kept, old, new)) = decode(&record, &self.id).filter(|(kept, ..)| *kept == size) {
            let at = kept - new.len() as u64;
            let mut found = [0; MAX_DIFFERENCE];
            let found = &mut found[..old.len()];
            if self.backing.read_at(found, CipherOffset(at))? == old.len() && found == old {
                return Ok(Some(Mend { at, sealed: new.to_vec() }));
            }
        }
        // Not cut at all, or mended already. If it cannot be dropped, the next one to open the file tries.
        let _ = self.backing.drop_tail(&self.id);
        Ok(None)
    }

    /// Before every change: the tail that a cut left is written.
    pub(super) fn make_ready(&self, state: &mut State) -> Result<(), Error> {
        if let Some(mend) = &state.mend {
            self.backing.write_at(&mend.sealed, CipherOffset(mend.at))?;
            if state.durable && self.durability == Durability::Atomic {
                self.backing.sync_data()?;
            }
            self.backing.drop_tail(&self.id)?;
            state.mend = None;
            self.publish(state);
        }
        Ok(())
    }
}
