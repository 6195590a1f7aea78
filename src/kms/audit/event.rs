//! One use of a key, in the shape of an AWS CloudTrail record (event version 1.11).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::parameters;
use crate::kms::service::{ApiError, Call, Code, Source};
use crate::kms::{ACCOUNT, KeyId, Principal};

type Text = Cow<'static, str>;

/// Operations that use key material; they change nothing that the keystore holds.
const DATA_PLANE: &[&str] = &[
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateRandom",
    "GetPublicKey",
    "ReEncrypt",
];

/// Who made a request, as CloudTrail writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity {
    /// `Root`, `IAMUser` or, where nobody asked, `AWSService`.
    #[serde(rename = "type")]
    pub kind: Text,
    /// The account for its root, else the user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The principal's ARN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// The account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<Text>,
    /// The access key that signed the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The user's name; the root of the account has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The service that asked for the user: `kmsfs.local` for a mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<Text>,
}

/// A key that a request was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its ARN.
    #[serde(rename = "ARN")]
    pub arn: String,
    /// The account.
    #[serde(rename = "accountId")]
    pub account_id: Text,
    /// `AWS::KMS::Key`.
    #[serde(rename = "type")]
    pub kind: Text,
}

impl Resource {
    /// The CMK with this ARN.
    pub fn key(arn: impl Into<String>) -> Self {
        Self { arn: arn.into(), account_id: ACCOUNT.into(), kind: "AWS::KMS::Key".into() }
    }
}

/// Several uses in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// How many.
    pub count: u64,
    /// The first of them, in unix seconds.
    pub first: u64,
    /// The last of them, in unix seconds.
    pub last: u64,
}

/// Events that could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Uses that were allowed.
    pub allowed: u64,
    /// Requests that were refused or failed.
    pub denied: u64,
    /// Changes of keys.
    pub management: u64,
    /// When the first was lost, in unix seconds.
    pub first: u64,
    /// When the last was lost, in unix seconds.
    pub last: u64,
    /// What kept them from being written.
    pub reason: String,
}

/// What a file of the log begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStart {
    /// The number of the file.
    pub number: u64,
    /// The MAC of the last line before it, 64 hexadecimal digits.
    pub previous: String,
    /// The number of the oldest file that was kept then.
    pub oldest: u64,
    /// What was wrong with the log when it was continued here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// A line that a crash cut short, taken out of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// How many bytes of it had been written.
    pub bytes: u64,
    /// The beginning of them. Nothing vouches for this text.
    pub text: String,
}

/// Members that CloudTrail does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The uid that asked, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The process that asked, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The volume that the request was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Uuid>,
    /// The plain path in that volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Which statement or grant decided, or why the request failed: what the wire must not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// If the line stands for several uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<Repeated>,
    /// If the line stands for events that were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// If the line is the first of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileStart>,
    /// If the line takes the place of one that a crash cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<Torn>,
    /// The number of the line, from 1, over all files. The log sets it.
    #[serde(default)]
    pub sequence: u64,
}

/// One use of a key, allowed or denied. The members stand in CloudTrail's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    event_version: Text,
    /// Who asked.
    pub user_identity: UserIdentity,
    /// When, in unix seconds.
    #[serde(with = "rfc3339")]
    pub event_time: u64,
    event_source: Text,
    /// The operation, by AWS's name.
    pub event_name: Text,
    /// The region that the request was meant for.
    pub aws_region: Text,
    /// The address that it came from, if it came over TCP.
    #[serde(rename = "sourceIPAddress", default, skip_serializing_if = "Option::is_none")]
    pub source_ip_address: Option<String>,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Text>,
    /// AWS's name of the error, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Text>,
    /// What the client was told about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// What was asked for, without anything secret.
    pub request_parameters: Option<Value>,
    /// What was answered to a change, without anything secret.
    pub response_elements: Option<Value>,
    /// The key material that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_event_data: Option<Value>,
    /// The id of the request, which its answer carries too.
    #[serde(rename = "requestID", default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// The id of this event. The log sets it.
    #[serde(rename = "eventID")]
    pub event_id: Uuid,
    /// Whether the operation leaves the keystore as it is.
    pub read_only: bool,
    /// The keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    event_type: Text,
    management_event: bool,
    recipient_account_id: Text,
    event_category: Text,
    /// Members that CloudTrail does not have. Last, because the chain ends in it.
    pub kmsfs: Detail,
}

