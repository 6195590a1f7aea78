//! The operations of AWS KMS, by name: JSON in, JSON out, as `kmsfs serve` and the command line speak them.
//!
//! This room turns a request into calls of the keystore and of the data plane. It refuses to know HTTP, signatures, sockets
//! and terminals.
//!
//! Invariants:
//! - every operation is authorised for the calling principal before anything is told about what it names, but that it is not
//!   there: who names a key, an alias or a grant learns that, as from AWS, and who brings a ciphertext learns not even that;
//! - every use of a key, allowed or denied, is handed to the audit log;
//! - a change is durable before it is answered, and what follows it sees it;
//! - an error carries AWS's name and AWS's words; what the wire must not say is in its detail, for the owner's log.

mod access_keys;
mod aliases;
mod asked;
mod call;
mod catalog;
mod crypt;
mod data;
mod data_key_pairs;
mod error;
mod grants;
mod keys;
mod last_usage;
mod looks;
mod names;
mod page;
mod params;
mod policies;
mod re_encrypt;
mod rotation;
mod tags;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use zeroize::Zeroize;

pub use call::{Call, Source};
pub use error::{ApiError, Code};
pub use names::{LOCAL_REGION, key_arn};

use super::audit::{AuditError, Event, FOLDER, Log, Options};
use super::authorize::authorize;
use super::clock::now;
use super::control::NewKey;
use super::grant::TokenKey;
use super::policy::{ConditionKeys, Key, Policy, Request};
use super::{KeyId, KeyManager, KeySet, Keystore, KeystoreError, Operation};
use asked::{Asked, Trace};
use catalog::{Entry, Run};
use params::Params;

/// The alias of the key that kmsfs looks after itself.
pub const SERVICE_ALIAS: &str = "alias/svc/kmsfs";

/// The operations that only compute.
const QUICK: &[&str] = &[
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateRandom",
    "ReEncrypt",
];

/// How long what is due and could not be done is left, in seconds.
const RETRY: u64 = 60;

/// The KMS of a keystore that this process has open. Any number of threads may call it: the data plane works on a snapshot
/// of the keys, changes are made one after the other.
pub struct Service {
    keystore: Mutex<Keystore>,
    keys: RwLock<Arc<KeySet>>,
    // When something happens by itself next, in unix seconds.
    due: AtomicU64,
    tokens: TokenKey,
    log: Log,
}

impl Service {
    /// A service over an open keystore, with its audit log: that is a thread, so a process goes into the background before.
    ///
    /// # Errors
    /// [`AuditError`] if the log cannot be opened.
    pub fn new(keystore: Keystore, options: Options) -> Result<Self, AuditError> {
        let log = Log::open(&keystore.dir().join(FOLDER), keystore.audit_keys(), options)?;
        let keys = keystore.keys();
        let due = AtomicU64::new(keys.next_event().unwrap_or(u64::MAX));
        let tokens = keystore.grant_token_key();
        record_own(&log, "DeleteKey", keystore.deleted());
        record_own(&log, "RotateKey", keystore.rotated());
        Ok(Self { keystore: Mutex::new(keystore), keys: RwLock::new(keys), due, tokens, log })
    }

    /// Whether the operation of this name changes the keystore.
    pub fn is_change(operation: &str) -> bool {
        catalog::find(operation).is_some_and(|entry| matches!(entry.run, Run::Change(_)))
    }

    /// Whether a request may take longer than some microseconds: most operations do, and all wait while something is due or
    /// the audit log has little room.
    pub fn may_wait(&self, operation: &str) -> bool {
        !QUICK.contains(&operation) || self.due.load(Ordering::Acquire) <= now() || self.log.is_crowded()
    }

