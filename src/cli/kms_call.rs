//! One operation of the KMS: through the server that holds the keystore open, or on the keystore itself.

use serde_json::Value;
use uuid::Uuid;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use crate::kms::Principal;
use crate::kms::api::Client;
use crate::kms::audit::Options;
use crate::kms::service::{ApiError, Call, LOCAL_REGION, Service, Source};

/// Has the KMS run an operation, as the owner of the keystore.
pub(super) fn call(args: &KeystoreArgs, operation: &str, parameters: Value) -> Result<Value, Failure> {
    if let Ok(mut server) = Client::of_keystore(&args.dir()?) {
        return Ok(server.call(operation, &parameters)?);
    }
    let call = Call {
        principal: &Principal::Root,
        access_key: None,
        region: LOCAL_REGION,
        source: Source::Process(std::process::id()),
        via_service: None,
        user_agent: concat!("kmsfs/", env!("CARGO_PKG_VERSION")),
        request_id: Uuid::new_v4(),
    };
    Ok(Service::new(args.open()?, Options::default())?.call(&call, operation, parameters)?)
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let detail = error.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        Self::of(Code::Keystore, format!("{error}{detail}"))
    }
}
