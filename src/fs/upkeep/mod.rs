//! Changing the keys of what is stored, while it may be in use: the filesystem's side of rewrap, of a directory's own
//! CMK, and of everything else that walks over a volume.
//!
//! A walker asks for one step at a time ([`EncryptedFs::upkeep`]): a part of one directory, one object, or what the
//! volume has only once. Nothing is remembered between steps, so a walker that dies leaves nothing to undo. The walkers are
//! in `maintain`; those of a mounted volume ask through an ioctl(2) of the mount (`fuse::control`).
//!
//! Invariants:
//! - an object is held (`fs::places`) while its envelope and its mirror are replaced;
//! - neither content nor modification times change.

mod guard;
mod message;
mod object;
mod shred;
mod volume;

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

pub use message::{Answer, Failed, Item, Name, Page, Request, Standing, Tally, Wrap};

use guard::Guards;

use super::dirs::Dir;
use super::error::Result;
use super::{Caller, EncryptedFs, Ino};
use crate::crypto::Suite;
use crate::envelope::VolumeHeader;
use crate::kms::{KeyId, KeystoreError};
use crate::names::EncodedName;
use crate::sys::{Errno, FileKind};

/// Called before the first envelope under a CMK that the volume may not have used yet, so that its copy of the
/// keystore can be given that CMK.
pub type AdoptKey = Box<dyn Fn(&KeyId) -> std::result::Result<(), KeystoreError> + Send + Sync>;

/// What only upkeep needs.
pub struct Upkeep {
    /// The header as it is in the backing tree.
    header: Mutex<VolumeHeader>,
    adopt: OnceLock<AdoptKey>,
    adopted: Mutex<HashSet<KeyId>>,
    /// See [`guard`].
    pub(super) guards: Guards,
    /// A walk was begun: from then on, strays are counted.
    watched: AtomicBool,
    /// How often an object that a walk may still have to see was moved to where it may have been already.
    strays: AtomicU64,
}

impl Upkeep {
    pub(super) fn new(header: VolumeHeader) -> Self {
        Self {
            header: Mutex::new(header),
            adopt: OnceLock::new(),
            adopted: Mutex::default(),
            guards: Guards::default(),
            watched: AtomicBool::new(false),
            strays: AtomicU64::new(0),
        }
    }
}

impl EncryptedFs {
    /// Registers what is to be done before a CMK is used that is new to the volume. Only the first call counts.
    pub fn on_new_cmk(&self, adopt: AdoptKey) {
        let _ = self.upkeep.adopt.set(adopt);
    }

    /// One step of upkeep at the directory `ino`, which the caller has open as `handle`.
    ///
    /// # Errors
    /// EPERM for anyone but root and the user who mounted; what the KMS and the backing store say.
    pub fn upkeep(&self, caller: &Caller, (ino, handle): (Ino, u64), request: &Request) -> Result<Answer> {
        if caller.uid != 0 && caller.uid != self.uid {
            return Err(Errno::PERM.into());
        }
        if request.writes() {
            self.writable()?;
        }
        match request {
            Request::Begin => {
                self.kms.refresh()?;
                self.upkeep.watched.store(true, Ordering::Release);
                Ok(Answer::Standing(self.standing()))
            }
            Request::Standing => Ok(Answer::Standing(self.standing())),
            Request::Resolve { name } => Ok(Answer::Key(self.resolve_cmk(name)?)),
            Request::Count => Ok(Answer::Count(self.count_below(ino)?)),
            Request::Entries { from, limit, wrap } => {
                self.prepare(wrap)?;
                Ok(Answer::Page(self.page(ino, (*from, *limit), wrap)?))
            }
            Request::One { name, wrap } => {
                self.prepare(wrap)?;
                Ok(Answer::Item(self.one(ino, name.as_ref().map(|name| &name.0[..]), wrap)?))
            }
            Request::SetSuite { suite } => {
                self.set_suite(ino, Suite::from_name(suite).ok_or(Errno::INVAL)?)?;
                Ok(Answer::Done)
            }
            Request::Shred { name } => {
                self.shred(&*self.dir(ino)?, &name.0)?;
                Ok(Answer::Done)
            }
            Request::Guard { name } => {
                let ino = self.guard(&*self.dir(ino)?, &name.0, handle)?;
                Ok(Answer::Guarded(ino.0))
            }
            Request::Unguard { ino } => {
                self.unguard(Ino(*ino), handle);
                Ok(Answer::Done)
            }
            Request::Volume { wrap } => {
                self.prepare(wrap)?;
                Ok(Answer::Page(self.wrap_volume(wrap)?))
            }
        }
    }

    /// An object has a new name: a walk may have passed there, and not yet where it was. What lies in a directory is not
    /// looked at.
    pub(super) fn note_move(&self, to: &Dir, name: &EncodedName, (ino, kind): (Ino, FileKind)) {
        if !self.upkeep.watched.load(Ordering::Acquire) {
            return;
        }
        if !self.is_surely_current(to, name, (ino, kind)) {
            self.upkeep.strays.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn standing(&self) -> Standing {
        let header = self.upkeep.header.lock();
        Standing {
            backing: Name(std::os::unix::ffi::OsStrExt::as_bytes(self.config.backing.as_os_str()).to_vec()),
            volume: header.uuid().to_owned(),
            key: header.key().clone(),
            strays: self.upkeep.strays.load(Ordering::Acquire),
        }
    }

    /// Before anything is wrapped under another CMK, the volume's own copy of the keystore must have it.
    fn prepare(&self, wrap: &Wrap) -> Result<()> {
        let (Some(key), true) = (&wrap.to, wrap.write) else { return Ok(()) };
        if self.upkeep.adopted.lock().contains(key) {
            return Ok(());
        }
        if let Some(adopt) = self.upkeep.adopt.get() {
            adopt(key)?;
        }
        self.upkeep.adopted.lock().insert(key.clone());
        Ok(())
    }
}