    /// The audit log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The keys as they are now.
    pub fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read())
    }

    /// Works with the keystore itself, alone; what it changes is in force for all requests afterwards.
    pub fn with_keystore<T>(&self, work: impl FnOnce(&mut Keystore) -> T) -> T {
        let mut keystore = self.keystore.lock();
        let done = work(&mut keystore);
        self.publish(&keystore);
        done
    }

    fn publish(&self, keystore: &Keystore) {
        let keys = keystore.keys();
        self.due.store(keys.next_event().unwrap_or(u64::MAX), Ordering::Release);
        *self.keys.write() = keys;
    }

    /// Answers one request.
    ///
    /// # Errors
    /// As AWS KMS does, by name and text.
    pub fn call(&self, call: &Call<'_>, operation: &str, mut params: Value) -> Result<Value, ApiError> {
        let answer = self.recorded(call, operation, &params);
        wipe(&mut params);
        answer
    }

    fn recorded(&self, call: &Call<'_>, operation: &str, params: &Value) -> Result<Value, ApiError> {
        let time = now();
        let Some(entry) = catalog::find(operation) else {
            // As in CloudTrail: what AWS KMS has is recorded, what no KMS has is not.
            if !catalog::UNSUPPORTED.contains(&operation) {
                return Err(ApiError::new(Code::UnknownOperation, ""));
            }
            let error = ApiError::new(Code::UnsupportedOperation, format!("{operation} is not supported."));
            self.record(Event::of(call, operation, time).with_parameters(params).with_error(&error))?;
            return Err(error);
        };
        if matches!(entry.run, Run::Change(_)) {
            self.log.admit().map_err(|error| unrecorded(&error))?;
        }
        let mut trace = Trace::default();
        let answer = self.answer(call, entry, (params, time), &mut trace);
        let mut event = Event::of(call, entry.name, time).with_parameters(params);
        event.read_only = matches!(entry.run, Run::Read(_));
        for arn in trace.keys {
            event = event.with_key(arn);
        }
        if let Some(material) = &trace.material {
            event = event.with_material(material);
        }
        if let Some(reason) = trace.reason {
            event = event.because(reason);
        }
        event = match &answer {
            Ok(answer) => event.with_response(answer),
            Err(error) => event.with_error(error),
        };
        self.record(event)?;
        answer
    }

    fn record(&self, event: Event) -> Result<(), ApiError> {
        self.log.record(event).map_err(|error| unrecorded(&error))
    }

    fn answer(
        &self,
        call: &Call<'_>,
        entry: &'static Entry,
        (params, now): (&Value, u64),
        trace: &mut Trace,
    ) -> Result<Value, ApiError> {
        let params = Params::of(params)?;
        self.catch_up(now);
        if names_service_key(entry, &params) && may_make_service_key(call, entry, now) {
            self.make_service_key()?;
        }
        let trace_so_far = std::mem::take(trace);
        let mut asked =
            Asked { call, entry, keys: self.keys(), tokens: &self.tokens, log: &self.log, now, trace: trace_so_far };
        let answer = match entry.run {
            Run::Read(run) => run(&mut asked, &params),
            Run::Change(run) => self.with_keystore(|keystore| {
                // Nothing changes between what is looked at and what is done.
                asked.keys = keystore.keys();
                run(&mut asked, &params, keystore)
            }),
        };
        *trace = asked.trace;
        answer
    }

    /// Does what is due: rotations, and deletions whose date has passed. One request does, and the others go on. What
    /// cannot be done now, on a full disk, is tried again after a while. Nor is it done while it could not be recorded: a key is out
    /// of use from its date on, and the older version of a key still wraps.
    fn catch_up(&self, now: u64) {
        let (due, later) = (self.due.load(Ordering::Acquire), now.saturating_add(RETRY));
        if due > now || self.due.compare_exchange(due, later, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        if let Err(error) = self.log.admit() {
            return log::warn!("{error}; rotations and deletions that are due wait for that");
        }
        let (deleted, rotated) = self.with_keystore(|keystore| {
            let before = (keystore.deleted().len(), keystore.rotated().len());
            keystore.catch_up();
            (keystore.deleted()[before.0..].to_vec(), keystore.rotated()[before.1..].to_vec())
        });
        // If there is still something due, it could not be done.
        let put_off = |due| (due <= now).then_some(later);
        let _ = self.due.fetch_update(Ordering::AcqRel, Ordering::Acquire, put_off);
        // With the keystore free again: the log may keep one waiting.
        record_own(&self.log, "DeleteKey", &deleted);
        record_own(&self.log, "RotateKey", &rotated);
    }

    /// Makes the service managed key, if there is none: it is made when somebody first uses it.
    fn make_service_key(&self) -> Result<(), ApiError> {
        if self.keys().alias(SERVICE_ALIAS).is_some() {
            return Ok(());
        }
        let made = self.with_keystore(|keystore| {
            if keystore.keys().alias(SERVICE_ALIAS).is_some() {
                return Ok(None);
            }
            self.log.admit().map_err(|error| unrecorded(&error))?;
            let description = "Protects what kmsfs itself keeps when no other key is named";
            let new = NewKey {
                manager: KeyManager::Service,
                rotation: Some(rotation::yearly(now())),
                alias: Some(SERVICE_ALIAS),
                ..NewKey::described(description)
            };
            keystore.create_cmk(new).map(Some).map_err(ApiError::from)
        })?;
        record_own(&self.log, "CreateKey", made.as_slice());
        Ok(())
    }
}

