//! `kmsfs recovery-key`: checking what was written down.

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::output;
use super::secret::SecretArgs;

/// Arguments of `kmsfs recovery-key`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Ask for the recovery key and try it; nothing is changed
    Check {
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Verb::Check { keystore } = &args.verb;
    let secret = SecretArgs { recovery_key: true, ..keystore.secret.clone() };
    let keystore = KeystoreArgs { secret, ..keystore.clone() };
    let opened = keystore.open()?;
    output::line(format!("This recovery key opens the keystore {}.", opened.dir().display()))
}
