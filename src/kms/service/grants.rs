//! CreateGrant, ListGrants, ListRetirableGrants, RetireGrant, RevokeGrant.

use std::collections::HashMap;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::asked::{Asked, Found};
use super::catalog::Answer;
use super::names::Naming;
use super::page::Page;
use super::params::{GRANT_ID, GRANT_NAME, GRANT_TOKEN, KEY_ID, PRINCIPAL, Params, WORD};
use super::{ApiError, Code};
use crate::crypto::random;
use crate::kms::authorize::{Reason, authorize_create_grant, authorize_retire_grant};
use crate::kms::grant::{Proposal, check_proposal};
use crate::kms::policy::{Key, Request};
use crate::kms::{Constraint, EncryptionContext, Grant, KeyId, KeySet, Keystore, root_arn};

/// Most grants of a key (AWS KMS developer guide, "Resource quotas").
const MAX_GRANTS: usize = 50_000;

fn validation(message: &str) -> ApiError {
    ApiError::new(Code::Validation, message)
}

/// What is not understood must not be left out: the grant would allow more than was meant.
fn constraint(params: &Params<'_>) -> Result<Option<Constraint>, ApiError> {
    if let Some(other) = params.stranger("Constraints", &["EncryptionContextEquals", "EncryptionContextSubset"]) {
        return Err(ApiError::new(Code::UnsupportedOperation, format!("The constraint {other} is not supported.")));
    }
    let Some(mut members) = params.structure("Constraints") else { return Ok(None) };
    params.check()?;
    let (equals, subset) = (members.remove("EncryptionContextEquals"), members.remove("EncryptionContextSubset"));
    match (equals, subset) {
        (Some(pairs), None) => Ok(Some(Constraint::Equals(pairs))),
        (None, Some(pairs)) => Ok(Some(Constraint::Subset(pairs))),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(validation("A grant can have EncryptionContextEquals or EncryptionContextSubset, not both."))
        }
    }
}

/// What AWS's newest model has for grants to its own services.
fn refuse_services(params: &Params<'_>) -> Result<(), ApiError> {
    let given = ["GranteeServicePrincipal", "RetiringServicePrincipal"].into_iter().find(|name| params.has(name));
    given.map_or(Ok(()), |name| Err(ApiError::new(Code::UnsupportedOperation, format!("{name} is not supported."))))
}

/// A grant as a request describes it.
struct Wanted {
    grantee: String,
    retiring: Option<String>,
    operations: Vec<String>,
    constraint: Option<Constraint>,
    name: Option<String>,
    expires: Option<u64>,
}

impl Wanted {
    fn read(params: &Params<'_>) -> Result<Self, ApiError> {
        refuse_services(params)?;
        let mut operations: Vec<String> =
            params.needed_texts("Operations", &WORD).into_iter().map(str::to_owned).collect();
        operations.sort();
        operations.dedup();
        let wanted = Self {
            grantee: params.needed_text("GranteePrincipal", &PRINCIPAL).to_owned(),
            retiring: params.text("RetiringPrincipal", &PRINCIPAL).map(str::to_owned),
            operations,
            name: params.text("Name", &GRANT_NAME).map(str::to_owned),
            expires: params.time("Expires"),
            constraint: constraint(params)?,
        };
        params.check()?;
        Ok(wanted)
    }

    fn proposal(&self) -> Proposal<'_> {
        Proposal {
            grantee: &self.grantee,
            retiring: self.retiring.as_deref(),
            operations: &self.operations,
            constraint: self.constraint.as_ref(),
            name: self.name.as_deref(),
            expires: self.expires,
        }
    }

    /// Whether this is what made `grant`: a repeated request with a name makes no second one.
    fn is_again(&self, grant: &Grant, issuer: &str) -> bool {
        self.name.is_some()
            && (&self.name, &self.grantee, &self.retiring) == (&grant.name, &grant.grantee, &grant.retiring)
            && (&self.operations, &self.constraint, self.expires)
                == (&grant.operations, &grant.constraint, grant.expires)
            && grant.issuer == issuer
    }
}

