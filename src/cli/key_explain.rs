//! `kmsfs key explain` and `kmsfs policy simulate`: which statement or grant decides about a request, and why.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::failure::{Code, Failure};
use super::kms_call::Kms;
use super::kms_show::{Ask, object, pair};
use super::users;
use crate::kms::Principal;
use crate::kms::policy::Policy;

/// Arguments of `kmsfs key explain`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The key: its id or an alias
    key: String,
    /// Who would ask: a user, or uid/NUMBER for one without a name [default: the owner of the keystore]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What would be asked for: Decrypt, GenerateDataKey, ...
    #[arg(long, default_value = "Decrypt")]
    action: String,
    /// A pair of the encryption context; repeat for more
    #[arg(long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// As if it came through a mount
    #[arg(long)]
    via_mount: bool,
    #[command(flatten)]
    ask: Ask,
}

/// Explains a request under the policy and the grants in force.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    explain(args, None)
}

/// Explains a request as if `document` were the policy of the key.
pub(super) fn simulate(args: &Args, document: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(document).map_err(|error| Failure::io(document, "read", &error))?;
    Policy::parse(&text).map_err(|error| {
        Failure::new(Code::Usage, "policy", format!("{}: {error}", document.display()), "change the document")
    })?;
    explain(args, Some(&text))
}

fn explain(args: &Args, policy: Option<&str>) -> Result<(), Failure> {
    let keystore = args.ask.keystore.dir()?;
    let principal = args.user.as_deref().map_or(Ok(Principal::Root), |name| principal(&keystore, name))?;
    let mut question = json!({
        "KeyId": args.key,
        "Action": args.action,
        "EncryptionContext": object(&args.context),
        "ViaMount": args.via_mount,
        "Policy": policy,
    });
    if let Principal::User { name, groups } = &principal {
        question["UserName"] = json!(name);
        question["Groups"] = json!(groups);
    }
    let answer = Kms::open(&args.ask.keystore)?.call("kmsfs.GetExplanation", question)?;
    args.ask.say(&answer["Explanation"], answer["Text"].as_str().unwrap_or_default().trim_end())
}

/// The user of this system with this name, as a mount sees it.
fn principal(keystore: &Path, name: &str) -> Result<Principal, Failure> {
    users::principal(keystore, name)?.ok_or_else(|| {
        let text = format!("there is no user {name} on this system");
        let next = "name another with --user, or uid/NUMBER; id NAME tells whether there is one";
        Failure::new(Code::Usage, "key explain", text, next)
    })
}
