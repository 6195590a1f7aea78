//! The handshake: which abilities of the kernel are used, and which on purpose are not.

use fuser::{InitFlags, KernelConfig};

use super::caching::Caching;

/// Longest write request in bytes: 256 pages, the most that the kernel puts into one request.
const MAX_WRITE: u32 = 1 << 20;

/// Most requests of the kernel's own, readahead and writeback, that may wait at once.
const MAX_BACKGROUND: u16 = 64;

/// What is always asked for. Left out on purpose:
/// - POSIX_LOCKS, FLOCK_LOCKS: the kernel keeps the locks itself, which is right because a volume has one writer;
/// - EXPORT_SUPPORT: an inode cannot be found by number after the kernel forgot it;
/// - EXPLICIT_INVAL_DATA: nobody would invalidate;
/// - HANDLE_KILLPRIV: version 2 of it is better;
/// - NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT: each open is where the key policy is checked;
/// - PASSTHROUGH: the backing bytes are ciphertext.
const ALWAYS: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);

/// What is asked for if the kernel is the only writer.
const ONE_WRITER: InitFlags = InitFlags::FUSE_WRITEBACK_CACHE.union(InitFlags::FUSE_CACHE_SYMLINKS);

/// What is asked for if it is not: pages go when the size or the modification time changes.
const SHARED: InitFlags = InitFlags::FUSE_AUTO_INVAL_DATA;

/// The abilities to ask for, out of those that are `offered`. A symlink that one user read must not be told to another one
/// out of the kernel's cache: where there are others, each asks.
fn wanted(offered: InitFlags, caching: Caching, has_others: bool) -> InitFlags {
    let by_caching = match caching {
        Caching::OneWriter if has_others => ONE_WRITER.difference(InitFlags::FUSE_CACHE_SYMLINKS),
        Caching::OneWriter => ONE_WRITER,
        Caching::Shared => SHARED,
    };
    offered & (ALWAYS | by_caching)
}

/// Answers the kernel's INIT. Readahead stays as offered, and times have a granularity of one nanosecond, which is
/// what fuser proposes.
pub(super) fn negotiate(config: &mut KernelConfig, caching: Caching, has_others: bool) {
    let wanted = wanted(config.capabilities(), caching, has_others);
    if let Err(missing) = config.add_capabilities(wanted) {
        log::warn!("the kernel offered abilities and took them back: {missing:?}");
    }
    // Both have only one way to fail, a value out of range, and then fuser's own value is as good.
    if let Err(limit) = config.set_max_write(MAX_WRITE) {
        log::warn!("writes are limited to {limit} bytes");
    }
    if let Err(limit) = config.set_max_background(MAX_BACKGROUND) {
        log::warn!("background requests are limited to {limit}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_is_asked_for() {
        let offered = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_POSIX_LOCKS;
        let expected = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_WRITEBACK_CACHE;
        assert_eq!(wanted(offered, Caching::OneWriter, false), expected);
        assert_eq!(wanted(InitFlags::empty(), Caching::OneWriter, false), InitFlags::empty());
    }

    #[test]
    fn a_shared_tree_has_no_writeback() {
        let asked = wanted(InitFlags::all(), Caching::Shared, false);
        assert!(asked.contains(InitFlags::FUSE_AUTO_INVAL_DATA));
        assert!(!asked.intersects(ONE_WRITER));
        assert!(!wanted(InitFlags::all(), Caching::OneWriter, false).contains(InitFlags::FUSE_AUTO_INVAL_DATA));
    }

    #[test]
    fn targets_of_symlinks_are_cached_for_one_user_only() {
        let cached =
            |others| wanted(InitFlags::all(), Caching::OneWriter, others).contains(InitFlags::FUSE_CACHE_SYMLINKS);
        assert_eq!((cached(false), cached(true)), (true, false));
    }

    #[test]
    fn locks_and_export_stay_with_the_kernel() {
        let refused = InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        for caching in [Caching::OneWriter, Caching::Shared] {
            assert!(!wanted(InitFlags::all(), caching, false).intersects(refused));
        }
    }
}
