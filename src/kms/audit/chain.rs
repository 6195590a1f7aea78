//! The chain: every line carries an HMAC-SHA-256 over itself and over the MAC of the line before it.
//!
//! `MAC = HMAC(Expand(root key, "audit"), MAC of the line before | the line up to its member "mac")`. Only the root key makes
//! such a line, so none can be changed, put in, taken out or moved without breaking the chain at that place.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::Event;
use crate::crypto::{Secret, derive};

/// The MAC of a line.
pub(super) type Mac = [u8; 32];

/// What stands before the MAC in a line.
const BEFORE: &[u8] = b",\"mac\":\"";
/// What ends a line after the MAC, without the line feed.
const AFTER: &[u8] = b"\"}}";
const MAC_DIGITS: usize = 64;
const TAIL: usize = BEFORE.len() + MAC_DIGITS + AFTER.len();

const FILE_PREFIX: &str = "events-";
const FILE_SUFFIX: &str = ".jsonl";
/// No log has so many files. What has a higher number is none of them: counting on from there must not overflow.
pub(super) const MOST_FILES: u64 = 999_999_999_999;

/// The keys of an audit log.
#[derive(Debug)]
pub struct Keys {
    line: Secret<32>,
    anchor: Secret<32>,
}

impl Keys {
    /// The keys of the log of the keystore with this root key.
    pub fn derive(root: &Secret<32>) -> Self {
        Self { line: derive::audit_line_key(root), anchor: derive::audit_anchor_key(root) }
    }

    /// Appends the event that `write` writes as a line to `out`, linked to the line with the MAC `previous`; answers its MAC.
    pub(super) fn seal(
        &self,
        previous: &Mac,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>,
    ) -> serde_json::Result<Mac> {
        let start = out.len();
        write(out)?;
        debug_assert!(out.ends_with(b"}}"), "the member kmsfs is the last of an event");
        out.truncate(out.len() - 2);
        let mac = derive::hmac(&self.line, &[previous, &out[start..]]);
        end_line(&mac, out);
        Ok(mac)
    }

    /// The MAC of `line` (without its line feed), if it follows the line with the MAC `previous` and has this number.
    pub(super) fn check(&self, previous: &Mac, sequence: u64, line: &[u8]) -> Option<Mac> {
        let (body, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
        let digits = tail.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
        let mac = derive::hmac(&self.line, &[previous, body]);
        let is_right = HEXLOWER.encode(&mac).as_bytes() == digits;
        (is_right && body.ends_with(format!("\"sequence\":{sequence}").as_bytes())).then_some(mac)
    }

    /// The MAC of a file that is not a log: `kind` keeps the kinds apart.
    pub(super) fn seal_file(&self, kind: &str, text: &[u8]) -> Mac {
        derive::hmac(&self.anchor, &[kind.as_bytes(), b"\0", text])
    }
}

/// The place behind a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The number of the oldest file that is kept.
    pub(super) oldest: u64,
    /// The number of the file with the line; 0 before there is any.
    pub(super) file: u64,
    /// Where the line ends, in bytes.
    pub(super) length: u64,
    /// The number of the line; 0 before there is any.
    pub(super) sequence: u64,
    /// Its MAC.
    #[serde(with = "hex")]
    pub(super) mac: Mac,
}

impl Position {
    /// Where a new log begins.
    pub(super) const START: Self = Self { oldest: 1, file: 0, length: 0, sequence: 0, mac: [0; 32] };
}

/// What stands behind the lines that could be followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Clean,
    /// Something without a line feed: a line whose writing was cut short.
    Torn,
    /// A whole line that does not belong there.
    Broken,
}

/// Appends the end of the line with this MAC.
pub(super) fn end_line(mac: &Mac, out: &mut Vec<u8>) {
    out.extend_from_slice(BEFORE);
    out.extend_from_slice(HEXLOWER.encode(mac).as_bytes());
    out.extend_from_slice(AFTER);
    out.push(b'\n');
}

/// Follows the chain through `bytes`, which begin at `at`, and moves `at` behind the last line that fits. `seen` is shown each
/// such line.
pub(super) fn follow(keys: &Keys, at: &mut Position, bytes: &[u8], mut seen: impl FnMut(&Position, &[u8])) -> Rest {
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        let Some(mac) = keys.check(&at.mac, at.sequence + 1, line) else { return Rest::Broken };
        at.mac = mac;
        at.sequence += 1;
        at.length += end as u64 + 1;
        seen(at, line);
        rest = &rest[end + 1..];
    }
    if rest.is_empty() { Rest::Clean } else { Rest::Torn }
}

/// Where file `number` of the log in `dir` is.
pub(super) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{FILE_PREFIX}{number:08}{FILE_SUFFIX}"))
}

/// The numbers of the files of the log in `dir`, in order. None if there is no such directory.
pub(super) fn file_numbers(dir: &Path) -> std::io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX));
        // Only names that file_path makes.
        let number = digits.and_then(|digits| digits.parse().ok()).filter(|n| (1..=MOST_FILES).contains(n));
        numbers.extend(number.filter(|n| file_path(dir, *n).file_name() == Some(&name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The MAC that a file's first line says it follows, and the number of that line. Unchecked.
pub(super) fn claimed_start(first_line: &[u8]) -> Option<(Mac, u64)> {
    let event: Event = serde_json::from_slice(first_line).ok()?;
    let previous = HEXLOWER.decode(event.kmsfs.file?.previous.as_bytes()).ok()?;
    Some((previous.try_into().ok()?, event.kmsfs.sequence))
}

/// MACs as hexadecimal digits.
mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mac: &super::Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(mac))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<super::Mac, D::Error> {
        let bytes = HEXLOWER.decode(String::deserialize(deserializer)?.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("a MAC has 64 digits"))
    }
}
