//! Random operations on a file, and the same on a vector.

use std::sync::Arc;

use super::backing::{Bytes, Choices, Memory, create, key, reopen};
use crate::content::{BackingFile, Durability, FileContent, backing_len};
use crate::crypto::Suite;

const MOST: u64 = 620 << 10;

struct Model {
    plain: Vec<u8>,
    content: FileContent<Arc<Memory>>,
    durability: Durability,
    choices: Choices,
}

impl Model {
    fn zero(&mut self, at: u64, len: u64) {
        let end = self.plain.len().min((at + len) as usize);
        if (at as usize) < end {
            self.plain[at as usize..end].fill(0);
        }
    }

    fn step(&mut self) {
        let (at, len) = (self.choices.edge(MOST), 1 + self.choices.edge(MOST / 4));
        let keep_size = self.choices.below(2) == 0;
        let grown = if keep_size { self.plain.len() } else { self.plain.len().max((at + len) as usize) };
        match self.choices.below(20) {
            0..=5 => {
                let data = self.choices.bytes(len as usize);
                self.content.write(at, &data).unwrap();
                self.plain.resize(self.plain.len().max((at + len) as usize), 0);
                self.plain[at as usize..][..data.len()].copy_from_slice(&data);
            }
            6 | 7 => {
                let data = self.choices.bytes(self.choices.0 as usize % 9000);
                assert_eq!(self.content.append(&data).unwrap(), self.plain.len() as u64);
                self.plain.extend_from_slice(&data);
            }
            8 | 9 => {
                self.content.truncate(at).unwrap();
                self.plain.resize(at as usize, 0);
            }
            10 => {
                self.content.punch_hole(at, len).unwrap();
                self.zero(at, len);
            }
            11 => {
                self.content.zero_range(at, len, keep_size).unwrap();
                self.zero(at, len);
                self.plain.resize(grown, 0);
            }
            12 => {
                self.content.allocate(at, len, keep_size).unwrap();
                self.plain.resize(grown, 0);
            }
            13 => self.seek(at),
            14 => self.content.commit().unwrap(),
            15 => self.content.sync(keep_size).unwrap(),
            16 => self.content.settle().unwrap(),
            17 => {
                self.content.commit().unwrap();
                let backing = Arc::clone(self.content.backing());
                self.content = FileContent::open(self.content.suite(), backing, key(1), self.durability).unwrap();
            }
            _ => self.read(at, len),
        }
    }

    fn read(&self, at: u64, len: u64) {
        let mut out = vec![0xee; len as usize];
        let read = self.content.read(at, &mut out).unwrap();
        let from = self.plain.len().min(at as usize);
        let expected = &self.plain[from..self.plain.len().min((at + len) as usize)];
        assert!(out[..read] == *expected, "read of {len} at {at}");
        assert!(out[read..].iter().all(|byte| *byte == 0xee), "more was touched than was read");
    }

    fn seek(&self, at: u64) {
        let size = self.plain.len() as u64;
        let (data, hole) = (self.content.seek_data(at).unwrap(), self.content.seek_hole(at).unwrap());
        if at >= size {
            assert_eq!((data, hole), (None, None));
            return;
        }
        let until = data.unwrap_or(size);
        assert!(until >= at && self.plain[at as usize..until as usize].iter().all(|byte| *byte == 0));
        let hole = hole.unwrap();
        assert!(hole >= at && hole <= size);
        if hole < size {
            let end = ((hole / 4096 + 1) * 4096).min(size);
            assert!(self.plain[hole as usize..end as usize].iter().all(|byte| *byte == 0));
            assert_eq!(self.content.seek_hole(hole).unwrap(), Some(hole));
        }
        assert!(data == Some(at) || hole == at, "a byte is in data or in a hole");
    }

    fn backing_len(&self) -> u64 {
        let size = self.plain.len() as u64;
        if self.content.suite() == Suite::Xts4k { size } else { backing_len(size) }
    }

