//! Errors as AWS KMS answers them.

/// The name of an error on the wire. All that are the client's fault have status 400, as AWS KMS answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// AccessDeniedException.
    AccessDenied,
    /// AlreadyExistsException.
    AlreadyExists,
    /// ConflictException.
    Conflict,
    /// DisabledException.
    Disabled,
    /// DryRunOperationException.
    DryRunOperation,
    /// ExpiredTokenException.
    ExpiredToken,
    /// IncompleteSignatureException.
    IncompleteSignature,
    /// IncorrectKeyException.
    IncorrectKey,
    /// InvalidAliasNameException.
    InvalidAliasName,
    /// InvalidArnException.
    InvalidArn,
    /// InvalidCiphertextException.
    InvalidCiphertext,
    /// InvalidGrantIdException.
    InvalidGrantId,
    /// InvalidGrantTokenException.
    InvalidGrantToken,
    /// InvalidKeyUsageException.
    InvalidKeyUsage,
    /// InvalidMarkerException.
    InvalidMarker,
    /// InvalidSignatureException.
    InvalidSignature,
    /// KMSInternalException, the only one with status 500.
    KmsInternal,
    /// KMSInvalidStateException.
    KmsInvalidState,
    /// LimitExceededException.
    LimitExceeded,
    /// MalformedPolicyDocumentException.
    MalformedPolicyDocument,
    /// MissingAuthenticationTokenException.
    MissingAuthenticationToken,
    /// NotAuthorizedException.
    NotAuthorized,
    /// NotFoundException.
    NotFound,
    /// SerializationException.
    Serialization,
    /// TagException.
    Tag,
    /// UnknownOperationException.
    UnknownOperation,
    /// UnrecognizedClientException.
    UnrecognizedClient,
    /// UnsupportedOperationException.
    UnsupportedOperation,
    /// ValidationException.
    Validation,
}

impl Code {
    /// The name on the wire, in `__type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::AlreadyExists => "AlreadyExistsException",
            Self::Conflict => "ConflictException",
            Self::Disabled => "DisabledException",
            Self::DryRunOperation => "DryRunOperationException",
            Self::ExpiredToken => "ExpiredTokenException",
            Self::IncompleteSignature => "IncompleteSignatureException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::InvalidAliasName => "InvalidAliasNameException",
            Self::InvalidArn => "InvalidArnException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidGrantId => "InvalidGrantIdException",
            Self::InvalidGrantToken => "InvalidGrantTokenException",
            Self::InvalidKeyUsage => "InvalidKeyUsageException",
            Self::InvalidMarker => "InvalidMarkerException",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::KmsInternal => "KMSInternalException",
            Self::KmsInvalidState => "KMSInvalidStateException",
            Self::LimitExceeded => "LimitExceededException",
            Self::MalformedPolicyDocument => "MalformedPolicyDocumentException",
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::NotAuthorized => "NotAuthorizedException",
            Self::NotFound => "NotFoundException",
            Self::Serialization => "SerializationException",
            Self::Tag => "TagException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::UnsupportedOperation => "UnsupportedOperationException",
            Self::Validation => "ValidationException",
        }
    }

    /// The status of the HTTP answer.
    pub fn status(self) -> u16 {
        if self == Self::KmsInternal { 500 } else { 400 }
    }
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct ApiError {
    /// Its name.
    pub code: Code,
    /// What the client is told. Empty where AWS's is.
    pub message: String,
    /// What only the owner's audit log is told.
    pub detail: Option<String>,
}

impl ApiError {
    /// An error that says everything it knows.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }

    /// The same error with a reason for the owner's log.
    #[must_use]
    pub fn because(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}
