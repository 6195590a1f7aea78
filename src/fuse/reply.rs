//! Results of operations as replies to the kernel.

use fuser::{
    FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyWrite, ReplyXattr,
};

use super::caching::Caching;
use super::convert::{bare_attr, errno, file_attr};
use crate::fs::{Attr, Created, Errno, FileKind, Ino, Looked, Result};

pub(super) fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error.errno())),
    }
}

pub(super) fn attr(reply: ReplyAttr, result: Result<Attr>, caching: Caching) {
    match result {
        Ok(attr) => reply.attr(&caching.ttl_of(&attr), &file_attr(&attr)),
        Err(error) => reply.error(errno(error.errno())),
    }
}

pub(super) fn entry(reply: ReplyEntry, result: Result<Looked>, caching: Caching) {
    match result {
        Ok(looked) => {
            reply.entry(&caching.ttl_of(&looked.attr), &file_attr(&looked.attr), Generation(looked.generation))
        }
        Err(error) => reply.error(errno(error.errno())),
    }
}

/// An entry with inode number 0 tells the kernel that the name does not exist, and for how long to believe it.
pub(super) fn lookup(reply: ReplyEntry, result: Result<Looked>, caching: Caching) {
    match result {
        Err(error) if error.errno() == Errno::NOENT && caching.remembers_missing_names() => {
            reply.entry(&caching.ttl(), &bare_attr(Ino(0), FileKind::File), Generation(0));
        }
        other => entry(reply, other, caching),
    }
}

pub(super) fn opened(reply: ReplyOpen, result: Result<u64>, flags: FopenFlags) {
    match result {
        Ok(handle) => reply.opened(FileHandle(handle), flags),
        Err(error) => reply.error(errno(error.errno())),
    }
}

pub(super) fn created(reply: ReplyCreate, result: Result<Created>, caching: Caching) {
    match result {
        Ok(Created { looked, handle }) => {
            let (attr, generation) = (file_attr(&looked.attr), Generation(looked.generation));
            reply.created(&caching.ttl_of(&looked.attr), &attr, generation, FileHandle(handle), caching.file_flags());
        }
        Err(error) => reply.error(errno(error.errno())),
    }
}

pub(super) fn written(reply: ReplyWrite, result: Result<u32>) {
    match result {
        Ok(count) => reply.written(count),
        Err(error) => reply.error(errno(error.errno())),
    }
}

pub(super) fn sought(reply: ReplyLseek, result: Result<u64>) {
    match result.map(i64::try_from) {
        Ok(Ok(offset)) => reply.offset(offset),
        Ok(Err(_)) => reply.error(fuser::Errno::EOVERFLOW),
        Err(error) => reply.error(errno(error.errno())),
    }
}

/// The value if it fits into `size` bytes; its length if `size` is 0.
pub(super) fn xattr(reply: ReplyXattr, result: Result<Vec<u8>>, size: u32) {
    match result {
        Err(error) => reply.error(errno(error.errno())),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(fuser::Errno::ERANGE),
        },
    }
}

pub(super) fn ioctl(reply: ReplyIoctl, result: Result<Vec<u8>>) {
    match result {
        Ok(data) => reply.ioctl(0, &data),
        Err(error) => reply.error(errno(error.errno())),
    }
}
