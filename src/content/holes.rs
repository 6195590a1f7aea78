//! Holes: making them, finding them, reserving space.

use std::io;

use super::file::{Content, Form, State};
use super::geometry::{
    BLOCK, GROUP_BLOCKS, Run, backing_len, block_at, blocks_in, group_at, group_of, meta_at, runs, slot_of,
};
use super::{BackingFile, Error};

impl<B: BackingFile> Content<B> {
    /// Makes a range read as zeros and gives its space back. The size stays.
    ///
    /// # Errors
    /// As [`Content::write`].
    pub fn punch_hole(&self, at: u64, len: u64) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.punch_in(&mut state, at, len);
        self.publish(&state);
        result
    }

    /// Makes a range read as zeros. The size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// As [`Content::write`].
    pub fn zero_range(&self, at: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        let mut state = self.state.write();
        let end = Self::end_of(at, len)?;
        let result = self
            .punch_in(&mut state, at, len)
            .and_then(|()| if !keep_size && end > state.size { self.truncate_in(&mut state, end) } else { Ok(()) });
        self.publish(&state);
        result
    }

    /// Reserves space for a range. The size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no space.
    pub fn allocate(&self, at: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        let mut state = self.state.write();
        let end = Self::end_of(at, len)?;
        let from = meta_at(group_of(at / BLOCK));
        let until = backing_len(end);
        if until > from.0 {
            match self.backing.allocate(from, until - from.0) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                other => other?,
            }
        }
        let result = if !keep_size && end > state.size { self.truncate_in(&mut state, end) } else { Ok(()) };
        self.publish(&state);
        result
    }

    fn punch_in(&self, state: &mut State, at: u64, len: u64) -> Result<(), Error> {
        let end = Self::end_of(at, len)?.min(state.size);
        if at >= end {
            return Ok(());
        }
        self.make_ready(state)?;
        if let Form::Inline { content, dirty } = &mut state.form {
            content[at as usize..end as usize].fill(0);
            *dirty = true;
            return Ok(());
        }
        let whole_from = at.div_ceil(BLOCK);
        let whole_to = if end == state.size { blocks_in(end) } else { end / BLOCK };
        if whole_from >= whole_to {
            return self.zero_part(state, at, end);
        }
        self.zero_part(state, at, whole_from * BLOCK)?;
        self.zero_part(state, (whole_to * BLOCK).min(end), end)?;
        let holes = self.clear_blocks(state, whole_from, whole_to)?;
        if holes.is_empty() {
            return Ok(());
        }
        self.commit_in(state)?;
        self.barrier(state)?;
        state.doubt = true;
        for hole in holes {
            match self.backing.punch_hole(block_at(hole.first), hole.count * BLOCK) {
                // The hole is in the META; giving the space back is a courtesy the store may not know.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Clears the blocks that were written; returns their runs.
    fn clear_blocks(&self, state: &State, from: u64, to: u64) -> Result<Vec<Run>, Error> {
        let mut holes = Vec::new();
        let mut next = from;
        loop {
            let first = self.skip_absent(state, next)?;
            if first >= to {
                return Ok(holes);
            }
            next = to.min((group_of(first) + 1) * GROUP_BLOCKS);
            let mut cache = self.cache_with(state, group_of(first))?;
            let blocks: Vec<u64> = {
                let meta = &cache.groups[&group_of(first)].meta;
                let written = |block: &u64| meta.is_written(slot_of(*block)) || meta.has_previous(slot_of(*block));
                (first..next).filter(written).collect()
            };
            for block in &blocks {
                cache.pending.remove(block);
                cache.groups.get_mut(&group_of(*block)).expect("loaded above").clear(slot_of(*block));
                cache.dirty.insert(group_of(*block));
            }
            for piece in blocks.chunk_by(|a, b| *b == *a + 1) {
                holes.push(Run { first: piece[0], count: piece.len() as u64 });
            }
        }
    }

    /// Writes zeros over a part of one block, unless it is a hole already.
    fn zero_part(&self, state: &mut State, from: u64, to: u64) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        let zeros = [0; BLOCK as usize];
        for run in runs(from, to - from) {
            for block in run.first..run.first + run.count {
                let written =
                    self.cache_with(state, group_of(block))?.groups[&group_of(block)].meta.is_written(slot_of(block));
                let start = from.max(block * BLOCK);
                let end = to.min((block + 1) * BLOCK);
                if written {
                    let size = state.size;
                    let part = &zeros[..(end - start) as usize];
                    self.write_run(state, Run { first: block, count: 1 }, start, part, size)?;
                }
            }
        }
        Ok(())
    }

    /// The first byte at or behind `at` that is not in a hole; `None` if there is none before the end.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn seek_data(&self, at: u64) -> Result<Option<u64>, Error> {
        let state = self.state.read();
        if at >= state.size {
            return Ok(None);
        }
        if !matches!(state.form, Form::Paged) {
            return Ok(Some(at));
        }
        let blocks = blocks_in(state.size);
        let mut block = at / BLOCK;
        loop {
            block = self.skip_absent(&state, block)?;
            if block >= blocks {
                return Ok(None);
            }
            let group = group_of(block);
            let cache = self.cache_with(&state, group)?;
            let meta = &cache.groups[&group].meta;
            let end = blocks.min((group + 1) * GROUP_BLOCKS);
            if let Some(found) = (block..end).find(|block| meta.is_written(slot_of(*block))) {
                return Ok(Some(at.max(found * BLOCK)));
            }
            block = end;
        }
    }

    /// The first byte at or behind `at` that is in a hole; the end of the file is one. `None` at or behind the end.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn seek_hole(&self, at: u64) -> Result<Option<u64>, Error> {
        let state = self.state.read();
        if at >= state.size {
            return Ok(None);
        }
        if matches!(state.form, Form::Paged) {
            for run in runs(at, state.size - at) {
                let cache = self.cache_with(&state, group_of(run.first))?;
                let meta = &cache.groups[&group_of(run.first)].meta;
                let mut blocks = run.first..run.first + run.count;
                if let Some(found) = blocks.find(|block| !meta.is_written(slot_of(*block))) {
                    return Ok(Some(at.max(found * BLOCK)));
                }
            }
        }
        Ok(Some(state.size))
    }

    /// `block`, if its group may hold data; else the first block of the next group that may, or one behind every end. A group of a
    /// sparse file holds none if it is not in memory and lies in a hole of the store: such groups may be more than can be looked at.
    fn skip_absent(&self, state: &State, block: u64) -> Result<u64, Error> {
        let group = group_of(block);
        if !state.sparse || self.cache.lock().groups.contains_key(&group) {
            return Ok(block);
        }
        let at = meta_at(group);
        let stored = match at.0 < state.backing_len {
            true => self.backing.next_data(at)?.map(group_at),
            // What was cut off may have been anything.
            false => state.cut.map(|_| group),
        };
        let cached = self.cache.lock().groups.keys().copied().filter(|other| *other > group).min();
        let next = stored.into_iter().chain(cached).min();
        Ok(next.map_or(u64::MAX, |next| block.max(next * GROUP_BLOCKS)))
    }
}