/// Records what a keystore did by itself when it was opened, for who makes no [`Service`] of it: rotations, and deletions
/// whose date has passed. There is no log, and no thread of one, afterwards.
///
/// # Errors
/// [`AuditError`] if it is not on the disk.
pub fn record_opening(keystore: &Keystore) -> Result<(), AuditError> {
    if keystore.deleted().is_empty() && keystore.rotated().is_empty() {
        return Ok(());
    }
    let log = Log::open(&keystore.dir().join(FOLDER), keystore.audit_keys(), Options::default())?;
    record_own(&log, "DeleteKey", keystore.deleted());
    record_own(&log, "RotateKey", keystore.rotated());
    log.flush()
}

/// Whether AWS KMS or kmsfs has an operation of this name: requests for others have no line in the audit log.
pub fn is_known(operation: &str) -> bool {
    catalog::find(operation).is_some() || catalog::UNSUPPORTED.contains(&operation)
}

/// Wipes the texts of a request or an answer: a plaintext or a key may be among them.
pub fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Records what the service did by itself.
fn record_own(log: &Log, name: &'static str, keys: &[KeyId]) {
    for key in keys {
        let event = Event::of_service(name, now()).with_key(key_arn(LOCAL_REGION, key));
        if let Err(error) = log.record(event) {
            log::warn!("{error}; {name} of {} is not in it", key.0);
        }
    }
}

fn unrecorded(error: &AuditError) -> ApiError {
    ApiError::new(Code::KmsInternal, "").because(error.to_string())
}

/// Whether a request names the service managed key where that may be the first use of it.
fn names_service_key(entry: &Entry, params: &Params<'_>) -> bool {
    let uses = matches!(entry.needs, Operation::Wrap | Operation::Unwrap) || entry.name == "DescribeKey";
    uses && ["KeyId", "DestinationKeyId"].iter().any(|name| params.mentions(name, SERVICE_ALIAS))
}

/// Whether the policy that the service managed key will have lets this request use it: who may not must not have it made either.
fn may_make_service_key(call: &Call<'_>, entry: &Entry, now: u64) -> bool {
    let keys = ConditionKeys::at(now).with_some(Key::ViaService, call.via_service.map(str::to_owned));
    let action = format!("kms:{}", entry.name);
    let request = Request { principal: call.principal, action: &action, resource: "*", keys: &keys };
    authorize(&Policy::mount_default(), [], &request).allowed
}

impl From<KeystoreError> for ApiError {
    /// Faults of the machine: the client may try again, the owner is told more.
    fn from(error: KeystoreError) -> Self {
        let (code, message) = match &error {
            KeystoreError::Kms(super::KmsError::NotFound(_)) => (Code::NotFound, error.to_string()),
            KeystoreError::NewestVersion { .. }
            | KeystoreError::NoSuchVersion { .. }
            | KeystoreError::VersionDestroyed { .. } => (Code::Validation, error.to_string()),
            KeystoreError::TooManyVersions(_) => (Code::LimitExceeded, "Too many versions of key material.".to_owned()),
            KeystoreError::Unexplained(_) => (Code::Validation, error.to_string()),
            KeystoreError::TooLarge => (Code::LimitExceeded, "The keystore is full.".to_owned()),
            _ => (Code::KmsInternal, String::new()),
        };
        Self::new(code, message).because(error.to_string())
    }
}
