//! Why a request is allowed or denied, for the owner: which statement or grant decides, and why the others do not.

use std::fmt;

use serde::Serialize;

use super::authorize::authorize;
use super::clock::now;
use super::grant::{Grant, Mismatch};
use super::policy::{ConditionKeys, Examined, Key, Miss, Policy, Request};
use super::service::{LOCAL_REGION, key_arn};
use super::{EncryptionContext, KeySet, KmsError, Principal, VIA_MOUNT};

/// A decision with everything that bears on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The ARN of who asks.
    pub principal: String,
    /// The action.
    pub action: String,
    /// The ARN of the CMK.
    pub resource: String,
    /// Whether the request is allowed.
    pub allowed: bool,
    /// The statement or grant that decides, or that none does.
    pub reason: String,
    /// Every statement of the policy, in its order.
    pub statements: Vec<Examined>,
    /// Every grant of the key.
    pub grants: Vec<ExaminedGrant>,
}

/// One grant, held against a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExaminedGrant {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Why it does not allow the request; `None` if it does.
    pub mismatch: Option<Mismatch>,
}

/// The actions about a key whose decision can be told beforehand, and whether they encrypt or decrypt.
const ACTIONS: &[(&str, bool)] = &[
    ("CancelKeyDeletion", false),
    ("CreateAlias", false),
    ("CreateGrant", false),
    ("Decrypt", true),
    ("DeleteAlias", false),
    ("DescribeKey", false),
    ("DisableKey", false),
    ("DisableKeyRotation", false),
    ("EnableKey", false),
    ("EnableKeyRotation", false),
    ("Encrypt", true),
    ("GenerateDataKey", true),
    ("GenerateDataKeyPair", true),
    ("GenerateDataKeyPairWithoutPlaintext", true),
    ("GenerateDataKeyWithoutPlaintext", true),
    ("GetKeyLastUsage", false),
    ("GetKeyPolicy", false),
    ("GetKeyRotationStatus", false),
    ("GetPublicKey", false),
    ("ListGrants", false),
    ("ListKeyPolicies", false),
    ("ListKeyRotations", false),
    ("ListResourceTags", false),
    ("PutKeyPolicy", false),
    ("ReEncryptFrom", true),
    ("ReEncryptTo", true),
    ("RevokeGrant", false),
    ("RotateKeyOnDemand", false),
    ("ScheduleKeyDeletion", false),
    ("TagResource", false),
    ("UntagResource", false),
    ("UpdateAlias", false),
    ("UpdateKeyDescription", false),
];

/// Why a request cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// No action that a policy of a key decides about.
    #[error("{0:?} is no action on a key. Next: name one as policies do, Decrypt or kms:ReEncryptFrom")]
    NoAction(String),
    /// It takes more to decide than is known here.
    #[error(
        "whether a grant lets {0} be done depends on the grants that it is about. Next: see them with kmsfs grant list"
    )]
    OnGrants(&'static str),
    /// There is no such key.
    #[error(transparent)]
    Kms(#[from] KmsError),
}

/// A request that somebody might make now, on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who would make it.
    pub principal: &'a Principal,
    /// The action on a key: `Decrypt`, or `kms:Decrypt`.
    pub action: &'a str,
    /// Its encryption context.
    pub context: &'a EncryptionContext,
    /// Whether it would come through a mount.
    pub via_mount: bool,
    /// A policy to try, instead of the one of the key.
    pub policy: Option<&'a Policy>,
}

impl Explanation {
    /// Explains what would be answered to a request for `key`, an id or an alias, as far as policy and grants decide: the
    /// state of the key counts as well. What else a request may have (the days of a deletion, the name of a policy) is absent.
    ///
    /// # Errors
    /// [`Unexplained`].
    pub fn of_question(keys: &KeySet, key: &str, question: &Question<'_>) -> Result<Self, Unexplained> {
        let name = question.action.strip_prefix("kms:").unwrap_or(question.action);
        if name == "RetireGrant" {
            return Err(Unexplained::OnGrants("RetireGrant"));
        }
        let no_action = || Unexplained::NoAction(question.action.to_owned());
        let (name, encrypts) = ACTIONS.iter().find(|(known, _)| *known == name).ok_or_else(no_action)?;
        let cmk = keys.resolve(key)?;
        // Of an RSA key the one with SHA-256, which most programs use.
        let algorithm = cmk.spec.algorithms().last().filter(|_| *encrypts);
        let conditions = ConditionKeys::at(now())
            .context(question.context)
            .resource_tags(&cmk.tags)
            .with(Key::KeySpec, cmk.spec.name())
            .with(Key::KeyUsage, "ENCRYPT_DECRYPT")
            .with(Key::KeyOrigin, "AWS_KMS")
            .with_some(Key::EncryptionAlgorithm, algorithm.copied())
            .with_many(Key::ResourceAliases, keys.aliases_of(&cmk.id))
            .with_some(Key::ViaService, question.via_mount.then_some(VIA_MOUNT));
        let action = format!("kms:{name}");
        let resource = key_arn(LOCAL_REGION, &cmk.id);
        let request =
            Request { principal: question.principal, action: &action, resource: &resource, keys: &conditions };
        let grants: Vec<&Grant> = keys.grants(&cmk.id).map(AsRef::as_ref).collect();
        let explanation = Self::new(question.policy.unwrap_or_else(|| cmk.policy()), grants.iter().copied(), &request);
        let (asks, creates) =
            (question.principal.arn(), |grant: &Grant| grant.operations.iter().any(|one| one == name));
        let may_be_passed_on = |grant: &&Grant| grant.grantee == asks && creates(grant);
        let is_silent = !explanation.statements.iter().any(|statement| statement.misses.is_empty());
        if *name == "CreateGrant" && is_silent && grants.iter().any(may_be_passed_on) {
            return Err(Unexplained::OnGrants("CreateGrant"));
        }
        Ok(explanation)
    }

