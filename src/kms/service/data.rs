//! Encrypt, Decrypt, data keys, random bytes and public keys.

use data_encoding::BASE64;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::asked::{Asked, Found};
use super::catalog::Answer;
use super::crypt::{self, ALGORITHMS, MAX_CIPHERTEXT, Manner, SYMMETRIC, Source};
use super::names::Naming;
use super::params::{KEY_ID, Params};
use super::{ApiError, Code};
use crate::crypto::random;
use crate::kms::blob::MAX_PLAINTEXT;
use crate::kms::policy::Key;
use crate::kms::{EncryptionContext, Operation};

/// Bytes as the wire has them.
pub(super) fn base64(bytes: &[u8]) -> Value {
    Value::String(BASE64.encode(bytes))
}

/// The options for encryption with enclaves, which there are none of.
pub(super) fn refuse_recipient(params: &Params<'_>) -> Result<(), ApiError> {
    if !params.has("Recipient") {
        return Ok(());
    }
    Err(ApiError::new(Code::UnsupportedOperation, "Recipient is not supported."))
}

pub(super) fn encrypt(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (key, plain) = (params.key_id(), params.needed_blob("Plaintext", MAX_PLAINTEXT));
    let algorithm = params.choice("EncryptionAlgorithm", ALGORITHMS).unwrap_or(SYMMETRIC);
    let context = params.context("EncryptionContext")?;
    let found = asked.find(key, Naming::Any)?;
    asked.check_tokens(params, &[&found.cmk.id])?;
    let manner = Manner::new(algorithm, &context);
    crypt::allow(asked, &found, "kms:Encrypt", Operation::Wrap, &manner)?;
    crypt::check_manner(&found.cmk, &manner)?;
    let sealed = crypt::encrypt(&found.cmk, &plain, &manner)?;
    Asked::dry_run(params)?;
    Ok(json!({ "CiphertextBlob": base64(&sealed), "KeyId": found.arn, "EncryptionAlgorithm": algorithm }))
}

/// The member under which a request brings a ciphertext, and whether its modifiers say that there is none.
///
/// # Errors
/// ValidationException.
pub(super) fn ciphertext(params: &Params<'_>, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
    let ignored = params.choices("DryRunModifiers", &["IGNORE_CIPHERTEXT"]);
    let fault = |message: &str| Err(ApiError::new(Code::Validation, message));
    if ignored.is_empty() {
        let bytes = params.needed_blob("CiphertextBlob", MAX_CIPHERTEXT);
        params.check()?;
        return Ok(Some(bytes));
    }
    params.check()?;
    if !params.flag("DryRun") {
        return fault("DryRunModifiers can be used with the DryRun option only.");
    }
    if params.has("CiphertextBlob") || !params.has(key) {
        return fault("With the modifier IGNORE_CIPHERTEXT a request names the key and brings no ciphertext.");
    }
    Ok(None)
}

pub(super) fn decrypt(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (key, algorithm) = (params.text("KeyId", &KEY_ID), params.choice("EncryptionAlgorithm", ALGORITHMS));
    let algorithm = algorithm.unwrap_or(SYMMETRIC);
    let ciphertext = ciphertext(params, "KeyId")?;
    let context = params.context("EncryptionContext")?;
    refuse_recipient(params)?;
    let manner = Manner::new(algorithm, &context);
    let Some(ciphertext) = ciphertext else {
        let found = asked.find(key.unwrap_or_default(), Naming::Any)?;
        asked.check_tokens(params, &[&found.cmk.id])?;
        crypt::allow(asked, &found, "kms:Decrypt", Operation::Unwrap, &manner)?;
        crypt::check_manner(&found.cmk, &manner)?;
        return Asked::dry_run(params).map(|()| Value::Null);
    };
    let from = Source { ciphertext: &ciphertext, key, manner, action: "kms:Decrypt" };
    let opening = crypt::source(asked, params, from)?;
    let plain = opening.open()?;
    Asked::dry_run(params)?;
    let mut answer =
        json!({ "KeyId": opening.found.arn, "Plaintext": base64(&plain), "EncryptionAlgorithm": algorithm });
    if let Some(material) = opening.material_id() {
        answer["KeyMaterialId"] = json!(material);
        asked.trace.material = Some(material);
    }
    Ok(answer)
}

