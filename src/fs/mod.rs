//! The encrypted filesystem: inodes, open files, the namespace, attributes.
//!
//! This room turns operations on plain names and plain bytes into operations on the backing tree. It refuses
//! to know FUSE, how keys are kept, and how the user was asked for a passphrase.
//!
//! Invariants:
//! - no descriptor is held for an inode that is only looked up (`inode`, `dirs`);
//! - an object gets its envelope before it can hold a byte or an entry;
//! - open files are reached by their descriptor, so an unlinked one answers like any other;
//! - nothing here changes the identity of a thread or of the process: new objects are made by the daemon and
//!   given to the caller, so that identities cannot leak between requests.
//!
//! Locks, in the order in which they may be taken: `places`, then an open file's envelope, then a table
//! (inodes, directories, files, handles), then the content of a file or the secrets of a directory. No table is locked across a system call or a call of the KMS,
//! but for that of changed modes (`relax`), which is the last in this order.

mod attr;
mod backing;
mod closer;
mod dark;
mod dirs;
mod error;
mod failures;
mod file_key;
mod handles;
mod inode;
mod io;
mod leave;
mod links;
mod listing;
mod namespace;
mod open_file;
mod places;
mod pusher;
mod relax;
mod removal;
mod rename;
pub mod side_file;
mod sidecars;
mod sizes;
mod slot;
mod suites;
mod symlink;
#[cfg(test)]
mod tests;
pub mod upkeep;
mod writeback;
mod xattrs;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

pub use attr::{Attr, Changes, Filesystem, without_privileges};
pub use backing::Backing;
pub use dark::{Faded, KeyBell};
pub use error::{Error, Result};
pub use inode::{Ino, Location};
pub use io::{Allocation, OpenMode, Opened, WriteOrigin};
pub use listing::ListedEntry;
pub use namespace::{Created, Looked, NewMode};
pub use sidecars::is_key_of;

// The words that this room's callers need to speak to it.
pub use crate::kms::Caller;
pub use crate::names::shown;
pub use crate::sys::control::{CONTROL, MESSAGE_LEN};
pub use crate::sys::dir::{RenameFlags, SetTime};
pub use crate::sys::xattr::Mode as XattrMode;
pub use crate::sys::{Errno, FileKind, Time};

use crate::content::Durability;
use crate::envelope::{Binder, Envelopes, KeysLog, NameForm, Sealer, TailLog, Volume, VolumeError};
use crate::kms::{Kms, Requester};
use crate::names::{NameEncoding, Symlinks};
use crate::sys::{self, Stat};

use closer::Closer;
use dirs::DirCache;
use handles::Handles;
use inode::InodeTable;
use io::FileHandle;
use listing::DirHandle;
use open_file::OpenFiles;
use places::Places;
use pusher::Pusher;
use relax::Relaxed;
use sizes::Sizes;
use suites::Suites;
use symlink::LongLinks;
use upkeep::Upkeep;
use writeback::Writeback;

/// How a volume is mounted.
#[derive(Debug, Clone)]
pub struct FsConfig {
    /// The backing tree.
    pub backing: PathBuf,
    /// Nothing may be changed.
    pub read_only: bool,
    /// What holds after a power cut (docs/format.md section 5.4).
    pub durability: Durability,
    /// Other users may use the mount: new objects belong to whoever makes them.
    pub allow_other: bool,
}

/// A mounted volume. Every operation takes `&self` and may run on any thread.
pub struct EncryptedFs {
    config: FsConfig,
    root: OwnedFd,
    /// Device and inode of the backing tree's root.
    root_id: (u64, u64),
    /// Whether the backing store keeps inode numbers: else a directory that was closed meanwhile is known by its place.
    keeps_numbers: bool,
    kms: Arc<dyn Kms>,
    binder: Binder,
    envelopes: Envelopes,
    name_encoding: NameEncoding,
    symlinks: Symlinks,
    long_links: LongLinks,
    inodes: InodeTable,
    dirs: DirCache,
    files: OpenFiles,
    sizes: Sizes,
    suites: Suites,
    file_handles: Handles<FileHandle>,
    dir_handles: Handles<DirHandle>,
    places: Places,
    writeback: Writeback,
    closer: Closer,
    pusher: Pusher,
    relaxed: Relaxed,
    upkeep: Upkeep,
    /// Mirrors of the keys of directories; absent on a read-only mount.
    keys_log: Option<KeysLog>,
    /// Ends of XTS files that are being cut.
    tails: Arc<TailLog>,
    uid: u32,
}

