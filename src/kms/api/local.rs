//! What the server itself answers to local processes: credentials for TCP, and where that is.

use serde_json::{Value, json};

use super::credentials::{DEFAULT_DURATION, DURATIONS};
use super::gate::{Identity, Peer};
use super::http::Api;
use super::{ENDPOINT, SESSION_CREDENTIALS};
use crate::kms::clock;
use crate::kms::service::{ApiError, Code};

/// Whether the server itself answers this operation.
pub(super) fn has(operation: &str) -> bool {
    [SESSION_CREDENTIALS, ENDPOINT].contains(&operation)
}

/// The answer to one of the server's own operations; `None` if it is another one.
pub(super) fn answer(
    api: &Api,
    peer: Peer,
    identity: &Identity,
    (operation, parameters): (&str, &Value),
) -> Option<Result<Value, ApiError>> {
    if !has(operation) {
        return None;
    }
    let refuse = |text: &str| Some(Err(ApiError::new(Code::AccessDenied, text)));
    let Peer::Process { uid, .. } = peer else {
        return refuse("this operation is answered over the Unix socket only");
    };
    if identity.signed.is_some() {
        // Else credentials could prolong themselves for ever.
        return refuse("this operation is not answered to signed requests");
    }
    Some(if operation == ENDPOINT {
        let (url, socket) = &api.places;
        Ok(json!({ "Endpoint": url, "Socket": socket }))
    } else {
        session_credentials(api, uid, parameters)
    })
}

/// Short-lived credentials for the user at the other end.
fn session_credentials(api: &Api, uid: u32, parameters: &Value) -> Result<Value, ApiError> {
    let seconds = parameters.get("DurationSeconds").map_or(Some(DEFAULT_DURATION), Value::as_u64);
    let Some(seconds) = seconds.filter(|seconds| DURATIONS.contains(seconds)) else {
        let text = format!("DurationSeconds must be {} to {}", DURATIONS.start(), DURATIONS.end());
        return Err(ApiError::new(Code::Validation, text));
    };
    let ends = clock::now() + seconds;
    let name = api.gate.principals.name(uid);
    let name = name.map_err(|error| ApiError::new(Code::KmsInternal, "").because(error.to_string()))?;
    let session = api.gate.keys.session(uid, &name, ends);
    Ok(json!({
        "AccessKeyId": session.access_key,
        "SecretAccessKey": *session.secret,
        "SessionToken": session.token,
        "Expiration": ends,
    }))
}
