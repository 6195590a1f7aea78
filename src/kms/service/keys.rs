//! CreateKey, DescribeKey, ListKeys, and the states of keys.

use serde_json::{Value, json};

use super::asked::{Asked, Found};
use super::catalog::Answer;
use super::names::Naming;
use super::page::Page;
use super::params::{DESCRIPTION, POLICY, Params};
use super::policies::{self, Lockout};
use super::tags;
use super::{ApiError, Code};
use crate::crypto::pair;
use crate::kms::control::NewKey;
use crate::kms::policy::{Key, Policy};
use crate::kms::{ACCOUNT, Cmk, KeyId, KeyManager, KeySpec, KeyState, Keystore};

const USAGES: &[&str] =
    &["ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE"];
const ORIGINS: &[&str] = &["AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"];
/// Every kind of key of AWS KMS.
const SPECS: &[&str] = &[
    "RSA_2048",
    "RSA_3072",
    "RSA_4096",
    "ECC_NIST_P256",
    "ECC_NIST_P384",
    "ECC_NIST_P521",
    "ECC_SECG_P256K1",
    "SYMMETRIC_DEFAULT",
    "HMAC_224",
    "HMAC_256",
    "HMAC_384",
    "HMAC_512",
    "SM2",
    "ML_DSA_44",
    "ML_DSA_65",
    "ML_DSA_87",
    "ECC_NIST_EDWARDS25519",
    "ML_KEM_512",
    "ML_KEM_768",
    "ML_KEM_1024",
];

fn unsupported(what: &str) -> ApiError {
    ApiError::new(Code::UnsupportedOperation, format!("{what} is not supported."))
}

/// The kind of key that a request asks for.
fn wanted_spec(params: &Params<'_>) -> Result<KeySpec, ApiError> {
    let (new, old) = (params.choice("KeySpec", SPECS), params.choice("CustomerMasterKeySpec", SPECS));
    let (usage, origin) = (params.choice("KeyUsage", USAGES), params.choice("Origin", ORIGINS));
    let is_multi_region = params.flag("MultiRegion");
    params.check()?;
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        let message = "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.";
        return Err(ApiError::new(Code::Validation, message));
    }
    let name = new.or(old).unwrap_or("SYMMETRIC_DEFAULT");
    if usage.is_none() && name != "SYMMETRIC_DEFAULT" {
        let message = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.";
        return Err(ApiError::new(Code::Validation, message));
    }
    if let Some(origin) = origin.filter(|origin| *origin != "AWS_KMS") {
        return Err(unsupported(&format!("Origin {origin}")));
    }
    if is_multi_region || ["CustomKeyStoreId", "XksKeyId"].iter().any(|name| params.has(name)) {
        return Err(unsupported("A multi-Region key, or one in a custom key store,"));
    }
    let spec = KeySpec::named(name).ok_or_else(|| unsupported(&format!("KeySpec {name}")))?;
    if let Some(usage) = usage.filter(|usage| *usage != "ENCRYPT_DECRYPT") {
        if spec == KeySpec::Symmetric || usage != "SIGN_VERIFY" {
            let message = format!("KeyUsage {usage} is not compatible with KeySpec {name}");
            return Err(ApiError::new(Code::Validation, message));
        }
        return Err(unsupported(&format!("KeyUsage {usage}")));
    }
    if spec.is_asymmetric() && !pair::SUPPORTED {
        return Err(unsupported(&format!("KeySpec {name} in this build")));
    }
    Ok(spec)
}

