//! Many readers and a writer; and more groups than are kept in memory.

use std::sync::atomic::{AtomicBool, Ordering};

use super::backing::{Choices, Memory, create, key, reopen};
use crate::content::geometry::{BLOCK, GROUP};
use crate::content::{Content, Durability};

const BLOCKS: u64 = 200;

/// Every block holds one byte all over at any time: a reader that finds two has seen a write half done.
fn read_whole_blocks(file: &Content<std::sync::Arc<Memory>>, choices: &mut Choices) {
    let first = choices.below(BLOCKS - 8);
    let mut out = vec![0; 8 * BLOCK as usize];
    assert_eq!(file.read(first * BLOCK, &mut out).unwrap(), out.len());
    for block in out.chunks(BLOCK as usize) {
        assert!(block.iter().all(|byte| *byte == block[0]), "a torn block");
    }
}

#[test]
fn readers_see_blocks_as_they_were_or_are() {
    let file = create(Durability::Atomic);
    file.write(0, &vec![1; (BLOCKS * BLOCK) as usize]).unwrap();
    file.sync(true).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (file, done) = (&file, &done);
            scope.spawn(move || {
                let mut choices = Choices(seed);
                while !done.load(Ordering::Acquire) {
                    read_whole_blocks(file, &mut choices);
                    file.seek_hole(0).unwrap();
                    file.state();
                }
            });
        }
        let mut choices = Choices(9);
        for round in 0..200_u64 {
            let (at, count) = (choices.below(BLOCKS - 4), 1 + choices.below(4));
            file.write(at * BLOCK, &vec![round as u8; (count * BLOCK) as usize]).unwrap();
            match round % 9 {
                0 => file.commit().unwrap(),
                4 => file.sync(false).unwrap(),
                7 => file.punch_hole(at * BLOCK, BLOCK).unwrap(),
                _ => {}
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn more_groups_than_are_kept() {
    const GROUPS: u64 = 1500;
    let file = create(Durability::Atomic);
    for group in 0..GROUPS {
        file.write(group * GROUP + 5, &[group as u8; 10]).unwrap();
    }
    file.sync(true).unwrap();
    for file in [reopen(file.backing().snapshot()).unwrap(), file] {
        for group in (0..GROUPS).rev() {
            let mut out = [0; 12];
            file.read(group * GROUP + 4, &mut out).unwrap();
            assert_eq!((out[0], out[1], out[10]), (0, group as u8, group as u8));
            file.write(group * GROUP + 9000, &[1; 10]).unwrap();
        }
        file.sync(true).unwrap();
        assert!(file.cache.lock().groups.len() <= 1100, "groups that nobody needs are dropped");
    }
}

/// What a reader finds out about a crash is kept for the next commit, and never written by the reader itself.
#[test]
fn a_reader_that_mends() {
    let file = create(Durability::Atomic);
    file.write(0, &[1; 10_000]).unwrap();
    file.sync(true).unwrap();
    let old = file.backing().snapshot();
    file.write(0, &[2; 8192]).unwrap();
    file.commit().unwrap();
    let mut left = file.backing().snapshot();
    let mut block = [0; 4096];
    old.read(4096, &mut block);
    left.write(4096, &block);
    let again = Content::open(Memory::of(left), key(1), Durability::Atomic).unwrap();
    let mut out = [0; 8192];
    again.read(0, &mut out).unwrap();
    assert_eq!((out[0], out[4096]), (1, 2));
    assert!(again.backing().calls.lock().is_empty());
    let state = again.state();
    assert!(state.dirty && state.unsettled, "{state:?}");
    again.settle().unwrap();
    assert_eq!(again.state(), Default::default());
    again.read(0, &mut out).unwrap();
    assert_eq!((out[0], out[4096]), (1, 2));
}
