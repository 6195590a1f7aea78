//! Grants: leave for one principal to use one CMK, beside its policy (AWS KMS developer guide, "Grants in AWS KMS").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::policy::Request;
use super::{EncryptionContext, KeyId, Principal};

mod create;
#[cfg(test)]
mod tests;
mod token;

pub use create::{Proposal, check_proposal};
pub use token::TokenKey;

/// Every operation that a grant can allow (AWS KMS API reference, CreateGrant).
pub const OPERATIONS: &[&str] = &[
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "Sign",
    "Verify",
    "GetPublicKey",
    "CreateGrant",
    "RetireGrant",
    "DescribeKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateMac",
    "VerifyMac",
    "DeriveSharedSecret",
    "Encapsulate",
    "Decapsulate",
];

/// The operations whose requests have an encryption context, which a constraint looks at.
const WITH_CONTEXT: &[&str] = &[
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
];

/// Narrows a grant to requests whose encryption context fits. Keys and values are compared byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Constraint {
    /// The context must have these pairs and no others.
    #[serde(rename = "EncryptionContextEquals")]
    Equals(BTreeMap<String, String>),
    /// The context must have these pairs, and may have more.
    #[serde(rename = "EncryptionContextSubset")]
    Subset(BTreeMap<String, String>),
}

impl Constraint {
    /// The pairs that it names.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Equals(pairs) | Self::Subset(pairs) => pairs,
        }
    }

    /// Whether a context fits. No context is the empty one.
    pub fn fits(&self, context: Option<&EncryptionContext>) -> bool {
        let found = || context.into_iter().flat_map(EncryptionContext::pairs);
        let exact = matches!(self, Self::Equals(_));
        let wanted = self.pairs();
        wanted.iter().all(|(key, value)| found().any(|pair| pair == (key, value)))
            && (!exact || found().count() == wanted.len())
    }

    /// Whether whatever fits `self` fits `other` as well: equal to it, or stricter.
    fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Equals(inner), Self::Equals(outer)) => inner == outer,
            (Self::Subset(_), Self::Equals(_)) => false,
            (_, Self::Subset(outer)) => outer.iter().all(|(key, value)| self.pairs().get(key) == Some(value)),
        }
    }
}

/// A grant. It allows and never denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The CMK.
    pub key: KeyId,
    /// What makes a repeated CreateGrant the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The ARN of who may use it.
    pub grantee: String,
    /// The ARN of who may retire it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<String>,
    /// The ARN of who made it.
    pub issuer: String,
    /// The operations, by AWS's names (`Decrypt`, `GenerateDataKey`, ...), sorted.
    pub operations: Vec<String>,
    /// What its requests must be like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// When it was made, in unix seconds.
    pub created: u64,
    /// When it ends by itself, in unix seconds: an addition of kmsfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The grant that it was made by, if it was not made by policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// Why a grant does not allow a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
pub enum Mismatch {
    /// It is for another principal.
    #[error("it is for another principal")]
    Grantee,
    /// It does not have the operation.
    #[error("it does not have this operation")]
    Operation,
    /// It has ended.
    #[error("it has expired")]
    Expired,
    /// The encryption context does not meet its constraint.
    #[error("the encryption context does not meet its constraint")]
    Context,
    /// It has CreateGrant, but not for such a grant.
    #[error("the new grant would allow more than it does")]
    Wider,
}

impl Grant {
    /// Whether it has ended by itself at this time, in unix seconds.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether it has this operation.
    pub fn has(&self, operation: &str) -> bool {
        self.operations.iter().any(|held| held == operation)
    }

    /// Whether it is for this principal.
    pub fn is_for(&self, principal: &Principal) -> bool {
        principal.has_arn(&self.grantee)
    }

    /// The first reason why it does not allow the request; `None` if it does. CreateGrant is not decided here, for it depends
    /// on the grant to be made: see [`Grant::mismatch_for_child`].
    pub fn mismatch(&self, request: &Request<'_>) -> Option<Mismatch> {
        let operation = request.action.strip_prefix("kms:").filter(|operation| *operation != "CreateGrant");
        let Some(operation) = operation.filter(|operation| self.has(operation)) else {
            return Some(Mismatch::Operation);
        };
        if !self.is_for(request.principal) {
            return Some(Mismatch::Grantee);
        }
        if self.is_expired(request.keys.now()) {
            return Some(Mismatch::Expired);
        }
        let fits = !WITH_CONTEXT.contains(&operation)
            || self.constraint.as_ref().is_none_or(|constraint| constraint.fits(request.keys.encryption_context()));
        (!fits).then_some(Mismatch::Context)
    }

    /// The first reason why its grantee, who makes the request, may not make such a grant by it; `None` if he may. The new one
    /// may have no operation that it lacks, its constraint must be equal or stricter, and it must not outlive it (AWS KMS
    /// developer guide, "Granting CreateGrant permission").
    pub fn mismatch_for_child(&self, request: &Request<'_>, child: &Proposal<'_>) -> Option<Mismatch> {
        if !self.has("CreateGrant") {
            return Some(Mismatch::Operation);
        }
        if !self.is_for(request.principal) {
            return Some(Mismatch::Grantee);
        }
        if self.is_expired(request.keys.now()) {
            return Some(Mismatch::Expired);
        }
        let operations = child.operations.iter().all(|operation| self.has(operation));
        let constraint =
            self.constraint.as_ref().is_none_or(|outer| child.constraint.is_some_and(|inner| inner.is_within(outer)));
        let expiry = self.expires.is_none_or(|end| child.expires.is_some_and(|child_end| child_end <= end));
        (!(operations && constraint && expiry)).then_some(Mismatch::Wider)
    }

    /// Whether this principal may retire it, unless the key policy denies: its retiring principal, its grantee if it has
    /// RetireGrant, and the root of the account that it was made in.
    pub fn may_be_retired_by(&self, principal: &Principal) -> bool {
        *principal == Principal::Root
            || self.retiring.as_deref().is_some_and(|arn| principal.has_arn(arn))
            || (self.is_for(principal) && self.has("RetireGrant"))
    }
}
