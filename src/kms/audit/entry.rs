//! What waits to become a line: an event, or a use that differs from many others in little.
//!
//! The events of a mount are alike: for one user, key and directory only time, thread, path and the ids differ. A
//! [`Pattern`] has the text of the rest, made once.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::event::{Weight, rfc3339};
use super::{Detail, Event};
use crate::kms::KeyId;

/// What uses have in common, as pieces of their lines.
#[derive(Debug)]
pub struct Pattern {
    /// The line up to the text of the time.
    until_time: String,
    /// From there to the text of the event's id.
    until_id: String,
    /// From there to the member `kmsfs`.
    until_detail: String,
    detail: Detail,
    weight: Weight,
    last_use: Option<(Cow<'static, str>, Vec<KeyId>)>,
}

impl Pattern {
    /// The pattern of uses like `event`: time, process and path are each use's own.
    ///
    /// # Errors
    /// If `event` cannot be JSON.
    pub fn of(mut event: Event) -> serde_json::Result<Self> {
        // Drawn here, so that it stands nowhere else in the line.
        event.event_id = Uuid::new_v4();
        let (line, detail) = (serde_json::to_string(&event)?, serde_json::to_string(&event.kmsfs)?);
        let (time, id) = (rfc3339::text(event.event_time), event.event_id.to_string());
        let pieces = || {
            // The only member of this name before the request's own texts, in which a quote has a backslash.
            let (until_time, rest) = line.split_once(&format!("\"eventTime\":\"{time}"))?;
            let (until_id, rest) = rest.split_once(&id)?;
            // The last member, and the brace after it.
            let until_detail = rest.strip_suffix('}')?.strip_suffix(&*detail)?;
            Some((format!("{until_time}\"eventTime\":\""), until_id.to_owned(), until_detail.to_owned()))
        };
        let odd = || serde::ser::Error::custom("an event has its members in an unknown order");
        let (until_time, until_id, until_detail) = pieces().ok_or_else(odd)?;
        let weight = event.weight();
        let last_use = event.is_use().then(|| (event.event_name.clone(), event.keys().collect()));
        Ok(Self { until_time, until_id, until_detail, detail: event.kmsfs, weight, last_use })
    }
}

/// The members of [`Detail`] that a use has, in its order.
#[derive(Serialize)]
struct UseDetail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    sequence: u64,
}

/// The text of the time of the line before: most lines have the same.
#[derive(Debug, Default)]
pub(super) struct Moment {
    time: u64,
    text: String,
}

impl Moment {
    fn text(&mut self, time: u64) -> &str {
        if self.text.is_empty() || self.time != time {
            *self = Self { time, text: rfc3339::text(time) };
        }
        &self.text
    }
}

/// One use like others.
#[derive(Debug)]
pub struct PatternUse {
    /// What it has in common with them.
    pub pattern: Arc<Pattern>,
    /// When, in unix seconds.
    pub time: u64,
    /// The thread that asked.
    pub pid: u32,
    /// The plain path in the volume.
    pub path: Option<String>,
}

#[derive(Debug)]
enum Content {
    Event(Box<Event>),
    Use { used: PatternUse, id: Uuid },
}

/// What waits to become a line.
#[derive(Debug)]
pub(super) struct Entry(Content);

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Self(Content::Event(Box::new(event)))
    }
}

impl From<PatternUse> for Entry {
    fn from(used: PatternUse) -> Self {
        Self(Content::Use { used, id: Uuid::nil() })
    }
}

impl Entry {
    pub(super) fn weight(&self) -> Weight {
        match &self.0 {
            Content::Event(event) => event.weight(),
            Content::Use { used, .. } => used.pattern.weight,
        }
    }

    /// In unix seconds.
    pub(super) fn time(&self) -> u64 {
        match &self.0 {
            Content::Event(event) => event.event_time,
            Content::Use { used, .. } => used.time,
        }
    }

    /// How many uses it stands for.
    pub(super) fn count(&self) -> u64 {
        match &self.0 {
            Content::Event(event) => event.kmsfs.repeated.map_or(1, |repeated| repeated.count),
            Content::Use { .. } => 1,
        }
    }

    pub(super) fn id(&self) -> Uuid {
        match &self.0 {
            Content::Event(event) => event.event_id,
            Content::Use { id, .. } => *id,
        }
    }

