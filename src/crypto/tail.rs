//! The cipher for the last 1 to 15 bytes of a file, for which XTS has no rule (docs/format.md section 5a.2).
//!
//! A balanced Feistel network over the bytes as one number, with AES-256 as round function: for each position, length
//! and key another permutation of all strings of that length. It is to XTS units what one AES block is: nobody learns
//! more from it than whether the same bytes stand at the same place again. 32 rounds, where SP 800-38G has 10 (FF1),
//! because domains as small as one byte need more (Hoang, Tessaro, Trieu, "The Curse of Small Domains", 2018).

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};

use super::Secret;

/// The longest tail in bytes; from 16 on, XTS applies.
pub const MAX_TAIL: usize = 15;

const ROUNDS: u8 = 32;

/// An expanded key for tails.
pub struct TailKey(Aes256);

/// The halves of a tail, of 4 bits for each of its bytes.
type Halves = (u64, u64);

impl TailKey {
    /// Expands the key.
    pub fn new(key: &Secret<32>) -> Self {
        Self(Aes256::new(key.expose().into()))
    }

    /// Encrypts the tail that begins data unit `number`, in place.
    ///
    /// # Panics
    /// If it has not 1 to [`MAX_TAIL`] bytes.
    pub fn encrypt(&self, number: u64, tail: &mut [u8]) {
        run(tail, |bits, halves| {
            (0..ROUNDS).fold(halves, |(left, right), round| (right, left ^ self.round(number, bits, round, right)))
        });
    }

    /// Decrypts the tail that begins data unit `number`, in place. What comes out is not authenticated.
    ///
    /// # Panics
    /// If it has not 1 to [`MAX_TAIL`] bytes.
    pub fn decrypt(&self, number: u64, tail: &mut [u8]) {
        run(tail, |bits, halves| {
            (0..ROUNDS).rev().fold(halves, |(left, right), round| (right ^ self.round(number, bits, round, left), left))
        });
    }

    /// The round function: the low `bits` bits of AES(half u64 | number u64 without its last two bytes | bits | round).
    fn round(&self, number: u64, bits: u32, round: u8, half: u64) -> u64 {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&half.to_le_bytes());
        block[8..14].copy_from_slice(&number.to_le_bytes()[..6]);
        block[14] = bits as u8;
        block[15] = round;
        let mut block = Block::from(block);
        self.0.encrypt_block(&mut block);
        let out: [u8; 16] = block.into();
        let (low, _) = out.split_first_chunk().expect("a block has more than eight bytes");
        u64::from_le_bytes(*low) & mask(bits)
    }
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

fn run(tail: &mut [u8], permute: impl FnOnce(u32, Halves) -> Halves) {
    assert!((1..=MAX_TAIL).contains(&tail.len()), "a tail has 1 to 15 bytes");
    let bits = tail.len() as u32 * 4;
    let mut bytes = [0; 16];
    bytes[..tail.len()].copy_from_slice(tail);
    let number = u128::from_le_bytes(bytes);
    let (left, right) = permute(bits, (number as u64 & mask(bits), (number >> bits) as u64));
    let number = u128::from(left) | u128::from(right) << bits;
    tail.copy_from_slice(&number.to_le_bytes()[..tail.len()]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(fill: u8) -> TailKey {
        TailKey::new(&Secret::build(|to| to.fill(fill)))
    }

    #[test]
    fn every_length_comes_back() {
        for len in 1..=MAX_TAIL {
            let plain: Vec<u8> = (0..len).map(|i| (i * 37) as u8).collect();
            let mut tail = plain.clone();
            key(1).encrypt(9, &mut tail);
            assert_ne!(tail, plain, "{len}");
            key(1).decrypt(9, &mut tail);
            assert_eq!(tail, plain, "{len}");
        }
    }

    #[test]
    fn one_byte_is_a_permutation_that_key_and_place_choose() {
        let table = |fill, number| -> Vec<u8> {
            (0..=255)
                .map(|byte| {
                    let mut tail = [byte];
                    key(fill).encrypt(number, &mut tail);
                    tail[0]
                })
                .collect()
        };
        let first = table(1, 0);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 256);
        for other in [table(1, 1), table(1, 1 << 27), table(2, 0)] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 16, "{same} of 256 bytes agree");
        }
    }

    #[test]
    fn every_bit_of_the_plaintext_changes_half_of_the_ciphertext() {
        for len in 2..=MAX_TAIL {
            let (mut flips, mut trials) = (0, 0);
            for bit in 0..len * 8 {
                for number in 0..16 {
                    let (mut a, mut b) = (vec![0; len], vec![0; len]);
                    b[bit / 8] ^= 1 << (bit % 8);
                    key(3).encrypt(number, &mut a);
                    key(3).encrypt(number, &mut b);
                    flips += a.iter().zip(&b).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
                    trials += len as u32 * 8;
                }
            }
            let share = f64::from(flips) / f64::from(trials);
            assert!((0.44..0.56).contains(&share), "{len}: {share}");
        }
    }
}
