//! What is special about the XTS suite: lengths, tails, holes, and a death of the process at every step.

use std::io;
use std::sync::Arc;

use super::backing::{Bytes, Choices, Fault, Memory, key};
use crate::content::{BackingFile, Durability, TailRecord, XtsContent};

/// Lengths around the edges of AES blocks and units.
fn edges() -> impl Iterator<Item = u64> + Clone {
    (0..=33).chain(4060..=4130).chain(8176..=8209)
}

fn create() -> XtsContent<Arc<Memory>> {
    XtsContent::create(Arc::default(), key(1).key, Durability::Atomic).unwrap()
}

fn open(bytes: Bytes, tail: Option<TailRecord>) -> XtsContent<Arc<Memory>> {
    let memory = Memory::of(bytes);
    *memory.tail.lock() = tail;
    XtsContent::open(memory, key(1).key, Durability::Atomic).unwrap()
}

fn read_all<B: BackingFile>(content: &XtsContent<B>) -> Vec<u8> {
    let mut all = vec![0xee; content.size() as usize];
    assert_eq!(content.read(0, &mut all).unwrap(), all.len());
    all
}

#[test]
fn every_length_is_kept_on_the_backing_file() {
    for len in edges() {
        let plain = Choices(len).bytes(len as usize);
        let content = create();
        content.write(0, &plain).unwrap();
        let bytes = content.backing().snapshot();
        assert_eq!(bytes.len, len);
        let mut sealed = vec![0; len as usize];
        bytes.read(0, &mut sealed);
        assert!(len < 3 || sealed != plain, "{len}: plaintext on the backing file");
        assert_eq!(read_all(&open(bytes, None)), plain, "{len}");
    }
}

#[test]
fn growing_and_shrinking_by_bytes_keeps_what_was_there() {
    let content = create();
    let mut plain = Vec::new();
    for len in edges() {
        let more = Choices(len).bytes(len as usize - plain.len());
        content.append(&more).unwrap();
        plain.extend_from_slice(&more);
        assert_eq!(read_all(&open(content.backing().snapshot(), None)), plain, "{len}");
    }
    for len in edges().collect::<Vec<_>>().into_iter().rev() {
        content.truncate(len).unwrap();
        plain.truncate(len as usize);
        assert_eq!(content.backing().snapshot().len, len);
        assert_eq!(read_all(&open(content.backing().snapshot(), None)), plain, "{len}");
    }
}

#[test]
fn equal_units_look_different_at_different_places_and_under_different_keys() {
    let content = create();
    content.write(0, &[7; 3 * 4096]).unwrap();
    let mut sealed = vec![0; 3 * 4096];
    content.backing().snapshot().read(0, &mut sealed);
    let mut blocks: Vec<&[u8]> = sealed.chunks(16).collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len(), 3 * 256);
    let other = XtsContent::create(Arc::<Memory>::default(), key(2).key, Durability::Atomic).unwrap();
    other.write(0, &[7; 4096]).unwrap();
    let mut first = vec![0; 4096];
    other.backing().snapshot().read(0, &mut first);
    assert_ne!(first, sealed[..4096]);
}

#[test]
fn a_backing_file_that_was_cut_is_noticed_while_it_is_open() {
    let content = create();
    content.write(0, &[7; 9000]).unwrap();
    content.backing().set_len(5000).unwrap();
    let error = content.read(0, &mut [0; 9000]).unwrap_err();
    assert!(matches!(error, crate::content::Error::Truncated { found: 5000, .. }), "{error}");
}

#[test]
fn a_store_without_holes_gets_zeros() {
    let content = create();
    content.write(0, &[7; 40_000]).unwrap();
    *content.backing().fault.lock() =
        Some(Fault { after: 2, torn: false, for_good: false, kind: io::ErrorKind::Unsupported });
    content.punch_hole(100, 36_000).unwrap();
    let all = read_all(&content);
    assert!(all[100..36_100].iter().all(|byte| *byte == 0));
    assert!(all[..100].iter().chain(&all[36_100..]).all(|byte| *byte == 7));
}

#[test]
fn seeking_knows_units_only() {
    let content = create();
    content.truncate(1 << 20).unwrap();
    content.write(300_000, b"middle").unwrap();
    assert_eq!(content.seek_data(5).unwrap(), Some(300_000 / 4096 * 4096));
    assert_eq!(content.seek_data(300_001).unwrap(), Some(300_001));
    assert_eq!(content.seek_hole(300_001).unwrap(), Some((300_000 / 4096 + 1) * 4096));
    assert_eq!(content.seek_hole(7).unwrap(), Some(7));
    assert_eq!(content.seek_data(400_000).unwrap(), None);
    content.truncate((1 << 20) + 5).unwrap();
    assert_eq!(content.seek_data(400_000).unwrap(), Some(1 << 20), "a short unit is never a hole");
    assert_eq!(content.seek_hole(1 << 20).unwrap(), Some((1 << 20) + 5));
}

