//! Listings of directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::caching::Caching;
use super::convert::{bare_attr, errno, file_attr, file_type};
use crate::fs::{EncryptedFs, ListedEntry, shown};

/// Names and types, from position `offset` on, as many as fit into the reply.
pub(super) fn plain(fs: &EncryptedFs, handle: u64, offset: u64, mut reply: ReplyDirectory) {
    let mut any = false;
    let listed = fs.readdir(handle, offset, |entry| {
        let full = reply.add(INodeNo(entry.ino.0), entry.next, file_type(entry.kind), OsStr::from_bytes(entry.name));
        any |= !full;
        !full
    });
    match listed {
        Ok(()) => reply.ok(),
        // The next request will meet the error again, and report it.
        Err(_) if any => reply.ok(),
        Err(error) => reply.error(errno(error.errno())),
    }
}

/// The same with attributes: each entry but `.` and `..` counts as a lookup.
pub(super) fn with_attributes(
    fs: &EncryptedFs,
    handle: u64,
    offset: u64,
    caching: Caching,
    mut reply: ReplyDirectoryPlus,
) {
    let mut any = false;
    let listed = fs.readdir(handle, offset, |entry| {
        let added = add(fs, handle, &entry, caching, &mut reply);
        any |= added;
        added
    });
    match listed {
        Ok(()) => reply.ok(),
        // As above; besides, the kernel must learn of the references that were counted.
        Err(_) if any => reply.ok(),
        Err(error) => reply.error(errno(error.errno())),
    }
}

/// Adds one entry; false if there was no room for it.
fn add(
    fs: &EncryptedFs,
    handle: u64,
    entry: &ListedEntry<'_>,
    caching: Caching,
    reply: &mut ReplyDirectoryPlus,
) -> bool {
    let (name, ttl) = (OsStr::from_bytes(entry.name), caching.ttl());
    if matches!(entry.name, b"." | b"..") {
        // The kernel makes no inode of these two and will not forget them.
        let attr = bare_attr(entry.ino, entry.kind);
        return !reply.add(attr.ino, entry.next, name, &ttl, &attr, Generation(0));
    }
    let looked = match fs.look_listed(handle, entry.name) {
        Ok(Some(looked)) => looked,
        // Removed since it was listed.
        Ok(None) => return true,
        Err(error) => {
            log::warn!("{} is left out of the listing of its directory: {error}", shown(entry.name));
            return true;
        }
    };
    let attr = file_attr(&looked.attr);
    let ttl = caching.ttl_of(&looked.attr);
    let full = reply.add(attr.ino, entry.next, name, &ttl, &attr, Generation(looked.generation));
    if full {
        fs.forget(looked.attr.ino, 1);
    }
    !full
}
