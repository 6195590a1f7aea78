//! Conditions: operators over condition keys (IAM user guide, "IAM JSON policy elements: Condition operators").

use std::net::IpAddr;

use super::document::Effect;
use super::keys::Values;
use super::names::{KeyName, same_folded};
use super::pattern::{Glob, Syntax, Template};
use super::request::Request;
use super::value::{self, Comparison, Network};

/// One line of a Condition block: an operator, a key, and the values that it may have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    /// The operator as it was written.
    pub(super) operator: String,
    /// The key as it was written.
    pub(super) name: String,
    /// The values as they were written.
    pub(super) wanted: Vec<String>,
    key: KeyName,
    rule: Rule,
    operands: Vec<Operand>,
}

/// An operator without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    set: Set,
    test: Test,
    negated: bool,
    if_exists: bool,
}

/// How several values of the request count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// No prefix: the key has one value.
    Single,
    /// `ForAllValues:`; true without values.
    All,
    /// `ForAnyValue:`; false without values.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Text { wildcards: bool, fold: bool },
    Arn,
    Number(Comparison),
    Time(Comparison),
    Address,
    Flag,
    Null,
}

/// One value of a condition, read as its operator wants it.
#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Text(Template),
    Arn(Box<[Glob; 6]>),
    /// An ARN with a variable in it.
    ArnOf(Template),
    Number(f64),
    Time(jiff::Timestamp),
    Network(Network),
    Flag(bool),
}

impl Rule {
    /// Reads `[ForAllValues:|ForAnyValue:]OPERATOR[IfExists]`. Operators are case-insensitive, as IAM's are.
    fn parse(operator: &str) -> Option<Self> {
        let (set, rest) = match operator.split_once(':') {
            None => (Set::Single, operator),
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("ForAllValues") => (Set::All, rest),
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("ForAnyValue") => (Set::Any, rest),
            Some(_) => return None,
        };
        let lower = rest.to_ascii_lowercase();
        let (base, if_exists) = lower.strip_suffix("ifexists").map_or((lower.as_str(), false), |base| (base, true));
        let text = |wildcards, fold| Test::Text { wildcards, fold };
        let (test, negated) = match base {
            "stringequals" => (text(false, false), false),
            "stringnotequals" => (text(false, false), true),
            "stringequalsignorecase" => (text(false, true), false),
            "stringnotequalsignorecase" => (text(false, true), true),
            "stringlike" => (text(true, false), false),
            "stringnotlike" => (text(true, false), true),
            "arnequals" | "arnlike" => (Test::Arn, false),
            "arnnotequals" | "arnnotlike" => (Test::Arn, true),
            "ipaddress" => (Test::Address, false),
            "notipaddress" => (Test::Address, true),
            "bool" => (Test::Flag, false),
            // Whether a key is there is not a question about its values.
            "null" if set == Set::Single && !if_exists => (Test::Null, false),
            _ => {
                let (family, comparison) = base.split_at_checked(if base.starts_with("date") { 4 } else { 7 })?;
                let (comparison, negated) = Self::comparison(comparison)?;
                match family {
                    "date" => (Test::Time(comparison), negated),
                    "numeric" => (Test::Number(comparison), negated),
                    _ => return None,
                }
            }
        };
        Some(Self { set, test, negated, if_exists })
    }

    fn comparison(name: &str) -> Option<(Comparison, bool)> {
        Some(match name {
            "equals" => (Comparison::Equal, false),
            "notequals" => (Comparison::Equal, true),
            "lessthan" => (Comparison::Less, false),
            "lessthanequals" => (Comparison::LessOrEqual, false),
            "greaterthan" => (Comparison::Greater, false),
            "greaterthanequals" => (Comparison::GreaterOrEqual, false),
            _ => return None,
        })
    }

    /// Reads one value. The error is what is wrong with it.
    fn operand(self, text: &str, variables: bool) -> Result<Operand, String> {
        let wrong = |kind: &str| format!("{text} is not {kind}");
        match self.test {
            Test::Text { wildcards, .. } => Ok(Operand::Text(Template::parse(text, Syntax { wildcards, variables })?)),
            Test::Arn => match Template::parse(text, Syntax { wildcards: true, variables })? {
                Template::Fixed(pattern) => {
                    let components = value::arn_pattern(&pattern).ok_or_else(|| wrong("an ARN of six components"))?;
                    Ok(Operand::Arn(Box::new(components)))
                }
                template @ Template::Variable(_) => Ok(Operand::ArnOf(template)),
            },
            Test::Number(_) => {
                value::number(text).map(Operand::Number).ok_or_else(|| wrong("a number of up to 15 digits"))
            }
            Test::Time(_) => value::instant(text).map(Operand::Time).ok_or_else(|| wrong("a date in ISO 8601")),
            Test::Address => {
                Network::parse(text).map(Operand::Network).ok_or_else(|| wrong("an address or a CIDR range"))
            }
            Test::Flag | Test::Null => value::flag(text).map(Operand::Flag).ok_or_else(|| wrong("true or false")),
        }
    }
}