/// Makes what GenerateDataKey and its kin seal: finds the symmetric key and whether it may be used for that.
pub(super) fn generating_key(
    asked: &mut Asked<'_>,
    params: &Params<'_>,
    name: &str,
    pair_spec: Option<&str>,
    context: &EncryptionContext,
) -> Result<Found, ApiError> {
    let found = asked.find(name, Naming::Any)?;
    asked.check_tokens(params, &[&found.cmk.id])?;
    let conditions = found
        .conditions(asked)
        .context(context)
        .with(Key::EncryptionAlgorithm, SYMMETRIC)
        .with_some(Key::DataKeyPairSpec, pair_spec);
    asked.authorize(&found, &format!("kms:{}", asked.entry.name), &conditions)?;
    asked.require(&found, Operation::Wrap)?;
    if found.cmk.spec.is_asymmetric() {
        return Err(ApiError::new(Code::InvalidKeyUsage, "You cannot generate a data key with an asymmetric CMK"));
    }
    Ok(found)
}

fn data_key(asked: &mut Asked<'_>, params: &Params<'_>) -> Result<(Value, Zeroizing<Vec<u8>>), ApiError> {
    let (key, spec) = (params.key_id(), params.choice("KeySpec", &["AES_256", "AES_128"]));
    let count = params.number("NumberOfBytes", 1, 1024);
    let context = params.context("EncryptionContext")?;
    refuse_recipient(params)?;
    let length = match (count, spec) {
        (Some(count), None) => count as usize,
        (None, Some("AES_128")) => 16,
        (None, Some(_)) => 32,
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::new(Code::Validation, "Please specify either number of bytes or key spec."));
        }
    };
    let found = generating_key(asked, params, key, None, &context)?;
    Asked::dry_run(params)?;
    let mut plain = Zeroizing::new(vec![0; length]);
    random::fill(&mut plain);
    let sealed = crypt::encrypt(&found.cmk, &plain, &Manner::symmetric(&context))?;
    let material = found.cmk.material_id(found.cmk.newest().number);
    asked.trace.material = Some(material.clone());
    let answer = json!({ "CiphertextBlob": base64(&sealed), "KeyId": found.arn, "KeyMaterialId": material });
    Ok((answer, plain))
}

pub(super) fn generate_data_key(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (mut answer, plain) = data_key(asked, params)?;
    answer["Plaintext"] = base64(&plain);
    Ok(answer)
}

pub(super) fn generate_data_key_without_plaintext(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    data_key(asked, params).map(|(answer, _)| answer)
}

pub(super) fn generate_random(_asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let count = params.number("NumberOfBytes", 1, 1024);
    params.check()?;
    refuse_recipient(params)?;
    if params.has("CustomKeyStoreId") {
        return Err(ApiError::new(Code::UnsupportedOperation, "CustomKeyStoreId is not supported."));
    }
    let count = count.ok_or_else(|| ApiError::new(Code::Validation, "NumberOfBytes is required."))?;
    let mut bytes = Zeroizing::new(vec![0; count as usize]);
    random::fill(&mut bytes);
    Ok(json!({ "Plaintext": base64(&bytes) }))
}

pub(super) fn public_key(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let name = params.key_id();
    params.check()?;
    let found = asked.find(name, Naming::Any)?;
    asked.check_tokens(params, &[&found.cmk.id])?;
    let conditions = found.conditions(asked);
    asked.authorize(&found, "kms:GetPublicKey", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
    let Some(public) = found.cmk.public_key() else {
        let message = format!("{} is a symmetric key and has no public key.", found.arn);
        return Err(ApiError::new(Code::UnsupportedOperation, message));
    };
    Ok(json!({
        "KeyId": found.arn,
        "PublicKey": base64(public),
        "CustomerMasterKeySpec": found.cmk.spec,
        "KeySpec": found.cmk.spec,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "EncryptionAlgorithms": found.cmk.spec.algorithms(),
    }))
}
