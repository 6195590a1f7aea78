//! The kernel's part: it looks everything up before it uses it, and forgets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kmsfs::content::Durability;
use kmsfs::crypto::Suite;
use kmsfs::envelope::{NameForm, NewVolume, Placement, Volume, VolumeHeader, create_volume};
use kmsfs::fs::{Attr, Caller, EncryptedFs, FileKind, FsConfig, Ino, Looked, OpenMode, Time};
use kmsfs::kms::LocalKms;
use kmsfs::sys::process::effective_uid;
use tempfile::TempDir;

use crate::ops::{At, Op};
use crate::tree::{Answer, Id, Mtime, Name, ROOT, Tree};

/// What the kernel knows of an inode.
struct Known {
    ino: Ino,
    generation: u64,
    lookups: u64,
}

pub struct Handle {
    pub fh: u64,
    pub node: Id,
    pub write: bool,
    pub finds_end: bool,
}

pub struct Kernel {
    backing: TempDir,
    kms: Arc<LocalKms>,
    durability: Durability,
    fs: Option<Arc<EncryptedFs>>,
    pub tree: Tree,
    dentries: BTreeMap<Name, Id>,
    known: HashMap<Id, Known>,
    pub handles: Vec<Handle>,
    pub caller: Caller,
    began: Time,
}

/// Where envelopes lie: `KMSFS_TEST_PLACEMENT=sidecar` moves them out of the attributes.
pub fn placement() -> Placement {
    let is_sidecar = std::env::var_os("KMSFS_TEST_PLACEMENT").is_some_and(|value| value == "sidecar");
    if is_sidecar { Placement::Sidecar } else { Placement::Xattr }
}

/// `KMSFS_TEST_SUITE=xts` runs the model with the XTS suite.
fn suite() -> Suite {
    let name = std::env::var("KMSFS_TEST_SUITE").unwrap_or_else(|_| "gcm".into());
    Suite::from_name(&name).expect("KMSFS_TEST_SUITE is gcm or xts")
}

impl Kernel {
    pub fn new(names: NameForm, durability: Durability) -> Self {
        let backing = tempfile::tempdir().unwrap();
        let (kms, key) = LocalKms::ephemeral();
        let caller = Caller { uid: effective_uid(), gid: 0, pid: std::process::id() };
        let labels = BTreeMap::new();
        let new = NewVolume { key: &key, suite: suite(), placement: placement(), names, labels: &labels };
        let volume = create_volume(backing.path(), &kms, &new).unwrap();
        let mut kernel = Self {
            backing,
            kms: Arc::new(kms),
            durability,
            fs: None,
            tree: Tree::new(),
            dentries: BTreeMap::new(),
            known: HashMap::new(),
            handles: Vec::new(),
            caller,
            // The store's clock may lag by a tick.
            began: (SystemTime::now() - Duration::from_secs(2)).into(),
        };
        kernel.mount(volume);
        kernel
    }

    pub fn root(&self) -> &Path {
        self.backing.path()
    }

    /// The filesystem that is mounted.
    pub fn fs(&self) -> Arc<EncryptedFs> {
        self.fs.clone().expect("it is mounted")
    }

    fn mount(&mut self, volume: Volume) {
        let (backing, durability) = (self.root().to_path_buf(), self.durability);
        let config = FsConfig { backing, read_only: false, durability, allow_other: false };
        self.fs = Some(EncryptedFs::new(volume, self.kms.clone(), config).unwrap());
    }

    /// Drops the filesystem and waits until its thread has let go of it, too.
    fn drop_fs(&mut self) {
        let fs = self.fs.take().expect("it is mounted");
        let weak = Arc::downgrade(&fs);
        drop(fs);
        while weak.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.dentries.clear();
        self.known.clear();
        self.handles.clear();
        let named: BTreeSet<Id> = self.tree.names().into_iter().map(|(_, id)| id).collect();
        self.tree.nodes.retain(|id, _| *id == ROOT || named.contains(id));
    }