/// Whether the principal may make this grant; the grant that lets him, if one does.
fn allow_create(asked: &mut Asked<'_>, found: &Found, wanted: &Wanted) -> Result<Option<String>, ApiError> {
    let pairs = wanted.constraint.iter().flat_map(|constraint| constraint.pairs().clone());
    let context = EncryptionContext::new(pairs).map_err(|error| validation(&error.to_string()))?;
    let kind = wanted.constraint.as_ref().map(|constraint| match constraint {
        Constraint::Equals(_) => "EncryptionContextEquals",
        Constraint::Subset(_) => "EncryptionContextSubset",
    });
    let conditions = found
        .conditions(asked)
        .context(&context)
        .with(Key::GranteePrincipal, wanted.grantee.as_str())
        .with_some(Key::RetiringPrincipal, wanted.retiring.as_deref())
        .with_some(Key::GrantConstraintType, kind)
        .with(Key::GrantIsForAwsResource, for_service(asked))
        .with_many(Key::GrantOperations, wanted.operations.iter().map(String::as_str));
    let request =
        Request { principal: asked.call.principal, action: "kms:CreateGrant", resource: &found.arn, keys: &conditions };
    let keys = Arc::clone(&asked.keys);
    let grants = Asked::grants(&keys, &found.cmk.id);
    let decision = authorize_create_grant(found.cmk.policy(), grants, &request, &wanted.proposal());
    asked.decided(decision, "kms:CreateGrant", &found.arn)?;
    match decision.reason {
        Reason::Grant(id) => Ok(Some(id.to_owned())),
        Reason::Statement { .. } | Reason::Nothing => Ok(None),
    }
}

fn for_service(asked: &Asked<'_>) -> &'static str {
    if asked.call.via_service.is_some() { "true" } else { "false" }
}

pub(super) fn create(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let key = params.key_id();
    let wanted = Wanted::read(params)?;
    let found = asked.find(key, Naming::Key)?;
    asked.check_tokens(params, &[&found.cmk.id])?;
    let parent = allow_create(asked, &found, &wanted)?;
    asked.require(&found, asked.entry.needs)?;
    check_proposal(&wanted.proposal(), found.cmk.spec.name(), asked.now)?;
    let issuer = asked.call.principal.arn();
    let again = asked.keys.grants(&found.cmk.id).find(|grant| wanted.is_again(grant, &issuer)).cloned();
    let live = asked.keys.grants(&found.cmk.id).filter(|grant| !grant.is_expired(asked.now));
    if again.is_none() && live.count() >= MAX_GRANTS {
        let message = format!("A key can have at most {MAX_GRANTS} grants: {}", found.arn);
        return Err(ApiError::new(Code::LimitExceeded, message));
    }
    Asked::dry_run(params)?;
    let id = match again {
        Some(grant) => grant.id.clone(),
        None => {
            let id = HEXLOWER.encode(&random::array::<32>());
            let Wanted { grantee, retiring, operations, constraint, name, expires } = wanted;
            let (key, created) = (found.cmk.id.clone(), asked.now);
            let grant = Grant {
                id: id.clone(),
                key,
                name,
                grantee,
                retiring,
                issuer,
                operations,
                constraint,
                created,
                expires,
                parent,
            };
            keystore.put_grant(grant)?;
            id
        }
    };
    Ok(json!({ "GrantToken": asked.tokens.issue(&id), "GrantId": id }))
}

fn entry(asked: &Asked<'_>, grant: &Grant) -> Value {
    let mut entry = json!({
        "KeyId": asked.arn(&grant.key),
        "GrantId": grant.id,
        "Name": grant.name.as_deref().unwrap_or_default(),
        "CreationDate": grant.created,
        "GranteePrincipal": grant.grantee,
        // AWS names the account, not who of it.
        "IssuingAccount": root_arn(),
        "Operations": grant.operations,
    });
    let optional = [
        ("RetiringPrincipal", grant.retiring.as_ref().map(|arn| json!(arn))),
        ("Constraints", grant.constraint.as_ref().map(|constraint| json!(constraint))),
        ("Expires", grant.expires.map(|time| json!(time))),
    ];
    for (member, value) in optional {
        if let Some(value) = value {
            entry[member] = value;
        }
    }
    entry
}

fn answer<'g>(asked: &Asked<'_>, page: &Page, grants: impl Iterator<Item = &'g Arc<Grant>>) -> Value {
    let live = grants.filter(|grant| !grant.is_expired(asked.now));
    page.answer("Grants", live.map(|grant| (format!("{} {}", grant.key.0, grant.id), entry(asked, grant))))
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (50, 100))?;
    refuse_services(params)?;
    let (id, grantee) = (params.text("GrantId", &GRANT_ID), params.text("GranteePrincipal", &PRINCIPAL));
    let key = params.key_id();
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let conditions = found.conditions(asked).with(Key::GrantIsForAwsResource, for_service(asked));
    asked.authorize(&found, "kms:ListGrants", &conditions)?;
    if let Some(id) = id {
        check_id(id)?;
    }
    let wanted = |grant: &&Arc<Grant>| {
        id.is_none_or(|id| grant.id == id) && grantee.is_none_or(|grantee| grant.grantee == grantee)
    };
    Ok(answer(asked, &page, asked.keys.grants(&found.cmk.id).filter(wanted)))
}

