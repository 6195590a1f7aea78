//! A group in memory: its META page and its keys.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::{Cache, Content, State};
use super::geometry::{BLOCK, GROUP_BLOCKS, META, block_at, blocks_in, group_of, len_of, meta_at, slot_of};
use super::meta::{Entry, Meta, Seal, flag};
use super::{BackingFile, Error};
use crate::crypto::derive::{GroupKeys, group_keys};
use crate::crypto::{BlockAad, DataKey, GcmKey, Nonce, Suite, random};

/// A group as it shall be; its page on the backing file may be older.
pub struct Group {
    /// The page.
    pub meta: Meta,
    /// The keys under the page's salt.
    pub keys: Arc<GroupKeys>,
    /// The written bits of the page on the backing file.
    pub page_written: u64,
    /// The written bits of that page and of those that a crash could bring back: overwriting one of these blocks needs both seals
    /// there first.
    pub on_backing: u64,
    /// The blocks whose bytes on the backing file may not be on the disk: overwriting one of these needs a barrier before
    /// the page tells of it.
    pub unsynced: u64,
}

impl Group {
    /// A group in which nothing was written yet.
    pub fn fresh(key: &DataKey, group: u64) -> Self {
        let salt = random::array();
        let keys = Arc::new(group_keys(key, group, &salt));
        Self { meta: Meta::new(group, salt), keys, page_written: 0, on_backing: 0, unsynced: 0 }
    }

    /// Forgets the previous parts: the current ones are on the disk. Whether there were any.
    pub fn settle(&mut self) -> bool {
        if self.meta.previous == 0 && self.meta.flags & flag::RESALT == 0 {
            return false;
        }
        self.meta.previous = 0;
        self.meta.flags &= !flag::RESALT;
        self.meta.previous_salt = [0; 16];
        for entry in Arc::make_mut(&mut self.meta.entries) {
            entry.previous = Seal::default();
        }
        true
    }

    /// Makes block `slot` a hole.
    pub fn clear(&mut self, slot: usize) {
        self.meta.written &= !(1 << slot);
        self.meta.previous &= !(1 << slot);
        self.meta.set_entry(slot, Entry::default());
    }

    /// Makes holes of block `slot` and all behind it. Whether any of them was none.
    pub fn clear_from(&mut self, slot: u64) -> bool {
        let behind = if slot < GROUP_BLOCKS { u64::MAX << slot } else { 0 };
        let there = (self.meta.written | self.meta.previous) & behind;
        (0..GROUP_BLOCKS as usize).filter(|slot| there >> slot & 1 == 1).for_each(|slot| self.clear(slot));
        there != 0
    }

    /// Seals one block.
    pub fn seal(&self, block: u64, nonce: &Nonce, plain: &[u8]) -> (Box<[u8]>, Seal) {
        let aad = BlockAad { number: block, len: plain.len() as u32, suite: Suite::Gcm4k };
        let mut sealed = vec![0; plain.len()].into_boxed_slice();
        let tag = self.keys.block.seal(nonce, &aad.encode(), plain, &mut sealed);
        (sealed, Seal { nonce: *nonce, tag })
    }
}

/// A version of a block that its bytes open as.
struct Match {
    seal: Seal,
    current: bool,
    plain: Zeroizing<Vec<u8>>,
}

fn open_as(key: &GcmKey, block: u64, seal: &Seal, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let aad = BlockAad { number: block, len: sealed.len() as u32, suite: Suite::Gcm4k };
    let mut plain = Zeroizing::new(vec![0; sealed.len()]);
    key.open(&seal.nonce, &aad.encode(), sealed, &seal.tag, &mut plain).ok()?;
    Some(plain)
}

impl<B: BackingFile> Content<B> {
    /// Reads the page of `group` from the backing file.
    ///
    /// # Errors
    /// [`Error::CorruptMeta`], [`Error::Truncated`], [`Error::Io`].
    pub(super) fn load_group(&self, state: &State, group: u64, cache: &mut Cache) -> Result<Group, Error> {
        let at = meta_at(group);
        let mut page = [0; META as usize];
        let found = if at.0 < state.backing_len { self.backing.read_at(&mut page, at)? } else { 0 };
        if page.iter().all(|byte| *byte == 0) {
            if let Some((expected, found)) = state.cut {
                return Err(Error::Truncated { expected, found });
            }
            if !state.sparse {
                return Err(Error::CorruptMeta { group, reason: "missing" });
            }
            return Ok(Group::fresh(&self.key, group));
        }
        let meta = Meta::decode(&page[..found], group)?;
        if group != 0 && (meta.flags & !flag::RESALT != 0 || meta.size != 0 || meta.previous_size != 0) {
            return Err(Error::CorruptMeta { group, reason: "it claims to be the first" });
        }
        self.admit_page(state, meta, &page, cache)
    }

