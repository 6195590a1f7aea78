//! Putting on the backing file what memory holds, in the order that a crash can live with (docs/format.md 5.4).

use std::sync::atomic::Ordering;

use super::file::{Cache, Content, Form, State};
use super::geometry::{BLOCK, GROUP_BLOCKS, backing_len, block_at, group_of, len_of, meta_at, slot_of};
use super::meta::{Entry, Seal, flag};
use super::{BackingFile, Error};
use crate::crypto::derive::group_keys;
use crate::crypto::{BlockAad, Nonce, Suite, random};

impl<B: BackingFile> Content<B> {
    /// Puts everything on the backing file. It waits for the disk where [`super::ContentState::needs_barrier`] says so.
    ///
    /// # Errors
    /// What is not on the backing file yet stays pending, and the next commit tries again.
    pub fn commit(&self) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.commit_in(&mut state);
        self.publish(&state);
        result
    }

    /// Commits, and makes everything durable: by fsync(2) if `all`, else by fdatasync(2).
    ///
    /// # Errors
    /// As [`Content::commit`].
    pub fn sync(&self, all: bool) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.commit_in(&mut state).and_then(|()| {
            if all {
                self.backing.sync_all()?
            } else {
                self.backing.sync_data()?
            }
            self.unsynced.store(false, Ordering::Release);
            state.durable = state.backing_len > 0;
            // What is on the disk needs no previous part. These pages need no sync: with or without them, all is well.
            self.settle_in(&mut state)
        });
        self.publish(&state);
        result
    }

    /// Commits, waits for the disk where that is promised, and drops what was kept for a crash.
    ///
    /// # Errors
    /// As [`Content::commit`].
    pub fn settle(&self) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.commit_in(&mut state).and_then(|()| {
            if self.unsettled.load(Ordering::Acquire) {
                if self.unsynced.load(Ordering::Acquire) {
                    self.barrier(&state)?;
                }
                self.settle_in(&mut state)?;
            }
            Ok(())
        });
        self.publish(&state);
        result
    }

    /// Drops previous parts and the previous size; the data must be durable.
    pub(super) fn settle_in(&self, state: &mut State) -> Result<(), Error> {
        if matches!(state.form, Form::Paged) {
            let mut cache = self.cache.lock();
            for group in cache.groups.values_mut() {
                group.settle();
            }
            drop(cache);
            if state.old_size != state.size {
                state.old_size = state.size;
                state.header_dirty = true;
            }
            self.write_pages(state)?;
        }
        self.unsettled.store(false, Ordering::Release);
        Ok(())
    }

    pub(super) fn commit_in(&self, state: &mut State) -> Result<(), Error> {
        if state.cut.is_some() {
            return Ok(());
        }
        if !matches!(state.form, Form::Paged) {
            return self.commit_inline(state);
        }
        let waiting = !self.cache.lock().pending.is_empty();
        let wanted = backing_len(state.size);
        if waiting && self.unsynced.load(Ordering::Acquire) {
            // What a previous part will describe must be on the disk before its page is.
            self.barrier(state)?;
        }
        if state.backing_len < wanted {
            // Before the tail is overwritten: a tail that is longer than the file would be lost.
            self.backing.set_len(wanted)?;
            state.backing_len = wanted;
        }
        if state.converting {
            // The pages that replace the inline form must not be there before the blocks are.
            self.barrier(state)?;
        }
        let wrote = self.write_pages(state)?;
        let cuts = state.backing_len > wanted;
        if wrote && (waiting || cuts) {
            self.barrier(state)?;
        }
        self.write_pending(state)?;
        self.cut_to(state, wanted)
    }

    /// Writes the dirty META pages, the first one last. False if there were none.
    fn write_pages(&self, state: &mut State) -> Result<bool, Error> {
        let mut cache = self.cache.lock();
        if state.header_dirty && !cache.groups.contains_key(&0) {
            let first = self.load_group(state, 0, &mut cache)?;
            cache.groups.insert(0, first);
        }
        let mut dirty: Vec<u64> =
            cache.groups.iter().filter(|(_, group)| group.dirty).map(|(number, _)| *number).collect();
        if state.header_dirty && !dirty.contains(&0) {
            dirty.push(0);
        }
        if dirty.is_empty() {
            return Ok(false);
        }
        dirty.sort_unstable_by(|a, b| b.cmp(a));
        let mut nonces: Vec<Nonce> = Vec::new();
        random::nonces(&mut nonces, dirty.len());
        for (number, nonce) in dirty.iter().zip(&nonces) {
            let group = cache.groups.get_mut(number).expect("dirty groups stay in memory");
            if *number == 0 {
                self.fill_header(state, &mut group.meta);
                group.meta.flags &= !flag::SPARSE;
                group.meta.flags |= if state.sparse { flag::SPARSE } else { 0 };
                if group.meta.previous_size != group.meta.size {
                    self.unsettled.store(true, Ordering::Release);
                }
            }
            // A page that may or may not have been written is as good as one that has not: both are whole.
            let page = group.meta.seal(&group.keys.meta, nonce);
            self.backing.write_at(&page[..], meta_at(*number))?;
            group.on_backing |= group.meta.written;
            group.dirty = false;
            state.backing_len = state.backing_len.max(meta_at(*number).0 + page.len() as u64);
        }
        state.header_dirty = false;
        state.converting = false;
        if !state.durable {
            state.old_size = state.size;
        }
        Ok(true)
    }

    /// Writes the sealed blocks that waited, in runs.
    fn write_pending(&self, state: &mut State) -> Result<(), Error> {
        let mut cache = self.cache.lock();
        if cache.pending.is_empty() {
            return Ok(());
        }
        self.unsynced.store(true, Ordering::Release);
        let blocks: Vec<u64> = cache.pending.keys().copied().collect();
        let follows = |a: &u64, b: &u64| *b == *a + 1 && group_of(*a) == group_of(*b);
        for run in blocks.chunk_by(follows) {
            let bytes: Vec<u8> = run.iter().flat_map(|block| cache.pending[block].iter().copied()).collect();
            let at = block_at(run[0]);
            self.backing.write_at(&bytes, at)?;
            state.backing_len = state.backing_len.max(at.0 + bytes.len() as u64);
            for block in run {
                cache.pending.remove(block);
            }
        }
        Ok(())
    }

    /// Gives a group a fresh salt and seals all its blocks anew.
    pub(super) fn resalt(&self, state: &mut State, group: u64) -> Result<(), Error> {
        // One previous salt is all a page can tell of.
        self.commit_in(state)?;
        self.barrier(state)?;
        self.settle_in(state)?;
        let first = group * GROUP_BLOCKS;
        let mut plain = zeroize::Zeroizing::new(vec![0; (GROUP_BLOCKS * BLOCK) as usize]);
        let len = self.read_in(state, first * BLOCK, &mut plain)?;
        let mut nonces = Vec::new();
        random::nonces(&mut nonces, GROUP_BLOCKS as usize);
        let salt = random::array();
        let mut cache = self.cache.lock();
        let Cache { groups, pending } = &mut *cache;
        let group = groups.get_mut(&group).expect("the group was read, under the lock for writing");
        group.meta.previous_salt = std::mem::replace(&mut group.meta.salt, salt);
        group.keys = group_keys(&self.key, group.meta.group, &salt).into();
        group.meta.flags |= flag::RESALT;
        group.meta.seals = 0;
        group.dirty = true;
        for (i, plain) in plain[..len].chunks(BLOCK as usize).enumerate() {
            let block = first + i as u64;
            let slot = slot_of(block);
            if !group.meta.is_written(slot) {
                continue;
            }
            let aad = BlockAad { number: block, len: len_of(block, state.size) as u32, suite: Suite::Gcm4k };
            let mut sealed = vec![0; plain.len()].into_boxed_slice();
            let tag = group.keys.block.seal(&nonces[i], &aad.encode(), plain, &mut sealed);
            pending.insert(block, sealed);
            let previous = group.meta.entries[slot].current;
            group.meta.entries[slot] = Entry { current: Seal { nonce: nonces[i], tag }, previous };
            group.meta.previous |= 1 << slot;
            group.meta.seals += 1;
        }
        self.unsettled.store(true, Ordering::Release);
        Ok(())
    }
}
