//! Where envelopes lie.

use std::io;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::SidecarStore;
use crate::crypto::random;
use crate::sys::xattr::{self, Mode, Target};

/// The extended attribute that holds an envelope: four letters after the namespace, so that an
/// envelope of 68 bytes stays inside a default ext4 inode.
pub const ATTRIBUTE: &str = "user.kmsf";

/// Where the envelopes of a volume lie: one placement for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In an extended attribute of the object.
    Xattr,
    /// In a file of its own, beside a file or inside a directory.
    Sidecar,
}

impl Placement {
    /// The word for it in a volume header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xattr => "xattr",
            Self::Sidecar => "sidecar",
        }
    }
}

/// A name in the backing tree.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The directory, open for reading.
    pub dir: BorrowedFd<'a>,
    /// The stored name.
    pub name: &'a [u8],
}

/// The object whose envelope is meant.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// A directory, open for reading.
    Directory(BorrowedFd<'a>),
    /// A regular file.
    File {
        /// Open for reading or writing.
        fd: BorrowedFd<'a>,
        /// One of its names; `None` if it has none any more.
        at: Option<Entry<'a>>,
    },
}

impl<'a> Object<'a> {
    /// The regular file called `name` in `dir`, open as `fd`.
    pub fn file(fd: BorrowedFd<'a>, dir: BorrowedFd<'a>, name: &'a [u8]) -> Self {
        Self::File { fd, at: Some(Entry { dir, name }) }
    }

    fn fd(self) -> BorrowedFd<'a> {
        match self {
            Self::Directory(fd) | Self::File { fd, .. } => fd,
        }
    }
}

/// Why an envelope was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is one already.
    #[error("the object has an envelope already")]
    Exists,
    /// It is not, or no longer, the one that was expected: load it again.
    #[error("the envelope was changed by another request meanwhile")]
    Changed,
    /// The backing store failed.
    #[error("cannot store the envelope: {0}")]
    Io(#[from] io::Error),
}

