//! The walk: directories and their entries over several threads.
//!
//! Work lies on one stack, so that the walk goes deep before it goes wide: what is open or in memory at a time are the
//! directories on the way to where the threads are. A directory that waits for its turn is a name and a key.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::crypto::{DataKey, Suite, derive};
use crate::envelope::Place;
use crate::kms::KeyId;
use crate::names::{DirNames, NameEncoding, shown};
use crate::sys::dir::Access;
use crate::sys::{self, Errno};

/// Entries that a thread takes at a time.
const BATCH: usize = 128;

/// Where an object is: a chain of names up to the root.
pub struct Node {
    parent: Option<Arc<Node>>,
    /// The name on the backing store.
    pub stored: Box<[u8]>,
    /// The plain name, if it is known.
    pub plain: Option<Box<[u8]>>,
    /// How many directories are above it.
    pub depth: usize,
}

impl Node {
    /// The root directory.
    pub fn root() -> Arc<Self> {
        Arc::new(Self { parent: None, stored: Box::default(), plain: Some(Box::default()), depth: 0 })
    }

    /// An entry of `parent`.
    pub fn below(parent: &Arc<Self>, stored: &[u8], plain: Option<&[u8]>) -> Arc<Self> {
        let (stored, plain) = (stored.into(), plain.map(Into::into));
        Arc::new(Self { parent: Some(parent.clone()), stored, plain, depth: parent.depth + 1 })
    }

    fn chain(&self) -> Vec<&Self> {
        let mut chain: Vec<&Self> = std::iter::successors(Some(self), |node| node.parent.as_deref()).collect();
        chain.pop();
        chain.reverse();
        chain
    }

    /// The plain path, with `?` and the stored name where a name is not known.
    pub fn path(&self) -> String {
        let name = |node: &&Self| match &node.plain {
            Some(plain) => format!("/{}", shown(plain)),
            None => format!("/?{}", shown(&node.stored)),
        };
        let path: String = self.chain().iter().map(name).collect();
        if path.is_empty() { "/".to_owned() } else { path }
    }

    /// The path below the backing tree.
    pub fn stored_path(&self) -> String {
        let names: Vec<String> = self.chain().iter().map(|node| shown(&node.stored)).collect();
        if names.is_empty() { ".".to_owned() } else { names.join("/") }
    }

    /// Opens the directory, one name after another, so that no path is too long.
    pub fn open(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let mut fd = sys::dir::reopen_dir(root)?;
        for node in self.chain() {
            fd = sys::dir::open_dir(fd.as_fd(), &node.stored, Access::Read)?;
        }
        Ok(fd)
    }
}

impl Drop for Node {
    /// One after another: a chain may be longer than a stack is deep.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.parent.take();
        }
    }
}

/// A directory that waits for its turn.
pub struct Below {
    /// Where it is.
    pub node: Arc<Node>,
    /// Its data key.
    pub key: DataKey,
    /// The CMK that wrapped it, which entries inherit.
    pub cmk: KeyId,
    /// The suite that it gives on.
    pub suite: Suite,
    /// What its own envelope is bound to.
    pub place: Place,
}

/// An open directory.
pub struct Dir {
    /// Where it is.
    pub node: Arc<Node>,
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Its id.
    pub id: [u8; 16],
    /// What its own envelope is bound to.
    pub own_place: Place,
    /// The CMK for entries that need a new key.
    pub cmk: KeyId,
    /// The suite that it gives on.
    pub suite: Suite,
    /// Its names.
    pub names: DirNames,
}

impl Dir {
    /// What the envelopes of its entries are bound to.
    pub fn place(&self) -> Place {
        Place::In(self.id)
    }
}

/// What is done on a walk.
pub trait Visitor: Sync {
    /// Called for each directory before its entries are visited, with all names in it; those that are left are visited.
    /// What is returned is the same directory with its right key: it is walked instead.
    fn enter(&self, dir: &Dir, names: &mut Vec<Box<[u8]>>) -> Option<Below>;

    /// Called for each entry. A directory that is returned is walked.
    fn visit(&self, dir: &Dir, name: &[u8]) -> Option<Below>;

    /// A directory could not be opened or listed.
    fn failed(&self, node: &Node, error: Errno);
}

enum Task {
    /// A directory, in the one that is open.
    Directory(Option<Arc<Dir>>, Below),
    Entries(Arc<Dir>, Vec<Box<[u8]>>),
}

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    working: usize,
}

struct Walk<'a, V> {
    root: BorrowedFd<'a>,
    encoding: NameEncoding,
    visitor: &'a V,
    stop: &'a AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Walks from the directory `start` on with so many threads, until all was visited or `stop` is set.
pub fn walk<V: Visitor>(
    root: BorrowedFd<'_>,
    encoding: NameEncoding,
    start: Below,
    visitor: &V,
    threads: usize,
    stop: &AtomicBool,
) {
    let queue = Mutex::new(Queue { tasks: vec![Task::Directory(None, start)], working: 0 });
    let walk = Walk { root, encoding, visitor, stop, queue, changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(|| walk.work());
        }
        walk.work();
    });
}

/// Says that a thread is done with its task, whatever became of it.
struct Working<'a>(&'a Mutex<Queue>, &'a Condvar);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.working -= 1;
        if queue.working == 0 && queue.tasks.is_empty() {
            self.1.notify_all();
        }
    }
}

impl<V: Visitor> Walk<'_, V> {
    fn work(&self) {
        while let Some(task) = self.next() {
            let _working = Working(&self.queue, &self.changed);
            match task {
                Task::Directory(parent, below) => self.enter(parent.as_deref(), below),
                Task::Entries(dir, names) => self.visit(&dir, &names),
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                queue.tasks.clear();
            }
            if let Some(task) = queue.tasks.pop() {
                queue.working += 1;
                return Some(task);
            }
            if queue.working == 0 {
                self.changed.notify_all();
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }

    fn push(&self, tasks: impl IntoIterator<Item = Task>) {
        self.queue.lock().tasks.extend(tasks);
        self.changed.notify_all();
    }

    fn enter(&self, parent: Option<&Dir>, below: Below) {
        let opened = match parent {
            Some(parent) => sys::dir::open_dir(parent.fd.as_fd(), &below.node.stored, Access::Read),
            None => below.node.open(self.root),
        };
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let listed = opened.and_then(|fd| {
            sys::dir::list(fd.as_fd(), 0, |entry| {
                if !matches!(entry.name, b"." | b"..") {
                    names.push(entry.name.into());
                }
                true
            })?;
            Ok(fd)
        });
        let fd = match listed {
            Ok(fd) => fd,
            Err(error) => return self.visitor.failed(&below.node, error),
        };
        let Below { node, key, cmk, suite, place } = below;
        let id = derive::directory_id(&key);
        let names_of = DirNames::new(&key, self.encoding);
        let dir = Arc::new(Dir { node, fd, id, own_place: place, cmk, suite, names: names_of });
        if let Some(right) = self.visitor.enter(&dir, &mut names) {
            return self.enter(parent, right);
        }
        let mut tasks = Vec::new();
        while !names.is_empty() {
            let last = names.split_off(names.len().saturating_sub(BATCH));
            tasks.push(Task::Entries(dir.clone(), last));
        }
        self.push(tasks);
    }

    fn visit(&self, dir: &Arc<Dir>, names: &[Box<[u8]>]) {
        let mut found = Vec::new();
        for name in names {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            found.extend(self.visitor.visit(dir, name).map(|below| Task::Directory(Some(dir.clone()), below)));
        }
        self.push(found);
    }
}
