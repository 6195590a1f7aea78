//! `kmsfs passphrase`: changing it.

use std::path::PathBuf;

use serde_json::json;

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::{keystore_record, output, secret};
use crate::kms::DEFAULT_UNLOCK_MS;

/// Arguments of `kmsfs passphrase`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Replace the passphrase; with --recovery-key, replace a forgotten one
    Change {
        /// Read the new passphrase from the first line of FILE
        #[arg(long, value_name = "FILE")]
        new_passfile: Option<PathBuf>,
        /// How long one try of the new passphrase takes on this machine, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = DEFAULT_UNLOCK_MS)]
        unlock_time: u32,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Verb::Change { new_passfile, unlock_time, keystore } = &args.verb;
    let mut opened = keystore.open_alone()?;
    let new = match new_passfile {
        Some(path) => secret::new_from_file(path)?,
        None => secret::ask_new("New passphrase")?,
    };
    keystore_record::change(&mut opened, ("kmsfs.ChangePassphrase", &json!({})), |opened| {
        opened.change_passphrase(&new, *unlock_time)?;
        Ok(None)
    })?;
    output::line("The passphrase is changed. No key was changed, and nothing was re-encrypted.")?;
    output::line(
        "Copies of the keystore in backups, and in volumes until they are next mounted, still open with the old one.",
    )
}
