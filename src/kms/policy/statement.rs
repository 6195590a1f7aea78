//! One statement of a policy.

use super::condition::Condition;
use super::document::Effect;
use super::json::Node;
use super::pattern::{Glob, Syntax, Template};
use super::principal::{Who, parse_entries};
use super::request::Request;

/// A statement, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    who: Who,
    actions: Option<Which<Glob>>,
    resources: Option<Which<Template>>,
    pub(super) conditions: Vec<Condition>,
}

/// A list that says what is meant, or what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which<T> {
    Only(Vec<T>),
    AllBut(Vec<T>),
}

impl<T> Which<T> {
    fn includes(&self, matches: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Only(items) => items.iter().any(matches),
            Self::AllBut(items) => !items.iter().any(matches),
        }
    }
}

/// The elements of a statement as they come, each at most once.
#[derive(Default)]
struct Elements {
    sid: Option<Node>,
    effect: Option<Node>,
    principal: Option<Node>,
    not_principal: Option<Node>,
    action: Option<Node>,
    not_action: Option<Node>,
    resource: Option<Node>,
    not_resource: Option<Node>,
    condition: Option<Node>,
}

impl Elements {
    fn sort(node: Node) -> Result<Self, String> {
        let Node::Object(members) = node else { return Err("Syntax errors in policy.".to_owned()) };
        let mut elements = Self::default();
        for (name, value) in members {
            let place = match name.as_str() {
                "Sid" => &mut elements.sid,
                "Effect" => &mut elements.effect,
                "Principal" => &mut elements.principal,
                "NotPrincipal" => &mut elements.not_principal,
                "Action" => &mut elements.action,
                "NotAction" => &mut elements.not_action,
                "Resource" => &mut elements.resource,
                "NotResource" => &mut elements.not_resource,
                "Condition" => &mut elements.condition,
                _ => return Err(format!("Syntax errors in policy. Unknown element: {name}")),
            };
            *place = Some(value);
        }
        Ok(elements)
    }
}

/// One of two elements that exclude each other.
fn either(name: &str, only: Option<Node>, all_but: Option<Node>) -> Result<Option<(Node, bool)>, String> {
    match (only, all_but) {
        (Some(_), Some(_)) => Err(format!("Syntax errors in policy. {name} and Not{name} exclude each other")),
        (Some(node), None) => Ok(Some((node, false))),
        (None, Some(node)) => Ok(Some((node, true))),
        (None, None) => Ok(None),
    }
}

/// The texts of a list that may be a single one.
fn texts(element: &str, node: Node) -> Result<Vec<String>, String> {
    let texts: Option<Vec<String>> = node.listed().into_iter().map(Node::text).collect();
    texts
        .filter(|texts| !texts.is_empty())
        .ok_or_else(|| format!("Syntax errors in policy. {element} is no list of texts"))
}

fn which<T>(
    name: &str,
    only: Option<Node>,
    all_but: Option<Node>,
    read: impl Fn(&str, bool) -> Result<T, String>,
) -> Result<Option<Which<T>>, String> {
    let Some((node, excluding)) = either(name, only, all_but)? else { return Ok(None) };
    let items = texts(name, node)?.iter().map(|text| read(text, excluding)).collect::<Result<Vec<T>, String>>()?;
    Ok(Some(if excluding { Which::AllBut(items) } else { Which::Only(items) }))
}

/// An action, in lower case, since actions are case-insensitive.
fn action(text: &str) -> Result<Glob, String> {
    if text != "*" && !text.split_once(':').is_some_and(|(vendor, name)| !vendor.is_empty() && !name.is_empty()) {
        return Err(format!(
            "Actions/Conditions must be prefaced by a vendor, e.g., kms, iam, sdb. Invalid action: {text}"
        ));
    }
    Ok(Glob::wild(&text.to_ascii_lowercase()))
}

