//! The open content of a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::geometry::{BLOCK, CipherOffset, INLINE_MAX, INLINE_META, META, backing_len, blocks_in, group_of, slot_of};
use super::group::Group;
use super::meta::{MIRROR_LEN, Meta, flag};
use super::unsynced::Unsynced;
use super::{BackingFile, Durability, Error};
use crate::crypto::{DataKey, derive};

/// More groups than this are not kept for a file unless they are dirty: 64 MiB of content each thousand.
const MAX_IDLE_GROUPS: usize = 1024;
/// Overwrites are written out when this many bytes wait.
pub(super) const MAX_PENDING: usize = 8 << 20;
/// Blocks that may be sealed under one salt: half of what SP 800-38D section 8.3 allows for random nonces.
const MAX_SEALS: u64 = 1 << 31;

/// The data key of a file, and what it leaves in META page 0 for the day the envelope is lost.
pub struct ContentKey {
    /// The key.
    pub key: DataKey,
    /// Its mirror; `None` keeps the one that is there.
    pub mirror: Option<[u8; MIRROR_LEN]>,
}

/// What is still to be done for a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentState {
    /// Something is not on the backing file yet: see [`Content::commit`].
    pub dirty: bool,
    /// Previous parts are kept for a crash: see [`Content::settle`].
    pub unsettled: bool,
    /// A commit would have to wait for the disk.
    pub needs_barrier: bool,
}

/// How the content is held.
pub(super) enum Form {
    /// In memory as a whole, and in page 0 on the backing file. Empty files are inline, too.
    Inline {
        /// The plain content.
        content: Zeroizing<Vec<u8>>,
        /// The backing file is older.
        dirty: bool,
    },
    /// In blocks.
    Paged,
}

/// What changes only under the lock for writing.
pub(super) struct State {
    /// Plain size in bytes.
    pub size: u64,
    /// The size that a crash could bring back: what is surely on the disk was sealed for a file of this size.
    pub old_size: u64,
    /// The size that the blocks on the backing file were sealed for.
    pub data_size: u64,
    /// The size in page 0 on the backing file.
    pub page_size: u64,
    pub form: Form,
    /// Length of the backing file, in bytes.
    pub backing_len: u64,
    /// The backing file is at least so long on the disk, too.
    pub synced_len: u64,
    /// Groups may have no META page.
    pub sparse: bool,
    /// The size, the flags or the mirror in page 0 are to be written.
    pub header_dirty: bool,
    /// Some of what is on the backing file may be on the disk: from then on, order matters.
    pub durable: bool,
    /// Page 0 on the backing file is still that of the inline form.
    pub converting: bool,
    /// A commit failed half way: what it began must be done before anything is changed again.
    pub limbo: bool,
    /// A crash left something behind the end, or a larger size in page 0.
    pub heal: bool,
    /// The last group has blocks behind the end.
    pub shrunk: bool,
    /// Blocks that were cleared and bytes that were cut may still be there on the disk.
    pub doubt: bool,
    /// Blocks were written over bytes that may not be zeros: they must be on the disk before their page is.
    pub risky: bool,
    /// The tail was a hole and is written for a larger size: the page of this group must not be there before page 0 tells of that size.
    pub tail_last: Option<u64>,
    /// The groups that were written on the backing file since the last sync, be it their page or blocks.
    pub since_sync: Unsynced,
    /// A sync failed: what was written since the one before may never reach the disk unless it is written again.
    pub lost: bool,
    /// META pages on the backing file may not be on the disk.
    pub pages_unsynced: bool,
    /// The backing file is shorter than the authenticated size demands: expected and found length.
    pub cut: Option<(u64, u64)>,
}

/// What readers fill, too.
#[derive(Default)]
pub(super) struct Cache {
    pub groups: HashMap<u64, Group>,
    /// Sealed blocks that must not be on the backing file before the META page is.
    pub pending: BTreeMap<u64, Box<[u8]>>,
    /// Groups whose page on the backing file is older.
    pub dirty: BTreeSet<u64>,
    /// One of these pages must be on the disk before page 0 tells of a larger size.
    pub guard: bool,
    /// Groups with blocks that may not be on the disk were dropped.
    pub dropped_unsynced: bool,
}

impl Cache {
    /// Whether all of it is on the backing file.
    pub fn is_clean(&self) -> bool {
        self.pending.is_empty() && self.dirty.is_empty()
    }

