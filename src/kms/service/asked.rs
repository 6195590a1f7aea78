//! One request while it is being answered: the keys as they are now, who asks, and what the audit log will be told.

use std::sync::Arc;

use super::catalog::Entry;
use super::names::{self, Name, Naming};
use super::params::{GRANT_TOKEN, Params};
use super::{ApiError, Call, Code, Source};
use crate::kms::authorize::{Decision, Reason, authorize};
use crate::kms::grant::TokenKey;
use crate::kms::policy::{ConditionKeys, Key, Request};
use crate::kms::{Cmk, Grant, KeyId, KeySet, KeystoreError, KmsError, Operation, Principal};

/// Most grant tokens of a request.
const MAX_TOKENS: usize = 10;

/// What the audit log is told beside the parameters.
#[derive(Default)]
pub(super) struct Trace {
    /// The ARNs of the keys that the request is about.
    pub(super) keys: Vec<String>,
    /// What decided.
    pub(super) reason: Option<String>,
    /// The id of the key material that was used.
    pub(super) material: Option<String>,
}

/// A request.
pub(super) struct Asked<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) entry: &'static Entry,
    pub(super) keys: Arc<KeySet>,
    pub(super) tokens: &'a TokenKey,
    /// In unix seconds.
    pub(super) now: u64,
    pub(super) trace: Trace,
}

/// A key that a request names.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) cmk: Arc<Cmk>,
    pub(super) arn: String,
    // The alias that the request named it by.
    alias: Option<String>,
    // All that name it.
    aliases: Vec<String>,
}

impl Found {
    /// The condition keys that every request about this key has.
    pub(super) fn conditions(&self, asked: &Asked<'_>) -> ConditionKeys<'_> {
        asked
            .conditions()
            .resource_tags(&self.cmk.tags)
            .with(Key::KeySpec, self.cmk.spec.name())
            .with(Key::KeyUsage, "ENCRYPT_DECRYPT")
            .with(Key::KeyOrigin, "AWS_KMS")
            .with_some(Key::RequestAlias, self.alias.as_deref())
            .with_many(Key::ResourceAliases, self.aliases.iter().map(String::as_str))
    }
}

impl Asked<'_> {
    /// The condition keys that every request has.
    pub(super) fn conditions<'k>(&self) -> ConditionKeys<'k> {
        let keys = ConditionKeys::at(self.now).with_some(Key::ViaService, self.call.via_service.map(str::to_owned));
        match self.call.source {
            Source::Address(address) => keys.source_ip(address),
            Source::Process(_) => keys,
        }
    }

    /// The ARN of a key, in the region of the request.
    pub(super) fn arn(&self, key: &KeyId) -> String {
        names::key_arn(self.call.region, key)
    }

    /// The key that a request names.
    ///
    /// # Errors
    /// NotFoundException or InvalidArnException.
    pub(super) fn find(&mut self, name: &str, naming: Naming) -> Result<Found, ApiError> {
        let named = names::read(name, self.call.region, naming)?;
        let (id, alias) = match named {
            Name::Id(id) => (id, None),
            Name::Alias(alias) => {
                let target = self.keys.alias(&alias).cloned();
                let arn = names::alias_arn(self.call.region, &alias);
                let missing = || ApiError::new(Code::NotFound, format!("Alias {arn} is not found."));
                (target.ok_or_else(missing)?, Some(alias))
            }
        };
        let cmk = self.keys.resolve(&id.0).ok().filter(|cmk| !cmk.is_gone()).cloned();
        let missing = || ApiError::new(Code::NotFound, format!("Key '{}' does not exist", self.arn(&id)));
        Ok(self.found(cmk.ok_or_else(missing)?, alias))
    }

    /// A key by itself; the audit log is told that the request is about it.
    pub(super) fn found(&mut self, cmk: Arc<Cmk>, alias: Option<String>) -> Found {
        let arn = self.arn(&cmk.id);
        if !self.trace.keys.contains(&arn) {
            self.trace.keys.push(arn.clone());
        }
        let names = self.keys.aliases().filter(|(_, target)| **target == cmk.id);
        let aliases = names.map(|(name, _)| name.to_owned()).collect();
        Found { cmk, arn, alias, aliases }
    }

