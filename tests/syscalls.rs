//! What one operation of a program costs in FUSE requests and in system calls of the daemon, counted with strace.
//!
//! No clock: a regression is seen on a busy machine as well. Run as root.
//! `KMSFS_PASSTHROUGH=PROGRAM` names libfuse's passthrough_ll for the comparison, which `scripts/bench --calls` asks for.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "syscalls/operations.rs"]
mod operations;
#[path = "syscalls/served.rs"]
mod served;
#[path = "syscalls/trace.rs"]
mod trace;

use harness::{sidecars, skipped_in_plain_mode, xts};
use operations::{OPERATIONS, Operation};
use served::{Passthrough, Served, Volume};
use trace::{Count, Trace};

/// The most that each operation may cost: requests answered, and calls of the workers besides answering them.
/// A change that needs less lowers the figure here and in docs/performance.md. A rename needs two calls less where nobody
/// traces it: the clock that stamps it goes on under strace, before the kernel tells the time that the store has already.
const RECORD: &[(&str, u32, u32)] = &[
    ("create, write 1 KiB, close", 8, 13),
    ("open, read, close; cold", 5, 6),
    ("open, read, close; warm", 3, 5),
    ("stat; cold", 1, 1),
    ("stat; warm", 0, 0),
    ("rename", 5, 8),
    ("unlink", 4, 4),
    ("mkdir", 3, 12),
    ("list 100 names; cold", 5, 111),
    ("list 100 names; warm", 3, 1),
];

/// What `operation` costs on `served`, on average.
fn cost(served: &mut dyn Served, operation: &Operation) -> Count {
    let folder = served.dir().join(operation.name.replace([' ', ',', ';'], "_"));
    std::fs::create_dir(&folder).expect("folder");
    (0..operation.times).for_each(|number| (operation.prepare)(&folder, number));
    if operation.cold {
        served.remount();
        // the way to the folder is not what is measured
        std::fs::symlink_metadata(folder.join("not there")).expect_err("nothing of that name");
    }
    let trace = Trace::start(served.pid());
    (0..operation.times).for_each(|number| (operation.run)(&folder, number));
    trace.end().per(operation.times)
}

#[test]
fn operations_cost_no_more_than_the_record() {
    if skipped_in_plain_mode() {
        return;
    }
    // the record is of the default: other suites and placements have other calls
    if xts() || sidecars() {
        eprintln!("passed over: the record is of GCM files with attributes");
        return;
    }
    let mut volume = Volume::new();
    let mut over = Vec::new();
    assert_eq!(OPERATIONS.len(), RECORD.len(), "one line of the record for each operation");
    for (operation, &(name, requests, calls)) in OPERATIONS.iter().zip(RECORD) {
        assert_eq!(operation.name, name, "the record has the order of the operations");
        let count = cost(&mut volume, operation);
        println!("{name}: {count}");
        if count.requests() > requests || count.calls() > calls {
            over.push(format!("{name}: {requests} requests and {calls} calls allowed, counted: {count}"));
        }
    }
    assert!(over.is_empty(), "more than the record:\n{}", over.join("\n"));
}

/// Prints the table of docs/performance.md.
#[test]
#[ignore = "compares with another program: scripts/bench --calls"]
fn operations_beside_those_of_a_passthrough() {
    let program = std::env::var_os("KMSFS_PASSTHROUGH").expect("KMSFS_PASSTHROUGH names passthrough_ll");
    let (mut volume, mut passthrough) = (Volume::new(), Passthrough::new(program));
    println!("| operation | requests | passthrough | calls | passthrough | which |\n|---|---:|---:|---:|---:|---|");
    for operation in OPERATIONS {
        let (ours, theirs) = (cost(&mut volume, operation), cost(&mut passthrough, operation));
        let (name, which) = (operation.name, ours.which());
        println!(
            "| {name} | {} | {} | {} | {} | {which} |",
            ours.requests(),
            theirs.requests(),
            ours.calls(),
            theirs.calls()
        );
        assert!(ours.requests() > 0 || ours.calls() == 0, "{name}: calls without a request");
    }
}
