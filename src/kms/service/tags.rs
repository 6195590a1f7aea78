//! Tags of keys: TagResource, UntagResource, ListResourceTags.

use std::collections::BTreeMap;

use serde_json::json;

use super::asked::Asked;
use super::catalog::Answer;
use super::names::Naming;
use super::page::Page;
use super::params::{Params, TAG_KEY};
use super::{ApiError, Code};
use crate::kms::Keystore;
use crate::kms::policy::Key;

/// Most tags of a key (AWS KMS developer guide, "Resource quotas").
const MAX_TAGS: usize = 50;

fn fault(message: &str) -> ApiError {
    ApiError::new(Code::Tag, message)
}

/// The tags that a request brings.
///
/// # Errors
/// TagException if a key repeats or is reserved.
pub(super) fn read(given: &[(&str, &str)]) -> Result<BTreeMap<String, String>, ApiError> {
    let tags: BTreeMap<String, String> =
        given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    if tags.len() != given.len() {
        return Err(fault("Duplicate tag keys"));
    }
    if tags.keys().any(|key| is_reserved(key)) {
        return Err(fault("Tags beginning with aws: are reserved"));
    }
    Ok(tags)
}

fn is_reserved(key: &str) -> bool {
    key.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("aws:"))
}

/// # Errors
/// TagException.
pub(super) fn check_count(count: usize) -> Result<(), ApiError> {
    if count > MAX_TAGS { Err(fault("Too many tags")) } else { Ok(()) }
}

pub(super) fn tag(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (key, given) = (params.key_id(), params.needed_tags());
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let tags: BTreeMap<String, String> =
        given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let conditions = found.conditions(asked).request_tags(&tags);
    asked.authorize(&found, "kms:TagResource", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
    let mut all = found.cmk.tags.clone();
    all.extend(read(&given)?);
    check_count(all.len())?;
    keystore.edit(&found.cmk.id, |cmk| cmk.tags = all)?;
    Ok(json!({}))
}

pub(super) fn untag(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (key, names) = (params.key_id(), params.needed_texts("TagKeys", &TAG_KEY));
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let conditions = found.conditions(asked).with_many(Key::TagKeys, names.iter().copied());
    asked.authorize(&found, "kms:UntagResource", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
    if names.iter().any(|name| is_reserved(name)) {
        return Err(fault("Tags beginning with aws: are reserved"));
    }
    keystore.edit(&found.cmk.id, |cmk| cmk.tags.retain(|name, _| !names.contains(&name.as_str())))?;
    Ok(json!({}))
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (50, 50))?;
    let found = asked.managed_key(params)?;
    let tags = found.cmk.tags.iter();
    Ok(page.answer("Tags", tags.map(|(key, value)| (key.clone(), json!({ "TagKey": key, "TagValue": value })))))
}
