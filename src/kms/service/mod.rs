//! The operations of AWS KMS, by name: JSON in, JSON out, as `kmsfs serve` and the command line speak them.
//!
//! This room turns a request into calls of the keystore and of the data plane. It refuses to know HTTP, signatures, sockets
//! and terminals.
//!
//! Invariants:
//! - every operation is authorised for the calling principal before anything else about the key is told;
//! - every use of a key, allowed or denied, is handed to the audit log;
//! - a change is durable before it is answered, and what follows it sees it;
//! - an error carries AWS's name and AWS's words; what the wire must not say is in its detail, for the owner's log.

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

pub use call::{Call, Source};
pub use error::{ApiError, Code};
pub use names::{LOCAL_REGION, key_arn};

use super::clock::now;
use super::control::NewKey;
use super::grant::TokenKey;
use super::{KeyManager, KeySet, Keystore, KeystoreError};
use asked::{Asked, Trace};
use catalog::{Entry, Run};
use params::Params;

/// The alias of the key that kmsfs looks after itself.
pub const SERVICE_ALIAS: &str = "alias/svc/kmsfs";

/// The KMS of a keystore that this process has open. Any number of threads may call it: the data plane works on a snapshot
/// of the keys, changes are made one after the other.
pub struct Service {
    keystore: Mutex<Keystore>,
    keys: RwLock<Arc<KeySet>>,
    // When something happens by itself next, in unix seconds.
    due: AtomicU64,
    tokens: TokenKey,
}

impl Service {
    /// A service over an open keystore.
    pub fn new(keystore: Keystore) -> Self {
        let keys = keystore.keys();
        let due = AtomicU64::new(keys.next_event().unwrap_or(u64::MAX));
        let tokens = keystore.grant_token_key();
        Self { keystore: Mutex::new(keystore), keys: RwLock::new(keys), due, tokens }
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
    pub fn call(&self, call: &Call<'_>, operation: &str, params: Value) -> Result<Value, ApiError> {
        let Some(entry) = catalog::find(operation) else {
            return Err(if catalog::UNSUPPORTED.contains(&operation) {
                ApiError::new(Code::UnsupportedOperation, format!("{operation} is not supported."))
            } else {
                ApiError::new(Code::UnknownOperation, "")
            });
        };
        let mut trace = Trace::default();
        self.answer(call, entry, &params, &mut trace)
    }

    fn answer(
        &self,
        call: &Call<'_>,
        entry: &'static Entry,
        params: &Value,
        trace: &mut Trace,
    ) -> Result<Value, ApiError> {
        let params = Params::of(params)?;
        let now = now();
        if self.due.load(Ordering::Acquire) <= now {
            self.with_keystore(Keystore::catch_up);
        }
        if names_service_key(entry, &params) {
            self.make_service_key()?;
        }
        let mut asked =
            Asked { call, entry, keys: self.keys(), tokens: &self.tokens, now, trace: std::mem::take(trace) };
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

    /// Makes the service managed key, if there is none: it is made when somebody first uses it.
    fn make_service_key(&self) -> Result<(), ApiError> {
        if self.keys().alias(SERVICE_ALIAS).is_some() {
            return Ok(());
        }
        self.with_keystore(|keystore| {
            if keystore.keys().alias(SERVICE_ALIAS).is_some() {
                return Ok(());
            }
            let description = "Protects what kmsfs itself keeps when no other key is named";
            let new = NewKey {
                manager: KeyManager::Service,
                rotation: Some(rotation::yearly(now())),
                alias: Some(SERVICE_ALIAS),
                ..NewKey::described(description)
            };
            keystore.create_cmk(new).map(|_| ()).map_err(ApiError::from)
        })
    }
}

/// Whether a request names the service managed key where that may be the first use of it.
fn names_service_key(entry: &Entry, params: &Params<'_>) -> bool {
    let uses = matches!(entry.run, Run::Read(_)) && !entry.name.starts_with("List");
    uses && ["KeyId", "DestinationKeyId"].iter().any(|name| params.mentions(name, SERVICE_ALIAS))
}

impl From<KeystoreError> for ApiError {
    /// Faults of the machine: the client may try again, the owner is told more.
    fn from(error: KeystoreError) -> Self {
        let (code, message) = match &error {
            KeystoreError::Kms(super::KmsError::NotFound(_)) => (Code::NotFound, error.to_string()),
            KeystoreError::TooManyVersions(_) => (Code::LimitExceeded, "Too many versions of key material.".to_owned()),
            _ => (Code::KmsInternal, String::new()),
        };
        Self::new(code, message).because(error.to_string())
    }
}
