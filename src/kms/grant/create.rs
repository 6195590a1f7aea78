//! What a new grant must be like (AWS KMS API reference, CreateGrant).

use super::{Constraint, OPERATIONS, WITH_CONTEXT};
use crate::kms::policy::is_principal_arn;
use crate::kms::service::{ApiError, Code};

/// Most pairs of a constraint.
const MAX_PAIRS: usize = 8;
/// Most characters in all keys and values of a constraint.
const MAX_CONTEXT: usize = 384;
/// Longest name, in characters.
const MAX_NAME: usize = 256;
/// Longest ARN of a principal, in characters.
const MAX_PRINCIPAL: usize = 256;

/// A grant that somebody wants to make.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'a> {
    /// The ARN of who may use it.
    pub grantee: &'a str,
    /// The ARN of who may retire it.
    pub retiring: Option<&'a str>,
    /// The operations, by AWS's names.
    pub operations: &'a [String],
    /// What its requests must be like.
    pub constraint: Option<&'a Constraint>,
    /// What makes a repeated CreateGrant the same one.
    pub name: Option<&'a str>,
    /// When it ends by itself, in unix seconds.
    pub expires: Option<u64>,
}

/// Refuses a grant that a key of this spec (`SYMMETRIC_DEFAULT`, `RSA_2048`, ...), meant for ENCRYPT_DECRYPT, cannot have.
///
/// # Errors
/// ValidationException, or InvalidArnException for principals that are none.
pub fn check_proposal(proposal: &Proposal<'_>, key_spec: &str, now: u64) -> Result<(), ApiError> {
    check_operations(proposal.operations, key_spec)?;
    for arn in [Some(proposal.grantee), proposal.retiring].into_iter().flatten() {
        if arn.len() > MAX_PRINCIPAL || !is_principal_arn(arn) {
            return Err(ApiError::new(Code::InvalidArn, format!("Invalid principal ARN: {arn}")));
        }
    }
    if let Some(name) = proposal.name
        && !is_grant_name(name)
    {
        return Err(validation(format!(
            "1 validation error detected: Value '{name}' at 'name' failed to satisfy constraint: Member must have length \
             from 1 to {MAX_NAME} and satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
        )));
    }
    if let Some(constraint) = proposal.constraint {
        check_constraint(constraint, key_spec)?;
    }
    if proposal.expires.is_some_and(|expires| expires <= now) {
        return Err(validation("The grant would have expired already."));
    }
    Ok(())
}

fn validation(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Validation, message)
}

fn is_grant_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}

fn check_operations(operations: &[String], key_spec: &str) -> Result<(), ApiError> {
    if operations.is_empty() {
        return Err(validation(
            "1 validation error detected: Value '[]' at 'operations' failed to satisfy constraint: Member must have length \
             greater than or equal to 1",
        ));
    }
    for operation in operations {
        if !OPERATIONS.contains(&operation.as_str()) {
            return Err(validation(format!(
                "1 validation error detected: Value '[{}]' at 'operations' failed to satisfy constraint: Member must satisfy \
                 constraint: [Member must satisfy enum value set: [{}]]",
                operations.join(", "),
                OPERATIONS.join(", ")
            )));
        }
        if !suits(operation, key_spec) {
            return Err(validation(format!(
                "A KMS key with the key spec {key_spec} does not support the grant operation {operation}."
            )));
        }
    }
    Ok(())
}

fn is_symmetric(key_spec: &str) -> bool {
    key_spec == "SYMMETRIC_DEFAULT"
}

/// Whether a key of this spec, for ENCRYPT_DECRYPT, has the operation.
fn suits(operation: &str, key_spec: &str) -> bool {
    match operation {
        "CreateGrant" | "RetireGrant" | "DescribeKey" | "Encrypt" | "Decrypt" | "ReEncryptFrom" | "ReEncryptTo" => true,
        "GetPublicKey" => !is_symmetric(key_spec),
        _ => is_symmetric(key_spec) && WITH_CONTEXT.contains(&operation),
    }
}

fn check_constraint(constraint: &Constraint, key_spec: &str) -> Result<(), ApiError> {
    if !is_symmetric(key_spec) {
        return Err(validation(format!(
            "Encryption context grant constraints are for symmetric encryption KMS keys, and this one has the key spec {key_spec}."
        )));
    }
    let pairs = constraint.pairs();
    if pairs.len() > MAX_PAIRS {
        return Err(validation(format!("A grant constraint can have at most {MAX_PAIRS} encryption context pairs.")));
    }
    let characters: usize = pairs.iter().map(|(key, value)| key.chars().count() + value.chars().count()).sum();
    if characters > MAX_CONTEXT {
        return Err(validation(format!(
            "The encryption context in a grant constraint can have at most {MAX_CONTEXT} characters."
        )));
    }
    if pairs.is_empty() || pairs.keys().any(String::is_empty) {
        return Err(validation("A grant constraint needs encryption context pairs, and none with an empty key."));
    }
    Ok(())
}
