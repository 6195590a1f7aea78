//! The keystore on disk: sealed records in sled, mirrored into `keystore.bundle` at every change.
//!
//! A change is prepared as a synced temporary bundle, flushed into sled, and published by a rename. If a later step
//! fails the earlier ones are taken back. At opening, the newer of records and bundle counts, and repairs the other.

mod erase;
mod records;
mod verify;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bundle::{self, Header, MAX_LEN};
use super::bundle_file::{self, BUNDLE_NAME, Loaded, Staged};
use super::keyset::KeySet;
use super::recovery::RecoveryKey;
use super::slots::{self, Slot, UnlockSecret};
use super::{KeyId, KeystoreError, audit, clock, lock};
use crate::crypto::Secret;
use records::{OpenFailure, Records};

pub use verify::{Part, Verified};

const RECORDS_NAME: &str = "db";
/// What records that were replaced are called, before the time.
const ASIDE_PREFIX: &str = "db.damaged-";
/// How long opening waits for another process.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Everything that a change replaces.
#[derive(Clone)]
pub(super) struct State {
    pub(super) header: Header,
    pub(super) keys: Arc<KeySet>,
}

/// A keystore that is open for this process alone, but not unlocked.
pub struct LockedKeystore {
    dir: PathBuf,
    // Either the records and their header, or why they cannot be used.
    records: Result<(Records, Header), String>,
    bundle: Result<Loaded, KeystoreError>,
    lock: File,
}

/// An unlocked keystore, open for this process alone. Its mutators are in `control` and `access`.
pub struct Keystore {
    pub(super) dir: PathBuf,
    pub(super) root: Secret<32>,
    pub(super) state: State,
    /// The slot that opened it.
    pub(super) unlocked_by: u32,
    // Always there, but while they are made anew (`erase`).
    records: Option<Records>,
    next_generation: u64,
    in_doubt: Option<String>,
    restored: Option<String>,
    deleted: Vec<KeyId>,
    rotated: Vec<KeyId>,
    // Last: the records are closed before the lock is released.
    _lock: File,
}

impl LockedKeystore {
    /// The keystore's uuid and slots, from whichever source is newer.
    pub fn header(&self) -> &Header {
        match (&self.records, &self.bundle) {
            (Ok((_, records)), Ok(loaded)) if loaded.bundle.header.generation > records.generation => {
                &loaded.bundle.header
            }
            (Ok((_, records)), _) => records,
            (Err(_), Ok(loaded)) => &loaded.bundle.header,
            (Err(_), Err(_)) => unreachable!("opening refuses a keystore without records and without bundle"),
        }
    }

    /// Unlocks it, and repairs records or bundle if one of them is missing, damaged or older than the other. Keys whose
    /// deletion date has passed are destroyed.
    ///
    /// # Errors
    /// [`KeystoreError::WrongSecret`]; [`KeystoreError::Damaged`] if neither source is whole; [`KeystoreError::Io`].
    pub fn unlock(self, secret: &UnlockSecret) -> Result<Keystore, KeystoreError> {
        let (root, unlocked_by) = self.header().unlock(secret)?;
        let bundle_path = self.dir.join(BUNDLE_NAME);
        let from_records = self.records.and_then(|(records, header)| {
            let keys = records.load(&root, &header)?;
            Ok((records, State { header, keys: Arc::new(keys) }))
        });
        let from_bundle = self.bundle.and_then(|loaded| {
            let keys = loaded.bundle.open(&root);
            let keys = keys.ok_or_else(|| KeystoreError::damaged(&bundle_path, "its state does not authenticate"))?;
            Ok((State { header: loaded.bundle.header, keys: Arc::new(keys) }, loaded.from_old))
        });
        let (records, state, restored) = match (from_records, from_bundle) {
            (Ok((records, state)), Ok((bundle, from_old))) if bundle.header.generation <= state.header.generation => {
                if from_old || bundle.header != state.header {
                    log::warn!("{} was not the newest; writing it anew", bundle_path.display());
                    mirror(&bundle_path, &state, &root)?;
                }
                (records, state, None)
            }
            (Ok((records, state)), Err(error)) => {
                log::warn!("{error}; writing the bundle anew from the records");
                mirror(&bundle_path, &state, &root)?;
                (records, state, None)
            }
            (Ok((records, _)), Ok((mut state, _))) => {
                state.header.is_subset = false;
                write_records(&records, &state, &root)?;
                (records, state, Some("its records were older than the bundle".to_owned()))
            }
            (Err(reason), Ok((mut state, _))) => {
                state.header.is_subset = false;
                let (records, aside) = replace_records(&self.dir, &state, &root)?;
                if let Some(aside) = aside {
                    log::warn!("the damaged records are kept in {}", aside.display());
                }
                (records, state, Some(reason))
            }
            (Err(reason), Err(_)) => return Err(KeystoreError::damaged(&self.dir.join(RECORDS_NAME), reason)),
        };
        if let Some(reason) = &restored {
            log::warn!("the records of {} were restored from {BUNDLE_NAME}: {reason}", self.dir.display());
        }
        let next_generation = state.header.generation + 1;
        let dir = self.dir;
        let mut opened = Keystore {
            dir,
            root,
            state,
            unlocked_by,
            records: Some(records),
            next_generation,
            in_doubt: None,
            restored,
            deleted: Vec::new(),
            rotated: Vec::new(),
            _lock: self.lock,
        };
        opened.catch_up();
        Ok(opened)
    }
}

