//! The names of condition keys, each with what it may hold.

/// A condition key of one fixed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// `aws:CurrentTime`, an ISO 8601 date.
    CurrentTime,
    /// `aws:EpochTime`, in seconds.
    EpochTime,
    /// `aws:PrincipalAccount`.
    PrincipalAccount,
    /// `aws:PrincipalArn`.
    PrincipalArn,
    /// `aws:SourceIp`.
    SourceIp,
    /// `aws:TagKeys`, several: the keys of the tags in the request.
    TagKeys,
    /// `aws:username`.
    Username,
    /// `kms:BypassPolicyLockoutSafetyCheck`.
    BypassPolicyLockoutSafetyCheck,
    /// `kms:CallerAccount`.
    CallerAccount,
    /// `kms:DataKeyPairSpec`.
    DataKeyPairSpec,
    /// `kms:EncryptionAlgorithm`.
    EncryptionAlgorithm,
    /// `kms:EncryptionContextKeys`, several.
    EncryptionContextKeys,
    /// `kms:GrantConstraintType`.
    GrantConstraintType,
    /// `kms:GranteePrincipal`.
    GranteePrincipal,
    /// `kms:GrantIsForAWSResource`.
    GrantIsForAwsResource,
    /// `kms:GrantOperations`, several.
    GrantOperations,
    /// `kms:KeyOrigin`.
    KeyOrigin,
    /// `kms:KeySpec`.
    KeySpec,
    /// `kms:KeyUsage`.
    KeyUsage,
    /// `kms:PolicyName`.
    PolicyName,
    /// `kms:ReEncryptOnSameKey`.
    ReEncryptOnSameKey,
    /// `kms:RequestAlias`.
    RequestAlias,
    /// `kms:ResourceAliases`, several.
    ResourceAliases,
    /// `kms:RetiringPrincipal`.
    RetiringPrincipal,
    /// `kms:RotationPeriodInDays`.
    RotationPeriodInDays,
    /// `kms:ScheduleKeyDeletionPendingWindowInDays`.
    ScheduleKeyDeletionPendingWindowInDays,
    /// `kms:ViaService`.
    ViaService,
}

/// Every key of a fixed name.
const NAMES: &[(Key, &str)] = &[
    (Key::CurrentTime, "aws:CurrentTime"),
    (Key::EpochTime, "aws:EpochTime"),
    (Key::PrincipalAccount, "aws:PrincipalAccount"),
    (Key::PrincipalArn, "aws:PrincipalArn"),
    (Key::SourceIp, "aws:SourceIp"),
    (Key::TagKeys, "aws:TagKeys"),
    (Key::Username, "aws:username"),
    (Key::BypassPolicyLockoutSafetyCheck, "kms:BypassPolicyLockoutSafetyCheck"),
    (Key::CallerAccount, "kms:CallerAccount"),
    (Key::DataKeyPairSpec, "kms:DataKeyPairSpec"),
    (Key::EncryptionAlgorithm, "kms:EncryptionAlgorithm"),
    (Key::EncryptionContextKeys, "kms:EncryptionContextKeys"),
    (Key::GrantConstraintType, "kms:GrantConstraintType"),
    (Key::GranteePrincipal, "kms:GranteePrincipal"),
    (Key::GrantIsForAwsResource, "kms:GrantIsForAWSResource"),
    (Key::GrantOperations, "kms:GrantOperations"),
    (Key::KeyOrigin, "kms:KeyOrigin"),
    (Key::KeySpec, "kms:KeySpec"),
    (Key::KeyUsage, "kms:KeyUsage"),
    (Key::PolicyName, "kms:PolicyName"),
    (Key::ReEncryptOnSameKey, "kms:ReEncryptOnSameKey"),
    (Key::RequestAlias, "kms:RequestAlias"),
    (Key::ResourceAliases, "kms:ResourceAliases"),
    (Key::RetiringPrincipal, "kms:RetiringPrincipal"),
    (Key::RotationPeriodInDays, "kms:RotationPeriodInDays"),
    (Key::ScheduleKeyDeletionPendingWindowInDays, "kms:ScheduleKeyDeletionPendingWindowInDays"),
    (Key::ViaService, "kms:ViaService"),
];

impl Key {
    /// The name as AWS writes it.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(key, _)| *key == self).map_or("", |(_, name)| name)
    }

    /// Whether a request may have several values of it.
    pub fn is_multivalued(self) -> bool {
        matches!(self, Self::EncryptionContextKeys | Self::GrantOperations | Self::ResourceAliases | Self::TagKeys)
    }
}

/// A condition key as a policy names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyName {
    Fixed(Key),
    /// `kms:EncryptionContext:KEY`.
    Context(String),
    /// `aws:PrincipalTag/KEY`.
    PrincipalTag(String),
    /// `aws:ResourceTag/KEY`.
    ResourceTag(String),
    /// `aws:RequestTag/KEY`.
    RequestTag(String),
    /// Some key that this KMS does not know.
    Unknown,
}

impl KeyName {
    /// Names are case-insensitive.
    pub(super) fn parse(name: &str) -> Self {
        let families = [
            ("kms:EncryptionContext:", Self::Context as fn(String) -> Self),
            ("aws:PrincipalTag/", Self::PrincipalTag),
            ("aws:ResourceTag/", Self::ResourceTag),
            ("aws:RequestTag/", Self::RequestTag),
        ];
        for (prefix, family) in families {
            let split = name.split_at_checked(prefix.len());
            if let Some((head, rest)) = split
                && head.eq_ignore_ascii_case(prefix)
                && !rest.is_empty()
            {
                return family(rest.to_owned());
            }
        }
        NAMES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map_or(Self::Unknown, |(key, _)| Self::Fixed(*key))
    }

    pub(super) fn is_multivalued(&self) -> bool {
        matches!(self, Self::Fixed(key) if key.is_multivalued())
    }
}

/// Whether two texts differ at most in case.
pub(super) fn same_folded(a: &str, b: &str) -> bool {
    a == b || a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase))
}
