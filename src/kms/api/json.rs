//! Request bodies. Read strictly: a name that comes twice in one object would mean one thing here and another one to whoever
//! wrote the policy or reads the log.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::kms::service::{ApiError, Code};

/// The parameters in a body: one JSON object. No body is an object without members.
///
/// # Errors
/// SerializationException.
pub(super) fn parameters(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_json::from_slice(body) {
        Ok(Strict(value @ Value::Object(_))) => Ok(value),
        Ok(_) => Err(ApiError::new(Code::Serialization, "Start of structure or map found where not expected.")),
        // Where and what, not the bytes themselves: they may be plaintext.
        Err(error) => Err(ApiError::new(Code::Serialization, "").because(error.to_string())),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a name comes twice in one object"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bodies_are_read_as_serde_json_reads_them() {
        assert_eq!(parameters(b"").unwrap(), serde_json::json!({}));
        let text = r#"{"a":[1,-2,3.5,true,null,"\u00e9",{"b":{}}]}"#;
        assert_eq!(parameters(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn what_is_no_object_or_repeats_a_name_is_refused() {
        let deep = "{\"a\":".repeat(100_000);
        for body in ["[]", "1", "null", "{", "{\"a\":1}x", r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, &deep] {
            assert_eq!(parameters(body.as_bytes()).unwrap_err().code, Code::Serialization);
        }
        assert_eq!(parameters(b"{\"a\":\"\xff\"}").unwrap_err().code, Code::Serialization);
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parameters(&body);
        }
    }
}
