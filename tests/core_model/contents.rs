//! Operations on open files.

use kmsfs::fs::{Allocation, Changes, Errno, FileKind, NewMode, OpenMode, SetTime, WriteOrigin};

use crate::kernel::{Handle, Kernel, agree};
use crate::ops::{At, Op};
use crate::tree::{Id, Mtime, Name, Node};

/// Longest file; what would make a longer one is left out.
const MOST: usize = 700_000;
const HANDLES: usize = 8;

pub const NO_CHANGES: Changes =
    Changes { perm: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep, ctime: None };

/// Bytes none of which is zero, so that they are data.
fn pattern(fill: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| 1 + ((usize::from(fill) + at + at / 4096) % 255) as u8).collect()
}

impl Kernel {
    fn handle(&self, pick: u16, to_write: bool) -> Option<usize> {
        let fit: Vec<usize> = (0..self.handles.len()).filter(|at| !to_write || self.handles[*at].write).collect();
        (!fit.is_empty()).then(|| fit[usize::from(pick) % fit.len()])
    }

    fn file(&self, pick: u16) -> Option<Name> {
        let is_file = |id: Id| self.tree.node(id).kind == FileKind::File;
        let files: Vec<Name> =
            self.tree.names().into_iter().filter(|(_, id)| is_file(*id)).map(|(name, _)| name).collect();
        (!files.is_empty()).then(|| files[usize::from(pick) % files.len()].clone())
    }

    /// Does an operation on a file, if it is one.
    pub fn step_contents(&mut self, op: &Op) -> bool {
        match *op {
            Op::Create { at, perm, exclusive, append } => {
                self.create(op, at, perm, OpenMode { write: true, append, exclusive, ..OpenMode::default() });
            }
            Op::Open { file, write, truncate, append } => {
                let truncate = truncate && write;
                // As on a shared tree.
                let finds_end = append;
                self.open(op, file, OpenMode { write, truncate, append, finds_end, ..OpenMode::default() });
            }
            Op::Truncate { file, size, by_handle } => self.truncate(op, file, size, by_handle),
            Op::Copy { from, to, at, len } => self.copy(op, (from, to), at, len),
            _ => return self.step_handle(op),
        }
        true
    }

    fn step_handle(&mut self, op: &Op) -> bool {
        let (pick, to_write) = match *op {
            Op::Write { handle, .. } | Op::Allocate { handle, .. } => (handle, true),
            Op::Read { handle, .. } | Op::Seek { handle, .. } | Op::Fsync { handle, .. } => (handle, false),
            Op::Release(handle) | Op::Flush(handle) => (handle, false),
            _ => return false,
        };
        let Some(index) = self.handle(pick, to_write) else { return true };
        let (fh, id) = (self.handles[index].fh, self.handles[index].node);
        match *op {
            Op::Release(_) => {
                self.handles.swap_remove(index);
                agree(op, self.fs().flush(fh), Ok(()));
                self.fs().release(fh);
                self.drop_if_unused(id);
            }
            Op::Read { at, len, .. } => self.read(fh, id, at, len),
            Op::Write { at, len, fill, origin, .. } => self.write(op, index, (at, len, fill), origin),
            Op::Allocate { at, len, what, .. } => self.allocate(op, (fh, id), (at, len), what),
            Op::Seek { at, .. } => self.seek(fh, id, at),
            Op::Fsync { data_only, .. } => {
                agree(op, self.fs().fsync(fh, data_only), Ok(()));
                let attr = self.fs().getattr(self.ino(id), Some(fh)).unwrap();
                self.check_synced(id, &attr);
            }
            _ => {
                agree(op, self.fs().flush(fh), Ok(()));
            }
        }
        true
    }

    fn create(&mut self, op: &Op, at: At, perm: u32, mode: OpenMode) {
        let at = self.resolve(&at);
        if self.handles.len() >= HANDLES {
            return;
        }
        let parent = self.look_before(&at);
        let vacant = self.tree.vacant(&at);
        let expected = match vacant {
            Err(Errno::EXIST) if !mode.exclusive => Err(Errno::STALE),
            other => other,
        };
        let made = self.fs().create(&self.caller, parent, &at.name, NewMode { perm, umask: 0 }, mode);
        let Some(made) = agree(op, made, expected) else { return };
        let id = self.tree.add(&at, Node::new(FileKind::File, perm, Vec::new()));
        self.told(&at, id, &made.looked);
        self.handles.push(Handle { fh: made.handle, node: id, write: true, finds_end: mode.finds_end });
    }

    fn open(&mut self, op: &Op, file: u16, mode: OpenMode) {
        let Some(at) = self.file(file).filter(|_| self.handles.len() < HANDLES) else { return };
        let (id, ino) = self.look(&at);
        let Some(opened) = agree(op, self.fs().open(&self.caller, ino, mode), Ok(())) else { return };
        if mode.truncate {
            let node = self.tree.node_mut(id);
            node.mtime = if node.bytes.is_empty() { Mtime::Any } else { Mtime::Recent };
            node.bytes.clear();
        }
        self.handles.push(Handle { fh: opened.handle, node: id, write: mode.write, finds_end: mode.finds_end });
        let attr = self.fs().getattr(ino, Some(opened.handle)).unwrap();
        self.check_attr(id, &attr);
    }

