//! `kmsfs grant`: leave for one user to use one key.

use std::path::Path;

use serde_json::{Value, json};

use super::failure::Failure;
use super::kms_call::Kms;
use super::kms_show::{Ask, object, pair};
use super::users;
use crate::kms::{Principal, root_arn};

/// Arguments of `kmsfs grant`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Let a user use a key
    Create(Create),
    /// List the grants of a key, or those that a user may retire
    List {
        /// The key: its id, ARN or an alias
        #[arg(required_unless_present = "retirable_by")]
        key: Option<String>,
        /// Only those for this user
        #[arg(long, value_name = "USER")]
        grantee: Option<String>,
        /// Those of all keys that this user may retire
        #[arg(long, value_name = "USER", conflicts_with_all = ["key", "grantee"])]
        retirable_by: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// End a grant that is not needed any more
    Retire {
        /// The key: its id, ARN or an alias
        #[arg(required_unless_present = "token")]
        key: Option<String>,
        /// The id of the grant
        #[arg(required_unless_present = "token")]
        grant: Option<String>,
        /// The token that kmsfs grant create printed, instead of both
        #[arg(long, conflicts_with_all = ["key", "grant"])]
        token: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Take a grant away
    Revoke {
        /// The key: its id, ARN or an alias
        key: String,
        /// The id of the grant
        grant: String,
        /// Take away also what was granted by it
        #[arg(long)]
        cascade: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(clap::Args)]
struct Create {
    /// The key: its id, ARN or an alias
    key: String,
    /// The user, uid/NUMBER for one without a name, the ARN of a principal, or root: the owner of the keystore
    #[arg(long, value_name = "USER")]
    grantee: String,
    /// What the user may do: Decrypt, Encrypt, GenerateDataKey, ...
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    operations: Vec<String>,
    /// Who may retire the grant
    #[arg(long, value_name = "USER")]
    retiring: Option<String>,
    /// Only with an encryption context that has this pair; repeat for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "context_equals")]
    context_subset: Vec<(String, String)>,
    /// Only with an encryption context of exactly these pairs
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    context_equals: Vec<(String, String)>,
    /// A name: the same request with the same name makes no second grant
    #[arg(long)]
    name: Option<String>,
    /// When it ends by itself: 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<u64>,
    #[command(flatten)]
    ask: Ask,
}

fn time(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{error}"))?;
    u64::try_from(time.as_second()).map_err(|_| "it is before 1970".to_owned())
}

/// The ARN of a principal that is named by it, or by the name that the system has. `root` is the root of the account, as AWS means
/// it, and so is the name of the keystore's owner.
fn arn(keystore: &Path, user: &str) -> Result<String, Failure> {
    Ok(match user {
        "root" => root_arn(),
        _ if user.starts_with("arn:") => user.to_owned(),
        _ => users::principal(keystore, user)?.unwrap_or_else(|| Principal::user(user)).arn(),
    })
}

/// The same for one who is given something, with a note if it is perhaps not who was meant. A user may be made later, or be known
/// on another machine only, so none is refused.
fn arn_given(keystore: &Path, user: &str) -> Result<String, Failure> {
    let arn = arn(keystore, user)?;
    if user == "root" {
        if users::owner_of(keystore)? != 0 {
            let unix = Principal::user("root").arn();
            eprintln!("kmsfs: note: root is the owner of the keystore; the unix user root is {unix}");
        }
    } else if !user.starts_with("arn:") && users::principal(keystore, user)?.is_none() {
        eprintln!("kmsfs: note: this system knows no user {user}; nobody has the grant until it does");
    }
    Ok(arn)
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Create(args) => create(args),
        Verb::List { key, grantee, retirable_by, ask } => {
            list(ask, key.as_deref(), grantee.as_deref(), retirable_by.as_deref())
        }
        Verb::Retire { key, grant, token, ask } => {
            let mut kms = Kms::open(&ask.keystore)?;
            let answer = match (token, key, grant) {
                (Some(token), ..) => kms.call("RetireGrant", json!({ "GrantToken": token }))?,
                (None, key, grant) => {
                    kms.on_key("RetireGrant", key.as_deref().unwrap_or_default(), json!({ "GrantId": grant }))?
                }
            };
            ask.say(&answer, "The grant has ended. What was granted by it was not touched.")
        }
        Verb::Revoke { key, grant, cascade, ask } => {
            let parameters = json!({ "GrantId": grant, "Cascade": cascade });
            let answer = Kms::open(&ask.keystore)?.on_key("RevokeGrant", key, parameters)?;
            let rest =
                if *cascade { "So has what was granted by it." } else { "What was granted by it was not touched." };
            ask.say(&answer, format!("The grant has ended. {rest}"))
        }
    }
}

fn create(args: &Create) -> Result<(), Failure> {
    let mut kms = Kms::open(&args.ask.keystore)?;
    let keystore = args.ask.keystore.dir()?;
    let retiring = args.retiring.as_deref().map(|user| arn_given(&keystore, user)).transpose()?;
    let mut parameters =
        json!({ "GranteePrincipal": arn_given(&keystore, &args.grantee)?, "Operations": args.operations });
    let optional = [
        ("RetiringPrincipal", retiring.map(|arn| json!(arn))),
        ("Name", args.name.as_ref().map(|name| json!(name))),
        ("Expires", args.expires.map(|time| json!(time))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            parameters[name] = value;
        }
    }
    if !args.context_subset.is_empty() {
        parameters["Constraints"] = json!({ "EncryptionContextSubset": object(&args.context_subset) });
    }
    if !args.context_equals.is_empty() {
        parameters["Constraints"] = json!({ "EncryptionContextEquals": object(&args.context_equals) });
    }
    args.ask.show(&kms.on_key("CreateGrant", &args.key, parameters)?)
}

fn list(ask: &Ask, key: Option<&str>, grantee: Option<&str>, retirable_by: Option<&str>) -> Result<(), Failure> {
    let mut kms = Kms::open(&ask.keystore)?;
    let keystore = ask.keystore.dir()?;
    let (operation, mut parameters): (&str, Value) = match retirable_by {
        Some(user) => ("ListRetirableGrants", json!({ "RetiringPrincipal": arn(&keystore, user)?, "Limit": 100 })),
        None => ("ListGrants", json!({ "KeyId": kms.arn(key.unwrap_or_default())?, "Limit": 100 })),
    };
    if let Some(user) = grantee {
        parameters["GranteePrincipal"] = arn(&keystore, user)?.into();
    }
    ask.show(&kms.list(operation, "Grants", &parameters)?)
}