pub(super) fn list_retirable(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (50, 100))?;
    refuse_services(params)?;
    let principal = params.needed_text("RetiringPrincipal", &PRINCIPAL);
    params.check()?;
    if principal != asked.call.principal.arn() {
        asked.require_root("kms:ListRetirableGrants")?;
    }
    let grants = asked.keys.all_grants().filter(|grant| grant.retiring.as_deref() == Some(principal));
    Ok(answer(asked, &page, grants))
}

fn check_id(id: &str) -> Result<(), ApiError> {
    if HEXLOWER.decode(id.as_bytes()).is_ok_and(|bytes| bytes.len() == 32) {
        return Ok(());
    }
    Err(ApiError::new(Code::InvalidGrantId, format!("Invalid grant id: {id}")))
}

fn gone(id: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("Grant ID {id} not found"))
}

/// The grant that RetireGrant is about: by its token, or by its key and id.
fn retirable(asked: &Asked<'_>, params: &Params<'_>) -> Result<(Option<KeyId>, String), ApiError> {
    let (token, id) = (params.text("GrantToken", &GRANT_TOKEN), params.text("GrantId", &GRANT_ID));
    let key = params.text("KeyId", &KEY_ID);
    params.check()?;
    match (token, key, id) {
        (Some(token), None, None) => {
            let id = asked.tokens.open(token)?;
            let grant = asked.keys.all_grants().find(|grant| grant.id == id);
            Ok((grant.map(|grant| grant.key.clone()), id))
        }
        (None, Some(_), Some(id)) => {
            check_id(id)?;
            Ok((None, id.to_owned()))
        }
        _ => Err(validation("A grant is named by its token, or by the ARN of its key and its id.")),
    }
}

pub(super) fn retire(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (by_token, id) = retirable(asked, params)?;
    let name = match (&by_token, params.text("KeyId", &KEY_ID)) {
        (Some(key), _) => key.0.clone(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => return Err(gone(&id)),
    };
    let found = asked.find(&name, Naming::Key)?;
    let keys = Arc::clone(&asked.keys);
    let grant = keys.grant(&found.cmk.id, &id).ok_or_else(|| gone(&id))?;
    let conditions = found.conditions(asked).with(Key::GrantIsForAwsResource, for_service(asked));
    let request =
        Request { principal: asked.call.principal, action: "kms:RetireGrant", resource: &found.arn, keys: &conditions };
    let decision = authorize_retire_grant(found.cmk.policy(), grant, &request);
    asked.decided(decision, "kms:RetireGrant", &found.arn)?;
    Asked::dry_run(params)?;
    keystore.remove_grants(&found.cmk.id, &[id])?;
    Ok(json!({}))
}

pub(super) fn revoke(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (key, id) = (params.key_id(), params.needed_text("GrantId", &GRANT_ID));
    let cascade = params.flag("Cascade");
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let conditions = found.conditions(asked).with(Key::GrantIsForAwsResource, for_service(asked));
    asked.authorize(&found, "kms:RevokeGrant", &conditions)?;
    check_id(id)?;
    asked.keys.grant(&found.cmk.id, id).ok_or_else(|| gone(id))?;
    Asked::dry_run(params)?;
    let ids = if cascade { with_descendants(&asked.keys, &found.cmk.id, id) } else { vec![id.to_owned()] };
    keystore.remove_grants(&found.cmk.id, &ids)?;
    Ok(json!({}))
}

/// A grant and all that were made by it, and by those.
fn with_descendants(keys: &KeySet, key: &KeyId, id: &str) -> Vec<String> {
    let mut children: HashMap<&str, Vec<&str>> = HashMap::new();
    for grant in keys.grants(key) {
        if let Some(parent) = &grant.parent {
            children.entry(parent).or_default().push(&grant.id);
        }
    }
    let mut all = vec![id.to_owned()];
    let mut at = 0;
    while let Some(parent) = all.get(at) {
        let found = children.remove(parent.as_str()).unwrap_or_default();
        all.extend(found.into_iter().map(str::to_owned));
        at += 1;
    }
    all
}