    fn read(&self, fh: u64, id: Id, at: usize, len: usize) {
        let bytes = &self.tree.node(id).bytes;
        let from = bytes.len().min(at);
        let mut out = vec![0xee; len];
        let count = self.fs().read(fh, at as u64, &mut out).unwrap();
        assert!(out[..count] == bytes[from..bytes.len().min(at + len)], "read of {len} at {at} of {id}");
    }

    fn write(&mut self, op: &Op, index: usize, (at, len, fill): (usize, usize, u8), origin: WriteOrigin) {
        let (fh, id, finds_end) = (self.handles[index].fh, self.handles[index].node, self.handles[index].finds_end);
        let at = if finds_end && origin != WriteOrigin::Cache { self.tree.node(id).bytes.len() } else { at };
        if at + len > MOST {
            return;
        }
        let data = pattern(fill, len);
        agree(op, self.fs().write(fh, at as u64, &data, origin), Ok(()));
        self.tree.node_mut(id).write(at, &data);
    }

    fn truncate(&mut self, op: &Op, file: u16, size: usize, by_handle: bool) {
        let by_handle = by_handle.then(|| self.handle(file, true)).flatten();
        let (id, ino, fh) = match (by_handle, self.file(file)) {
            (Some(index), _) => {
                let handle = &self.handles[index];
                (handle.node, self.ino(handle.node), Some(handle.fh))
            }
            (None, Some(at)) => {
                let (id, ino) = self.look(&at);
                (id, ino, None)
            }
            (None, None) => return,
        };
        let changes = Changes { size: Some(size as u64), ..NO_CHANGES };
        let Some(attr) = agree(op, self.fs().setattr(&self.caller, ino, &changes, fh), Ok(())) else { return };
        let node = self.tree.node_mut(id);
        node.mtime = if node.bytes.len() == size { Mtime::Any } else { Mtime::Recent };
        node.bytes.resize(size, 0);
        self.check_attr(id, &attr);
    }

    fn allocate(&mut self, op: &Op, (fh, id): (u64, Id), (at, len): (usize, usize), what: Allocation) {
        if at + len > MOST {
            return;
        }
        agree(op, self.fs().fallocate(&self.caller, fh, at as u64, len as u64, what), Ok(()));
        let node = self.tree.node_mut(id);
        if !matches!(what, Allocation::Reserve { .. }) {
            node.zero(at, len);
        }
        if matches!(what, Allocation::Reserve { keep_size: false } | Allocation::Zero { keep_size: false }) {
            let end = node.bytes.len().max(at + len);
            node.bytes.resize(end, 0);
        }
        node.mtime = Mtime::Any;
    }

    fn seek(&self, fh: u64, id: Id, at: usize) {
        let bytes = &self.tree.node(id).bytes;
        let find = |hole| self.fs().seek(fh, at as u64, hole).map_err(|error| error.errno()).map(|at| at as usize);
        let (data, hole) = (find(false), find(true));
        if at >= bytes.len() {
            assert_eq!((data, hole), (Err(Errno::NXIO), Err(Errno::NXIO)), "seek behind the end of {id}");
            return;
        }
        let next = bytes[at..].iter().position(|byte| *byte != 0).map(|skip| at + skip);
        match (data, next) {
            (Ok(data), Some(next)) => assert!(data >= at && data <= next, "data of {id} at {next} is found at {data}"),
            (Ok(data), None) => assert!(data >= at && data < bytes.len()),
            (Err(error), next) => assert_eq!((error, next), (Errno::NXIO, None), "data of {id} from {at} on"),
        }
        let hole = hole.expect("the end is a hole");
        assert!(hole >= at && hole <= bytes.len());
        assert!(hole == bytes.len() || bytes[hole] == 0, "a hole of {id} at {hole} has data");
    }

    fn copy(&mut self, op: &Op, (from, to): (u16, u16), at: usize, len: usize) {
        let (Some(from), Some(to)) = (self.handle(from, false), self.handle(to, true)) else { return };
        let (from, to) = (&self.handles[from], &self.handles[to]);
        if from.node == to.node {
            return;
        }
        let (fhs, target) = ((from.fh, to.fh), to.node);
        let source = &self.tree.node(from.node).bytes;
        let data = source[source.len().min(at)..source.len().min(at + len)].to_vec();
        let copied = self.fs().copy_range((fhs.0, at as u64), (fhs.1, at as u64), len as u64);
        assert_eq!(agree(op, copied, Ok(())), Some(data.len() as u64));
        if !data.is_empty() {
            self.tree.node_mut(target).write(at, &data);
        }
    }
}
