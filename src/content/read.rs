//! Reading.

use std::cell::RefCell;

use zeroize::Zeroizing;

use super::file::{Cache, Content, Form, State};
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
        let cache = self.cache_with(state, group_of(run.first))?;
        let meta = &cache.groups[&group_of(run.first)].meta;
        let mut block = run.first;
        let end = run.first + run.count;
        let mut pieces = Vec::new();
        while block < end {
            let first = block;
            let kind = Source::of(&cache, meta.is_written(slot_of(block)), block);
            while block < end && kind == Source::of(&cache, meta.is_written(slot_of(block)), block) {
                block += 1;
                if kind == Source::Pending {
                    break;
                }
            }
            pieces.push((kind, Run { first, count: block - first }));
        }
        let mut sealed_runs = Vec::new();
        for (kind, piece) in pieces {
            match kind {
                Source::Hole => plain_part(piece, at, out).fill(0),
                Source::Pending => {
                    let sealed = cache.pending[&piece.first].clone();
                    self.open_one(&cache, piece.first, &sealed, at, out)?;
                }
                Source::Backing => sealed_runs.push(piece),
            }
        }
        if sealed_runs.is_empty() {
            return Ok(());
        }
        // The lock is not held while the disk is read; the entries cannot change under a reader.
        let (entries, keys) = (meta.entries.clone(), cache.groups[&group_of(run.first)].keys.clone());
        drop(cache);
        for piece in sealed_runs {
            self.read_sealed(state, piece, (&keys.block, &entries), at, out)?;
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

    fn open_one(&self, cache: &Cache, block: u64, sealed: &[u8], at: u64, out: &mut [u8]) -> Result<(), Error> {
        let group = &cache.groups[&group_of(block)];
        open_into(&group.keys.block, block, &group.meta.entries[slot_of(block)].current, sealed, at, out)
    }
}

/// Where the bytes of a block are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Hole,
    Pending,
    Backing,
}

impl Source {
    fn of(cache: &Cache, written: bool, block: u64) -> Self {
        match written {
            false => Self::Hole,
            true if !cache.pending.is_empty() && cache.pending.contains_key(&block) => Self::Pending,
            true => Self::Backing,
        }
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
