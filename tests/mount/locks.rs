//! flock(2) and fcntl(2) locks.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::harness::wait_until;
use crate::ops::{Errno, open_rw, write};
use crate::place::Place;

const GOT_IT: i32 = 50;
const REFUSED: i32 = 51;

/// Whether another process gets the lock of `kind` (flock, fcntl; shared or not) without waiting.
fn another_process_gets(path: &Path, kind: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("path of this test"));
    command.args(["--exact", "locks::as_another_process", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.env("KMSFS_LOCK_FILE", path).env("KMSFS_LOCK_KIND", kind).status().expect("this test again");
    match status.code() {
        Some(GOT_IT) => true,
        Some(REFUSED) => false,
        other => panic!("the other process ended with {other:?}"),
    }
}

#[test]
#[ignore = "the other process of the lock tests"]
fn as_another_process() {
    let (Ok(path), Ok(kind)) = (std::env::var("KMSFS_LOCK_FILE"), std::env::var("KMSFS_LOCK_KIND")) else { return };
    let file = open_rw(Path::new(&path));
    let outcome = match kind.as_str() {
        "flock" => flock(&file, FlockOperation::NonBlockingLockExclusive),
        "flock shared" => flock(&file, FlockOperation::NonBlockingLockShared),
        "fcntl" => fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive),
        _ => fcntl_lock(&file, FlockOperation::NonBlockingLockShared),
    };
    std::process::exit(match outcome {
        Ok(()) => GOT_IT,
        Err(Errno::AGAIN | Errno::ACCESS) => REFUSED,
        Err(_) => 1,
    });
}

type Lock = fn(&File, FlockOperation) -> Result<(), Errno>;

/// Both families obey the same rules as long as each process opens the file once.
fn exclude_each_other(kind: &str, lock: Lock) {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"x");
    let shared_kind = format!("{kind} shared");
    let file = open_rw(&path);
    assert!(another_process_gets(&path, kind), "nobody holds it");
    lock(&file, FlockOperation::NonBlockingLockExclusive).expect("exclusive");
    assert!(!another_process_gets(&path, kind) && !another_process_gets(&path, &shared_kind), "held");
    lock(&file, FlockOperation::NonBlockingLockShared).expect("down to shared");
    assert!(!another_process_gets(&path, kind), "shared keeps exclusive out");
    assert!(another_process_gets(&path, &shared_kind), "shared lets shared in");
    lock(&file, FlockOperation::Unlock).expect("unlock");
    assert!(another_process_gets(&path, kind), "given up; and the other process lost its own by ending");
    lock(&file, FlockOperation::NonBlockingLockExclusive).expect("exclusive");
    drop(file);
    // A child that another test is just starting has the file, too, from fork(2) to execve(2).
    wait_until("close to give the lock up", || another_process_gets(&path, kind));
}

#[test]
fn flock_excludes_other_processes() {
    exclude_each_other("flock", |file, operation| flock(file, operation));
}

#[test]
fn fcntl_excludes_other_processes() {
    exclude_each_other("fcntl", |file, operation| fcntl_lock(file, operation));
}

#[test]
fn who_waits_for_a_lock_gets_it() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"x");
    let (first, second) = (open_rw(&path), open_rw(&path));
    flock(&first, FlockOperation::LockExclusive).expect("lock");
    assert_eq!(flock(&second, FlockOperation::NonBlockingLockExclusive), Err(Errno::AGAIN));
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(flock(&second, FlockOperation::LockExclusive)).expect("send"));
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
        flock(&first, FlockOperation::Unlock).expect("unlock");
        let answer = receiver.recv_timeout(Duration::from_secs(30)).expect("it gets the lock");
        assert_eq!(answer, Ok(()));
    });
}
