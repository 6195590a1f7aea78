//! Where commands and mounts record what they use keys for.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::failure::{Code, Failure};
use super::keystore::state_folder;
use super::mount_options::AuditPaths;
use crate::envelope::VolumeHeader;
use crate::kms::audit::{self, Keys, Log};
use crate::kms::{BUNDLE_NAME, LocalKms, MountAudit};
use crate::sys;

/// The state of root where nothing names another place.
const ROOT_STATE: &str = "/var/lib/kmsfs";

/// What is recorded beside the uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recording {
    /// The volume; none for a look through several.
    pub(super) volume: Option<Uuid>,
    /// Whether plain paths of what users open are.
    pub(super) paths: AuditPaths,
}

impl Recording {
    /// For one volume.
    ///
    /// # Errors
    /// If its header has no uuid.
    pub(super) fn of(header: &VolumeHeader, paths: AuditPaths) -> Result<Self, Failure> {
        let uuid = header.uuid().parse();
        let volume = uuid.map_err(|_| Failure::of(Code::NotAVolume, "the volume's uuid is none"))?;
        Ok(Self { volume: Some(volume), paths })
    }

    /// Records what `kms` is used for from now on: beside its keystore in `keystore` or, if it reads a volume's copy, in a folder
    /// of this user's for keystores that are not here. Without such a folder nothing is recorded, with a warning: nobody is
    /// kept from data because of the log.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(self, kms: &LocalKms, keystore: &Path) -> Result<(), Failure> {
        let Some((keys, uuid)) = kms.audit_keys().zip(kms.keystore()) else { return Ok(()) };
        if kms.bundle() == Some(&keystore.join(BUNDLE_NAME)) {
            return self.write_to(kms, keystore, keys);
        }
        match folder_for_copies(state_folder("audit log").ok(), sys::process::effective_uid()) {
            Some(folder) => self.write_to(kms, &folder.join(uuid.to_string()), keys),
            None => {
                log::warn!("neither XDG_STATE_HOME nor HOME is set: what keys are used for is not recorded");
                Ok(())
            }
        }
    }

    /// Records in the log beside the keystore in `home`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn write_to(self, kms: &LocalKms, home: &Path, keys: Keys) -> Result<(), Failure> {
        let log = Log::open(&home.join(audit::FOLDER), keys, audit::Options::default())
            .map_err(|error| Failure::of(Code::Other, format!("{error}; raise the limit of processes (ulimit -u)")))?;
        kms.record_to(MountAudit { log, volume: self.volume, paths: self.paths == AuditPaths::Yes });
        Ok(())
    }
}

fn folder_for_copies(state: Option<PathBuf>, uid: u32) -> Option<PathBuf> {
    state.or_else(|| (uid == 0).then(|| ROOT_STATE.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_no_home_for_the_log_and_others_have_none_without() {
        let state = || Some(PathBuf::from("/home/ada/.local/state/kmsfs"));
        assert_eq!(folder_for_copies(state(), 0), state());
        assert_eq!(folder_for_copies(None, 0), Some("/var/lib/kmsfs".into()));
        assert_eq!(folder_for_copies(None, 1000), None);
    }
}