pub(super) fn create(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let description = params.text("Description", &DESCRIPTION).unwrap_or_default();
    let (policy, tags) = (params.text("Policy", &POLICY), params.tags());
    let bypass = params.flag("BypassPolicyLockoutSafetyCheck");
    let spec = wanted_spec(params)?;
    asked.require_root("kms:CreateKey")?;
    let tags = tags::read(&tags)?;
    tags::check_count(tags.len())?;
    let policy = policy.map_or_else(|| Ok(Policy::default_for_api()), policies::parse)?;
    if !bypass {
        let conditions = asked
            .conditions()
            .request_tags(&tags)
            .resource_tags(&tags)
            .with(Key::KeySpec, spec.name())
            .with(Key::KeyUsage, "ENCRYPT_DECRYPT")
            .with(Key::KeyOrigin, "AWS_KMS")
            .with(Key::PolicyName, policies::NAME)
            .with(Key::BypassPolicyLockoutSafetyCheck, "false");
        // The key has no id yet, so no policy can name it: any id will do that is no other key's.
        let resource = asked.arn(&KeyId(uuid::Uuid::new_v4().to_string()));
        let maker = Lockout { principal: asked.call.principal, resource: &resource, keys: &conditions };
        policies::check_lockout(&maker, &policy)?;
    }
    let new = NewKey { spec, policy: Some(policy), tags, ..NewKey::described(description) };
    let id = keystore.create_cmk(new)?;
    asked.keys = keystore.keys();
    let cmk = keystore.describe_key(&id.0)?;
    let found = asked.found(cmk, None);
    Ok(json!({ "KeyMetadata": metadata(&found) }))
}

/// `KeyMetadata` as AWS KMS answers it.
fn metadata(found: &Found) -> Value {
    let cmk: &Cmk = &found.cmk;
    let manager = if cmk.manager == KeyManager::Service { "AWS" } else { "CUSTOMER" };
    let mut metadata = json!({
        "AWSAccountId": ACCOUNT,
        "KeyId": cmk.id,
        "Arn": found.arn,
        "CreationDate": cmk.created,
        "Enabled": cmk.state == KeyState::Enabled,
        "Description": cmk.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": cmk.state.name(),
        "Origin": "AWS_KMS",
        "KeyManager": manager,
        "CustomerMasterKeySpec": cmk.spec,
        "KeySpec": cmk.spec,
        "EncryptionAlgorithms": cmk.spec.algorithms(),
        "MultiRegion": false,
    });
    if let KeyState::PendingDeletion { deletion_date } = cmk.state {
        metadata["DeletionDate"] = json!(deletion_date);
    }
    if !cmk.spec.is_asymmetric() {
        metadata["CurrentKeyMaterialId"] = json!(cmk.material_id(cmk.newest().number));
    }
    metadata
}

pub(super) fn describe(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let name = params.key_id();
    params.check()?;
    let found = asked.find(name, Naming::Any)?;
    asked.check_tokens(params, &[&found.cmk.id])?;
    let conditions = found.conditions(asked);
    asked.authorize(&found, "kms:DescribeKey", &conditions)?;
    Ok(json!({ "KeyMetadata": metadata(&found) }))
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (100, 1000))?;
    asked.require_root("kms:ListKeys")?;
    let keys = asked.keys.keys().filter(|cmk| !cmk.is_gone());
    let items = keys.map(|cmk| (cmk.id.0.clone(), json!({ "KeyId": cmk.id, "KeyArn": asked.arn(&cmk.id) })));
    Ok(page.answer("Keys", items))
}

pub(super) fn enable(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let found = asked.managed_key(params)?;
    keystore.enable(&found.cmk.id.0)?;
    Ok(json!({}))
}

pub(super) fn disable(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let found = asked.managed_key(params)?;
    keystore.disable(&found.cmk.id.0)?;
    Ok(json!({}))
}

pub(super) fn update_description(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let description = params.needed_text("Description", &DESCRIPTION);
    let found = asked.managed_key(params)?;
    keystore.edit(&found.cmk.id, |cmk| description.clone_into(&mut cmk.description))?;
    Ok(json!({}))
}

pub(super) fn schedule_deletion(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (name, days) = (params.key_id(), params.number("PendingWindowInDays", 7, 30).unwrap_or(30));
    params.check()?;
    let found = asked.find(name, Naming::Key)?;
    let conditions = found.conditions(asked).with(Key::ScheduleKeyDeletionPendingWindowInDays, days.to_string());
    asked.authorize(&found, "kms:ScheduleKeyDeletion", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
    let date = keystore.schedule_deletion(&found.cmk.id.0, days)?;
    Ok(json!({
        "KeyId": found.arn,
        "DeletionDate": date,
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": days,
    }))
}

pub(super) fn cancel_deletion(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let found = asked.managed_key(params)?;
    keystore.cancel_deletion(&found.cmk.id.0)?;
    Ok(json!({ "KeyId": found.arn }))
}
