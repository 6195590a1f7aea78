//! The sealed records of a keystore, in sled.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::State;
use crate::crypto::{Secret, derive};
use crate::kms::KeystoreError;
use crate::kms::bundle::Header;
use crate::kms::keyset::{self, ALIAS_PREFIX, KeySet, Parts};
use crate::kms::sealer::{STATE, Sealer};

const HEADER: &[u8] = b"header";
const KEY_PREFIX: &str = "key/";
const DELETED_PREFIX: &str = "deleted/";
const GRANT_PREFIX: &str = "grant/";
const ACCESS_KEY_PREFIX: &str = "access-key/";

/// The sealed records.
pub(super) struct Records {
    db: sled::Db,
    pub(super) path: PathBuf,
}

/// Why records could not be opened.
pub(super) enum OpenFailure {
    /// Another process has them.
    Busy,
    /// The machine's fault, not the records': they stay where they are.
    Refused(io::Error),
    /// They cannot be read.
    Damaged(String),
}

impl OpenFailure {
    pub(super) fn at(self, dir: &Path, path: &Path) -> KeystoreError {
        match self {
            Self::Busy => KeystoreError::InUse { dir: dir.to_path_buf(), pid: None },
            Self::Refused(error) => KeystoreError::io("open the records in", path)(error),
            Self::Damaged(reason) => KeystoreError::damaged(path, reason),
        }
    }
}