/// `excluding`: it is what the statement is not about.
fn resource(text: &str, (effect, excluding): (Effect, bool), variables: bool) -> Result<Template, String> {
    if text != "*" && !text.starts_with("arn:") {
        return Err(format!("Resource {text} must be in ARN format or \"*\"."));
    }
    let template = Template::parse(text, Syntax { wildcards: true, variables })?;
    if template.names_unknown_key() && excluding {
        return Err(format!("Resource {text} in NotResource would never match, so it would except nothing"));
    }
    if template.names_unknown_key() && effect == Effect::Deny {
        return Err(format!("Resource {text} in a Deny statement would never match, so it would deny nothing"));
    }
    Ok(template)
}

impl Statement {
    /// Reads one statement. `variables`: the document's version has policy variables.
    ///
    /// # Errors
    /// What is wrong with it, in the words that PutKeyPolicy answers.
    pub(super) fn parse(node: Node, variables: bool) -> Result<Self, String> {
        let elements = Elements::sort(node)?;
        let effect = match elements.effect.and_then(Node::text).as_deref() {
            Some("Allow") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            Some(other) => return Err(format!("Invalid effect: {other}")),
            None => return Err("Missing required field Effect".to_owned()),
        };
        let sid = elements.sid.map(|sid| sid.text().ok_or("Syntax errors in policy. Sid is no text")).transpose()?;
        let who = match either("Principal", elements.principal, elements.not_principal)? {
            Some((node, false)) => Who::Only(parse_entries(node)?),
            Some((node, true)) => Who::AllBut(parse_entries(node)?),
            None => return Err("Missing required field Principal".to_owned()),
        };
        let conditions = elements.condition.map(|node| conditions(node, effect, variables)).transpose()?;
        Ok(Self {
            sid,
            effect,
            who,
            actions: which("Action", elements.action, elements.not_action, |text, _| action(text))?,
            resources: which("Resource", elements.resource, elements.not_resource, |text, excluding| {
                resource(text, (effect, excluding), variables)
            })?,
            conditions: conditions.unwrap_or_default(),
        })
    }

    /// Whether it has both an action and a resource. One that lacks either is accepted and has no effect, as in AWS KMS.
    pub(super) fn is_complete(&self) -> bool {
        self.actions.is_some() && self.resources.is_some()
    }

    pub(super) fn is_about(&self, request: &Request<'_>) -> bool {
        self.who.includes(request.principal, self.effect)
    }

    pub(super) fn has_action(&self, request: &Request<'_>) -> bool {
        self.actions.as_ref().is_some_and(|actions| actions.includes(|glob| glob.matches_folded(request.action)))
    }

    /// A key is the same in all regions, and the caller chooses which one the request is signed for, so the region of an ARN
    /// says nothing.
    pub(super) fn has_resource(&self, request: &Request<'_>) -> bool {
        self.resources.as_ref().is_some_and(|resources| {
            resources.includes(|template| {
                template.resolve(request).is_some_and(|glob| glob.matches_in_some_region(request.resource))
            })
        })
    }

    /// Whether it speaks about this request.
    pub(super) fn applies(&self, request: &Request<'_>) -> bool {
        self.is_about(request)
            && self.has_action(request)
            && self.has_resource(request)
            && self.conditions.iter().all(|condition| condition.holds(request, self.effect))
    }
}

/// Reads a Condition block: `{OPERATOR: {KEY: VALUE or [VALUES]}}`.
fn conditions(node: Node, effect: Effect, variables: bool) -> Result<Vec<Condition>, String> {
    let broken = || "Syntax errors in policy. Condition is {OPERATOR: {KEY: [VALUES]}}".to_owned();
    let Node::Object(operators) = node else { return Err(broken()) };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Node::Object(keys) = keys else { return Err(broken()) };
        if keys.is_empty() {
            return Err(format!("{} Missing: a key for {operator}", broken()));
        }
        for (key, values) in keys {
            let values: Option<Vec<String>> = values.listed().into_iter().map(Node::scalar).collect();
            let values = values.filter(|values| !values.is_empty());
            let values = values.ok_or_else(|| format!("{} Missing: values for {key}", broken()))?;
            conditions.push(Condition::parse(&operator, &key, values, effect, variables)?);
        }
    }
    Ok(conditions)
}
