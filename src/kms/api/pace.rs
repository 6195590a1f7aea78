//! How many requests of a kind are worked on at once, so that those that take long leave room for the others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::kms::service::Service;

/// Threads that compute answers. More than all permits below, so that some are always left for what is quick.
pub(super) const THREADS: usize = 64;
/// Changes are made one after the other anyway; the others wait for the keystore, each in a thread.
const CHANGES: usize = 8;
/// To make a key pair takes up to some seconds of a processor.
const PAIRS: usize = 2;
/// What waits for the audit log, up to ten seconds.
const LOOKS: usize = 4;

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
}