    /// The end of a mount.
    pub fn unmount(&mut self) {
        while let Some(handle) = self.handles.pop() {
            self.fs().flush(handle.fh).unwrap();
            self.fs().release(handle.fh);
        }
        self.fs().shut_down();
        self.drop_fs();
    }

    /// Mounts once more, after an orderly end or (everything having been synced) after a kill.
    pub fn remount(&mut self, orderly: bool) {
        if orderly {
            self.unmount();
        } else {
            for (name, id) in self.tree.names() {
                if self.tree.node(id).kind == FileKind::File {
                    self.sync_file(&name);
                }
            }
            self.drop_fs();
        }
        let (header, _) = VolumeHeader::load(self.root()).unwrap();
        let volume = header.unlock(&*self.kms).unwrap();
        self.mount(volume);
        self.check_all_attributes();
    }

    fn sync_file(&mut self, at: &Name) {
        let (_, ino) = self.look(at);
        let opened = self.fs().open(&self.caller, ino, OpenMode::default()).unwrap();
        self.fs().fsync(opened.handle, false).unwrap();
        self.fs().release(opened.handle);
    }

    /// A name that an operation speaks of.
    pub fn resolve(&self, at: &At) -> Name {
        let names = self.tree.names();
        if at.existing && !names.is_empty() {
            return names[usize::from(at.dir) % names.len()].0.clone();
        }
        let dirs = self.tree.dirs();
        let name = match at.name {
            letter @ 0..=6 => vec![b'a' + letter],
            7 => vec![b'x'; 174],
            8 => vec![b'x'; 175],
            9 => vec![b'y'; 143],
            10 => vec![b'y'; 255],
            11 => vec![b'z'; 200],
            _ => vec![b'z'; if at.dir.is_multiple_of(4) { 256 } else { 254 }],
        };
        Name { dir: dirs[usize::from(at.dir) % dirs.len()], name }
    }

    /// Notes a reference that the filesystem gave.
    pub fn told(&mut self, at: &Name, id: Id, looked: &Looked) {
        let fresh = Known { ino: looked.attr.ino, generation: looked.generation, lookups: 0 };
        let known = self.known.entry(id).or_insert(fresh);
        assert_eq!((known.ino, known.generation), (looked.attr.ino, looked.generation), "{at:?} is another inode");
        known.lookups += 1;
        let (ino, lookups) = (known.ino, known.lookups);
        let others = self.known.iter().filter(|(other, known)| **other != id && known.ino == ino).count();
        assert_eq!(others, 0, "{at:?}: two inodes of number {ino:?}, {lookups} lookups");
        self.dentries.insert(at.clone(), id);
        self.check_attr(id, &looked.attr);
    }

    /// The inode of a directory, which is looked up from the root on if need be.
    pub fn dir(&mut self, dir: Id) -> Ino {
        if dir == ROOT {
            return Ino::ROOT;
        }
        let name = self.tree.name_of_dir(dir);
        self.look(&name).1
    }

    /// The inode of an existing name.
    pub fn look(&mut self, at: &Name) -> (Id, Ino) {
        let id = self.tree.find(at).expect("the name is in the tree");
        let parent = self.dir(at.dir);
        if !self.dentries.contains_key(at) {
            let looked = self.fs().lookup(parent, &at.name).unwrap_or_else(|e| panic!("{at:?}: {e}"));
            self.told(at, id, &looked);
        }
        (id, self.known[&id].ino)
    }

    /// As the kernel before it makes, removes or replaces a name; returns the directory.
    pub fn look_before(&mut self, at: &Name) -> Ino {
        let parent = self.dir(at.dir);
        match self.tree.find(at) {
            Ok(_) => {
                self.look(at);
            }
            Err(error) => {
                let looked = self.fs().lookup(parent, &at.name);
                assert_eq!(looked.map(|_| ()).map_err(|error| error.errno()), Err(error), "lookup of {at:?}");
            }
        }
        parent
    }

    /// The inode number of a node in use.
    pub fn ino(&self, id: Id) -> Ino {
        if id == ROOT { Ino::ROOT } else { self.known[&id].ino }
    }