impl LockedKeystore {
    /// Closes the records, and keeps the lock.
    pub(super) fn close(self, deadline: Instant) -> Result<File, KeystoreError> {
        if let Ok((records, _)) = self.records {
            let path = records.path.clone();
            records.close(deadline).map_err(KeystoreError::io("close the records in", &path))?;
        }
        Ok(self.lock)
    }
}

fn mirror(path: &Path, state: &State, root: &Secret<32>) -> Result<(), KeystoreError> {
    bundle_file::replace(path, &bundle::seal(&state.header, &state.keys, root))
}

fn write_records(records: &Records, state: &State, root: &Secret<32>) -> Result<(), KeystoreError> {
    records.apply(root, None, state).map_err(KeystoreError::io("write the records in", &records.path))
}

/// Moves records aside and makes new ones; answers where the old ones are. If that fails, they are put back.
fn replace_records(dir: &Path, state: &State, root: &Secret<32>) -> Result<(Records, Option<PathBuf>), KeystoreError> {
    let path = dir.join(RECORDS_NAME);
    let mut aside = None;
    if path.exists() {
        let mut names = (clock::now()..).map(|time| dir.join(format!("{ASIDE_PREFIX}{time}")));
        let free = names.find(|name| !name.exists()).expect("not every second has a damaged keystore");
        fs::rename(&path, &free).map_err(KeystoreError::io("move aside", &path))?;
        aside = Some(free);
    }
    let made = fresh_records(dir).and_then(|records| {
        write_records(&records, state, root)?;
        bundle_file::sync_dir(dir)?;
        Ok(records)
    });
    if made.is_err()
        && let Some(aside) = &aside
        && let Err(error) = fs::remove_dir_all(&path).and_then(|()| fs::rename(aside, &path))
    {
        log::warn!("{} could not be put back: {error}", aside.display());
    }
    made.map(|records| (records, aside))
}

fn fresh_records(dir: &Path) -> Result<Records, KeystoreError> {
    let path = dir.join(RECORDS_NAME);
    bundle_file::make_private_dir(&path)?;
    Records::open(&path, Instant::now() + LOCK_WAIT).map_err(|failure| failure.at(dir, &path))
}

impl Keystore {
    /// Whether there is a keystore in `dir`, in whatever condition.
    pub fn exists(dir: &Path) -> bool {
        let bundle = dir.join(BUNDLE_NAME);
        dir.join(RECORDS_NAME).join("db").exists() || bundle.exists() || bundle_file::old_path(&bundle).exists()
    }

    /// Makes a keystore without CMKs, with a slot for each of `secrets` and one for a fresh recovery key. A passphrase
    /// will take about `unlock_ms` milliseconds to try.
    ///
    /// # Errors
    /// [`KeystoreError::AlreadyExists`], [`KeystoreError::InUse`] or [`KeystoreError::Io`]. What had been made is removed.
    pub fn create(dir: &Path, secrets: &[UnlockSecret], unlock_ms: u32) -> Result<(Self, RecoveryKey), KeystoreError> {
        bundle_file::make_private_dir(dir)?;
        let lock = lock::take(dir, Instant::now() + LOCK_WAIT)?;
        if Self::exists(dir) {
            return Err(KeystoreError::AlreadyExists(dir.to_path_buf()));
        }
        // Held until what was made is removed again, too.
        let held = lock.try_clone().map_err(KeystoreError::io("hold the lock of", dir))?;
        let made = Self::create_locked(dir, secrets, unlock_ms, held);
        if made.is_err() {
            // Best effort: an unfinished keystore holds no key.
            let _ = fs::remove_dir_all(dir.join(RECORDS_NAME));
            let _ = fs::remove_file(dir.join(BUNDLE_NAME));
        }
        made
    }

    fn create_locked(
        dir: &Path,
        secrets: &[UnlockSecret],
        unlock_ms: u32,
        lock: File,
    ) -> Result<(Self, RecoveryKey), KeystoreError> {
        let (root, recovery, keystore) = (Secret::random(), RecoveryKey::generate(), uuid::Uuid::new_v4());
        let cost = slots::calibrate(unlock_ms);
        let recovery_secret = UnlockSecret::RecoveryKey(recovery);
        let all = secrets.iter().chain(std::iter::once(&recovery_secret));
        let slots: Vec<Slot> =
            (1..).zip(all).map(|(id, s)| Slot::seal(id, keystore.as_bytes(), &root, s, cost)).collect();
        let header = Header { keystore, generation: 1, is_subset: false, slots };
        let state = State { header, keys: Arc::new(KeySet::default()) };
        // The bundle first: it alone is a keystore already, and empty records are none.
        mirror(&dir.join(BUNDLE_NAME), &state, &root)?;
        let records = fresh_records(dir)?;
        write_records(&records, &state, &root)?;
        let dir = dir.to_path_buf();
        let made = Self {
            dir,
            root,
            state,
            unlocked_by: 1,
            records: Some(records),
            next_generation: 2,
            in_doubt: None,
            restored: None,
            deleted: Vec::new(),
            rotated: Vec::new(),
            _lock: lock,
        };
        let UnlockSecret::RecoveryKey(recovery) = recovery_secret else { unreachable!("it was made as one above") };
        Ok((made, recovery))
    }

