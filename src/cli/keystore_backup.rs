//! `kmsfs keystore`: a backup of the keys, the way back, and looking whether everything is whole.

use std::path::{Path, PathBuf};

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::output::{self, line};
use super::volumes;
use crate::kms::{Keystore, KeystoreError, Verified, restore_backup, verify_backup};

/// Arguments of `kmsfs keystore`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Write all keys, sealed as they are, to FILE
    Backup {
        /// A new file, or an older backup of the same keystore
        file: PathBuf,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
    /// Make a keystore of a backup, or of a volume's .kmsfs/keystore.bundle
    Restore {
        /// The backup
        file: PathBuf,
        /// Replace the keystore that is there; it is kept beside
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
    /// Open every record of the keystore, or of a backup, and change nothing
    Verify {
        /// A backup [default: the keystore itself]
        file: Option<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Backup { file, keystore } => backup(file, keystore),
        Verb::Restore { file, force, keystore } => restore(file, *force, keystore),
        Verb::Verify { file, json, keystore } => verify(file.as_deref(), *json, keystore),
    }
}

fn backup(file: &Path, keystore: &KeystoreArgs) -> Result<(), Failure> {
    let opened = keystore.open_alone()?;
    opened.backup(file)?;
    let keys = opened.keys().keys().count();
    line(format!("{} holds the keystore as it is now: keys {keys}. No file of any volume is in it.", file.display()))?;
    line("It opens with the passphrase and the recovery key of today, whatever becomes of them later.")
}

fn restore(file: &Path, force: bool, keystore: &KeystoreArgs) -> Result<(), Failure> {
    let dir = keystore.dir()?;
    if !force && Keystore::exists(&dir) {
        // Before a secret is asked for.
        let next = "repeat it with --force, which keeps that keystore beside, or name another with --keystore";
        return Err(Failure::new(
            Code::Keystore,
            dir.display(),
            "there is a keystore already; it was left alone",
            next,
        ));
    }
    let restored =
        keystore.secret.unlock(|secret| restore_backup(file, &dir, &secret, force).map_err(Failure::from))?;
    if let Some(aside) = &restored.replaced {
        volumes::take_over(&dir, aside);
        line(format!("The keystore that was there is now {}.", aside.display()))?;
    }
    let Verified { keys, versions, .. } = restored.backup;
    line(format!("{} has the keys of the backup: keys {keys}, versions {versions}.", dir.display()))?;
    line("What was changed in the keystore after the backup was made is not in it, and no file was changed.")?;
    if restored.backup.is_subset {
        line("It has the keys of one volume only: the file is that volume's own copy.")?;
    }
    if volumes::list(&dir)?.contains_key(volumes::UNLISTED) {
        line("Which volumes use it is not in a backup: mount each one once, so that key retire looks through it.")?;
    }
    Ok(())
}

fn verify(file: Option<&Path>, json: bool, keystore: &KeystoreArgs) -> Result<(), Failure> {
    let dir = keystore.dir()?;
    let found = keystore.secret.unlock(|secret| match file {
        Some(file) => Ok(verify_backup(file, &secret)?),
        None if !Keystore::exists(&dir) => Err(KeystoreError::NotFound(dir.clone()).into()),
        None => Ok(Keystore::open(&dir)?.verify(&secret)?),
    })?;
    if json {
        output::json(&found)?;
    } else {
        table(&found)?;
    }
    if found.is_sound() {
        return Ok(());
    }
    let faulty: Vec<&str> =
        found.parts.iter().filter(|part| part.fault.is_some()).map(|part| part.name.as_str()).collect();
    let why = format!("not whole: {}; the rest is, and nothing was changed", faulty.join(", "));
    Err(Failure::new(Code::Keystore, dir.display(), why, "kmsfs key list mends it from the rest; then verify again"))
}

fn table(found: &Verified) -> Result<(), Failure> {
    line(format!("keystore    {}\ngeneration  {}", found.keystore, found.generation))?;
    let Verified { keys, versions, aliases, .. } = found;
    line(format!("keys        {keys}, with {versions} versions and {aliases} aliases"))?;
    if found.is_subset {
        line("note        only the keys of one volume")?;
    }
    for part in &found.parts {
        let generation = part.generation.map(|number| format!(", generation {number}")).unwrap_or_default();
        line(format!("{:<20} {}{generation}", part.name, part.fault.as_deref().unwrap_or("whole")))?;
    }
    Ok(())
}