/// How badly an event is wanted in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// An allowed use of a key.
    Allowed,
    /// A refused or failed request.
    Denied,
    /// A change of the keystore.
    Management,
}

impl Event {
    fn new(operation: Text, time: u64, user_identity: UserIdentity, event_type: &'static str) -> Self {
        Self {
            event_version: "1.11".into(),
            user_identity,
            event_time: time,
            event_source: "kms.amazonaws.com".into(),
            read_only: is_read_only(&operation),
            event_name: operation,
            aws_region: "local".into(),
            source_ip_address: None,
            user_agent: None,
            error_code: None,
            error_message: None,
            request_parameters: None,
            response_elements: None,
            additional_event_data: None,
            request_id: None,
            event_id: Uuid::nil(),
            resources: Vec::new(),
            event_type: event_type.into(),
            management_event: true,
            recipient_account_id: ACCOUNT.into(),
            event_category: "Management".into(),
            kmsfs: Detail::default(),
        }
    }

    /// An event of a request: who made it, how it came, and its operation, at a time in unix seconds.
    pub fn of(call: &Call<'_>, operation: &str, time: u64) -> Self {
        let mut identity = identity(call.principal);
        identity.access_key_id = call.access_key.map(str::to_owned);
        identity.invoked_by = call.via_service.map(|service| Cow::Owned(service.to_owned()));
        let mut event = Self::new(name_of(operation), time, identity, "AwsApiCall");
        event.aws_region = Cow::Owned(parameters::bounded(call.region));
        event.user_agent = Some(Cow::Owned(parameters::bounded(call.user_agent)));
        event.request_id = Some(call.request_id);
        match call.source {
            Source::Address(address) => event.source_ip_address = Some(address.to_string()),
            Source::Process(pid) => event.kmsfs.pid = Some(pid),
        }
        event
    }

    /// An event that no request caused, at a time in unix seconds: `RotateKey` when a period was over, `DeleteKey` when a
    /// waiting period was.
    pub fn of_service(operation: &'static str, time: u64) -> Self {
        let identity = UserIdentity {
            kind: "AWSService".into(),
            account_id: Some(ACCOUNT.into()),
            invoked_by: Some("AWS Internal".into()),
            ..UserIdentity::default()
        };
        Self { read_only: false, ..Self::new(operation.into(), time, identity, "AwsServiceEvent") }
    }

    /// With what was asked for, as it came (`KeyId`, `EncryptionContext`, ...). What may be secret is left out: only members
    /// that are known to be harmless are taken over.
    #[must_use]
    pub fn with_parameters(mut self, parameters: &Value) -> Self {
        self.request_parameters = parameters::logged(parameters);
        self
    }

    /// With the answer to a change. Answers of operations that change nothing are not recorded, as in CloudTrail.
    #[must_use]
    pub fn with_response(mut self, response: &Value) -> Self {
        if !self.read_only {
            self.response_elements = parameters::logged(response);
        }
        self
    }

    /// With the credentials that were issued: which, and until when. Never their secret.
    #[must_use]
    pub fn issuing(mut self, answer: &Value) -> Self {
        self.response_elements = parameters::issued(answer);
        self
    }

    /// Of an operation that is not of KMS but of the service that CloudTrail calls so.
    #[must_use]
    pub fn of_source(mut self, name: &'static str) -> Self {
        self.event_source = name.into();
        self
    }

    /// With a key that it was about, by its ARN.
    #[must_use]
    pub fn with_key(mut self, arn: impl Into<String>) -> Self {
        self.resources.push(Resource::key(arn));
        self
    }