/// sled writes when it is opened, so a full or read-only disk keeps whole records from opening.
fn is_of_the_machine(error: &io::Error) -> bool {
    use ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let by_kind =
        [OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull].contains(&error.kind());
    by_kind || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl Records {
    /// Opens sled, which panics on some damage: that counts as damage too.
    pub(super) fn open(path: &Path, deadline: Instant) -> Result<Self, OpenFailure> {
        let config = sled::Config::default().path(path).cache_capacity(8 << 20).flush_every_ms(None);
        loop {
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
            return match opened {
                Ok(Ok(db)) => Ok(Self { db, path: path.to_path_buf() }),
                // A process that just closed it may hold sled's own lock for a moment longer.
                Ok(Err(error)) if error.to_string().contains("could not acquire lock") => {
                    if Instant::now() < deadline {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    Err(OpenFailure::Busy)
                }
                Ok(Err(sled::Error::Io(error))) if is_of_the_machine(&error) => Err(OpenFailure::Refused(error)),
                Ok(Err(error)) => Err(OpenFailure::Damaged(error.to_string())),
                Err(_) => Err(OpenFailure::Damaged("sled gave up on it".to_owned())),
            };
        }
    }

    pub(super) fn header(&self) -> Result<Header, String> {
        let bytes = catch_unwind(AssertUnwindSafe(|| self.db.get(HEADER)));
        let bytes = bytes.map_err(|_| "sled gave up on it")?.map_err(|error| error.to_string())?;
        let bytes = bytes.ok_or("it holds no keystore")?;
        let (header, end, rest) = Header::decode(&bytes).map_err(|bad| format!("its header is not valid ({bad:?})"))?;
        if end == bytes.len() && rest == 0 { Ok(header) } else { Err("its header is not valid".to_owned()) }
    }

    pub(super) fn load(&self, root: &Secret<32>, header: &Header) -> Result<KeySet, String> {
        let load = || self.load_all(root, header);
        catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err("sled gave up on it".to_owned()))
    }

    fn load_all(&self, root: &Secret<32>, header: &Header) -> Result<KeySet, String> {
        let sealer = Sealer::new(root, header);
        let mut parts = Parts::default();
        let mut digest = None;
        for record in self.db.iter() {
            let (name, sealed) = record.map_err(|error| error.to_string())?;
            if name == HEADER {
                continue;
            }
            let text = String::from_utf8_lossy(&name);
            let bad = || format!("record {text} does not authenticate or decode");
            let plain = sealer.open(&name, &sealed).ok_or_else(bad)?;
            if name == STATE {
                digest = Some(plain);
            } else if text.starts_with(KEY_PREFIX) {
                parts.cmks.push(keyset::decode_cmk(&plain).ok_or_else(bad)?);
            } else if text.starts_with(DELETED_PREFIX) {
                parts.deleted.push(serde_json::from_slice(&plain).map_err(|_| bad())?);
            } else if text.starts_with(GRANT_PREFIX) {
                parts.grants.push(serde_json::from_slice(&plain).map_err(|_| bad())?);
            } else if text.starts_with(ACCESS_KEY_PREFIX) {
                parts.access_keys.push(serde_json::from_slice(&plain).map_err(|_| bad())?);
            } else {
                parts.aliases.insert(text.to_string(), keyset::decode_alias(&plain).ok_or_else(bad)?);
            }
        }
        let keys = KeySet::assemble(parts).ok_or("its records contradict each other")?;
        // Without this an old record could be put back among newer ones.
        let whole = digest.is_some_and(|digest| digest[..] == derive::sha256(&keys.encode()));
        if whole { Ok(keys) } else { Err("records are missing, or are of different generations".to_owned()) }
    }

    /// Makes the records say `new`, durably. Records of CMKs that `old` shares are left as they are.
    pub(super) fn apply(&self, root: &Secret<32>, old: Option<&KeySet>, new: &State) -> io::Result<()> {
        let sealer = Sealer::new(root, &new.header);
        let mut batch = sled::Batch::default();
        let mut names = BTreeSet::from([HEADER.to_vec(), STATE.to_vec()]);
        batch.insert(HEADER, new.header.encode(0));
        batch.insert(STATE, sealer.seal(STATE, &derive::sha256(&new.keys.encode())));
        for cmk in new.keys.keys() {
            let name = format!("{KEY_PREFIX}{}", cmk.id.0).into_bytes();
            if !old.and_then(|old| old.by_number(cmk.number)).is_some_and(|before| Arc::ptr_eq(before, cmk)) {
                batch.insert(&name[..], sealer.seal(&name, &keyset::encode_cmk(cmk)));
            }
            names.insert(name);
        }
        for deleted in new.keys.deleted() {
            let name = format!("{DELETED_PREFIX}{}", deleted.id.0).into_bytes();
            let plain = serde_json::to_vec(deleted).map_err(io::Error::other)?;
            batch.insert(&name[..], sealer.seal(&name, &plain));
            names.insert(name);
        }
        for (name, alias) in new.keys.alias_entries() {
            debug_assert!(name.starts_with(ALIAS_PREFIX), "alias records are told apart by their prefix");
            batch.insert(name.as_bytes(), sealer.seal(name.as_bytes(), &keyset::encode_alias(alias)));
            names.insert(name.as_bytes().to_vec());
        }
        for grant in new.keys.all_grants() {
            let name = format!("{GRANT_PREFIX}{}/{}", grant.key.0, grant.id).into_bytes();
            let is_there = |old: &KeySet| old.grant(&grant.key, &grant.id).is_some_and(|had| Arc::ptr_eq(had, grant));
            if !old.is_some_and(is_there) {
                let plain = serde_json::to_vec(&**grant).map_err(io::Error::other)?;
                batch.insert(&name[..], sealer.seal(&name, &plain));
            }
            names.insert(name);
        }
        for key in new.keys.access_keys() {
            let name = format!("{ACCESS_KEY_PREFIX}{}", key.id).into_bytes();
            let plain = serde_json::to_vec(&**key).map_err(io::Error::other)?;
            batch.insert(&name[..], sealer.seal(&name, &plain));
            names.insert(name);
        }
        for name in self.db.iter().keys() {
            let name = name.map_err(into_io)?;
            if !names.contains(&name[..]) {
                batch.remove(name);
            }
        }
        self.db.apply_batch(batch).map_err(into_io)?;
        self.db.flush().map_err(into_io)?;
        self.make_private()
    }

    /// Closes them, and waits until nothing of sled works on their files any more: it has threads of its own.
    ///
    /// # Errors
    /// If that takes longer than until `deadline`.
    pub(super) fn close(self, deadline: Instant) -> io::Result<()> {
        let log = self.path.join("db");
        drop(self.db);
        loop {
            match File::open(&log)?.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(ErrorKind::TimedOut.into()),
            }
        }
    }

    // sled makes its files by the process's umask.
    fn make_private(&self) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl crate::kms::Keystore {
    /// A record as it is sealed.
    pub(in crate::kms) fn record(&self, name: &str) -> Vec<u8> {
        self.records.as_ref().unwrap().db.get(name).unwrap().unwrap().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_damage_and_garbage_is() {
        const ENOSPC: i32 = 28;
        const EMFILE: i32 = 24;
        assert!([ENOSPC, EMFILE].iter().all(|errno| is_of_the_machine(&io::Error::from_raw_os_error(*errno))));
        assert!(is_of_the_machine(&io::Error::new(io::ErrorKind::StorageFull, "as sled copies it")));
        assert!(!is_of_the_machine(&io::Error::other("corrupt")));
        assert!(!is_of_the_machine(&io::ErrorKind::UnexpectedEof.into()));
    }
}
