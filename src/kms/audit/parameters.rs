//! What of a request and of an answer may stand in the log.
//!
//! A member is taken over only if it is listed here, so that one that nobody thought of cannot carry a secret into the log.

use serde_json::{Map, Value, json};

/// Members that are known to hold nothing secret. Never plaintext, ciphertext, key bytes or grant tokens.
const HARMLESS: &[&str] = &[
    "AccessKey",
    "AccessKeyId",
    "AliasName",
    "BypassPolicyLockoutSafetyCheck",
    "Cascade",
    "Constraints",
    "CustomerMasterKeySpec",
    "DeletionDate",
    "Description",
    "DestinationEncryptionAlgorithm",
    "DestinationEncryptionContext",
    "DestinationKeyId",
    "DryRun",
    "DryRunModifiers",
    "DurationSeconds",
    "EncryptionAlgorithm",
    "EncryptionContext",
    "Expires",
    "GrantId",
    "GranteePrincipal",
    "IncludeKeyMaterial",
    "KeyId",
    "KeyMetadata",
    "KeyPairSpec",
    "KeySpec",
    "KeyState",
    "KeyUsage",
    "Limit",
    "MultiRegion",
    "Name",
    "NumberOfBytes",
    "Operations",
    "Origin",
    "PendingWindowInDays",
    "Policy",
    "PolicyName",
    "RetiringPrincipal",
    "RotationPeriodInDays",
    "SourceEncryptionAlgorithm",
    "SourceEncryptionContext",
    "SourceKeyId",
    "TagKeys",
    "Tags",
    "TargetKeyId",
    "User",
    "UserId",
    "UserName",
    "ValidDays",
    "Version",
];

/// Objects that have secret members too, and which of theirs are known to be none.
const IN_PART: &[(&str, &[&str])] =
    &[("AccessKey", &["AccessKeyId", "CreateDate", "ExpirationDate", "Principal", "Status", "UserName"])];

/// Maps whose names are the user's, and stay as they are.
const CONTEXTS: &[&str] = &[
    "EncryptionContext",
    "EncryptionContextEquals",
    "EncryptionContextSubset",
    "DestinationEncryptionContext",
    "SourceEncryptionContext",
];

/// Longest text that is taken over, in bytes: that of a key policy.
const MAX_TEXT: usize = 32 * 1024;
/// Most that all parameters of one event may take, in bytes of JSON.
const MAX_ALL: usize = 64 * 1024;

/// `text`, cut if it is longer than any that belongs into a request.
pub(super) fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// The harmless members of a request or an answer, with names as CloudTrail writes them (`keyId`). `None` for an empty one.
pub(super) fn logged(members: &Value) -> Option<Value> {
    let Value::Object(members) = members else { return None };
    let harmless = members.iter().filter(|(name, _)| HARMLESS.contains(&name.as_str()));
    let logged: Map<String, Value> = harmless
        .map(|(name, value)| match IN_PART.iter().find(|(whole, _)| whole == name) {
            Some((_, parts)) => (lower(name), part_of(value, parts)),
            None => (lower(name), renamed(value, CONTEXTS.contains(&name.as_str()))),
        })
        .collect();
    if logged.is_empty() {
        return None;
    }
    let size = rough_size(&Value::Object(logged.clone()));
    // CloudTrail's own words for parameters that are too large.
    Some(if size > MAX_ALL { json!({ "omitted": true, "originalSize": size }) } else { Value::Object(logged) })
}

/// What may be told of credentials that were issued.
pub(super) fn issued(answer: &Value) -> Option<Value> {
    let told = part_of(answer, &["AccessKeyId", "Expiration"]);
    told.as_object().is_some_and(|told| !told.is_empty()).then_some(told)
}

/// These members of an object; nothing of what is no object.
fn part_of(value: &Value, members: &[&str]) -> Value {
    let all = value.as_object().into_iter().flatten();
    let harmless = all.filter(|(name, _)| members.contains(&name.as_str()));
    Value::Object(harmless.map(|(name, value)| (lower(name), renamed(value, false))).collect())
}

fn renamed(value: &Value, is_context: bool) -> Value {
    match value {
        Value::Object(members) => {
            let rename = |(name, value): (&String, &Value)| {
                let to = if is_context { bounded(name) } else { lower(name) };
                (to, renamed(value, !is_context && CONTEXTS.contains(&name.as_str())))
            };
            Value::Object(members.iter().map(rename).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(|value| renamed(value, false)).collect()),
        Value::String(text) => Value::String(bounded(text)),
        plain => plain.clone(),
    }
}

/// `KeyId` as `keyId`, `AWSAccountId` as `aWSAccountId`: as CloudTrail has it.
fn lower(name: &str) -> String {
    let mut name = bounded(name);
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}

fn rough_size(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + 4 + rough_size(value)).sum(),
        Value::Array(values) => values.iter().map(|value| 1 + rough_size(value)).sum(),
        Value::String(text) => text.len() + 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_and_contexts_keep_their_names() {
        let request = json!({
            "KeyId": "alias/x",
            "Plaintext": "c2VjcmV0",
            "CiphertextBlob": "AAAA",
            "GrantTokens": ["t"],
            "EncryptionContext": {"Purpose": "Test"},
            "Constraints": {"EncryptionContextSubset": {"Team": "Blue"}},
            "Unheard": 1,
        });
        let expected = json!({
            "keyId": "alias/x",
            "encryptionContext": {"Purpose": "Test"},
            "constraints": {"encryptionContextSubset": {"Team": "Blue"}},
        });
        assert_eq!(logged(&request), Some(expected));
        assert_eq!(logged(&json!({"GrantToken": "x", "Plaintext": "y"})), None);
    }

    #[test]
    fn of_an_access_key_all_is_told_but_its_secret() {
        let answer = json!({"AccessKey": {
            "AccessKeyId": "AKIAX", "SecretAccessKey": "hidden", "Principal": "arn", "Unheard": "hidden", "CreateDate": 1,
        }});
        let expected = json!({"accessKey": {"accessKeyId": "AKIAX", "principal": "arn", "createDate": 1}});
        assert_eq!(logged(&answer), Some(expected));
        assert_eq!(logged(&json!({"AccessKey": "hidden"})), Some(json!({"accessKey": {}})));
        assert_eq!(logged(&json!({"ValidDays": 3})), Some(json!({"validDays": 3})));
    }

    #[test]
    fn what_is_too_large_is_said_to_be() {
        assert_eq!(bounded(&"x".repeat(MAX_TEXT + 1)).len(), MAX_TEXT + 3);
        let many: Map<String, Value> = (0..5000).map(|n| (format!("key-{n}"), Value::from("a value"))).collect();
        let all = logged(&json!({ "EncryptionContext": many })).unwrap();
        assert_eq!(all["omitted"], true);
        assert!(all["originalSize"].as_u64().unwrap() > MAX_ALL as u64);
    }
}
