//! ReEncrypt: from one key or context to another, without showing the plaintext. Two permissions on two keys.

use serde_json::{Value, json};

use super::asked::Asked;
use super::catalog::Answer;
use super::crypt::{self, ALGORITHMS, Manner, SYMMETRIC, Source};
use super::data::{base64, ciphertext};
use super::names::Naming;
use super::params::{KEY_ID, Params};
use crate::kms::Operation;

pub(super) fn re_encrypt(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (from_key, to_key) = (params.text("SourceKeyId", &KEY_ID), params.needed_text("DestinationKeyId", &KEY_ID));
    let algorithm = |name| params.choice(name, ALGORITHMS).unwrap_or(SYMMETRIC);
    let (from, to) = (algorithm("SourceEncryptionAlgorithm"), algorithm("DestinationEncryptionAlgorithm"));
    let bytes = ciphertext(params, "SourceKeyId")?;
    let from_context = params.context("SourceEncryptionContext")?;
    let to_context = params.context("DestinationEncryptionContext")?;
    let to_found = asked.find(to_key, Naming::Any)?;
    let from_manner = Manner { other_key: Some(&to_found.cmk.id), ..Manner::new(from, &from_context) };
    let (from_id, opening) = match &bytes {
        Some(bytes) => {
            let source = Source { ciphertext: bytes, key: from_key, manner: from_manner, action: "kms:ReEncryptFrom" };
            let opening = crypt::source(asked, params, source)?;
            (opening.found.cmk.id.clone(), Some(opening))
        }
        None => {
            let found = asked.find(from_key.unwrap_or_default(), Naming::Any)?;
            asked.check_tokens(params, &[&found.cmk.id, &to_found.cmk.id])?;
            crypt::allow(asked, &found, "kms:ReEncryptFrom", Operation::Unwrap, &from_manner)?;
            crypt::check_manner(&found.cmk, &from_manner)?;
            (found.cmk.id.clone(), None)
        }
    };
    let to_manner = Manner { other_key: Some(&from_id), ..Manner::new(to, &to_context) };
    crypt::allow(asked, &to_found, "kms:ReEncryptTo", Operation::Wrap, &to_manner)?;
    crypt::check_manner(&to_found.cmk, &to_manner)?;
    let Some(opening) = opening else { return Asked::dry_run(params).map(|()| Value::Null) };
    let plain = opening.open()?;
    let sealed = crypt::encrypt(&to_found.cmk, &plain, &to_manner)?;
    Asked::dry_run(params)?;
    let mut answer = json!({
        "CiphertextBlob": base64(&sealed),
        "SourceKeyId": opening.found.arn,
        "KeyId": to_found.arn,
        "SourceEncryptionAlgorithm": from,
        "DestinationEncryptionAlgorithm": to,
    });
    if let Some(material) = opening.material_id() {
        answer["SourceKeyMaterialId"] = json!(material);
    }
    if !to_found.cmk.spec.is_asymmetric() {
        let material = to_found.cmk.material_id(to_found.cmk.newest().number);
        answer["DestinationKeyMaterialId"] = json!(material);
        asked.trace.material = Some(material);
    }
    Ok(answer)
}
