//! `kmsfs credentials`: short-lived credentials of the calling user, in the form that `credential_process` wants (AWS SDKs and
//! tools reference guide, "Process credential provider").

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::output;
use crate::kms::api::{Client, DEFAULT_DURATION, SESSION_CREDENTIALS};

/// Arguments of `kmsfs credentials`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How long they last, 900 to 43200
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_DURATION)]
    duration: u64,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which server is spoken to.
#[derive(clap::Args)]
pub(super) struct ServerArgs {
    /// The socket of kmsfs serve --unix [default: that of the keystore, which its owner can reach]
    #[arg(long, value_name = "PATH", env = "KMSFS_SOCKET")]
    pub(super) unix: Option<PathBuf>,
    /// The keystore [default: ${XDG_DATA_HOME:-~/.local/share}/kmsfs/keystore]
    #[arg(long, value_name = "DIR", env = "KMSFS_KEYSTORE")]
    keystore: Option<PathBuf>,
}

impl ServerArgs {
    /// The directory of the keystore, as an absolute path.
    pub(super) fn keystore_dir(&self) -> Result<PathBuf, Failure> {
        KeystoreArgs { keystore: self.keystore.clone(), ..KeystoreArgs::default() }.dir()
    }

    /// A connection to it.
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        let refused = |path: &Path, error: &std::io::Error| {
            let next = "start it with kmsfs serve, or name its socket with --unix";
            Failure::new(Code::Other, format!("no server at {}", path.display()), error, next)
        };
        match &self.unix {
            Some(path) => Client::connect(path).map_err(|error| refused(path, &error)),
            None => {
                let dir = self.keystore_dir()?;
                Client::of_keystore(&dir).map_err(|error| refused(&dir, &error))
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessCredentials<'a> {
    version: u32,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let answer = args.server.connect()?.call(SESSION_CREDENTIALS, &json!({ "DurationSeconds": args.duration }))?;
    let text = |name: &str| answer.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    output::json(&ProcessCredentials {
        version: 1,
        access_key_id: text("AccessKeyId"),
        secret_access_key: text("SecretAccessKey"),
        session_token: text("SessionToken"),
        expiration: output::time(answer.get("Expiration").and_then(serde_json::Value::as_u64).unwrap_or_default()),
    })
}