    /// Explains a request to a key with this policy and these grants; not one of kms:CreateGrant or kms:RetireGrant, which
    /// depend on more.
    pub fn new<'a>(
        policy: &'a Policy,
        grants: impl IntoIterator<Item = &'a Grant> + Clone,
        request: &Request<'_>,
    ) -> Self {
        let decision = authorize(policy, grants.clone(), request);
        let examined = grants.into_iter().map(|grant| ExaminedGrant {
            id: grant.id.clone(),
            name: grant.name.clone(),
            mismatch: grant.mismatch(request),
        });
        Self {
            principal: request.principal.arn(),
            action: request.action.to_owned(),
            resource: request.resource.to_owned(),
            allowed: decision.allowed,
            reason: decision.reason.to_string(),
            statements: policy.examine(request),
            grants: examined.collect(),
        }
    }

    /// The decision in one line, for the owner's log. Of a denial by default it names what came nearest to allowing: a statement
    /// that only a condition kept from applying, or a grant that is for this principal and operation.
    pub fn line(&self) -> String {
        let mut line =
            if self.allowed { format!("allowed by {}", self.reason) } else { format!("denied: {}", self.reason) };
        if self.allowed || self.statements.iter().any(|statement| statement.denies && statement.misses.is_empty()) {
            return line;
        }
        for statement in self.statements.iter().filter(|statement| is_near(statement)) {
            let misses: Vec<String> = statement.misses.iter().map(Miss::to_string).collect();
            line.push_str(&format!("; {} would, but {}", name(statement), misses.join(", ")));
        }
        for grant in &self.grants {
            if let Some(mismatch @ (Mismatch::Expired | Mismatch::Context | Mismatch::Wider)) = grant.mismatch {
                line.push_str(&format!("; grant {} would, but {mismatch}", grant.id));
            }
        }
        line
    }
}

fn is_near(statement: &Examined) -> bool {
    !statement.denies && statement.misses.iter().all(|miss| matches!(miss, Miss::Condition { .. }))
}

