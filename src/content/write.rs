//! Writing: what goes to the backing file at once, and what must wait for its META page.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use super::ahead::Ahead;
use super::file::{Content, Form, MAX_PENDING, State};
use super::geometry::{
    ANY_STORE_TAKES, BLOCK, GROUP_BLOCKS, INLINE_MAX, MAX_SIZE, Run, backing_len, group_of, runs, slot_of,
};
use super::group::Group;
use super::meta::Seal;
use super::place::Sealed;
use super::{BackingFile, Error};
use crate::crypto::{BlockAad, Nonce, Suite, random};

thread_local! {
    /// Ciphertext and nonces on their way: one of each for each thread.
    static BUFFERS: Cell<(Vec<u8>, Vec<Nonce>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

impl<B: BackingFile> Content<B> {
    /// Writes all of `data` at `at`. A gap behind the old end reads as zeros.
    ///
    /// # Errors
    /// What was there before can still be read, but for blocks that were written completely before the error.
    pub fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let mut ahead = self.seal_ahead(at, data);
        let mut state = self.state.write();
        let result = self.write_in(&mut state, at, data, &mut ahead);
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
        let result = self.write_in(&mut state, at, data, &mut Ahead::default());
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

    pub(super) fn write_in(&self, state: &mut State, at: u64, data: &[u8], ahead: &mut Ahead) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let end = Self::end_of(at, data.len() as u64)?;
        self.make_ready(state)?;
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
            return self.become_paged(state, |state| self.write_paged(state, at, data, ahead));
        }
        self.write_paged(state, at, data, ahead)
    }

    fn write_paged(&self, state: &mut State, at: u64, data: &[u8], ahead: &mut Ahead) -> Result<(), Error> {
        let end = at + data.len() as u64;
        let new_size = state.size.max(end);
        if at > state.size {
            self.extend_tail(state, at)?;
        }
        for run in runs(at, data.len() as u64) {
            if !self.place_ahead(state, run, ahead)? {
                self.write_run(state, run, at, data, new_size)?;
            }
            // Run by run, so that after an error the size covers just what was written.
            let written = ((run.first + run.count) * BLOCK).min(end);
            if written > state.size {
                self.grow(state, written);
            }
        }
        Ok(())
    }

    /// Puts the blocks of `run` where they belong, if they were sealed before and are still good.
    fn place_ahead(&self, state: &mut State, run: Run, ahead: &mut Ahead) -> Result<bool, Error> {
        let Some(mut sealed) = ahead.take(run) else { return Ok(false) };
        let group = group_of(run.first);
        self.ensure_group_or(state, group, || sealed.fresh.take())?;
        self.ensure_budget(state, group, run.count)?;
        if self.cache.lock().groups[&group].meta.salt != sealed.salt {
            return Ok(false);
        }
        let blocks = ahead.blocks_of(&mut sealed);
        self.place(state, run, blocks, &sealed.seals)?;
        Ok(true)
    }

    /// Sets a larger size. Groups that are skipped have no META page.
    pub(super) fn grow(&self, state: &mut State, size: u64) {
        state.size = size;
        state.header_dirty = true;
    }

    /// The last block becomes as long as a file of `size` bytes has it.
    pub(super) fn extend_tail(&self, state: &mut State, size: u64) -> Result<(), Error> {
        // First of all, if the store may refuse the size: no commit could ever write it out.
        let len = backing_len(size);
        if len > ANY_STORE_TAKES {
            self.lengthen(state, len)?;
        }
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
        let keys = self.cache.lock().groups[&group].keys.clone();
        let len = ((run.first + run.count) * BLOCK).min(new_size) - run.first * BLOCK;
        let mut seals = [Seal::default(); GROUP_BLOCKS as usize];
        let mut buffers = BUFFERS.take();
        let (sealed, nonces) = &mut buffers;
        if sealed.len() < len as usize {
            sealed.resize(len as usize, 0);
        }
        let sealed = &mut sealed[..len as usize];
        random::nonces(nonces, run.count as usize);
        let each = (run.first..).zip(sealed.chunks_mut(BLOCK as usize)).zip(seals.iter_mut().zip(nonces.iter()));
        let mut result = Ok(());
        for ((block, sealed), (seal, nonce)) in each {
            let aad = BlockAad { number: block, len: sealed.len() as u32, suite: Suite::Gcm4k }.encode();
            let start = block * BLOCK;
            let tag = if at <= start && start + sealed.len() as u64 <= at + data.len() as u64 {
                keys.block.seal(nonce, &aad, &data[(start - at) as usize..][..sealed.len()], sealed)
            } else {
                let mut plain = Zeroizing::new([0; BLOCK as usize]);
                result = self.fill_partial(state, block, at, data, &mut plain[..sealed.len()]);
                if result.is_err() {
                    break;
                }
                keys.block.seal(nonce, &aad, &plain[..sealed.len()], sealed)
            };
            *seal = Seal { nonce: *nonce, tag };
        }
        let result =
            result.and_then(|()| self.place(state, run, Sealed::Together(sealed), &seals[..run.count as usize]));
        BUFFERS.set(buffers);
        result
    }

    /// The plaintext of a block of which a request, `data` at `at`, covers a part: the rest is read.
    fn fill_partial(&self, state: &State, block: u64, at: u64, data: &[u8], plain: &mut [u8]) -> Result<(), Error> {
        let start = block * BLOCK;
        self.read_in(state, start, plain)?;
        let from = at.max(start);
        let until = (at + data.len() as u64).min(start + plain.len() as u64);
        plain[(from - start) as usize..(until - start) as usize]
            .copy_from_slice(&data[(from - at) as usize..(until - at) as usize]);
        Ok(())
    }

    /// Loads the group, or makes it if it lies behind the end.
    pub(super) fn ensure_group(&self, state: &mut State, group: u64) -> Result<(), Error> {
        self.ensure_group_or(state, group, || None)
    }

    /// The same; a group behind the end is what `fresh` gives, if it gives one.
    fn ensure_group_or(
        &self,
        state: &mut State,
        group: u64,
        fresh: impl FnOnce() -> Option<Group>,
    ) -> Result<(), Error> {
        let mut cache = self.cache.lock();
        if cache.groups.contains_key(&group) {
            return Ok(());
        }
        let is_new = group * GROUP_BLOCKS * BLOCK >= state.size;
        let loaded = if is_new {
            fresh().unwrap_or_else(|| Group::fresh(&self.key, group))
        } else {
            self.load_group(state, group, &mut cache)?
        };
        cache.groups.insert(group, loaded);
        let was_mended = cache.dirty.contains(&group);
        drop(cache);
        // What a crash left is put in order before anything is added to it.
        if was_mended { self.commit_in(state) } else { Ok(()) }
    }
}
