//! Syncs that fail: what they were to make sure of is as unsure as before.

use std::io::ErrorKind;
use std::sync::Arc;

use super::backing::{Call, Fault, Memory, create, read_all, reopen};
use super::faults::{WORKS, is_mixture, outcome, start};
use crate::content::geometry::GROUP;
use crate::content::{Content, Durability};

fn synced(size: usize) -> Content<Arc<Memory>> {
    let file = create(Durability::Atomic);
    file.write(0, &vec![1; size]).unwrap();
    file.sync(true).unwrap();
    file
}

fn fail(file: &Content<Arc<Memory>>, after: usize, for_good: bool) {
    *file.backing().fault.lock() = Some(Fault { after, torn: false, for_good, kind: ErrorKind::Other });
}

fn calls(file: &Content<Arc<Memory>>) -> Vec<Call> {
    std::mem::take(&mut *file.backing().calls.lock())
}

#[test]
fn a_hole_that_was_not_punched_is_written_and_the_process_dies() {
    for failing in [0, 1] {
        for calls in 0.. {
            let file = synced(40_000);
            fail(&file, failing, false);
            file.punch_hole(3 * 4096, 4096).unwrap_err();
            fail(&file, calls, true);
            let done = file.write(3 * 4096, &[7; 4096]).and_then(|()| file.commit()).is_ok();
            let left = read_all(&reopen(file.backing().snapshot()).unwrap()).unwrap();
            let block = &left[3 * 4096..4 * 4096];
            assert!([0, 1, 7].iter().any(|byte| block == [*byte; 4096]), "died after {calls}");
            if done {
                break;
            }
        }
    }
}

#[test]
fn an_inline_page_waits_until_its_length_is_on_the_disk() {
    let file = synced(100);
    file.append(&[2; 900]).unwrap();
    fail(&file, 1, false);
    file.commit().unwrap_err();
    assert_eq!(calls(&file).last(), Some(&Call::Sync));
    file.commit().unwrap();
    assert_eq!(calls(&file), [Call::Sync, Call::Write]);
    // Blocks were written behind it, which may not be on the disk, either.
    let file = synced(100);
    *file.backing().fault.lock() = Some(Fault { after: 0, torn: true, for_good: false, kind: ErrorKind::Other });
    file.append(&[2; 300_000]).unwrap_err();
    calls(&file);
    file.append(&[3; 900]).unwrap();
    file.commit().unwrap();
    assert_eq!(calls(&file)[..2], [Call::Sync, Call::Write]);
}

#[test]
fn the_blocks_of_a_file_stay_until_its_inline_page_is_on_the_disk() {
    let file = synced(9000);
    fail(&file, 1, false);
    file.truncate(100).unwrap_err();
    calls(&file);
    file.append(&[2; 9000]).unwrap();
    let calls = calls(&file);
    let waits = calls.iter().position(|call| *call == Call::Sync);
    assert!(waits.is_some_and(|waits| calls[waits + 1] == Call::SetLen), "{calls:?}");
}

/// The power fails at any call of the sync that comes after one that failed; or after it, when all is there.
#[test]
fn what_a_failed_sync_lost_is_written_again() {
    for (name, size, work) in WORKS {
        let after = outcome(work, size);
        for (failing, died) in (0..).flat_map(|failing| (0..40).map(move |died| (failing, died))) {
            let what = format!("{name}, sync {failing}, died after {died}");
            let (file, before) = start(size, true);
            *file.backing().failing_sync.lock() = Some(failing);
            let worked = work(&file);
            if file.backing().failing_sync.lock().is_some() {
                assert!(worked.is_ok(), "{what}");
                break;
            }
            let now = read_all(&file).unwrap();
            fail(&file, died, true);
            let done = file.sync(true).is_ok();
            let left = file.backing().durable.lock().clone();
            if left.len == 0 {
                continue;
            }
            let left = reopen(left).unwrap_or_else(|error| panic!("{what}: {error}"));
            let left = read_all(&left).unwrap_or_else(|error| panic!("{what}: {error}"));
            let zeros = vec![0; before.len().max(after.len())];
            let half = &before[..before.len().min(GROUP as usize / 2 + 5)];
            let seven = [&before[..], &vec![7; 9000]].concat();
            assert!(is_mixture(&left, &[&before, &after, &zeros, half, &seven]), "{what}");
            assert!(!done || left == now, "{what}: what was synced is not there");
        }
    }
}
