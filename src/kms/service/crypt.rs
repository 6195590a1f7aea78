//! Encrypting and decrypting with a CMK, symmetric or RSA, and the checks that all operations of the data plane share.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::asked::{Asked, Found};
use super::names::Naming;
use super::params::Params;
use super::{ApiError, Code};
use crate::crypto::pair::{self, Oaep};
use crate::kms::blob::{self, Blob, Origin};
use crate::kms::policy::Key;
use crate::kms::{Cmk, EncryptionContext, KeyId, KeySet, Operation};

/// Every encryption algorithm of AWS KMS.
pub(super) const ALGORITHMS: &[&str] = &["SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"];
/// The algorithm of symmetric keys, and the default.
pub(super) const SYMMETRIC: &str = "SYMMETRIC_DEFAULT";
/// Longest ciphertext, in bytes.
pub(super) const MAX_CIPHERTEXT: usize = 6144;

/// How to encrypt or decrypt.
#[derive(Clone, Copy)]
pub(super) struct Manner<'a> {
    pub(super) algorithm: &'static str,
    pub(super) context: &'a EncryptionContext,
    /// The key on the other side of ReEncrypt.
    pub(super) other_key: Option<&'a KeyId>,
}

impl<'a> Manner<'a> {
    pub(super) fn new(algorithm: &'static str, context: &'a EncryptionContext) -> Self {
        Self { algorithm, context, other_key: None }
    }

    /// That of symmetric keys.
    pub(super) fn symmetric(context: &'a EncryptionContext) -> Self {
        Self::new(SYMMETRIC, context)
    }
}

/// Ciphertext that is not what it should be. The wire is told nothing of it.
pub(super) fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidCiphertext, "").because(detail)
}

/// What is said of a ciphertext whose key cannot be told: it is not there, or may not be used.
fn unknown_key(detail: impl Into<String>) -> ApiError {
    let message = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you \
                   are not allowed to access.";
    ApiError::new(Code::AccessDenied, message).because(detail)
}

fn oaep(algorithm: &str) -> Option<Oaep> {
    match algorithm {
        "RSAES_OAEP_SHA_1" => Some(Oaep::Sha1),
        "RSAES_OAEP_SHA_256" => Some(Oaep::Sha256),
        _ => None,
    }
}

/// Refuses an algorithm that the key does not have, and a context where there can be none.
///
/// # Errors
/// InvalidKeyUsageException or ValidationException.
pub(super) fn check_manner(cmk: &Cmk, manner: &Manner<'_>) -> Result<(), ApiError> {
    let (algorithm, spec) = (manner.algorithm, cmk.spec);
    if !spec.algorithms().contains(&algorithm) {
        let message = format!("Algorithm {algorithm} is incompatible with key spec {}.", spec.name());
        return Err(ApiError::new(Code::InvalidKeyUsage, message));
    }
    if spec.is_asymmetric() && manner.context.pairs().next().is_some() {
        let message = "An encryption context can be used with symmetric encryption keys only.";
        return Err(ApiError::new(Code::Validation, message));
    }
    Ok(())
}

/// Whether the principal may do this with the key in this manner, and the state of the key permits it.
pub(super) fn allow(
    asked: &mut Asked<'_>,
    found: &Found,
    action: &str,
    needs: Operation,
    manner: &Manner<'_>,
) -> Result<(), ApiError> {
    let same = manner.other_key.map(|other| if *other == found.cmk.id { "true" } else { "false" });
    let conditions = found
        .conditions(asked)
        .context(manner.context)
        .with(Key::EncryptionAlgorithm, manner.algorithm)
        .with_some(Key::ReEncryptOnSameKey, same);
    asked.authorize(found, action, &conditions)?;
    asked.require(found, needs)
}

/// Encrypts 1 to 4096 bytes.
///
/// # Errors
/// ValidationException if they are too many for an RSA key.
pub(super) fn encrypt(cmk: &Cmk, plain: &[u8], manner: &Manner<'_>) -> Result<Vec<u8>, ApiError> {
    let Some(oaep) = oaep(manner.algorithm) else {
        let (version, material) = cmk.wrapping();
        let origin = Origin { number: cmk.number, version };
        return Ok(blob::seal(origin, material, plain, manner.context).0);
    };
    let (public, kind) = (cmk.public_key().unwrap_or_default(), cmk.spec.pair());
    let most = kind.map_or(0, |kind| oaep.max_plaintext(kind.modulus_bits()));
    if plain.len() > most {
        let (algorithm, spec) = (manner.algorithm, cmk.spec.name());
        let message =
            format!("Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {most} bytes.");
        return Err(ApiError::new(Code::Validation, message));
    }
    pair::oaep_encrypt(public, oaep, plain).map_err(|error| internal(&error))
}

fn internal(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(Code::KmsInternal, "").because(error.to_string())
}

/// A ciphertext whose key is known and may be used, but which was not opened yet.
pub(super) struct Opening<'a> {
    pub(super) found: Found,
    ciphertext: &'a [u8],
    pub(super) manner: Manner<'a>,
    /// The version of a symmetric key's material that it names.
    version: Option<u16>,
}

