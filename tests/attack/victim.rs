//! A volume to attack, and what may come of it.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::check::{Checked, fsck};
use crate::harness::{Mount, Volume};
use crate::ops::{Errno, lstat, said, tree};

/// Block of content, bytes.
pub const BLOCK: usize = 4096;
/// A group on the backing store: its META page and 64 blocks.
pub const GROUP: usize = 65 * BLOCK;

/// Where block `number` lies in a paged backing file.
pub fn block_at(number: usize) -> usize {
    number / 64 * GROUP + BLOCK + number % 64 * BLOCK
}

/// An unmounted volume and the backing path of everything in it.
pub struct Victim {
    pub volume: Volume,
    backing: HashMap<PathBuf, PathBuf>,
}

impl Victim {
    /// Makes a volume, lets `fill` fill the mount, unmounts.
    pub fn new(fill: impl FnOnce(&Path)) -> Victim {
        Victim::with(&[], fill)
    }

    /// The same, `init` with more arguments.
    pub fn with(arguments: &[&str], fill: impl FnOnce(&Path)) -> Victim {
        let volume = Volume::with(arguments);
        let mount = volume.mount(&[]);
        fill(mount.dir());
        let inodes = tree(mount.dir()).into_iter().map(|path| {
            let name = path.strip_prefix(mount.dir()).expect("below the mount").to_path_buf();
            (lstat(&path).ino(), name)
        });
        let inodes: HashMap<u64, PathBuf> = inodes.collect();
        mount.unmount();
        fsck(&volume, &[]).expect_clean();
        // a file has the same inode number in the mount and in the backing tree
        let found =
            tree(&volume.backing).into_iter().filter_map(|path| Some((inodes.get(&lstat(&path).ino())?.clone(), path)));
        let backing: HashMap<PathBuf, PathBuf> = found.collect();
        for name in inodes.values() {
            assert!(backing.contains_key(name), "{} has no backing file of its inode number", name.display());
        }
        Victim { volume, backing }
    }

    /// The backing file of a name in the mount.
    pub fn backing(&self, name: impl AsRef<Path>) -> PathBuf {
        self.backing[name.as_ref()].clone()
    }

    #[allow(dead_code, reason = "each test binary uses its part")]
    /// The backing file of one of these names of a file that has several: which of them it is stored under is not known.
    pub fn backing_of_any(&self, names: &[&str]) -> PathBuf {
        names.iter().find_map(|name| self.backing.get(Path::new(name))).expect("one of the names").clone()
    }

    /// Checks the volume, then mounts it; what is expected of the mount is expected of the check as well.
    pub fn mount(&self) -> Mount {
        let checked = fsck(&self.volume, &[]);
        CHECKS.lock().unwrap_or_else(PoisonError::into_inner).insert(self.volume.mountpoint.clone(), checked);
        self.volume.mount(&[])
    }
}

/// What fsck said before each mount, by mountpoint.
static CHECKS: LazyLock<Mutex<HashMap<PathBuf, Checked>>> = LazyLock::new(Mutex::default);

/// Asks what the check before this mount said.
fn checked<T>(mount: &Mount, ask: impl FnOnce(&Checked) -> T) -> Option<T> {
    CHECKS.lock().unwrap_or_else(PoisonError::into_inner).get(mount.dir()).map(ask)
}

/// Whether fsck found an error of this path.
pub fn found(mount: &Mount, name: &str) -> bool {
    checked(mount, |checked| checked.is_damaged(&format!("/{name}"))).expect("the volume was checked")
}

/// fsck must have found an error of this path, if the volume was checked.
pub fn expect_found(mount: &Mount, name: &str) {
    let found = checked(mount, |checked| checked.is_damaged(&format!("/{name}")));
    assert_ne!(found, Some(false), "{name}: fsck did not notice");
}

/// How many blocks of a file are readable.
#[derive(Debug, PartialEq)]
pub struct State {
    pub good: usize,
    /// EIO.
    pub bad: usize,
    /// Behind the end, or the file does not open.
    pub missing: usize,
}

/// Reads each block past the page cache. Panics at the first wrong byte and at any errno but EIO.
pub fn examine(path: &Path, content: &[u8]) -> State {
    let total = content.len().div_ceil(BLOCK);
    let opened = said(OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path));
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            assert_eq!(error, Errno::IO, "open of {}", path.display());
            return State { good: 0, bad: 0, missing: total };
        }
    };
    let mut room = vec![0u8; 2 * BLOCK];
    let skip = room.as_ptr().align_offset(BLOCK);
    let mut state = State { good: 0, bad: 0, missing: 0 };
    for (number, block) in content.chunks(BLOCK).enumerate() {
        let buffer = &mut room[skip..skip + BLOCK];
        buffer.fill(0xEE);
        match said(file.read_at(buffer, (number * BLOCK) as u64)) {
            Ok(0) => state.missing += 1,
            Ok(len) => {
                assert!(len <= block.len(), "{}: {len} bytes in block {number}, too many", path.display());
                assert!(buffer[..len] == block[..len], "{}: wrong bytes in block {number}", path.display());
                if len == block.len() { state.good += 1 } else { state.missing += 1 }
            }
            Err(error) => {
                assert_eq!(error, Errno::IO, "{}: block {number}", path.display());
                state.bad += 1;
            }
        }
    }
    state
}

/// The file must be damaged: reading it to the end fails with EIO, no wrong byte comes, and the log has its name.
pub fn expect_damage(mount: &Mount, name: &str, content: &[u8]) -> State {
    let path = mount.at(name);
    let state = examine(&path, content);
    assert!(state.bad + state.missing > 0, "{name}: the attack went unnoticed");
    assert_eq!(said(std::fs::read(&path).map(|bytes| bytes.len())), Err(Errno::IO), "{name}, read as a whole");
    mount.wait_log(&[name]);
    expect_found(mount, name);
    state
}

/// The file must be as it was.
pub fn expect_whole(mount: &Mount, name: &str, content: &[u8]) {
    let path = mount.at(name);
    let state = examine(&path, content);
    assert_eq!((state.bad, state.missing), (0, 0), "{name}");
    assert!(crate::ops::read(&path) == content, "{name}, read as a whole");
    assert_eq!(lstat(&path).len(), content.len() as u64, "{name}: size");
    let left = checked(mount, |checked| checked.left(&format!("/{name}")).join(" ")).unwrap_or_default();
    assert!(matches!(&*left, "" | "excess" | "mirror-wrong"), "{name}: fsck says {left}");
}
