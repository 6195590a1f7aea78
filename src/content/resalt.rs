//! The limit on what is sealed under one salt (docs/format.md 5.1, RESALT).

use std::sync::atomic::Ordering;

use zeroize::Zeroizing;

use super::file::{Cache, Content, State};
use super::geometry::{BLOCK, GROUP_BLOCKS, slot_of};
use super::meta::{Entry, flag};
use super::{BackingFile, Error};
use crate::crypto::derive::group_keys;
use crate::crypto::random;

impl<B: BackingFile> Content<B> {
    /// Takes a fresh salt if `count` more blocks would be too many under the old one.
    pub(super) fn ensure_budget(&self, state: &mut State, group: u64, count: u64) -> Result<(), Error> {
        let (spent, resalted) = {
            let meta = &self.cache.lock().groups[&group].meta;
            (meta.seals, meta.flags & flag::RESALT != 0)
        };
        let spends = spent + count > self.max_seals && spent > 0;
        if !resalted && !spends {
            return Ok(());
        }
        // One previous salt is all a page can tell of: nothing may be left that needs it.
        self.commit_in(state)?;
        self.barrier(state)?;
        self.settle_in(state)?;
        if spends { self.resalt(state, group) } else { Ok(()) }
    }

    /// Gives a group a fresh salt and seals all its blocks anew.
    fn resalt(&self, state: &mut State, number: u64) -> Result<(), Error> {
        let first = number * GROUP_BLOCKS;
        let mut plain = Zeroizing::new(vec![0; (GROUP_BLOCKS * BLOCK) as usize]);
        let len = self.read_in(state, first * BLOCK, &mut plain)?;
        let mut nonces = Vec::new();
        random::nonces(&mut nonces, GROUP_BLOCKS as usize);
        let salt = random::array();
        let mut cache = self.cache.lock();
        let Cache { groups, pending, dirty, .. } = &mut *cache;
        let group = groups.get_mut(&number).expect("the group was read, under the lock for writing");
        group.meta.previous_salt = std::mem::replace(&mut group.meta.salt, salt);
        group.keys = group_keys(&self.key, number, &salt).into();
        group.meta.flags |= flag::RESALT;
        group.meta.seals = 0;
        dirty.insert(number);
        for (block, (plain, nonce)) in (first..).zip(plain[..len].chunks(BLOCK as usize).zip(&nonces)) {
            let slot = slot_of(block);
            if !group.meta.is_written(slot) {
                continue;
            }
            let (sealed, seal) = group.seal(block, nonce, plain);
            pending.insert(block, sealed);
            let previous = group.meta.entries[slot].current;
            group.meta.set_entry(slot, Entry { current: seal, previous });
            group.meta.previous |= 1 << slot;
            group.meta.seals += 1;
        }
        self.unsettled.store(true, Ordering::Release);
        Ok(())
    }
}
