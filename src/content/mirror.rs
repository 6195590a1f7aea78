//! The mirror in META page 0: replaced without a look at the content, because no tag covers it.

use std::io;

use super::file::Content;
use super::geometry::{CipherOffset, INLINE_META};
use super::meta::{MAGIC, MIRROR_AT, MIRROR_LEN};
use super::{BackingFile, Error};

/// The mirror in the backing file of a file under the GCM suite, zeros if it has none. `None` if there is no META page.
///
/// # Errors
/// Those of the backing store.
pub fn stored_mirror(backing: &impl BackingFile) -> io::Result<Option<[u8; MIRROR_LEN]>> {
    let mut page = [0; MIRROR_AT + MIRROR_LEN];
    let found = backing.read_at(&mut page, CipherOffset(0))?;
    if found < page.len() || page[..MAGIC.len()] != *MAGIC {
        return Ok(None);
    }
    Ok(page.last_chunk().copied())
}

/// Replaces the mirror in the backing file of a file that nobody has open. One write within one page, so it is whole or not there.
///
/// # Errors
/// Those of the backing store.
pub fn store_mirror(backing: &impl BackingFile, mirror: &[u8; MIRROR_LEN]) -> io::Result<()> {
    backing.write_at(mirror, CipherOffset(MIRROR_AT as u64))
}

impl<B: BackingFile> Content<B> {
    /// The mirror that every page 0 gets from now on; `None` before the file has one.
    pub fn mirror(&self) -> Option<[u8; MIRROR_LEN]> {
        *self.mirror.lock()
    }

    /// Replaces the mirror, in the backing file too if that has a page 0.
    ///
    /// # Errors
    /// [`Error::Io`]; then the next page 0 that is written has the new mirror.
    pub fn replace_mirror(&self, mirror: &[u8; MIRROR_LEN]) -> Result<(), Error> {
        // Whoever writes a page 0 holds this lock.
        let state = self.state.write();
        *self.mirror.lock() = Some(*mirror);
        if state.backing_len >= INLINE_META {
            store_mirror(&self.backing, mirror)?;
        }
        Ok(())
    }
}
