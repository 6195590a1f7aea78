//! `fuser::Filesystem` over [`EncryptedFs`]: unpack, call the operation of the same name, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::caching::Caching;
use super::control;
use super::convert::{self, caller, ino};
use super::seek::{Question, Seeker};
use super::workers::Workers;
use super::{ioctl, listing, negotiate, reply};
use crate::fs::{Attr, Caller, Changes, EncryptedFs, Errno, FileKind, Ino, Location, Result, without_privileges};

/// Longest name in a directory, in bytes.
const NAME_MAX: u32 = 255;

/// Most bytes that one copy_file_range(2) copies before it reports a short copy, which callers expect: a worker
/// cannot be interrupted while it copies.
const COPY_MAX: u32 = 64 << 20;

/// What fuser calls.
pub(super) struct Adapter {
    fs: Arc<EncryptedFs>,
    caching: Caching,
    workers: Arc<Workers>,
    /// There once the session is.
    seeker: Arc<OnceLock<Seeker>>,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<EncryptedFs>,
        caching: Caching,
        workers: Arc<Workers>,
        seeker: Arc<OnceLock<Seeker>>,
    ) -> Self {
        Self { fs, caching, workers, seeker }
    }

    /// Linux sends a setattr that sets nothing before a write that ends suid and sgid, and caches the mode in the
    /// reply. The write itself clears the bits too, but its reply has no room for the mode: without this, the
    /// kernel would go on and execute the changed file with the privileges of its owner.
    fn end_privileges(&self, caller: &Caller, number: Ino, fh: Option<u64>) -> Result<Attr> {
        let attr = self.fs.getattr(number, fh)?;
        let perm = without_privileges(attr.stat.perm);
        if attr.stat.kind != FileKind::File || perm == attr.stat.perm {
            return Ok(attr);
        }
        self.fs.setattr(caller, number, &Changes::of_perm(perm), fh)
    }
}

fn at(parent: INodeNo, name: &OsStr) -> Location {
    Location::new(ino(parent), name.as_bytes())
}

