//! How requests name keys and aliases: by id, ARN, alias or alias ARN (AWS KMS developer guide, "Key identifiers").

use uuid::Uuid;

use super::{ApiError, Code};
use crate::kms::{ACCOUNT, KeyId};

/// The region of requests that come from this machine's command line and mounts. They take ARNs of any region.
pub const LOCAL_REGION: &str = "local";
/// What every alias begins with.
pub(super) const ALIAS_PREFIX: &str = "alias/";

/// The ARN of a key.
pub fn key_arn(region: &str, key: &KeyId) -> String {
    format!("arn:aws:kms:{region}:{ACCOUNT}:key/{}", key.0)
}

/// The ARN of an alias.
pub(super) fn alias_arn(region: &str, alias: &str) -> String {
    format!("arn:aws:kms:{region}:{ACCOUNT}:{alias}")
}

/// What a name may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Anything.
    Any,
    /// A key id or a key ARN: management operations take no aliases.
    Key,
}

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Id(KeyId),
    /// `alias/...`
    Alias(String),
}

fn not_found(message: String) -> ApiError {
    ApiError::new(Code::NotFound, message)
}

/// Reads the name of a key.
///
/// # Errors
/// NotFoundException for what cannot name a key here, InvalidArnException for an ARN of something else.
pub(super) fn read(name: &str, region: &str, naming: Naming) -> Result<Name, ApiError> {
    let resource = if name.starts_with("arn:") { of_arn(name, region)? } else { name };
    let invalid = || not_found(format!("Invalid keyId '{name}'"));
    if resource.starts_with(ALIAS_PREFIX) {
        return if naming == Naming::Any { Ok(Name::Alias(resource.to_owned())) } else { Err(invalid()) };
    }
    let id = if resource == name { Some(resource) } else { resource.strip_prefix("key/") };
    let id = id.filter(|id| is_uuid(id)).ok_or_else(invalid)?;
    Ok(Name::Id(KeyId(id.to_owned())))
}

/// Ids are compared as text, so only the form that ids are given out in is one.
fn is_uuid(id: &str) -> bool {
    Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id)
}

/// What an ARN of this KMS is about: `key/ID` or `alias/NAME`.
fn of_arn<'a>(arn: &'a str, region: &str) -> Result<&'a str, ApiError> {
    let mut parts = arn.splitn(6, ':');
    let (_, partition, service) = (parts.next(), parts.next(), parts.next());
    let (its_region, account, resource) = (parts.next(), parts.next(), parts.next());
    let (Some("aws"), Some("kms"), Some(its_region), Some(account), Some(resource)) =
        (partition, service, its_region, account, resource)
    else {
        return Err(ApiError::new(Code::InvalidArn, format!("Invalid arn {arn}")));
    };
    if its_region != region && region != LOCAL_REGION {
        return Err(not_found(format!("Invalid arn {its_region}")));
    }
    if account != ACCOUNT {
        return Err(not_found(format!("Invalid account {account}")).because("the ARN is of another account"));
    }
    Ok(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    fn refused(name: &str, region: &str, naming: Naming) -> (Code, String) {
        let error = read(name, region, naming).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn all_four_forms_name_a_key_and_management_takes_two_of_them() {
        let id = Name::Id(KeyId(ID.into()));
        let (arn, alias) = (key_arn("eu-west-1", &KeyId(ID.into())), alias_arn("eu-west-1", "alias/x"));
        for naming in [Naming::Any, Naming::Key] {
            assert_eq!(read(ID, "eu-west-1", naming), Ok(id.clone()));
            assert_eq!(read(&arn, "eu-west-1", naming), Ok(id.clone()));
            assert_eq!(read(&arn, LOCAL_REGION, naming), Ok(id.clone()));
        }
        for name in ["alias/x", &*alias] {
            assert_eq!(read(name, "eu-west-1", Naming::Any), Ok(Name::Alias("alias/x".into())));
            let message = format!("Invalid keyId '{name}'");
            assert_eq!(refused(name, "eu-west-1", Naming::Key), (Code::NotFound, message));
        }
    }

    #[test]
    fn what_names_nothing_here_is_told_in_the_words_of_aws() {
        let flat = ID.replace('-', "");
        let cases = [
            ("x".to_owned(), Code::NotFound, "Invalid keyId 'x'".to_owned()),
            (flat.clone(), Code::NotFound, format!("Invalid keyId '{flat}'")),
            (ID.to_uppercase(), Code::NotFound, format!("Invalid keyId '{}'", ID.to_uppercase())),
            (
                format!("arn:aws:kms:us-east-1:000000000000:key/{ID}"),
                Code::NotFound,
                "Invalid arn us-east-1".to_owned(),
            ),
            ("arn:aws:s3:::bucket".to_owned(), Code::InvalidArn, "Invalid arn arn:aws:s3:::bucket".to_owned()),
            ("arn:aws:kms".to_owned(), Code::InvalidArn, "Invalid arn arn:aws:kms".to_owned()),
        ];
        for (name, code, message) in cases {
            assert_eq!(refused(&name, "eu-west-1", Naming::Any), (code, message));
        }
    }
}
