//! Holes: making them, finding them, reserving space.

use std::io;

use super::change::ZEROS;
use super::{State, UNIT, XtsContent, end_of};
use crate::content::geometry::{BLOCK, CipherOffset};
use crate::content::{BackingFile, Error};

/// Zeros that are written at once where the store cannot punch holes.
const ZERO_STEP: usize = 16 * UNIT;

impl<B: BackingFile> XtsContent<B> {
    /// Makes a range read as zeros and gives its space back. The size stays.
    ///
    /// # Errors
    /// As [`XtsContent::write`].
    pub fn punch_hole(&self, at: u64, len: u64) -> Result<(), Error> {
        self.punch_in(&mut self.state.write(), at, len)
    }

    /// Makes a range read as zeros. The size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// As [`XtsContent::write`].
    pub fn zero_range(&self, at: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        let mut state = self.state.write();
        let end = end_of(at, len)?;
        self.punch_in(&mut state, at, len)?;
        if !keep_size && end > state.size { self.truncate_in(&mut state, end) } else { Ok(()) }
    }

    /// Reserves space for a range. The size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no space.
    pub fn allocate(&self, at: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        let mut state = self.state.write();
        let end = end_of(at, len)?;
        match self.backing.allocate(CipherOffset(at), len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            other => other?,
        }
        if !keep_size && end > state.size { self.truncate_in(&mut state, end) } else { Ok(()) }
    }

    fn punch_in(&self, state: &mut State, at: u64, len: u64) -> Result<(), Error> {
        let end = end_of(at, len)?.min(state.size);
        if at >= end {
            return Ok(());
        }
        self.make_ready(state)?;
        // A short last unit is never a hole.
        let (from, to) = (at.next_multiple_of(BLOCK), end - end % BLOCK);
        if from >= to {
            return self.zero_parts(state, at, end);
        }
        self.zero_parts(state, at, from)?;
        self.zero_parts(state, to, end)?;
        match self.backing.punch_hole(CipherOffset(from), to - from) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_holes(from, to),
            other => Ok(other?),
        }
    }

    /// Holes are zeros on the backing file, whatever space they take there.
    fn write_holes(&self, from: u64, to: u64) -> Result<(), Error> {
        let zeros = vec![0; ZERO_STEP];
        let mut at = from;
        while at < to {
            let step = (to - at).min(ZERO_STEP as u64);
            self.backing.write_at(&zeros[..step as usize], CipherOffset(at))?;
            at += step;
        }
        Ok(())
    }

    /// Writes zeros over a range that lies in one unit, or in two.
    fn zero_parts(&self, state: &mut State, from: u64, to: u64) -> Result<(), Error> {
        let mut at = from;
        while at < to {
            let end = to.min((at / BLOCK + 1) * BLOCK);
            self.put(state, at, &ZEROS[..(end - at) as usize])?;
            at = end;
        }
        Ok(())
    }

    /// The first byte at or behind `at` that is not in a hole; `None` if there is none before the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn seek_data(&self, at: u64) -> Result<Option<u64>, Error> {
        let size = self.state.read().size;
        if at >= size {
            return Ok(None);
        }
        let found = self.backing.next_data(CipherOffset(at - at % BLOCK))?;
        Ok(found.map(|found| at.max(found.0 - found.0 % BLOCK)).filter(|found| *found < size))
    }

    /// The first byte at or behind `at` that is in a hole; the end of the file is one. `None` at or behind the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn seek_hole(&self, at: u64) -> Result<Option<u64>, Error> {
        let size = self.state.read().size;
        if at >= size {
            return Ok(None);
        }
        let mut from = at - at % BLOCK;
        loop {
            // A hole of the store that is smaller than a unit, or lies across two, is none.
            let hole = self.backing.next_hole(CipherOffset(from))?.0.next_multiple_of(BLOCK);
            if hole + BLOCK > size {
                return Ok(Some(size));
            }
            match self.backing.next_data(CipherOffset(hole))? {
                Some(data) if data.0 < hole + BLOCK => from = hole + BLOCK,
                _ => return Ok(Some(at.max(hole))),
            }
        }
    }
}
