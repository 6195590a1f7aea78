//! `kmsfs key`: the CMKs of a keystore. Each command says in one line what it did not do.

use std::path::PathBuf;

use serde::Serialize;

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::output::{self, line};
use super::{key_alias, key_use};
use crate::kms::{Cmk, KeyState, Keystore};

/// Arguments of `kmsfs key`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a key
    Create {
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// A name for it: alias/...
        #[arg(long)]
        alias: Option<String>,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
    /// List all keys
    List(Look),
    /// Show one key with its versions
    Describe {
        /// Its id or an alias
        key: String,
        #[command(flatten)]
        look: Look,
    },
    /// Let a key wrap and unwrap again
    Enable(One),
    /// Keep a key from wrapping and unwrapping; what is under it goes dark in live mounts
    Disable(One),
    /// Give a key a new version of key material
    Rotate {
        #[command(flatten)]
        one: One,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Schedule the deletion of a key, which stops its use at once
    Delete {
        #[command(flatten)]
        one: One,
        /// The waiting period, 7 to 30 days
        #[arg(long, default_value_t = 30)]
        days: u32,
        /// A volume to look through besides those that the keystore knows of
        #[arg(long = "volume", value_name = "DIR")]
        volumes: Vec<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the key of a file or directory
    Which(key_use::Which),
    /// Show the versions of a key, and how much is wrapped under each
    Versions(key_use::Versions),
    /// Destroy an old version of a key, if nothing needs it any more
    Retire(key_use::Retire),
    /// Take a scheduled deletion back; the key is disabled afterwards
    CancelDeletion(One),
    /// Name keys
    Alias(key_alias::Args),
}

#[derive(clap::Args)]
struct One {
    /// Its id or an alias
    key: String,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

#[derive(clap::Args)]
struct Look {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create { description, alias, keystore } => create(&mut keystore.open()?, description, alias.as_deref()),
        Verb::List(look) => list(&look.keystore.open()?, look.json),
        Verb::Describe { key, look } => describe(&look.keystore.open()?, key, look.json),
        Verb::Enable(One { key, keystore }) => {
            keystore.open()?.enable(key)?;
            line(format!("{key} is enabled; files under it open again. Nothing was rewrapped."))
        }
        Verb::Disable(One { key, keystore }) => {
            keystore.open()?.disable(key)?;
            line(format!("{key} is disabled; nothing was deleted, and kmsfs key enable {key} brings everything back."))
        }
        Verb::Rotate { one: One { key, keystore }, json } => rotate(&mut keystore.open()?, key, *json),
        Verb::Delete { one: One { key, keystore }, days, volumes, json } => {
            delete(keystore, (key, *days), volumes, *json)
        }
        Verb::CancelDeletion(One { key, keystore }) => {
            keystore.open()?.cancel_deletion(key)?;
            line(format!("{key} is kept; it was not enabled. Next: kmsfs key enable {key}"))
        }
        Verb::Which(args) => key_use::which(args),
        Verb::Versions(args) => key_use::versions(args),
        Verb::Retire(args) => key_use::retire(args),
        Verb::Alias(args) => key_alias::run(args),
    }
}

fn rotate(keystore: &mut Keystore, key: &str, json: bool) -> Result<(), Failure> {
    let version = keystore.rotate(key)?;
    if json {
        return output::json(&serde_json::json!({ "key": keystore.resolve(key)?, "version": version }));
    }
    line(format!(
        "{key} has version {version} for new data keys; existing files keep their old version, and open, until: kmsfs rewrap"
    ))
}

fn delete(args: &KeystoreArgs, (key, days): (&str, u32), volumes: &[PathBuf], json: bool) -> Result<(), Failure> {
    let dir = args.dir()?;
    let (cmk, losses, deletion_date) = args.secret.unlock(|secret| {
        let mut keystore = Keystore::open(&dir)?.unlock(&secret)?;
        keystore.check_deletable(key, days)?;
        let cmk = keystore.describe_key(key)?;
        // A scan reads the bundle, and may have to unlock volumes.
        drop(keystore);
        let losses = key_use::losses(&dir, &secret, &cmk, volumes, json)?;
        keystore = Keystore::open(&dir)?.unlock(&secret)?;
        Ok((cmk, losses, keystore.schedule_deletion(key, days)?))
    })?;
    if json {
        return output::json(&serde_json::json!({ "key": cmk.id, "deletion_date": deletion_date, "volumes": losses }));
    }
    for loss in &losses {
        line(loss.text())?;
    }
    if losses.is_empty() {
        line("Nothing in the volumes that this keystore knows of is under it. Look at another one with: --volume DIR")?;
    }
    let when = output::time(deletion_date);
    line(format!(
        "{key} is pending deletion until {when}; nothing is deleted yet. What is under it is out of reach now, and lost \
         for good after that date. Undo: kmsfs key cancel-deletion {key}"
    ))
}

fn create(keystore: &mut Keystore, description: &str, alias: Option<&str>) -> Result<(), Failure> {
    let id = keystore.create_key(description)?;
    if let Some(alias) = alias {
        keystore.create_alias(alias, &id.0).inspect_err(|_| eprintln!("kmsfs: note: the key {} was made", id.0))?;
    }
    line(&id.0)
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    aliases: Vec<&'a str>,
    state: KeyState,
    description: &'a str,
    created: u64,
    versions: Vec<ShownVersion>,
}

#[derive(Serialize)]
struct ShownVersion {
    number: u16,
    created: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    destroyed: Option<u64>,
}

impl<'a> Shown<'a> {
    fn of(cmk: &'a Cmk, keys: &'a crate::kms::KeySet) -> Self {
        let versions = cmk.versions().iter().map(|v| ShownVersion {
            number: v.number,
            created: v.created,
            destroyed: v.destroyed(),
        });
        Self {
            id: &cmk.id.0,
            aliases: keys.aliases().filter(|(_, id)| **id == cmk.id).map(|(name, _)| name).collect(),
            state: cmk.state,
            description: &cmk.description,
            created: cmk.created,
            versions: versions.collect(),
        }
    }
}

fn state(state: KeyState) -> String {
    match state {
        KeyState::Enabled => "enabled".to_owned(),
        KeyState::Disabled => "disabled".to_owned(),
        KeyState::PendingDeletion { deletion_date } => {
            format!("pending deletion until {}", output::time(deletion_date))
        }
    }
}

fn list(keystore: &Keystore, json: bool) -> Result<(), Failure> {
    let keys = keystore.keys();
    let shown: Vec<Shown<'_>> = keys.keys().map(|cmk| Shown::of(cmk, &keys)).collect();
    if json {
        return output::json(&shown);
    }
    for key in &shown {
        let version = key.versions.len();
        line(format!("{}  {}  version {version}  {}", key.id, state(key.state), key.aliases.join(" ")).trim_end())?;
    }
    Ok(())
}

fn describe(keystore: &Keystore, name: &str, json: bool) -> Result<(), Failure> {
    let (keys, cmk) = (keystore.keys(), keystore.describe_key(name)?);
    let key = Shown::of(&cmk, &keys);
    if json {
        return output::json(&key);
    }
    line(format!("key          {}\nstate        {}", key.id, state(key.state)))?;
    line(format!("created      {}", output::time(key.created)))?;
    if !key.description.is_empty() {
        line(format!("description  {}", key.description))?;
    }
    for alias in &key.aliases {
        line(format!("alias        {alias}"))?;
    }
    for version in &key.versions {
        let destroyed = version.destroyed.map(|when| format!(", destroyed {}", output::time(when))).unwrap_or_default();
        line(format!("version {:<4} {}{destroyed}", version.number, output::time(version.created)))?;
    }
    Ok(())
}
