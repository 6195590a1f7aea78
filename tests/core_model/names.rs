//! Operations on names and attributes, and the comparison of everything.

use std::collections::BTreeSet;

use kmsfs::fs::{Changes, Errno, FileKind, Ino, Location, NewMode, OpenMode, RenameFlags, SetTime, Time, XattrMode};

use crate::contents::NO_CHANGES;
use crate::kernel::{Kernel, agree};
use crate::ops::Op;
use crate::tree::{Answer, Id, Mtime, Name, Node};

fn attribute(number: u8) -> Vec<u8> {
    match number {
        4 => [b"user.".as_slice(), &[b'n'; 167]].concat(),
        number => format!("user.{}", ["a", "comment", "b c", "kmsf"][usize::from(number)]).into_bytes(),
    }
}

impl Kernel {
    /// Does an operation on a name.
    pub fn step_names(&mut self, op: &Op) {
        match *op {
            Op::Unlink(at) => self.remove(op, self.resolve(&at), false),
            Op::Rmdir(at) => self.remove(op, self.resolve(&at), true),
            Op::Mkdir { at, perm } => {
                self.make(op, self.resolve(&at), Node::new(FileKind::Directory, perm, Vec::new()))
            }
            Op::Mknod { at, kind, perm } => self.make(op, self.resolve(&at), Node::new(kind, perm, Vec::new())),
            Op::Symlink { at, len } => {
                let target = (0..len).map(|at| b'a' + (at % 26) as u8).collect();
                self.make(op, self.resolve(&at), Node::new(FileKind::Symlink, 0o777, target));
            }
            Op::Rename { from, to, flags } => self.rename(op, &self.resolve(&from), &self.resolve(&to), flags),
            Op::Link { from, to } => self.link(op, &self.resolve(&from), &self.resolve(&to)),
            Op::Lookup(at) => {
                let at = self.resolve(&at);
                self.look_before(&at);
            }
            Op::Readdir { dir, plus, step } => {
                let dirs = self.tree.dirs();
                self.list(dirs[usize::from(dir) % dirs.len()], plus, step);
            }
            Op::SetXattr { at, name, len, mode } => {
                self.set_xattr(op, &self.resolve(&at), attribute(name), vec![name; len], mode);
            }
            Op::RemoveXattr { at, name } => self.remove_xattr(op, &self.resolve(&at), &attribute(name)),
            Op::Chmod { at, perm } => self.change(op, &self.resolve(&at), Some(perm), None),
            Op::Utimes { at, seconds } => {
                self.change(op, &self.resolve(&at), None, Some(Time { seconds, nanos: seconds as u32 }));
            }
            ref other => unreachable!("{other:?} is no operation on a name"),
        }
    }

    fn make(&mut self, op: &Op, at: Name, node: Node) {
        let parent = self.look_before(&at);
        let (place, new) = (Location::new(parent, &at.name), NewMode { perm: node.perm, umask: 0 });
        let (fs, caller) = (self.fs(), self.caller);
        let made = match node.kind {
            FileKind::Directory => fs.mkdir(&caller, place, new),
            FileKind::Symlink => fs.symlink(&caller, place, &node.bytes),
            kind => fs.mknod(&caller, place, kind, new, 0),
        };
        self.tree.touch(at.dir);
        if let Some(looked) = agree(op, made, self.tree.vacant(&at)) {
            let id = self.tree.add(&at, node);
            self.told(&at, id, &looked);
        }
    }

    fn remove(&mut self, op: &Op, at: Name, directory: bool) {
        let parent = self.look_before(&at);
        let expected = self.tree.find(&at).and_then(|id| match (directory, self.tree.is_dir(id)) {
            (false, true) => Err(Errno::ISDIR),
            (true, false) => Err(Errno::NOTDIR),
            (true, true) if !self.tree.node(id).entries.is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        });
        let fs = self.fs();
        let removed = if directory { fs.rmdir(parent, &at.name) } else { fs.unlink(parent, &at.name) };
        if agree(op, removed, expected).is_some() {
            self.tree.unlink(&at);
            self.drop_dentry(&at);
        }
    }

