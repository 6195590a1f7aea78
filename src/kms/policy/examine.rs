//! What each statement says about a request, and why those that do not apply do not.

use serde::Serialize;

use super::document::{Effect, Policy};
use super::request::Request;
use super::statement::Statement;

/// Why a statement does not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Miss {
    /// It has no Action or no Resource, and so no effect.
    Incomplete,
    /// It is about other principals.
    Principal,
    /// It is about other actions.
    Action,
    /// It is about other resources.
    Resource,
    /// A condition is not met.
    Condition {
        /// The operator.
        operator: String,
        /// The condition key.
        key: String,
        /// What the policy wants.
        wanted: Vec<String>,
        /// What the request has: nothing, or one value or more.
        found: Vec<String>,
        /// Whether this KMS understands it; if not, it is never met.
        understood: bool,
    },
}

/// One statement, held against a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// Its number, from 1.
    pub number: usize,
    /// Its Sid.
    pub sid: Option<String>,
    /// Whether it denies.
    pub denies: bool,
    /// Why it does not apply; empty if it does.
    pub misses: Vec<Miss>,
}

impl Policy {
    /// Holds every statement against a request. Slower than [`Policy::evaluate`], and for people.
    pub fn examine(&self, request: &Request<'_>) -> Vec<Examined> {
        self.statements().iter().enumerate().map(|(index, statement)| examine(index + 1, statement, request)).collect()
    }
}

fn examine(number: usize, statement: &Statement, request: &Request<'_>) -> Examined {
    let mut misses = Vec::new();
    if !statement.is_complete() {
        misses.push(Miss::Incomplete);
    } else {
        let parts = [
            (statement.is_about(request), Miss::Principal),
            (statement.has_action(request), Miss::Action),
            (statement.has_resource(request), Miss::Resource),
        ];
        misses.extend(parts.into_iter().filter(|(fits, _)| !fits).map(|(_, miss)| miss));
    }
    let unmet = statement.conditions.iter().filter(|condition| !condition.holds(request, statement.effect));
    misses.extend(unmet.map(|condition| Miss::Condition {
        operator: condition.operator.clone(),
        key: condition.name.clone(),
        wanted: condition.wanted.clone(),
        found: condition.found(request).as_slice().iter().map(|value| value.clone().into_owned()).collect(),
        understood: condition.is_understood(),
    }));
    Examined { number, sid: statement.sid.clone(), denies: statement.effect == Effect::Deny, misses }
}
