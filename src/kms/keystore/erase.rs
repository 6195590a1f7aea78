//! Destroying key material and unlock slots for good: after the change itself, no file of the keystore may hold what was
//! sealed before.
//!
//! sled is a log, so a record that was removed stays in its files; the former bundle has it as well. Both are made anew.
//! A mark in the directory is older than the change and younger than the last trace, so a crash in between is caught up
//! with when the keystore is opened the next time.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::records::{OpenFailure, Records};
use super::{ASIDE_PREFIX, LOCK_WAIT, RECORDS_NAME, mirror, replace_records};
use crate::kms::bundle_file;
use crate::kms::key::Operation;
use crate::kms::keyset::KeySet;
use crate::kms::slots::Slot;
use crate::kms::{Keystore, KeystoreError};

/// Says that something was destroyed, or was going to be, and traces of it may be left.
const MARK: &str = "erasing";

fn mark_path(dir: &Path) -> PathBuf {
    dir.join(MARK)
}

impl Keystore {
    /// Destroys one version of a CMK's key material: what is still wrapped under it is lost for good. Whoever calls this has
    /// made sure that nothing is. Copies outside of this directory keep it: backups, and volumes until they are next
    /// mounted. On error nothing has changed.
    ///
    /// If traces in the files of the keystore could not be removed, that is logged and made up for when it is opened again.
    ///
    /// # Errors
    /// [`KeystoreError::NewestVersion`], [`KeystoreError::NoSuchVersion`] or [`KeystoreError::VersionDestroyed`];
    /// [`KeystoreError::Kms`] if the CMK does not exist or is pending deletion; or of writing.
    pub fn retire(&mut self, name: &str, version: u16) -> Result<(), KeystoreError> {
        let cmk = self.state.keys.resolve(name)?;
        cmk.require(Operation::Retire)?;
        let retired = cmk.without(version)?;
        let mut keys = KeySet::clone(&self.state.keys);
        keys.put(retired);
        self.destroy(self.state.header.slots.clone(), keys)
    }

    /// What is due when a keystore was opened, and whenever else somebody asks: deletions whose date has passed, automatic
    /// rotations, grants that have expired, and traces that a crash left. Failures do not
    /// keep it from being used: a key whose date has passed is gone by the clock.
    pub(in crate::kms) fn catch_up(&mut self) {
        let mut keys = KeySet::clone(&self.state.keys);
        let (due, rotated) = (keys.delete_gone(), keys.rotate_due());
        let ended = keys.drop_expired_grants();
        let slots = self.state.header.slots.clone();
        if !due.is_empty() {
            match self.destroy(slots, keys) {
                Ok(()) => {
                    self.deleted.extend(due);
                    self.rotated.extend(rotated);
                }
                Err(error) => log::warn!("{error}; keys whose deletion date has passed are not destroyed yet"),
            }
        } else if !rotated.is_empty() || ended > 0 {
            match self.commit(slots, keys) {
                Ok(()) => self.rotated.extend(rotated),
                Err(error) => log::warn!("{error}; automatic rotations that are due are made later"),
            }
        }
        if self.in_doubt.is_none() && mark_path(&self.dir).exists() {
            self.erase_or_warn();
        }
    }

    /// Puts `slots` and `keys`, which lack some secrets, in the place of those there are, and removes every trace of the others.
    pub(in crate::kms) fn destroy(&mut self, slots: Vec<Slot>, keys: KeySet) -> Result<(), KeystoreError> {
        let mark = mark_path(&self.dir);
        let was_marked = mark.exists();
        File::create(&mark).map_err(KeystoreError::io("write", &mark))?;
        let changed = bundle_file::sync_dir(&self.dir).and_then(|()| self.commit(slots, keys));
        match &changed {
            Ok(()) => self.erase_or_warn(),
            // It may be in force, or one before it left traces: the mark stays.
            Err(KeystoreError::InDoubt { .. }) => {}
            Err(_) if was_marked => {}
            Err(_) => {
                // One that stays does no harm.
                let _ = fs::remove_file(&mark);
            }
        }
        changed
    }

    fn erase_or_warn(&mut self) {
        if let Err(error) = self.erase_traces() {
            let dir = self.dir.display();
            log::warn!("{error}; files in {dir} may hold destroyed keys until the keystore is opened the next time");
        }
    }

    fn erase_traces(&mut self) -> Result<(), KeystoreError> {
        // The former bundle: written twice, both are the present one.
        mirror(&self.bundle_path(), &self.state, &self.root)?;
        let path = self.dir.join(RECORDS_NAME);
        if let Some(records) = self.records.take() {
            records.close(Instant::now() + LOCK_WAIT).map_err(KeystoreError::io("close the records in", &path))?;
        }
        match replace_records(&self.dir, &self.state, &self.root) {
            Ok((records, _)) => self.records = Some(records),
            Err(error) => {
                let again = Records::open(&path, Instant::now() + LOCK_WAIT);
                self.records = Some(again.map_err(|failure: OpenFailure| failure.at(&self.dir, &path))?);
                return Err(error);
            }
        }
        sweep(&self.dir)?;
        let mark = mark_path(&self.dir);
        fs::remove_file(&mark).or_else(gone_is_fine).map_err(KeystoreError::io("remove", &mark))?;
        bundle_file::sync_dir(&self.dir)
    }
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes what was moved aside, and temporary files that a crash left. What somebody else put here stays.
fn sweep(dir: &Path) -> Result<(), KeystoreError> {
    let read = |error| KeystoreError::io("read directory", dir)(error);
    for entry in fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let (path, is_dir) = (entry.path(), entry.file_type().map_err(read)?.is_dir());
        let removed = match name.to_string_lossy() {
            name if is_dir && name.starts_with(ASIDE_PREFIX) => fs::remove_dir_all(&path),
            name if !is_dir && bundle_file::is_temporary(&name) => fs::remove_file(&path),
            _ => continue,
        };
        removed.or_else(gone_is_fine).map_err(KeystoreError::io("remove", &path))?;
    }
    bundle_file::sync_dir(dir)
}
