//! One decision for every request: what the key's policy and its grants say together.
//!
//! A Deny of the policy wins; else an Allow of the policy, else a grant, allows; else the request is denied (AWS KMS developer
//! guide, "Determining access to AWS KMS keys"). All is pure: it reads no clock and no store.

use std::fmt;

use super::grant::{Grant, Proposal};
use super::policy::{Policy, Request, Verdict};

/// Whether a request is allowed, and what decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it is.
    pub allowed: bool,
    /// What decided.
    pub reason: Reason<'a>,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason<'a> {
    /// A statement of the key policy.
    Statement {
        /// Its number, from 1.
        number: usize,
        /// Its Sid.
        sid: Option<&'a str>,
    },
    /// A grant.
    Grant(&'a str),
    /// Nothing allows the request.
    Nothing,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statement { number, sid: Some(sid) } => write!(out, "statement {number} ({sid})"),
            Self::Statement { number, sid: None } => write!(out, "statement {number}"),
            Self::Grant(id) => write!(out, "grant {id}"),
            Self::Nothing => write!(out, "no statement and no grant allows it"),
        }
    }
}

/// Decides about every action but kms:CreateGrant by a grant and kms:RetireGrant, which depend on more: see
/// [`authorize_create_grant`] and [`authorize_retire_grant`]. `grants` are those of the key; others must not be among them.
pub fn authorize<'a>(
    policy: &'a Policy,
    grants: impl IntoIterator<Item = &'a Grant>,
    request: &Request<'_>,
) -> Decision<'a> {
    decide(policy, request, || grants.into_iter().find(|grant| grant.mismatch(request).is_none()))
}

/// Decides about kms:CreateGrant: the policy may let the principal delegate anything, a grant only a part of itself.
pub fn authorize_create_grant<'a>(
    policy: &'a Policy,
    grants: impl IntoIterator<Item = &'a Grant>,
    request: &Request<'_>,
    proposal: &Proposal<'_>,
) -> Decision<'a> {
    decide(policy, request, || grants.into_iter().find(|grant| grant.mismatch_for_child(request, proposal).is_none()))
}

/// Decides about kms:RetireGrant, which a policy can deny but not allow.
pub fn authorize_retire_grant<'a>(policy: &'a Policy, grant: &'a Grant, request: &Request<'_>) -> Decision<'a> {
    match policy.evaluate(request) {
        Verdict::Denied(index) => Decision { allowed: false, reason: statement(policy, index) },
        Verdict::Allowed(_) | Verdict::Silent if grant.may_be_retired_by(request.principal) => {
            Decision { allowed: true, reason: Reason::Grant(&grant.id) }
        }
        Verdict::Allowed(_) | Verdict::Silent => Decision { allowed: false, reason: Reason::Nothing },
    }
}

fn decide<'a>(policy: &'a Policy, request: &Request<'_>, grant: impl FnOnce() -> Option<&'a Grant>) -> Decision<'a> {
    match policy.evaluate(request) {
        Verdict::Denied(index) => Decision { allowed: false, reason: statement(policy, index) },
        Verdict::Allowed(index) => Decision { allowed: true, reason: statement(policy, index) },
        Verdict::Silent => match grant() {
            Some(grant) => Decision { allowed: true, reason: Reason::Grant(&grant.id) },
            None => Decision { allowed: false, reason: Reason::Nothing },
        },
    }
}

fn statement(policy: &Policy, index: usize) -> Reason<'_> {
    Reason::Statement { number: index + 1, sid: policy.sid(index) }
}