    /// Whether a block waits to be overwritten whose bytes on the backing file may not be on the disk.
    pub fn overwrites_unsynced(&self) -> bool {
        self.pending.keys().any(|block| self.groups[&group_of(*block)].unsynced >> slot_of(*block) & 1 == 1)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The content of one file, for all who have it open. Reads run in parallel, writes one at a time.
pub struct Content<B: BackingFile> {
    pub(super) backing: B,
    pub(super) key: DataKey,
    commitment: [u8; 32],
    /// `None` before it has one. Not in [`State`], which readers of page 0 do not change.
    pub(super) mirror: Mutex<Option<[u8; MIRROR_LEN]>>,
    pub(super) durability: Durability,
    pub(super) max_seals: u64,
    pub(super) state: RwLock<State>,
    pub(super) cache: Mutex<Cache>,
    /// Data on the backing file may not be on the disk.
    pub(super) unsynced: AtomicBool,
    /// Previous parts, or a previous size, are on the backing file or will be.
    pub(super) unsettled: AtomicBool,
    /// See [`ContentState`]: kept beside the lock, so that asking never waits.
    dirty: AtomicBool,
    needs_barrier: AtomicBool,
    pub(super) pending_bytes: AtomicUsize,
    /// The size at the end of the last change: a hint for who does not hold the state.
    pub(super) end: AtomicU64,
}

impl<B: BackingFile> Content<B> {
    fn new(backing: B, key: ContentKey, durability: Durability, state: State) -> Self {
        Self {
            backing,
            commitment: derive::commitment(&key.key),
            key: key.key,
            mirror: Mutex::new(key.mirror),
            durability,
            max_seals: MAX_SEALS,
            state: RwLock::new(state),
            cache: Mutex::default(),
            unsynced: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            needs_barrier: AtomicBool::new(false),
            pending_bytes: AtomicUsize::new(0),
            end: AtomicU64::new(0),
        }
    }

    /// The content of a file that is known to be empty: nothing is read.
    pub fn create(backing: B, key: ContentKey, durability: Durability) -> Self {
        Self::new(backing, key, durability, State::empty())
    }

    /// Opens the content of an existing file.
    ///
    /// # Errors
    /// [`Error::CorruptMeta`] if its first META page is missing, damaged or of another data key; [`Error::Io`].
    pub fn open(backing: B, key: ContentKey, durability: Durability) -> Result<Self, Error> {
        let len = backing.len()?;
        let mut content = Self::new(backing, key, durability, State::empty());
        if len > 0 {
            content.read_first_page(len)?;
        }
        Ok(content)
    }

    fn read_first_page(&mut self, len: u64) -> Result<(), Error> {
        let mut page = [0; META as usize];
        // No more than there is: else a second read would have to find the end.
        let found = self.backing.read_at(&mut page[..len.min(META) as usize], CipherOffset(0))?;
        let page = &page[..found];
        let meta = Meta::decode(page, 0)?;
        if !bool::from(self.commitment.ct_eq(&meta.commitment)) {
            return Err(Error::CorruptMeta { group: 0, reason: "it belongs to another data key" });
        }
        self.mirror.get_mut().get_or_insert(meta.mirror);
        let mut state = self.state.write();
        (state.backing_len, state.synced_len) = (len, len);
        (state.durable, state.doubt) = (true, true);
        if meta.flags & flag::INLINE != 0 {
            let content = self.open_inline(&meta, page)?;
            (state.size, state.old_size) = (meta.size, meta.size);
            state.form = Form::Inline { content, dirty: false };
            state.heal = len != backing_len(meta.size);
            return Ok(());
        }
        state.form = Form::Paged;
        state.sparse = meta.flags & flag::SPARSE != 0;
        (state.size, state.page_size) = (meta.size, meta.size);
        (state.old_size, state.data_size) = (meta.previous_size, meta.size);
        if meta.size <= INLINE_MAX || meta.size > super::MAX_SIZE {
            return Err(Error::CorruptMeta { group: 0, reason: "the size does not fit its form" });
        }
        if len < backing_len(meta.size) {
            if meta.previous_size > INLINE_MAX
                && meta.previous_size < meta.size
                && len >= backing_len(meta.previous_size)
            {
                // A growth that was cut short: nothing of it was ever promised.
                state.size = meta.previous_size;
                (state.old_size, state.data_size) = (meta.previous_size, meta.previous_size);
                state.header_dirty = true;
            } else {
                state.cut = Some((backing_len(meta.size), len));
            }
        }
        state.heal = state.cut.is_none() && (len != backing_len(state.size) || state.size != meta.size);
        // What tells so may not be on the disk.
        state.pages_unsynced = state.heal;
        let sizes = (meta.size, meta.previous_size);
        let mut cache = self.cache.lock();
        let group = self.admit_page(&state, meta, page, &mut cache)?;
        cache.groups.insert(0, group);
        drop(cache);
        if sizes.0 != sizes.1 {
            self.found_crash();
            self.find_tail(&mut state)?;
        }
        self.publish(&state);
        Ok(())
    }

    /// After a crash while the size changed, finds out at once which size the old tail was sealed for: the size in page 0
    /// that says so is gone with the next commit.
    fn find_tail(&self, state: &mut State) -> Result<(), Error> {
        let Some(tail) = blocks_in(state.size.min(state.old_size)).checked_sub(1) else { return Ok(()) };
        match self.cache_with(state, group_of(tail)) {
            Ok(cache) if !cache.pending.contains_key(&tail) => return Ok(()),
            Err(Error::Io(error)) => return Err(error.into()),
            // Reads of it will fail with the same error.
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        // It is sealed anew for this size before anything else changes: page 0 can tell of one other size only.
        state.data_size = state.old_size;
        state.heal = true;
        Ok(())
    }

    fn open_inline(&self, meta: &Meta, page: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        if meta.size > INLINE_MAX {
            return Err(Error::CorruptMeta { group: 0, reason: "the size does not fit its form" });
        }
        let expected = INLINE_META + meta.size;
        if (page.len() as u64) < expected {
            return Err(Error::Truncated { expected, found: page.len() as u64 });
        }
        let keys = derive::group_keys(&self.key, 0, &meta.salt);
        let mut content = Zeroizing::new(vec![0; meta.size as usize]);
        meta.open_inline(page, &keys.block, &mut content)?;
        Ok(content)
    }

    /// What was read tells of a crash: it must be synced and settled like a write of our own.
    pub(super) fn found_crash(&self) {
        self.unsynced.store(true, Ordering::Release);
        self.unsettled.store(true, Ordering::Release);
    }

    /// The plain size in bytes.
    pub fn size(&self) -> u64 {
        self.state.read().size
    }

    /// The backing file.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// What is still to be done.
    pub fn state(&self) -> ContentState {
        ContentState {
            dirty: self.dirty.load(Ordering::Acquire),
            unsettled: self.unsettled.load(Ordering::Acquire),
            needs_barrier: self.needs_barrier.load(Ordering::Acquire),
        }
    }

    /// Keeps [`Content::state`] true; at the end of whatever changed `state`.
    pub(super) fn publish(&self, state: &State) {
        let mut cache = self.cache.lock();
        trim(&mut cache);
        let pending = cache.pending.len() * BLOCK as usize;
        let (dirty, waits) = match &state.form {
            Form::Inline { dirty, content } => {
                let wanted = backing_len(content.len() as u64);
                (*dirty, *dirty && state.backing_len > 0 && wanted != state.backing_len)
            }
            Form::Paged => {
                let grows = state.size > state.page_size && (state.doubt || cache.guard);
                let is_long = state.backing_len > backing_len(state.size) && !state.heal;
                let dirty = state.limbo || state.header_dirty || is_long || !cache.is_clean();
                (dirty, dirty && (pending > 0 || state.converting || state.risky || state.tail_last.is_some() || grows))
            }
        };
        drop(cache);
        self.dirty.store(dirty, Ordering::Release);
        self.needs_barrier.store(waits && self.is_ordered(state), Ordering::Release);
        self.pending_bytes.store(pending, Ordering::Release);
        self.end.store(state.size, Ordering::Release);
    }

    /// Whether the order of writes must be told to the disk.
    pub(super) fn is_ordered(&self, state: &State) -> bool {
        state.durable && self.durability == Durability::Atomic
    }

    /// The cache, with `group` in it.
    pub(super) fn cache_with(&self, state: &State, group: u64) -> Result<MutexGuard<'_, Cache>, Error> {
        let mut cache = self.cache.lock();
        if !cache.groups.contains_key(&group) {
            trim(&mut cache);
            let loaded = self.load_group(state, group, &mut cache)?;
            cache.groups.insert(group, loaded);
            if !cache.is_clean() && state.cut.is_none() {
                // A reader mended what a crash left: that is still to be written, by whoever may write.
                self.dirty.store(true, Ordering::Release);
                self.needs_barrier.store(self.is_ordered(state), Ordering::Release);
            }
        }
        Ok(cache)
    }

    /// What page 0 says of the file as a whole. `waiting`: blocks will be overwritten after it.
    pub(super) fn fill_header(&self, state: &State, meta: &mut Meta, waiting: bool) {
        let is_first = state.converting || state.page_size == 0;
        let keeps = !is_first && (waiting || self.is_ordered(state));
        meta.size = state.size;
        meta.previous_size = if keeps { state.old_size } else { state.size };
        meta.commitment = self.commitment;
        if let Some(mirror) = *self.mirror.lock() {
            meta.mirror = mirror;
        }
    }
}

impl State {
    pub(super) fn empty() -> Self {
        Self {
            size: 0,
            old_size: 0,
            data_size: 0,
            page_size: 0,
            form: Form::Inline { content: Zeroizing::default(), dirty: false },
            backing_len: 0,
            synced_len: 0,
            sparse: false,
            header_dirty: false,
            durable: false,
            converting: false,
            limbo: false,
            heal: false,
            shrunk: false,
            doubt: false,
            risky: false,
            tail_last: None,
            since_sync: Unsynced::default(),
            lost: false,
            pages_unsynced: false,
            cut: None,
        }
    }
}

/// Drops idle groups if there are too many.
fn trim(cache: &mut Cache) {
    if cache.groups.len() > MAX_IDLE_GROUPS {
        let mut keep = MAX_IDLE_GROUPS / 2;
        let Cache { groups, dirty, dropped_unsynced, .. } = cache;
        groups.retain(|number, group| {
            keep = keep.saturating_sub(1);
            let kept = *number == 0 || keep > 0 || group.meta.previous != 0 || dirty.contains(number);
            *dropped_unsynced |= !kept && group.unsynced != 0;
            kept
        });
    }
}
