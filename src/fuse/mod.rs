//! The adapter between the kernel's FUSE protocol and [`EncryptedFs`](crate::fs::EncryptedFs).
//!
//! The only room that names fuser. It unpacks requests, calls the operation of the same name, and packs the reply;
//! it mounts, and turns signals into an unmount. It refuses to know keys, envelopes, stored names and the backing
//! tree: it holds no state but the filesystem and what the kernel may cache.
//!
//! Invariants:
//! - every request is answered once, by a panic too (with EIO, and a line in the log);
//! - a reference that the kernel was not told of is given back;
//! - ENOSYS, which the kernel takes as final for the whole mount, is answered only where the table says so;
//! - permissions are checked by the kernel (`default_permissions`), keys by the filesystem.
//!
//! Every operation of fuser 0.18:
//!
//! | operation | what we do |
//! |---|---|
//! | init | asks for the abilities in `negotiate`; 1 MiB writes, 64 background requests |
//! | destroy | nothing: [`serve`] shuts the filesystem down, after a broken session too |
//! | lookup | counts a reference; a missing name is cached unless the tree is shared |
//! | forget, batch_forget | gives references back; fuser calls forget for each of a batch |
//! | getattr | by file handle where the kernel has one |
//! | setattr | mode, owner, size, times; a change time is the backing store's to set, and only tells that times are told which it has already; one that sets nothing ends suid and sgid |
//! | readlink, symlink, link | as named; links are cached by the kernel unless the tree is shared |
//! | mknod, mkdir, create | with the caller's umask, which default ACLs override; ESTALE for a file that is there unknown to the kernel, which then looks and asks again |
//! | unlink, rmdir | as named |
//! | rename | with the flags of renameat2(2), but RENAME_WHITEOUT |
//! | open, opendir | check the key policy; caches outlive the descriptor unless the tree is shared |
//! | read | decrypts into a buffer of the thread, from which the reply is sent |
//! | write | tells writes of the caller from those of the kernel's cache and from those that end suid and sgid; appends go where the kernel says, unless the tree is shared |
//! | flush | close(2): writes out what need not wait for the disk, so that errors are reported |
//! | release, releasedir | ends the handle |
//! | fsync, fsyncdir | makes durable, the name too |
//! | readdir | names and types |
//! | readdirplus | and attributes; counts a reference to each entry but `.` and `..` |
//! | statfs | the backing store's; names of 255 bytes |
//! | setxattr, getxattr, listxattr, removexattr | as named; ACLs are enforced by the kernel |
//! | ioctl | the flags of chattr(1), for which Linux also asks FS_IOC_FSGETXATTR; messages to the volume (`control`); ENOTTY for all others |
//! | fallocate | allocate, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE; EOPNOTSUPP for all others |
//! | lseek | SEEK_DATA and SEEK_HOLE; the kernel does the others |
//! | copy_file_range | through memory, at most 64 MiB at a time: files have different keys |
//! | access | ENOSYS: with `default_permissions` the kernel does not ask |
//! | getlk, setlk | ENOSYS: not negotiated, so the kernel keeps locks itself; a volume has one writer |
//! | bmap | ENOSYS: there is no block device under it, and swapping to ciphertext would read plaintext |
//! | poll | ENOSYS: the kernel then takes files to be always ready, as those of disks are |
//!
//! What the protocol has and fuser 0.18 has not, the kernel sees as ENOSYS: STATX (so stat(1) shows no birth time),
//! TMPFILE (O_TMPFILE gives EOPNOTSUPP), SYNCFS (which the kernel only sends to virtiofs). An INTERRUPT is answered
//! with ENOSYS by fuser: operations run to their end.

mod adapter;
mod caching;
mod control;
mod convert;
mod dark;
mod ioctl;
mod listing;
mod negotiate;
mod reply;
mod seek;
mod session;
mod workers;

pub use session::{MountOptions, serve};
