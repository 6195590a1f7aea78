//! Finding, unlocking and opening the keystore.

use std::path::PathBuf;

use super::failure::{Code, Failure};
use super::keystore_record;
use super::secret::SecretArgs;
use crate::kms::{Keystore, KeystoreError};

/// Where the keystore is, and how to unlock it.
#[derive(clap::Args, Debug, Clone, Default)]
pub(super) struct KeystoreArgs {
    /// The keystore [default: ${XDG_DATA_HOME:-~/.local/share}/kmsfs/keystore]
    #[arg(long, value_name = "DIR", env = "KMSFS_KEYSTORE")]
    pub(super) keystore: Option<PathBuf>,
    #[command(flatten)]
    pub(super) secret: SecretArgs,
}

impl KeystoreArgs {
    /// The directory of the keystore, as an absolute path.
    pub(super) fn dir(&self) -> Result<PathBuf, Failure> {
        let dir = match &self.keystore {
            Some(dir) => dir.clone(),
            None => default_dir()?,
        };
        std::path::absolute(&dir).map_err(|error| Failure::io(&dir, "find", &error))
    }

    /// Unlocks the keystore for a change or a look; waits a moment if another command has it.
    pub(super) fn open(&self) -> Result<Keystore, Failure> {
        let dir = self.dir()?;
        if !Keystore::exists(&dir) {
            return Err(KeystoreError::NotFound(dir).into());
        }
        let keystore = self.secret.unlock(|secret| Ok(Keystore::open(&dir)?.unlock(&secret)?))?;
        if let Some(reason) = keystore.restored() {
            eprintln!("kmsfs: note: the records of {} were restored from keystore.bundle: {reason}", dir.display());
        }
        for id in keystore.deleted() {
            eprintln!("kmsfs: note: the deletion date of key {} has passed: its key material was destroyed", id.0);
        }
        Ok(keystore)
    }

    /// The same, for a command that does not hand the keystore on to the KMS, which would record what the keystore does by itself.
    pub(super) fn open_alone(&self) -> Result<Keystore, Failure> {
        let keystore = self.open()?;
        keystore_record::opening(&keystore);
        Ok(keystore)
    }
}

fn default_dir() -> Result<PathBuf, Failure> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        let next = "name the keystore with --keystore DIR or KMSFS_KEYSTORE";
        Failure::new(Code::Usage, "no keystore", "neither XDG_DATA_HOME nor HOME is set", next)
    })?;
    Ok(data.join("kmsfs/keystore"))
}

/// Where a command keeps what it must remember of this user.
///
/// # Errors
/// If the environment names no such place; `who` wants to know.
pub(super) fn state_folder(who: &str) -> Result<PathBuf, Failure> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let missing = || Failure::new(Code::Usage, who, "neither XDG_STATE_HOME nor HOME is set", "set HOME");
    Ok(state.ok_or_else(missing)?.join("kmsfs"))
}
