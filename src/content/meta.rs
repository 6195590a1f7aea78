//! The META page: encoding, sealing, opening (docs/format.md section 5.1).

use std::sync::Arc;

use super::Error;
use super::geometry::{INLINE_META, META};
use crate::crypto::{GcmKey, NONCE_LEN, Nonce, Suite, TAG_LEN, Tag};

const MAGIC: &[u8; 4] = b"KMSm";
const VERSION: u8 = 1;
const LOG2_BLOCK: u8 = 12;
/// Length of a mirror.
pub const MIRROR_LEN: usize = 68;
/// Where it stands in the page.
pub const MIRROR_AT: usize = 152;
const RESERVED_AT: usize = MIRROR_AT + MIRROR_LEN;
const NONCE_AT: usize = 484;
const TAG_AT: usize = NONCE_AT + NONCE_LEN;
const ENTRIES_AT: usize = INLINE_META as usize;
const ENTRY_LEN: usize = 56;

/// A whole META page.
pub type Page = [u8; META as usize];

/// What `flags` says.
pub mod flag {
    /// Page 0: groups may have no META page.
    pub const SPARSE: u8 = 0x01;
    /// Page 0: the content follows in the page.
    pub const INLINE: u8 = 0x02;
    /// Previous parts were sealed under the previous salt.
    pub const RESALT: u8 = 0x04;
}

/// Nonce and tag of one sealed block. All zeros: the block is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seal {
    /// The nonce.
    pub nonce: Nonce,
    /// The tag.
    pub tag: Tag,
}

/// The entry of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// What the block is sealed with.
    pub current: Seal,
    /// What it was sealed with before.
    pub previous: Seal,
}

/// A META page, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// See [`flag`].
    pub flags: u8,
    /// Which group.
    pub group: u64,
    /// One more at each seal.
    pub generation: u64,
    /// Plain size in bytes (page 0).
    pub size: u64,
    /// Plain size before (page 0).
    pub previous_size: u64,
    /// Which blocks were written.
    pub written: u64,
    /// Which entries have a previous part.
    pub previous: u64,
    /// Blocks sealed under this salt.
    pub seals: u64,
    /// The salt of the group's keys.
    pub salt: [u8; 16],
    /// Commitment to the data key (page 0).
    pub commitment: [u8; 32],
    /// The salt of the previous parts, with [`flag::RESALT`].
    pub previous_salt: [u8; 16],
    /// The data key, wrapped once more (page 0).
    pub mirror: [u8; MIRROR_LEN],
    /// One for each block of the group. Readers hold them while they read the disk.
    pub entries: Arc<[Entry; 64]>,
}

impl Meta {
    /// The page of a group in which nothing was written yet.
    pub fn new(group: u64, salt: [u8; 16]) -> Self {
        Self {
            flags: 0,
            group,
            generation: 0,
            size: 0,
            previous_size: 0,
            written: 0,
            previous: 0,
            seals: 0,
            salt,
            commitment: [0; 32],
            previous_salt: [0; 16],
            mirror: [0; MIRROR_LEN],
            entries: Arc::new([Entry::default(); 64]),
        }
    }

    /// Whether block `slot` of the group was written.
    pub fn is_written(&self, slot: usize) -> bool {
        self.written >> slot & 1 == 1
    }

    /// Whether block `slot` has a previous part.
    pub fn has_previous(&self, slot: usize) -> bool {
        self.previous >> slot & 1 == 1
    }

    /// Sets the entry of block `slot`.
    pub fn set_entry(&mut self, slot: usize, entry: Entry) {
        Arc::make_mut(&mut self.entries)[slot] = entry;
    }

    fn header(&self, mirror: bool) -> [u8; INLINE_META as usize] {
        let mut page = [0; INLINE_META as usize];
        page[..4].copy_from_slice(MAGIC);
        page[4..8].copy_from_slice(&[VERSION, Suite::Gcm4k.id(), self.flags, LOG2_BLOCK]);
        let numbers =
            [self.group, self.generation, self.size, self.previous_size, self.written, self.previous, self.seals];
        for (to, number) in page[8..64].chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        page[64..80].copy_from_slice(&self.salt);
        page[80..112].copy_from_slice(&self.commitment);
        page[112..128].copy_from_slice(&self.previous_salt);
        if mirror {
            page[MIRROR_AT..RESERVED_AT].copy_from_slice(&self.mirror);
        }
        page
    }

    fn encode_entries(&self, to: &mut [u8]) {
        for (to, entry) in to.chunks_exact_mut(ENTRY_LEN).zip(self.entries.iter()) {
            to[..12].copy_from_slice(&entry.current.nonce);
            to[12..28].copy_from_slice(&entry.current.tag);
            to[28..40].copy_from_slice(&entry.previous.nonce);
            to[40..].copy_from_slice(&entry.previous.tag);
        }
    }

    /// The bytes a page's tag covers: the header without the mirror, then the entries.
    fn authenticated(&self) -> Vec<u8> {
        let mut aad = vec![0; NONCE_AT + META as usize - ENTRIES_AT];
        aad[..NONCE_AT].copy_from_slice(&self.header(false)[..NONCE_AT]);
        self.encode_entries(&mut aad[NONCE_AT..]);
        aad
    }