    fn check(&mut self) {
        assert_eq!(self.content.size(), self.plain.len() as u64);
        assert!(read_all(&self.content) == self.plain, "the open file differs");
        if self.choices.below(2) == 0 {
            return;
        }
        self.content.commit().unwrap();
        let state = self.content.state();
        assert!(!state.dirty && !state.needs_barrier, "{state:?} after a commit");
        let bytes = self.content.backing().snapshot();
        assert_eq!(bytes.len, self.backing_len());
        let again = opened(self.content.suite(), bytes);
        assert_eq!(again.size(), self.plain.len() as u64);
        assert!(read_all(&again) == self.plain, "the file differs when opened again");
        assert_eq!(again.backing().calls.lock().len(), 0, "reading must not write");
    }
}

fn opened(suite: Suite, bytes: Bytes) -> FileContent<Arc<Memory>> {
    FileContent::open(suite, Memory::of(bytes), key(1), Durability::Atomic).unwrap()
}

fn read_all(content: &FileContent<Arc<Memory>>) -> Vec<u8> {
    let mut all = vec![0xee; content.size() as usize];
    assert_eq!(content.read(0, &mut all).unwrap(), all.len());
    all
}

fn run(seed: u64, suite: Suite, durability: Durability, steps: usize) {
    let content = FileContent::create(suite, Arc::default(), key(1), durability).unwrap();
    let mut model = Model { plain: Vec::new(), content, durability, choices: Choices(seed) };
    for _ in 0..steps {
        model.step();
        model.check();
    }
}

fn run_all(suite: Suite, durability: Durability) {
    for seed in 0..24 {
        let result = std::panic::catch_unwind(|| run(seed, suite, durability, 40));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_file_is_a_vector_of_bytes_when_atomic() {
    run_all(Suite::Gcm4k, Durability::Atomic);
}

#[test]
fn a_file_is_a_vector_of_bytes_when_fast() {
    run_all(Suite::Gcm4k, Durability::Fast);
}

#[test]
fn an_xts_file_is_a_vector_of_bytes() {
    run_all(Suite::Xts4k, Durability::Atomic);
    run_all(Suite::Xts4k, Durability::Fast);
}

#[test]
fn a_sparse_file_costs_what_was_written() {
    const TIB: u64 = 1 << 40;
    let content = create(Durability::Atomic);
    content.truncate(TIB).unwrap();
    content.write(TIB - 3, b"end").unwrap();
    content.write(TIB / 2, b"middle").unwrap();
    content.commit().unwrap();
    assert_eq!(content.backing().len().unwrap(), backing_len(TIB));
    for content in [content.seek_data(0).map(|_| content).unwrap()]
        .into_iter()
        .flat_map(|content| [reopen(content.backing().snapshot()).unwrap(), content])
    {
        assert_eq!(content.seek_data(0).unwrap(), Some(TIB / 2));
        assert_eq!(content.seek_hole(TIB / 2).unwrap(), Some(TIB / 2 + 4096));
        assert_eq!(content.seek_data(TIB / 2 + 4096).unwrap(), Some(TIB - 4096));
        assert_eq!(content.seek_hole(TIB - 1).unwrap(), Some(TIB));
        let mut out = [0xee; 10];
        assert_eq!(content.read(TIB - 4, &mut out).unwrap(), 4);
        assert_eq!(&out[..4], b"\0end");
        content.read(TIB / 2 - 2, &mut out).unwrap();
        assert_eq!(&out, b"\0\0middle\0\0");
        content.read(TIB / 4, &mut out).unwrap();
        assert_eq!(out, [0; 10]);
    }
}

#[test]
fn a_file_has_an_end() {
    let content = create(Durability::Atomic);
    for error in [content.write(crate::content::MAX_SIZE, b"x"), content.truncate(u64::MAX)] {
        assert!(matches!(error, Err(crate::content::Error::TooLarge { .. })));
    }
    content.truncate(crate::content::MAX_SIZE).unwrap();
    content.commit().unwrap();
    assert_eq!(reopen(content.backing().snapshot()).unwrap().size(), crate::content::MAX_SIZE);
}
