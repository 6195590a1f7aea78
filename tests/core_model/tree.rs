//! The tree in memory: what POSIX says of names, links and bytes.

use std::collections::{BTreeMap, HashMap};

use kmsfs::fs::{Errno, FileKind, RenameFlags, Time};

pub type Id = usize;
pub type Answer<T> = Result<T, Errno>;

pub const ROOT: Id = 0;
const NAME_MAX: usize = 255;

/// What is known of a modification time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mtime {
    /// Nothing.
    Any,
    /// It was set, and nothing was written since.
    Exact(Time),
    /// Content was written: once it is on the disk the time is one since the test began.
    Recent,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub kind: FileKind,
    pub perm: u32,
    pub mtime: Mtime,
    /// Content of a file, target of a symlink.
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Id>,
    pub links: u32,
}

impl Node {
    pub fn new(kind: FileKind, perm: u32, bytes: Vec<u8>) -> Self {
        let (xattrs, entries) = (BTreeMap::new(), BTreeMap::new());
        Self { kind, perm, mtime: Mtime::Any, bytes, xattrs, entries, links: 0 }
    }

    /// As write(2).
    pub fn write(&mut self, at: usize, data: &[u8]) {
        self.bytes.resize(self.bytes.len().max(at + data.len()), 0);
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.mtime = Mtime::Recent;
    }

    /// Makes a range zero, as far as there is content.
    pub fn zero(&mut self, at: usize, len: usize) {
        let end = self.bytes.len().min(at + len);
        if at < end {
            self.bytes[at..end].fill(0);
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub dir: Id,
    pub name: Vec<u8>,
}

pub struct Tree {
    pub nodes: HashMap<Id, Node>,
    next: Id,
}

impl Tree {
    pub fn new() -> Self {
        let nodes = HashMap::from([(ROOT, Node::new(FileKind::Directory, 0o755, Vec::new()))]);
        Self { nodes, next: 1 }
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("the node is in the tree")
    }

    pub fn is_dir(&self, id: Id) -> bool {
        self.node(id).kind == FileKind::Directory
    }

    /// Directories that have a name, the root first.
    pub fn dirs(&self) -> Vec<Id> {
        let mut dirs = vec![ROOT];
        dirs.extend(self.names().iter().map(|(_, id)| *id).filter(|id| self.is_dir(*id)));
        dirs
    }

    /// Every name and what it leads to, parents before their entries.
    pub fn names(&self) -> Vec<(Name, Id)> {
        let (mut names, mut waiting) = (Vec::new(), vec![ROOT]);
        while let Some(dir) = waiting.pop() {
            for (name, id) in &self.node(dir).entries {
                names.push((Name { dir, name: name.clone() }, *id));
                if self.is_dir(*id) {
                    waiting.push(*id);
                }
            }
        }
        names
    }

    /// The name of a directory other than the root.
    pub fn name_of_dir(&self, dir: Id) -> Name {
        let found = self.names().into_iter().find(|(_, id)| *id == dir);
        found.expect("a directory in use has a name").0
    }

    pub fn find(&self, at: &Name) -> Answer<Id> {
        if at.name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.node(at.dir).entries.get(&at.name).copied().ok_or(Errno::NOENT)
    }

    /// Entries changed, or were about to: the kernel itself refuses most of what fails here.
    pub fn touch(&mut self, dir: Id) {
        self.node_mut(dir).mtime = Mtime::Any;
    }

    /// Whether a new object may have this name.
    pub fn vacant(&self, at: &Name) -> Answer<()> {
        match self.find(at) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub fn add(&mut self, at: &Name, node: Node) -> Id {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.link(at, id);
        id
    }

    pub fn link(&mut self, at: &Name, id: Id) {
        self.touch(at.dir);
        self.node_mut(at.dir).entries.insert(at.name.clone(), id);
        self.node_mut(id).links += 1;
    }

    pub fn unlink(&mut self, at: &Name) {
        self.touch(at.dir);
        let id = self.node_mut(at.dir).entries.remove(&at.name).expect("the name is there");
        self.node_mut(id).links -= 1;
    }

    /// Whether `id` is `dir` or above it.
    fn encloses(&self, id: Id, mut dir: Id) -> bool {
        while dir != id && dir != ROOT {
            dir = self.name_of_dir(dir).dir;
        }
        dir == id
    }

    /// As renameat2(2). True if anything changed.
    pub fn rename(&mut self, from: &Name, to: &Name, flags: RenameFlags) -> Answer<bool> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if from.name.len() > NAME_MAX || to.name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let (id, target) = (self.find(from)?, self.find(to).ok());
        match target {
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            _ => {}
        }
        if self.is_dir(id) && self.encloses(id, to.dir) {
            return Err(Errno::INVAL);
        }
        if target.is_some_and(|target| self.is_dir(target) && self.encloses(target, from.dir)) {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if target == Some(id) {
            return Ok(false);
        }
        if let (Some(target), false) = (target, exchange) {
            match (self.is_dir(id), self.is_dir(target)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.node(target).entries.is_empty() => return Err(Errno::NOTEMPTY),
                _ => {}
            }
        }
        self.unlink(from);
        if target.is_some() {
            self.unlink(to);
        }
        self.link(to, id);
        if let (Some(target), true) = (target, exchange) {
            self.link(from, target);
        }
        Ok(true)
    }
}