    /// Seals the page; one more generation.
    pub fn seal(&mut self, key: &GcmKey, nonce: &Nonce) -> Box<Page> {
        self.generation += 1;
        let tag = key.seal(nonce, &self.authenticated(), &[], &mut []);
        let mut page = Box::new([0; META as usize]);
        page[..ENTRIES_AT].copy_from_slice(&self.header(true));
        page[NONCE_AT..TAG_AT].copy_from_slice(nonce);
        page[TAG_AT..TAG_AT + TAG_LEN].copy_from_slice(&tag);
        self.encode_entries(&mut page[ENTRIES_AT..]);
        page
    }

    /// Seals an inline file: the header, then the content; one more generation.
    pub fn seal_inline(&mut self, key: &GcmKey, nonce: &Nonce, content: &[u8]) -> Vec<u8> {
        self.generation += 1;
        let mut file = vec![0; INLINE_META as usize + content.len()];
        let (header, sealed) = file.split_at_mut(ENTRIES_AT);
        let tag = key.seal(nonce, &self.header(false)[..NONCE_AT], content, sealed);
        header.copy_from_slice(&self.header(true));
        header[NONCE_AT..TAG_AT].copy_from_slice(nonce);
        header[TAG_AT..TAG_AT + TAG_LEN].copy_from_slice(&tag);
        file
    }

    /// Decodes a page that is expected to be group `group`'s; `page` has 512 bytes or, unless it is inline, 4096.
    /// Nothing is authenticated yet.
    pub fn decode(page: &[u8], group: u64) -> Result<Self, Error> {
        let bad = |reason| Error::CorruptMeta { group, reason };
        let header = page.get(..ENTRIES_AT).ok_or(bad("too short"))?;
        let number =
            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of a header of 512"));
        let flags = header[6];
        match () {
            () if &header[..4] != MAGIC => return Err(bad("no META page")),
            () if header[4] != VERSION => return Err(bad("unknown version")),
            () if header[5] != Suite::Gcm4k.id() => return Err(bad("unknown suite")),
            () if header[7] != LOG2_BLOCK => return Err(bad("unknown block length")),
            () if number(8) != group => return Err(bad("it belongs to another group")),
            () if flags & !(flag::SPARSE | flag::INLINE | flag::RESALT) != 0 => return Err(bad("unknown flags")),
            () if header[128..MIRROR_AT].iter().chain(&header[RESERVED_AT..NONCE_AT]).any(|byte| *byte != 0) => {
                return Err(bad("reserved bytes are not zero"));
            }
            () => {}
        }
        let mut meta = Self::new(group, header[64..80].try_into().expect("sixteen bytes"));
        meta.flags = flags;
        meta.generation = number(16);
        meta.size = number(24);
        meta.previous_size = number(32);
        meta.written = number(40);
        meta.previous = number(48);
        meta.seals = number(56);
        meta.commitment.copy_from_slice(&header[80..112]);
        meta.previous_salt.copy_from_slice(&header[112..128]);
        meta.mirror.copy_from_slice(&header[MIRROR_AT..RESERVED_AT]);
        if flags & flag::INLINE == 0 {
            let entries = page.get(ENTRIES_AT..META as usize).ok_or(bad("too short"))?;
            for (entry, from) in Arc::make_mut(&mut meta.entries).iter_mut().zip(entries.chunks_exact(ENTRY_LEN)) {
                entry.current.nonce.copy_from_slice(&from[..12]);
                entry.current.tag.copy_from_slice(&from[12..28]);
                entry.previous.nonce.copy_from_slice(&from[28..40]);
                entry.previous.tag.copy_from_slice(&from[40..]);
            }
        }
        Ok(meta)
    }

    /// Verifies the tag of the page this was decoded from.
    pub fn verify(&self, page: &[u8], key: &GcmKey) -> Result<(), Error> {
        let (nonce, tag) = stamp(page);
        key.open(&nonce, &self.authenticated(), &[], &tag, &mut [])
            .map_err(|_| Error::CorruptMeta { group: self.group, reason: "it does not authenticate" })
    }

    /// The content of an inline file, from the bytes this was decoded from.
    pub fn open_inline(&self, file: &[u8], key: &GcmKey, content: &mut [u8]) -> Result<(), Error> {
        let (nonce, tag) = stamp(file);
        let sealed = &file[ENTRIES_AT..ENTRIES_AT + content.len()];
        key.open(&nonce, &self.header(false)[..NONCE_AT], sealed, &tag, content)
            .map_err(|_| Error::CorruptMeta { group: 0, reason: "the content in it does not authenticate" })
    }
}

/// Whether this may be the head of a META page.
pub fn is_page(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

fn stamp(page: &[u8]) -> (Nonce, Tag) {
    let nonce = page[NONCE_AT..TAG_AT].try_into().expect("twelve bytes");
    let tag = page[TAG_AT..TAG_AT + TAG_LEN].try_into().expect("sixteen bytes");
    (nonce, tag)
}
