//! Access keys: what a request over TCP is signed with (AWS IAM user guide, "Managing access keys for IAM users").
//!
//! The record of an access key holds no secret: the secret is derived from the keystore's root key and the id. An id is
//! made once and has 80 random bits, so no two access keys share a secret, and what is deleted does not come back.

use data_encoding::{BASE32_NOPAD, BASE64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Keystore;
use crate::crypto::{Secret, derive, random};

/// What the id of a long-lived access key begins with, as IAM's.
pub const LONG_LIVED: &str = "AKIA";
/// What the id of short-lived credentials begins with, as those of AWS STS.
pub const SHORT_LIVED: &str = "ASIA";
/// The bytes of an HMAC that make a secret: 40 letters, as AWS's secrets have.
const SECRET_LEN: usize = 30;

/// A long-lived access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// `AKIA` and 16 letters or digits.
    pub id: String,
    /// The ARN of the principal that it signs for.
    pub principal: String,
    /// The id of that user when it was made. One without, for a user, is not accepted: nobody can tell whether the user who
    /// has the name now is the same. The owner's have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// When it was made, in unix seconds.
    pub created: u64,
    /// When it ends by itself, in unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl AccessKey {
    /// A fresh one.
    pub fn generate(principal: String, uid: Option<u32>, created: u64, expires: Option<u64>) -> Self {
        Self { id: id(LONG_LIVED, &random::array()), principal, uid, created, expires }
    }
}

/// The id of an access key: a prefix and 16 base32 letters (RFC 4648), as AWS writes them.
pub(super) fn id(prefix: &str, random: &[u8; 10]) -> String {
    format!("{prefix}{}", BASE32_NOPAD.encode(random))
}

/// A secret access key as text, from the key that all secrets of a keystore are made from.
pub(super) fn secret(key: &Secret<32>, parts: &[&[u8]]) -> Zeroizing<String> {
    let bytes = Zeroizing::new(derive::hmac(key, parts));
    Zeroizing::new(BASE64.encode(&bytes[..SECRET_LEN]))
}

impl Keystore {
    /// The secret of a long-lived access key.
    pub(super) fn access_key_secret(&self, id: &str) -> Zeroizing<String> {
        secret(&derive::access_key_key(&self.root), &[id.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_looks_like_one_of_iam() {
        let (one, two) =
            (AccessKey::generate(String::new(), None, 1, None), AccessKey::generate(String::new(), None, 1, None));
        assert_eq!((one.id.len(), &one.id[..4]), (20, "AKIA"));
        assert!(one.id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()));
        assert_ne!(one.id, two.id);
    }
}
