//! AES-256-XTS in safe Rust: the blocks of a unit run through `aes` side by side. The crate xts-mode, which takes one
//! block after the other, does the units that steal ciphertext.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};
use xts_mode::Xts128;

use super::aead::BLOCK_LEN;
use super::xts::{Xts, tweak};

/// AES blocks that are run together: enough for every backend of `aes`, few enough to stay in the first cache.
const AT_ONCE: usize = 64;

/// AES-256-XTS in safe Rust.
pub struct Aes256Xts {
    data: Aes256,
    tweak: Aes256,
    stealing: Xts128<Aes256>,
}

/// The mask of the next block: doubled in GF(2^128), without a branch on the bit that is carried out (IEEE 1619 section 5.2).
fn double(mask: u128) -> u128 {
    (mask << 1) ^ (0x87 & (mask >> 127).wrapping_neg())
}

/// Byte by byte, which compilers turn into vectors as wide as the ciphers read: words would stall those reads.
fn xor(blocks: &mut [Block], masks: &[[u8; 16]]) {
    for (block, mask) in blocks.iter_mut().zip(masks) {
        for (byte, mask) in block.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

impl Aes256Xts {
    /// Runs one unit in place by `cipher`; false if it has an incomplete block.
    fn unit(&self, number: u128, unit: &mut [u8], cipher: impl Fn(&mut [Block])) -> bool {
        let (blocks, rest) = Array::slice_as_chunks_mut(unit);
        if !rest.is_empty() {
            return false;
        }
        let mut first = Block::from(tweak(number));
        self.tweak.encrypt_block(&mut first);
        let mut mask = u128::from_le_bytes(first.into());
        for blocks in blocks.chunks_mut(AT_ONCE) {
            let masks: [[u8; 16]; AT_ONCE] = std::array::from_fn(|_| {
                let this = mask.to_le_bytes();
                mask = double(mask);
                this
            });
            xor(blocks, &masks);
            cipher(blocks);
            xor(blocks, &masks);
        }
        true
    }
}

impl Xts for Aes256Xts {
    const NAME: &'static str = "RustCrypto";

    fn new(pair: &[u8; 64]) -> Self {
        let expand = |half: &[u8]| Aes256::new_from_slice(half).expect("half of 64 bytes is an AES-256 key");
        let (data, tweak) = (expand(&pair[..32]), expand(&pair[32..]));
        Self { stealing: Xts128::new(data.clone(), tweak.clone()), data, tweak }
    }

    fn encrypt(&self, first: u128, plain: &[u8], sealed: &mut [u8]) {
        for (number, (plain, unit)) in (first..).zip(plain.chunks(BLOCK_LEN).zip(sealed.chunks_mut(BLOCK_LEN))) {
            unit.copy_from_slice(plain);
            if !self.unit(number, unit, |blocks| self.data.encrypt_blocks(blocks)) {
                self.stealing.encrypt_sector(unit, tweak(number).into());
            }
        }
    }

    fn decrypt(&self, first: u128, bytes: &mut [u8]) {
        for (number, unit) in (first..).zip(bytes.chunks_mut(BLOCK_LEN)) {
            if !self.unit(number, unit, |blocks| self.data.decrypt_blocks(blocks)) {
                self.stealing.decrypt_sector(unit, tweak(number).into());
            }
        }
    }
}