    /// The name is gone.
    pub fn drop_dentry(&mut self, at: &Name) {
        if let Some(id) = self.dentries.remove(at) {
            self.drop_if_unused(id);
        }
    }

    /// d_move: what the kernel knows under one name it knows under the other now.
    pub fn move_dentry(&mut self, from: &Name, to: &Name, exchange: bool) {
        let (source, target) = (self.dentries.remove(from), self.dentries.remove(to));
        if let Some(source) = source {
            self.dentries.insert(to.clone(), source);
        }
        match target {
            Some(target) if exchange => {
                self.dentries.insert(from.clone(), target);
            }
            Some(target) => self.drop_if_unused(target),
            None => {}
        }
    }

    pub fn drop_if_unused(&mut self, id: Id) {
        let used = self.dentries.values().any(|known| *known == id) || self.handles.iter().any(|h| h.node == id);
        if used {
            return;
        }
        if let Some(known) = self.known.remove(&id) {
            self.fs().forget(known.ino, known.lookups);
        }
        if id != ROOT && self.tree.nodes.get(&id).is_some_and(|node| node.links == 0) {
            self.tree.nodes.remove(&id);
        }
    }

    /// Shrinks the dentry cache by one, if that one is at the end of a path and of no open file.
    pub fn forget(&mut self, pick: usize) {
        let leaf =
            |id: Id| !self.dentries.keys().any(|name| name.dir == id) && !self.handles.iter().any(|h| h.node == id);
        let names: Vec<Name> =
            self.dentries.iter().filter(|(_, id)| leaf(**id)).map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            self.drop_dentry(&names[pick % names.len()]);
        }
    }

    pub fn forget_all(&mut self) {
        let mut before = usize::MAX;
        while self.dentries.len() < before {
            before = self.dentries.len();
            self.forget(0);
        }
    }

    /// Panics if attributes are not what the tree says.
    pub fn check_attr(&self, id: Id, attr: &Attr) {
        let (node, stat) = (self.tree.node(id), &attr.stat);
        assert_eq!(stat.kind, node.kind);
        if stat.kind != FileKind::Symlink && id != ROOT {
            assert_eq!(stat.perm, node.perm, "mode of {id}");
        }
        if stat.kind != FileKind::Directory {
            assert_eq!(stat.nlink, node.links, "links of {id}");
            assert_eq!(stat.size, node.bytes.len() as u64, "size of {id}");
        }
        if let Mtime::Exact(time) = node.mtime {
            assert_eq!(stat.mtime, time, "mtime of {id}");
        }
    }

    /// The same once everything is on the disk.
    pub fn check_synced(&self, id: Id, attr: &Attr) {
        self.check_attr(id, attr);
        if self.tree.node(id).mtime == Mtime::Recent {
            let (found, began) = (attr.stat.mtime, self.began);
            assert!((found.seconds, found.nanos) >= (began.seconds, began.nanos), "mtime of {id}: {found:?}");
        }
    }

    fn check_all_attributes(&mut self) {
        for (name, _) in self.tree.names() {
            let (id, ino) = self.look(&name);
            let attr = self.fs().getattr(ino, None).unwrap_or_else(|e| panic!("getattr {name:?}: {e}"));
            self.check_synced(id, &attr);
        }
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Statfs => assert!(self.fs().statfs().unwrap().blocks > 0),
            Op::Forget(pick) => self.forget(usize::from(*pick)),
            Op::ForgetAll => self.forget_all(),
            Op::CheckAll => self.compare_all(),
            Op::Remount => {
                self.remount(true);
                self.compare_all();
            }
            Op::Kill => {
                self.remount(false);
                self.compare_all();
            }
            other => {
                if !self.step_contents(other) {
                    self.step_names(other);
                }
            }
        }
    }
}

/// Both must answer alike.
pub fn agree<T>(what: &Op, got: kmsfs::fs::Result<T>, expected: Answer<()>) -> Option<T> {
    let got = got.map_err(|error| error.errno());
    assert_eq!(got.as_ref().map(|_| ()).map_err(|error| *error), expected, "{what:?}");
    got.ok()
}
