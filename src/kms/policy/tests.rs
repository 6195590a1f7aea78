//! Tables of what documents are refused and what statements say.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::kms::{ACCOUNT, EncryptionContext, Principal};

mod conditions;
mod documents;
mod properties;
mod statements;

const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// 2026-03-01T12:00:00Z.
const NOON: u64 = 1_772_366_400;

fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    EncryptionContext::new(pairs.iter().copied()).unwrap()
}

fn member(name: &str, groups: &[&str]) -> Principal {
    Principal::User { name: name.to_owned(), groups: groups.iter().map(|&group| group.to_owned()).collect() }
}

/// A policy of these statements.
fn policy(statements: Value) -> Policy {
    parse(json!({"Version": "2012-10-17", "Statement": statements})).unwrap()
}

fn parse(document: Value) -> Result<Policy, MalformedPolicy> {
    Policy::parse(&document.to_string())
}

/// A statement that allows `kms:*` to everyone, with these elements put in or, if null, taken out.
fn statement(changes: Value) -> Value {
    let mut statement = json!({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => statement.as_object_mut().unwrap().remove(name),
            value => statement.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    statement
}

fn ask(policy: &Policy, principal: &Principal, action: &str, keys: &ConditionKeys<'_>) -> Verdict {
    let request = Request { principal, action, resource: ARN, keys };
    let verdict = policy.evaluate(&request);
    agrees(&policy.examine(&request), verdict);
    verdict
}

/// The slow way for people must come to the same end as the fast one.
fn agrees(examined: &[Examined], verdict: Verdict) {
    let first = |denies| examined.iter().position(|e| e.denies == denies && e.misses.is_empty());
    let slow = match (first(true), first(false)) {
        (Some(index), _) => Verdict::Denied(index),
        (None, Some(index)) => Verdict::Allowed(index),
        (None, None) => Verdict::Silent,
    };
    assert_eq!(slow, verdict, "{examined:?}");
}

/// Whether a policy of one statement that allows everything under this Condition block applies.
fn holds(condition: Value, principal: &Principal, keys: &ConditionKeys<'_>) -> bool {
    let policy = policy(statement(json!({"Condition": condition.clone()})));
    match ask(&policy, principal, "kms:Decrypt", keys) {
        Verdict::Allowed(0) => true,
        Verdict::Silent => false,
        other => panic!("{condition}: {other:?}"),
    }
}
