//! Writing: what goes to the backing file at once, and what must wait for its META page.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use super::file::{Cache, Content, Form, MAX_PENDING, State};
use super::geometry::{BLOCK, GROUP_BLOCKS, INLINE_MAX, MAX_SIZE, Run, block_at, group_of, runs, slot_of};
use super::meta::{Entry, Seal};
use super::{BackingFile, Error};
use crate::crypto::{BlockAad, Nonce, Suite, random};

thread_local! {
    /// Ciphertext and nonces on their way: one of each for each thread.
    static SEALED: RefCell<(Vec<u8>, Vec<Nonce>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl<B: BackingFile> Content<B> {
    /// Writes all of `data` at `at`. A gap behind the old end reads as zeros.
    ///
    /// # Errors
    /// What was there before can still be read, but for blocks that were written completely before the error.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.write_in(&mut state, at, data);
        self.publish(&state);
        result?;
        self.limit_pending(&mut state)
    }

    /// Writes `data` at the end; returns where that was.
    ///
    /// # Errors
    /// As [`Content::write`].
    pub fn append(&self, data: &[u8]) -> Result<u64, Error> {
        let mut state = self.state.write();
        let at = state.size;
        let result = self.write_in(&mut state, at, data);
        self.publish(&state);
        result?;
        self.limit_pending(&mut state)?;
        Ok(at)
    }

    fn limit_pending(&self, state: &mut State) -> Result<(), Error> {
        if self.pending_bytes.load(Ordering::Acquire) <= MAX_PENDING {
            return Ok(());
        }
        let result = self.commit_in(state);
        self.publish(state);
        result
    }

    /// The end of a change of `len` bytes at `at`.
    pub(super) fn end_of(at: u64, len: u64) -> Result<u64, Error> {
        let end = at.saturating_add(len);
        if end > MAX_SIZE { Err(Error::TooLarge { size: end }) } else { Ok(end) }
    }

    /// A file that was cut behind our back may be emptied, but not be made whole with zeros.
    pub(super) fn refuse_cut(state: &State) -> Result<(), Error> {
        match state.cut {
            Some((expected, found)) => Err(Error::Truncated { expected, found }),
            None => Ok(()),
        }
    }

    pub(super) fn write_in(&self, state: &mut State, at: u64, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        Self::refuse_cut(state)?;
        let end = Self::end_of(at, data.len() as u64)?;
        let new_size = state.size.max(end);
        if let Form::Inline { content, dirty } = &mut state.form {
            if new_size <= INLINE_MAX {
                if content.len() < new_size as usize {
                    content.resize(new_size as usize, 0);
                }
                content[at as usize..end as usize].copy_from_slice(data);
                *dirty = true;
                state.size = new_size;
                return Ok(());
            }
            self.become_paged(state)?;
        }
        if at > state.size {
            self.extend_tail(state, at)?;
        }
        for run in runs(at, data.len() as u64) {
            self.write_run(state, run, at, data, new_size)?;
            // Run by run, so that after an error the size covers just what was written.
            let written = ((run.first + run.count) * BLOCK).min(end);
            if written > state.size {
                self.grow(state, written);
            }
        }
        Ok(())
    }

    /// Sets a larger size. Groups that are skipped have no META page.
    pub(super) fn grow(&self, state: &mut State, size: u64) {
        state.size = size;
        state.header_dirty = true;
    }

    /// The last block becomes as long as a file of `size` bytes has it.
    pub(super) fn extend_tail(&self, state: &mut State, size: u64) -> Result<(), Error> {
        let (last, tail) = (state.size / BLOCK, state.size % BLOCK);
        let gap_groups = group_of(size.div_ceil(BLOCK).max(1) - 1) > group_of((state.size.max(1) - 1) / BLOCK);
        if gap_groups && !state.sparse {
            state.sparse = true;
            state.header_dirty = true;
        }
        if tail != 0 {
            let until = size.min((last + 1) * BLOCK);
            let is_hole = {
                let cache = self.cache_with(state, group_of(last))?;
                !cache.groups[&group_of(last)].meta.is_written(slot_of(last))
            };
            if !is_hole {
                let zeros = [0; BLOCK as usize];
                let gap = &zeros[..(until - state.size) as usize];
                let run = Run { first: last, count: 1 };
                self.write_run(state, run, state.size, gap, until)?;
            }
            self.grow(state, until);
        }
        if size > state.size {
            self.grow(state, size);
        }
        Ok(())
    }

    /// Writes the part of a request that lies in `run`, the blocks of one group. `data` is the whole request, which
    /// begins at `at`; `new_size` is the size the file will have.
    pub(super) fn write_run(
        &self,
        state: &mut State,
        run: Run,
        at: u64,
        data: &[u8],
        new_size: u64,
    ) -> Result<(), Error> {
        let group = group_of(run.first);
        self.ensure_group(state, group)?;
        self.ensure_budget(state, group, run.count)?;
        let plain = self.assemble(state, run, at, data, new_size)?;
        SEALED.with_borrow_mut(|(sealed, nonces)| {
            sealed.resize(plain.len().max(sealed.len()), 0);
            let sealed = &mut sealed[..plain.len()];
            random::nonces(nonces, run.count as usize);
            let mut seals = Vec::with_capacity(run.count as usize);
            let keys = self.cache.lock().groups[&group].keys.clone();
            for (i, (plain, sealed)) in plain.chunks(BLOCK as usize).zip(sealed.chunks_mut(BLOCK as usize)).enumerate()
            {
                let aad = BlockAad { number: run.first + i as u64, len: plain.len() as u32, suite: Suite::Gcm4k };
                let tag = keys.block.seal(&nonces[i], &aad.encode(), plain, sealed);
                seals.push(Seal { nonce: nonces[i], tag });
            }
            self.place(state, run, sealed, &seals)
        })
    }

    /// The plaintext of all blocks of `run` as they shall be: what the request does not cover is read.
    fn assemble(
        &self,
        state: &State,
        run: Run,
        at: u64,
        data: &[u8],
        new_size: u64,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let start = run.first * BLOCK;
        let end = ((run.first + run.count) * BLOCK).min(new_size);
        let from = at.max(start);
        let until = (at + data.len() as u64).min(end);
        let mut plain = Zeroizing::new(vec![0; (end - start) as usize]);
        if from > start {
            let head = (from - start).min(BLOCK) as usize;
            self.read_in(state, start, &mut plain[..head])?;
        }
        if until < end {
            let tail = (until - start) / BLOCK * BLOCK;
            let have_head = from > start && tail == 0;
            if !have_head || run.count > 1 || until < start + BLOCK {
                self.read_in(state, start + tail, &mut plain[tail as usize..])?;
            }
        }
        let to = (from - start) as usize..(until - start) as usize;
        plain[to].copy_from_slice(&data[(from - at) as usize..(until - at) as usize]);
        Ok(plain)
    }

    /// Puts sealed blocks where they belong, and their seals into the page.
    fn place(&self, state: &mut State, run: Run, sealed: &[u8], seals: &[Seal]) -> Result<(), Error> {
        let group = group_of(run.first);
        let blocks: Vec<u64> = (run.first..run.first + run.count).collect();
        let waits = {
            let cache = self.cache.lock();
            let on_backing = cache.groups[&group].on_backing;
            move |block: u64| on_backing >> slot_of(block) & 1 == 1
        };
        let direct = |block: &u64| !waits(*block);
        for piece in blocks.chunk_by(|a, b| waits(*a) == waits(*b)).filter(|piece| direct(&piece[0])) {
            let from = ((piece[0] - run.first) * BLOCK) as usize;
            let to = (from + piece.len() * BLOCK as usize).min(sealed.len());
            let at = block_at(piece[0]);
            self.backing.write_at(&sealed[from..to], at)?;
            state.backing_len = state.backing_len.max(at.0 + (to - from) as u64);
            self.unsynced.store(true, Ordering::Release);
        }
        let guards_holes = state.durable && !state.converting;
        let mut cache = self.cache.lock();
        let Cache { groups, pending } = &mut *cache;
        let group =
            groups.get_mut(&group).expect("the group was loaded, and dirty or not it stays under the lock for writing");
        for (i, block) in blocks.iter().enumerate() {
            let slot = slot_of(*block);
            let old = group.meta.entries[slot];
            let previous = if waits(*block) {
                let from = i * BLOCK as usize;
                let bytes = &sealed[from..(from + BLOCK as usize).min(sealed.len())];
                let was_pending = pending.insert(*block, bytes.into()).is_some();
                group.meta.previous |= 1 << slot;
                if was_pending { old.previous } else { old.current }
            } else {
                if guards_holes {
                    group.meta.previous |= 1 << slot;
                }
                Seal::default()
            };
            group.meta.entries[slot] = Entry { current: seals[i], previous };
            group.meta.written |= 1 << slot;
        }
        group.meta.seals += run.count;
        group.dirty = true;
        if group.meta.previous != 0 {
            self.unsettled.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Loads the group, or makes it if it lies behind the end.
    pub(super) fn ensure_group(&self, state: &State, group: u64) -> Result<(), Error> {
        let mut cache = self.cache.lock();
        if cache.groups.contains_key(&group) {
            return Ok(());
        }
        let is_new = group * GROUP_BLOCKS * BLOCK >= state.size;
        let loaded = if is_new {
            super::group::Group::fresh(&self.key, group)
        } else {
            self.load_group(state, group, &mut cache)?
        };
        cache.groups.insert(group, loaded);
        Ok(())
    }

    /// Takes a fresh salt if `count` more blocks would be too many under the old one.
    fn ensure_budget(&self, state: &mut State, group: u64, count: u64) -> Result<(), Error> {
        let spent = self.cache.lock().groups[&group].meta.seals;
        if spent + count <= self.max_seals { Ok(()) } else { self.resalt(state, group) }
    }
}
