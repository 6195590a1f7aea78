//! Reads a log, without its keys: what is printed here has not been verified.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::chain::{file_numbers, file_path};
use super::{AuditError, Event};
use crate::kms::KeyId;

/// How many events may be out of order: writers append in batches, and a batch may have waited for room on the disk.
const WINDOW: usize = 16 * 1024;

/// Which events to show. What is `None` or empty allows all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The id of a key, its ARN, or an alias. An alias finds requests that named it; see [`learn_alias`]. The region of
    /// an ARN does not count.
    pub key: Option<String>,
    /// Further ids that count as `key`.
    pub key_ids: BTreeSet<KeyId>,
    /// A user's name, uid or ARN; `root` is the owner of the keystore.
    pub user: Option<String>,
    /// A plain path in a volume, with everything below it.
    pub path: Option<String>,
    /// A volume.
    pub volume: Option<Uuid>,
    /// Not before, in unix seconds.
    pub since: Option<u64>,
    /// Not after, in unix seconds.
    pub until: Option<u64>,
    /// Only what was denied or failed (`true`), or only what was allowed.
    pub denied: Option<bool>,
    /// An operation, by AWS's name in any case.
    pub operation: Option<String>,
}

impl Filter {
    /// Whether an event is to be shown.
    pub fn shows(&self, event: &Event) -> bool {
        let detail = &event.kmsfs;
        // A line for several uses stands for a span of time.
        let first = detail.repeated.map_or(event.event_time, |repeated| repeated.first);
        self.since.is_none_or(|since| event.event_time >= since)
            && self.until.is_none_or(|until| first <= until)
            && self.denied.is_none_or(|denied| event.is_denied() == denied)
            && self.volume.is_none_or(|volume| detail.volume == Some(volume))
            && self.operation.as_ref().is_none_or(|operation| event.event_name.eq_ignore_ascii_case(operation))
            && self.user.as_ref().is_none_or(|user| is_by(event, user))
            && self.path.as_ref().is_none_or(|path| detail.path.as_ref().is_some_and(|found| is_below(found, path)))
            && self.key.as_ref().is_none_or(|key| self.is_about(event, key))
    }

    fn is_about(&self, event: &Event, key: &str) -> bool {
        // One key has an ARN in every region.
        let key = key.rsplit_once(":key/").map_or(key, |(_, id)| id);
        let key = key.rfind(":alias/").map_or(key, |at| &key[at + 1..]);
        event.keys().any(|id| id.0 == key || self.key_ids.contains(&id))
            || names(event)
                .any(|name| name == key || name.rsplit_once(":alias/").is_some_and(|(_, n)| is_alias(key, n)))
    }
}

fn is_alias(key: &str, name: &str) -> bool {
    key.strip_prefix("alias/") == Some(name)
}

/// The names of keys in a request, as they were sent.
fn names(event: &Event) -> impl Iterator<Item = &str> {
    const MEMBERS: [&str; 5] = ["keyId", "aliasName", "targetKeyId", "sourceKeyId", "destinationKeyId"];
    MEMBERS.iter().filter_map(|member| event.request_parameters.as_ref()?.get(member)?.as_str())
}

fn is_by(event: &Event, user: &str) -> bool {
    let identity = &event.user_identity;
    let is_root = identity.kind == "Root" && user == "root";
    let is_named = identity.user_name.as_deref() == Some(user) || identity.arn.as_deref() == Some(user);
    is_root || is_named || event.kmsfs.uid.is_some_and(|uid| uid.to_string() == user)
}

/// Whether `path` is `top` or below it. Both may begin with a slash or not.
fn is_below(path: &str, top: &str) -> bool {
    let (path, top) = (path.trim_start_matches('/'), top.trim_matches('/'));
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || top.is_empty())
}

/// The keys that the alias has led to, as far as the log tells.
///
/// # Errors
/// [`AuditError::Io`].
pub fn learn_alias(dir: &Path, alias: &str) -> Result<BTreeSet<KeyId>, AuditError> {
    let filter = Filter { key: Some(alias.to_owned()), ..Filter::default() };
    let mut ids = BTreeSet::new();
    Reader::new(dir).read(|_, event| {
        // A request about two keys does not say which of them the alias is.
        if event.resources.len() == 1 && filter.shows(&event) {
            ids.extend(event.keys());
        }
        true
    })?;
    Ok(ids)
}

/// Reads a log line by line, over all its files, and goes on where it stopped.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    file: u64,
    offset: u64,
    /// Whole lines that are no events.
    pub unreadable: u64,
}

impl Reader {
    /// From the oldest file on.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), file: 0, offset: 0, unreadable: 0 }
    }

    /// Shows every whole line that it has not shown before to `show`, which answers whether it wants more.
    ///
    /// # Errors
    /// [`AuditError::Io`].
    pub fn read(&mut self, mut show: impl FnMut(&str, Event) -> bool) -> Result<(), AuditError> {
        let numbers = file_numbers(&self.dir).map_err(AuditError::io("read the folder", &self.dir))?;
        let reached = self.file;
        for number in numbers.into_iter().filter(|number| *number >= reached) {
            if number > self.file {
                (self.file, self.offset) = (number, 0);
            }
            let path = file_path(&self.dir, number);
            let file = match File::open(&path) {
                // Outgrown a moment ago.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file.map_err(AuditError::io("open", &path))?,
            };
            if !self.read_file(file, &mut show).map_err(AuditError::io("read", &path))? {
                break;
            }
        }
        Ok(())
    }

    fn read_file(&mut self, mut file: File, show: &mut impl FnMut(&str, Event) -> bool) -> std::io::Result<bool> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut file = BufReader::with_capacity(256 * 1024, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = file.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Ok(true);
            }
            self.offset += length as u64;
            let text = std::str::from_utf8(&line).ok();
            match text.and_then(|text| Some((text, serde_json::from_str::<Event>(text).ok()?))) {
                Some((text, event)) => {
                    if !show(text, event) {
                        return Ok(false);
                    }
                }
                None => self.unreadable += 1,
            }
        }
    }
}

/// Puts events into the order of their times, those of one second into the order of the log.
#[derive(Default)]
pub struct InTimeOrder {
    waiting: BinaryHeap<Reverse<(u64, u64, String)>>,
}

impl InTimeOrder {
    /// Takes an event and its line; answers the line that is next, once enough are waiting.
    pub fn push(&mut self, event: &Event, line: &str) -> Option<String> {
        self.waiting.push(Reverse((event.event_time, event.kmsfs.sequence, line.to_owned())));
        if self.waiting.len() > WINDOW { self.pop() } else { None }
    }

    /// The next line of those that are waiting.
    pub fn pop(&mut self) -> Option<String> {
        self.waiting.pop().map(|Reverse((_, _, line))| line)
    }
}
