//! What the kernel's file handles stand for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::error::Result;
use crate::sys::Errno;

/// A table from FUSE file handles to what they stand for.
pub struct Handles<T> {
    table: RwLock<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Handles<T> {
    /// A table that counts from `first` in steps of two: files and directories never share a number.
    pub fn from(first: u64) -> Self {
        Self { table: RwLock::default(), next: AtomicU64::new(first) }
    }

    /// Enters `value`; returns its handle.
    pub fn insert(&self, value: T) -> u64 {
        let handle = self.next.fetch_add(2, Ordering::Relaxed);
        self.table.write().insert(handle, Arc::new(value));
        handle
    }

    /// Whether a handle stands for just this.
    pub fn holds(&self, value: &Arc<T>) -> bool {
        self.table.read().values().any(|other| Arc::ptr_eq(other, value))
    }

    /// What `handle` stands for.
    ///
    /// # Errors
    /// EBADF if it is none of ours.
    pub fn get(&self, handle: u64) -> Result<Arc<T>> {
        Ok(self.table.read().get(&handle).cloned().ok_or(Errno::BADF)?)
    }

    /// What all handles stand for.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.table.read().values().cloned().collect()
    }

    /// Ends `handle`.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.table.write().remove(&handle)
    }
}
