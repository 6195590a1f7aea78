//! Looking through a whole file: for `kmsfs fsck`. Nothing is written.

use zeroize::Zeroizing;

use super::file::{Content, Form, State};
use super::geometry::{BLOCK, GROUP, backing_len, blocks_in, group_at, meta_at};
use super::{BackingFile, Error};

/// What holds for the content as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Plain size in bytes.
    pub size: u64,
    /// Bytes of the backing file behind what the size demands.
    pub excess: u64,
    /// A crash left previous parts or a previous size, which the next one who opens the file for writing puts in order.
    pub unsettled: bool,
}

impl<B: BackingFile> Content<B> {
    /// Verifies every META page and, if `blocks`, opens every block. Each fault is handed to `fault`, a file that was cut
    /// once; `done` is told of plain bytes that were passed.
    pub fn verify(&self, blocks: bool, fault: &mut dyn FnMut(Error), done: &mut dyn FnMut(u64)) -> Verified {
        let state = self.state.read();
        if let Some((expected, found)) = state.cut {
            fault(Error::Truncated { expected, found });
        }
        match &state.form {
            // It was opened as a whole with its page.
            Form::Inline { .. } => done(state.size),
            Form::Paged => self.verify_groups(&state, blocks, fault, done),
        }
        let excess = state.backing_len.saturating_sub(backing_len(state.size));
        Verified { size: state.size, excess, unsettled: self.state().unsettled }
    }

    fn verify_groups(&self, state: &State, blocks: bool, fault: &mut dyn FnMut(Error), done: &mut dyn FnMut(u64)) {
        let mut plain = Zeroizing::new(vec![0; if blocks { GROUP as usize } else { 0 }]);
        let groups = state.size.div_ceil(GROUP);
        let mut group = 0;
        while group < groups {
            if state.sparse {
                // A file of holes may be larger than any disk.
                match self.backing.next_data(meta_at(group)) {
                    Ok(Some(at)) => group = group.max(group_at(at)),
                    Ok(None) => break,
                    Err(error) => return fault(error.into()),
                }
                if group >= groups {
                    break;
                }
            }
            let len = GROUP.min(state.size - group * GROUP);
            self.verify_group(state, group, if blocks { Some(&mut plain[..len as usize]) } else { None }, fault);
            done(len);
            group += 1;
        }
    }

    /// `plain` has the length of the group if its blocks are wanted too.
    fn verify_group(&self, state: &State, group: u64, plain: Option<&mut [u8]>, fault: &mut dyn FnMut(Error)) {
        match self.cache_with(state, group) {
            Ok(_) => {}
            // Told already.
            Err(Error::Truncated { .. }) if state.cut.is_some() => return,
            Err(error) => return fault(error),
        }
        let Some(plain) = plain else { return };
        if self.read_in(state, group * GROUP, plain).is_ok() {
            return;
        }
        // The fault is in one of them: each on its own.
        let first = group * GROUP / BLOCK;
        for block in first..first + blocks_in(plain.len() as u64) {
            match self.read_in(state, block * BLOCK, &mut plain[..BLOCK as usize]) {
                Ok(_) => {}
                Err(Error::Truncated { .. }) if state.cut.is_some() => return,
                Err(error) => fault(error),
            }
        }
    }
}
