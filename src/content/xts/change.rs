//! Writing: whole units, in one write of the backing file for a request.

use std::cell::Cell;

use super::{State, UNIT, XtsContent, end_of};
use crate::content::geometry::{BLOCK, CipherOffset};
use crate::content::{BackingFile, Error};

thread_local! {
    /// Ciphertext on its way: one buffer for each thread.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub(super) const ZEROS: [u8; UNIT] = [0; UNIT];

impl<B: BackingFile> XtsContent<B> {
    /// Writes all of `data` at `at`. A gap behind the old end reads as zeros.
    ///
    /// # Errors
    /// What was there before can still be read, but for units that were written completely before the error.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        self.write_in(&mut self.state.write(), at, data)
    }

    /// Writes `data` at the end; returns where that was.
    ///
    /// # Errors
    /// As [`XtsContent::write`].
    pub fn append(&self, data: &[u8]) -> Result<u64, Error> {
        let mut state = self.state.write();
        let at = state.size;
        self.write_in(&mut state, at, data)?;
        Ok(at)
    }

    fn write_in(&self, state: &mut State, at: u64, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        end_of(at, data.len() as u64)?;
        self.make_ready(state)?;
        self.fill_up_to(state, at)?;
        self.put(state, at, data)
    }

    /// Before something comes at `at`, in a unit behind the last one: a short last unit becomes a whole one.
    pub(super) fn fill_up_to(&self, state: &mut State, at: u64) -> Result<(), Error> {
        let end = state.size.next_multiple_of(BLOCK);
        if at < end || end == state.size {
            return Ok(());
        }
        self.put(state, state.size, &ZEROS[..(end - state.size) as usize])
    }

    /// Writes `data` at `at` by a single write of the units that it touches. Between the end of the file and `at` there is
    /// no short unit but the one that `at` lies in; what of that unit is in neither is zeros.
    pub(super) fn put(&self, state: &mut State, at: u64, data: &[u8]) -> Result<(), Error> {
        let end = at + data.len() as u64;
        let (first, last) = (at / BLOCK, (end - 1) / BLOCK);
        let until = ((last + 1) * BLOCK).min(state.size.max(end));
        let mut buffer = BUFFER.take();
        let len = (until - first * BLOCK) as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let sealed = &mut buffer[..len];
        let result = self.seal(state, (at, data), first, sealed).and_then(|()| {
            let written = self.backing.write_at(sealed, CipherOffset(first * BLOCK));
            self.written(state, until, written.is_ok());
            Ok(written?)
        });
        BUFFER.set(buffer);
        result
    }

    /// Seals the units from `first` on that a request, `data` at `at`, touches: parts that it does not cover are read.
    fn seal(&self, state: &State, (at, data): (u64, &[u8]), first: u64, sealed: &mut [u8]) -> Result<(), Error> {
        let start = first * BLOCK;
        let end = at + data.len() as u64;
        let mut unit = first;
        while ((unit - first) * BLOCK) < sealed.len() as u64 {
            let from = unit * BLOCK;
            let to = (from + BLOCK).min(start + sealed.len() as u64);
            let covered = at <= from && to <= end;
            if covered {
                // As many as the request covers completely.
                let whole = if end >= start + sealed.len() as u64 { end } else { end - end % BLOCK };
                let part = &data[(from - at) as usize..(whole - at) as usize];
                self.keys.seal(unit, part, &mut sealed[(from - start) as usize..][..part.len()])?;
                unit += (part.len() as u64).div_ceil(BLOCK);
                continue;
            }
            let mut plain = self.read_unit(state, unit)?;
            let (begin, stop) = (at.max(from), end.min(to));
            plain[(begin - from) as usize..(stop - from) as usize]
                .copy_from_slice(&data[(begin - at) as usize..(stop - at) as usize]);
            let len = (to - from) as usize;
            self.keys.seal(unit, &plain[..len], &mut sealed[(from - start) as usize..][..len])?;
            unit += 1;
        }
        Ok(())
    }

    /// After a write of units up to `until`. One that failed may have written some, as whole pages.
    fn written(&self, state: &mut State, until: u64, done: bool) {
        if done {
            state.size = state.size.max(until);
            return;
        }
        let Ok(len) = self.backing.len() else { return };
        let whole = len - len % BLOCK;
        // A part of a page, which no store is known to leave, would be a short unit that was never sealed.
        let cut = len > state.size && len < until && whole >= state.size && whole < len;
        state.size = if cut && self.backing.set_len(whole).is_ok() { whole } else { len };
    }
}