impl Condition {
    /// Reads one line of a Condition block.
    ///
    /// # Errors
    /// What is wrong with it, in the words that PutKeyPolicy answers.
    pub(super) fn parse(
        operator: &str,
        name: &str,
        wanted: Vec<String>,
        effect: Effect,
        variables: bool,
    ) -> Result<Self, String> {
        let rule = Rule::parse(operator).ok_or_else(|| format!("Invalid Condition type : {operator}"))?;
        let key = KeyName::parse(name);
        let single = match key {
            KeyName::Context(_) => Some("encryption context"),
            KeyName::RequestTag(_) => Some("tag"),
            _ => None,
        };
        if let (Set::All, Some(what)) = (rule.set, single) {
            return Err(format!(
                "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key matches \
                 requests without the specified {what} or with an unspecified {what}. To fix, remove ForAllValues."
            ));
        }
        let operands: Vec<Operand> =
            wanted.iter().map(|text| rule.operand(text, variables)).collect::<Result<_, _>>()?;
        let condition = Self { operator: operator.to_owned(), name: name.to_owned(), wanted, key, rule, operands };
        if effect == Effect::Deny && !condition.is_understood() {
            return Err(format!(
                "Invalid condition in a Deny statement: {operator} with {name} would never match, so it would deny nothing"
            ));
        }
        Ok(condition)
    }

    /// Whether it can match at all: its keys are known, and one that has several values has an operator for sets.
    pub(super) fn is_understood(&self) -> bool {
        let several = self.key.is_multivalued() && self.rule.set == Set::Single && self.rule.test != Test::Null;
        let unknown = |operand: &Operand| match operand {
            Operand::Text(template) | Operand::ArnOf(template) => template.names_unknown_key(),
            _ => false,
        };
        self.key != KeyName::Unknown && !several && !self.operands.iter().any(unknown)
    }

    /// Whether the request is as the condition wants it. `effect` decides where several values meet an operator for one,
    /// as when two keys of a context differ only in case: to allow, all must pass; to deny, one.
    pub(super) fn holds(&self, request: &Request<'_>, effect: Effect) -> bool {
        if !self.is_understood() {
            return false;
        }
        let found = self.found(request);
        if self.rule.test == Test::Null {
            let absent = found == Values::Absent;
            return self.operands.contains(&Operand::Flag(absent));
        }
        let found = found.as_slice();
        if found.is_empty() {
            return match self.rule.set {
                Set::All => true,
                Set::Any => self.rule.if_exists,
                Set::Single => self.rule.if_exists || self.rule.negated,
            };
        }
        let mut verdicts = found.iter().map(|value| self.passes(value, request));
        match (self.rule.set, effect) {
            (Set::All, _) | (Set::Single, Effect::Allow) => verdicts.all(|passes| passes),
            (Set::Any, _) | (Set::Single, Effect::Deny) => verdicts.any(|passes| passes),
        }
    }

    /// What the request has under the key.
    pub(super) fn found<'a>(&self, request: &'a Request<'_>) -> Values<'a> {
        request.values(&self.key)
    }

    /// Values of a condition are alternatives; a negated operator wants none of them.
    fn passes(&self, found: &str, request: &Request<'_>) -> bool {
        self.operands.iter().any(|operand| self.rule.test.matches(operand, found, request)) != self.rule.negated
    }
}

impl Test {
    fn matches(self, operand: &Operand, found: &str, request: &Request<'_>) -> bool {
        match (self, operand) {
            (Self::Text { fold, .. }, Operand::Text(template)) => match template.resolve(request).as_deref() {
                Some(Glob::Exact(wanted)) if fold => same_folded(wanted, found),
                Some(glob) => glob.matches(found),
                None => false,
            },
            (Self::Arn, Operand::Arn(pattern)) => value::arn_matches(pattern, found),
            (Self::Arn, Operand::ArnOf(template)) => template
                .resolve(request)
                .and_then(|pattern| value::arn_pattern(&pattern))
                .is_some_and(|pattern| value::arn_matches(&pattern, found)),
            (Self::Number(comparison), Operand::Number(wanted)) => {
                value::number(found).is_some_and(|found| comparison.holds(&found, wanted))
            }
            (Self::Time(comparison), Operand::Time(wanted)) => {
                value::instant(found).is_some_and(|found| comparison.holds(&found, wanted))
            }
            (Self::Address, Operand::Network(network)) => {
                found.parse::<IpAddr>().is_ok_and(|address| network.contains(address.to_canonical()))
            }
            (Self::Flag, Operand::Flag(wanted)) => value::flag(found) == Some(*wanted),
            // Operands are made for their test, and Null asks for no value.
            _ => false,
        }
    }
}
