//! The volume's own folder: the two headers, keys.log, the homes of long symlinks, leftovers.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::Fsck;
use super::report::Problem;
use super::walk::Node;
use crate::envelope::{KMSFS_DIR, LINKS_DIR, Source, VolumeError, VolumeHeader};
use crate::sys::atomic::TEMPORARY_PREFIX;
use crate::sys::dir::Access;
use crate::sys::{self, Errno};

/// Everything that belongs there.
const KNOWN: &[&str] = &[
    "volume.json",
    "volume.json.bak",
    "keystore.bundle",
    "keystore.bundle.old",
    "keys.log",
    "keys.log.cut",
    "links",
    "tails",
    "lock",
];
/// What an interrupted replacement of the copy of the keys left.
const BUNDLE_LEFTOVER: &str = "keystore.bundle.tmp";
/// Longest home: a target of 4095 bytes, sealed.
const HOME_MAX: usize = 4095 + 28;
/// A home's name: 16 bytes in base64url.
const HOME_NAME_LEN: usize = 22;

/// What one copy of the header is.
enum Copy {
    Good(Box<VolumeHeader>),
    Bad(String),
    Edited,
}

fn stored(name: &str) -> String {
    format!("{KMSFS_DIR}/{name}")
}

impl Fsck<'_> {
    /// Checks the folder, but for what only the walk can tell.
    pub(super) fn folder(&self) {
        self.headers();
        self.log();
        if let Err(error) = self.entries() {
            self.store_failed(&Node::below(&Node::root(), KMSFS_DIR.as_bytes(), None), &error.into());
        }
    }

    fn copy(&self, source: Source) -> Copy {
        let header = match VolumeHeader::read(&self.site.root, source) {
            Ok(header) => header,
            Err(VolumeError::NotAVolume { .. }) => return Copy::Bad("missing".to_owned()),
            Err(error) => return Copy::Bad(error.to_string()),
        };
        match header.clone().unlock(self.site.kms) {
            Ok(_) => Copy::Good(Box::new(header)),
            Err(_) => Copy::Edited,
        }
    }

    fn headers(&self) {
        let store = |problem, source: Source, why: &str| {
            let name = source.file(std::path::Path::new(""));
            let node = Node::below(&Node::root(), name.as_os_str().as_encoded_bytes(), None);
            let write = || {
                self.site.header.store().map_err(|error| match error {
                    VolumeError::Io { source, .. } => source,
                    other => io::Error::other(other),
                })
            };
            let done = self.options.repair.then(|| self.mend(&node, "both copies were written anew".to_owned(), write));
            self.report_internal(problem, node.stored_path(), why, done.flatten());
        };
        match (self.copy(Source::Primary), self.copy(Source::Backup)) {
            (Copy::Good(primary), Copy::Good(backup)) if primary.says_the_same(&backup) => {}
            (Copy::Good(_), Copy::Good(_)) => store(Problem::HeaderCopy, Source::Backup, "it says something else"),
            (Copy::Good(_), Copy::Bad(why)) => store(Problem::HeaderCopy, Source::Backup, &why),
            (Copy::Good(_), Copy::Edited) => store(Problem::HeaderCopy, Source::Backup, "it opens no volume key"),
            (Copy::Bad(why), Copy::Good(_)) => store(Problem::HeaderDamaged, Source::Primary, &why),
            // Who can edit one copy may want the other to be taken: the user looks at it.
            (Copy::Edited, _) => self.report_internal(Problem::HeaderEdited, stored("volume.json"), "", None),
            // The volume was unlocked with one of them, which changed since.
            (Copy::Bad(why), _) => self.report_internal(Problem::HeaderDamaged, stored("volume.json"), &why, None),
        }
    }

    fn log(&self) {
        let opened = |done: &str| self.log.is_some().then(|| done.to_owned());
        if !self.records.exists {
            self.report_internal(Problem::LogMissing, stored("keys.log"), "", opened("it was made"));
        } else if self.records.torn > 0 {
            let detail = format!("{} bytes", self.records.torn);
            self.report_internal(Problem::LogTorn, stored("keys.log"), &detail, opened("they are in keys.log.cut"));
        }
    }

    fn entries(&self) -> Result<(), Errno> {
        let folder = self.site.folder()?;
        let mut names: Vec<Vec<u8>> = Vec::new();
        sys::dir::list(folder.as_fd(), 0, |entry| {
            names.push(entry.name.to_vec());
            true
        })?;
        let known = |name: &[u8]| matches!(name, b"." | b"..") || KNOWN.iter().any(|known| name == known.as_bytes());
        for name in names.iter().filter(|name| !known(name)) {
            let path = stored(&crate::names::shown(name));
            let is_leftover = name.starts_with(TEMPORARY_PREFIX.as_bytes()) || name == BUNDLE_LEFTOVER.as_bytes();
            if !is_leftover {
                self.report_internal(Problem::InternalUnknown, path, "", None);
                continue;
            }
            let node = Node::below(&Node::root(), path.as_bytes(), None);
            let remove = || Ok(sys::dir::unlink(folder.as_fd(), name)?);
            let done = self.options.repair.then(|| self.mend(&node, "it was removed".to_owned(), remove));
            self.report_internal(Problem::Leftover, path, "", done.flatten());
        }
        Ok(())
    }

    /// The sealed target of a long symlink.
    pub(super) fn read_home(&self, home: &str) -> Result<Vec<u8>, Errno> {
        let root = self.site.root_fd.as_fd();
        let file = sys::dir::open(root, format!("{LINKS_DIR}/{home}").as_bytes(), Access::Read)?;
        let mut bytes = vec![0; HOME_MAX + 1];
        let len = sys::file::read_at(file.as_fd(), &mut bytes, 0)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Looks for homes that no symlink names. They are removed only if every symlink was seen.
    pub(super) fn homes(&self) {
        let folder = sys::dir::open_dir(self.site.root_fd.as_fd(), LINKS_DIR.as_bytes(), Access::Read);
        let folder = match folder {
            Ok(folder) => folder,
            // It is made by a repair, because a mount does not make it.
            Err(Errno::NOENT) if self.options.repair => {
                let node = Node::below(&Node::root(), LINKS_DIR.as_bytes(), None);
                let make = || Ok(sys::dir::make_dir(self.site.root_fd.as_fd(), LINKS_DIR.as_bytes(), 0o700)?);
                let done = self.mend(&node, "it was made".to_owned(), make);
                return self.report_internal(Problem::HomeMissing, LINKS_DIR.to_owned(), "the folder itself", done);
            }
            Err(error) => {
                return self.report_internal(Problem::HomeMissing, LINKS_DIR.to_owned(), &error.to_string(), None);
            }
        };
        let all_seen = !self.unseen.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed);
        let mut orphans: Vec<Vec<u8>> = Vec::new();
        let used = self.homes.lock();
        let listed = sys::dir::list(folder.as_fd(), 0, |entry| {
            let is_used = std::str::from_utf8(entry.name).is_ok_and(|name| used.contains(name));
            if !matches!(entry.name, b"." | b"..") && !is_used {
                orphans.push(entry.name.to_vec());
            }
            true
        });
        if let Err(error) = listed {
            self.report_internal(Problem::StoreFailed, LINKS_DIR.to_owned(), &error.to_string(), None);
        }
        for orphan in orphans.iter().filter(|_| all_seen) {
            let path = format!("{LINKS_DIR}/{}", crate::names::shown(orphan));
            if orphan.len() != HOME_NAME_LEN {
                self.report_internal(Problem::InternalUnknown, path, "", None);
                continue;
            }
            let node = Node::below(&Node::root(), path.as_bytes(), None);
            let remove = || Ok(sys::dir::unlink(folder.as_fd(), orphan)?);
            let done = self.options.repair.then(|| self.mend(&node, "it was removed".to_owned(), remove));
            self.report_internal(Problem::HomeOrphan, path, "", done.flatten());
        }
    }
}