    /// With the id of the key material that was used.
    #[must_use]
    pub fn with_material(mut self, id: &str) -> Self {
        self.additional_event_data = Some(serde_json::json!({ "keyMaterialId": id }));
        self
    }

    /// With the error that answered it; its detail becomes the reason.
    #[must_use]
    pub fn with_error(mut self, error: &ApiError) -> Self {
        // CloudTrail drops the suffix from this one name.
        self.error_code =
            Some(if error.code == Code::AccessDenied { "AccessDenied" } else { error.code.name() }.into());
        self.error_message = (!error.message.is_empty()).then(|| parameters::bounded(&error.message));
        if let Some(detail) = &error.detail {
            self.kmsfs.reason = Some(detail.clone());
        }
        self
    }

    /// With which statement or grant decided, or why it failed: for the owner only.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.kmsfs.reason = Some(reason.into());
        self
    }

    /// With the uid of who asked.
    #[must_use]
    pub fn by_uid(mut self, uid: u32) -> Self {
        self.kmsfs.uid = Some(uid);
        self
    }

    /// With the volume, and the plain path in it, that a mount asked for.
    #[must_use]
    pub fn in_volume(mut self, volume: Uuid, path: Option<String>) -> Self {
        self.kmsfs.volume = Some(volume);
        self.kmsfs.path = path;
        self
    }

    /// Whether the request was refused or failed.
    pub fn is_denied(&self) -> bool {
        self.error_code.is_some()
    }

    pub(super) fn weight(&self) -> Weight {
        if self.is_denied() {
            Weight::Denied
        } else if self.read_only {
            Weight::Allowed
        } else {
            Weight::Management
        }
    }

    /// Whether it counts as a use of its keys (GetKeyLastUsage): a cryptographic operation that succeeded.
    pub(super) fn is_use(&self) -> bool {
        !self.is_denied() && self.event_name != "GetPublicKey" && DATA_PLANE.contains(&&*self.event_name)
    }

    /// The ids of its keys.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        self.resources.iter().filter_map(|resource| {
            let (_, id) = resource.arn.rsplit_once(":key/")?;
            Some(KeyId(id.to_owned()))
        })
    }
}

fn name_of(operation: &str) -> Text {
    let known = DATA_PLANE.iter().find(|name| **name == operation);
    known.map_or_else(|| Cow::Owned(parameters::bounded(operation)), |name| Cow::Borrowed(*name))
}

/// Whether an operation leaves the keystore as it is.
pub fn is_read_only(operation: &str) -> bool {
    let operation = operation.strip_prefix("kmsfs.").unwrap_or(operation);
    let looks = ["Describe", "Get", "List"].iter().any(|prefix| operation.starts_with(prefix));
    looks || DATA_PLANE.contains(&operation)
}

fn identity(principal: &Principal) -> UserIdentity {
    let (kind, id) = match principal {
        Principal::Root => ("Root", ACCOUNT),
        Principal::User { name, .. } => ("IAMUser", &**name),
        Principal::Service(name) => ("AWSService", &**name),
    };
    UserIdentity {
        kind: kind.into(),
        principal_id: Some(id.to_owned()),
        arn: Some(principal.arn()),
        account_id: Some(ACCOUNT.into()),
        user_name: principal.name().map(str::to_owned),
        ..UserIdentity::default()
    }
}

/// Unix seconds as `2026-01-31T12:00:00Z`.
pub(super) mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    fn timestamp(time: u64) -> Timestamp {
        let time = i64::try_from(time).ok().and_then(|time| Timestamp::from_second(time).ok());
        time.unwrap_or(Timestamp::MAX)
    }

    pub(in crate::kms::audit) fn text(time: u64) -> String {
        timestamp(time).to_string()
    }

    pub(super) fn serialize<S: Serializer>(time: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&timestamp(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        let time: Timestamp = text.parse().map_err(D::Error::custom)?;
        u64::try_from(time.as_second()).map_err(D::Error::custom)
    }
}
