//! A file of stamped blocks that remembers what was acknowledged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::ops::{pattern, read, write};

const BLOCK: usize = 4096;
/// Two groups and a bit, the last block short.
const BLOCKS: usize = 150;
const SIZE: usize = BLOCKS * BLOCK - 1000;

/// Versions of one block: the last that was synced, and the last that was handed to write(2).
#[derive(Clone, Copy)]
struct Entry {
    synced: u64,
    written: u64,
}

/// What a file of [`BLOCKS`] blocks may hold, block by block. A version's content follows from its number.
pub struct Ledger {
    entries: Mutex<Vec<Entry>>,
    acknowledged: AtomicU64,
    /// Ends the writers.
    pub stop: AtomicBool,
}

fn content(block: usize, version: u64) -> Vec<u8> {
    let mut bytes = pattern(version << 16 | block as u64, 0, BLOCK.min(SIZE - block * BLOCK));
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

impl Ledger {
    /// Writes version 1 of every block and syncs.
    pub fn new(path: &Path) -> Ledger {
        let first: Vec<u8> = (0..BLOCKS).flat_map(|block| content(block, 1)).collect();
        write(path, first);
        File::open(path).and_then(|file| file.sync_all()).expect("fsync");
        let entries = Mutex::new(vec![Entry { synced: 1, written: 1 }; BLOCKS]);
        Ledger { entries, acknowledged: AtomicU64::new(0), stop: AtomicBool::new(false) }
    }

    /// How many syncs were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Overwrites and syncs blocks of its own (every second one) until an error or the stop.
    pub fn write_until_it_fails(&self, file: &File, writer: usize, round: u64) {
        let mut turn = round as usize * 31;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let first = (turn * 7919 % (BLOCKS / 2)) * 2 + writer;
            // a few blocks between two syncs, so that a batch is broken in its middle
            let blocks: Vec<usize> = (0..1 + turn % 5).map(|i| (first + 2 * i * (1 + turn % 40)) % BLOCKS).collect();
            for &block in &blocks {
                let version = {
                    let mut entries = self.entries.lock().expect("no writer panics");
                    entries[block].written += 1;
                    entries[block].written
                };
                if file.write_all_at(&content(block, version), (block * BLOCK) as u64).is_err() {
                    return;
                }
            }
            if file.sync_data().is_err() {
                return;
            }
            let mut entries = self.entries.lock().expect("no writer panics");
            for &block in &blocks {
                entries[block].synced = entries[block].written;
            }
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every block must hold, whole, a version from the last synced to the last written; what is found is the
    /// base for the next crash.
    pub fn check(&self, path: &Path, when: &str) {
        let bytes = read(path);
        assert_eq!(bytes.len(), SIZE, "size {when}");
        let mut entries = self.entries.lock().expect("no writer panics");
        for (block, entry) in entries.iter_mut().enumerate() {
            let found = &bytes[block * BLOCK..SIZE.min((block + 1) * BLOCK)];
            let version = u64::from_le_bytes(found[..8].try_into().expect("eight bytes"));
            let allowed = entry.synced..=entry.written;
            assert!(allowed.contains(&version), "block {block} {when}: version {version}, allowed {allowed:?}");
            assert!(*found == *content(block, version), "block {block} {when}: a torn version {version}");
            *entry = Entry { synced: version, written: entry.written };
        }
    }
}
