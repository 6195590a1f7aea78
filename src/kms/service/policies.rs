//! Key policies: PutKeyPolicy, GetKeyPolicy, ListKeyPolicies, and the check that nobody locks himself out.

use serde_json::json;

use super::asked::Asked;
use super::catalog::Answer;
use super::names::Naming;
use super::page::Page;
use super::params::{POLICY, POLICY_NAME, Params};
use super::{ApiError, Code};
use crate::kms::policy::{ConditionKeys, Key, LOCKED_OUT, MAX_LEN, Policy, Request};
use crate::kms::{Keystore, Principal};

/// The one name that a key policy can have.
pub(super) const NAME: &str = "default";

/// Reads a policy that a request brings.
///
/// # Errors
/// MalformedPolicyDocumentException, or LimitExceededException for more than 32 KiB.
pub(super) fn parse(text: &str) -> Result<Policy, ApiError> {
    if text.len() > MAX_LEN {
        let message = format!("The policy document must have at most {MAX_LEN} bytes.");
        return Err(ApiError::new(Code::LimitExceeded, message));
    }
    Policy::parse(text).map_err(|malformed| ApiError::new(Code::MalformedPolicyDocument, malformed.message))
}

/// Who would have to be able to change the policy again.
pub(super) struct Lockout<'a> {
    pub(super) principal: &'a Principal,
    pub(super) resource: &'a str,
    pub(super) keys: &'a ConditionKeys<'a>,
}

/// Refuses a policy under which its maker could not make another.
///
/// # Errors
/// MalformedPolicyDocumentException.
pub(super) fn check_lockout(maker: &Lockout<'_>, policy: &Policy) -> Result<(), ApiError> {
    let Lockout { principal, resource, keys } = *maker;
    if policy.lets_change_policy(&Request { principal, action: "kms:PutKeyPolicy", resource, keys }) {
        return Ok(());
    }
    Err(ApiError::new(Code::MalformedPolicyDocument, LOCKED_OUT))
}

fn no_such_policy() -> ApiError {
    ApiError::new(Code::NotFound, "No such policy exists")
}

pub(super) fn put(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (name, text) = (params.text("PolicyName", &POLICY_NAME), params.needed_text("Policy", &POLICY));
    let (key, bypass) = (params.key_id(), params.flag("BypassPolicyLockoutSafetyCheck"));
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let conditions = found
        .conditions(asked)
        .with(Key::PolicyName, name.unwrap_or(NAME))
        .with(Key::BypassPolicyLockoutSafetyCheck, if bypass { "true" } else { "false" });
    asked.authorize(&found, "kms:PutKeyPolicy", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
    if name.is_some_and(|name| name != NAME) {
        return Err(no_such_policy());
    }
    let policy = parse(text)?;
    if !bypass {
        let maker = Lockout { principal: asked.call.principal, resource: &found.arn, keys: &conditions };
        check_lockout(&maker, &policy)?;
    }
    keystore.edit(&found.cmk.id, |cmk| cmk.policy = Some(policy.into()))?;
    Ok(json!({}))
}

pub(super) fn get(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (name, key) = (params.text("PolicyName", &POLICY_NAME).unwrap_or(NAME), params.key_id());
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let conditions = found.conditions(asked).with(Key::PolicyName, name);
    asked.authorize(&found, "kms:GetKeyPolicy", &conditions)?;
    if name != NAME {
        return Err(no_such_policy());
    }
    Ok(json!({ "Policy": found.cmk.policy_text(), "PolicyName": NAME }))
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (100, 1000))?;
    asked.managed_key(params)?;
    Ok(page.answer("PolicyNames", [(NAME.to_owned(), json!(NAME))]))
}