    /// Verifies a page and finds out which of two versions of a block is there, after a crash.
    pub(super) fn admit_page(&self, state: &State, meta: Meta, page: &[u8], cache: &mut Cache) -> Result<Group, Error> {
        let keys = Arc::new(group_keys(&self.key, meta.group, &meta.salt));
        meta.verify(page, &keys.meta)?;
        let written = meta.written;
        // It may be one of those that were written, and dropped from memory, since the last barrier.
        let unsynced = if cache.dropped_unsynced { u64::MAX } else { 0 };
        let mut group = Group { meta, keys, page_written: written, on_backing: written, unsynced };
        let number = group.meta.group;
        self.resolve(&mut group, state, cache)?;
        // What lies behind the end would come back if the file grew.
        if group.clear_from(blocks_in(state.size).saturating_sub(number * GROUP_BLOCKS)) {
            cache.dirty.insert(number);
            cache.guard = true;
        }
        Ok(group)
    }

    /// The blocks of which two versions may be on the disk: those with two seals, and the tail if the size was changing.
    fn in_question(group: &Group, state: &State) -> u64 {
        let mut slots = group.meta.previous;
        if state.size != state.old_size || state.size != state.page_size {
            let tails = [state.size, state.old_size, state.page_size].map(|size| blocks_in(size).saturating_sub(1));
            for tail in tails.into_iter().filter(|tail| group_of(*tail) == group.meta.group) {
                slots |= group.meta.written & 1 << slot_of(tail);
            }
        }
        slots
    }

    /// Each block in question gets the seal and the length that its bytes open with. If none does, its entry stays, and a
    /// read of the block fails.
    fn resolve(&self, group: &mut Group, state: &State, cache: &mut Cache) -> Result<(), Error> {
        let slots = Self::in_question(group, state);
        if slots == 0 {
            return Ok(());
        }
        let resalted = (group.meta.flags & flag::RESALT != 0)
            .then(|| group_keys(&self.key, group.meta.group, &group.meta.previous_salt));
        for slot in (0..GROUP_BLOCKS as usize).filter(|slot| slots >> slot & 1 == 1) {
            let block = group.meta.group * GROUP_BLOCKS + slot as u64;
            if !group.meta.is_written(slot) {
                group.clear(slot);
                cache.dirty.insert(group.meta.group);
                continue;
            }
            let mut sealed = [0; BLOCK as usize];
            let found = self.backing.read_at(&mut sealed, block_at(block))?;
            let previous_key = resalted.as_ref().map_or(&group.keys.block, |keys| &keys.block);
            let matched = self.which(group, previous_key, block, state, &sealed[..found]);
            let was_hole = group.meta.has_previous(slot) && group.meta.entries[slot].previous == Seal::default();
            match matched {
                Some(matched) => self.keep(group, state, cache, block, matched, resalted.is_some()),
                None if was_hole && sealed.iter().all(|byte| *byte == 0) => {
                    group.clear(slot);
                    cache.dirty.insert(group.meta.group);
                }
                None => {}
            }
        }
        self.found_crash();
        Ok(())
    }

    /// The version of `block` that `sealed` is. The length is the one of either size, or whole.
    fn which(&self, group: &Group, previous_key: &GcmKey, block: u64, state: &State, sealed: &[u8]) -> Option<Match> {
        let slot = slot_of(block);
        let entry = group.meta.entries[slot];
        let lengths = [state.size, state.old_size, state.page_size, u64::MAX].map(|size| len_of(block, size));
        let lengths = || lengths.iter().filter(|len| **len > 0 && **len <= sealed.len());
        let current = || lengths().find_map(|len| open_as(&group.keys.block, block, &entry.current, &sealed[..*len]));
        if let Some(plain) = current() {
            return Some(Match { seal: entry.current, current: true, plain });
        }
        if !group.meta.has_previous(slot) {
            return None;
        }
        let previous = lengths().find_map(|len| open_as(previous_key, block, &entry.previous, &sealed[..*len]));
        previous.map(|plain| Match { seal: entry.previous, current: false, plain })
    }

    /// Takes `matched` as what `block` holds. If its length or its salt is not what they should be, it is sealed anew.
    fn keep(&self, group: &mut Group, state: &State, cache: &mut Cache, block: u64, matched: Match, resalted: bool) {
        let slot = slot_of(block);
        let wanted = len_of(block, state.size);
        if wanted == 0 {
            // It lies behind the end, and is cleared with all that does.
            return;
        }
        let under_salt = matched.current || !resalted;
        let is_whole = matched.plain.len() == wanted;
        if matched.current && is_whole {
            // The previous part stays until this is known to be on the disk.
            return;
        }
        let mut entry = Entry { current: matched.seal, previous: Seal::default() };
        if !is_whole || !under_salt {
            let mut plain = matched.plain;
            plain.resize(wanted, 0);
            let (sealed, seal) = group.seal(block, &random::array(), &plain);
            cache.pending.insert(block, sealed);
            entry.current = seal;
            if under_salt != resalted {
                // The previous part is read under the previous salt, if there is one.
                entry.previous = matched.seal;
            }
        }
        group.meta.previous &= !(1 << slot);
        if entry.previous != Seal::default() {
            group.meta.previous |= 1 << slot;
        }
        group.meta.set_entry(slot, entry);
        cache.dirty.insert(group.meta.group);
    }
}
