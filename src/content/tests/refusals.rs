//! A store in which no file may be longer than some length.

use std::sync::Arc;

use super::backing::{Choices, Memory, create, read_all, reopen};
use crate::content::{Content, Durability, Error, backing_len};

const FAR: u64 = 1 << 31;

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
            let (file, mut plain) = start(size, synced, 1 << 30);
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
