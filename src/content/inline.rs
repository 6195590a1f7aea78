//! From the inline form to blocks and back, and the sealing of inline content.

use zeroize::Zeroizing;

use super::file::{Content, Form, State};
use super::geometry::{CipherOffset, INLINE_MAX, INLINE_META, Run};
use super::group::Group;
use super::meta::{Meta, flag};
use super::{BackingFile, Error};
use crate::crypto::derive::group_keys;
use crate::crypto::{Nonce, random};

impl<B: BackingFile> Content<B> {
    /// Inline content becomes block 0, and `grow` makes the file larger than an inline one can be. The page of the inline form
    /// stays until the next commit replaces it.
    pub(super) fn become_paged(
        &self,
        state: &mut State,
        grow: impl FnOnce(&mut State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Form::Inline { content, .. } = std::mem::replace(&mut state.form, Form::Paged) else {
            return grow(state);
        };
        self.cache.lock().groups.insert(0, Group::fresh(&self.key, 0));
        let seeded = if state.backing_len == 0 { self.seed(state) } else { Ok(()) };
        state.converting = state.backing_len > 0;
        state.page_size = 0;
        state.header_dirty = true;
        let run = Run { first: 0, count: 1 };
        let first = |state: &mut State| match content.len() {
            0 => Ok(()),
            _ => self.write_run(state, run, 0, &content, content.len() as u64),
        };
        let result = seeded.and_then(|()| first(state)).and_then(|()| grow(state));
        if result.is_err() && state.size <= INLINE_MAX {
            // The next commit cuts what is there by now.
            self.cache.lock().clear();
            state.form = Form::Inline { content, dirty: true };
            (state.converting, state.header_dirty) = (false, false);
        }
        result
    }

    /// Gives a new file the page of an empty one: should the process die before the first commit, the blocks that are
    /// there by then belong to nothing, and the file is empty.
    fn seed(&self, state: &mut State) -> Result<(), Error> {
        let page = self.seal_inline(&[]);
        self.write_data(state, &page, CipherOffset(0))
    }

    /// A paged file becomes inline, cut to `size` bytes: the page over META page 0, a barrier, then the cut.
    pub(super) fn become_inline(&self, state: &mut State, size: u64) -> Result<(), Error> {
        let mut content = Zeroizing::new(vec![0; size as usize]);
        self.read_in(state, 0, &mut content)?;
        self.cache.lock().clear();
        state.form = Form::Inline { content, dirty: true };
        (state.size, state.old_size, state.data_size, state.page_size) = (size, size, size, 0);
        (state.sparse, state.header_dirty, state.converting, state.risky) = (false, false, false, false);
        state.tail_last = None;
        // As long as META page 0 may be the one on the disk, nothing may be written over its blocks.
        state.limbo = true;
        self.commit_inline(state)
    }

    /// The bytes of an inline file: a fresh salt each time.
    pub(super) fn seal_inline(&self, content: &[u8]) -> Vec<u8> {
        // Both from one call of the kernel.
        let fresh: [u8; 28] = random::array();
        let (salt, nonce) = fresh.split_first_chunk::<16>().expect("28 bytes begin with 16");
        let (salt, nonce): ([u8; 16], Nonce) = (*salt, nonce.try_into().expect("12 bytes are left"));
        let mut meta = Meta::new(0, salt);
        meta.flags = flag::INLINE;
        let size = content.len() as u64;
        let state = State { size, old_size: size, ..State::empty() };
        self.fill_header(&state, &mut meta, false);
        let keys = group_keys(&self.key, 0, &salt);
        meta.seal_inline(&keys.block, &nonce, content)
    }

    /// Writes inline content out.
    pub(super) fn commit_inline(&self, state: &mut State) -> Result<(), Error> {
        let Form::Inline { content, dirty: true } = &state.form else { return Ok(()) };
        if content.is_empty() {
            // A write failed that would have been its first.
            self.cut_to(state, 0)?;
            self.inline_is_clean(state);
            return Ok(());
        }
        let sealed = self.seal_inline(content);
        let len = INLINE_META + content.len() as u64;
        if state.backing_len > 0 && state.synced_len < len && self.is_ordered(state) {
            // Were the new page on the disk before the new length, its end would be lost, and the old content with it.
            self.lengthen(state, len)?;
            self.barrier(state)?;
        }
        self.write_data(state, &sealed, CipherOffset(0))?;
        if state.backing_len > len {
            self.barrier(state)?;
            self.cut_to(state, len)?;
        }
        self.inline_is_clean(state);
        Ok(())
    }

    fn inline_is_clean(&self, state: &mut State) {
        if let Form::Inline { dirty, .. } = &mut state.form {
            *dirty = false;
        }
        state.old_size = state.size;
        state.limbo = false;
    }
}
