//! Grant tokens: proof that CreateGrant was answered. They identify a grant and allow nothing by themselves.
//!
//! `1 | grant id 32 | nonce 16 | HMAC-SHA-256 32` in base64url, where the HMAC covers what precedes it.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use subtle::ConstantTimeEq;

use super::Grant;
use crate::crypto::{Secret, derive, random};
use crate::kms::KeyId;
use crate::kms::service::{ApiError, Code};

const VERSION: u8 = 1;
const ID: usize = 32;
const NONCE: usize = 16;
const SIGNED: usize = 1 + ID + NONCE;
const LEN: usize = SIGNED + 32;

/// Makes and reads the grant tokens of a keystore.
pub struct TokenKey(Secret<32>);

impl TokenKey {
    /// The key of the keystore with this root key.
    pub fn derive(root: &Secret<32>) -> Self {
        Self(derive::grant_token_key(root))
    }

    /// A new token for the grant with this id of 64 hexadecimal digits. All tokens of a grant are worth the same.
    ///
    /// # Panics
    /// If the id is none.
    pub fn issue(&self, grant_id: &str) -> String {
        let id = HEXLOWER.decode(grant_id.as_bytes()).expect("a grant id is hexadecimal");
        let mut token = vec![VERSION];
        token.extend_from_slice(&id);
        token.extend_from_slice(&random::array::<NONCE>());
        assert_eq!(token.len(), SIGNED, "a grant id has 64 digits");
        let mac = derive::hmac(&self.0, &[&token]);
        token.extend_from_slice(&mac);
        BASE64URL_NOPAD.encode(&token)
    }

    /// The id of the grant that a token was issued for.
    ///
    /// # Errors
    /// InvalidGrantTokenException for whatever this keystore did not issue.
    pub fn open(&self, token: &str) -> Result<String, ApiError> {
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| invalid("it is no base64url"))?;
        let bytes: &[u8; LEN] = bytes.as_slice().try_into().map_err(|_| invalid("it has the wrong length"))?;
        let (signed, mac) = bytes.split_at(SIGNED);
        if signed[0] != VERSION || !bool::from(derive::hmac(&self.0, &[signed]).ct_eq(mac)) {
            return Err(invalid("this keystore did not issue it"));
        }
        Ok(HEXLOWER.encode(&signed[1..1 + ID]))
    }

    /// Checks the tokens that come with a request for one key. A token of a grant that is gone is good and gives nothing.
    /// Grants are in force at once, so the tokens have no further effect.
    ///
    /// # Errors
    /// InvalidGrantTokenException for a token that was not issued here or is for another key.
    pub fn check<'g>(
        &self,
        tokens: &[String],
        key: &KeyId,
        find: impl Fn(&str) -> Option<&'g Grant>,
    ) -> Result<(), ApiError> {
        for token in tokens {
            let id = self.open(token)?;
            if find(&id).is_some_and(|grant| grant.key != *key) {
                return Err(invalid("it is for a grant of another key"));
            }
        }
        Ok(())
    }
}

fn invalid(detail: &str) -> ApiError {
    ApiError::new(Code::InvalidGrantToken, "Invalid grant token.").because(format!("invalid grant token: {detail}"))
}
