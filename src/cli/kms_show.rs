//! Answers of the KMS, for people or as AWS writes them.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::keystore::KeystoreArgs;
use super::output::{self, line};

/// How to answer, and which keystore.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct Ask {
    /// Print what AWS KMS would answer
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) keystore: KeystoreArgs,
}

impl Ask {
    /// Prints `text`, or the answer itself.
    pub(super) fn say(&self, answer: &Value, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { output::json(answer) } else { line(text) }
    }

    /// Prints an answer as a table.
    pub(super) fn show(&self, answer: &Value) -> Result<(), Failure> {
        if self.json {
            return output::json(answer);
        }
        let lines = table(answer);
        if lines.is_empty() { Ok(()) } else { line(lines.join("\n")) }
    }
}

/// The rows of a list, or the members of an object.
fn table(answer: &Value) -> Vec<String> {
    let Value::Object(members) = answer else { return Vec::new() };
    let list = members.values().find_map(|value| value.as_array().filter(|_| members.contains_key("Truncated")));
    match list {
        Some(rows) => rows.iter().map(row).collect(),
        None => listed(members),
    }
}

fn row(item: &Value) -> String {
    match item {
        Value::Object(members) => {
            let cells = members.iter().map(|(name, value)| cell(name, value));
            cells.filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join("  ")
        }
        other => cell("", other),
    }
}

fn listed(members: &Map<String, Value>) -> Vec<String> {
    let mut lines = Vec::new();
    let width = members.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in members {
        if let Value::Object(inner) = value {
            lines.extend(listed(inner));
        } else {
            let cell = cell(name, value);
            lines.extend((!cell.is_empty()).then(|| format!("{name:<width$}  {cell}")));
        }
    }
    lines
}

fn cell(name: &str, value: &Value) -> String {
    let is_time = ["Date", "Timestamp", "Expires"].iter().any(|end| name.ends_with(end));
    match value {
        Value::Number(number) if is_time => number.as_u64().map_or_else(|| number.to_string(), output::time),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(|value| cell("", value)).collect::<Vec<_>>().join(","),
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{name}={}", cell(name, value))).collect::<Vec<_>>().join(",")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `NAME=VALUE` of an encryption context or a tag.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Pairs as a JSON object.
pub(super) fn object(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect())
}

/// Whether all pages of a list are wanted together: asks until there is no next marker.
pub(super) fn all_pages(
    member: &str,
    mut ask: impl FnMut(Option<&str>) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let mut whole = ask(None)?;
    while let Some(marker) = whole.get("NextMarker").and_then(Value::as_str).map(str::to_owned) {
        let mut next = ask(Some(&marker))?;
        let more = next[member].take();
        if let (Some(rows), Value::Array(more)) = (whole[member].as_array_mut(), more) {
            rows.extend(more);
        }
        if let Value::Object(members) = &mut whole {
            members.remove("NextMarker");
            members.insert("Truncated".to_owned(), Value::Bool(false));
        }
        if let Some(marker) = next.get("NextMarker") {
            whole["NextMarker"] = marker.clone();
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_become_rows_and_objects_become_lines() {
        let list = json!({ "Grants": [{ "GrantId": "a", "Operations": ["Decrypt", "Encrypt"], "Expires": 1_700_000_000 }],
            "Truncated": false });
        assert_eq!(table(&list), ["2023-11-14T22:13:20Z  a  Decrypt,Encrypt"]);
        assert_eq!(
            table(&json!({ "KeyMetadata": { "KeyId": "k", "Enabled": true } })),
            ["Enabled  true", "KeyId    k"]
        );
    }

    #[test]
    fn all_pages_become_one() {
        let whole = all_pages("Keys", |marker| {
            Ok(match marker {
                None => json!({ "Keys": [1], "Truncated": true, "NextMarker": "a" }),
                Some("a") => json!({ "Keys": [2], "Truncated": true, "NextMarker": "b" }),
                Some(_) => json!({ "Keys": [3], "Truncated": false }),
            })
        });
        assert_eq!(whole.unwrap(), json!({ "Keys": [1, 2, 3], "Truncated": false }));
    }
}
