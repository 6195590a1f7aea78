//! CreateAlias, UpdateAlias, DeleteAlias, ListAliases.
//!
//! On AWS these need a permission on the alias, by an identity policy, and one on each key. There are no identity policies
//! here, so the policies of the keys decide alone.

use serde_json::{Value, json};

use super::asked::{Asked, Found};
use super::catalog::Answer;
use super::names::{self, ALIAS_PREFIX, Naming};
use super::page::Page;
use super::params::{ALIAS, KEY_ID, Params};
use super::{ApiError, Code};
use crate::kms::control::RESERVED;
use crate::kms::keyset::Alias;
use crate::kms::{KeyId, Keystore, Operation};

/// Most aliases of a key (AWS KMS developer guide, "Resource quotas").
const MAX_ALIASES: usize = 50;

fn alias_name<'p>(params: &Params<'p>) -> Result<&'p str, ApiError> {
    let name = params.needed_text("AliasName", &ALIAS);
    params.check()?;
    let fault = |code, message: &str| Err(ApiError::new(code, message));
    let Some(rest) = name.strip_prefix(ALIAS_PREFIX) else {
        let message = "Alias must start with the prefix \"alias/\". Please see \
                       https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html";
        return fault(Code::Validation, message);
    };
    if RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
        return fault(Code::NotAuthorized, "");
    }
    if rest.is_empty() || rest.contains(':') {
        return fault(Code::InvalidAliasName, "The alias name is not valid.");
    }
    Ok(name)
}

/// The key that an alias is to name.
fn target(asked: &mut Asked<'_>, params: &Params<'_>) -> Result<Found, ApiError> {
    let name = params.needed_text("TargetKeyId", &KEY_ID);
    params.check()?;
    let found = asked.find(name, Naming::Key)?;
    allow(asked, &found)?;
    asked.require(&found, Operation::AliasTarget)?;
    Ok(found)
}

fn allow(asked: &mut Asked<'_>, found: &Found) -> Result<(), ApiError> {
    let conditions = found.conditions(asked);
    asked.authorize(found, &format!("kms:{}", asked.entry.name), &conditions)
}

fn not_found(asked: &Asked<'_>, name: &str) -> ApiError {
    let arn = names::alias_arn(asked.call.region, name);
    ApiError::new(Code::NotFound, format!("Alias {arn} is not found."))
}

/// The key that an existing alias names.
fn present(asked: &mut Asked<'_>, name: &str) -> Result<Found, ApiError> {
    if asked.keys.alias(name).is_none() {
        return Err(not_found(asked, name));
    }
    let arn = names::alias_arn(asked.call.region, name);
    let found = asked.find(&arn, Naming::Any)?;
    allow(asked, &found)?;
    Ok(found)
}

pub(super) fn create(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let name = alias_name(params)?;
    let found = target(asked, params)?;
    if asked.keys.alias(name).is_some() {
        let arn = names::alias_arn(asked.call.region, name);
        return Err(ApiError::new(Code::AlreadyExists, format!("An alias with the name {arn} already exists")));
    }
    check_count(asked, &found)?;
    keystore.create_alias(name, &found.cmk.id.0)?;
    Ok(json!({}))
}

fn check_count(asked: &Asked<'_>, found: &Found) -> Result<(), ApiError> {
    if asked.keys.aliases_of(&found.cmk.id).count() < MAX_ALIASES {
        return Ok(());
    }
    let message = format!("A key can have at most {MAX_ALIASES} aliases: {}", found.arn);
    Err(ApiError::new(Code::LimitExceeded, message))
}

pub(super) fn update(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let name = alias_name(params)?;
    let former = present(asked, name)?;
    let found = target(asked, params)?;
    if former.cmk.spec.is_asymmetric() != found.cmk.spec.is_asymmetric() {
        let message = format!("Alias {name} cannot be changed to a key of another type.");
        return Err(ApiError::new(Code::Validation, message));
    }
    if former.cmk.id != found.cmk.id {
        check_count(asked, &found)?;
    }
    keystore.update_alias(name, &found.cmk.id.0)?;
    Ok(json!({}))
}

pub(super) fn delete(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let name = alias_name(params)?;
    present(asked, name)?;
    keystore.delete_alias(name)?;
    Ok(json!({}))
}

fn entry(asked: &Asked<'_>, name: &str, alias: &Alias) -> Value {
    let mut entry = json!({
        "AliasName": name,
        "AliasArn": names::alias_arn(asked.call.region, name),
        "TargetKeyId": alias.target,
    });
    for (member, time) in [("CreationDate", alias.created), ("LastUpdatedDate", alias.updated)] {
        if let Some(time) = time {
            entry[member] = json!(time);
        }
    }
    entry
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (50, 100))?;
    let key = params.text("KeyId", &KEY_ID);
    params.check()?;
    asked.require_root("kms:ListAliases")?;
    let only: Option<KeyId> = match key {
        Some(name) => Some(asked.find(name, Naming::Key)?.cmk.id.clone()),
        None => None,
    };
    let wanted = asked.keys.alias_entries().filter(|(_, alias)| only.as_ref().is_none_or(|id| alias.target == *id));
    let items = wanted.map(|(name, alias)| (name.to_owned(), entry(asked, name, alias)));
    Ok(page.answer("Aliases", items))
}
