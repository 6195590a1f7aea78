//! Small files beside the log, sealed by an HMAC and replaced as a whole: the anchor and the last uses.
//!
//! `JSON | line feed | 64 hexadecimal digits of HMAC(Expand(root key, "anchor"), kind | 0x00 | JSON) | line feed`.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chain::Keys;
use super::{AuditError, Problem, files};

/// Replaces the file `kind` in `dir`, durably.
pub(super) fn save<T: Serialize>(dir: &Path, kind: &str, keys: &Keys, value: &T) -> Result<(), AuditError> {
    let path = dir.join(kind);
    let failed = |source| AuditError::Io { action: "write", path: path.clone(), source };
    let mut text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let mac = keys.seal_file(kind, &text);
    text.push(b'\n');
    text.extend_from_slice(HEXLOWER.encode(&mac).as_bytes());
    text.push(b'\n');
    files::replace(dir, &path, &text).map_err(failed)
}

/// Reads the file `kind` in `dir`. `None` if it is not there.
///
/// # Errors
/// [`Problem::Unreadable`] or [`Problem::Forged`].
pub(super) fn load<T: DeserializeOwned>(dir: &Path, kind: &str, keys: &Keys) -> Result<Option<T>, Problem> {
    let path = dir.join(kind);
    let read = || {
        let mut text = Vec::new();
        files::open(dir, &path, OpenOptions::new().read(true))?.read_to_end(&mut text)?;
        Ok(text)
    };
    let text = match read() {
        Err(error) if io::Error::kind(&error) == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Problem::Unreadable(error)),
        Ok(text) => text,
    };
    let open = || {
        let lines = text.strip_suffix(b"\n")?;
        let (json, digits) = lines.split_at(lines.iter().position(|byte| *byte == b'\n')?);
        let is_right = HEXLOWER.encode(&keys.seal_file(kind, json)).as_bytes() == &digits[1..];
        if is_right { serde_json::from_slice(json).ok() } else { None }
    };
    open().map(Some).ok_or(Problem::Forged)
}
