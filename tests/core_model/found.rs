//! What the model found once, each as short as it became.

use kmsfs::content::Durability;
use kmsfs::envelope::NameForm;
use kmsfs::fs::{RenameFlags, WriteOrigin};

use crate::ops::{At, Op};
use crate::replay;

/// The name of this number in the root, as long as there is no other directory.
fn new(name: u8) -> At {
    At { existing: false, dir: 0, name }
}

/// The existing name of this number, in the order of the tree.
fn old(dir: u16) -> At {
    At { existing: true, dir, name: 0 }
}

fn create(at: At) -> Op {
    Op::Create { at, perm: 0o644, exclusive: true, append: false }
}

fn write(at: usize, len: usize) -> Op {
    Op::Write { handle: 0, at, len, fill: 7, origin: WriteOrigin::Caller }
}

fn set_time(at: At) -> Op {
    Op::Utimes { at, seconds: 77 }
}

fn rename(from: At, to: At) -> Op {
    Op::Rename { from, to, flags: RenameFlags::empty() }
}

fn check(ops: &[Op]) {
    for durability in [Durability::Atomic, Durability::Fast] {
        replay(ops, NameForm::Base64Url, durability);
    }
}

const LONG: u8 = 10;
const SYNC: Op = Op::Fsync { handle: 0, data_only: false };

#[test]
fn a_long_name_survives_being_renamed_over_another_link_of_its_file() {
    check(&[create(new(LONG)), Op::Link { from: old(0), to: new(0) }, rename(old(1), old(0)), Op::CheckAll]);
    check(&[create(new(LONG)), Op::Link { from: old(0), to: new(0) }, rename(old(0), old(1)), Op::CheckAll]);
}

#[test]
fn a_truncation_ends_a_modification_time_that_was_set() {
    let cut = Op::Truncate { file: 0, size: 5, by_handle: true };
    check(&[create(new(0)), write(0, 9), set_time(old(0)), cut, SYNC]);
}

#[test]
fn a_file_that_is_cut_before_it_was_written_out_is_a_changed_file() {
    let cut = Op::Truncate { file: 0, size: 0, by_handle: false };
    check(&[create(new(0)), set_time(old(0)), write(0, 9), cut, SYNC]);
}

#[test]
fn a_modification_time_that_was_set_survives_a_kill_and_what_follows() {
    let ops = [create(new(0)), write(0, 9000), SYNC, write(100, 5000), set_time(old(0)), Op::Kill, Op::Remount];
    check(&ops);
    let ops = [create(new(0)), write(0, 9000), Op::Remount, set_time(old(0)), Op::Remount, Op::Kill];
    check(&ops);
}

#[test]
fn a_modification_time_that_was_set_after_a_cut_inside_a_block_survives_a_kill() {
    let cut = Op::Truncate { file: 0, size: 266_242, by_handle: false };
    check(&[create(new(0)), write(266_241, 5459), Op::Remount, cut, set_time(old(0)), Op::Kill]);
}

#[test]
fn a_file_is_reached_by_its_other_link_when_the_first_is_another_object() {
    let replaced = [Op::Symlink { at: new(0), len: 9 }, Op::Mkdir { at: new(0), perm: 0o755 }];
    for other in replaced {
        let linked = [create(new(0)), Op::Release(0), Op::Link { from: old(0), to: new(1) }];
        let cut = Op::Truncate { file: 0, size: 5, by_handle: false };
        check(&[linked.as_slice(), &[Op::Unlink(old(0)), other, cut, Op::CheckAll]].concat());
    }
}

#[test]
fn a_file_is_reached_by_its_other_link_when_the_first_was_in_a_directory_that_is_gone() {
    let inside = At { existing: false, dir: 1, name: 0 };
    let made = [Op::Mkdir { at: new(0), perm: 0o755 }, create(inside), Op::Release(0)];
    let linked = [Op::Link { from: old(1), to: At { existing: false, dir: 2, name: 1 } }];
    let gone = [Op::Unlink(old(2)), Op::Rmdir(old(0)), Op::CheckAll];
    check(&[made.as_slice(), &linked, &gone].concat());
}
