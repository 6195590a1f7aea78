//! `kmsfs recovery-key`: checking what was written down, and replacing it.

use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::secret::SecretArgs;
use super::{keystore_record, output};
use crate::kms::{Keystore, RecoveryKey, SlotKind};

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
    /// Make and print a new recovery key; the former one opens nothing any more
    New {
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Check { keystore } => check(keystore),
        Verb::New { keystore } => {
            let mut opened = keystore.open_alone()?;
            keystore_record::change(&mut opened, ("kmsfs.ReplaceRecoveryKey", &json!({})), |opened| {
                replace(opened, |key| output::put_surely(text(key))).map(|()| None)
            })?;
            output::line("The former recovery key is removed. No key was changed, and nothing was re-encrypted.")?;
            output::line(
                "Copies of the keystore in backups, and in volumes until they are next mounted, still open with it.",
            )
        }
    }
}

fn check(keystore: &KeystoreArgs) -> Result<(), Failure> {
    let secret = SecretArgs { recovery_key: true, ..keystore.secret.clone() };
    let keystore = KeystoreArgs { secret, ..keystore.clone() };
    let opened = keystore.open_alone()?;
    output::line(format!("This recovery key opens the keystore {}.", opened.dir().display()))
}

/// What is printed of a recovery key, this once.
pub(super) fn text(key: &RecoveryKey) -> Zeroizing<String> {
    let text = key.to_text();
    let (first, second) = text.split_at(text.len() / 2 + 1);
    Zeroizing::new(format!(
        "\nRecovery key of the keystore:\n\n    {first}\n    {second}\n\n\
        It opens everything if the passphrase is lost, and is shown only this once.\n\
        Write it down and keep it away from this machine. Check it with: kmsfs recovery-key check\n\n"
    ))
}

/// Adds a recovery key, shows it, and only then removes the former ones. One that could not be shown is taken back.
fn replace(keystore: &mut Keystore, show: impl FnOnce(&RecoveryKey) -> Result<(), Failure>) -> Result<(), Failure> {
    let former = recovery_slots(keystore);
    let key = keystore.add_recovery_key()?;
    let shown = show(&key);
    let added = || recovery_slots(keystore).into_iter().filter(|slot| !former.contains(slot)).collect();
    let superfluous: Vec<u32> = if shown.is_ok() { former } else { added() };
    for slot in superfluous {
        keystore.remove_slot(slot).map_err(|error| {
            let failure = Failure::from(error);
            let next = "repeat the command; until then more than one recovery key opens the keystore";
            Failure::of(failure.code, format!("{}. Next: {next}", failure.text))
        })?;
    }
    shown
}

fn recovery_slots(keystore: &Keystore) -> Vec<u32> {
    let slots = keystore.header().slots.iter();
    slots.filter(|slot| slot.kind == SlotKind::RecoveryKey).map(|slot| slot.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Code;
    use crate::kms::UnlockSecret;

    /// A keystore with a passphrase slot and a recovery slot.
    fn keystore(dir: &tempfile::TempDir) -> (Keystore, UnlockSecret) {
        let passphrase = UnlockSecret::passphrase(Zeroizing::new(b"secret".to_vec())).unwrap();
        let (keystore, key) = Keystore::create(&dir.path().join("keystore"), &[passphrase], 1).unwrap();
        (keystore, UnlockSecret::RecoveryKey(key))
    }

    fn parse(text: &str) -> UnlockSecret {
        UnlockSecret::RecoveryKey(RecoveryKey::parse(text).unwrap())
    }

    #[test]
    fn the_new_recovery_key_opens_and_the_former_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut keystore, first) = keystore(&dir);
        let second = UnlockSecret::RecoveryKey(keystore.add_recovery_key().unwrap());
        let mut shown = String::new();
        replace(&mut keystore, |key| {
            shown.push_str(&key.to_text());
            Ok(())
        })
        .unwrap();
        let path = keystore.dir().to_path_buf();
        drop(keystore);
        for former in [first, second] {
            assert!(Keystore::open(&path).unwrap().unlock(&former).is_err());
        }
        let opened = Keystore::open(&path).unwrap().unlock(&parse(&shown)).unwrap();
        assert_eq!(opened.header().slots.len(), 2);
    }

    #[test]
    fn a_recovery_key_that_was_not_shown_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut keystore, former) = keystore(&dir);
        let mut lost = String::new();
        let failed = replace(&mut keystore, |key| {
            lost.push_str(&key.to_text());
            Err(Failure::of(Code::Other, "no paper"))
        });
        assert_eq!(failed.unwrap_err().text, "no paper");
        assert!(keystore.check_secret(&former).is_ok());
        assert!(keystore.check_secret(&parse(&lost)).is_err());
    }
}
