//! Signatures that were used for a change. Whoever overhears one cannot make the change happen once more.
//!
//! AWS's Python clients sign to the second and sign nothing that differs between two equal requests, so equal signatures
//! need not be a replay. What tells them apart is the connection: a signature belongs to the one that brought it first.
//!
//! What a server saw is lost when it ends, so the next one takes no signature from before its own start.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::gate::Signed;
use super::refusal::Refusal;
use super::sigv4::SKEW;
use crate::kms::Principal;

/// Most signatures of one user. Above this, his changes are refused until older signatures have ended.
const MOST_EACH: usize = 100_000;
/// Most signatures of the owner, and of all others together. A change waits for the disk, so no machine comes near.
const MOST: usize = 1_000_000;
/// How long a signature can be valid: as far ahead and as far behind as clocks may be, in seconds.
const LIFE: u64 = 2 * SKEW + 1;

/// The signatures of the last ten minutes.
pub(super) struct Replays {
    // In unix seconds.
    start: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    owner: Signatures,
    // By the ARN of the principal: who fills his own table keeps nobody else from anything.
    others: HashMap<String, Signatures>,
    count_of_others: usize,
    swept: u64,
}

type Signatures = HashMap<[u8; 32], Use>;

struct Use {
    connection: u64,
    when: u64,
}

impl Seen {
    fn sweep(&mut self, now: u64) {
        let is_valid = |one: &Use| one.when + LIFE > now;
        self.owner.retain(|_, one| is_valid(one));
        self.others.retain(|_, signatures| {
            signatures.retain(|_, one| is_valid(one));
            !signatures.is_empty()
        });
        self.count_of_others = self.others.values().map(HashMap::len).sum();
        self.swept = now;
    }
}

impl Replays {
    /// Those that a server will see which begins at `start`, in unix seconds.
    pub(super) fn since(start: u64) -> Self {
        Self { start, seen: Mutex::default() }
    }

    /// Notes that `connection` brought a signature of `principal` for a change, at `now` in unix seconds.
    ///
    /// # Errors
    /// [`Refusal::Replayed`] if another connection brought it before, [`Refusal::Busy`] if a server that ended may have seen
    /// it, or if there are too many.
    pub(super) fn check(
        &self,
        principal: &Principal,
        signed: &Signed,
        connection: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        if signed.time <= self.start {
            return Err(Refusal::Busy);
        }
        let signature = signed.signature;
        let seen = &mut *self.seen.lock();
        if seen.swept + SKEW < now {
            seen.sweep(now);
        }
        let is_owner = *principal == Principal::Root;
        let (signatures, most) = match is_owner {
            true => (&mut seen.owner, MOST),
            false => (seen.others.entry(principal.arn()).or_default(), MOST_EACH),
        };
        if let Some(one) = signatures.get(&signature) {
            return if one.connection == connection { Ok(()) } else { Err(Refusal::Replayed) };
        }
        if signatures.len() >= most || (!is_owner && seen.count_of_others >= MOST) {
            return Err(Refusal::Busy);
        }
        signatures.insert(signature, Use { connection, when: now });
        seen.count_of_others += usize::from(!is_owner);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(signature: [u8; 32]) -> Signed {
        Signed { access_key: String::new(), signature, time: 1000 }
    }

    #[test]
    fn a_signature_is_good_on_one_connection_only_for_as_long_as_it_is_valid() {
        let replays = Replays::since(0);
        for principal in [Principal::Root, Principal::user("ada")] {
            let check = |signature, connection, now| replays.check(&principal, &signed(signature), connection, now);
            assert_eq!(check([1; 32], 1, 1000), Ok(()));
            assert_eq!(check([1; 32], 1, 1000), Ok(()));
            for now in [1000, 1000 + SKEW, 1000 + 2 * SKEW] {
                assert_eq!(check([1; 32], 2, now), Err(Refusal::Replayed), "{now}");
            }
            assert_eq!(check([2; 32], 2, 1000), Ok(()));
        }
    }

    #[test]
    fn signatures_that_have_ended_are_forgotten() {
        let replays = Replays::since(0);
        for principal in [Principal::Root, Principal::user("ada")] {
            for byte in 0..100 {
                replays.check(&principal, &signed([byte; 32]), 1, 1000).unwrap();
            }
        }
        replays.check(&Principal::Root, &signed([200; 32]), 1, 1000 + 2 * LIFE).unwrap();
        let seen = replays.seen.lock();
        assert_eq!((seen.owner.len(), seen.others.len(), seen.count_of_others), (1, 0, 0));
    }

    #[test]
    fn who_makes_too_many_changes_keeps_nobody_else_from_his() {
        let replays = Replays::since(0);
        let signature = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            signed(bytes)
        };
        let (ada, bob) = (Principal::user("ada"), Principal::user("bob"));
        for number in 0..MOST_EACH {
            replays.check(&ada, &signature(number), 1, 1000).unwrap();
        }
        assert_eq!(replays.check(&ada, &signature(MOST_EACH), 1, 1000), Err(Refusal::Busy));
        for other in [&bob, &Principal::Root] {
            assert_eq!(replays.check(other, &signature(MOST_EACH), 1, 1000), Ok(()));
        }
        assert_eq!(replays.check(&ada, &signature(MOST_EACH), 1, 1000 + 2 * LIFE), Ok(()));
    }

    #[test]
    fn what_a_server_before_may_have_seen_is_refused() {
        let replays = Replays::since(1000);
        let check = |time| replays.check(&Principal::Root, &Signed { time, ..signed([1; 32]) }, 1, 1001);
        assert_eq!([999, 1000, 1001].map(check), [Err(Refusal::Busy), Err(Refusal::Busy), Ok(())]);
    }
}