    /// Opens a keystore for this process alone, waiting up to 3 seconds for another one to let go of it.
    ///
    /// # Errors
    /// [`KeystoreError::NotFound`], [`KeystoreError::InUse`], [`KeystoreError::Foreign`] if records and bundle belong to
    /// different keystores, [`KeystoreError::UnsupportedVersion`], or [`KeystoreError::Damaged`] if nothing is readable.
    pub fn open(dir: &Path) -> Result<LockedKeystore, KeystoreError> {
        if !Self::exists(dir) {
            return Err(KeystoreError::NotFound(dir.to_path_buf()));
        }
        let deadline = Instant::now() + LOCK_WAIT;
        let lock = lock::take(dir, deadline)?;
        let bundle_path = dir.join(BUNDLE_NAME);
        let bundle = match bundle_file::load(&bundle_path) {
            Err(error @ KeystoreError::UnsupportedVersion { .. }) => return Err(error),
            loaded => loaded,
        };
        let path = dir.join(RECORDS_NAME);
        let records = if path.join("db").exists() {
            match Records::open(&path, deadline) {
                Ok(records) => records.header().map(|header| (records, header)),
                Err(OpenFailure::Damaged(reason)) => Err(reason),
                Err(failure) => return Err(failure.at(dir, &path)),
            }
        } else {
            Err("the records are missing".to_owned())
        };
        match (&records, &bundle) {
            (Ok((_, header)), Ok(loaded)) if header.keystore != loaded.bundle.header.keystore => {
                let (expected, found) = (header.keystore.to_string(), loaded.bundle.header.keystore.to_string());
                Err(KeystoreError::Foreign { path: bundle_path, expected, found })
            }
            (Err(reason), Err(error)) if bundle_file::is_missing(error) => Err(KeystoreError::damaged(&path, reason)),
            (Err(_), Err(_)) => bundle.map(|_| unreachable!("it is an error")),
            _ => Ok(LockedKeystore { dir: dir.to_path_buf(), records, bundle, lock }),
        }
    }

    /// Why the records had to be restored from the bundle when it was opened, if they had to.
    pub fn restored(&self) -> Option<&str> {
        self.restored.as_deref()
    }

    /// The CMKs whose deletion date had passed, and which were destroyed when it was opened.
    pub fn deleted(&self) -> &[KeyId] {
        &self.deleted
    }

    /// The CMKs that were given a version more because their automatic rotation was due.
    pub fn rotated(&self) -> &[KeyId] {
        &self.rotated
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The keys of its audit log.
    pub fn audit_keys(&self) -> audit::Keys {
        audit::Keys::derive(&self.root)
    }

    /// Its header: uuid, generation and slots.
    pub fn header(&self) -> &Header {
        &self.state.header
    }

    /// The CMKs and aliases as they are now.
    pub fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.state.keys)
    }

    pub(super) fn bundle_path(&self) -> PathBuf {
        self.dir.join(BUNDLE_NAME)
    }

    /// Replaces slots and keys in records and bundle. On error nothing has changed, but for [`KeystoreError::InDoubt`].
    pub(super) fn commit(&mut self, slots: Vec<Slot>, keys: KeySet) -> Result<(), KeystoreError> {
        if let Some(reason) = &self.in_doubt {
            return Err(KeystoreError::InDoubt { path: self.dir.clone(), reason: reason.clone() });
        }
        let header =
            Header { keystore: self.state.header.keystore, generation: self.next_generation, is_subset: false, slots };
        let next = State { header, keys: Arc::new(keys) };
        let Some(records) = &self.records else {
            return Err(KeystoreError::damaged(&self.dir.join(RECORDS_NAME), "the records are not open"));
        };
        let sealed = bundle::seal(&next.header, &next.keys, &self.root);
        if sealed.len() as u64 > MAX_LEN {
            return Err(KeystoreError::TooLarge);
        }
        let staged = Staged::write(&self.bundle_path(), &sealed)?;
        // A generation is used once, even if the change fails: a mount may have seen it.
        self.next_generation += 1;
        let applied = records.apply(&self.root, Some(&self.state.keys), &next);
        let applied = applied.map_err(KeystoreError::io("write the records in", &records.path));
        if let Err(error) = applied.and_then(|()| staged.publish()) {
            return match records.apply(&self.root, None, &self.state) {
                Ok(()) => Err(error),
                Err(_) => {
                    let reason = error.to_string();
                    self.in_doubt = Some(reason.clone());
                    Err(KeystoreError::InDoubt { path: self.dir.clone(), reason })
                }
            };
        }
        self.state = next;
        Ok(())
    }
}
