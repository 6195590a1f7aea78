//! Grants: leave for one principal to use one CMK, beside its policy (AWS KMS developer guide, "Grants in AWS KMS").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::KeyId;

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
