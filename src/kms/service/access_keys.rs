//! Access keys for requests over TCP: operations of kmsfs's own, in the words of AWS IAM. Only the keystore's owner may.

use serde_json::{Value, json};

use super::asked::Asked;
use super::catalog::Answer;
use super::params::{Params, USER_NAME, WORD};
use super::{ApiError, Code};
use crate::kms::{AccessKey, Keystore, Principal};

/// Seconds of a day.
const DAY: u64 = 86_400;
const MAX_DAYS: u32 = 36_500;

/// What is told about an access key: all but its secret.
fn described(key: &AccessKey) -> Value {
    let name = key.principal.strip_prefix(&Principal::user("").arn());
    let mut value = json!({
        "Principal": key.principal,
        "AccessKeyId": key.id,
        "Status": "Active",
        "CreateDate": key.created,
    });
    if let Some(name) = name {
        value["UserName"] = name.into();
    }
    if let Some(uid) = key.uid {
        value["UserId"] = uid.into();
    }
    if let Some(expires) = key.expires {
        value["ExpirationDate"] = expires.into();
    }
    value
}

/// For a user, named with his id, or for the owner if none is named. The secret is told this once.
pub(super) fn create(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (name, days) = (params.text("UserName", &USER_NAME), params.number("ValidDays", 1, MAX_DAYS));
    let uid = params.number("UserId", 0, u32::MAX);
    params.check()?;
    asked.require_root("kmsfs:CreateAccessKey")?;
    if name.is_some() != uid.is_some() {
        let message =
            "A user is named by UserName and UserId, so that nobody who gets the name later has his access keys.";
        return Err(ApiError::new(Code::Validation, message));
    }
    let principal = name.map_or(Principal::Root, Principal::user);
    let expires = days.map(|days| asked.now + u64::from(days) * DAY);
    let key = AccessKey::generate(principal.arn(), uid, asked.now, expires);
    let mut value = described(&key);
    value["SecretAccessKey"] = keystore.access_key_secret(&key.id).as_str().into();
    keystore.add_access_key(key)?;
    Ok(json!({ "AccessKey": value }))
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    params.check()?;
    asked.require_root("kmsfs:ListAccessKeys")?;
    let keys: Vec<Value> = asked.keys.access_keys().map(|key| described(key)).collect();
    Ok(json!({ "AccessKeyMetadata": keys }))
}

pub(super) fn delete(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let id = params.needed_text("AccessKeyId", &WORD);
    params.check()?;
    asked.require_root("kmsfs:DeleteAccessKey")?;
    if keystore.remove_access_key(id)? {
        Ok(json!({}))
    } else {
        Err(ApiError::new(Code::NotFound, "The Access Key with this id cannot be found."))
    }
}
