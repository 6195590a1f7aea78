//! `kmsfs key`: the CMKs of a keystore. Each command says in one line what it did not do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::kms_call::{Kms, read};
use super::kms_show::{Ask, pair};
use super::output::{self, line};
use super::{key_alias, key_explain, key_settings, key_use, unlock};
use crate::kms::policy::Policy;
use crate::kms::{KeyState, KeystoreError, Operation};

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
        /// SYMMETRIC_DEFAULT, or RSA_2048, RSA_3072 or RSA_4096 to encrypt with the public key alone
        #[arg(long, default_value = "SYMMETRIC_DEFAULT")]
        spec: String,
        /// A tag; repeat for more
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
        tag: Vec<(String, String)>,
        /// The key policy [default: the owner may do everything, and mounts may use it for whoever may open a file]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        #[command(flatten)]
        ask: Ask,
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
    /// Tell which statement of its policy, or which grant, decides about a request
    Explain(key_explain::Args),
    /// Name keys
    Alias(key_alias::Args),
    #[command(flatten)]
    Settings(key_settings::Verb),
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
        Verb::Create { description, alias, spec, tag, policy, ask } => {
            create(ask, &Wanted { description, alias: alias.as_deref(), spec, tags: tag, policy: policy.as_deref() })
        }
        Verb::List(look) => list(&described(&mut Kms::open(&look.keystore)?, None)?, look.json),
        Verb::Describe { key, look } => {
            let keys = described(&mut Kms::open(&look.keystore)?, Some(key))?;
            keys.iter().try_for_each(|key| describe(key, look.json))
        }
        Verb::Enable(One { key, keystore }) => {
            Kms::open(keystore)?.on_key("EnableKey", key, json!({}))?;
            line(format!("{key} is enabled; files under it open again. Nothing was rewrapped."))
        }
        Verb::Disable(One { key, keystore }) => {
            Kms::open(keystore)?.on_key("DisableKey", key, json!({}))?;
            line(format!("{key} is disabled; nothing was deleted, and kmsfs key enable {key} brings everything back."))
        }
        Verb::Rotate { one: One { key, keystore }, json } => rotate(keystore, key, *json),
        Verb::Delete { one: One { key, keystore }, days, volumes, json } => {
            delete(keystore, (key, *days), volumes, *json)
        }
        Verb::CancelDeletion(One { key, keystore }) => {
            Kms::open(keystore)?.on_key("CancelKeyDeletion", key, json!({}))?;
            line(format!("{key} is kept; it was not enabled. Next: kmsfs key enable {key}"))
        }
        Verb::Which(args) => key_use::which(args),
        Verb::Versions(args) => key_use::versions(args),
        Verb::Retire(args) => key_use::retire(args),
        Verb::Explain(args) => key_explain::run(args),
        Verb::Alias(args) => key_alias::run(args),
        Verb::Settings(verb) => key_settings::run(verb),
    }
}

fn rotate(keystore: &KeystoreArgs, key: &str, json: bool) -> Result<(), Failure> {
    let mut kms = Kms::open(keystore)?;
    let arn = kms.arn(key)?;
    kms.call("RotateKeyOnDemand", json!({ "KeyId": arn }))?;
    let keys = described(&mut kms, Some(&arn)).inspect_err(|_| eprintln!("kmsfs: note: {key} was rotated"))?;
    let (id, version) = keys.first().map_or((arn.as_str(), None), |key| (&key.id, key.newest()));
    if json {
        return output::json(&json!({ "key": id, "version": version }));
    }
    let version = version.unwrap_or_default();
    line(format!(
        "{key} has version {version} for new data keys; existing files keep their old version, and open, until: kmsfs rewrap"
    ))
}

