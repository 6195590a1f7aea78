//! A whole key policy.

use super::json::Node;
use super::request::Request;
use super::statement::Statement;
use crate::kms::{ACCOUNT, root_arn};

/// Longest document, in bytes (AWS KMS developer guide, "Resource quotas").
pub const MAX_LEN: usize = 32 * 1024;

/// The message of the MalformedPolicyDocumentException for a policy under which its writer could not replace it.
pub const LOCKED_OUT: &str = "The new key policy will not allow you to update the key policy in the future.";

/// What a statement does where it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It allows.
    Allow,
    /// It denies, whatever else allows.
    Deny,
}

/// Why a document is no key policy: MalformedPolicyDocumentException.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MalformedPolicy {
    /// What is wrong, and in which statement.
    pub message: String,
}

impl MalformedPolicy {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// What a policy says about a request. Statements are counted from 0, in the order of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// This statement denies.
    Denied(usize),
    /// This statement allows, and none denies.
    Allowed(usize),
    /// No statement applies.
    Silent,
}

/// A key policy: the document as it was written, and as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    text: String,
    statements: Vec<Statement>,
}

impl Policy {
    /// Reads a document.
    ///
    /// # Errors
    /// [`MalformedPolicy`] for what AWS KMS refuses, and for what would be accepted and do other than it says.
    pub fn parse(text: &str) -> Result<Self, MalformedPolicy> {
        if text.len() > MAX_LEN {
            return Err(MalformedPolicy::new(format!("Policy exceeds the maximum size of {MAX_LEN} bytes")));
        }
        let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{ff}');
        if let Some(other) = text.chars().find(|c| !allowed(*c)) {
            return Err(MalformedPolicy::new(format!("Policy contains the invalid character {other:?}")));
        }
        let root: Node = serde_json::from_str(text)
            .map_err(|error| MalformedPolicy::new(format!("Syntax errors in policy. {error}")))?;
        let statements = read_document(root).map_err(MalformedPolicy::new)?;
        Ok(Self { text: text.to_owned(), statements })
    }

    /// The document, byte for byte as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The policy of a key that was created through the API without one: the root of the account may do everything. Written
    /// as AWS KMS writes it.
    pub fn default_for_api() -> Self {
        Self::built_in(&format!("{}\n  }} ]\n}}", Self::owner_statement()))
    }

    /// The policy of a key for volumes: besides the owner, whoever may open a file in a mount may use the key for it, so unix
    /// permissions decide.
    pub fn mount_default() -> Self {
        Self::built_in(&format!(
            r#"{}
  }}, {{
    "Sid" : "Allow use through mounts",
    "Effect" : "Allow",
    "Principal" : "*",
    "Action" : [ "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey" ],
    "Resource" : "*",
    "Condition" : {{
      "StringEquals" : {{
        "kms:CallerAccount" : "{ACCOUNT}",
        "kms:ViaService" : "kmsfs.local"
      }}
    }}
  }} ]
}}"#,
            Self::owner_statement()
        ))
    }

    fn owner_statement() -> String {
        format!(
            r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "{}"
    }},
    "Action" : "kms:*",
    "Resource" : "*""#,
            root_arn()
        )
    }

    fn built_in(text: &str) -> Self {
        Self::parse(text).expect("the policies that kmsfs writes parse")
    }

    /// What the policy says about a request. A Deny that applies wins, wherever it stands.
    pub fn evaluate(&self, request: &Request<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for (index, statement) in self.statements.iter().enumerate() {
            // Only the first Allow counts, so the others need not be looked at.
            if (statement.effect == Effect::Allow && verdict != Verdict::Silent) || !statement.applies(request) {
                continue;
            }
            if statement.effect == Effect::Deny {
                return Verdict::Denied(index);
            }
            verdict = Verdict::Allowed(index);
        }
        verdict
    }

    /// Whether the maker of this request could make it again under this policy. PutKeyPolicy and CreateKey ask it about
    /// kms:PutKeyPolicy, with the keys of the present request, so that nobody locks himself out (AWS KMS API reference,
    /// PutKeyPolicy, BypassPolicyLockoutSafetyCheck). If not, the answer is [`LOCKED_OUT`].
    pub fn lets_change_policy(&self, request: &Request<'_>) -> bool {
        let change = Request { action: "kms:PutKeyPolicy", ..*request };
        matches!(self.evaluate(&change), Verdict::Allowed(_))
    }

    /// The Sid of the statement with this index.
    pub fn sid(&self, index: usize) -> Option<&str> {
        self.statements.get(index).and_then(|statement| statement.sid.as_deref())
    }

    pub(super) fn statements(&self) -> &[Statement] {
        &self.statements
    }
}

fn read_document(root: Node) -> Result<Vec<Statement>, String> {
    let Node::Object(members) = root else { return Err("Syntax errors in policy. It is no JSON object".to_owned()) };
    // The version of documents that name none.
    let mut variables = false;
    let mut nodes = None;
    for (name, value) in members {
        match (name.as_str(), value) {
            ("Version", Node::Text(version)) if version == "2012-10-17" => variables = true,
            ("Version", Node::Text(version)) if version == "2008-10-17" => {}
            ("Version", _) => return Err("The policy's version must be 2012-10-17 or 2008-10-17".to_owned()),
            ("Id", Node::Text(_)) => {}
            ("Statement", value) => nodes = Some(value.listed()),
            (other, _) => return Err(format!("Syntax errors in policy. Unknown or wrong element: {other}")),
        }
    }
    let nodes = nodes.filter(|nodes| !nodes.is_empty()).ok_or("Missing required field Statement")?;
    let mut statements: Vec<Statement> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.into_iter().enumerate() {
        let statement =
            Statement::parse(node, variables).map_err(|reason| format!("{reason} (statement {})", index + 1))?;
        if statement.sid.is_some() && statements.iter().any(|earlier| earlier.sid == statement.sid) {
            return Err("Statement IDs (SID) in a single policy must be unique.".to_owned());
        }
        statements.push(statement);
    }
    Ok(statements)
}