    fn rename(&mut self, op: &Op, from: &Name, to: &Name, flags: RenameFlags) {
        let (parent, to_parent) = (self.look_before(from), self.look_before(to));
        let expected = self.tree.rename(from, to, flags);
        let (old, new) = (Location::new(parent, &from.name), Location::new(to_parent, &to.name));
        let renamed = self.fs().rename(&self.caller, &old, &new, flags);
        agree(op, renamed, expected.map(|_| ()));
        self.tree.touch(from.dir);
        self.tree.touch(to.dir);
        if expected == Ok(true) {
            self.move_dentry(from, to, flags.contains(RenameFlags::EXCHANGE));
        }
    }

    fn link(&mut self, op: &Op, from: &Name, to: &Name) {
        self.look_before(from);
        let parent = self.look_before(to);
        let Some(id) = self.tree.find(from).ok().filter(|id| !self.tree.is_dir(*id)) else { return };
        let linked = self.fs().link(&self.caller, self.ino(id), Location::new(parent, &to.name));
        if let Some(looked) = agree(op, linked, self.tree.vacant(to)) {
            self.tree.link(to, id);
            self.told(to, id, &looked);
        }
    }

    fn change(&mut self, op: &Op, at: &Name, perm: Option<u32>, mtime: Option<Time>) {
        self.look_before(at);
        let Ok(id) = self.tree.find(at) else { return };
        let node = self.tree.node_mut(id);
        let perm = match node.kind {
            FileKind::Symlink if perm.is_some() => return,
            // The owner keeps what the test needs, whoever runs it.
            FileKind::Directory => perm.map(|perm| perm | 0o700),
            _ => perm,
        };
        node.perm = perm.unwrap_or(node.perm);
        node.mtime = mtime.map_or(node.mtime, Mtime::Exact);
        let mtime = mtime.map_or(SetTime::Keep, SetTime::At);
        let changed = self.fs().setattr(&self.caller, self.ino(id), &Changes { perm, mtime, ..NO_CHANGES }, None);
        if let Some(attr) = agree(op, changed, Ok(())) {
            self.check_attr(id, &attr);
        }
    }

    /// A file or directory: the kernel refuses attributes of users on anything else.
    fn attributed(&mut self, at: &Name) -> Option<(Id, Ino)> {
        self.look_before(at);
        let id = self.tree.find(at).ok()?;
        let fit = matches!(self.tree.node(id).kind, FileKind::File | FileKind::Directory);
        fit.then(|| (id, self.ino(id)))
    }

    fn set_xattr(&mut self, op: &Op, at: &Name, name: Vec<u8>, value: Vec<u8>, mode: XattrMode) {
        let Some((id, ino)) = self.attributed(at) else { return };
        let expected: Answer<()> = match (mode, self.tree.node(id).xattrs.contains_key(&name)) {
            (XattrMode::Create, true) => Err(Errno::EXIST),
            (XattrMode::Replace, false) => Err(Errno::NODATA),
            _ => Ok(()),
        };
        let set = self.fs().setxattr(&self.caller, ino, &name, &value, mode);
        if matches!(&set, Err(error) if error.errno() == Errno::NOSPC) {
            return; // the store keeps all attributes of a file in one block
        }
        if agree(op, set, expected).is_some() {
            self.tree.node_mut(id).xattrs.insert(name, value);
        }
    }

    fn remove_xattr(&mut self, op: &Op, at: &Name, name: &[u8]) {
        let Some((id, ino)) = self.attributed(at) else { return };
        let removed = self.tree.node_mut(id).xattrs.remove(name);
        agree(op, self.fs().removexattr(&self.caller, ino, name), removed.map(|_| ()).ok_or(Errno::NODATA));
    }

