//! Tells the audit log what keys are used for in a mount: each use by a user, and how often the mount itself used them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::audit::{Event, Log, Uses};
use super::clock::now;
use super::key::Cmk;
use super::service::{ApiError, Call, Code, Source, key_arn};
use super::{Action, EncryptionContext, InvalidCiphertext, KmsError, Principal, UserRequest, VIA_MOUNT};

/// What the mount calls itself in the log.
const AGENT: &str = concat!("kmsfs/", env!("CARGO_PKG_VERSION"));
const REGION: &str = "local";

/// Where the uses of a mount are recorded.
pub struct MountAudit {
    /// The log.
    pub log: Log,
    /// The volume.
    pub volume: Uuid,
    /// Whether plain paths stand in the log.
    pub paths: bool,
}

/// What the mount did with a key on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum OwnUse {
    Decrypt,
    GenerateDataKey,
    ReEncrypt,
}

impl OwnUse {
    fn name(self) -> &'static str {
        match self {
            Self::Decrypt => "Decrypt",
            Self::GenerateDataKey => "GenerateDataKey",
            Self::ReEncrypt => "ReEncrypt",
        }
    }
}

/// Turns uses into events.
pub(super) struct Recorder {
    audit: MountAudit,
    service: Principal,
    own: RwLock<HashMap<(u32, OwnUse, Option<Code>), Arc<Uses>>>,
}

impl Recorder {
    pub(super) fn new(audit: MountAudit) -> Self {
        Self { audit, service: Principal::Service(VIA_MOUNT.to_owned()), own: RwLock::default() }
    }

    pub(super) fn log(&self) -> &Log {
        &self.audit.log
    }

    /// A use by a user, allowed or not.
    pub(super) fn user(
        &self,
        (request, principal): (&UserRequest<'_>, &Principal),
        (action, cmk, context): (Action, &Cmk, &EncryptionContext),
        outcome: Result<(), &KmsError>,
        reason: &str,
    ) {
        let mut event = self.event(principal, action.operation(), request.caller.pid);
        event.request_parameters = Some(parameters(action, cmk, context));
        let path = self.audit.paths.then(|| (request.path)());
        let event =
            event.by_uid(request.caller.uid).in_volume(self.audit.volume, path).with_key(key_arn(REGION, &cmk.id));
        let event = match outcome {
            Ok(()) => event.because(reason),
            Err(error) => event.with_error(&told(error, reason)),
        };
        self.record(event);
    }

    /// A use by the mount itself. How often is recorded, not each.
    pub(super) fn own(&self, use_: OwnUse, cmk: &Cmk, outcome: Result<(), &KmsError>) {
        let code = outcome.err().map(code);
        let kind = (cmk.number, use_, code);
        if let Some(uses) = self.own.read().get(&kind) {
            return uses.count(now());
        }
        let mut template = self.event(&self.service, use_.name(), std::process::id());
        template = template.in_volume(self.audit.volume, None).with_key(key_arn(REGION, &cmk.id));
        if let Err(error) = outcome {
            template = template.with_error(&told(error, "the mount's own work"));
        }
        let uses = self.audit.log.repeated(template);
        uses.count(now());
        self.own.write().insert(kind, uses);
    }

    fn event(&self, principal: &Principal, operation: &str, pid: u32) -> Event {
        let is_user = !matches!(principal, Principal::Service(_));
        let call = Call {
            principal,
            access_key: None,
            region: REGION,
            source: Source::Process(pid),
            via_service: is_user.then_some(VIA_MOUNT),
            user_agent: AGENT,
            request_id: Uuid::nil(),
        };
        // No answer carries the id of a request in a mount.
        let mut event = Event::of(&call, operation, now());
        event.request_id = None;
        event
    }

    fn record(&self, event: Event) {
        if let Err(error) = self.audit.log.record(event) {
            log::error!("a use of a key is not in the audit log: {error}");
        }
    }
}

/// As CloudTrail names them.
fn parameters(action: Action, cmk: &Cmk, context: &EncryptionContext) -> Value {
    let context: Map<String, Value> = context.pairs().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let mut parameters = Map::new();
    parameters.insert("encryptionContext".to_owned(), Value::Object(context));
    match action {
        Action::Decrypt => {
            parameters.insert("encryptionAlgorithm".to_owned(), "SYMMETRIC_DEFAULT".into());
        }
        Action::GenerateDataKey => {
            parameters.insert("keyId".to_owned(), cmk.id.0.as_str().into());
            parameters.insert("keySpec".to_owned(), "AES_256".into());
        }
    }
    Value::Object(parameters)
}

fn code(error: &KmsError) -> Code {
    match error {
        KmsError::Disabled(_) => Code::Disabled,
        KmsError::InvalidState(_) | KmsError::NotPending(_) => Code::KmsInvalidState,
        KmsError::NotFound(_) => Code::NotFound,
        KmsError::AccessDenied(_) | KmsError::ServiceManaged(_) => Code::AccessDenied,
        KmsError::InvalidCiphertext(_) => Code::InvalidCiphertext,
    }
}

/// The error as the log has it: why a ciphertext is invalid is for the owner only.
fn told(error: &KmsError, reason: &str) -> ApiError {
    let message = match error {
        KmsError::InvalidCiphertext(_) => String::new(),
        other => other.to_string(),
    };
    let detail = match error {
        KmsError::InvalidCiphertext(detail @ InvalidCiphertext::WrongContext) => {
            format!("{detail}: it may lie in another directory than it was made in; {reason}")
        }
        KmsError::InvalidCiphertext(detail) => detail.to_string(),
        _ => reason.to_owned(),
    };
    ApiError::new(code(error), message).because(detail)
}
