//! Random operations on the core, without a mount, and the same on a tree in memory: every answer and the trees must agree.
//!
//! `KMSFS_MODEL_SECONDS` (default 10, shared by the variants) and `KMSFS_MODEL_SEED` (default: from the clock, printed)
//! steer it. proptest makes the operations from the seed and shrinks what fails to the fewest.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "core_model/backing.rs"]
mod backing;
#[path = "core_model/contents.rs"]
mod contents;
#[path = "core_model/found.rs"]
mod found;
#[path = "core_model/kernel.rs"]
mod kernel;
#[path = "core_model/names.rs"]
mod names;
#[path = "core_model/ops.rs"]
mod ops;
#[path = "core_model/tree.rs"]
mod tree;

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kmsfs::content::Durability;
use kmsfs::envelope::NameForm;
use kmsfs::fs::{FileKind, RenameFlags, WriteOrigin};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use kernel::Kernel;
use ops::{At, Op};

/// Most operations on one volume.
const STEPS: usize = 300;

fn setting(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("the setting is a number"))
}

fn replay(ops: &[Op], names: NameForm, durability: Durability) {
    let mut kernel = Kernel::new(names, durability);
    for op in ops {
        kernel.step(op);
    }
    kernel.compare_all();
    kernel.remount(true);
    kernel.compare_all();
    kernel.unmount();
    backing::check(kernel.root(), &kernel.tree, names);
}

fn run(names: NameForm, durability: Durability, variant: u64) {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = setting("KMSFS_MODEL_SEED").unwrap_or_else(clock);
    let limit = Duration::from_secs(setting("KMSFS_MODEL_SECONDS").unwrap_or(10)) / 4;
    println!("{names:?} {durability:?}: KMSFS_MODEL_SEED={seed}");
    let (start, done) = (Instant::now(), Cell::new(0));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = variant as u8;
    let config = Config {
        cases: u32::MAX,
        failure_persistence: None,
        max_shrink_iters: 3000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let strategy = proptest::collection::vec(ops::any_op(), 1..=STEPS);
    while done.get() == 0 || start.elapsed() < limit {
        let tree = proptest::strategy::Strategy::new_tree(&strategy, &mut runner).unwrap();
        let outcome = runner.run_one(tree, |ops| {
            replay(&ops, names, durability);
            done.set(done.get() + ops.len());
            Ok(())
        });
        match outcome {
            Ok(_) => {}
            Err(TestError::Fail(why, ops)) => {
                let ops: Vec<String> = ops.iter().map(|op| format!("{op:?}\n")).collect();
                panic!("KMSFS_MODEL_SEED={seed} {names:?} {durability:?}: {why}, after\n{}", ops.concat());
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{names:?} {durability:?}: seed {seed}, {} steps", done.get());
}

/// Found by the model, and shrunk by hand: the link makes the envelope good in all directories before it fails, while the
/// open file has it in reserve.
#[test]
fn a_file_that_was_cut_opens_after_a_link_that_failed_and_a_move() {
    let at = |dir, letter| At { existing: false, dir, name: letter };
    let ops = [
        Op::Mkdir { at: at(0, 0), perm: 0o755 },
        Op::Mkdir { at: at(0, 1), perm: 0o755 },
        Op::Mknod { at: at(0, 2), kind: FileKind::Fifo, perm: 0o644 },
        Op::Create { at: at(1, 3), perm: 0o644, exclusive: true, append: false },
        Op::Write { handle: 0, at: 0, len: 5000, fill: 1, origin: WriteOrigin::Caller },
        Op::Release(0),
        Op::Open { file: 0, write: true, truncate: true, append: false },
        Op::Link { from: at(1, 3), to: at(0, 2) },
        Op::Truncate { file: 0, size: 1, by_handle: true },
        Op::Rename { from: at(1, 3), to: at(2, 3), flags: RenameFlags::empty() },
        Op::Open { file: 0, write: false, truncate: false, append: false },
        Op::Kill,
    ];
    replay(&ops, NameForm::Base64Url, Durability::Fast);
}

#[test]
fn a_volume_is_a_tree_when_atomic() {
    run(NameForm::Base64Url, Durability::Atomic, 0);
}

#[test]
fn a_volume_is_a_tree_when_fast() {
    run(NameForm::Base64Url, Durability::Fast, 1);
}

#[test]
fn a_volume_with_base32_names_is_a_tree_when_atomic() {
    run(NameForm::Base32, Durability::Atomic, 2);
}

#[test]
fn a_volume_with_base32_names_is_a_tree_when_fast() {
    run(NameForm::Base32, Durability::Fast, 3);
}
