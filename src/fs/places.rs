//! Who may change where an object is, and what its envelope says of that.

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Ino;

/// More than there are threads; two objects that share a lock only wait for each other.
const SHARDS: usize = 64;

/// Locks for the envelopes of all objects, and for their places in the tree.
pub struct Places {
    all: RwLock<()>,
    objects: [Mutex<()>; SHARDS],
}

/// Holds one object: nobody else reads or writes its envelope, nor moves it.
pub struct Held<'a> {
    _object: MutexGuard<'a, ()>,
    _all: RwLockReadGuard<'a, ()>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: RwLock::default(), objects: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Places {
    /// Holds one object. Not to be nested.
    pub fn hold(&self, ino: Ino) -> Held<'_> {
        let all = self.all.read();
        let shard = usize::try_from(ino.0 % SHARDS as u64).expect("less than SHARDS");
        Held { _object: self.objects[shard].lock(), _all: all }
    }

    /// Holds every object, while an envelope and a directory change together.
    pub fn hold_all(&self) -> RwLockWriteGuard<'_, ()> {
        self.all.write()
    }
}
