//! Putting on the backing file what memory holds, in the order that a crash can live with (docs/format.md 5.4).

use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::file::{Cache, Content, Form, MAX_PENDING, State};
use super::geometry::{
    CipherOffset, GROUP_BLOCKS, META, Run, backing_len, block_at, blocks_in, group_at, group_of, meta_at, slot_of,
};
use super::meta::flag;
use super::{BackingFile, Error};
use crate::crypto::{Nonce, random};

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
            self.wait(&mut state, all)?;
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
                    self.barrier(&mut state)?;
                }
                self.settle_in(&mut state)?;
            }
            Ok(())
        });
        self.publish(&state);
        result
    }

    /// Drops previous parts and the previous size; the data must be durable, and nothing pending.
    pub(super) fn settle_in(&self, state: &mut State) -> Result<(), Error> {
        if matches!(state.form, Form::Paged) && state.cut.is_none() {
            let mut cache = self.cache.lock();
            let Cache { groups, dirty, .. } = &mut *cache;
            for (number, group) in groups {
                if group.settle() {
                    dirty.insert(*number);
                }
            }
            // What counts is what page 0 tells: a sync has made the size the old one already.
            let first = cache.groups.get(&0);
            state.header_dirty |= first.is_some_and(|first| first.meta.previous_size != state.size);
            drop(cache);
            state.old_size = state.size;
            self.write_pages(state, false)?;
        }
        self.unsettled.store(false, Ordering::Release);
        Ok(())
    }

    pub(super) fn commit_in(&self, state: &mut State) -> Result<(), Error> {
        if state.cut.is_some() {
            return Ok(());
        }
        if std::mem::take(&mut state.heal) {
            let healed = self.heal(state);
            state.heal = healed.is_err();
            return healed;
        }
        if !matches!(state.form, Form::Paged) {
            return self.commit_inline(state);
        }
        let wanted = backing_len(state.size);
        let (waiting, again) = {
            let cache = self.cache.lock();
            if !state.limbo && !state.header_dirty && cache.is_clean() && state.backing_len == wanted {
                return Ok(());
            }
            // One previous size is all that page 0 can tell of: either that of the disk or that of the backing file.
            let tail = blocks_in(state.data_size).saturating_sub(1);
            let two_tails = state.old_size != state.data_size && cache.pending.contains_key(&tail);
            (!cache.pending.is_empty(), cache.overwrites_unsynced() || two_tails)
        };
        let was_unsynced = self.unsynced.load(Ordering::Acquire);
        if !was_unsynced || !self.is_ordered(state) {
            // All that earlier commits wrote is on the disk.
            state.old_size = state.data_size;
        }
        // Before the tail is overwritten: a tail that is longer than the file would be lost.
        self.lengthen(state, wanted)?;
        // Not before: a size that the store refuses must leave the way back open.
        state.limbo = true;
        let grows = state.size > state.page_size;
        let was_converting = state.converting;
        if (again && was_unsynced) || (state.doubt && (waiting || grows)) {
            // What a previous part will describe must be on the disk before its page is, and old bytes must be gone
            // before a page tells of what comes in their place.
            self.barrier(state)?;
        }
        self.write_pending(state, true)?;
        if state.risky || (state.converting && self.unsynced.load(Ordering::Acquire)) {
            self.barrier(state)?;
        }
        self.write_pages(state, waiting)?;
        let cuts = state.backing_len > wanted;
        if state.pages_unsynced && (cuts || !self.cache.lock().pending.is_empty()) {
            self.barrier(state)?;
        }
        self.write_pending(state, false)?;
        self.finish_shrinking(state, wanted)?;
        state.data_size = state.size;
        if was_converting || !self.is_ordered(state) {
            // When converting, all blocks were on the disk before the page was written.
            state.old_size = state.size;
        }
        state.limbo = false;
        Ok(())
    }

    /// Cuts what lies behind the end, and forgets it in the last group.
    fn finish_shrinking(&self, state: &mut State, wanted: u64) -> Result<(), Error> {
        if state.backing_len > wanted {
            if self.unsynced.load(Ordering::Acquire) {
                // The old tail, which is longer, must not be needed any more.
                self.barrier(state)?;
            }
            self.cut_to(state, wanted)?;
        }
        if !std::mem::take(&mut state.shrunk) {
            return Ok(());
        }
        // Only now: had a page with these blocks cleared been on the disk before page 0 with the new size was, they would be zeros in
        // a file of the old size.
        let end = blocks_in(state.size);
        let number = group_of(end - 1);
        let mut cache = self.cache_with(state, number)?;
        let Cache { groups, dirty, guard, .. } = &mut *cache;
        let group = groups.get_mut(&number).expect("loaded above");
        if group.clear_from(end - number * GROUP_BLOCKS) {
            dirty.insert(number);
            *guard = true;
        }
        drop(cache);
        self.write_pages(state, false)
    }

    /// Writes the dirty META pages, the first one last, but for [`State::tail_last`]. `waiting`: blocks wait for them.
    fn write_pages(&self, state: &mut State, waiting: bool) -> Result<(), Error> {
        let mut cache = self.cache.lock();
        if state.header_dirty {
            if !cache.groups.contains_key(&0) {
                let first = self.load_group(state, 0, &mut cache)?;
                cache.groups.insert(0, first);
            }
            cache.dirty.insert(0);
        }
        let mut dirty: Vec<u64> = cache.dirty.iter().rev().copied().collect();
        if let Some(last) = state.tail_last {
            dirty.retain(|number| *number != last);
            dirty.push(last);
        }
        let mut nonces: Vec<Nonce> = Vec::new();
        random::nonces(&mut nonces, dirty.len());
        for (number, nonce) in dirty.iter().zip(&nonces) {
            if *number == 0 && cache.guard && state.size > state.page_size {
                drop(cache);
                self.barrier(state)?;
                cache = self.cache.lock();
                cache.guard = false;
            }
            if state.tail_last == Some(*number) {
                drop(cache);
                self.barrier(state)?;
                cache = self.cache.lock();
                state.tail_last = None;
            }
            self.write_page(state, &mut cache, *number, nonce, waiting)?;
        }
        // Whoever lets the file grow next must know that such a page may not be on the disk.
        state.doubt |= std::mem::take(&mut cache.guard);
        Ok(())
    }

    fn write_page(
        &self,
        state: &mut State,
        cache: &mut MutexGuard<'_, Cache>,
        number: u64,
        nonce: &Nonce,
        waiting: bool,
    ) -> Result<(), Error> {
        let group = cache.groups.get_mut(&number).expect("dirty groups stay in memory");
        if number == 0 {
            self.fill_header(state, &mut group.meta, waiting);
            group.meta.flags &= !flag::SPARSE;
            group.meta.flags |= if state.sparse { flag::SPARSE } else { 0 };
            if group.meta.previous_size != group.meta.size {
                self.unsettled.store(true, Ordering::Release);
            }
        }
        // A page that may or may not have been written is as good as one that has not: both are whole.
        let page = group.meta.seal(&group.keys.meta, nonce);
        state.pages_unsynced = true;
        state.since_sync.insert(number);
        self.backing.write_at(&page[..], meta_at(number))?;
        group.page_written = group.meta.written;
        group.on_backing |= group.meta.written;
        if !self.is_ordered(state) {
            group.on_backing = group.meta.written;
        }
        cache.dirty.remove(&number);
        state.backing_len = state.backing_len.max(meta_at(number).0 + page.len() as u64);
        if number == 0 {
            state.page_size = state.size;
            state.header_dirty = false;
            state.converting = false;
        }
        Ok(())
    }

    /// Writes the sealed blocks that waited, in runs; with `holes`, only those that the pages on the backing file do not know.
    fn write_pending(&self, state: &mut State, holes: bool) -> Result<(), Error> {
        let blocks: Vec<u64> = {
            let cache = self.cache.lock();
            let known = |block: u64| cache.groups[&group_of(block)].on_backing >> slot_of(block) & 1 == 1;
            cache.pending.keys().copied().filter(|block| !holes || !known(*block)).collect()
        };
        let follows = |a: &u64, b: &u64| *b == *a + 1 && group_of(*a) == group_of(*b);
        for run in blocks.chunk_by(follows) {
            state.risky |= holes && self.is_ordered(state);
            self.mark_unsynced(Run { first: run[0], count: run.len() as u64 });
            // The cache is not held while they are written: others look up there what they seal with.
            let waiting: Vec<Box<[u8]>> = {
                let mut cache = self.cache.lock();
                run.iter().map(|block| cache.pending.remove(block).expect("it was there under the same lock")).collect()
            };
            let done = self.write_blocks(state, &waiting, block_at(run[0]));
            if done.is_err() {
                self.cache.lock().pending.extend(run.iter().copied().zip(waiting));
            }
            done?;
        }
        Ok(())
    }

    /// Writes sealed blocks, at most a group of them, one behind the other.
    pub(super) fn write_blocks(&self, state: &mut State, blocks: &[Box<[u8]>], at: CipherOffset) -> Result<(), Error> {
        let mut parts: Vec<IoSlice<'_>> = blocks.iter().map(|block| IoSlice::new(block)).collect();
        let len = parts.iter().map(|part| part.len() as u64).sum();
        self.written(state, at, len, self.backing.write_parts(&mut parts, at))
    }

    /// Writes what is no META page.
    pub(super) fn write_data(&self, state: &mut State, bytes: &[u8], at: CipherOffset) -> Result<(), Error> {
        self.written(state, at, bytes.len() as u64, self.backing.write_at(bytes, at))
    }

    /// After `len` bytes at `at` that are no META page were written, or not.
    fn written(&self, state: &mut State, at: CipherOffset, len: u64, done: io::Result<()>) -> Result<(), Error> {
        self.unsynced.store(true, Ordering::Release);
        state.since_sync.insert(group_at(at));
        if let Err(error) = done {
            // A part of it may be there.
            state.backing_len = self.backing.len().unwrap_or(state.backing_len);
            return Err(error.into());
        }
        state.backing_len = state.backing_len.max(at.0 + len);
        Ok(())
    }

    /// The backing file gets at least this length.
    pub(super) fn lengthen(&self, state: &mut State, len: u64) -> Result<(), Error> {
        if state.backing_len < len {
            self.backing.set_len(len)?;
            state.backing_len = len;
            self.unsynced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Waits until everything on the backing file is on the disk, where that is promised.
    pub(super) fn barrier(&self, state: &mut State) -> Result<(), Error> {
        if self.is_ordered(state) {
            self.wait(state, false)?;
        }
        Ok(())
    }

    /// Waits until everything on the backing file is on the disk.
    ///
    /// What the kernel could not write it takes as clean, and tells so once: after a sync that failed, everything that was written
    /// since the last good one is written again first.
    fn wait(&self, state: &mut State, all: bool) -> Result<(), Error> {
        if state.lost {
            self.write_again(state)?;
        }
        state.lost = true;
        let done = if all { self.backing.sync_all() } else { self.backing.sync_data() };
        if let Err(error) = done {
            // What is on the backing file may soon be what was there before: memory knows better.
            let mut cache = self.cache.lock();
            let Cache { groups, dirty, .. } = &mut *cache;
            dirty.extend(state.since_sync.iter().filter(|group| groups.contains_key(group)));
            if let Form::Inline { dirty, .. } = &mut state.form {
                *dirty |= !state.since_sync.is_empty();
            }
            return Err(error.into());
        }
        state.lost = false;
        self.synced(state);
        Ok(())
    }

    /// Writes what was written since the last good sync once more, as it can be read now.
    fn write_again(&self, state: &State) -> Result<(), Error> {
        let mut bytes = vec![0; (meta_at(1).0 - meta_at(0).0) as usize];
        for group in state.since_sync.iter() {
            let found = self.backing.read_at(&mut bytes, meta_at(group))?;
            for (number, page) in (0..).zip(bytes[..found].chunks(META as usize)) {
                // Zeros are a hole, which stays one.
                if page.iter().any(|byte| *byte != 0) {
                    self.backing.write_at(page, CipherOffset(meta_at(group).0 + number * META))?;
                }
            }
        }
        Ok(())
    }

    /// Everything on the backing file is on the disk.
    fn synced(&self, state: &mut State) {
        self.unsynced.store(false, Ordering::Release);
        (state.doubt, state.risky, state.pages_unsynced) = (false, false, false);
        state.old_size = state.data_size;
        state.synced_len = state.backing_len;
        state.since_sync.clear();
        let mut cache = self.cache.lock();
        cache.dropped_unsynced = false;
        for group in cache.groups.values_mut() {
            group.on_backing = group.page_written;
            group.unsynced = 0;
        }
    }

    /// Before every change: what an error left undone is done, and what a crash left behind the end is cut.
    pub(super) fn make_ready(&self, state: &mut State) -> Result<(), Error> {
        Self::refuse_cut(state)?;
        // What no commit could write out yet must not become more and more.
        let is_full = self.pending_bytes.load(Ordering::Acquire) > MAX_PENDING;
        if state.limbo || state.heal || is_full { self.commit_in(state) } else { Ok(()) }
    }

    /// Commits what a crash left as it was read, and makes it durable: what page 0 said before would hold again once the
    /// backing file grew.
    fn heal(&self, state: &mut State) -> Result<(), Error> {
        self.barrier(state)?;
        self.commit_in(state)?;
        self.cut_to(state, backing_len(state.size))?;
        self.barrier(state)
    }

    pub(super) fn cut_to(&self, state: &mut State, len: u64) -> Result<(), Error> {
        if state.backing_len > len {
            self.backing.set_len(len)?;
            state.backing_len = len;
            state.synced_len = state.synced_len.min(len);
            state.doubt = true;
        }
        Ok(())
    }
}
