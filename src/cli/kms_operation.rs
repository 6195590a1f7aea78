//! `kmsfs kms`: any operation of the KMS by its name, JSON in and JSON out.

use std::io::Read;

use serde_json::Value;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::kms_call::Kms;
use super::output;

/// Longest parameters, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// Arguments of `kmsfs kms`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The operation, by AWS's name: DescribeKey, ListGrants, ...
    operation: String,
    /// Its parameters; - reads them from standard input, as a Plaintext must be: every user sees the arguments of a process
    #[arg(default_value = "{}")]
    parameters: String,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut text = args.parameters.clone();
    if text == "-" {
        text.clear();
        let read = std::io::stdin().lock().take(MAX_LEN).read_to_string(&mut text);
        read.map_err(|error| Failure::io("standard input".as_ref(), "read", &error))?;
    }
    let parameters: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::new(Code::Usage, "parameters", error, "give one JSON object"))?;
    if args.parameters != "-" && parameters.get("Plaintext").is_some() {
        let reason = "every user of this machine sees the arguments of a process";
        let next = "give - for the parameters, and the JSON on standard input";
        return Err(Failure::new(Code::Usage, "Plaintext", reason, next));
    }
    let mut kms = Kms::open(&args.keystore)?;
    output::json(&kms.call(&args.operation, parameters)?)
}
