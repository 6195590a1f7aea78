//! Small files beside the log, sealed by an HMAC and replaced as a whole: the anchor and the last uses.
//!
//! `JSON | line feed | 64 hexadecimal digits of HMAC(Expand(root key, "anchor"), kind | 0x00 | JSON) | line feed`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chain::Keys;
use super::{AuditError, Problem};
use crate::kms::bundle_file;

/// Replaces the file `kind` in `dir`, durably.
pub(super) fn save<T: Serialize>(dir: &Path, kind: &str, keys: &Keys, value: &T) -> Result<(), AuditError> {
    let path = dir.join(kind);
    let failed = |source| AuditError::Io { action: "write", path: path.clone(), source };
    let mut text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let mac = keys.seal_file(kind, &text);
    text.push(b'\n');
    text.extend_from_slice(HEXLOWER.encode(&mac).as_bytes());
    text.push(b'\n');
    bundle_file::replace_copy(&path, &text)?;
    give_to_owner(dir, &path);
    Ok(())
}

/// Gives `path`, which root may have made, to whoever owns `dir`: a mount of root's must not lock the owner of a keystore out of
/// their own log.
pub(super) fn give_to_owner(dir: &Path, path: &Path) {
    let give = || {
        let (owner, made) = (fs::metadata(dir)?, fs::metadata(path)?);
        let is_theirs = (owner.uid(), owner.gid()) == (made.uid(), made.gid());
        if is_theirs { Ok(()) } else { chown(path, Some(owner.uid()), Some(owner.gid())) }
    };
    if let Err(error) = give() {
        log::debug!("{} stays with who made it: {error}", path.display());
    }
}

/// Reads the file `kind` in `dir`. `None` if it is not there.
///
/// # Errors
/// [`Problem::Unreadable`] or [`Problem::Forged`].
pub(super) fn load<T: DeserializeOwned>(dir: &Path, kind: &str, keys: &Keys) -> Result<Option<T>, Problem> {
    let text = match fs::read(dir.join(kind)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
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
