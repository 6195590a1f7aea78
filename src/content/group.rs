//! A group in memory: its META page and its keys.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::{Cache, Content, State};
use super::geometry::{BLOCK, GROUP_BLOCKS, META, block_at, len_of, meta_at, slot_of};
use super::meta::{Meta, Seal, flag};
use super::{BackingFile, Error};
use crate::crypto::derive::{GroupKeys, group_keys};
use crate::crypto::{BlockAad, DataKey, GcmKey, Suite, random};

/// A group as it shall be; its page on the backing file may be older.
pub struct Group {
    /// The page.
    pub meta: Meta,
    /// The keys under the page's salt.
    pub keys: Arc<GroupKeys>,
    /// The written bits of the page on the backing file: overwriting one of these blocks needs both seals there first.
    pub on_backing: u64,
    /// The page on the backing file is older.
    pub dirty: bool,
}

impl Group {
    /// A group in which nothing was written yet.
    pub fn fresh(key: &DataKey, group: u64) -> Self {
        let salt = random::array();
        let keys = Arc::new(group_keys(key, group, &salt));
        Self { meta: Meta::new(group, salt), keys, on_backing: 0, dirty: false }
    }

    /// Whether it can be dropped from memory.
    pub fn is_idle(&self) -> bool {
        !self.dirty && self.meta.previous == 0
    }

    /// Forgets the previous parts: the current ones are on the disk.
    pub fn settle(&mut self) {
        if self.meta.previous != 0 || self.meta.flags & flag::RESALT != 0 {
            self.meta.previous = 0;
            self.meta.flags &= !flag::RESALT;
            self.meta.previous_salt = [0; 16];
            for entry in self.meta.entries.iter_mut() {
                entry.previous = Seal::default();
            }
            self.dirty = true;
        }
    }

    /// Makes block `slot` a hole.
    pub fn clear(&mut self, slot: usize) {
        self.meta.written &= !(1 << slot);
        self.meta.previous &= !(1 << slot);
        self.meta.entries[slot] = Default::default();
        self.dirty = true;
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
        let on_backing = meta.written;
        let mut group = Group { meta, keys, on_backing, dirty: false };
        if group.meta.previous != 0 {
            self.resolve(&mut group, state, cache)?;
        }
        Ok(group)
    }

    /// Each block with two seals gets the one that its bytes open with. If none does, both stay, and a read of the
    /// block fails.
    fn resolve(&self, group: &mut Group, state: &State, cache: &mut Cache) -> Result<(), Error> {
        let resalted = (group.meta.flags & flag::RESALT != 0)
            .then(|| group_keys(&self.key, group.meta.group, &group.meta.previous_salt));
        for slot in 0..GROUP_BLOCKS as usize {
            if !group.meta.has_previous(slot) {
                continue;
            }
            let block = group.meta.group * GROUP_BLOCKS + slot as u64;
            let mut sealed = [0; BLOCK as usize];
            let found = self.backing.read_at(&mut sealed, block_at(block))?;
            let previous_key = resalted.as_ref().map_or(&group.keys.block, |keys| &keys.block);
            let matched = self.which(group, previous_key, block, state, &sealed[..found]);
            let entry = group.meta.entries[slot];
            match matched {
                Some(matched) => self.keep(group, state, cache, block, matched, resalted.is_some()),
                None if entry.previous == Seal::default() && sealed.iter().all(|byte| *byte == 0) => group.clear(slot),
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
        let lengths =
            [len_of(block, state.size), len_of(block, state.old_size), len_of(block, group.meta.size), BLOCK as usize];
        let lengths = || lengths.iter().filter(|len| **len > 0 && **len <= sealed.len());
        let current = || lengths().find_map(|len| open_as(&group.keys.block, block, &entry.current, &sealed[..*len]));
        let previous = || lengths().find_map(|len| open_as(previous_key, block, &entry.previous, &sealed[..*len]));
        if group.meta.is_written(slot)
            && let Some(plain) = current()
        {
            return Some(Match { seal: entry.current, current: true, plain });
        }
        previous().map(|plain| Match { seal: entry.previous, current: false, plain })
    }

    /// Takes `matched` as what `block` holds. If its length or its salt is not what they should be, it is sealed anew.
    fn keep(&self, group: &mut Group, state: &State, cache: &mut Cache, block: u64, matched: Match, resalted: bool) {
        let slot = slot_of(block);
        let wanted = len_of(block, state.size);
        if wanted == 0 {
            return group.clear(slot);
        }
        let mut entry = super::meta::Entry { current: matched.seal, previous: Seal::default() };
        let under_salt = matched.current || !resalted;
        if matched.plain.len() != wanted || !under_salt {
            let mut plain = matched.plain;
            plain.resize(wanted, 0);
            let mut sealed = vec![0; wanted].into_boxed_slice();
            let nonce = random::array();
            let aad = BlockAad { number: block, len: wanted as u32, suite: Suite::Gcm4k };
            let tag = group.keys.block.seal(&nonce, &aad.encode(), &plain, &mut sealed);
            cache.pending.insert(block, sealed);
            entry.current = Seal { nonce, tag };
            if under_salt != resalted {
                // The previous part is read under the previous salt, if there is one.
                entry.previous = matched.seal;
            }
        }
        group.meta.written |= 1 << slot;
        if entry.previous == Seal::default() {
            group.meta.previous &= !(1 << slot);
        }
        group.meta.entries[slot] = entry;
        group.dirty = true;
    }
}
