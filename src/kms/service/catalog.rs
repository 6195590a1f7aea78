//! Every operation of AWS KMS by its name: what it needs of a key's state, and who answers it.

use serde_json::Value;

use super::asked::Asked;
use super::params::Params;
use super::{
    ApiError, access_keys, aliases, data, data_key_pairs, grants, keys, last_usage, looks, policies, re_encrypt,
    rotation, tags,
};
use crate::kms::{Keystore, Operation as Needs};

/// What an operation answers.
pub(super) type Answer = Result<Value, ApiError>;

/// How an operation is answered.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// From a snapshot of the keys, beside any number of others.
    Read(fn(&mut Asked<'_>, &Params<'_>) -> Answer),
    /// With the keystore to itself.
    Change(fn(&mut Asked<'_>, &Params<'_>, &mut Keystore) -> Answer),
}

/// One operation.
pub(super) struct Entry {
    /// Its name.
    pub(super) name: &'static str,
    /// What the state of the key must permit.
    pub(super) needs: Needs,
    /// Who answers it.
    pub(super) run: Run,
}

const fn read(name: &'static str, needs: Needs, run: fn(&mut Asked<'_>, &Params<'_>) -> Answer) -> Entry {
    Entry { name, needs, run: Run::Read(run) }
}

const fn change(
    name: &'static str,
    needs: Needs,
    run: fn(&mut Asked<'_>, &Params<'_>, &mut Keystore) -> Answer,
) -> Entry {
    Entry { name, needs, run: Run::Change(run) }
}

/// The operations that kmsfs has.
pub(super) const OPERATIONS: &[Entry] = &[
    change("CancelKeyDeletion", Needs::CancelDeletion, keys::cancel_deletion),
    change("CreateAlias", Needs::AliasTarget, aliases::create),
    change("CreateGrant", Needs::CreateGrant, grants::create),
    change("CreateKey", Needs::Look, keys::create),
    read("Decrypt", Needs::Unwrap, data::decrypt),
    change("DeleteAlias", Needs::Look, aliases::delete),
    read("DescribeKey", Needs::Look, keys::describe),
    change("DisableKey", Needs::EnableOrDisable, keys::disable),
    change("DisableKeyRotation", Needs::ConfigureRotation, rotation::disable),
    change("EnableKey", Needs::EnableOrDisable, keys::enable),
    change("EnableKeyRotation", Needs::ConfigureRotation, rotation::enable),
    read("Encrypt", Needs::Wrap, data::encrypt),
    read("GenerateDataKey", Needs::Wrap, data::generate_data_key),
    read("GenerateDataKeyPair", Needs::Wrap, data_key_pairs::generate),
    read("GenerateDataKeyPairWithoutPlaintext", Needs::Wrap, data_key_pairs::generate_without_plaintext),
    read("GenerateDataKeyWithoutPlaintext", Needs::Wrap, data::generate_data_key_without_plaintext),
    read("GenerateRandom", Needs::Look, data::generate_random),
    read("GetKeyLastUsage", Needs::Look, last_usage::get),
    read("GetKeyPolicy", Needs::Look, policies::get),
    read("GetKeyRotationStatus", Needs::Look, rotation::status),
    read("GetPublicKey", Needs::PublicKey, data::public_key),
    read("ListAliases", Needs::Look, aliases::list),
    read("ListGrants", Needs::Look, grants::list),
    read("ListKeyPolicies", Needs::Look, policies::list),
    read("ListKeyRotations", Needs::Look, rotation::list),
    read("ListKeys", Needs::Look, keys::list),
    read("ListResourceTags", Needs::Look, tags::list),
    read("ListRetirableGrants", Needs::Look, grants::list_retirable),
    change("PutKeyPolicy", Needs::SetPolicy, policies::put),
    read("ReEncrypt", Needs::Unwrap, re_encrypt::re_encrypt),
    change("RetireGrant", Needs::Look, grants::retire),
    change("RevokeGrant", Needs::Look, grants::revoke),
    change("RotateKeyOnDemand", Needs::Rotate, rotation::rotate),
    change("ScheduleKeyDeletion", Needs::ScheduleDeletion, keys::schedule_deletion),
    change("TagResource", Needs::Annotate, tags::tag),
    change("UntagResource", Needs::Annotate, tags::untag),
    change("UpdateAlias", Needs::AliasTarget, aliases::update),
    change("UpdateKeyDescription", Needs::Annotate, keys::update_description),
    change("kmsfs.CreateAccessKey", Needs::Look, access_keys::create),
    change("kmsfs.DeleteAccessKey", Needs::Look, access_keys::delete),
    read("kmsfs.DescribeKeys", Needs::Look, looks::describe_keys),
    read("kmsfs.GetExplanation", Needs::Look, looks::explanation),
    read("kmsfs.ListAccessKeys", Needs::Look, access_keys::list),
    change("kmsfs.RetireKeyVersion", Needs::Retire, rotation::retire),
];

/// The other operations of AWS KMS (botocore's model of 2026): signing, MACs, key agreement, imported key material, custom key
/// stores and replicas in other regions are not what a KMS for a filesystem is for.
pub(super) const UNSUPPORTED: &[&str] = &[
    "ConnectCustomKeyStore",
    "CreateCustomKeyStore",
    "Decapsulate",
    "DeleteCustomKeyStore",
    "DeleteImportedKeyMaterial",
    "DeriveSharedSecret",
    "DescribeCustomKeyStores",
    "DisconnectCustomKeyStore",
    "Encapsulate",
    "GenerateMac",
    "GetParametersForImport",
    "ImportKeyMaterial",
    "ReplicateKey",
    "Sign",
    "UpdateCustomKeyStore",
    "UpdatePrimaryRegion",
    "Verify",
    "VerifyMac",
];

/// The operation with this name.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    OPERATIONS.iter().find(|entry| entry.name == name)
}
