//! How far a walk is, for whoever shows it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a walk has passed, and what there is. Read while it grows.
#[derive(Debug, Default)]
pub struct Progress {
    /// Objects passed.
    pub objects: AtomicU64,
    /// Plain bytes passed.
    pub bytes: AtomicU64,
    /// Objects found by [`Progress::count`] so far.
    pub objects_found: AtomicU64,
    /// Their bytes on the backing store.
    pub bytes_found: AtomicU64,
    /// Everything was counted: what was found is the whole.
    pub is_counted: AtomicBool,
    /// Ends a count that nobody waits for any more.
    pub stop: AtomicBool,
}

impl Progress {
    /// One object more was passed.
    pub fn object(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes more were passed.
    pub fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts what lies below `root`: much faster than a walk, so that a thread of its own can tell how much is left.
    /// What cannot be read is not counted.
    pub fn count(&self, root: &Path) {
        let mut open = vec![root.to_path_buf()];
        while let Some(dir) = open.pop() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(metadata) = entry.metadata() else { continue };
                self.objects_found.fetch_add(1, Ordering::Relaxed);
                if metadata.is_dir() {
                    open.push(entry.path());
                } else if metadata.is_file() {
                    self.bytes_found.fetch_add(metadata.len(), Ordering::Relaxed);
                }
            }
        }
        self.is_counted.store(true, Ordering::Relaxed);
    }
}
