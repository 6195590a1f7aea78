//! Changing the size.

use super::file::{Content, Form, State};
use super::geometry::{BLOCK, GROUP_BLOCKS, INLINE_MAX, Run, blocks_in, group_of, slot_of};
use super::{BackingFile, Error};

impl<B: BackingFile> Content<B> {
    /// Sets the plain size: what is cut is gone, what is added reads as zeros.
    ///
    /// # Errors
    /// The size is what it was, or, after an error of the backing store on the way, already the new one.
    pub fn truncate(&self, size: u64) -> Result<(), Error> {
        let mut state = self.state.write();
        let result = self.truncate_in(&mut state, size);
        self.publish(&state);
        result
    }

    pub(super) fn truncate_in(&self, state: &mut State, size: u64) -> Result<(), Error> {
        if size == 0 {
            return self.empty(state);
        }
        Self::end_of(size, 0)?;
        Self::refuse_cut(state)?;
        if let Form::Inline { content, dirty } = &mut state.form {
            if size <= INLINE_MAX {
                if size != state.size {
                    content.resize(size as usize, 0);
                    *dirty = true;
                    state.size = size;
                }
                return Ok(());
            }
            self.become_paged(state)?;
        }
        if size > state.size {
            return self.extend_tail(state, size);
        }
        if size == state.size {
            return Ok(());
        }
        // Nothing may wait any more for a place that is about to go.
        self.commit_in(state)?;
        if size <= INLINE_MAX {
            return self.become_inline(state, size);
        }
        self.shrink(state, size)
    }

    /// Emptying needs no order: there is nothing left that could be damaged.
    fn empty(&self, state: &mut State) -> Result<(), Error> {
        if state.backing_len > 0 {
            self.backing.set_len(0)?;
        }
        let mut cache = self.cache.lock();
        cache.groups.clear();
        cache.pending.clear();
        *state = State::empty();
        self.unsettled.store(false, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    fn shrink(&self, state: &mut State, size: u64) -> Result<(), Error> {
        let last = blocks_in(size) - 1;
        let tail = size % BLOCK;
        self.ensure_group(state, group_of(last))?;
        let mut kept = zeroize::Zeroizing::new(vec![0; tail as usize]);
        let old = std::mem::replace(&mut state.size, size);
        let resealed = if tail != 0 && self.cache.lock().groups[&group_of(last)].meta.is_written(slot_of(last)) {
            state.size = old;
            let read = self.read_in(state, last * BLOCK, &mut kept);
            state.size = size;
            read.and_then(|_| self.write_run(state, Run { first: last, count: 1 }, last * BLOCK, &kept, size))
        } else {
            Ok(())
        };
        if let Err(error) = resealed {
            state.size = old;
            return Err(error);
        }
        state.header_dirty = true;
        let mut cache = self.cache.lock();
        cache.groups.retain(|number, _| *number <= group_of(last));
        cache.pending.retain(|block, _| *block <= last);
        let group = cache.groups.get_mut(&group_of(last)).expect("loaded above");
        for slot in slot_of(last) + 1..GROUP_BLOCKS as usize {
            if group.meta.is_written(slot) || group.meta.has_previous(slot) {
                group.clear(slot);
            }
        }
        drop(cache);
        self.commit_in(state)
    }
}
