//! Signatures that were used for a change. Whoever overhears one cannot make the change happen once more.
//!
//! AWS's Python clients sign to the second and sign nothing that differs between two equal requests, so equal signatures
//! need not be a replay. What tells them apart is the connection: a signature belongs to the one that brought it first.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::refusal::Refusal;
use super::sigv4::SKEW;

/// Above this, changes are refused until older signatures have ended. A change waits for the disk, so no machine comes near.
const MOST: usize = 1_000_000;
/// How long a signature can be valid: as far ahead and as far behind as clocks may be, in seconds.
const LIFE: u64 = 2 * SKEW + 1;

/// The signatures of the last ten minutes.
#[derive(Default)]
pub(super) struct Replays {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    signatures: HashMap<[u8; 32], Use>,
    swept: u64,
}

struct Use {
    connection: u64,
    when: u64,
}

impl Replays {
    /// Notes that `connection` brought a signature for a change, at `now` in unix seconds.
    ///
    /// # Errors
    /// [`Refusal::Replayed`] if another connection brought it before.
    pub(super) fn check(&self, signature: [u8; 32], connection: u64, now: u64) -> Result<(), Refusal> {
        let mut seen = self.seen.lock();
        if seen.swept + SKEW < now {
            seen.signatures.retain(|_, one| one.when + LIFE > now);
            seen.swept = now;
        }
        if let Some(one) = seen.signatures.get(&signature) {
            return if one.connection == connection { Ok(()) } else { Err(Refusal::Replayed) };
        }
        if seen.signatures.len() >= MOST {
            return Err(Refusal::Replayed);
        }
        seen.signatures.insert(signature, Use { connection, when: now });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_on_one_connection_only_for_as_long_as_it_is_valid() {
        let replays = Replays::default();
        assert_eq!(replays.check([1; 32], 1, 1000), Ok(()));
        assert_eq!(replays.check([1; 32], 1, 1000), Ok(()));
        for now in [1000, 1000 + SKEW, 1000 + 2 * SKEW] {
            assert_eq!(replays.check([1; 32], 2, now), Err(Refusal::Replayed), "{now}");
        }
        assert_eq!(replays.check([2; 32], 2, 1000), Ok(()));
    }

    #[test]
    fn signatures_that_have_ended_are_forgotten() {
        let replays = Replays::default();
        for byte in 0..100 {
            replays.check([byte; 32], 1, 1000).unwrap();
        }
        replays.check([200; 32], 1, 1000 + 2 * LIFE).unwrap();
        assert_eq!(replays.seen.lock().signatures.len(), 1);
    }
}
