//! Tells the audit log what keys are used for in a mount or by a command: each use by a user, and how often the mount or the
//! command itself used them.

mod patterns;
mod refusals;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use serde_json::{Map, Value};
use uuid::Uuid;

use self::patterns::Patterns;
use self::refusals::{Refusals, TOGETHER};
use super::audit::{AuditError, Event, Log, PatternUse, Repeated, Uses};
use super::clock::now;
use super::key::Cmk;
use super::service::{ApiError, Call, Code, Source, key_arn};
use super::{Action, Caller, EncryptionContext, InvalidCiphertext, KeyId, KmsError, Principal, UserRequest, VIA_MOUNT};

/// What the mount calls itself in the log.
const AGENT: &str = concat!("kmsfs/", env!("CARGO_PKG_VERSION"));
const REGION: &str = "local";
/// How long uses gather: a flood costs few wake-ups.
const GATHER: Duration = Duration::from_millis(25);
/// Most uses that wait to become events.
const MOST_WAITING: usize = 4096;

/// Where the uses of a mount or a command are recorded.
pub struct MountAudit {
    /// The log.
    pub log: Log,
    /// The volume; none if the keys are for no certain one.
    pub volume: Option<Uuid>,
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

/// What is counted together: uses of the CMK with this number, of one kind and one outcome.
type Kind = (u32, OwnUse, Option<Code>);

/// The key that a user wanted to use.
#[derive(Clone)]
pub(super) enum Wanted {
    /// It is there.
    Cmk(Arc<Cmk>),
    /// It is not, or no longer: what is known of it.
    Gone { number: Option<u32>, id: Option<KeyId> },
}

impl Wanted {
    fn number(&self) -> Option<u32> {
        match self {
            Self::Cmk(cmk) => Some(cmk.number),
            Self::Gone { number, .. } => *number,
        }
    }

