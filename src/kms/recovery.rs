//! The recovery key: 256 random bits, written down by a person.
//!
//! Text form: eight groups of eight base32 letters (RFC 4648: A-Z and 2-7), each group 4 bytes of the key and one check
//! byte over the group's number and those bytes, so that a slip of the pen is found, and found in its group.

use data_encoding::BASE32;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::Secret;

const GROUPS: usize = 8;
const GROUP_LETTERS: usize = 8;
const GROUP_BYTES: usize = 4;

/// Why a text is no recovery key; nothing was tried against the keystore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryKeyError {
    /// A group does not match its check letters.
    #[error("the recovery key is mistyped in group {0} of 8. Next: compare that group with what was written down")]
    Typo(usize),
    /// Letters are missing, or there are too many.
    #[error("a recovery key has 8 groups of 8 letters and digits; this has {0} characters")]
    Length(usize),
}

/// A recovery key. It is printed once, when it is made.
#[derive(Debug, PartialEq, Eq)]
pub struct RecoveryKey(Secret<32>);

impl RecoveryKey {
    /// A fresh one.
    pub fn generate() -> Self {
        Self(Secret::random())
    }

    /// The text to write down: groups joined by hyphens.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP_LETTERS + 1)));
        for (number, part) in self.0.expose().chunks(GROUP_BYTES).enumerate() {
            let mut group = [0; GROUP_BYTES + 1];
            group[..GROUP_BYTES].copy_from_slice(part);
            group[GROUP_BYTES] = check(number, part);
            if number > 0 {
                text.push('-');
            }
            BASE32.encode_append(&group, &mut text);
            group.zeroize();
        }
        text
    }

    /// Reads what a person typed: case, spaces and hyphens do not matter, and 0, 1 and 8 are read as O, I and B.
    ///
    /// # Errors
    /// [`RecoveryKeyError`] names the group with the slip.
    pub fn parse(text: &str) -> Result<Self, RecoveryKeyError> {
        let mut letters = Zeroizing::new(Vec::with_capacity(text.len()));
        letters.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'-').map(normalise));
        if letters.len() != GROUPS * GROUP_LETTERS {
            return Err(RecoveryKeyError::Length(letters.len()));
        }
        let mut key = Zeroizing::new([0; 32]);
        for (number, (group, part)) in letters.chunks(GROUP_LETTERS).zip(key.chunks_mut(GROUP_BYTES)).enumerate() {
            let mut bytes = Zeroizing::new([0; GROUP_BYTES + 1]);
            let decoded = BASE32.decode_mut(group, &mut bytes[..]).is_ok();
            if !decoded || bytes[GROUP_BYTES] != check(number, &bytes[..GROUP_BYTES]) {
                return Err(RecoveryKeyError::Typo(number + 1));
            }
            part.copy_from_slice(&bytes[..GROUP_BYTES]);
        }
        Ok(Self(Secret::build(|out| out.copy_from_slice(&key[..]))))
    }

    pub(super) fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

fn normalise(byte: u8) -> u8 {
    match byte.to_ascii_uppercase() {
        b'0' => b'O',
        b'1' => b'I',
        b'8' => b'B',
        other => other,
    }
}

/// CRC-8 with the AUTOSAR polynomial 0x2F over the group's number and its bytes: it finds every single wrong letter,
/// and swapped groups.
fn check(number: usize, part: &[u8]) -> u8 {
    let mut crc = 0xFF ^ (number as u8);
    for &byte in std::iter::once(&0).chain(part) {
        crc ^= byte;
        for _ in 0..8 {
            crc = if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ 0x2F };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_reads_back_however_it_is_typed() {
        let key = RecoveryKey::generate();
        let text = key.to_text();
        assert_eq!((text.len(), text.split('-').count()), (71, 8));
        assert_eq!(RecoveryKey::parse(&text).unwrap(), key);
        let sloppy = text.replace('-', " \n").to_lowercase().replace('o', "0").replace('i', "1").replace('b', "8");
        assert_eq!(RecoveryKey::parse(&sloppy).unwrap(), key);
    }

    #[test]
    fn every_single_wrong_letter_is_found_in_its_group() {
        let text = RecoveryKey::generate().to_text();
        for (at, old) in text.bytes().enumerate().filter(|(_, byte)| *byte != b'-') {
            for new in BASE32.specification().symbols.bytes().filter(|new| *new != old) {
                let mut typo = text.as_bytes().to_vec();
                typo[at] = new;
                let typo = String::from_utf8(typo).unwrap();
                assert_eq!(RecoveryKey::parse(&typo).unwrap_err(), RecoveryKeyError::Typo(at / 9 + 1));
            }
        }
    }

    #[test]
    fn swapped_groups_foreign_letters_and_wrong_lengths_are_found() {
        let text = RecoveryKey::generate().to_text();
        let mut groups: Vec<&str> = text.split('-').collect();
        groups.swap(0, 1);
        assert!(RecoveryKey::parse(&groups.join("-")).is_err());
        assert_eq!(RecoveryKey::parse(&text[..70]), Err(RecoveryKeyError::Length(63)));
        assert_eq!(RecoveryKey::parse(&text.replacen(|c: char| c != '-', "9", 1)), Err(RecoveryKeyError::Typo(1)));
        assert!(RecoveryKey::parse("").is_err());
    }
}
