//! One request: from its HTTP to the operation, and from what that answers to HTTP (AWS JSON 1.1; query for STS).

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::gate::{Arrived, Gate, Identity, Peer, check_browser};
use super::pace::{Paces, is_quick};
use super::refusal::Refusal;
use super::sigv4::single;
use super::{TARGET_PREFIX, json as strict_json, local, sts};
use crate::kms::audit::Event;
use crate::kms::service::{ApiError, Call, Code, Service, is_known, wipe};
use crate::kms::{AccessKey, clock};

const SERVICE: &str = "kms";
const JSON: &str = "application/x-amz-json-1.1";
const FORM: &str = "application/x-www-form-urlencoded";
pub(super) const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// A policy has 32 KiB, and JSON may write a letter in six.
const MAX_BODY: usize = 256 * 1024;
const BODY_TIME: Duration = Duration::from_secs(30);
const MAX_USER_AGENT: usize = 256;

/// What all connections share.
pub(super) struct Api {
    pub(super) service: Arc<Service>,
    pub(super) gate: Gate,
    pub(super) paces: Paces,
    /// The URL on TCP, and the socket for all users.
    pub(super) places: (Option<String>, Option<PathBuf>),
}

/// The connection that a request came over.
#[derive(Clone)]
pub(super) struct Origin {
    /// One more at every connection.
    pub(super) connection: u64,
    pub(super) peer: Peer,
    /// Whether somebody is behind a request that came over it.
    pub(super) is_known: Arc<AtomicBool>,
}

type Answer = Response<Full<Bytes>>;

/// Answers a request.
pub(super) async fn respond(api: Arc<Api>, origin: Origin, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let request_id = Uuid::new_v4();
    let (parts, body) = request.into_parts();
    let is_form = single(&parts.headers, &CONTENT_TYPE).is_some_and(|value| value.starts_with(FORM));
    if let Err(refusal) = check_browser(origin.peer, &parts.headers) {
        return Ok(refuse(is_form, refusal, request_id));
    }
    let collected = tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Ok(cut_off(StatusCode::PAYLOAD_TOO_LARGE, request_id));
        }
        Ok(Err(_)) => return Ok(cut_off(StatusCode::BAD_REQUEST, request_id)),
        Err(_) => return Ok(cut_off(StatusCode::REQUEST_TIMEOUT, request_id)),
    };
    if parts.method != Method::POST
        || parts.uri.path() != "/"
        || parts.uri.query().is_some()
        || parts.uri.host().is_some()
    {
        return Ok(refuse(is_form, Refusal::Unsigned, request_id));
    }
    let operation_name = operation(&parts.headers).unwrap_or_default();
    let is_quick = is_quick(&api.service, operation_name, &body);
    let place = api.paces.enter(operation_name).await;
    let work = move || {
        let _place = place;
        let identity = api.identify(origin.peer, &parts, &body, if is_form { sts::SERVICE } else { SERVICE });
        origin.is_known.fetch_or(identity.is_ok(), Ordering::Relaxed);
        match identity {
            Err(refusal) => refuse(is_form, refusal, request_id),
            Ok(identity) if is_form => {
                let answer = sts::answer(&body, &identity.principal, request_id);
                if answer.0 == StatusCode::OK {
                    let agent = agent_of(&parts);
                    let call = call_of(&identity, origin.peer, (&agent, request_id));
                    api.note(Event::of(&call, sts::OPERATION, clock::now()).of_source(sts::EVENT_SOURCE));
                }
                xml(answer, request_id)
            }
            Ok(identity) => match operate(&api, &origin, (&parts, &body), &identity, request_id) {
                Ok(mut value) => {
                    let answer = json_answer(StatusCode::OK, &value, request_id);
                    wipe(&mut value);
                    answer
                }
                Err(error) => json_error(&error, request_id),
            },
        }
    };
    let done = if is_quick {
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| "it panicked".to_owned())
    } else {
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
    };
    Ok(done.unwrap_or_else(|error| {
        log::error!("request {request_id} gave up: {error}");
        json_error(&ApiError::new(Code::KmsInternal, ""), request_id)
    }))
}

fn refuse(is_form: bool, refusal: Refusal, request_id: Uuid) -> Answer {
    if is_form {
        xml(sts::refuse(refusal, request_id), request_id)
    } else {
        json_error(&refusal.into_kms(), request_id)
    }
}