fn name(statement: &Examined) -> String {
    match &statement.sid {
        Some(sid) => format!("statement {} ({sid})", statement.number),
        None => format!("statement {}", statement.number),
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => out.write_str("it has no Action or no Resource"),
            Self::Principal => out.write_str("it is for other principals"),
            Self::Action => out.write_str("it is about other actions"),
            Self::Resource => out.write_str("it is about other resources"),
            Self::Condition { operator, key, wanted, found, understood } => {
                write!(out, "{operator} {key} wants {}", wanted.join(" or "))?;
                match found.as_slice() {
                    [] => out.write_str(" and it is absent")?,
                    found => write!(out, " and it is {}", found.join(", "))?,
                }
                if *understood {
                    Ok(())
                } else {
                    out.write_str(" (never met: this key management service does not know it)")
                }
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "ALLOWED" } else { "DENIED" };
        writeln!(out, "{} {} on {}", self.principal, self.action, self.resource)?;
        writeln!(out, "{verdict}: {}", self.reason)?;
        for statement in &self.statements {
            let effect = if statement.denies { "Deny" } else { "Allow" };
            write!(out, "  {}, {effect}: ", name(statement))?;
            if statement.misses.is_empty() {
                writeln!(out, "applies")?;
            } else {
                let misses: Vec<String> = statement.misses.iter().map(Miss::to_string).collect();
                writeln!(out, "does not apply: {}", misses.join("; "))?;
            }
        }
        for grant in &self.grants {
            write!(out, "  grant {}", grant.id)?;
            if let Some(name) = &grant.name {
                write!(out, " ({name})")?;
            }
            match grant.mismatch {
                None => writeln!(out, ": allows")?,
                Some(mismatch) => writeln!(out, ": does not apply: {mismatch}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kms::grant::Constraint;
    use crate::kms::policy::{ConditionKeys, Key};
    use crate::kms::{EncryptionContext, KeyId, Principal};

    const ARN: &str = "arn:aws:kms:local:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    fn grant(id: char, grantee: &str, expires: Option<u64>) -> Grant {
        Grant {
            id: id.to_string().repeat(64),
            key: KeyId("k".to_owned()),
            name: Some("ci".to_owned()),
            grantee: Principal::user(grantee).arn(),
            retiring: None,
            issuer: Principal::Root.arn(),
            operations: vec!["Decrypt".to_owned()],
            constraint: Some(Constraint::Subset(BTreeMap::from([("team".to_owned(), "blue".to_owned())]))),
            created: 1,
            expires,
            parent: None,
        }
    }

    fn explain(keys: &ConditionKeys<'_>, grants: &[Grant]) -> Explanation {
        let ada = Principal::user("ada");
        let request = Request { principal: &ada, action: "kms:Decrypt", resource: ARN, keys };
        Explanation::new(&Policy::mount_default(), grants, &request)
    }

    #[test]
    fn an_explanation_names_the_statement_that_allows() {
        let explanation = explain(&ConditionKeys::at(1).with(Key::ViaService, "kmsfs.local"), &[]);
        assert_eq!(explanation.line(), "allowed by statement 2 (Allow use through mounts)");
        assert!(
            explanation.to_string().contains("\nALLOWED: statement 2 (Allow use through mounts)\n"),
            "{explanation}"
        );
        assert!(
            explanation
                .to_string()
                .contains("statement 1 (Enable IAM User Permissions), Allow: does not apply: it is for other"),
            "{explanation}"
        );
    }

    #[test]
    fn a_denial_names_what_came_nearest() {
        let red = EncryptionContext::new([("team", "red")]).unwrap();
        let grants = [grant('a', "ada", None), grant('b', "ada", Some(99)), grant('c', "eve", None)];
        let explanation = explain(&ConditionKeys::at(100).context(&red), &grants);
        assert_eq!(
            explanation.line(),
            format!(
                "denied: no statement and no grant allows it; statement 2 (Allow use through mounts) would, but StringEquals \
                 kms:ViaService wants kmsfs.local and it is absent; grant {} would, but the encryption context does not meet its \
                 constraint; grant {} would, but it has expired",
                "a".repeat(64),
                "b".repeat(64)
            )
        );
        let text = explanation.to_string();
        assert!(
            text.contains(&format!("grant {} (ci): does not apply: it is for another principal", "c".repeat(64))),
            "{text}"
        );
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["allowed"], false);
        assert_eq!(json["statements"][0]["misses"][0], "Principal");
        assert_eq!(json["statements"][1]["misses"][0]["Condition"]["key"], "kms:ViaService");
        assert_eq!(json["grants"][1]["mismatch"], "Expired");
    }

    #[test]
    fn a_grant_that_allows_is_named() {
        let blue = EncryptionContext::new([("team", "blue")]).unwrap();
        let explanation =
            explain(&ConditionKeys::at(100).context(&blue), &[grant('c', "eve", None), grant('a', "ada", None)]);
        assert_eq!(explanation.line(), format!("allowed by grant {}", "a".repeat(64)));
        assert_eq!(explanation.grants[1].mismatch, None);
    }

    fn ask(keys: &KeySet, action: &str, policy: Option<&Policy>) -> Result<Explanation, Unexplained> {
        let (ada, context) = (Principal::user("ada"), EncryptionContext::default());
        let key = keys.keys().next().unwrap().id.0.clone();
        let question = Question { principal: &ada, action, context: &context, via_mount: false, policy };
        Explanation::of_question(keys, &key, &question)
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let mut keys = KeySet::default();
        keys.put(crate::kms::Cmk::generate(1, ""));
        let key = keys.keys().next().unwrap().id.clone();
        for action in ["Decrpyt", "decrypt", "s3:Decrypt", "ReEncrypt", "ListKeys", "kmsfs.CreateAccessKey", ""] {
            assert_eq!(ask(&keys, action, None), Err(Unexplained::NoAction(action.to_owned())));
        }
        assert_eq!(ask(&keys, "RetireGrant", None), Err(Unexplained::OnGrants("RetireGrant")));
        assert!(!ask(&keys, "kms:CreateGrant", None).unwrap().allowed);
        keys.put_grant(Grant { key, operations: vec!["CreateGrant".to_owned()], ..grant('a', "ada", None) });
        assert_eq!(ask(&keys, "CreateGrant", None), Err(Unexplained::OnGrants("CreateGrant")));
        let open = Policy::parse(
            r#"{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*",
                "Condition": {"StringEqualsIfExists": {"kms:EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}}}}"#,
        );
        let open = open.unwrap();
        assert!(ask(&keys, "CreateGrant", Some(&open)).unwrap().allowed);
        for action in ["Decrypt", "Encrypt", "ReEncryptTo", "GenerateDataKey"] {
            assert!(!ask(&keys, action, Some(&open)).unwrap().allowed, "{action}: the algorithm is another one");
        }
    }
}
