//! Secrets behind access keys. Nothing of them is stored: all are derived from the keystore's root key.
//!
//! Short-lived credentials stand in their own session token, `version 1 | ends u64 | nonce 8 | uid u32 | name | mac 32`, so
//! that any server of the keystore knows them again. They end by themselves and cannot be taken back sooner.

use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::refusal::Refusal;
use crate::crypto::{Secret, derive, random};
use crate::kms::Keystore;
use crate::kms::access_key::{self, SHORT_LIVED};

const VERSION: u8 = 1;
const FIXED_LEN: usize = 21;
const MAC_LEN: usize = 32;
/// Longest session token in text; the name of a user has 255 bytes at most.
const MAX_TOKEN: usize = 512;
/// How long short-lived credentials may last, in seconds: those of AWS STS.
pub const DURATIONS: std::ops::RangeInclusive<u64> = 900..=43_200;
/// How long they last if nobody says otherwise.
pub const DEFAULT_DURATION: u64 = 3600;

/// The keys from which secrets are derived.
pub struct CredentialKeys {
    access: Secret<32>,
    session: Secret<32>,
}

/// Short-lived credentials, as a client gets them.
pub(super) struct Session {
    pub(super) access_key: String,
    pub(super) secret: Zeroizing<String>,
    pub(super) token: String,
}

/// Whom a session token is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) uid: u32,
    pub(super) name: String,
    pub(super) ends: u64,
}

impl Keystore {
    /// The keys from which secrets of its access keys and short-lived credentials are made.
    pub fn credential_keys(&self) -> CredentialKeys {
        CredentialKeys::new(&self.root)
    }
}

impl CredentialKeys {
    /// Those of the keystore with this root key.
    pub(super) fn new(root: &Secret<32>) -> Self {
        Self { access: derive::access_key_key(root), session: derive::session_key(root) }
    }

    /// The secret of a long-lived access key.
    pub(super) fn access_key_secret(&self, id: &str) -> Zeroizing<String> {
        access_key::secret(&self.access, &[id.as_bytes()])
    }

    /// Credentials for a user until `ends`, in unix seconds.
    pub(super) fn session(&self, uid: u32, name: &str, ends: u64) -> Session {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&ends.to_le_bytes());
        // Programs that sign the same request in the same second do not sign alike.
        bytes.extend_from_slice(&random::array::<8>());
        bytes.extend_from_slice(&uid.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        let (access_key, secret) = (self.session_id(&bytes), self.session_secret(&bytes));
        bytes.extend_from_slice(&derive::hmac(&self.session, &[b"token\0", &bytes]));
        Session { access_key, secret, token: BASE64URL_NOPAD.encode(&bytes) }
    }

    fn session_id(&self, payload: &[u8]) -> String {
        let hash = derive::hmac(&self.session, &[b"id\0", payload]);
        access_key::id(SHORT_LIVED, hash.first_chunk().expect("32 bytes begin with 10"))
    }

    fn session_secret(&self, payload: &[u8]) -> Zeroizing<String> {
        access_key::secret(&self.session, &[b"secret\0", payload])
    }

    /// Whom a session token is for, and the secret that goes with it.
    ///
    /// # Errors
    /// [`Refusal::Unrecognized`] if this keystore did not make it, or not for this access key; [`Refusal::Expired`].
    pub(super) fn open(&self, token: &str, access_key: &str, now: u64) -> Result<(Holder, Zeroizing<String>), Refusal> {
        let (holder, secret) = self.decode(token, access_key).ok_or(Refusal::Unrecognized)?;
        if holder.ends <= now { Err(Refusal::Expired) } else { Ok((holder, secret)) }
    }

    fn decode(&self, token: &str, access_key: &str) -> Option<(Holder, Zeroizing<String>)> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let (payload, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LEN)?)?;
        let expected = derive::hmac(&self.session, &[b"token\0", payload]);
        if !bool::from(expected.ct_eq(mac)) {
            return None;
        }
        let (fixed, name) = payload.split_at_checked(FIXED_LEN)?;
        let is_its_own = fixed[0] == VERSION && self.session_id(payload) == access_key;
        let holder = Holder {
            ends: u64::from_le_bytes(fixed[1..9].try_into().ok()?),
            uid: u32::from_le_bytes(fixed[17..FIXED_LEN].try_into().ok()?),
            name: String::from_utf8(name.to_vec()).ok()?,
        };
        is_its_own.then(|| (holder, self.session_secret(payload)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_opens_with_its_own_access_key_until_it_ends() {
        let keys = CredentialKeys::new(&Secret::random());
        let session = keys.session(1000, "ada", 500);
        let (holder, secret) = keys.open(&session.token, &session.access_key, 499).unwrap();
        assert_eq!(holder, Holder { uid: 1000, name: "ada".into(), ends: 500 });
        assert_eq!((*secret == *session.secret, secret.len()), (true, 40));
        assert_eq!(keys.open(&session.token, &session.access_key, 500).unwrap_err(), Refusal::Expired);
        let other = keys.session(1000, "ada", 500);
        assert!(other.access_key != session.access_key && *other.secret != *session.secret);
        assert_eq!(keys.open(&session.token, &other.access_key, 1).unwrap_err(), Refusal::Unrecognized);
        let foreign = CredentialKeys::new(&Secret::random());
        assert_eq!(foreign.open(&session.token, &session.access_key, 1).unwrap_err(), Refusal::Unrecognized);
    }

    #[test]
    fn a_token_altered_in_any_letter_or_cut_anywhere_is_refused() {
        let keys = CredentialKeys::new(&Secret::random());
        let session = keys.session(1000, "ada", 500);
        for at in 0..session.token.len() {
            let mut altered = session.token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(keys.open(&altered, &session.access_key, 1).unwrap_err(), Refusal::Unrecognized, "letter {at}");
            assert_eq!(keys.open(&session.token[..at], &session.access_key, 1).unwrap_err(), Refusal::Unrecognized);
        }
        let long = "A".repeat(100_000);
        assert_eq!(keys.open(&long, &session.access_key, 1).unwrap_err(), Refusal::Unrecognized);
    }

    #[test]
    fn the_secret_of_an_access_key_depends_on_its_id_and_on_the_keystore() {
        let root = Secret::random();
        let (keys, other) = (CredentialKeys::new(&root), CredentialKeys::new(&Secret::random()));
        assert_eq!(*keys.access_key_secret("AKIA1"), *CredentialKeys::new(&root).access_key_secret("AKIA1"));
        assert_ne!(*keys.access_key_secret("AKIA1"), *keys.access_key_secret("AKIA2"));
        assert_ne!(*keys.access_key_secret("AKIA1"), *other.access_key_secret("AKIA1"));
    }
}