    fn list(&mut self, dir: Id, plus: bool, step: usize) {
        let ino = self.dir(dir);
        let fs = self.fs();
        let handle = fs.opendir(&self.caller, ino).unwrap();
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            let before = found.len();
            fs.readdir(handle, from, |entry| {
                from = entry.next;
                found.push((entry.name.to_vec(), entry.ino, entry.kind));
                found.len() - before < step
            })
            .unwrap();
            if found.len() == before {
                break;
            }
        }
        let names: BTreeSet<Vec<u8>> = found.iter().map(|(name, _, _)| name.clone()).collect();
        assert_eq!(names.len(), found.len(), "a name of {dir} is listed twice");
        let dots = [b".".to_vec(), b"..".to_vec()];
        let expected: BTreeSet<Vec<u8>> = self.tree.node(dir).entries.keys().cloned().chain(dots).collect();
        assert_eq!(names, expected, "listing of {dir}");
        for (name, ino, kind) in found.into_iter().filter(|(name, ..)| !name.starts_with(b".")) {
            let at = Name { dir, name };
            let id = self.tree.find(&at).expect("it was compared");
            assert_eq!(kind, self.tree.node(id).kind, "{at:?}");
            if plus {
                let looked = fs.look_listed(handle, &at.name).unwrap().expect("it is there");
                assert_eq!(looked.attr.ino, ino);
                self.told(&at, id, &looked);
            }
        }
        fs.releasedir(handle);
    }

    /// Compares everything that can be asked for.
    pub fn compare_all(&mut self) {
        for dir in self.tree.dirs() {
            self.list(dir, false, 7);
        }
        for (name, _) in self.tree.names() {
            let (id, ino) = self.look(&name);
            let attr = self.fs().getattr(ino, None).unwrap_or_else(|e| panic!("getattr {name:?}: {e}"));
            self.check_attr(id, &attr);
            match self.tree.node(id).kind {
                FileKind::Symlink => {
                    let target = self.fs().readlink(&self.caller, ino).unwrap_or_else(|e| panic!("{name:?}: {e}"));
                    assert!(target == self.tree.node(id).bytes, "target of {name:?}");
                }
                FileKind::File => {
                    self.compare_bytes(&name, id, ino);
                    self.compare_xattrs(&name, id, ino);
                }
                FileKind::Directory => self.compare_xattrs(&name, id, ino),
                _ => {}
            }
        }
    }

    fn compare_bytes(&self, name: &Name, id: Id, ino: Ino) {
        let bytes = &self.tree.node(id).bytes;
        let opened = self.fs().open(&self.caller, ino, OpenMode::default());
        let opened = opened.unwrap_or_else(|e| panic!("open of {name:?}: {e}"));
        let mut out = vec![0xee; bytes.len() + 1];
        let count = self.fs().read(opened.handle, 0, &mut out).unwrap_or_else(|e| panic!("read of {name:?}: {e}"));
        assert!(out[..count] == *bytes, "content of {name:?}, {count} bytes instead of {}", bytes.len());
        self.fs().release(opened.handle);
    }

    fn compare_xattrs(&self, name: &Name, id: Id, ino: Ino) {
        let listed = self.fs().listxattr(&self.caller, ino).unwrap_or_else(|e| panic!("listxattr {name:?}: {e}"));
        let listed: BTreeSet<&[u8]> =
            listed.split(|byte| *byte == 0).filter(|listed| listed.starts_with(b"user.")).collect();
        let xattrs = &self.tree.node(id).xattrs;
        assert_eq!(listed, xattrs.keys().map(Vec::as_slice).collect(), "attributes of {name:?}");
        for (attribute, value) in xattrs {
            let found = self.fs().getxattr(&self.caller, ino, attribute).unwrap();
            assert_eq!(found.as_ref(), Some(value), "attribute of {name:?}");
        }
    }
}
