//! What the kernel may remember.

use std::time::Duration;

use fuser::FopenFlags;

use crate::fs::Attr;

/// How long the kernel believes an attribute, a name or the absence of a name. A volume has one writer, and all
/// its changes pass through this very kernel, which corrects its caches itself. So nothing ever needs to expire;
/// the hour only bounds for how long a change made behind the back of kmsfs stays unseen.
const ONE_WRITER_TTL: Duration = Duration::from_secs(3600);

/// Whether the kernel may cache: yes for a volume with one writer, no for a shared backing tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caching {
    /// Everything is cached.
    OneWriter,
    /// Others change the backing tree: nothing is believed for longer than one operation.
    Shared,
}

impl Caching {
    /// How long attributes and entries are good for.
    pub(super) fn ttl(self) -> Duration {
        match self {
            Self::OneWriter => ONE_WRITER_TTL,
            Self::Shared => Duration::ZERO,
        }
    }

    /// How long these attributes are good for: each write(2) to a file whose CMK refuses must ask first.
    pub(super) fn ttl_of(self, attr: &Attr) -> Duration {
        if attr.is_shut { Duration::ZERO } else { self.ttl() }
    }

    /// Whether the kernel shall remember that a name does not exist.
    pub(super) fn remembers_missing_names(self) -> bool {
        self == Self::OneWriter
    }

    /// For open files: whether pages outlive the descriptor. Never FOPEN_DIRECT_IO, which breaks shared mappings,
    /// nor FOPEN_NOFLUSH: close(2) reports what went wrong.
    pub(super) fn file_flags(self) -> FopenFlags {
        match self {
            Self::OneWriter => FopenFlags::FOPEN_KEEP_CACHE,
            Self::Shared => FopenFlags::empty(),
        }
    }

    /// For open directories: whether the kernel keeps the listing. It drops it itself when an entry is made or
    /// removed, and fills it from readdir and readdirplus alike.
    pub(super) fn directory_flags(self) -> FopenFlags {
        match self {
            Self::OneWriter => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            Self::Shared => FopenFlags::empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_believed_on_a_shared_tree() {
        let shared = Caching::Shared;
        assert_eq!(shared.ttl(), Duration::ZERO);
        assert!(!shared.remembers_missing_names());
        assert!(shared.file_flags().is_empty() && shared.directory_flags().is_empty());
    }
}
