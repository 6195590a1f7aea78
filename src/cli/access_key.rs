//! `kmsfs access-key`: the access keys that requests over TCP are signed with.

use serde_json::{Value, json};

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::output::{self, line};
use super::{kms_call, users};

/// Arguments of `kmsfs access-key`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make an access key; its secret is shown this once
    Create {
        /// The user of this system that it signs for [default: the owner of the keystore]
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// How long it is good [default: until it is deleted]
        #[arg(long, value_name = "N")]
        days: Option<u32>,
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
    /// List the access keys, without their secrets
    List {
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
    /// Delete an access key: what is signed with it is refused from now on
    Delete {
        /// Its id, AKIA...
        id: String,
        #[command(flatten)]
        keystore: KeystoreArgs,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create { user, days, json, keystore } => create(keystore, user.as_deref(), *days, *json),
        Verb::List { json, keystore } => list(keystore, *json),
        Verb::Delete { id, keystore } => {
            kms_call::call(keystore, "kmsfs.DeleteAccessKey", json!({ "AccessKeyId": id }))?;
            line(format!("{id} is deleted. Short-lived credentials were not touched; they end by themselves."))
        }
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn time(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_u64).map(output::time)
}

fn create(keystore: &KeystoreArgs, user: Option<&str>, days: Option<u32>, json: bool) -> Result<(), Failure> {
    let mut parameters = json!({});
    if let Some(user) = user {
        let uid = users::uid(user)?.ok_or_else(|| {
            let next = "give the name of a user of this system, as getent passwd prints it";
            Failure::new(Code::Usage, format!("--user {user}"), "there is no such user", next)
        })?;
        parameters["UserName"] = user.into();
        parameters["UserId"] = uid.into();
    }
    if let Some(days) = days {
        parameters["ValidDays"] = days.into();
    }
    let made = kms_call::call(keystore, "kmsfs.CreateAccessKey", parameters)?;
    if json {
        return output::json(&made);
    }
    let key = made.get("AccessKey").unwrap_or(&Value::Null);
    line(format!(
        "aws_access_key_id = {}\naws_secret_access_key = {}",
        text(key, "AccessKeyId"),
        text(key, "SecretAccessKey")
    ))?;
    eprintln!("kmsfs: note: the secret is shown this once; a lost one is replaced by another access key");
    Ok(())
}

fn list(keystore: &KeystoreArgs, json: bool) -> Result<(), Failure> {
    let known = kms_call::call(keystore, "kmsfs.ListAccessKeys", json!({}))?;
    if json {
        return output::json(&known);
    }
    for key in known.get("AccessKeyMetadata").and_then(Value::as_array).into_iter().flatten() {
        let ends = time(key, "ExpirationDate").map(|time| format!("  until {time}")).unwrap_or_default();
        let made = time(key, "CreateDate").unwrap_or_default();
        line(format!("{}  {}  made {made}{ends}", text(key, "AccessKeyId"), text(key, "Principal")))?;
    }
    Ok(())
}