/// A placement of envelopes.
pub trait EnvelopeStore: Send + Sync {
    /// The bytes of the object's envelope, if it has one.
    fn load(&self, object: Object<'_>) -> io::Result<Option<Vec<u8>>>;

    /// Gives the object its first envelope. It is durable after [`EnvelopeStore::sync`] and a sync of the object.
    fn create(&self, object: Object<'_>, envelope: &[u8]) -> Result<(), StoreError>;

    /// Replaces the envelope `expected` by `new`, so that a power cut leaves one of them.
    fn replace(&self, object: Object<'_>, expected: &[u8], new: &[u8]) -> Result<(), StoreError>;

    /// Overwrites the envelope with random bytes, and removes it. Durable after a sync of the object. Does nothing if there
    /// is none.
    fn destroy(&self, object: Object<'_>) -> io::Result<()>;

    /// Makes durable what a sync of the object itself does not cover.
    fn sync(&self, object: Object<'_>) -> io::Result<()>;
}

/// Envelopes in the attribute `user.kmsf` of the backing file or directory.
///
/// Setting it is atomic on every filesystem that journals its metadata; it is durable after fsync of the object.
#[derive(Debug)]
pub struct XattrStore {
    /// Held from comparing to replacing, by what is expected: only two who expect the same can both find it.
    /// A volume has one writing process ([`super::lock()`]), so no other lock is needed.
    replacing: [Mutex<()>; SHARDS],
}

/// More than there are threads; two envelopes that share a lock only wait for each other.
const SHARDS: usize = 64;

impl Default for XattrStore {
    fn default() -> Self {
        Self { replacing: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl EnvelopeStore for XattrStore {
    fn load(&self, object: Object<'_>) -> io::Result<Option<Vec<u8>>> {
        xattr::get(Target::Open(object.fd()), ATTRIBUTE.as_bytes())
    }

    fn create(&self, object: Object<'_>, envelope: &[u8]) -> Result<(), StoreError> {
        match xattr::set(Target::Open(object.fd()), ATTRIBUTE.as_bytes(), envelope, Mode::Create) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::Exists),
            done => Ok(done?),
        }
    }

    fn replace(&self, object: Object<'_>, expected: &[u8], new: &[u8]) -> Result<(), StoreError> {
        // Envelopes end with a tag, whose bits are as good as random.
        let shard = usize::from(expected.last().copied().unwrap_or_default()) % SHARDS;
        let _replacing = self.replacing[shard].lock();
        if self.load(object)?.as_deref() != Some(expected) {
            return Err(StoreError::Changed);
        }
        match xattr::set(Target::Open(object.fd()), ATTRIBUTE.as_bytes(), new, Mode::Replace) {
            Err(e) if xattr::is_missing(&e) => Err(StoreError::Changed),
            done => Ok(done?),
        }
    }

    fn destroy(&self, object: Object<'_>) -> io::Result<()> {
        let target = Target::Open(object.fd());
        let Some(len) = xattr::len(target, ATTRIBUTE.as_bytes())? else { return Ok(()) };
        let mut noise = vec![0; len];
        random::fill(&mut noise);
        xattr::set(target, ATTRIBUTE.as_bytes(), &noise, Mode::Replace)?;
        // So that the noise comes to the disk, in the place of the envelope.
        crate::sys::file::sync_all(object.fd())?;
        xattr::remove(target, ATTRIBUTE.as_bytes()).map(|_| ())
    }

    fn sync(&self, _: Object<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// The envelopes of a volume, wherever its header says that they lie.
#[derive(Debug)]
pub enum Envelopes {
    /// See [`Placement::Xattr`].
    Xattr(XattrStore),
    /// See [`Placement::Sidecar`].
    Sidecar(SidecarStore),
}

impl Envelopes {
    /// Those of a volume with this placement.
    pub fn new(placement: Placement) -> Self {
        match placement {
            Placement::Xattr => Self::Xattr(XattrStore::default()),
            Placement::Sidecar => Self::Sidecar(SidecarStore::default()),
        }
    }

    /// The sidecars, if that is what the volume has: they must follow the names.
    pub fn sidecars(&self) -> Option<&SidecarStore> {
        match self {
            Self::Xattr(_) => None,
            Self::Sidecar(store) => Some(store),
        }
    }

    /// Gives the object this envelope, whether it has one or not. It is durable after a sync of the whole store.
    pub fn put(&self, object: Object<'_>, envelope: &[u8]) -> io::Result<()> {
        match self {
            Self::Xattr(_) => xattr::set(Target::Open(object.fd()), ATTRIBUTE.as_bytes(), envelope, Mode::Set),
            Self::Sidecar(store) => store.put_unsynced(object, envelope),
        }
    }

    /// Takes the object's envelope away; says whether there was one.
    pub fn remove(&self, object: Object<'_>) -> io::Result<bool> {
        match self {
            Self::Xattr(_) => xattr::remove(Target::Open(object.fd()), ATTRIBUTE.as_bytes()),
            Self::Sidecar(store) => store.remove_of(object),
        }
    }

    fn store(&self) -> &dyn EnvelopeStore {
        match self {
            Self::Xattr(store) => store,
            Self::Sidecar(store) => store,
        }
    }
}

impl EnvelopeStore for Envelopes {
    fn load(&self, object: Object<'_>) -> io::Result<Option<Vec<u8>>> {
        self.store().load(object)
    }

    fn create(&self, object: Object<'_>, envelope: &[u8]) -> Result<(), StoreError> {
        self.store().create(object, envelope)
    }

    fn replace(&self, object: Object<'_>, expected: &[u8], new: &[u8]) -> Result<(), StoreError> {
        self.store().replace(object, expected, new)
    }

    fn destroy(&self, object: Object<'_>) -> io::Result<()> {
        self.store().destroy(object)
    }

    fn sync(&self, object: Object<'_>) -> io::Result<()> {
        self.store().sync(object)
    }
}
