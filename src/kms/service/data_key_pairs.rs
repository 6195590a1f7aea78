//! GenerateDataKeyPair: a key pair whose private key is sealed under a symmetric CMK.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::asked::Asked;
use super::catalog::Answer;
use super::crypt::{self, Manner};
use super::data::{base64, generating_key, refuse_recipient};
use super::params::Params;
use super::{ApiError, Code};
use crate::crypto::pair::{self, PairSpec};

/// Every kind of data key pair of AWS KMS, and those that kmsfs makes.
const SPECS: &[(&str, Option<PairSpec>)] = &[
    ("RSA_2048", Some(PairSpec::Rsa2048)),
    ("RSA_3072", Some(PairSpec::Rsa3072)),
    ("RSA_4096", Some(PairSpec::Rsa4096)),
    ("ECC_NIST_P256", Some(PairSpec::P256)),
    ("ECC_NIST_P384", Some(PairSpec::P384)),
    ("ECC_NIST_P521", None),
    ("ECC_SECG_P256K1", None),
    ("SM2", None),
    ("ECC_NIST_EDWARDS25519", Some(PairSpec::Ed25519)),
    ("ML_KEM_512", None),
    ("ML_KEM_768", None),
    ("ML_KEM_1024", None),
];

fn make(asked: &mut Asked<'_>, params: &Params<'_>) -> Result<(Value, Zeroizing<Vec<u8>>), ApiError> {
    let names: Vec<&'static str> = SPECS.iter().map(|(name, _)| *name).collect();
    let (key, spec) = (params.key_id(), params.needed_choice("KeyPairSpec", &names));
    let context = params.context("EncryptionContext")?;
    refuse_recipient(params)?;
    let found = generating_key(asked, params, key, Some(spec), &context)?;
    let kind = SPECS.iter().find(|(name, _)| *name == spec).and_then(|(_, kind)| *kind);
    let unsupported = || ApiError::new(Code::UnsupportedOperation, format!("KeyPairSpec {spec} is not supported."));
    let kind = kind.filter(|_| pair::SUPPORTED).ok_or_else(unsupported)?;
    Asked::dry_run(params)?;
    let made = pair::generate(kind).map_err(|error| ApiError::new(Code::KmsInternal, "").because(error.to_string()))?;
    let sealed = crypt::encrypt(&found.cmk, &made.private, &Manner::symmetric(&context))?;
    let material = found.cmk.material_id(found.cmk.newest().number);
    asked.trace.material = Some(material.clone());
    let answer = json!({
        "PrivateKeyCiphertextBlob": base64(&sealed),
        "PublicKey": base64(&made.public),
        "KeyId": found.arn,
        "KeyPairSpec": spec,
        "KeyMaterialId": material,
    });
    Ok((answer, made.private))
}

pub(super) fn generate(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let (mut answer, private) = make(asked, params)?;
    answer["PrivateKeyPlaintext"] = base64(&private);
    Ok(answer)
}

pub(super) fn generate_without_plaintext(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    make(asked, params).map(|(answer, _)| answer)
}