/// The name of the operation that a request asks for.
fn operation(headers: &HeaderMap) -> Option<&str> {
    single(headers, &TARGET)?.strip_prefix(TARGET_PREFIX)
}

impl Api {
    fn identify(&self, peer: Peer, parts: &Parts, body: &[u8], service: &str) -> Result<Identity, Refusal> {
        let arrived = Arrived { method: parts.method.as_str(), headers: &parts.headers, body };
        self.gate.identify(peer, &arrived, (service, clock::now()), |id| {
            self.service.keys().access_key(id).map(|key| AccessKey::clone(key))
        })
    }

    /// Records what the service itself does not hear of.
    fn note(&self, event: Event) {
        if let Err(error) = self.service.log().record(event) {
            log::error!("a request is not in the audit log: {error}");
        }
    }
}

/// The request as policies and the audit log see it.
fn call_of<'a>(identity: &'a Identity, peer: Peer, (user_agent, request_id): (&'a str, Uuid)) -> Call<'a> {
    Call {
        principal: &identity.principal,
        access_key: identity.signed.as_ref().map(|signed| signed.access_key.as_str()),
        region: &identity.region,
        source: peer.source(),
        via_service: None,
        user_agent,
        request_id,
    }
}

fn agent_of(parts: &Parts) -> String {
    single(&parts.headers, &USER_AGENT).unwrap_or_default().chars().take(MAX_USER_AGENT).collect()
}

/// The parameters of a request, if it is well formed and no replay.
fn parameters_of(
    api: &Api,
    connection: u64,
    identity: &Identity,
    (operation, body): (&str, &[u8]),
) -> Result<Value, ApiError> {
    let parameters = strict_json::parameters(body)?;
    if Service::is_change(operation)
        && let Some(signed) = &identity.signed
    {
        let noted = api.gate.replays.check(&identity.principal, signed, connection, clock::now());
        noted.map_err(Refusal::into_kms)?;
    }
    Ok(parameters)
}

fn operate(
    api: &Api,
    origin: &Origin,
    (parts, body): (&Parts, &[u8]),
    identity: &Identity,
    request_id: Uuid,
) -> Result<Value, ApiError> {
    let operation = operation(&parts.headers).ok_or_else(|| ApiError::new(Code::UnknownOperation, ""))?;
    let user_agent = agent_of(parts);
    let call = call_of(identity, origin.peer, (&user_agent, request_id));
    let parameters = parameters_of(api, origin.connection, identity, (operation, body)).inspect_err(|error| {
        if local::has(operation) || is_known(operation) {
            api.note(Event::of(&call, operation, clock::now()).with_error(error));
        }
    })?;
    if let Some(answer) = local::answer(api, origin.peer, identity, (operation, &parameters)) {
        let event = Event::of(&call, operation, clock::now()).with_parameters(&parameters);
        api.note(match &answer {
            Ok(answer) => event.issuing(answer),
            Err(error) => event.with_error(error),
        });
        return answer;
    }
    api.service.call(&call, operation, parameters)
}

fn json_answer(status: StatusCode, value: &Value, request_id: Uuid) -> Answer {
    // Longer than any answer with a secret, so that none is left behind where a buffer grew.
    let mut body = Zeroizing::new(Vec::with_capacity(16 * 1024));
    serde_json::to_writer(&mut *body, value).expect("a value is JSON");
    answer(status, JSON, Bytes::from_owner(body), request_id)
}

fn json_error(error: &ApiError, request_id: Uuid) -> Answer {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut value = json!({ "__type": error.code.name() });
    // AWS has none where it has nothing to say.
    if !error.message.is_empty() {
        value["message"] = error.message.clone().into();
    }
    json_answer(status, &value, request_id)
}

fn xml((status, text): sts::Answer, request_id: Uuid) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, "text/xml", text.into(), request_id)
}

/// An answer to a request that did not arrive whole: nothing that follows on its connection can be trusted.
fn cut_off(status: StatusCode, request_id: Uuid) -> Answer {
    let error = ApiError::new(Code::Serialization, format!("the request was cut off: {status}"));
    let mut answer = json_error(&error, request_id);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes, request_id: Uuid) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate, private"));
    let id = HeaderValue::from_str(&request_id.to_string()).expect("a uuid is plain text");
    headers.insert(REQUEST_ID, id);
    answer
}