    /// The grants of a key.
    pub(super) fn grants<'k>(keys: &'k KeySet, key: &KeyId) -> impl Iterator<Item = &'k Grant> {
        keys.grants(key).map(AsRef::as_ref)
    }

    /// Whether the principal may do `action`, by the key's policy or a grant.
    ///
    /// # Errors
    /// AccessDeniedException.
    pub(super) fn authorize(
        &mut self,
        found: &Found,
        action: &str,
        conditions: &ConditionKeys<'_>,
    ) -> Result<(), ApiError> {
        let request = Request { principal: self.call.principal, action, resource: &found.arn, keys: conditions };
        let keys = Arc::clone(&self.keys);
        let decision = authorize(found.cmk.policy(), Self::grants(&keys, &found.cmk.id), &request);
        self.decided(decision, action, &found.arn)
    }

    /// Turns a decision into an answer.
    pub(super) fn decided(&mut self, decision: Decision<'_>, action: &str, arn: &str) -> Result<(), ApiError> {
        let reason = decision.reason.to_string();
        if decision.allowed {
            self.told(reason);
            return Ok(());
        }
        let why = match decision.reason {
            Reason::Nothing => format!("because no resource-based policy allows the {action} action"),
            Reason::Statement { .. } | Reason::Grant(_) => {
                "with an explicit deny in a resource-based policy".to_owned()
            }
        };
        let who = self.call.principal.arn();
        let message = format!("User: {who} is not authorized to perform: {action} on resource: {arn} {why}");
        Err(ApiError::new(Code::AccessDenied, message).because(format!("{action}: {reason}")))
    }

    /// Tells the audit log what decided; a request may need several decisions.
    fn told(&mut self, reason: String) {
        match &mut self.trace.reason {
            Some(known) if *known != reason => *known = format!("{known}; {reason}"),
            Some(_) => {}
            empty => *empty = Some(reason),
        }
    }

    /// Refuses everybody but the root of the account: what is about no key yet is for no key policy to decide, and there are
    /// no identity policies.
    pub(super) fn require_root(&mut self, action: &str) -> Result<(), ApiError> {
        if *self.call.principal == Principal::Root {
            self.told("the owner of the keystore".to_owned());
            return Ok(());
        }
        let (who, resource) = (self.call.principal.arn(), names::key_arn(self.call.region, &KeyId("*".to_owned())));
        let message = format!(
            "User: {who} is not authorized to perform: {action} on resource: {resource} because no identity-based policy \
             allows the {action} action"
        );
        Err(ApiError::new(Code::AccessDenied, message).because(format!("{action}: only the owner of the keystore may")))
    }

    /// Refuses what the state of the key, or who looks after it, forbids.
    ///
    /// # Errors
    /// DisabledException, KMSInvalidStateException, or AccessDeniedException for a service managed key.
    pub(super) fn require(&self, found: &Found, operation: Operation) -> Result<(), ApiError> {
        let arn = &found.arn;
        found.cmk.require(operation).map_err(|error| match error {
            KmsError::Disabled(_) => ApiError::new(Code::Disabled, format!("{arn} is disabled.")),
            KmsError::InvalidState(_) => ApiError::new(Code::KmsInvalidState, format!("{arn} is pending deletion.")),
            KmsError::NotPending(_) => ApiError::new(Code::KmsInvalidState, format!("{arn} is not pending deletion.")),
            KmsError::ServiceManaged(_) => {
                let message = format!("{arn} is managed by a service and cannot be changed.");
                ApiError::new(Code::AccessDenied, message).because("a service managed key is not edited by anybody")
            }
            other => ApiError::from(KeystoreError::from(other)),
        })
    }

    /// The beginning of most operations: the key in `KeyId`, by id or ARN only, for the action of this name and in a state
    /// that permits it.
    pub(super) fn managed_key(&mut self, params: &Params<'_>) -> Result<Found, ApiError> {
        let name = params.key_id();
        params.check()?;
        let found = self.find(name, Naming::Key)?;
        let conditions = found.conditions(self);
        self.authorize(&found, &format!("kms:{}", self.entry.name), &conditions)?;
        self.require(&found, self.entry.needs)?;
        Ok(found)
    }

    /// Checks the grant tokens of a request for these keys. Grants are in force at once, so they have no further effect.
    ///
    /// # Errors
    /// InvalidGrantTokenException or ValidationException.
    pub(super) fn check_tokens(&self, params: &Params<'_>, keys: &[&KeyId]) -> Result<(), ApiError> {
        let tokens = params.texts("GrantTokens", MAX_TOKENS, &GRANT_TOKEN);
        params.check()?;
        let (Some((key, others)), false) = (keys.split_first(), tokens.is_empty()) else { return Ok(()) };
        let tokens: Vec<String> = tokens.into_iter().map(str::to_owned).collect();
        let foreign = |grant: &&Arc<Grant>| !others.contains(&&grant.key);
        let find = |id: &str| self.keys.all_grants().filter(foreign).find(|grant| grant.id == id).map(AsRef::as_ref);
        self.tokens.check(&tokens, key, find)
    }

    /// Ends a request with the DryRun option, which would have succeeded.
    ///
    /// # Errors
    /// DryRunOperationException.
    pub(super) fn dry_run(params: &Params<'_>) -> Result<(), ApiError> {
        if params.flag("DryRun") {
            let message = "The request would have succeeded, but the DryRun option is set.";
            return Err(ApiError::new(Code::DryRunOperation, message));
        }
        params.check()
    }
}
