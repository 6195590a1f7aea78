//! Sealing before the file is locked: whoever else reads or writes it goes on meanwhile.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::BackingFile;
use super::file::{Content, Form};
use super::geometry::{BLOCK, GROUP, Run, group_of, runs};
use super::group::Group;
use super::meta::Seal;
use super::place::{Sealed, bits_of};
use crate::crypto::derive::GroupKeys;
use crate::crypto::{BlockAad, Nonce, Suite, random};

thread_local! {
    /// Ciphertext and nonces of the request at hand: one of each for each thread.
    static BUFFERS: Cell<(Vec<u8>, Vec<Nonce>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Where the sealed blocks of a run are.
enum Blocks {
    /// One behind the other, in this part of the request's buffer.
    Together(Range<usize>),
    /// Each by itself, as those are kept that wait.
    Apart(Vec<Box<[u8]>>),
}

/// What a run is sealed with.
struct Means {
    salt: [u8; 16],
    keys: Arc<GroupKeys>,
    /// The group, if it seems to lie behind the end.
    fresh: Option<Group>,
    /// Some of the blocks will have to wait. If that proves wrong, they are copied once more.
    waits: bool,
}

/// Whole blocks of one group, sealed. They are good for as long as the group has the same salt: neither their place nor their
/// length depends on anything else.
pub(super) struct SealedRun {
    run: Run,
    /// The salt that they were sealed under.
    pub salt: [u8; 16],
    /// The group, if it seemed to lie behind the end.
    pub fresh: Option<Group>,
    /// One for each block.
    pub seals: Vec<Seal>,
    blocks: Blocks,
}

/// What was sealed of a request before the file is locked.
#[derive(Default)]
pub(super) struct Ahead {
    /// The last run first.
    runs: Vec<SealedRun>,
    buffer: Vec<u8>,
    nonces: Vec<Nonce>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        BUFFERS.set((std::mem::take(&mut self.buffer), std::mem::take(&mut self.nonces)));
    }
}

impl Ahead {
    /// What was sealed for `run`. Runs are asked for in their order.
    pub fn take(&mut self, run: Run) -> Option<SealedRun> {
        self.runs.pop_if(|sealed| sealed.run == run)
    }

    /// The blocks of `sealed`, which was taken from here.
    pub fn blocks_of(&self, sealed: &mut SealedRun) -> Sealed<'_> {
        match &mut sealed.blocks {
            Blocks::Together(range) => Sealed::Together(&self.buffer[range.clone()]),
            Blocks::Apart(blocks) => Sealed::Apart(std::mem::take(blocks)),
        }
    }

    /// All seals, in the order of their blocks.
    #[cfg(test)]
    pub fn seals(&self) -> Vec<Seal> {
        self.runs.iter().rev().flat_map(|sealed| sealed.seals.iter().copied()).collect()
    }

    /// Seals `plain`, all of `run`, under `nonces`.
    fn seal(&mut self, run: Run, means: Means, plain: &[u8], nonces: &[Nonce], used: &mut usize) {
        let Means { salt, keys, fresh, waits } = means;
        let mut seals = Vec::with_capacity(run.count as usize);
        let each = (run.first..).zip(plain.chunks(BLOCK as usize)).zip(nonces);
        let mut seal = |((block, plain), nonce): ((u64, &[u8]), &Nonce), sealed: &mut [u8]| {
            let aad = BlockAad { number: block, len: plain.len() as u32, suite: Suite::Gcm4k }.encode();
            let tag = keys.block.seal(nonce, &aad, plain, sealed);
            seals.push(Seal { nonce: *nonce, tag });
        };
        let blocks = if waits {
            let apart = each.map(|one| {
                let mut sealed = vec![0; BLOCK as usize].into_boxed_slice();
                seal(one, &mut sealed);
                sealed
            });
            Blocks::Apart(apart.collect())
        } else {
            let range = *used..*used + plain.len();
            *used = range.end;
            if self.buffer.len() < range.end {
                self.buffer.resize(range.end, 0);
            }
            let to = self.buffer[range.clone()].chunks_mut(BLOCK as usize);
            each.zip(to).for_each(|(one, sealed)| seal(one, sealed));
            Blocks::Together(range)
        };
        self.runs.push(SealedRun { run, salt, fresh, seals, blocks });
    }
}

impl<B: BackingFile> Content<B> {
    /// Seals those runs of a request, `data` at `at`, that it covers wholly. What cannot be sealed yet is left to the
    /// writing itself, and so are errors.
    pub(super) fn seal_ahead(&self, at: u64, data: &[u8]) -> Ahead {
        let Ok(end) = Self::end_of(at, data.len() as u64) else { return Ahead::default() };
        let is_whole = |run: &Run| run.first * BLOCK >= at && (run.first + run.count) * BLOCK <= end;
        let (buffer, mut nonces) = BUFFERS.take();
        let mut ahead = Ahead { runs: Vec::new(), buffer, nonces: Vec::new() };
        random::nonces(&mut nonces, data.len() / BLOCK as usize);
        let (mut used, mut next, mut tried) = (0, 0, false);
        for run in runs(at, data.len() as u64).filter(is_whole) {
            let mut means = self.means_for(run);
            if means.is_none() && !std::mem::replace(&mut tried, true) {
                self.load_ahead(at, end);
                means = self.means_for(run);
            }
            let Some(means) = means else { continue };
            let count = run.count as usize;
            let plain = &data[(run.first * BLOCK - at) as usize..][..count * BLOCK as usize];
            ahead.seal(run, means, plain, &nonces[next..next + count], &mut used);
            next += count;
        }
        ahead.runs.reverse();
        ahead.nonces = nonces;
        ahead
    }

    /// `None` for a group that is not in memory but may be on the backing file.
    fn means_for(&self, run: Run) -> Option<Means> {
        let number = group_of(run.first);
        let cache = self.cache.lock();
        if let Some(group) = cache.groups.get(&number) {
            let waits = group.on_backing & bits_of(run) != 0
                || cache.pending.range(run.first..run.first + run.count).next().is_some();
            return Some(Means { salt: group.meta.salt, keys: group.keys.clone(), fresh: None, waits });
        }
        drop(cache);
        if number == 0 || number * GROUP < self.end.load(Ordering::Acquire) {
            return None;
        }
        let group = Group::fresh(&self.key, number);
        Some(Means { salt: group.meta.salt, keys: group.keys.clone(), fresh: Some(group), waits: false })
    }

    /// Loads the groups between `at` and `end` that are in the file. An error comes again, and is told, when they are written.
    fn load_ahead(&self, at: u64, end: u64) {
        let mut state = self.state.write();
        if matches!(state.form, Form::Paged) && self.make_ready(&mut state).is_ok() {
            let end = end.min(state.size);
            let _ =
                runs(at, end.saturating_sub(at)).try_for_each(|run| self.ensure_group(&mut state, group_of(run.first)));
        }
        self.publish(&state);
    }
}
