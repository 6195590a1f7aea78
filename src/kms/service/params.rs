//! Reading the parameters of a request, with the limits of AWS's model and the texts of its validation errors.
//!
//! All faults of a request are told together, as AWS does. A value of the wrong JSON type is a SerializationException.

use std::cell::RefCell;
use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{ApiError, Code};
use crate::kms::EncryptionContext;

/// What a text may be: its length in characters, and a pattern.
pub(super) struct Text {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) pattern: Option<Pattern>,
}

/// A regular expression as AWS prints it, and what it says.
type Pattern = (&'static str, fn(char) -> bool);

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || ":/_-".contains(letter)
}

fn is_principal(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_+=,.@:/-".contains(letter)
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn is_marker(letter: char) -> bool {
    ('\u{20}'..='\u{ff}').contains(&letter)
}

fn is_policy(letter: char) -> bool {
    matches!(letter, '\t' | '\n' | '\r') || is_marker(letter)
}

const fn text(min: usize, max: usize, pattern: Option<Pattern>) -> Text {
    Text { min, max, pattern }
}

pub(super) const KEY_ID: Text = text(1, 2048, None);
pub(super) const ALIAS: Text = text(1, 256, Some(("^[a-zA-Z0-9:/_-]+$", is_name)));
pub(super) const DESCRIPTION: Text = text(0, 8192, None);
pub(super) const GRANT_ID: Text = text(1, 128, None);
pub(super) const GRANT_NAME: Text = text(1, 256, Some(("^[a-zA-Z0-9:/_-]+$", is_name)));
pub(super) const GRANT_TOKEN: Text = text(1, 8192, None);
pub(super) const MARKER: Text = text(1, 1024, Some((r"[\u0020-\u00FF]*", is_marker)));
pub(super) const POLICY: Text = text(1, 131_072, Some((r"[\u0009\u000A\u000D\u0020-\u00FF]+", is_policy)));
pub(super) const POLICY_NAME: Text = text(1, 128, Some((r"[\w]+", is_word)));
pub(super) const PRINCIPAL: Text = text(1, 256, Some((r"^[\w+=,.@:/-]+$", is_principal)));
pub(super) const TAG_KEY: Text = text(1, 128, None);
pub(super) const TAG_VALUE: Text = text(0, 256, None);
pub(super) const USER_NAME: Text = text(1, 256, Some((r"[\w+=,.@/-]+", is_principal)));
/// Any text: its meaning is checked later.
pub(super) const WORD: Text = text(0, usize::MAX, None);

/// The parameters of one request.
pub(super) struct Params<'a> {
    members: &'a Map<String, Value>,
    // Constraints that do not hold, in the order in which they were looked at.
    faults: RefCell<Vec<String>>,
    // The first value of the wrong type.
    mistyped: RefCell<Option<String>>,
}

/// `KeyId` as `keyId`.
fn lower(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL_VALUE",
        Value::Bool(true) => "TRUE_VALUE",
        Value::Bool(false) => "FALSE_VALUE",
        Value::Number(_) => "NUMBER_VALUE",
        Value::String(_) => "STRING_VALUE",
        Value::Array(_) => "START_ARRAY",
        Value::Object(_) => "START_OBJECT",
    }
}

impl<'a> Params<'a> {
    /// The parameters in a JSON object.
    ///
    /// # Errors
    /// SerializationException for any other value.
    pub(super) fn of(value: &'a Value) -> Result<Self, ApiError> {
        let Value::Object(members) = value else {
            return Err(ApiError::new(Code::Serialization, "Start of structure or map found where not expected."));
        };
        Ok(Self { members, faults: RefCell::default(), mistyped: RefCell::default() })
    }