/// What a process does before it dies.
type Act = fn(&XtsContent<Arc<Memory>>, u64, &[u8]) -> Result<(), crate::content::Error>;

/// Lets the process die at each of its calls in turn, each write as a whole or after some of its pages, and compares
/// what is left with what was and with what should be: each unit must be one of both.
fn dies_anywhere(old: &[u8], act: Act, at: u64, data: &[u8]) {
    let first = create();
    first.write(0, old).unwrap();
    let before = first.backing().snapshot();
    act(&first, at, data).unwrap();
    let new = read_all(&first);
    for torn in [false, true] {
        for after in 0.. {
            let content = open(before.clone(), None);
            *content.backing().fault.lock() = Some(Fault { after, torn, for_good: true, kind: io::ErrorKind::Other });
            let done = act(&content, at, data).is_ok();
            let (bytes, tail) = (content.backing().snapshot(), *content.backing().tail.lock());
            let left = open(bytes.clone(), tail);
            check_units(old, &new, &read_all(&left), (at, after));
            // And again after the next process put it in order.
            left.commit().unwrap();
            assert!(left.backing().tail.lock().is_none() && !left.state().dirty);
            check_units(old, &new, &read_all(&open(left.backing().snapshot(), None)), (at, after));
            if done {
                break;
            }
        }
    }
}

fn check_units(old: &[u8], new: &[u8], found: &[u8], what: (u64, usize)) {
    let (least, most) = (old.len().min(new.len()), old.len().max(new.len()));
    assert!((least..=most).contains(&found.len()), "{what:?}: {} bytes of {} to {}", found.len(), old.len(), new.len());
    for start in (0..found.len()).step_by(4096) {
        let of = |all: &[u8]| {
            let mut unit = all[start.min(all.len())..all.len().min(start + 4096)].to_vec();
            unit.resize(4096, 0);
            unit
        };
        let unit = &found[start..found.len().min(start + 4096)];
        let is = |all: &[u8]| of(all)[..unit.len()] == *unit;
        let zeros = unit.iter().all(|byte| *byte == 0) && start >= old.len();
        assert!(is(old) || is(new) || zeros, "{what:?}: the unit at {start} of {} is neither old nor new", found.len());
    }
}

const LENGTHS: [usize; 14] = [1, 7, 15, 16, 17, 31, 40, 4095, 4096, 4097, 4111, 4112, 8191, 8200];

#[test]
fn a_death_while_cutting_or_growing_loses_nothing() {
    for len in LENGTHS {
        let old = Choices(len as u64).bytes(len);
        for size in edges() {
            dies_anywhere(&old, |content, size, _| content.truncate(size), size, &[]);
        }
    }
}

#[test]
fn a_death_while_writing_loses_nothing() {
    for len in LENGTHS {
        let old = Choices(len as u64).bytes(len);
        for at in [0, 1, 14, 15, 16, 17, 4080, 4095, 4096, 4097, 8190, 12_288, 20_001] {
            for count in [1, 15, 16, 4096, 9000] {
                let data = Choices(at).bytes(count);
                dies_anywhere(&old, |content, at, data| content.write(at, data), at, &data);
            }
        }
    }
}

#[test]
fn a_cut_into_a_hole_reads_as_zeros() {
    for size in edges() {
        let content = create();
        content.truncate(16_384).unwrap();
        content.truncate(size).unwrap();
        assert_eq!(read_all(&open(content.backing().snapshot(), None)), vec![0; size as usize]);
    }
}

#[test]
fn a_kept_tail_of_another_time_changes_nothing() {
    let content = create();
    let plain = Choices(3).bytes(9000);
    content.write(0, &plain).unwrap();
    *content.backing().fault.lock() = Some(Fault { after: 2, torn: false, for_good: true, kind: io::ErrorKind::Other });
    assert!(content.truncate(5000).is_err());
    let (cut, tail) = (content.backing().snapshot(), *content.backing().tail.lock());
    assert!(tail.is_some());
    // Mended, then written again at the same size: the record is stale.
    let mended = open(cut, tail);
    mended.write(4990, b"something").unwrap();
    let stale = open(mended.backing().snapshot(), tail);
    assert!(!stale.state().dirty);
    assert_eq!(read_all(&stale)[4990..4999], *b"something");
    assert_eq!(read_all(&stale)[..4990], plain[..4990]);
    assert!(stale.backing().tail.lock().is_none());
    // Damaged.
    let mut damaged = tail.unwrap();
    damaged[70] ^= 1;
    assert!(!open(mended.backing().snapshot(), Some(damaged)).state().dirty);
}
