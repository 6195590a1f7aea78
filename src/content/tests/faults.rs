//! A backing store that fails once, at every call.

use std::io::ErrorKind;
use std::sync::Arc;

use super::backing::{Choices, Fault, Memory, create, read_all, reopen};
use crate::content::geometry::GROUP;
use crate::content::{Content, Durability, Error, backing_len};

pub type File = Content<Arc<Memory>>;
pub type Work = fn(&File) -> Result<(), Error>;

pub const WORKS: [(&str, u64, Work); 13] = [
    ("overwrite", 20_000, |file| file.write(4000, &[7; 9000]).and_then(|()| file.commit())),
    ("append", 20_000, |file| file.append(&[7; 9000]).and_then(|_| file.commit())),
    ("append twice", 20_000, |file| {
        file.append(&[7; 9000])?;
        file.append(&[8; 9000])?;
        file.sync(true)
    }),
    ("next group", GROUP - 10, |file| file.append(&[7; 9000]).and_then(|_| file.sync(false))),
    ("fill a hole", GROUP * 3, |file| {
        file.punch_hole(8192, 8192)?;
        file.write(4096, &[7; 16_000])?;
        file.sync(false)
    }),
    ("inline", 1000, |file| file.write(900, &[7; 900]).and_then(|()| file.commit())),
    ("inline to paged", 1000, |file| file.append(&[7; 300_000]).and_then(|_| file.commit())),
    ("inline to sparse", 1000, |file| file.write(GROUP * 2, &[7; 10]).and_then(|()| file.sync(true))),
    ("paged to inline", 9000, |file| file.truncate(100).and_then(|()| file.sync(true))),
    ("shrink", GROUP + 9000, |file| file.truncate(GROUP / 2 + 5).and_then(|()| file.sync(true))),
    ("shrink and grow", GROUP + 9000, |file| {
        file.truncate(GROUP / 2 + 5)?;
        file.truncate(GROUP * 2 + 5)?;
        file.write(GROUP + 1, &[7; 5000])?;
        file.sync(true)
    }),
    ("zero", 30_000, |file| file.zero_range(100, 20_000, false).and_then(|()| file.sync(true))),
    ("empty", 30_000, |file| {
        file.truncate(0)?;
        file.append(&[7; 9000])?;
        file.sync(true)
    }),
];

/// Whether each block of `bytes` is that of one of `versions`.
pub fn is_mixture(bytes: &[u8], versions: &[&[u8]]) -> bool {
    bytes.chunks(4096).enumerate().all(|(number, block)| {
        versions.iter().any(|version| {
            let there = version.get(number * 4096..).unwrap_or_default();
            let common = there.len().min(block.len());
            block[..common] == there[..common] && block[common..].iter().all(|byte| *byte == 0)
        })
    })
}

pub fn start(size: u64, synced: bool) -> (File, Vec<u8>) {
    let before = Choices(size).bytes(size as usize);
    let file = create(Durability::Atomic);
    file.write(0, &before).unwrap();
    if synced {
        file.sync(true).unwrap();
    }
    (file, before)
}

/// All versions that the work passes through, by doing it with a pause after each call: here, those before and after.
pub fn outcome(work: Work, size: u64) -> Vec<u8> {
    let (file, _) = start(size, true);
    work(&file).unwrap();
    read_all(&file).unwrap()
}

fn fail_at(name: &str, size: u64, work: Work, synced: bool, fault: Fault) -> bool {
    let (file, before) = start(size, synced);
    *file.backing().fault.lock() = Some(fault);
    let what = format!("{name}, synced {synced}, {fault:?}");
    if work(&file).is_ok() {
        return file.backing().fault.lock().is_none();
    }
    assert!(file.backing().fault.lock().is_none(), "{what}: an error that was not injected");
    let after = outcome(work, size);
    // What a user can see on the way: sizes in between, and zeros where something was cut or punched.
    let zeros = vec![0; before.len().max(after.len())];
    let half = &before[..before.len().min(GROUP as usize / 2 + 5)];
    let seven = [&before[..], &vec![7; 9000]].concat();
    let versions: [&[u8]; 5] = [&before, &after, &zeros, half, &seven];
    let now = read_all(&file).unwrap_or_else(|error| panic!("{what}: unreadable: {error}"));
    assert!(is_mixture(&now, &versions), "{what}: wrong bytes after the error");
    file.commit().unwrap_or_else(|error| panic!("{what}: retrying: {error}"));
    let retried = read_all(&file).unwrap_or_else(|error| panic!("{what}: after the retry: {error}"));
    assert!(retried == now, "{what}: the retry changed something");
    assert_eq!(file.backing().snapshot().len, backing_len(now.len() as u64), "{what}: length");
    let again = reopen(file.backing().snapshot()).unwrap_or_else(|error| panic!("{what}: opened again: {error}"));
    assert!(read_all(&again).unwrap_or_else(|error| panic!("{what}: opened again: {error}")) == now, "{what}");
    // And the file goes on as if nothing had been.
    work(&file).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    let now = read_all(&file).unwrap();
    let again = reopen(file.backing().snapshot()).unwrap();
    assert!(read_all(&again).unwrap() == now, "{what}: after more work");
    true
}

fn fail_everywhere(synced: bool, torn: bool) {
    for (name, size, work) in WORKS {
        let mut after = 0;
        for kind in [ErrorKind::StorageFull, ErrorKind::Other].into_iter().cycle() {
            if !fail_at(name, size, work, synced, Fault { after, torn, for_good: false, kind }) {
                break;
            }
            after += 1;
        }
        assert!(after > 0, "{name} calls nothing");
    }
}

#[test]
fn one_error_at_any_call_on_a_synced_file() {
    fail_everywhere(true, false);
}

#[test]
fn one_error_at_any_call_on_a_new_file() {
    fail_everywhere(false, false);
}

#[test]
fn one_torn_write_at_any_call() {
    fail_everywhere(true, true);
    fail_everywhere(false, true);
}

/// Until the retry, a kill finds the file as it was, or as it was becoming.
#[test]
fn an_error_and_then_a_kill() {
    for (name, size, work) in WORKS {
        for after in 0.. {
            let (file, before) = start(size, true);
            *file.backing().fault.lock() = Some(Fault { after, torn: true, for_good: false, kind: ErrorKind::Other });
            if work(&file).is_ok() {
                break;
            }
            let after = outcome(work, size);
            let zeros = vec![0; before.len().max(after.len())];
            let half = &before[..before.len().min(GROUP as usize / 2 + 5)];
            let seven = [&before[..], &vec![7; 9000]].concat();
            let left = file.backing().snapshot();
            if left.len == 0 || (name == "empty" && after != before) {
                continue;
            }
            let again =
                reopen(left).unwrap_or_else(|error| panic!("{name}, call {after:?}: {error}", after = after.len()));
            let now = read_all(&again).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(is_mixture(&now, &[&before, &after, &zeros, half, &seven]), "{name}");
        }
    }
}
