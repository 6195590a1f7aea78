//! Why a request was refused before any operation looked at it, in the words of either protocol.

use crate::kms::service::{ApiError, Code};
use crate::kms::users::Nameless;

/// Why nobody is behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not signed, or not in the way that KMS takes.
    Unsigned,
    /// Its signature lacks a part; this is what AWS says then.
    Incomplete(String),
    /// The access key or the session token is not one of this keystore.
    Unrecognized,
    /// The session token has ended.
    Expired,
    /// The signature does not hold; this is what AWS says then.
    Invalid(String),
    /// A signature for a change came again on another connection.
    Replayed,
    /// There are too many changes, or it is too early for them.
    Busy,
    /// Whoever it is may not speak to this server.
    Forbidden(&'static str),
    /// Nobody can tell at present who it is. Clients try again.
    Untold(String),
}

impl From<Nameless> for Refusal {
    fn from(nameless: Nameless) -> Self {
        match nameless {
            Nameless::Unmapped => Self::Forbidden(UNMAPPED),
            Nameless::Untold(_) => Self::Untold(nameless.to_string()),
        }
    }
}

const UNMAPPED: &str = "the user id 65534 stands for users that this system does not know";

const UNSIGNED: &str = "Missing Authentication Token";
const UNRECOGNIZED: &str = "The security token included in the request is invalid.";
const EXPIRED: &str = "The security token included in the request is expired";
const REPLAYED: &str = "This signature was used for a change before. Sign the request again, at a later second.";
const BUSY: &str = "Rate exceeded";

impl Refusal {
    /// As the JSON protocol of KMS has it.
    pub(super) fn into_kms(self) -> ApiError {
        match self {
            Self::Unsigned => ApiError::new(Code::MissingAuthenticationToken, UNSIGNED),
            Self::Incomplete(text) => ApiError::new(Code::IncompleteSignature, text),
            Self::Unrecognized => ApiError::new(Code::UnrecognizedClient, UNRECOGNIZED),
            Self::Expired => ApiError::new(Code::ExpiredToken, EXPIRED),
            Self::Invalid(text) => ApiError::new(Code::InvalidSignature, text),
            // Clients take this one as a reason to wait, sign anew and try again.
            Self::Replayed => ApiError::new(Code::Throttling, REPLAYED),
            Self::Busy => ApiError::new(Code::Throttling, BUSY),
            Self::Forbidden(text) => ApiError::new(Code::AccessDenied, text),
            Self::Untold(error) => ApiError::new(Code::KmsInternal, "").because(error),
        }
    }

    /// As the query protocol of STS has it: status, code and message.
    pub(super) fn into_sts(self) -> (u16, &'static str, String) {
        match self {
            Self::Unsigned => (403, "MissingAuthenticationToken", UNSIGNED.to_owned()),
            Self::Incomplete(text) => (400, "IncompleteSignature", text),
            Self::Unrecognized => (403, "InvalidClientTokenId", UNRECOGNIZED.to_owned()),
            Self::Expired => (403, "ExpiredToken", EXPIRED.to_owned()),
            Self::Invalid(text) => (403, "SignatureDoesNotMatch", text),
            Self::Replayed => (400, "Throttling", REPLAYED.to_owned()),
            Self::Busy => (400, "Throttling", BUSY.to_owned()),
            Self::Forbidden(text) => (403, "AccessDenied", text.to_owned()),
            Self::Untold(_) => (500, "InternalFailure", String::new()),
        }
    }
}