    /// Whether everything that was read so far may stand.
    ///
    /// # Errors
    /// SerializationException or ValidationException.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        if let Some(fault) = self.mistyped.take() {
            return Err(ApiError::new(Code::Serialization, fault));
        }
        let faults = self.faults.borrow();
        let plural = if faults.len() == 1 { "" } else { "s" };
        match faults.len() {
            0 => Ok(()),
            count => {
                let message = format!("{count} validation error{plural} detected: {}", faults.join("; "));
                Err(ApiError::new(Code::Validation, message))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    /// Whether there is a parameter of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn fault(&self, value: &str, path: &str, constraint: &str) {
        let fault = format!("Value {value}at '{path}' failed to satisfy constraint: {constraint}");
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn missing(&self, path: &str) {
        self.fault("null ", path, "Member must not be null");
    }

    fn mistyped(&self, value: &Value, wanted: &str) {
        let mut first = self.mistyped.borrow_mut();
        if first.is_none() {
            *first = Some(format!("{} can not be converted to {wanted}", kind(value)));
        }
    }

    fn length(&self, shown: &str, path: &str, length: usize, (min, max): (usize, usize)) {
        if length < min {
            self.fault(shown, path, &format!("Member must have length greater than or equal to {min}"));
        }
        if length > max {
            self.fault(shown, path, &format!("Member must have length less than or equal to {max}"));
        }
    }

    fn checked_text<'v>(&self, value: &'v Value, path: &str, rule: &Text) -> Option<&'v str> {
        let Value::String(text) = value else {
            self.mistyped(value, "a String");
            return None;
        };
        let shown = format!("'{text}' ");
        self.length(&shown, path, text.chars().count(), (rule.min, rule.max));
        if let Some((pattern, allows)) = rule.pattern
            && !text.chars().all(allows)
        {
            self.fault(&shown, path, &format!("Member must satisfy regular expression pattern: {pattern}"));
        }
        Some(text)
    }

    /// A text that may be absent.
    pub(super) fn text(&self, name: &str, rule: &Text) -> Option<&'a str> {
        self.checked_text(self.get(name)?, &lower(name), rule)
    }

    /// A text that must be there.
    pub(super) fn needed_text(&self, name: &str, rule: &Text) -> &'a str {
        match self.get(name) {
            None => {
                self.missing(&lower(name));
                ""
            }
            Some(value) => self.checked_text(value, &lower(name), rule).unwrap_or_default(),
        }
    }

    /// The key that a request is about.
    pub(super) fn key_id(&self) -> &'a str {
        self.needed_text("KeyId", &KEY_ID)
    }

    /// One of a set of words.
    pub(super) fn choice(&self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.get(name)?;
        let text = self.checked_text(value, &lower(name), &WORD)?;
        let word = words.iter().find(|word| **word == text).copied();
        if word.is_none() {
            let constraint = format!("Member must satisfy enum value set: [{}]", words.join(", "));
            self.fault(&format!("'{text}' "), &lower(name), &constraint);
        }
        word
    }

    /// One of a set of words, which must be there.
    pub(super) fn needed_choice(&self, name: &str, words: &[&'static str]) -> &'static str {
        if !self.has(name) {
            self.missing(&lower(name));
        }
        self.choice(name, words).unwrap_or_default()
    }

    /// A list of words of a set; an absent one is empty.
    pub(super) fn choices(&self, name: &str, words: &[&'static str]) -> Vec<&'a str> {
        let given = self.texts(name, usize::MAX, &WORD);
        if given.iter().any(|word| !words.contains(word)) {
            let constraint =
                format!("Member must satisfy constraint: [Member must satisfy enum value set: [{}]]", words.join(", "));
            self.fault(&format!("'[{}]' ", given.join(", ")), &lower(name), &constraint);
        }
        given
    }

    /// Whether a parameter is this alias, or its ARN. Nothing is checked.
    pub(super) fn mentions(&self, name: &str, alias: &str) -> bool {
        let text = self.get(name).and_then(Value::as_str).unwrap_or_default();
        text == alias || (text.starts_with("arn:") && text.rsplit(':').next() == Some(alias))
    }

    /// A whole number from `min` to `max`.
    pub(super) fn number(&self, name: &str, min: u32, max: u32) -> Option<u32> {
        let value = self.get(name)?;
        let Some(number) = value.as_i64() else {
            self.mistyped(value, "an Integer");
            return None;
        };
        let shown = format!("'{number}' ");
        if number < i64::from(min) {
            self.fault(&shown, &lower(name), &format!("Member must have value greater than or equal to {min}"));
        }
        if number > i64::from(max) {
            self.fault(&shown, &lower(name), &format!("Member must have value less than or equal to {max}"));
        }
        u32::try_from(number).ok()
    }

    /// A point in time, in unix seconds; fractions are dropped.
    pub(super) fn time(&self, name: &str) -> Option<u64> {
        let value = self.get(name)?;
        let seconds = value.as_u64().or_else(|| value.as_f64().filter(|time| *time >= 0.0).map(|time| time as u64));
        if seconds.is_none() {
            self.mistyped(value, "a Timestamp");
        }
        seconds
    }

    /// A boolean; absent ones are false.
    pub(super) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(value) => {
                self.mistyped(value, "a Boolean");
                false
            }
        }
    }

    /// Bytes in base64, 1 to `max` of them.
    pub(super) fn blob(&self, name: &str, max: usize) -> Option<Zeroizing<Vec<u8>>> {
        let value = self.get(name)?;
        let Value::String(text) = value else {
            self.mistyped(value, "a Blob");
            return None;
        };
        let Ok(bytes) = BASE64.decode(text.as_bytes()) else {
            let mut first = self.mistyped.borrow_mut();
            first.get_or_insert_with(|| "Invalid Base64 data".to_owned());
            return None;
        };
        self.length("", &lower(name), bytes.len(), (1, max));
        Some(Zeroizing::new(bytes))
    }

    /// Bytes that must be there.
    pub(super) fn needed_blob(&self, name: &str, max: usize) -> Zeroizing<Vec<u8>> {
        if !self.has(name) {
            self.missing(&lower(name));
        }
        self.blob(name, max).unwrap_or_default()
    }

    fn list(&self, name: &str) -> Option<&'a [Value]> {
        let value = self.get(name)?;
        let Value::Array(values) = value else {
            self.mistyped(value, "a List");
            return None;
        };
        Some(values)
    }

    /// A list of texts; an absent one is empty.
    pub(super) fn texts(&self, name: &str, most: usize, rule: &Text) -> Vec<&'a str> {
        let values = self.list(name).unwrap_or_default();
        self.length("", &lower(name), values.len(), (0, most));
        let path = |at: usize| format!("{}.{}.member", lower(name), at + 1);
        values.iter().enumerate().filter_map(|(at, value)| self.checked_text(value, &path(at), rule)).collect()
    }

    /// A list of texts that must be there.
    pub(super) fn needed_texts(&self, name: &str, rule: &Text) -> Vec<&'a str> {
        if !self.has(name) {
            self.missing(&lower(name));
        }
        self.texts(name, usize::MAX, rule)
    }

    /// Tags, in their order; an absent list is empty.
    pub(super) fn tags(&self) -> Vec<(&'a str, &'a str)> {
        let mut tags = Vec::new();
        for (at, value) in self.list("Tags").unwrap_or_default().iter().enumerate() {
            let Value::Object(tag) = value else {
                self.mistyped(value, "a Structure");
                continue;
            };
            let part = |name: &str, rule: &Text| {
                let path = format!("tags.{}.member.{}", at + 1, lower(name));
                match tag.get(name) {
                    None | Some(Value::Null) => {
                        self.missing(&path);
                        None
                    }
                    Some(value) => self.checked_text(value, &path, rule),
                }
            };
            let (key, value) = (part("TagKey", &TAG_KEY), part("TagValue", &TAG_VALUE));
            tags.extend(key.zip(value));
        }
        tags
    }

    /// Tags that must be there.
    pub(super) fn needed_tags(&self) -> Vec<(&'a str, &'a str)> {
        if !self.has("Tags") {
            self.missing("tags");
        }
        self.tags()
    }

    /// Pairs of texts, as an encryption context is written; strings only.
    fn pairs_in(&self, value: &'a Value) -> Option<BTreeMap<String, String>> {
        let Value::Object(members) = value else {
            self.mistyped(value, "a Map");
            return None;
        };
        let pair = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Some((key.clone(), text.clone())),
            other => {
                self.mistyped(other, "a String");
                None
            }
        };
        Some(members.iter().filter_map(pair).collect())
    }

    /// An encryption context; an absent one is empty. To be read after [`Params::check`] passed for the rest.
    ///
    /// # Errors
    /// SerializationException for what is not a map of texts, ValidationException for an empty key or more than 8 KiB.
    pub(super) fn context(&self, name: &str) -> Result<EncryptionContext, ApiError> {
        let pairs = self.get(name).and_then(|value| self.pairs_in(value)).unwrap_or_default();
        self.check()?;
        EncryptionContext::new(pairs).map_err(|error| ApiError::new(Code::Validation, error.to_string()))
    }

    /// The first member of a structure that has none of these names.
    pub(super) fn stranger(&self, name: &str, known: &[&str]) -> Option<&'a str> {
        let members = self.get(name)?.as_object()?;
        let mut given = members.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
        given.find(|name| !known.contains(name))
    }

    /// The pairs of a member of a structure, and its other members.
    pub(super) fn structure(&self, name: &str) -> Option<BTreeMap<&'a str, BTreeMap<String, String>>> {
        let value = self.get(name)?;
        let Value::Object(members) = value else {
            self.mistyped(value, "a Structure");
            return None;
        };
        let given = members.iter().filter(|(_, value)| !value.is_null());
        Some(given.filter_map(|(name, value)| Some((name.as_str(), self.pairs_in(value)?))).collect())
    }
}
