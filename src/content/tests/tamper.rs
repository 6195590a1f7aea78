//! Whatever is done to a backing file, a read gives what was written, or an error.

use std::sync::Arc;

use super::backing::{Bytes, Choices, Memory, create, key, read_all, reopen};
use crate::content::geometry::{BLOCK, GROUP, META, block_at, meta_at};
use crate::content::{CipherOffset, Content, Durability, Error, backing_len};

/// A backing file that was synced and settled, and what is in it.
fn file(size: u64, seed: u64) -> (Bytes, Vec<u8>) {
    let plain = Choices(seed).bytes(size as usize);
    let content = create(Durability::Atomic);
    content.write(0, &plain).unwrap();
    content.sync(true).unwrap();
    (content.backing().snapshot(), plain)
}

/// Reads each block on its own; true if all of them were there. A wrong byte or size panics.
fn judge(bytes: Bytes, plain: &[u8], what: &str) -> bool {
    let content = match reopen(bytes) {
        Ok(content) => content,
        Err(Error::CorruptMeta { .. } | Error::CorruptBlock { .. } | Error::Truncated { .. }) => return false,
        Err(error) => panic!("{what}: {error}"),
    };
    assert_eq!(content.size(), plain.len() as u64, "{what}: the size");
    let mut whole = true;
    for (number, expected) in plain.chunks(BLOCK as usize).enumerate() {
        let mut out = vec![0xee; expected.len()];
        match content.read(number as u64 * BLOCK, &mut out) {
            Ok(len) => assert!(len == out.len() && out == expected, "{what}: wrong bytes in block {number}"),
            Err(Error::Io(error)) => panic!("{what}: {error}"),
            Err(_) => {
                whole = false;
                assert!(out.iter().all(|byte| *byte == 0 || *byte == 0xee), "{what}: bytes of a block that is bad");
            }
        }
    }
    whole
}

fn flip(bytes: &Bytes, at: u64, bit: u64) -> Bytes {
    let mut changed = bytes.clone();
    let mut byte = [0];
    changed.read(at, &mut byte);
    changed.write(at, &[byte[0] ^ 1 << bit]);
    changed
}

fn is_mirror(at: u64) -> bool {
    (152..220).contains(&at)
}