fn delete(args: &KeystoreArgs, (key, days): (&str, u32), volumes: &[PathBuf], json: bool) -> Result<(), Failure> {
    let dir = args.dir()?;
    if !(7..=30).contains(&days) {
        return Err(KeystoreError::WaitingPeriod(days).into());
    }
    let (cmk, losses, deletion_date) = args.secret.unlock(|secret| {
        let kms = unlock::open_kms(&dir, &secret)?;
        let cmk = Arc::clone(kms.keys().resolve(key)?);
        cmk.require(Operation::ScheduleDeletion)?;
        // A scan reads the bundle, and may have to unlock volumes.
        let losses = key_use::losses(&dir, &secret, &cmk, volumes, json)?;
        let parameters = json!({ "KeyId": cmk.id, "PendingWindowInDays": days });
        let answer = Kms::open_with(&dir, &secret)?.call("ScheduleKeyDeletion", parameters)?;
        Ok((cmk, losses, answer["DeletionDate"].as_u64().unwrap_or_default()))
    })?;
    if json {
        return output::json(&json!({ "key": cmk.id, "deletion_date": deletion_date, "volumes": losses }));
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

/// What a new key is to be like.
struct Wanted<'a> {
    description: &'a str,
    alias: Option<&'a str>,
    spec: &'a str,
    tags: &'a [(String, String)],
    policy: Option<&'a Path>,
}

/// Makes a key. Unlike CreateKey without a policy, the policy lets mounts use it: see docs/kms.md section 2.
fn create(ask: &Ask, wanted: &Wanted<'_>) -> Result<(), Failure> {
    let policy = match wanted.policy {
        Some(path) => fs::read_to_string(path).map_err(|error| Failure::io(path, "read", &error))?,
        None => Policy::mount_default().text().to_owned(),
    };
    let tags = wanted.tags.iter().map(|(key, value)| json!({ "TagKey": key, "TagValue": value }));
    let mut kms = Kms::open(&ask.keystore)?;
    let parameters = json!({
        "Description": wanted.description,
        "KeySpec": wanted.spec,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "Policy": policy,
        "Tags": tags.collect::<Vec<_>>(),
    });
    let answer = kms.call("CreateKey", parameters)?;
    let id = answer["KeyMetadata"]["KeyId"].as_str().unwrap_or_default();
    if let Some(alias) = wanted.alias {
        kms.call("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": id }))
            .inspect_err(|_| eprintln!("kmsfs: note: the key {id} was made"))?;
    }
    ask.say(&answer, id)
}

/// A key in an answer of kmsfs.DescribeKeys, and as it is printed.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(deserialize = "PascalCase"))]
struct Shown {
    #[serde(rename(deserialize = "KeyId"))]
    id: String,
    aliases: Vec<String>,
    state: KeyState,
    description: String,
    #[serde(rename(deserialize = "CreationDate"))]
    created: u64,
    versions: Vec<ShownVersion>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(deserialize = "PascalCase"))]
struct ShownVersion {
    number: u16,
    #[serde(rename(deserialize = "CreationDate"))]
    created: u64,
    #[serde(rename(deserialize = "DestructionDate"), skip_serializing_if = "Option::is_none")]
    destroyed: Option<u64>,
}

impl Shown {
    /// The version that wraps.
    fn newest(&self) -> Option<u16> {
        self.versions.last().map(|version| version.number)
    }
}

/// All keys, or the one of this name, as whoever has the keystore open knows them: beside a server no secret is needed.
fn described(kms: &mut Kms, only: Option<&str>) -> Result<Vec<Shown>, Failure> {
    let mut answer = kms.list("kmsfs.DescribeKeys", "Keys", &json!({ "KeyId": only, "Limit": 100 }))?;
    read(answer["Keys"].take())
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

fn list(keys: &[Shown], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&keys);
    }
    for key in keys {
        let version = key.versions.len();
        line(format!("{}  {}  version {version}  {}", key.id, state(key.state), key.aliases.join(" ")).trim_end())?;
    }
    Ok(())
}

fn describe(key: &Shown, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(key);
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
