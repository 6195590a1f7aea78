//! Which requests may take long, and how many of them are worked on at once, so that they leave room for the others.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::block_in_place;

use crate::kms::service::Service;
use crate::kms::{LocalUser, Users};

/// Threads for requests that may take long. More than all permits below, so that some are always left for what is quick.
pub(super) const THREADS: usize = 64;
/// Changes are made one after the other anyway; the others wait for the keystore, each in a thread.
const CHANGES: usize = 8;
/// To make a key pair takes up to some seconds of a processor.
const PAIRS: usize = 2;
/// What waits for the audit log, up to ten seconds.
const LOOKS: usize = 4;

/// What makes a quick operation slow: RSA, and the first use of the service managed key, which is made then.
const SLOW_WORDS: [&[u8]; 2] = [b"RSAES", b"alias/svc/"];
/// A longer body holds more than a ciphertext and its context.
const QUICK_BODY: usize = 16 * 1024;

/// Whether a request is answered in microseconds, so that to hand it to another thread would cost more than the answer.
pub(super) fn is_quick(service: &Service, operation: &str, body: &[u8]) -> bool {
    let says = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
    body.len() <= QUICK_BODY && !service.may_wait(operation) && !SLOW_WORDS.into_iter().any(says)
}

/// Asks for users where that may take long: other connections of the thread are moved to another one meanwhile.
pub(super) struct Patient(pub(super) Box<dyn Users>);

impl Users for Patient {
    fn by_uid(&self, uid: u32) -> io::Result<Option<LocalUser>> {
        block_in_place(|| self.0.by_uid(uid))
    }

    fn by_name(&self, name: &str) -> io::Result<Option<LocalUser>> {
        block_in_place(|| self.0.by_name(name))
    }
}

/// The places for requests that take long.
pub(super) struct Paces {
    changes: Arc<Semaphore>,
    pairs: Arc<Semaphore>,
    looks: Arc<Semaphore>,
}

impl Default for Paces {
    fn default() -> Self {
        let [changes, pairs, looks] = [CHANGES, PAIRS, LOOKS].map(|most| Arc::new(Semaphore::new(most)));
        Self { changes, pairs, looks }
    }
}

impl Paces {
    /// Waits for a place for an operation. `None`: it needs none. To be kept for as long as the work lasts, which does not
    /// end when the client hangs up.
    pub(super) async fn enter(&self, operation: &str) -> Option<OwnedSemaphorePermit> {
        let places = if Service::is_change(operation) {
            &self.changes
        } else if operation.starts_with("GenerateDataKeyPair") {
            &self.pairs
        } else if operation == "GetKeyLastUsage" {
            &self.looks
        } else {
            return None;
        };
        // They are never closed.
        Arc::clone(places).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_takes_long_leaves_threads_for_the_others() {
        const { assert!(CHANGES + PAIRS + LOOKS < THREADS / 2) };
        let paces = Paces::default();
        let enter = |operation| pin!(paces.enter(operation)).poll(&mut Context::from_waker(Waker::noop()));
        let held: Vec<_> = (0..PAIRS).map(|_| enter("GenerateDataKeyPair")).collect();
        assert!(held.iter().all(|held| matches!(held, Poll::Ready(Some(_)))));
        assert!(enter("GenerateDataKeyPairWithoutPlaintext").is_pending());
        for operation in ["CreateKey", "kmsfs.DeleteAccessKey", "GetKeyLastUsage"] {
            assert!(matches!(enter(operation), Poll::Ready(Some(_))), "{operation}");
        }
        for operation in ["Decrypt", "GenerateDataKey", "ListGrants", "Unknown", ""] {
            assert!(matches!(enter(operation), Poll::Ready(None)), "{operation}");
        }
        drop(held);
        assert!(enter("GenerateDataKeyPair").is_ready());
    }

    #[test]
    fn what_may_wait_is_told_from_what_computes_for_microseconds() {
        let home = tempfile::tempdir().unwrap();
        let (keystore, _) = crate::kms::Keystore::create(&home.path().join("ks"), &[], 1).unwrap();
        let service = Service::new(keystore, crate::kms::audit::Options::default()).unwrap();
        let body = br#"{"KeyId": "alias/a", "Plaintext": "eA=="}"#;
        for operation in ["Decrypt", "GenerateDataKey", "GenerateRandom"] {
            assert!(is_quick(&service, operation, body), "{operation}");
        }
        for operation in ["CreateKey", "GenerateDataKeyPair", "GetKeyLastUsage", "kmsfs.ListAccessKeys", "Unknown", ""]
        {
            assert!(!is_quick(&service, operation, body), "{operation}");
        }
        let rsa = br#"{"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}"#;
        let first = br#"{"KeyId": "arn:aws:kms:local:000000000000:alias/svc/kmsfs"}"#;
        for slow in [&rsa[..], &first[..], &[b' '; QUICK_BODY + 1]] {
            assert!(!is_quick(&service, "Decrypt", slow));
        }
    }
}
