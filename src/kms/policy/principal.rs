//! The Principal and NotPrincipal elements.

use super::document::Effect;
use super::json::Node;
use crate::kms::{ACCOUNT, Principal};

/// One entry of a Principal element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// `*`.
    Anyone,
    /// The account: its id, or the ARN of its root.
    Account,
    /// A local user, by name.
    User(String),
    /// A service, by name.
    Service(String),
    /// A principal of another account or of a kind that does not exist here. It is nobody.
    Elsewhere,
}

const INVALID: &str = "Policy contains a statement with one or more invalid principals.";

impl Entry {
    /// Reads an entry below `AWS`: `*`, an account id, or an ARN of IAM or STS.
    fn parse_aws(text: &str) -> Result<Self, String> {
        let invalid = || format!("{INVALID} Invalid principal: {text}");
        if text == "*" {
            return Ok(Self::Anyone);
        }
        if is_account(text) {
            return Ok(if text == ACCOUNT { Self::Account } else { Self::Elsewhere });
        }
        // A wildcard that matched a part of a name would let in whoever is named later.
        if text.contains(['*', '?']) {
            return Err(invalid());
        }
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().unwrap_or("");
        let (scheme, partition, service, region, account, resource) = (next(), next(), next(), next(), next(), next());
        let named = |kind: &str| resource.strip_prefix(kind).filter(|name| !name.is_empty());
        if scheme != "arn" || !partition.starts_with("aws") || !region.is_empty() || !is_account(account) {
            return Err(invalid());
        }
        let entry = match (service, named("user/")) {
            ("iam", _) if resource == "root" => Self::Account,
            ("iam", Some(name)) => Self::User(name.to_owned()),
            ("iam", None) if named("role/").is_some() => Self::Elsewhere,
            ("sts", _) if named("assumed-role/").is_some() || named("federated-user/").is_some() => Self::Elsewhere,
            _ => return Err(invalid()),
        };
        Ok(if account == ACCOUNT && partition == "aws" { entry } else { Self::Elsewhere })
    }

    fn parse_service(text: &str) -> Result<Self, String> {
        let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if text.contains('.') && text.split('.').all(part) {
            return Ok(Self::Service(text.to_owned()));
        }
        Err(format!("{INVALID} Invalid service principal: {text}"))
    }

    fn is(&self, principal: &Principal) -> bool {
        match (self, principal) {
            (Self::Anyone, _) | (Self::Account, Principal::Root) => true,
            (Self::User(wanted), Principal::User { name, .. }) => wanted == name,
            (Self::Service(wanted), Principal::Service(name)) => wanted == name,
            _ => false,
        }
    }

    /// Whether it covers the principal as part of the account.
    fn covers(&self, principal: &Principal) -> bool {
        *self == Self::Account && matches!(principal, Principal::Root | Principal::User { .. })
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads the value of a Principal or NotPrincipal element: `"*"`, or `{"AWS": ..., "Service": ...}`.
///
/// # Errors
/// What is wrong with it, in the words that PutKeyPolicy answers.
pub(super) fn parse_entries(node: Node) -> Result<Vec<Entry>, String> {
    let members = match node {
        Node::Text(text) if text == "*" => return Ok(vec![Entry::Anyone]),
        Node::Object(members) if !members.is_empty() => members,
        _ => return Err(INVALID.to_owned()),
    };
    let mut entries = Vec::new();
    for (kind, names) in members {
        let parse = match kind.as_str() {
            "AWS" => Entry::parse_aws,
            "Service" => Entry::parse_service,
            _ => return Err(format!("{INVALID} Unknown principal type: {kind}")),
        };
        let names = names.listed();
        if names.is_empty() {
            return Err(INVALID.to_owned());
        }
        for name in names {
            entries.push(parse(&name.text().ok_or(INVALID)?)?);
        }
    }
    Ok(entries)
}

/// Whether a text is the ARN of a principal, as grants name them: a user, a role, or the root of an account.
pub fn is_principal_arn(text: &str) -> bool {
    text.starts_with("arn:") && Entry::parse_aws(text).is_ok()
}

/// Who a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// Principal.
    Only(Vec<Entry>),
    /// NotPrincipal.
    AllBut(Vec<Entry>),
}

impl Who {
    /// Whether it is about this principal. The account stands for all its principals where it denies. Where it allows, AWS
    /// delegates to the identity policies of the account; there are none here, so it stands for its root alone.
    pub(super) fn includes(&self, principal: &Principal, effect: Effect) -> bool {
        match self {
            Self::Only(entries) => {
                entries.iter().any(|entry| entry.is(principal) || (effect == Effect::Deny && entry.covers(principal)))
            }
            // Excepting the account excepts all of it where it allows, and its root alone where it denies: the stricter way.
            Self::AllBut(entries) => {
                !entries.iter().any(|entry| entry.is(principal) || (effect == Effect::Allow && entry.covers(principal)))
            }
        }
    }
}
