//! Lists that come in pages, with opaque markers.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::params::{MARKER, Params};
use super::{ApiError, Code};

/// Which part of a list is wanted.
pub(super) struct Page {
    limit: usize,
    // What stands before the page, if it is not the first.
    after: Option<String>,
    operation: &'static str,
}

impl Page {
    /// Reads `Limit`, from 1 to `max`, and `Marker`.
    ///
    /// # Errors
    /// InvalidMarkerException for what this operation did not give out, or ValidationException.
    pub(super) fn of(
        params: &Params<'_>,
        operation: &'static str,
        (default, max): (u32, u32),
    ) -> Result<Self, ApiError> {
        let limit = params.number("Limit", 1, max).unwrap_or(default);
        let marker = params.text("Marker", &MARKER);
        params.check()?;
        let after = marker.map(|marker| read(marker, operation)).transpose()?;
        Ok(Self { limit: limit as usize, after, operation })
    }

    /// The answer with the wanted ones of `items`, which come with the names that they are sorted by, under `member`.
    pub(super) fn answer(&self, member: &str, items: impl IntoIterator<Item = (String, Value)>) -> Value {
        let mut items: Vec<(String, Value)> = items.into_iter().collect();
        items.sort_by(|(a, _), (b, _)| a.cmp(b));
        let after = self.after.as_ref();
        let mut wanted = items.into_iter().skip_while(|(name, _)| after.is_some_and(|after| name <= after)).peekable();
        let mut page = Vec::new();
        let mut last = String::new();
        while page.len() < self.limit
            && let Some((name, item)) = wanted.next()
        {
            last = name;
            page.push(item);
        }
        let mut answer = Map::from_iter([(member.to_owned(), Value::Array(page))]);
        answer.insert("Truncated".to_owned(), Value::Bool(wanted.peek().is_some()));
        if wanted.peek().is_some() {
            let marker = BASE64URL_NOPAD.encode(format!("{}\n{last}", self.operation).as_bytes());
            answer.insert("NextMarker".to_owned(), Value::String(marker));
        }
        Value::Object(answer)
    }
}

fn read(marker: &str, operation: &str) -> Result<String, ApiError> {
    let bytes = BASE64URL_NOPAD.decode(marker.as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let after = text.as_deref().and_then(|text| text.strip_prefix(operation)?.strip_prefix('\n'));
    after.map(str::to_owned).ok_or_else(|| ApiError::new(Code::InvalidMarker, "Could not deserialize marker"))
}
