//! Contract tests of the operations: what AWS KMS answers, byte for byte where that is known.

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::kms::{ACCOUNT, Principal, UnlockSecret};

mod basics;
mod control;
mod data;
mod grants;
mod rotation;
mod states;

const REGION: &str = "eu-central-1";

/// A service over a fresh keystore that only its recovery key opens, for speed.
struct Fixture {
    home: TempDir,
    recovery: UnlockSecret,
    service: Service,
}

impl Fixture {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (keystore, recovery) = Keystore::create(&home.path().join("ks"), &[], 1).unwrap();
        Self {
            service: Service::new(keystore, Options::default()).unwrap(),
            home,
            recovery: UnlockSecret::RecoveryKey(recovery),
        }
    }

    /// As if the process had ended and another one had opened the keystore.
    fn reopened(self) -> Self {
        let Self { home, recovery, service } = self;
        drop(service);
        let keystore = Keystore::open(&home.path().join("ks")).unwrap().unlock(&recovery).unwrap();
        Self { service: Service::new(keystore, Options::default()).unwrap(), home, recovery }
    }

    fn call_as(&self, principal: &Principal, operation: &str, params: Value) -> Result<Value, ApiError> {
        let call = Call {
            principal,
            access_key: None,
            region: REGION,
            source: Source::Process(1),
            via_service: None,
            user_agent: "test",
            request_id: Uuid::nil(),
        };
        self.service.call(&call, operation, params)
    }

    /// A request of the owner.
    fn call(&self, operation: &str, params: Value) -> Result<Value, ApiError> {
        self.call_as(&Principal::Root, operation, params)
    }

    #[track_caller]
    fn ok(&self, operation: &str, params: Value) -> Value {
        self.call(operation, params).unwrap_or_else(|error| panic!("{operation}: {error} ({:?})", error.detail))
    }

    /// The name and the text of the error.
    #[track_caller]
    fn refused(&self, operation: &str, params: Value) -> (Code, String) {
        let error = self.call(operation, params).expect_err(operation);
        (error.code, error.message)
    }

    /// A new symmetric key's id.
    fn key(&self) -> String {
        self.key_with(json!({}))
    }

    fn key_with(&self, params: Value) -> String {
        text(&self.ok("CreateKey", params)["KeyMetadata"]["KeyId"])
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

fn arn(id: &str) -> String {
    format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}")
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

fn bytes(value: &Value) -> Vec<u8> {
    data_encoding::BASE64.decode(text(value).as_bytes()).unwrap()
}
