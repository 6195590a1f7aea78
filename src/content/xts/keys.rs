//! Keys, units and tails: which bytes are encrypted by what.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::UNIT;
use crate::content::Error;
use crate::crypto::tail::TailKey;
use crate::crypto::xts::{MIN_UNIT, XtsKey};
use crate::crypto::{DataKey, derive};

/// Units under one pair of keys: a TiB (IEEE 1619-2025 wants no more than 2^44 AES blocks, this is 2^36).
const SCOPE_BITS: u32 = 28;
/// Scopes behind the first that are kept for a file.
const MAX_SCOPES: usize = 16;

/// The keys of one scope.
struct Scope {
    units: XtsKey,
    tail: TailKey,
}

impl Scope {
    fn new(key: &DataKey, number: u64) -> Result<Arc<Self>, Error> {
        let units = XtsKey::new(&derive::xts_keys(key, number)).map_err(|_| Error::EqualHalves)?;
        Ok(Arc::new(Self { units, tail: derive::tail_key(key, number) }))
    }
}

/// The keys of a file.
pub struct UnitKeys {
    key: DataKey,
    first: Arc<Scope>,
    /// Those of other scopes that were used.
    more: Mutex<BTreeMap<u64, Arc<Scope>>>,
}

/// Consecutive units in one scope.
struct Piece {
    scope: u64,
    /// Number of the first unit within the scope.
    unit: u64,
    /// Length in bytes.
    len: usize,
}

/// `len` bytes from unit `first` on, cut at scopes.
fn pieces(first: u64, len: usize) -> impl Iterator<Item = Piece> {
    let (mut unit, mut left) = (first, len);
    std::iter::from_fn(move || {
        let within = unit & ((1 << SCOPE_BITS) - 1);
        let room = ((1_u64 << SCOPE_BITS) - within) * UNIT as u64;
        let piece = Piece { scope: unit >> SCOPE_BITS, unit: within, len: room.min(left as u64) as usize };
        unit += (piece.len / UNIT) as u64;
        left -= piece.len;
        (piece.len > 0).then_some(piece)
    })
}

/// The length of what XTS encrypts: all but a last unit of less than 16 bytes.
fn without_tail(len: usize) -> usize {
    if len % UNIT < MIN_UNIT { len - len % UNIT } else { len }
}

impl UnitKeys {
    /// The keys that `key` gives.
    pub fn new(key: DataKey) -> Result<Self, Error> {
        Ok(Self { first: Scope::new(&key, 0)?, more: Mutex::default(), key })
    }

    fn scope(&self, number: u64) -> Result<Arc<Scope>, Error> {
        if number == 0 {
            return Ok(self.first.clone());
        }
        let mut more = self.more.lock();
        if let Some(scope) = more.get(&number) {
            return Ok(scope.clone());
        }
        if more.len() >= MAX_SCOPES {
            more.clear();
        }
        let scope = Scope::new(&self.key, number)?;
        more.insert(number, scope.clone());
        Ok(scope)
    }

    /// Encrypts consecutive units, the first of them number `first`, of which only the last may be short.
    pub fn seal(&self, first: u64, plain: &[u8], sealed: &mut [u8]) -> Result<(), Error> {
        let (mut plain, mut sealed) = (plain, sealed);
        for piece in pieces(first, plain.len()) {
            let scope = self.scope(piece.scope)?;
            let (from, rest) = plain.split_at(piece.len);
            let (to, sealed_rest) = sealed.split_at_mut(piece.len);
            (plain, sealed) = (rest, sealed_rest);
            let whole = without_tail(piece.len);
            scope.units.encrypt(piece.unit, &from[..whole], &mut to[..whole]);
            if whole < piece.len {
                to[whole..].copy_from_slice(&from[whole..]);
                scope.tail.encrypt(piece.unit + (whole / UNIT) as u64, &mut to[whole..]);
            }
        }
        Ok(())
    }

    /// Decrypts consecutive units in place. Holes stay zeros.
    pub fn open(&self, first: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let mut bytes = bytes;
        for piece in pieces(first, bytes.len()) {
            let scope = self.scope(piece.scope)?;
            let (these, rest) = bytes.split_at_mut(piece.len);
            bytes = rest;
            let (units, tail) = these.split_at_mut(without_tail(piece.len));
            let whole = units.len();
            let mut at = 0;
            while at < whole {
                let (start, hole) = (at, is_hole(units, at));
                while at < whole && is_hole(units, at) == hole {
                    at += UNIT;
                }
                if !hole {
                    scope.units.decrypt(piece.unit + (start / UNIT) as u64, &mut units[start..at.min(whole)]);
                }
            }
            if !tail.is_empty() {
                scope.tail.decrypt(piece.unit + (whole / UNIT) as u64, tail);
            }
        }
        Ok(())
    }
}

/// Whether the unit that begins at `at` is a whole one of zeros. Any other begins with 16 of them once in 2^128.
pub fn is_hole(units: &[u8], at: usize) -> bool {
    let Some(unit) = units.get(at..at + UNIT) else { return false };
    unit[..MIN_UNIT] == [0; MIN_UNIT] && unit == [0; UNIT]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_scopes() {
        let last = (1 << SCOPE_BITS) - 1;
        let all: Vec<_> = pieces(last, 2 * UNIT + 5).map(|p| (p.scope, p.unit, p.len)).collect();
        assert_eq!(all, [(0, last, UNIT), (1, 0, UNIT + 5)]);
        assert_eq!(pieces(7, 0).count(), 0);
    }

    #[test]
    fn each_scope_has_keys_of_its_own() {
        let keys = UnitKeys::new(DataKey::random()).unwrap();
        let plain = [7; UNIT];
        let sealed = |unit| {
            let mut sealed = [0; UNIT];
            keys.seal(unit, &plain, &mut sealed).unwrap();
            sealed
        };
        assert_ne!(sealed(0), sealed(1 << SCOPE_BITS));
        assert_ne!(sealed(0), sealed(1));
        let mut both = [sealed(5 << SCOPE_BITS), sealed((5 << SCOPE_BITS) + 1)].concat();
        keys.open(5 << SCOPE_BITS, &mut both).unwrap();
        assert_eq!(both, [plain, plain].concat());
    }

    #[test]
    fn holes_stay_zeros_and_what_is_no_hole_does_not() {
        let keys = UnitKeys::new(DataKey::random()).unwrap();
        let mut bytes = vec![0; 3 * UNIT + 5];
        keys.seal(1, &[3; UNIT], &mut bytes[UNIT..2 * UNIT]).unwrap();
        keys.open(0, &mut bytes).unwrap();
        assert!(bytes[..UNIT].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[UNIT..2 * UNIT], [3; UNIT]);
        assert!(bytes[2 * UNIT..3 * UNIT].iter().all(|byte| *byte == 0));
        let mut short = vec![0; UNIT - 1];
        keys.open(0, &mut short).unwrap();
        assert!(short.iter().any(|byte| *byte != 0), "a short unit is never a hole");
    }
}