#[test]
fn a_flipped_bit_of_an_inline_file() {
    let (bytes, plain) = file(700, 1);
    for at in 0..bytes.len {
        assert_eq!(judge(flip(&bytes, at, at % 8), &plain, &format!("byte {at}")), is_mirror(at), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_of_a_paged_file() {
    let size = 2 * GROUP + 5000;
    let (bytes, plain) = file(size, 2);
    let mut choices = Choices(3);
    let heads = (0..520).chain([600, 700, 4000, 4095]);
    let second = [0, 4, 6, 8, 16, 40, 48, 56, 64, 100, 130, 230, 484, 496, 511, 512, 524, 550, 4095];
    let places: Vec<u64> =
        heads.chain(second.map(|at| meta_at(1).0 + at)).chain((0..120).map(|_| choices.below(bytes.len))).collect();
    for at in places {
        let whole = judge(flip(&bytes, at, at % 8), &plain, &format!("byte {at}"));
        assert_eq!(whole, is_mirror(at), "byte {at}");
    }
}

fn copy(from: &Bytes, source: CipherOffset, to: &mut Bytes, at: CipherOffset, len: u64) {
    let mut part = vec![0; len as usize];
    assert_eq!(from.read(source.0, &mut part), part.len());
    to.write(at.0, &part);
}

#[test]
fn blocks_that_change_places() {
    let size = 2 * GROUP;
    let ((one, plain), (other, _)) = (file(size, 4), file(size, 5));
    for (what, from, source, at) in [
        ("within a group", &one, 3, 4),
        ("between groups", &one, 3, 67),
        ("between files of one key", &other, 3, 3),
        ("between files, elsewhere", &other, 70, 2),
    ] {
        let mut changed = one.clone();
        copy(from, block_at(source), &mut changed, block_at(at), BLOCK);
        assert!(!judge(changed, &plain, what), "{what}");
    }
}

#[test]
fn pages_that_change_places() {
    let size = 3 * GROUP;
    let ((one, plain), (other, _)) = (file(size, 6), file(size, 7));
    for (what, from, source, at) in [
        ("the next group's", &one, 1, 2),
        ("the first group's", &one, 0, 1),
        ("another's as the first", &one, 1, 0),
        ("another file's", &other, 1, 1),
        ("another file's first", &other, 0, 0),
    ] {
        let mut changed = one.clone();
        copy(from, meta_at(source), &mut changed, meta_at(at), META);
        assert!(!judge(changed, &plain, what), "{what}");
    }
}

#[test]
fn what_is_zeroed_is_no_hole() {
    let (bytes, plain) = file(3 * GROUP - 100, 8);
    let places = [block_at(0), block_at(70), meta_at(0), meta_at(1), meta_at(2)];
    for at in places {
        let mut changed = bytes.clone();
        changed.zero(at.0, BLOCK);
        assert!(!judge(changed, &plain, "zeroed"), "{at:?}");
    }
    let mut changed = bytes.clone();
    changed.zero(meta_at(1).0, META + GROUP);
    assert!(!judge(changed, &plain, "a zeroed group"));
}

/// A documented residual of sparse files: a group without a page is a hole. All else in them is as tight as ever.
#[test]
fn what_is_zeroed_in_a_sparse_file() {
    let content = create(Durability::Atomic);
    let data = Choices(9).bytes(3 * 4096);
    content.write(0, &data).unwrap();
    content.write(3 * GROUP, &data).unwrap();
    content.sync(true).unwrap();
    let (bytes, plain) = (content.backing().snapshot(), read_all(&content).unwrap());
    assert!(judge(bytes.clone(), &plain, "untouched"));
    for at in [meta_at(0), block_at(0), block_at(3 * 64 + 1)] {
        let mut changed = bytes.clone();
        changed.zero(at.0, BLOCK);
        assert!(!judge(changed, &plain, "zeroed"), "{at:?}");
    }
    for (at, bit) in [(meta_at(3).0 + 40, 3), (meta_at(3).0 + 600, 0), (meta_at(0).0 + 6, 0)] {
        assert!(!judge(flip(&bytes, at, bit), &plain, "flipped"), "{at}");
    }
    // Bytes in a hole are nobody's.
    assert!(judge(flip(&bytes, block_at(10).0, 1), &plain, "bytes in a hole"));
}

#[test]
fn a_file_that_was_cut() {
    for size in [700, 3584, 3585, 9000, GROUP, GROUP + 1, GROUP + 5000] {
        let (bytes, plain) = file(size, 10);
        let full = backing_len(size);
        assert_eq!(bytes.len, full);
        let steps = (0..full).step_by(if size > 10_000 { 16_384 } else { 512 });
        let edges =
            [1, 511, 512, 513, 4095, 4096, 4097, 8192, full - 1, meta_at(1).0, meta_at(1).0 + 1, block_at(64).0];
        for cut in steps.chain(edges).filter(|cut| *cut > 0 && *cut < full) {
            let mut changed = bytes.clone();
            changed.set_len(cut);
            assert!(!judge(changed, &plain, "cut"), "{size} cut to {cut}");
            // And with the length made good again.
            let mut changed = bytes.clone();
            changed.set_len(cut);
            changed.set_len(full);
            judge(changed, &plain, "cut and extended");
        }
    }
}

/// Between a growth and its sync a file cut to its old length is what a crash leaves. After the sync it was cut.
#[test]
fn a_file_that_grew_is_not_cut_to_what_it_was() {
    type Growth = fn(&Content<Arc<Memory>>);
    let growths: [(u64, Growth); 3] = [
        (GROUP + 8192, |file| assert!(file.append(&[7; 8192]).is_ok())),
        (8192, |file| file.truncate(16_384).unwrap()),
        (3 * GROUP + 5, |file| assert!(file.append(&[7; 100]).is_ok())),
    ];
    for (size, grow) in growths {
        for syncs in [false, true] {
            let content = reopen(file(size, 16).0).unwrap();
            grow(&content);
            content.commit().unwrap();
            let mut cut = content.backing().snapshot();
            cut.set_len(backing_len(size));
            assert_eq!(reopen(cut).unwrap().size(), size);
            if syncs {
                content.sync(false).unwrap()
            } else {
                content.settle().unwrap()
            }
            let mut cut = content.backing().snapshot();
            cut.set_len(backing_len(size));
            let cut = reopen(cut).unwrap();
            assert_ne!(cut.size(), size);
            assert!(matches!(cut.append(b"x"), Err(Error::Truncated { .. })));
            // What is settled is not settled again.
            content.backing().calls.lock().clear();
            content.settle().unwrap();
            assert!(content.backing().calls.lock().is_empty());
        }
    }
}

#[test]
fn a_cut_file_is_not_made_whole_by_writing() {
    let (mut bytes, _) = file(GROUP + 5000, 11);
    bytes.set_len(block_at(3).0 + 10);
    let content = reopen(bytes).unwrap();
    assert!(content.read(0, &mut [0; 8192]).is_ok());
    assert!(matches!(content.read(3 * BLOCK, &mut [0; 1]), Err(Error::Truncated { .. })));
    for result in
        [content.write(0, b"x"), content.truncate(100), content.append(b"x").map(drop), content.punch_hole(0, 9)]
    {
        assert!(matches!(result, Err(Error::Truncated { .. })));
    }
    content.commit().unwrap();
    assert!(content.backing().calls.lock().is_empty());
    content.truncate(0).unwrap();
    content.write(0, b"anew").unwrap();
    content.commit().unwrap();
    assert_eq!(read_all(&reopen(content.backing().snapshot()).unwrap()).unwrap(), b"anew");
}

#[test]
fn what_is_appended_is_ignored_and_trimmed() {
    for size in [1, 3584, 3585, GROUP, GROUP + 10] {
        let (mut bytes, mut plain) = file(size, 12);
        bytes.write(bytes.len, &[0xaa; 300_000]);
        assert!(judge(bytes.clone(), &plain, "appended"), "{size}");
        let content = reopen(bytes).unwrap();
        content.append(b"more").unwrap();
        plain.extend_from_slice(b"more");
        let end = plain.len() as u64 + GROUP;
        content.truncate(end).unwrap();
        plain.resize(end as usize, 0);
        content.commit().unwrap();
        assert_eq!(content.backing().snapshot().len, backing_len(end));
        assert!(judge(content.backing().snapshot(), &plain, "grown over what was appended"), "{size}");
    }
}

#[test]
fn an_old_block_after_a_new_one_is_refused() {
    let (old, mut plain) = file(GROUP, 13);
    let content = reopen(old.clone()).unwrap();
    content.write(5 * BLOCK, &[9; 4096]).unwrap();
    plain[5 * 4096..6 * 4096].fill(9);
    content.commit().unwrap();
    // Before it is settled, the old block is what a crash could leave.
    let mut replayed = content.backing().snapshot();
    copy(&old, block_at(5), &mut replayed, block_at(5), BLOCK);
    assert_ne!(read_all(&reopen(replayed).unwrap()).unwrap(), plain);
    content.settle().unwrap();
    let mut replayed = content.backing().snapshot();
    assert!(judge(replayed.clone(), &plain, "settled"));
    copy(&old, block_at(5), &mut replayed, block_at(5), BLOCK);
    assert!(!judge(replayed, &plain, "replayed"));
}

#[test]
fn another_key_opens_nothing() {
    for size in [100, 5000] {
        let (bytes, _) = file(size, 14);
        let opened = Content::open(super::backing::Memory::of(bytes), key(2), Durability::Atomic);
        assert!(matches!(opened.map(drop), Err(Error::CorruptMeta { group: 0, .. })));
    }
}

#[test]
fn a_page_says_nothing_that_is_not_sealed() {
    // Every header byte, also in a page that is not the first, and with the generation gone back.
    let (bytes, plain) = file(2 * GROUP, 15);
    for at in (0..512).step_by(3) {
        assert!(!judge(flip(&bytes, meta_at(1).0 + at, 7), &plain, "flipped") || is_mirror(at), "byte {at}");
    }
}
