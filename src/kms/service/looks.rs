//! What the owner may see of keys beyond the answers of AWS KMS: operations of kmsfs's own, for its commands beside a server.

use serde_json::{Value, json};

use super::ApiError;
use super::asked::Asked;
use super::catalog::Answer;
use super::names::Naming;
use super::page::Page;
use super::params::{KEY_ID, POLICY, Params, WORD};
use super::policies;
use crate::kms::explain::{Explanation, Question};
use crate::kms::{Cmk, KeySet, KeystoreError, Principal};

/// One key with all its versions, those too whose key material was destroyed. Its state is as in the records (docs/kms.md
/// section 4).
fn described(cmk: &Cmk, keys: &KeySet) -> Value {
    let versions = cmk.versions().iter().map(|version| {
        json!({ "Number": version.number, "CreationDate": version.created, "DestructionDate": version.destroyed() })
    });
    json!({
        "KeyId": cmk.id,
        "Aliases": keys.aliases_of(&cmk.id).collect::<Vec<_>>(),
        "State": cmk.state,
        "Description": cmk.description,
        "CreationDate": cmk.created,
        "Versions": versions.collect::<Vec<_>>(),
    })
}

/// All keys, or the one in `KeyId`.
pub(super) fn describe_keys(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (100, 100))?;
    let only = params.text("KeyId", &KEY_ID);
    params.check()?;
    asked.require_root("kmsfs:DescribeKeys")?;
    let only = only.map(|name| asked.find(name, Naming::Any)).transpose()?.map(|found| found.cmk.id.clone());
    let wanted = asked.keys.keys().filter(|cmk| !cmk.is_gone() && only.as_ref().is_none_or(|id| *id == cmk.id));
    Ok(page.answer("Keys", wanted.map(|cmk| (cmk.id.0.clone(), described(cmk, &asked.keys)))))
}

/// Which statement or grant would decide about a request of `UserName`, who is in `Groups`, or of the owner; under `Policy`, if
/// that is given, in place of the policy of the key.
pub(super) fn explanation(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (key, action) = (params.key_id(), params.needed_text("Action", &WORD));
    let (name, groups) = (params.text("UserName", &WORD), params.texts("Groups", usize::MAX, &WORD));
    let (via_mount, policy) = (params.flag("ViaMount"), params.text("Policy", &POLICY));
    let context = params.context("EncryptionContext")?;
    asked.require_root("kmsfs:GetExplanation")?;
    let policy = policy.map(policies::parse).transpose()?;
    let principal = name.map_or(Principal::Root, |name| Principal::User {
        name: name.to_owned(),
        groups: groups.into_iter().map(str::to_owned).collect(),
    });
    let question = Question { principal: &principal, action, context: &context, via_mount, policy: policy.as_ref() };
    let found = asked.find(key, Naming::Any)?;
    let explanation = Explanation::of_question(&asked.keys, &found.cmk.id.0, &question)
        .map_err(|error| ApiError::from(KeystoreError::from(error)))?;
    Ok(json!({ "Explanation": explanation, "Text": explanation.to_string() }))
}