impl Opening<'_> {
    /// The id of the key material that it was made with. `None` for RSA.
    pub(super) fn material_id(&self) -> Option<String> {
        self.version.map(|version| self.found.cmk.material_id(version))
    }

    /// Opens it.
    ///
    /// # Errors
    /// InvalidCiphertextException.
    pub(super) fn open(&self) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let cmk = &self.found.cmk;
        let Some(version) = self.version else {
            let oaep = oaep(self.manner.algorithm).ok_or_else(|| invalid("no algorithm of RSA"))?;
            let private = cmk.private_key().ok_or_else(|| invalid("the private key of the CMK does not open"))?;
            let opened = pair::oaep_decrypt(&private, oaep, self.ciphertext);
            let plain = opened.map_err(|_| invalid("it was not encrypted for this key, or was altered"))?;
            // An empty message is nothing that this KMS encrypts, and the model knows no empty plaintext.
            return if plain.is_empty() { Err(invalid("it is around nothing")) } else { Ok(plain) };
        };
        let blob = Blob::parse(self.ciphertext).map_err(|reason| invalid(reason.to_string()))?;
        let version = cmk.version(version).ok_or_else(|| invalid(format!("the key has no version {version}")))?;
        let destroyed = || invalid(format!("version {} of the key was destroyed", version.number));
        let material = version.material().ok_or_else(destroyed)?;
        blob.open(material, self.manner.context).map_err(|_| invalid("wrong encryption context or altered blob"))
    }
}

/// What a request says about a ciphertext.
pub(super) struct Source<'a> {
    pub(super) ciphertext: &'a [u8],
    /// The key that it should be under, if the request names one.
    pub(super) key: Option<&'a str>,
    pub(super) manner: Manner<'a>,
    /// `kms:Decrypt` or `kms:ReEncryptFrom`.
    pub(super) action: &'a str,
}

/// Finds the key of a ciphertext, and whether it may be used. A blob names its key; an RSA ciphertext does not.
///
/// # Errors
/// Everything that AWS answers before it decrypts.
pub(super) fn source<'a>(
    asked: &mut Asked<'_>,
    params: &Params<'_>,
    from: Source<'a>,
) -> Result<Opening<'a>, ApiError> {
    let Source { ciphertext, key, manner, action } = from;
    let Some(name) = key else {
        if manner.algorithm != SYMMETRIC {
            let message = format!("You must specify the key for the algorithm {}.", manner.algorithm);
            return Err(ApiError::new(Code::Validation, message));
        }
        let (cmk, version) = of_blob(&asked.keys, ciphertext)?;
        let found = asked.found(cmk, None);
        // Before anything else that could fail: who may not use the key must not learn that it is there.
        allow(asked, &found, action, Operation::Unwrap, &manner).map_err(|error| match error.code {
            Code::AccessDenied => unknown_key(error.detail.unwrap_or_default()),
            _ => error,
        })?;
        asked.check_tokens(params, &keys_of(&found, &manner))?;
        return Ok(Opening { found, ciphertext, manner, version: Some(version) });
    };
    let found = asked.find(name, Naming::Any)?;
    asked.check_tokens(params, &keys_of(&found, &manner))?;
    allow(asked, &found, action, Operation::Unwrap, &manner)?;
    check_manner(&found.cmk, &manner)?;
    if found.cmk.spec.is_asymmetric() {
        return Ok(Opening { found, ciphertext, manner, version: None });
    }
    let origin = Blob::parse(ciphertext).map_err(|reason| invalid(reason.to_string()))?.origin;
    if origin.number != found.cmk.number {
        let message = "The key ID in the request does not identify a CMK that can perform this operation.";
        let detail = format!("the blob is under key number {}", origin.number);
        return Err(ApiError::new(Code::IncorrectKey, message).because(detail));
    }
    Ok(Opening { found, ciphertext, manner, version: Some(origin.version) })
}

/// The keys that the grant tokens of a request may be for.
fn keys_of<'k>(found: &'k Found, manner: &Manner<'k>) -> Vec<&'k KeyId> {
    std::iter::once(&found.cmk.id).chain(manner.other_key).collect()
}

fn of_blob(keys: &KeySet, ciphertext: &[u8]) -> Result<(Arc<Cmk>, u16), ApiError> {
    let origin = Blob::parse(ciphertext).map_err(|reason| invalid(reason.to_string()))?.origin;
    let cmk =
        keys.of_blob(origin.number).map_err(|error| unknown_key(format!("key number {}: {error}", origin.number)))?;
    if cmk.spec.is_asymmetric() {
        return Err(unknown_key(format!("key {} is asymmetric, and its ciphertexts are no blobs", cmk.id.0)));
    }
    if cmk.is_gone() {
        return Err(unknown_key(format!("the deletion date of key {} has passed", cmk.id.0)));
    }
    Ok((Arc::clone(cmk), origin.version))
}
