//! A store in which no file may be longer than some length.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backing::{Call, Choices, Memory, create, read_all, reopen};
use crate::content::geometry::GROUP;
use crate::content::{Content, Durability, Error, backing_len};

const LIMIT: u64 = 1 << 32;
const FAR: u64 = 1 << 34;

type File = Content<Arc<Memory>>;
type Growth = fn(&File) -> Result<(), Error>;

fn start(size: u64, synced: bool, limit: u64) -> (File, Vec<u8>) {
    let plain = Choices(size).bytes(size as usize);
    let file = create(Durability::Atomic);
    file.write(0, &plain).unwrap();
    if synced {
        file.sync(true).unwrap();
    }
    *file.backing().limit.lock() = Some(limit);
    (file, plain)
}

fn is_stored(file: &File, plain: &[u8], what: &str) {
    assert!(read_all(file).unwrap() == plain, "{what}");
    file.sync(true).unwrap_or_else(|error| panic!("{what}: {error}"));
    let stored = file.backing().snapshot();
    assert_eq!(stored.len, backing_len(plain.len() as u64), "{what}");
    if !plain.is_empty() {
        assert!(read_all(&reopen(stored).unwrap()).unwrap() == plain, "{what}, opened again");
    }
}

#[test]
fn growth_that_is_refused_leaves_the_file_as_it_was() {
    let growths: [(&str, Growth); 3] = [
        ("truncate", |file| file.truncate(FAR)),
        ("write", |file| file.write(FAR, &[7; 5000])),
        ("zero", |file| file.zero_range(FAR, 5000, false)),
    ];
    for (name, grow) in growths {
        for (size, synced) in [0, 100, 5000, 20_480].into_iter().flat_map(|size| [(size, false), (size, true)]) {
            let what = format!("{name} of {size}, synced {synced}");
            let (file, mut plain) = start(size, synced, LIMIT);
            if size > 4096 {
                file.write(10, &[9; 20]).unwrap();
                plain[10..30].fill(9);
            }
            assert!(matches!(grow(&file), Err(Error::Io(_))), "{what}");
            is_stored(&file, &plain, &what);
            file.append(&[8; 100]).unwrap();
            plain.extend_from_slice(&[8; 100]);
            is_stored(&file, &plain, &what);
        }
    }
}

/// What grew in memory only can be cut again.
#[test]
fn there_is_a_way_back_from_a_size_that_is_refused() {
    for size in [5500, 5400, 5000, 4500, 4096, 4000, 3584, 100, 0] {
        let (file, mut plain) = start(5000, true, backing_len(5500));
        file.write(10, &[9; 20]).unwrap();
        file.append(&[7; 1000]).unwrap();
        plain.extend_from_slice(&[7; 1000]);
        for _ in 0..2 {
            assert!(matches!(file.sync(true), Err(Error::Io(_))));
            file.write(10, &[9; 20]).unwrap();
        }
        plain[10..30].fill(9);
        file.truncate(size).unwrap();
        plain.truncate(size as usize);
        is_stored(&file, &plain, &format!("cut to {size}"));
    }
}

/// Blocks that wait for their place are dropped by a truncation, which keeps the order that they asked for.
#[test]
fn a_truncation_waits_for_what_was_overwritten_before() {
    for limit in [u64::MAX, backing_len(GROUP + 5 * 4096 + 100)] {
        let file = create(Durability::Atomic);
        file.write(0, &vec![1; GROUP as usize + 5 * 4096 + 100]).unwrap();
        file.sync(true).unwrap();
        *file.backing().limit.lock() = Some(limit);
        file.write(GROUP + 3 * 4096, &[2; 4096]).unwrap();
        file.commit().unwrap();
        file.write(GROUP + 3 * 4096, &[3; 4096]).unwrap();
        file.append(&[4; 10]).unwrap();
        file.backing().calls.lock().clear();
        file.truncate(GROUP + 4096).unwrap();
        let calls = file.backing().calls.lock().clone();
        let first = |wanted| calls.iter().position(|call| *call == wanted).unwrap();
        assert!(first(Call::Sync) < first(Call::Write), "{calls:?}");
    }
}

/// Who goes on writing although nothing can be written out is told so before memory is full.
#[test]
fn what_cannot_be_written_out_does_not_become_more() {
    let size = (32 << 20) + 100;
    let (file, _) = start(size, true, backing_len(size));
    file.append(&[7; 10]).unwrap();
    let refused = (0..32_u64 << 8).filter(|number| file.write(number * 4096, &[8; 4096]).is_err()).count();
    let waiting = file.pending_bytes.load(Ordering::Relaxed);
    assert!(refused > 0 && waiting <= (8 << 20) + (2 << 20), "{waiting} bytes wait");
}
