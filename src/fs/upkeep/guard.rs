//! Keeping writers away from a file while it is replaced by a rekeyed copy.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::fs::dirs::{Dir, stored};
use crate::fs::error::Result;
use crate::fs::open_file::OpenFile;
use crate::fs::{EncryptedFs, Ino};
use crate::sys::{self, Errno, FileKind};

/// The files that nobody may write, each for as long as the directory handle is open through which that was asked.
#[derive(Default)]
pub struct Guards {
    guarded: Mutex<HashMap<Ino, u64>>,
    count: AtomicUsize,
}

impl Guards {
    /// Whether `ino` may be opened for writing, or cut.
    ///
    /// # Errors
    /// EBUSY if it may not.
    pub fn admit_writer(&self, ino: Ino) -> Result<()> {
        // As good as always there are none.
        if self.count.load(Ordering::SeqCst) > 0 && self.guarded.lock().contains_key(&ino) {
            return Err(Errno::BUSY.into());
        }
        Ok(())
    }

    fn add(&self, ino: Ino, handle: u64) -> Result<()> {
        let mut guarded = self.guarded.lock();
        if guarded.get(&ino).is_some_and(|other| *other != handle) {
            return Err(Errno::BUSY.into());
        }
        guarded.insert(ino, handle);
        self.count.store(guarded.len(), Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, mut which: impl FnMut(Ino, u64) -> bool) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut guarded = self.guarded.lock();
        guarded.retain(|ino, handle| !which(*ino, *handle));
        self.count.store(guarded.len(), Ordering::SeqCst);
    }

    /// The handle was closed.
    pub fn release(&self, handle: u64) {
        self.remove(|_, held| held == handle);
    }
}

impl EncryptedFs {
    /// Refuses writers of the file `name` until `handle` is closed, or [`EncryptedFs::unguard`]. Its inode.
    ///
    /// # Errors
    /// EBUSY if it is open for writing; EMLINK if it has several names, which a copy under one of them would part.
    pub(super) fn guard(&self, dir: &Dir, name: &[u8], handle: u64) -> Result<Ino> {
        let stat = sys::stat::at(dir.fd(), stored(&dir.encode(name)?))?;
        let ino = self.ino_of(&stat)?;
        match stat.kind {
            FileKind::File if stat.nlink > 1 => return Err(Errno::MLINK.into()),
            FileKind::File => {}
            _ => return Err(Errno::INVAL.into()),
        }
        self.upkeep.guards.add(ino, handle)?;
        // Whoever came before the guard is seen now; whoever comes later sees the guard.
        let writes = |file: &OpenFile| file.writers.load(Ordering::SeqCst) > 0;
        if self.files.peek(ino).is_some_and(|file| writes(&file)) {
            self.unguard(ino, handle);
            return Err(Errno::BUSY.into());
        }
        Ok(ino)
    }

    /// Admits writers again.
    pub(super) fn unguard(&self, ino: Ino, handle: u64) {
        self.upkeep.guards.remove(|guarded, held| guarded == ino && held == handle);
    }
}
