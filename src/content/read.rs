//! Reading.

use std::cell::RefCell;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::{Content, Form, State};
use super::geometry::{BLOCK, Run, block_at, group_of, len_of, runs, slot_of};
use super::meta::{Entry, Seal};
use super::{BackingFile, Error};
use crate::crypto::{BlockAad, GcmKey, Suite};

thread_local! {
    /// Ciphertext on its way: one buffer for each thread, so that reading allocates nothing.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<B: BackingFile> Content<B> {
    /// Reads from `at` on into `out`; returns the bytes read, fewer only at the end of the file.
    ///
    /// # Errors
    /// If a block in the range is not what was written; then `out` holds nothing of that block.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<usize, Error> {
        let state = self.state.read();
        self.read_in(&state, at, out)
    }

    pub(super) fn read_in(&self, state: &State, at: u64, out: &mut [u8]) -> Result<usize, Error> {
        let len = state.size.saturating_sub(at).min(out.len() as u64);
        let out = &mut out[..len as usize];
        if out.is_empty() {
            return Ok(0);
        }
        match &state.form {
            Form::Inline { content, .. } => out.copy_from_slice(&content[at as usize..at as usize + out.len()]),
            Form::Paged => {
                for run in runs(at, len) {
                    self.read_run(state, run, at, out)?;
                }
            }
        }
        Ok(out.len())
    }

    /// Reads the blocks of one group. `out` is the whole request, which begins at `at`.
    fn read_run(&self, state: &State, run: Run, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut cache = self.cache.lock();
        if !cache.groups.contains_key(&group_of(run.first)) {
            drop(cache);
            // The blocks come from the disk while their page does.
            self.backing.will_read(block_at(run.first), run.count * BLOCK);
            cache = self.cache_with(state, group_of(run.first))?;
        }
        let group = &cache.groups[&group_of(run.first)];
        let (written, mut pending) = (group.meta.written, 0_u64);
        for (block, sealed) in cache.pending.range(run.first..run.first + run.count) {
            pending |= 1 << slot_of(*block);
            let seal = &group.meta.entries[slot_of(*block)].current;
            open_into(&group.keys.block, *block, seal, sealed, at, out)?;
        }
        // The lock is not held while the disk is read; the entries cannot change under a reader.
        let (entries, keys) = (Arc::clone(&group.meta.entries), Arc::clone(&group.keys));
        drop(cache);
        let kind = |block: u64| (written >> slot_of(block) & 1, pending >> slot_of(block) & 1);
        let mut block = run.first;
        let end = run.first + run.count;
        while block < end {
            let first = block;
            while block < end && kind(block) == kind(first) {
                block += 1;
            }
            let piece = Run { first, count: block - first };
            match kind(first) {
                (0, _) => plain_part(piece, at, out).fill(0),
                (_, 0) => self.read_sealed(state, piece, (&keys.block, &entries), at, out)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_sealed(
        &self,
        state: &State,
        run: Run,
        (key, entries): (&GcmKey, &[Entry; 64]),
        at: u64,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let last = run.first + run.count - 1;
        let len = (run.count as usize - 1) * BLOCK as usize + len_of(last, state.size);
        SEALED.with_borrow_mut(|sealed| {
            if sealed.len() < len {
                sealed.resize(len, 0);
            }
            let sealed = &mut sealed[..len];
            let found = self.backing.read_at(sealed, block_at(run.first))?;
            if found < len {
                let start = block_at(run.first).0;
                return Err(Error::Truncated { expected: start + len as u64, found: start + found as u64 });
            }
            for (i, sealed) in sealed.chunks(BLOCK as usize).enumerate() {
                let block = run.first + i as u64;
                let seal = &entries[slot_of(block)].current;
                open_into(key, block, seal, sealed, at, out)?;
            }
            Ok(())
        })
    }
}

/// The part of a request, which begins at `at`, that lies in `run`.
fn plain_part(run: Run, at: u64, out: &mut [u8]) -> &mut [u8] {
    let start = (run.first * BLOCK).max(at) - at;
    let end = ((run.first + run.count) * BLOCK - at).min(out.len() as u64);
    &mut out[start as usize..end as usize]
}

/// Opens one block and puts the part that was asked for into the request: directly, if that is the whole.
fn open_into(key: &GcmKey, block: u64, seal: &Seal, sealed: &[u8], at: u64, out: &mut [u8]) -> Result<(), Error> {
    let aad = BlockAad { number: block, len: sealed.len() as u32, suite: Suite::Gcm4k }.encode();
    let part = plain_part(Run { first: block, count: 1 }, at, out);
    let bad = |_| Error::CorruptBlock { block };
    if part.len() == sealed.len() {
        return key.open(&seal.nonce, &aad, sealed, &seal.tag, part).map_err(bad);
    }
    let mut plain = Zeroizing::new([0; BLOCK as usize]);
    let plain = &mut plain[..sealed.len()];
    key.open(&seal.nonce, &aad, sealed, &seal.tag, plain).map_err(bad)?;
    let skip = at.saturating_sub(block * BLOCK) as usize;
    part.copy_from_slice(&plain[skip..skip + part.len()]);
    Ok(())
}
