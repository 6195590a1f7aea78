//! From the inline form to blocks and back, and the sealing of inline content.

use zeroize::Zeroizing;

use super::file::{Content, Form, State};
use super::geometry::{CipherOffset, INLINE_META, Run};
use super::group::Group;
use super::meta::{Meta, flag};
use super::{BackingFile, Error};
use crate::crypto::derive::group_keys;
use crate::crypto::random;

impl<B: BackingFile> Content<B> {
    /// Inline content becomes block 0. The page of the inline form stays until the next commit replaces it.
    pub(super) fn become_paged(&self, state: &mut State) -> Result<(), Error> {
        let Form::Inline { content, dirty } = std::mem::replace(&mut state.form, Form::Paged) else { return Ok(()) };
        self.cache.lock().groups.insert(0, Group::fresh(&self.key, 0));
        let was_converting = std::mem::replace(&mut state.converting, state.backing_len > 0);
        state.header_dirty = true;
        if content.is_empty() {
            return Ok(());
        }
        let run = Run { first: 0, count: 1 };
        let written = self.write_run(state, run, 0, &content, content.len() as u64);
        if written.is_err() {
            self.cache.lock().groups.clear();
            state.form = Form::Inline { content, dirty };
            state.converting = was_converting;
            state.header_dirty = false;
        }
        written
    }

    /// A paged file becomes inline, cut to `size` bytes: the page over META page 0, a barrier, then the cut.
    pub(super) fn become_inline(&self, state: &mut State, size: u64) -> Result<(), Error> {
        let mut content = Zeroizing::new(vec![0; size as usize]);
        self.read_in(state, 0, &mut content)?;
        let sealed = self.seal_inline(&content);
        // The order is kept by the barriers, and nothing in memory changes before all is done.
        self.backing.write_at(&sealed, CipherOffset(0))?;
        let len = sealed.len() as u64;
        {
            let mut cache = self.cache.lock();
            cache.groups.clear();
            cache.pending.clear();
        }
        state.form = Form::Inline { content, dirty: false };
        (state.size, state.old_size) = (size, size);
        (state.sparse, state.header_dirty, state.converting) = (false, false, false);
        state.backing_len = state.backing_len.max(len);
        self.barrier(state)?;
        self.cut_to(state, len)
    }

    /// The bytes of an inline file: a fresh salt each time.
    pub(super) fn seal_inline(&self, content: &[u8]) -> Vec<u8> {
        let salt = random::array();
        let mut meta = Meta::new(0, salt);
        meta.flags = flag::INLINE;
        let size = content.len() as u64;
        let state = State { size, old_size: size, ..State::empty() };
        self.fill_header(&state, &mut meta);
        let keys = group_keys(&self.key, 0, &salt);
        meta.seal_inline(&keys.block, &random::array(), content)
    }

    /// Writes inline content out.
    pub(super) fn commit_inline(&self, state: &mut State) -> Result<(), Error> {
        let Form::Inline { content, dirty: true } = &state.form else { return Ok(()) };
        let sealed = self.seal_inline(content);
        let len = INLINE_META + content.len() as u64;
        if state.backing_len > 0 && state.backing_len < len && self.is_ordered(state) {
            // Were the new page on the disk before the new length, its end would be lost, and the old content with it.
            self.backing.set_len(len)?;
            state.backing_len = len;
            self.barrier(state)?;
        }
        self.backing.write_at(&sealed, CipherOffset(0))?;
        state.backing_len = state.backing_len.max(len);
        self.unsynced.store(true, std::sync::atomic::Ordering::Release);
        if state.backing_len > len {
            self.barrier(state)?;
            self.cut_to(state, len)?;
        }
        if let Form::Inline { dirty, .. } = &mut state.form {
            *dirty = false;
        }
        state.old_size = state.size;
        Ok(())
    }

    pub(super) fn cut_to(&self, state: &mut State, len: u64) -> Result<(), Error> {
        if state.backing_len > len {
            self.backing.set_len(len)?;
            state.backing_len = len;
        }
        Ok(())
    }
}
