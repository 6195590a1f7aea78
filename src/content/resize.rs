//! Changing the size.

use zeroize::Zeroizing;

use super::file::{Content, Form, State};
use super::geometry::{BLOCK, INLINE_MAX, Run, backing_len, blocks_in, group_of, slot_of};
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
        self.make_ready(state)?;
        if let Form::Inline { content, dirty } = &mut state.form {
            if size <= INLINE_MAX {
                if size != state.size {
                    content.resize(size as usize, 0);
                    *dirty = true;
                    state.size = size;
                }
                return Ok(());
            }
            return self.become_paged(state, |state| self.extend_tail(state, size));
        }
        if size > state.size {
            return self.extend_tail(state, size);
        }
        if size == state.size {
            return Ok(());
        }
        match self.lengthen(state, backing_len(state.size)) {
            Ok(()) => self.commit_in(state)?,
            // Growth that the store refuses a place can only be taken back. What is dropped with it does not ask for the order
            // that a commit keeps: so all that earlier ones wrote is on the disk first.
            Err(_) => self.barrier(state)?,
        }
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
        self.cache.lock().clear();
        *state = State::empty();
        self.unsettled.store(false, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    fn shrink(&self, state: &mut State, size: u64) -> Result<(), Error> {
        let last = blocks_in(size) - 1;
        let tail = (size - last * BLOCK) as usize;
        self.ensure_group(state, group_of(last))?;
        self.ensure_budget(state, group_of(last), 1)?;
        let is_hole = !self.cache.lock().groups[&group_of(last)].meta.is_written(slot_of(last));
        if tail < BLOCK as usize && !is_hole {
            let mut kept = Zeroizing::new([0; BLOCK as usize]);
            self.read_in(state, last * BLOCK, &mut kept[..tail])?;
            // Nothing of it can fail half way: the block is on the backing file, so it waits.
            self.write_run(state, Run { first: last, count: 1 }, last * BLOCK, &kept[..tail], size)?;
        }
        state.size = size;
        (state.header_dirty, state.shrunk) = (true, true);
        // Nothing may wait for a place that is about to go.
        let mut cache = self.cache.lock();
        cache.pending.retain(|block, _| *block <= last);
        cache.groups.retain(|number, _| *number <= group_of(last));
        cache.dirty.retain(|number| *number <= group_of(last));
        drop(cache);
        state.tail_last = state.tail_last.filter(|number| *number <= group_of(last));
        self.commit_in(state)
    }
}
