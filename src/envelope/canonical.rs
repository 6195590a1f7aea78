//! The hash of a JSON object, the same whatever its layout.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::crypto::derive::sha256;

/// Integers are written in one way by everyone, fractions are not: a hash must not depend on that.
pub(super) fn has_only_integers(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(values) => values.iter().all(has_only_integers),
        Value::Object(members) => members.values().all(has_only_integers),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// SHA-256 of the members, sorted and without white space.
pub(super) fn hash(members: &Map<String, Value>) -> [u8; 32] {
    let mut text = String::new();
    write_members(members, &mut text);
    sha256(text.as_bytes())
}

/// Sorted here, because a map of serde_json keeps another order if any crate asks for that.
fn write_members(members: &Map<String, Value>, text: &mut String) {
    let sorted: BTreeMap<_, _> = members.iter().collect();
    let mut separator = '{';
    for (key, value) in &sorted {
        text.push(separator);
        separator = ',';
        text.push_str(&Value::String((*key).clone()).to_string());
        text.push(':');
        write_value(value, text);
    }
    text.push_str(if sorted.is_empty() { "{}" } else { "}" });
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => write_members(members, text),
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write_value(value, text);
            }
            text.push(']');
        }
        leaf => text.push_str(&leaf.to_string()),
    }
}