impl EncryptedFs {
    /// Opens an unlocked volume.
    ///
    /// # Errors
    /// If the backing tree cannot be opened, or the envelope of its root directory is missing or refused.
    pub fn new(volume: Volume, kms: Arc<dyn Kms>, config: FsConfig) -> Result<Arc<Self>> {
        let root = sys::dir::open_path(&config.backing)?;
        let stat = sys::stat::of_fd(&root)?;
        let keys_log = if config.read_only { None } else { Some(open_keys_log(&config.backing)?) };
        let tails = TailLog::open(&config.backing).map_err(log_failure)?;
        let tails = Arc::new(tails);
        let fs = Arc::new(Self {
            root_id: (stat.dev, stat.ino),
            keeps_numbers: sys::stat::keeps_inode_numbers(&root)?,
            kms,
            binder: Binder::new(&volume.header),
            envelopes: Envelopes::new(volume.header.placement()),
            name_encoding: match volume.header.names() {
                NameForm::Base64Url => NameEncoding::Base64Url,
                NameForm::Base32 => NameEncoding::Base32,
            },
            symlinks: Symlinks::new(&volume.key),
            long_links: LongLinks::open(root.as_fd())?,
            closer: Closer::start(root.as_fd()),
            pusher: Pusher::start(),
            root,
            config,
            inodes: InodeTable::default(),
            dirs: DirCache::default(),
            files: OpenFiles::default(),
            sizes: Sizes::default(),
            suites: Suites::new(volume.header.has_xts()),
            tails,
            file_handles: Handles::from(1),
            dir_handles: Handles::from(2),
            places: Places::default(),
            writeback: Writeback::default(),
            relaxed: Relaxed::default(),
            upkeep: Upkeep::new(volume.header),
            keys_log,
            uid: sys::process::effective_uid(),
        });
        fs.open_root(sys::dir::reopen_dir(fs.root.as_fd())?)?;
        Writeback::start(&fs);
        Ok(fs)
    }

    /// Puts everything in order before the mount ends. No operation may follow.
    pub fn shut_down(&self) {
        self.writeback.stop();
        self.settle_all();
    }

    /// For the keys that a user asks for.
    fn sealer<'a>(&'a self, requester: Requester<'a>) -> Sealer<'a> {
        Sealer { binder: &self.binder, kms: &*self.kms, requester }
    }

    /// For what the filesystem does on its own: unlocking directories, moving envelopes, upkeep.
    fn own_sealer(&self) -> Sealer<'_> {
        self.sealer(Requester::Own)
    }

    /// The inode number that stands for what `stat` describes.
    ///
    /// # Errors
    /// EXDEV for what lies on another filesystem that was mounted inside the backing tree.
    fn ino_of(&self, stat: &Stat) -> Result<Ino> {
        if stat.dev != self.root_id.0 {
            return Err(Errno::XDEV.into());
        }
        Ok(if stat.ino == self.root_id.1 { Ino::ROOT } else { Ino(stat.ino) })
    }

    /// Logs an alarming error with the plain path of `ino`; returns it.
    fn report(&self, ino: Ino, error: Error) -> Error {
        if error.is_alarming() {
            log::error!("{}: {error}. Next: restore it from a backup", self.inodes.path(ino));
        }
        error
    }

    /// The same for a name in a directory.
    fn report_name(&self, parent: Ino, name: &[u8], error: Error) -> Error {
        if error.is_alarming() {
            let path = self.inodes.path(parent);
            let name = shown(name);
            log::error!("{path}/{name}: {error}. Next: restore it from a backup");
        }
        error
    }

    fn writable(&self) -> Result<()> {
        if self.config.read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// Whether others than the user who mounted may use the mount.
    pub fn has_other_users(&self) -> bool {
        self.config.allow_other
    }

    /// Whether what `caller` makes is to be given to them, because it would be the daemon's.
    fn is_foreign(&self, caller: &Caller) -> bool {
        self.config.allow_other && self.uid == 0 && (caller.uid != 0 || caller.gid != 0)
    }
}

fn open_keys_log(backing: &std::path::Path) -> Result<KeysLog> {
    KeysLog::open(backing).map_err(log_failure)
}

fn log_failure(error: VolumeError) -> Error {
    log::error!("{error}");
    Error::Sys(Errno::IO)
}
