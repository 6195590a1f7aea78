//! How often the disk is waited for: each of these waits is milliseconds for the user.

use std::sync::Arc;

use super::backing::{Call, Memory, create};
use crate::content::geometry::GROUP;
use crate::content::{Content, Durability};

fn waits(file: &Content<Arc<Memory>>, work: impl FnOnce()) -> usize {
    file.backing().calls.lock().clear();
    work();
    file.backing().calls.lock().iter().filter(|call| **call == Call::Sync).count()
}

fn synced(size: u64, durability: Durability) -> Content<Arc<Memory>> {
    let file = create(durability);
    file.write(0, &vec![1; size as usize]).unwrap();
    file.sync(true).unwrap();
    file
}

#[test]
fn a_new_file_waits_once_and_only_when_synced() {
    let file = create(Durability::Atomic);
    let written = waits(&file, || {
        file.write(0, &[1; 300_000]).unwrap();
        file.commit().unwrap();
        file.write(1000, &[2; 300_000]).unwrap();
        file.commit().unwrap();
        file.truncate(5000).unwrap();
        file.settle().unwrap();
    });
    assert_eq!(written, 0);
    assert_eq!(waits(&file, || file.sync(true).unwrap()), 1);
}

#[test]
fn a_sync_of_each_change_waits_as_often_as_it_must() {
    type Change = fn(&Content<Arc<Memory>>);
    let changes: [(&str, u64, usize, Change); 10] = [
        ("nothing", 8192, 1, |_| {}),
        ("whole blocks appended", 8192, 1, |file| drop(file.append(&[2; 8192]))),
        ("a tail grown", 5000, 2, |file| drop(file.append(&[2; 100]))),
        ("a tail grown by more than its block", 5000, 2, |file| drop(file.append(&[2; 9000]))),
        ("blocks overwritten", 40_000, 2, |file| drop(file.write(4096, &[2; 20_000]))),
        ("a group more", GROUP, 2, |file| drop(file.append(&[2; 8192]))),
        ("inline, the same size", 100, 1, |file| drop(file.write(0, &[2; 100]))),
        ("inline, longer", 100, 2, |file| drop(file.append(&[2; 100]))),
        ("emptied and written", 40_000, 1, |file| drop(file.truncate(0).and_then(|()| file.write(0, &[2; 9000])))),
        ("shrunk at a block", 40_960, 2, |file| drop(file.truncate(8192))),
    ];
    for (name, size, expected, change) in changes {
        let file = synced(size, Durability::Atomic);
        let count = waits(&file, || {
            change(&file);
            file.sync(false).unwrap();
        });
        assert_eq!(count, expected, "{name}");
        let file = synced(size, Durability::Fast);
        let count = waits(&file, || {
            change(&file);
            assert!(!file.state().needs_barrier, "{name}");
            file.sync(false).unwrap();
        });
        assert_eq!(count, 1, "{name}, fast");
    }
}

#[test]
fn a_commit_waits_for_earlier_ones_only_if_it_overwrites_what_they_wrote() {
    let file = synced(2 * GROUP, Durability::Atomic);
    let overwrite = |block: u64| {
        waits(&file, || {
            file.write(block * 4096, &[2; 4096]).unwrap();
            file.commit().unwrap();
        })
    };
    assert_eq!((overwrite(3), overwrite(4), overwrite(70)), (1, 1, 1));
    assert_eq!(overwrite(4), 1, "the wait for the page of the last one covered it");
    assert_eq!(overwrite(4), 2);
}

/// What `needs_barrier` says is what the commit does.
#[test]
fn a_commit_that_must_wait_says_so() {
    let file = synced(40_000, Durability::Atomic);
    file.write(0, &[2; 4096]).unwrap();
    assert!(file.state().needs_barrier);
    assert!(waits(&file, || file.commit().unwrap()) > 0);
    let file = synced(40_960, Durability::Atomic);
    file.append(&[2; 4096]).unwrap();
    assert!(!file.state().needs_barrier && file.state().dirty);
    assert_eq!(waits(&file, || file.commit().unwrap()), 0);
}
