//! Where sealed blocks go: to the backing file at once, or to those that wait for their META page.

use std::sync::atomic::Ordering;

use super::file::{Cache, Content, State};
use super::geometry::{BLOCK, Run, block_at, blocks_in, group_of, slot_of};
use super::meta::{Entry, Seal};
use super::{BackingFile, Error};

/// The bits of `run` in a group.
pub(super) fn bits_of(run: Run) -> u64 {
    u64::MAX >> (64 - run.count) << slot_of(run.first)
}

/// The sealed blocks of a run.
pub(super) enum Sealed<'a> {
    /// One behind the other.
    Together(&'a [u8]),
    /// Each by itself.
    Apart(Vec<Box<[u8]>>),
}

impl Sealed<'_> {
    /// Block `i`, to be kept. What is taken is not there any more.
    fn keep(&mut self, i: usize) -> Box<[u8]> {
        match self {
            Self::Together(bytes) => bytes.chunks(BLOCK as usize).nth(i).unwrap_or_default().into(),
            Self::Apart(blocks) => std::mem::take(&mut blocks[i]),
        }
    }

    /// Their length in bytes.
    fn len(&self) -> usize {
        match self {
            Self::Together(bytes) => bytes.len(),
            Self::Apart(blocks) => blocks.iter().map(|block| block.len()).sum(),
        }
    }
}

impl<B: BackingFile> Content<B> {
    /// Puts sealed blocks where they belong, and their seals into the page.
    pub(super) fn place(
        &self,
        state: &mut State,
        run: Run,
        mut sealed: Sealed<'_>,
        seals: &[Seal],
    ) -> Result<(), Error> {
        let waits = self.waiting_of(state, run);
        let mut block = run.first;
        let end = run.first + run.count;
        while block < end {
            let first = block;
            let waits_here = waits >> slot_of(first) & 1;
            while block < end && waits >> slot_of(block) & 1 == waits_here {
                block += 1;
            }
            if waits_here == 1 {
                continue;
            }
            if let Err(error) = self.write_direct(state, Run { first, count: block - first }, run, &sealed) {
                self.adopt(state, Run { first: run.first, count: block - run.first }, waits, &mut sealed, seals);
                return Err(error);
            }
        }
        self.record(state, run, bits_of(run), waits, (&mut sealed, seals));
        Ok(())
    }

    /// Which blocks of `run` must wait: what the backing file holds may be needed after a crash, or is not what it should be.
    fn waiting_of(&self, state: &State, run: Run) -> u64 {
        let cache = self.cache.lock();
        let mut waits = cache.groups[&group_of(run.first)].on_backing;
        for (block, _) in cache.pending.range(run.first..run.first + run.count) {
            waits |= 1 << slot_of(*block);
        }
        if state.doubt && self.is_ordered(state) && !state.converting {
            for block in (run.first..run.first + run.count).take_while(|block| block_at(*block).0 < state.backing_len) {
                waits |= 1 << slot_of(block);
            }
        }
        waits
    }

    /// Writes `piece`, blocks that no page on the backing file knows. `sealed` is all of `run`.
    fn write_direct(&self, state: &mut State, piece: Run, run: Run, sealed: &Sealed<'_>) -> Result<(), Error> {
        let (skip, count) = ((piece.first - run.first) as usize, piece.count as usize);
        let at = block_at(piece.first);
        state.risky |= self.is_ordered(state) && !state.converting && at.0 < state.backing_len;
        self.mark_unsynced(piece);
        match sealed {
            Sealed::Together(bytes) => {
                let to = ((skip + count) * BLOCK as usize).min(bytes.len());
                self.write_data(state, &bytes[skip * BLOCK as usize..to], at)
            }
            Sealed::Apart(blocks) => self.write_blocks(state, &blocks[skip..skip + count], at),
        }
    }

    /// Before blocks are written: their bytes on the backing file may not be on the disk from now on.
    pub(super) fn mark_unsynced(&self, run: Run) {
        if let Some(group) = self.cache.lock().groups.get_mut(&group_of(run.first)) {
            group.unsynced |= bits_of(run);
        }
    }

    /// After an error on the way to the backing file, which may hold some of `run` now: what could be read there before is taken as
    /// written, and waits to be written again. What was a hole stays one.
    fn adopt(&self, state: &mut State, run: Run, waits: u64, sealed: &mut Sealed<'_>, seals: &[Seal]) {
        let written = self.cache.lock().groups[&group_of(run.first)].meta.written;
        let torn = bits_of(run) & written & !waits;
        let Some(last) = torn.checked_ilog2() else { return };
        let start = run.first * BLOCK;
        let end = (start + (u64::from(last) - slot_of(run.first) as u64 + 1) * BLOCK).min(start + sealed.len() as u64);
        self.record(state, run, torn, waits | torn, (sealed, seals));
        if end > state.size {
            self.grow(state, end);
        }
    }

    /// Puts the seals of those blocks of `run` that are in `which` into the page; those in `waits` become pending.
    fn record(&self, state: &mut State, run: Run, which: u64, waits: u64, (sealed, seals): (&mut Sealed<'_>, &[Seal])) {
        let guards_holes = state.durable && !state.converting;
        let number = group_of(run.first);
        let mut cache = self.cache.lock();
        let Cache { groups, pending, dirty, guard, .. } = &mut *cache;
        let group = groups
            .get_mut(&number)
            .expect("the group was loaded, and dirty or not it stays under the lock for writing");
        if let Some(tail) = blocks_in(state.page_size).checked_sub(1)
            && number != 0
            && number == group_of(tail)
            && (which & !group.on_backing) >> slot_of(tail) & 1 == 1
        {
            state.tail_last = Some(number);
        }
        *guard |= number != 0 && group.page_written == 0 && !state.sparse;
        for (i, (block, seal)) in (run.first..run.first + run.count).zip(seals).enumerate() {
            let slot = slot_of(block);
            if which >> slot & 1 == 0 {
                continue;
            }
            let old = group.meta.entries[slot];
            let mut previous = Seal::default();
            if waits >> slot & 1 == 1 {
                let was_pending = pending.insert(block, sealed.keep(i)).is_some();
                let may_be_known = group.on_backing >> slot & 1 == 1;
                // A hole by a page that may not be on the disk, over bytes that are no zeros if that hole was never punched: what a page
                // may say of them follows from a barrier.
                state.doubt |= may_be_known && !was_pending && !group.meta.is_written(slot);
                previous = match may_be_known {
                    true if was_pending => old.previous,
                    true => old.current,
                    false => Seal::default(),
                };
                group.meta.previous |= 1 << slot;
            } else if guards_holes {
                group.meta.previous |= 1 << slot;
            }
            group.meta.set_entry(slot, Entry { current: *seal, previous });
            group.meta.written |= 1 << slot;
            group.meta.seals += 1;
        }
        dirty.insert(number);
        if group.meta.previous != 0 {
            self.unsettled.store(true, Ordering::Release);
        }
    }
}
