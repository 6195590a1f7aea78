//! Nonces and salts.

use std::collections::HashSet;
use std::sync::Arc;

use super::backing::{Bytes, Choices, Memory, create, key, read_all, reopen};
use crate::content::geometry::{GROUP, meta_at};
use crate::content::{Content, Durability};

fn salt_of(bytes: &Bytes, group: u64) -> [u8; 16] {
    let mut salt = [0; 16];
    bytes.read(meta_at(group).0 + 64, &mut salt);
    salt
}

fn with_limit(mut file: Content<Arc<Memory>>, max_seals: u64) -> Content<Arc<Memory>> {
    file.max_seals = max_seals;
    file
}

#[test]
fn a_spent_salt_is_replaced_and_everything_stays_readable() {
    for durability in [Durability::Atomic, Durability::Fast] {
        let file = with_limit(create(durability), 100);
        let mut plain = Choices(1).bytes(GROUP as usize + 30_000);
        file.write(0, &plain).unwrap();
        file.sync(true).unwrap();
        let mut salts = HashSet::new();
        let mut choices = Choices(2);
        for round in 0..150 {
            let at = choices.below(plain.len() as u64 - 9000) as usize;
            let data = choices.bytes(1 + choices.0 as usize % 9000);
            file.write(at as u64, &data).unwrap();
            plain[at..at + data.len()].copy_from_slice(&data);
            match choices.below(4) {
                0 => file.commit().unwrap(),
                1 => file.sync(false).unwrap(),
                _ => {}
            }
            assert!(read_all(&file).unwrap() == plain, "round {round}");
            let bytes = file.backing().snapshot();
            salts.insert(salt_of(&bytes, 0));
            // A kill between any two calls is in the crash tests; here, one between any two writes.
            reopen(bytes).map(|again| read_all(&again).unwrap()).unwrap();
        }
        assert!(salts.len() > 3, "{} salts", salts.len());
        file.sync(true).unwrap();
        assert!(read_all(&reopen(file.backing().snapshot()).unwrap()).unwrap() == plain);
    }
}

/// A kill at every call around a change of salt: what is there opens as old or as new.
#[test]
fn a_kill_while_the_salt_is_replaced() {
    for limit in [3, 70, 80] {
        let mut calls = 0;
        loop {
            let plain = vec![1; 40_000];
            let file = create(Durability::Atomic);
            file.write(0, &plain).unwrap();
            file.sync(true).unwrap();
            let file = with_limit(file, limit);
            let fault =
                super::backing::Fault { after: calls, torn: false, for_good: false, kind: std::io::ErrorKind::Other };
            *file.backing().fault.lock() = Some(fault);
            let work = || {
                file.write(0, &[2; 5000])?;
                file.write(20_000, &[2; 30_000])?;
                file.commit()?;
                file.write(4096, &[2; 4096])?;
                file.commit()
            };
            let done = work().is_ok();
            let again = reopen(file.backing().snapshot()).unwrap();
            let now = read_all(&again).unwrap();
            let fits = |(at, byte): (usize, &u8)| (1..=2).contains(byte) || (at >= plain.len() && *byte == 0);
            assert!(now.iter().enumerate().all(fits), "limit {limit}, call {calls}");
            if done {
                break;
            }
            calls += 1;
        }
    }
}

#[test]
fn no_nonce_is_used_twice() {
    let file = create(Durability::Fast);
    let mut seen = HashSet::new();
    for round in 0..30 {
        file.write(0, &vec![round; GROUP as usize]).unwrap();
        file.commit().unwrap();
        file.settle().unwrap();
        let bytes = file.backing().snapshot();
        let mut page = [0; 4096];
        bytes.read(0, &mut page);
        assert!(seen.insert(page[484..496].to_vec()), "a page's nonce");
        for entry in page[512..].chunks(56) {
            assert!(entry[28..].iter().all(|byte| *byte == 0), "settled entries have no previous part");
            assert!(seen.insert(entry[..12].to_vec()), "a block's nonce");
        }
    }
    assert_eq!(seen.len(), 30 * 65);
}

#[test]
fn an_inline_file_has_a_fresh_salt_each_time() {
    let file = create(Durability::Fast);
    let salts: HashSet<[u8; 16]> = (0..50)
        .map(|round| {
            file.write(0, &[round; 100]).unwrap();
            file.commit().unwrap();
            salt_of(&file.backing().snapshot(), 0)
        })
        .collect();
    assert_eq!(salts.len(), 50);
}

#[test]
fn the_mirror_is_kept_and_replaced() {
    for size in [100, 5000] {
        let file = create(Durability::Fast);
        file.write(0, &vec![1; size]).unwrap();
        file.commit().unwrap();
        let mirror = |bytes: &Bytes| {
            let mut mirror = [0; 68];
            bytes.read(152, &mut mirror);
            mirror
        };
        assert_eq!(Some(mirror(&file.backing().snapshot())), key(1).mirror);
        let keep = crate::content::ContentKey { mirror: None, ..key(1) };
        let file = Content::open(Arc::clone(file.backing()), keep, Durability::Fast).unwrap();
        file.write(50, b"changed").unwrap();
        file.sync(true).unwrap();
        assert_eq!(Some(mirror(&file.backing().snapshot())), key(1).mirror, "size {size}");
    }
}
