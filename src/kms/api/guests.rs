//! How many connections each peer has, so that none takes all the places of a listener.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::gate::Peer;

/// Most connections of one user on a socket, and of one address of the network.
pub(super) const MOST_EACH: usize = 128;

/// Who is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Guest {
    User(u32),
    Address(IpAddr),
}

impl Guest {
    /// `None` for who is not told from others: all users of this machine come over TCP from the same address.
    fn of(peer: Peer) -> Option<Self> {
        match peer {
            Peer::Process { uid, .. } => Some(Self::User(uid)),
            Peer::Network { address, .. } => match address.to_canonical() {
                address if address.is_loopback() => None,
                // Whoever has one address of a network of 64 bits has them all.
                IpAddr::V6(address) => {
                    let network = address.to_bits() >> 64 << 64;
                    Some(Self::Address(Ipv6Addr::from_bits(network).into()))
                }
                address => Some(Self::Address(address)),
            },
        }
    }
}

/// The peers that have connections to one listener.
#[derive(Default)]
pub(super) struct Guests(Mutex<HashMap<Guest, usize>>);

/// The place of one connection, until it is dropped.
pub(super) struct Seat {
    guests: Arc<Guests>,
    guest: Option<Guest>,
}

impl Guests {
    /// A place for one more connection of a peer; `None` if it has too many.
    pub(super) fn seat(self: &Arc<Self>, peer: Peer) -> Option<Seat> {
        let guest = Guest::of(peer);
        if let Some(guest) = guest {
            let mut counts = self.0.lock();
            let count = counts.entry(guest).or_default();
            if *count >= MOST_EACH {
                return None;
            }
            *count += 1;
        }
        Some(Seat { guests: Arc::clone(self), guest })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(guest) = self.guest else { return };
        let mut counts = self.guests.0.lock();
        if let Some(count) = counts.get_mut(&guest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Peer {
        Peer::Network { address: address.parse().unwrap(), with_tls: true }
    }

    #[test]
    fn nobody_takes_the_places_of_others_and_places_come_back() {
        let guests = Arc::new(Guests::default());
        for (peer, same, other) in [
            (Peer::Process { uid: 1, pid: 1 }, Peer::Process { uid: 1, pid: 2 }, Peer::Process { uid: 2, pid: 1 }),
            (network("10.0.0.1"), network("::ffff:10.0.0.1"), network("10.0.0.2")),
            (network("2001:db8::1"), network("2001:db8::ffff:1"), network("2001:db8:0:1::1")),
        ] {
            let mut seats: Vec<Seat> = (0..MOST_EACH).filter_map(|_| guests.seat(peer)).collect();
            assert_eq!(seats.len(), MOST_EACH);
            assert!(guests.seat(same).is_none() && guests.seat(other).is_some(), "{peer:?}");
            seats.pop();
            assert!(guests.seat(same).is_some(), "{peer:?}");
        }
        assert!(guests.0.lock().is_empty());
        let local: Vec<Seat> = (0..=MOST_EACH).filter_map(|_| guests.seat(network("127.0.0.1"))).collect();
        assert_eq!(local.len(), MOST_EACH + 1);
    }
}