    fn id(&self) -> Option<&KeyId> {
        match self {
            Self::Cmk(cmk) => Some(&cmk.id),
            Self::Gone { id, .. } => id.as_ref(),
        }
    }
}

/// What a user did.
#[derive(Clone)]
struct Use {
    principal: Arc<Principal>,
    caller: Caller,
    action: Action,
    key: Wanted,
    context: EncryptionContext,
    refusal: Option<KmsError>,
    reason: Arc<str>,
    path: Option<String>,
    /// In unix seconds.
    time: u64,
}

#[derive(Default)]
struct Backlog {
    uses: Vec<Use>,
    is_over: bool,
}

/// Turns uses into events: those of users in a thread of its own, for making an event takes longer than the use.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What is known of uses that were handed on.
#[derive(Default)]
struct Hands {
    patterns: Patterns,
    refusals: Refusals,
    /// Changes places with the backlog's.
    uses: Vec<Use>,
}

struct Shared {
    audit: MountAudit,
    service: Principal,
    own: RwLock<HashMap<Kind, Arc<Uses>>>,
    backlog: Mutex<Backlog>,
    work: Condvar,
    /// Held by who hands a backlog on, so that lines come in the order of uses.
    hands: Mutex<Hands>,
}

impl Recorder {
    pub(super) fn new(audit: MountAudit) -> Self {
        let shared = Arc::new(Shared {
            audit,
            service: Principal::Service(VIA_MOUNT.to_owned()),
            own: RwLock::default(),
            backlog: Mutex::default(),
            work: Condvar::new(),
            hands: Mutex::default(),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kmsfs-uses".to_owned()).spawn(move || worker.run());
        Self { shared, thread: thread.ok() }
    }

    /// Waits until everything that was recorded before is on the disk.
    pub(super) fn flush(&self) -> Result<(), AuditError> {
        self.shared.hand_on(true);
        self.shared.audit.log.flush()
    }

    /// A use by a user, allowed or not.
    pub(super) fn user(
        &self,
        (request, principal): (&UserRequest<'_>, Arc<Principal>),
        (action, key, context): (Action, Wanted, &EncryptionContext),
        outcome: Result<(), &KmsError>,
        reason: Arc<str>,
    ) {
        let used = Use {
            principal,
            caller: *request.caller,
            action,
            key,
            context: context.clone(),
            refusal: outcome.err().cloned(),
            reason,
            path: self.shared.audit.paths.then(|| (request.path)()),
            time: now(),
        };
        let mut backlog = self.shared.backlog.lock();
        backlog.uses.push(used);
        let waiting = backlog.uses.len();
        drop(backlog);
        if waiting >= MOST_WAITING || self.thread.is_none() {
            // Whoever uses keys faster than lines are written is slowed down to that.
            self.shared.hand_on(false);
        } else if waiting == 1 {
            self.shared.work.notify_one();
        }
    }

    /// A use by the mount itself. How often is recorded, not each.
    pub(super) fn own(&self, use_: OwnUse, cmk: &Cmk, outcome: Result<(), &KmsError>) {
        self.shared.own(use_, cmk, outcome);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.backlog.lock().is_over = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics only if the log does, which the hook has reported.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let may_be_due = !self.hands.lock().refusals.is_empty();
            let mut backlog = self.backlog.lock();
            while backlog.uses.is_empty() && !backlog.is_over {
                if !may_be_due {
                    self.work.wait(&mut backlog);
                } else if self.work.wait_for(&mut backlog, TOGETHER).timed_out() {
                    break;
                }
            }
            if !backlog.is_over && !backlog.uses.is_empty() {
                self.work.wait_for(&mut backlog, GATHER);
            }
            let is_over = backlog.is_over;
            drop(backlog);
            self.hand_on(is_over);
            if is_over {
                return;
            }
        }
    }

    /// Makes lines of all that waits; of refusals that are still being counted only if it is the `last` time, for now.
    fn hand_on(&self, last: bool) {
        let Hands { patterns, refusals, uses } = &mut *self.hands.lock();
        std::mem::swap(&mut self.backlog.lock().uses, uses);
        for used in uses.drain(..) {
            if used.refusal.is_none() {
                self.allowed(used, patterns);
                continue;
            }
            refusals.take(used).into_iter().for_each(|(used, repeated)| self.refused(&used, repeated));
        }
        refusals.due(last).into_iter().for_each(|(used, repeated)| self.refused(&used, repeated));
    }

    fn allowed(&self, used: Use, patterns: &mut Patterns) {
        let pattern = patterns.of(&used, || self.event_of(&used).because(&*used.reason));
        let recorded = match pattern {
            Ok(pattern) => {
                let Use { caller, time, path, .. } = used;
                self.audit.log.record_use(PatternUse { pattern, time, pid: caller.pid, path })
            }
            Err(_) => self.audit.log.record(self.event_of(&used).because(&*used.reason)),
        };
        tell(recorded);
    }

    fn refused(&self, used: &Use, repeated: Option<Repeated>) {
        let Some(error) = &used.refusal else { return };
        let mut event = self.event_of(used).with_error(&told(error, &used.reason));
        if repeated.is_some() {
            // Several threads may have asked.
            event.kmsfs.pid = None;
        }
        event.kmsfs.repeated = repeated;
        tell(self.audit.log.record(event));
    }

    fn event_of(&self, used: &Use) -> Event {
        let Use { principal, caller, action, key, context, path, time, .. } = used;
        let mut event = self.event(principal, action.operation(), caller.pid);
        event.event_time = *time;
        event.request_parameters = Some(parameters(*action, key.id(), context));
        let event = self.in_volume(event.by_uid(caller.uid), path.clone());
        match key.id() {
            Some(id) => event.with_key(key_arn(REGION, id)),
            None => event,
        }
    }

    fn own(&self, use_: OwnUse, cmk: &Cmk, outcome: Result<(), &KmsError>) {
        let code = outcome.err().map(code);
        let kind = (cmk.number, use_, code);
        if let Some(uses) = self.own.read().get(&kind) {
            return uses.count(now());
        }
        let mut template = self.event(&self.service, use_.name(), std::process::id());
        template = self.in_volume(template, None).with_key(key_arn(REGION, &cmk.id));
        if let Err(error) = outcome {
            template = template.with_error(&told(error, "the mount's own work"));
        }
        let uses = self.audit.log.repeated(template);
        uses.count(now());
        self.own.write().insert(kind, uses);
    }

    fn in_volume(&self, event: Event, path: Option<String>) -> Event {
        match self.audit.volume {
            Some(volume) => event.in_volume(volume, path),
            None => event,
        }
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
}

fn tell(recorded: Result<(), AuditError>) {
    if let Err(error) = recorded {
        log::error!("a use of a key is not in the audit log: {error}");
    }
}

/// As CloudTrail names them.
fn parameters(action: Action, key: Option<&KeyId>, context: &EncryptionContext) -> Value {
    let context: Map<String, Value> = context.pairs().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let mut parameters = Map::new();
    parameters.insert("encryptionContext".to_owned(), Value::Object(context));
    match action {
        Action::Decrypt => {
            parameters.insert("encryptionAlgorithm".to_owned(), "SYMMETRIC_DEFAULT".into());
        }
        Action::GenerateDataKey => {
            parameters.insert("keyId".to_owned(), key.map(|id| id.0.as_str()).into());
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
