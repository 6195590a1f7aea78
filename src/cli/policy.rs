//! `kmsfs policy`: key policies.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::failure::Failure;
use super::key_explain;
use super::kms_call::Kms;
use super::kms_show::Ask;

/// Arguments of `kmsfs policy`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Print the policy of a key
    Get {
        /// Its id, ARN or an alias
        key: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Replace the policy of a key
    Put {
        /// Its id, ARN or an alias
        key: String,
        /// The document, as AWS IAM writes them
        file: PathBuf,
        /// Also if nobody will be able to change it again
        #[arg(long)]
        bypass_policy_lockout_safety_check: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell what a document would decide about a request, if it were the policy of a key
    Simulate {
        /// The document, as AWS IAM writes them
        file: PathBuf,
        #[command(flatten)]
        question: key_explain::Args,
    },
    /// List the names of the policies of a key: there is one
    List {
        /// Its id, ARN or an alias
        key: String,
        #[command(flatten)]
        ask: Ask,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Get { key, ask } => {
            let answer = Kms::open(&ask.keystore)?.on_key("GetKeyPolicy", key, json!({}))?;
            ask.say(&answer, answer["Policy"].as_str().unwrap_or_default())
        }
        Verb::Put { key, file, bypass_policy_lockout_safety_check: bypass, ask } => {
            let text = fs::read_to_string(file).map_err(|error| Failure::io(file, "read", &error))?;
            let parameters = json!({ "Policy": text, "BypassPolicyLockoutSafetyCheck": bypass });
            let answer = Kms::open(&ask.keystore)?.on_key("PutKeyPolicy", key, parameters)?;
            ask.say(&answer, format!("{key} has the policy in {}. No grant was changed.", file.display()))
        }
        Verb::Simulate { file, question } => key_explain::simulate(question, file),
        Verb::List { key, ask } => ask.show(&Kms::open(&ask.keystore)?.on_key("ListKeyPolicies", key, json!({}))?),
    }
}
