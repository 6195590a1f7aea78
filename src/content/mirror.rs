//! The mirror in META page 0: replaced without a look at the content, because no tag covers it.

use std::io;

use super::file::Content;
use super::geometry::{CipherOffset, INLINE_META};
use super::meta::{MIRROR_AT, MIRROR_LEN, is_page};
use super::{BackingFile, Error};

/// The mirror in META page 0; `None` if there is no such page, or none in it. Nothing of it is authenticated.
///
/// # Errors
/// Of reading.
pub fn read_mirror(backing: &impl BackingFile) -> io::Result<Option<[u8; MIRROR_LEN]>> {
    Ok(read_head(backing)?.filter(|mirror| *mirror != [0; MIRROR_LEN]))
}

/// The bytes where a mirror lies, if there is a META page 0.
fn read_head(backing: &impl BackingFile) -> io::Result<Option<[u8; MIRROR_LEN]>> {
    let mut head = [0; MIRROR_AT + MIRROR_LEN];
    if backing.read_at(&mut head, CipherOffset(0))? < head.len() || !is_page(&head) {
        return Ok(None);
    }
    Ok(Some(head[MIRROR_AT..].try_into().expect("the head ends with the mirror")))
}

/// Whether there is a META page 0 without a mirror.
///
/// # Errors
/// Of reading.
pub fn lacks_mirror(backing: &impl BackingFile) -> io::Result<bool> {
    Ok(read_head(backing)?.is_some_and(|mirror| mirror == [0; MIRROR_LEN]))
}

/// Puts a mirror into the META page 0 that is there. No tag covers it.
///
/// # Errors
/// Of writing.
pub fn write_mirror(backing: &impl BackingFile, mirror: &[u8; MIRROR_LEN]) -> io::Result<()> {
    backing.write_at(mirror, CipherOffset(MIRROR_AT as u64))
}

impl<B: BackingFile> Content<B> {
    /// The mirror that every page 0 gets from now on, if any.
    pub fn mirror(&self) -> Option<[u8; MIRROR_LEN]> {
        self.mirror.lock().filter(|mirror| *mirror != [0; MIRROR_LEN])
    }

    /// Whether a page 0 that is written now would have no mirror.
    pub fn lacks_mirror(&self) -> bool {
        self.mirror.lock().is_none_or(|mirror| mirror == [0; MIRROR_LEN])
    }

    /// Replaces the mirror, in the backing file too if that has a page 0.
    ///
    /// # Errors
    /// [`Error::Io`]; then the next page 0 that is written has the new mirror.
    pub fn replace_mirror(&self, mirror: &[u8; MIRROR_LEN]) -> Result<(), Error> {
        // Whoever writes a page 0 holds this lock.
        let mut state = self.state.write();
        *self.mirror.lock() = Some(*mirror);
        if state.backing_len >= INLINE_META {
            state.since_sync.insert(0);
            write_mirror(&self.backing, mirror)?;
        }
        Ok(())
    }
}
