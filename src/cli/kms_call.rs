//! Operations of the KMS: through the server that holds the keystore open, or on the keystore itself.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::kms_show::all_pages;
use crate::kms::api::Client;
use crate::kms::audit::Options;
use crate::kms::service::{ApiError, Call, Code as ApiCode, LOCAL_REGION, Service, Source};
use crate::kms::{Keystore, Principal, UnlockSecret};

/// The KMS of a keystore, for as many operations as a command needs.
pub(super) enum Kms {
    /// A running server has it open.
    Server(Box<Client>),
    /// This process has.
    Here(Box<Service>),
}

/// A request of this command, as policies and the audit log see it: of the owner, because who unlocks a keystore has all of it.
pub(super) fn call_of_owner() -> Call<'static> {
    Call {
        principal: &Principal::Root,
        access_key: None,
        region: LOCAL_REGION,
        source: Source::Process(std::process::id()),
        via_service: None,
        user_agent: concat!("kmsfs/", env!("CARGO_PKG_VERSION")),
        request_id: Uuid::new_v4(),
    }
}

impl Kms {
    /// Finds the server of a keystore, or unlocks the keystore.
    pub(super) fn open(args: &KeystoreArgs) -> Result<Self, Failure> {
        match Client::of_keystore(&args.dir()?) {
            Ok(server) => Ok(Self::Server(Box::new(server))),
            Err(_) => Self::here(args.open()?),
        }
    }

    /// As [`Kms::open`], with a secret that is known already.
    pub(super) fn open_with(dir: &Path, secret: &UnlockSecret) -> Result<Self, Failure> {
        match Client::of_keystore(dir) {
            Ok(server) => Ok(Self::Server(Box::new(server))),
            Err(_) => Self::here(Keystore::open(dir)?.unlock(secret)?),
        }
    }

    fn here(keystore: Keystore) -> Result<Self, Failure> {
        Ok(Self::Here(Box::new(Service::new(keystore, Options::default())?)))
    }

    /// Has the KMS run an operation, as the owner of the keystore. A server goes by the user that it sees.
    pub(super) fn call(&mut self, operation: &str, parameters: Value) -> Result<Value, Failure> {
        match self {
            Self::Server(server) => Ok(server.call(operation, &parameters)?),
            Self::Here(service) => Ok(service.call(&call_of_owner(), operation, parameters)?),
        }
    }

    /// The ARN of a key that is named by id, ARN or alias, because management operations take no alias.
    pub(super) fn arn(&mut self, key: &str) -> Result<String, Failure> {
        if !key.contains("alias/") {
            return Ok(key.to_owned());
        }
        let described = self.call("DescribeKey", json!({ "KeyId": key }))?;
        Ok(described["KeyMetadata"]["Arn"].as_str().unwrap_or_default().to_owned())
    }

    /// An operation on a key that is named by id, ARN or alias.
    pub(super) fn on_key(&mut self, operation: &str, key: &str, mut parameters: Value) -> Result<Value, Failure> {
        parameters["KeyId"] = self.arn(key)?.into();
        self.call(operation, parameters)
    }

    /// All pages of a list, the rows under `member` together.
    pub(super) fn list(&mut self, operation: &str, member: &str, parameters: &Value) -> Result<Value, Failure> {
        all_pages(member, |marker| {
            let mut parameters = parameters.clone();
            parameters["Marker"] = marker.into();
            self.call(operation, parameters)
        })
    }
}

/// Has the KMS run one operation.
pub(super) fn call(args: &KeystoreArgs, operation: &str, parameters: Value) -> Result<Value, Failure> {
    Kms::open(args)?.call(operation, parameters)
}

/// An answer, or a part of one, as what it says.
pub(super) fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        let next = "let the same version of kmsfs serve the keystore";
        Failure::new(Code::Other, "the server answered what this kmsfs does not understand", error, next)
    })
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        use ApiCode as E;
        let (code, next) = match error.code {
            E::NotFound => (Code::Keystore, "see the keys with kmsfs key list"),
            E::Disabled => (Code::Keystore, "enable it with kmsfs key enable"),
            E::KmsInvalidState => (Code::Keystore, "look at its state with kmsfs key describe"),
            E::Validation | E::Serialization | E::InvalidAliasName | E::InvalidArn | E::Tag | E::InvalidMarker => {
                (Code::Usage, "repeat the command with another value")
            }
            E::MalformedPolicyDocument => (Code::Usage, "change the document"),
            E::InvalidCiphertext => {
                (Code::Keystore, "give the encryption context that it was encrypted with, or another copy")
            }
            E::KmsInternal => (Code::Other, "look at the log, and at the disk of the keystore"),
            _ => (Code::Keystore, "kmsfs audit says more"),
        };
        let detail = error.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        Self::of(code, format!("{error}{detail}. Next: {next}"))
    }
}
