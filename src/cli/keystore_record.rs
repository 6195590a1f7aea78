//! The audit log of commands that change the keystore themselves, and not through the operations of the KMS.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::failure::Failure;
use super::kms_call::call_of_owner;
use crate::kms::audit::{Event, FOLDER, Log, Options};
use crate::kms::service::{ApiError, Code, LOCAL_REGION, key_arn, record_opening};
use crate::kms::{KeyId, Keystore};

/// Records what the keystore did by itself when it was opened. Nothing can take that back, so a log that cannot be written
/// only makes a note.
pub(super) fn opening(keystore: &Keystore) {
    if let Err(error) = record_opening(keystore) {
        eprintln!("kmsfs: note: {error}; what happened in the keystore by itself is not in the log");
    }
}

/// Makes a change, which answers the key that it is about, if it is about one, and records it as `operation` of the owner.
///
/// # Errors
/// If the log cannot be written nothing is changed; else those of the change.
pub(super) fn change(
    keystore: &mut Keystore,
    (operation, parameters): (&str, &Value),
    make: impl FnOnce(&mut Keystore) -> Result<Option<KeyId>, Failure>,
) -> Result<Option<KeyId>, Failure> {
    let log = Log::open(&keystore.dir().join(FOLDER), keystore.audit_keys(), Options::default())?;
    log.admit()?;
    let made = make(keystore);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let event = Event::of(&call_of_owner(), operation, now).with_parameters(parameters);
    log.record(match &made {
        Ok(Some(key)) => event.with_key(key_arn(LOCAL_REGION, key)),
        Ok(None) => event,
        Err(failure) => event.with_error(&ApiError::new(Code::KmsInternal, "").because(&*failure.text)),
    })?;
    made
}
