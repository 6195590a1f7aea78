//! What is sealed before the file is locked, and what others do to the file before it is.

use std::sync::Arc;

use super::backing::{Choices, Memory, create, read_all, reopen};
use crate::content::ahead::Ahead;
use crate::content::geometry::{BLOCK, GROUP, GROUP_BLOCKS, group_of, slot_of};
use crate::content::{Content, Durability};

type File = Content<Arc<Memory>>;

fn write_with(file: &File, at: u64, data: &[u8], ahead: &mut Ahead) {
    let mut state = file.state.write();
    file.write_in(&mut state, at, data, ahead).unwrap();
    file.publish(&state);
}

/// How many of the seals that were made ahead are in the pages now.
fn used(file: &File, sealed: &[(u64, crate::content::meta::Seal)]) -> usize {
    let cache = file.cache.lock();
    let is_there = |(block, seal): &&(u64, crate::content::meta::Seal)| {
        cache.groups[&group_of(*block)].meta.entries[slot_of(*block)].current == *seal
    };
    sealed.iter().filter(is_there).count()
}

type Change = fn(&mut File);

/// What happens between the sealing and the writing of the second and third group of a file, and how many of the 128 seals are
/// still good then.
const CHANGES: [(&str, Change, usize); 8] = [
    ("nothing", |_| {}, 128),
    ("another write in both groups", |file| file.write(2 * GROUP - 5000, &[7; 10_000]).unwrap(), 128),
    ("a sync", |file| file.sync(true).unwrap(), 128),
    ("holes", |file| file.punch_hole(GROUP, 2 * GROUP).unwrap(), 128),
    ("a cut within the second group", |file| file.truncate(GROUP + 10).unwrap(), 64),
    ("a cut to one byte", |file| file.truncate(1).unwrap(), 0),
    ("a cut to nothing, and growth", |file| (file.truncate(0).unwrap(), file.write(3 * GROUP, &[1]).unwrap()).1, 0),
    (
        "a spent salt in the second group",
        |file| {
            file.max_seals = 64;
            file.write(GROUP, &[8; 10]).unwrap();
        },
        0,
    ),
];

#[test]
fn what_is_not_good_any_more_is_sealed_anew() {
    for (what, change, good) in CHANGES {
        for (durability, synced) in [(Durability::Atomic, true), (Durability::Atomic, false), (Durability::Fast, true)]
        {
            let mut file = create(durability);
            file.write(0, &vec![1; 4 * GROUP as usize]).unwrap();
            if synced {
                file.sync(true).unwrap();
            }
            let data = Choices(3).bytes(2 * GROUP as usize);
            let mut ahead = file.seal_ahead(GROUP, &data);
            let sealed: Vec<_> = (GROUP_BLOCKS..).zip(ahead.seals()).collect();
            assert_eq!(sealed.len(), 128);
            change(&mut file);
            let mut expected = read_all(&file).unwrap();
            expected.resize(expected.len().max(3 * GROUP as usize), 0);
            expected[GROUP as usize..3 * GROUP as usize].copy_from_slice(&data);
            write_with(&file, GROUP, &data, &mut ahead);
            assert_eq!(used(&file, &sealed), good, "{what}");
            assert!(read_all(&file).unwrap() == expected, "{what}");
            file.commit().unwrap();
            assert!(read_all(&reopen(file.backing().snapshot()).unwrap()).unwrap() == expected, "{what}");
        }
    }
}

#[test]
fn groups_behind_the_end_are_made_ahead() {
    let file = create(Durability::Atomic);
    file.write(0, &vec![1; GROUP as usize]).unwrap();
    let data = Choices(4).bytes(2 * GROUP as usize);
    let (mut one, mut two) = (file.seal_ahead(GROUP, &data), file.seal_ahead(GROUP, &data));
    let sealed: Vec<_> = (GROUP_BLOCKS..).zip(one.seals()).collect();
    write_with(&file, GROUP, &data, &mut one);
    assert_eq!(used(&file, &sealed), 128);
    // The groups are there now, under other salts.
    write_with(&file, GROUP, &data, &mut two);
    assert_eq!(used(&file, &sealed), 0);
    file.sync(true).unwrap();
    let again = read_all(&reopen(file.backing().snapshot()).unwrap()).unwrap();
    assert!(again[GROUP as usize..] == data);
}

#[test]
fn parts_of_blocks_are_left_to_the_lock() {
    let file = create(Durability::Atomic);
    file.write(0, &vec![1; 2 * GROUP as usize]).unwrap();
    assert_eq!(file.seal_ahead(1, &vec![2; BLOCK as usize]).seals().len(), 0);
    assert_eq!(file.seal_ahead(GROUP, &vec![2; 5000]).seals().len(), 0);
    assert_eq!(file.seal_ahead(GROUP - 1, &vec![2; 1 + BLOCK as usize]).seals().len(), 1);
    assert_eq!(file.seal_ahead(u64::MAX - 5, &vec![2; BLOCK as usize]).seals().len(), 0);
}

/// Writers of whole blocks meet in the same groups, some of which spend their salts: a block is always one of what they wrote.
#[test]
fn many_writers() {
    const GROUPS: u64 = 6;
    for durability in [Durability::Atomic, Durability::Fast] {
        let mut file = create(durability);
        file.max_seals = 3000;
        std::thread::scope(|scope| {
            for seed in 1..=3_u8 {
                let file = &file;
                scope.spawn(move || {
                    let mut choices = Choices(seed.into());
                    for round in 0..150 {
                        let at = choices.below((GROUPS - 2) * GROUP_BLOCKS) * BLOCK;
                        let count = 1 + choices.below(2 * GROUP_BLOCKS - 1);
                        file.write(at, &vec![seed; (count * BLOCK) as usize]).unwrap();
                        match round % 20 {
                            3 => file.sync(false).unwrap(),
                            9 => file.commit().unwrap(),
                            15 if seed == 1 => file.truncate(choices.below(GROUPS * GROUP_BLOCKS) * BLOCK).unwrap(),
                            _ => {}
                        }
                    }
                });
            }
        });
        let now = read_all(&file).unwrap();
        for block in now.chunks(BLOCK as usize) {
            assert!(block[0] <= 3 && block.iter().all(|byte| *byte == block[0]), "a torn block");
        }
        file.sync(true).unwrap();
        assert!(read_all(&reopen(file.backing().snapshot()).unwrap()).unwrap() == now);
    }
}