thread_local! {
    /// Where reads are decrypted to. It grows to the largest read, which max_readahead and max_write bound.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate::negotiate(config, self.caching, self.fs.has_other_users());
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.workers.run("lookup", || {
            let looked = self.fs.lookup(ino(parent), name.as_bytes());
            reply::lookup(reply, looked, self.caching);
        });
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        self.workers.run("forget", || self.fs.forget(ino(number), nlookup));
    }

    fn getattr(&self, _req: &Request, number: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.workers.run("getattr", || {
            reply::attr(reply, self.fs.getattr(ino(number), fh.map(u64::from)), self.caching);
        });
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.workers.run("setattr", || {
            let (caller, number, fh) = (caller(req), ino(number), fh.map(u64::from));
            let times = atime.is_some() || mtime.is_some() || ctime.is_some();
            if !times && mode.is_none() && uid.is_none() && gid.is_none() && size.is_none() {
                return reply::attr(reply, self.end_privileges(&caller, number, fh), self.caching);
            }
            let (atime, mtime) = (convert::set_time(atime), convert::set_time(mtime));
            let ctime = ctime.map(convert::requested_time);
            let changes = Changes { perm: mode.map(convert::perm), uid, gid, size, atime, mtime, ctime };
            reply::attr(reply, self.fs.setattr(&caller, number, &changes, fh), self.caching);
        });
    }

    fn readlink(&self, req: &Request, number: INodeNo, reply: ReplyData) {
        self.workers.run("readlink", || match self.fs.readlink(&caller(req), ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(convert::errno(error.errno())),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        self.workers.run("mknod", || {
            let (kind, new) = (FileKind::from_mode(mode), convert::new_mode(mode, umask));
            let made = self.fs.mknod(&caller(req), at(parent, name), kind, new, convert::libc_dev(rdev));
            reply::entry(reply, made, self.caching);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.workers.run("mkdir", || {
            let made = self.fs.mkdir(&caller(req), at(parent, name), convert::new_mode(mode, umask));
            reply::entry(reply, made, self.caching);
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.workers.run("unlink", || reply::empty(reply, self.fs.unlink(ino(parent), name.as_bytes())));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.workers.run("rmdir", || reply::empty(reply, self.fs.rmdir(ino(parent), name.as_bytes())));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.workers.run("symlink", || {
            let made = self.fs.symlink(&caller(req), at(parent, link_name), target.as_os_str().as_bytes());
            reply::entry(reply, made, self.caching);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.workers.run("rename", || {
            let (from, to) = (at(parent, name), at(newparent, newname));
            reply::empty(reply, self.fs.rename(&caller(req), &from, &to, convert::rename_flags(flags)));
        });
    }

    fn link(&self, req: &Request, number: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.workers.run("link", || {
            reply::entry(reply, self.fs.link(&caller(req), ino(number), at(newparent, newname)), self.caching);
        });
    }

    fn open(&self, req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.workers.run("open", || {
            let opened = self.fs.open(&caller(req), ino(number), convert::open_mode(flags, self.caching));
            reply::opened(reply, opened.map(|opened| opened.handle), self.caching.file_flags());
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.workers.run("read", || {
            BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                match self.fs.read(fh.0, offset, &mut buffer[..size]) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(error) => reply.error(convert::errno(error.errno())),
                }
            });
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.workers.run("write", || {
            let written = self.fs.write(fh.0, offset, data, convert::write_origin(write_flags));
            // One request carries at most max_write bytes.
            reply::written(reply, written.map(|()| data.len() as u32));
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.workers.run("flush", || reply::empty(reply, self.fs.flush(fh.0)));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.workers.run("release", || {
            self.fs.release(fh.0);
            reply.ok();
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.workers.run("fsync", || reply::empty(reply, self.fs.fsync(fh.0, datasync)));
    }

    fn opendir(&self, req: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.workers.run("opendir", || {
            reply::opened(reply, self.fs.opendir(&caller(req), ino(number)), self.caching.directory_flags());
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.workers.run("readdir", || listing::plain(&self.fs, fh.0, offset, reply));
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.workers.run("readdirplus", || listing::with_attributes(&self.fs, fh.0, offset, self.caching, reply));
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.workers.run("releasedir", || {
            self.fs.releasedir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.workers.run("fsyncdir", || reply::empty(reply, self.fs.fsyncdir(fh.0)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.workers.run("statfs", || match self.fs.statfs() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.free,
                s.available,
                s.files,
                s.files_free,
                s.block_size,
                NAME_MAX,
                s.fragment_size,
            ),
            Err(error) => reply.error(convert::errno(error.errno())),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.workers.run("setxattr", || {
            let set = convert::xattr_mode(flags).map_err(Into::into);
            let set = set.and_then(|mode| self.fs.setxattr(&caller(req), ino(number), name.as_bytes(), value, mode));
            reply::empty(reply, set);
        });
    }

    fn getxattr(&self, req: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.workers.run("getxattr", || {
            let value = self.fs.getxattr(&caller(req), ino(number), name.as_bytes());
            let value = value.and_then(|value| value.ok_or_else(|| Errno::NODATA.into()));
            reply::xattr(reply, value, size);
        });
    }

    fn listxattr(&self, req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.workers.run("listxattr", || reply::xattr(reply, self.fs.listxattr(&caller(req), ino(number)), size));
    }

    fn removexattr(&self, req: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.workers.run("removexattr", || {
            reply::empty(reply, self.fs.removexattr(&caller(req), ino(number), name.as_bytes()));
        });
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.workers.run("create", || {
            let (new, mode) = (convert::new_mode(mode, umask), convert::open_mode(OpenFlags(flags), self.caching));
            let created = self.fs.create(&caller(req), ino(parent), name.as_bytes(), new, mode);
            reply::created(reply, created, self.caching);
        });
    }

    fn getlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.workers.run("ioctl", || {
            let done = match cmd {
                control::CONTROL => control::call(&self.fs, &caller(req), (ino(number), fh.0), in_data, out_size),
                _ => ioctl::call(&self.fs, fh.0, cmd, in_data, out_size),
            };
            reply::ioctl(reply, done);
        });
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.workers.run("fallocate", || {
            let what = convert::allocation(mode).map_err(Into::into);
            reply::empty(reply, what.and_then(|what| self.fs.fallocate(&caller(req), fh.0, offset, length, what)));
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.workers.run("lseek", || {
            let (at, hole) = match convert::seek_target(offset, whence) {
                Ok(target) => target,
                Err(error) => return reply::sought(reply, Err(error.into())),
            };
            match self.seeker.get() {
                Some(seeker) if self.fs.has_writers(fh.0) => {
                    seeker.ask(Question { ino, handle: fh.0, at, hole, reply });
                }
                _ => reply::sought(reply, self.fs.seek(fh.0, at, hole)),
            }
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.workers.run("copy_file_range", || {
            let len = len.min(COPY_MAX.into());
            let copied = self.fs.copy_range((fh_in.0, offset_in), (fh_out.0, offset_out), len);
            reply::written(reply, copied.map(|count| count as u32));
        });
    }
}