    pub(super) fn set_id(&mut self, new: Uuid) {
        match &mut self.0 {
            Content::Event(event) => event.event_id = new,
            Content::Use { id, .. } => *id = new,
        }
    }

    /// The operation, its keys and when they were used last, if it counts as a use of them.
    pub(super) fn last_use(&self) -> Option<(&str, Cow<'_, [KeyId]>, u64)> {
        match &self.0 {
            Content::Event(event) => {
                let time = event.kmsfs.repeated.map_or(event.event_time, |repeated| repeated.last);
                event.is_use().then(|| (&*event.event_name, Cow::Owned(event.keys().collect()), time))
            }
            Content::Use { used, .. } => {
                let (operation, keys) = used.pattern.last_use.as_ref()?;
                Some((operation, Cow::Borrowed(keys), used.time))
            }
        }
    }

    /// Appends it as JSON, with its number.
    pub(super) fn write(&mut self, sequence: u64, moment: &mut Moment, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match &mut self.0 {
            Content::Event(event) => {
                event.kmsfs.sequence = sequence;
                serde_json::to_writer(out, event)
            }
            Content::Use { used, id } => {
                let PatternUse { pattern, time, pid, path } = used;
                out.extend_from_slice(pattern.until_time.as_bytes());
                out.extend_from_slice(moment.text(*time).as_bytes());
                out.extend_from_slice(pattern.until_id.as_bytes());
                out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
                out.extend_from_slice(pattern.until_detail.as_bytes());
                let Detail { uid, volume, reason, .. } = &pattern.detail;
                let path = path.as_deref();
                let detail =
                    UseDetail { uid: *uid, pid: *pid, volume: *volume, path, reason: reason.as_deref(), sequence };
                serde_json::to_writer(&mut *out, &detail)?;
                out.push(b'}');
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::Principal;
    use crate::kms::service::{Call, Source};

    fn event(user: &str, time: u64, pid: u32, path: Option<&str>) -> Event {
        let principal = Principal::user(user);
        let call = Call {
            principal: &principal,
            access_key: None,
            region: "local",
            source: Source::Process(pid),
            via_service: Some("kmsfs.local"),
            user_agent: "\"eventTime\":\"",
            request_id: Uuid::nil(),
        };
        let hostile = serde_json::json!({
            "eventTime": "1970-01-01T00:00:00Z", "eventID": "x", "kmsfs": {"sequence": 1}, "\"eventID\":\"": "}}",
        });
        let volume = Uuid::from_u128(3);
        Event::of(&call, "Decrypt", time)
            .with_parameters(&serde_json::json!({ "EncryptionContext": hostile }))
            .with_key("arn:aws:kms:local:000000000000:key/1")
            .because("a \"reason\" }}")
            .by_uid(1000)
            .in_volume(volume, path.map(str::to_owned))
    }

    #[test]
    fn a_use_makes_the_same_line_as_its_event() {
        for user in ["ada", "\"eventTime\":\"1970-01-01T00:00:00Z", "\u{e4}\n\\\"}}"] {
            let pattern = Arc::new(Pattern::of(event(user, 5, 77, Some("/other"))).unwrap());
            for (time, path) in [(1_700_000_000, Some("/a \"b\"\n")), (1_700_000_000, None), (9, Some("/"))] {
                let path_of_use = path.map(str::to_owned);
                let used = PatternUse { pattern: Arc::clone(&pattern), time, pid: 42, path: path_of_use };
                let mut entries = [Entry::from(used), Entry::from(event(user, time, 42, path))];
                let [of_use, of_event] = entries.each_mut().map(|entry| {
                    entry.set_id(Uuid::from_u128(8));
                    let (mut line, mut moment) = (Vec::new(), Moment::default());
                    entry.write(12, &mut moment, &mut line).unwrap();
                    String::from_utf8(line).unwrap()
                });
                assert_eq!(of_use, of_event);
                let [of_use, of_event] = &entries;
                assert_eq!(of_use.last_use(), of_event.last_use());
                assert!(of_use.last_use().is_some());
                assert_eq!((of_use.time(), of_use.count()), (of_event.time(), of_event.count()));
            }
        }
    }
}
