//! `kmsfs alias` and `kmsfs key alias`: names of CMKs.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::kms_call::{Kms, read};
use super::output::{self, line};

/// Arguments of `kmsfs alias`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Give a key a name
    Create(Pair),
    /// Point a name at another key
    Update(Pair),
    /// Take a name away; its key stays
    Delete {
        /// The name: alias/...
        alias: String,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
    /// List all names
    List {
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
}

#[derive(clap::Args)]
struct Pair {
    /// The name: alias/...
    alias: String,
    /// The key: its id or another alias of it
    key: String,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

/// An alias in an answer of ListAliases, and as it is printed.
#[derive(Deserialize, Serialize)]
struct Shown {
    #[serde(rename(deserialize = "AliasName"))]
    alias: String,
    #[serde(rename(deserialize = "TargetKeyId"))]
    key: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create(Pair { alias, key, keystore }) => {
            let mut kms = Kms::open(keystore)?;
            let target = kms.arn(key)?;
            kms.call("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": target }))?;
            line(format!("{alias} names {key}. No volume was changed."))
        }
        Verb::Update(Pair { alias, key, keystore }) => {
            let mut kms = Kms::open(keystore)?;
            let target = kms.arn(key)?;
            kms.call("UpdateAlias", json!({ "AliasName": alias, "TargetKeyId": target }))?;
            line(format!("{alias} names {key}. Existing volumes and data keys stay under the former key."))
        }
        Verb::Delete { alias, keystore } => {
            Kms::open(keystore)?.call("DeleteAlias", json!({ "AliasName": alias }))?;
            line(format!("{alias} is gone. Its key was not touched."))
        }
        Verb::List { json, keystore } => {
            let mut listed = Kms::open(keystore)?.list("ListAliases", "Aliases", &json!({ "Limit": 100 }))?;
            let shown: Vec<Shown> = read(listed["Aliases"].take())?;
            if *json {
                return output::json(&shown);
            }
            shown.iter().try_for_each(|shown| line(format!("{}  {}", shown.alias, shown.key)))
        }
    }
}
