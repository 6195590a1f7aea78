//! Inode flags that keep files from being changed: chattr(1).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::FallocateFlags;

use crate::harness::{skipped_in_plain_mode, words};
use crate::ops::{Errno, open_rw, pattern, read, said, write};
use crate::place::Place;
use crate::raw::{Caller, set_flags_32};

fn chattr(flag: &str, path: &Path) {
    let said = Command::new("chattr").arg(flag).arg(path).output().expect("chattr");
    assert!(said.status.success(), "chattr {flag}: {}", words(&said));
}

#[test]
fn chattr_i_keeps_what_was_written_and_keeps_writers_out() {
    let mut place = Place::own();
    let path = place.at("kept");
    write(&path, pattern(1, 0, 600_000));
    let file = open_rw(&path);
    file.sync_all().expect("sync");
    // Overwritten blocks wait in memory.
    file.write_all_at(&pattern(2, 0, 300_000), 100_000).expect("write");
    let kept = [pattern(1, 0, 100_000), pattern(2, 0, 300_000), pattern(1, 400_000, 200_000)].concat();
    chattr("+i", &path);
    for (append, truncate) in [(false, false), (true, false), (false, true)] {
        let open = File::options().write(!append).append(append).truncate(truncate).open(&path);
        assert_eq!(said(open.map(drop)), Err(Errno::PERM), "append {append}, truncate {truncate}");
    }
    assert_eq!(said(file.set_len(7)), Err(Errno::PERM));
    assert_eq!(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 700_000), Err(Errno::PERM));
    drop(file);
    place.remount(&[]);
    let lines = Command::new("lsattr").arg(place.at("kept")).output().expect("lsattr");
    let found = read(&place.at("kept"));
    chattr("-i", &place.at("kept"));
    assert!(found == kept, "what was written before is there");
    assert!(String::from_utf8_lossy(&lines.stdout).contains("i--"), "{}", words(&lines));
    let file = open_rw(&place.at("kept"));
    chattr("+a", &place.at("kept"));
    let open = |append: bool| File::options().write(!append).append(append).open(place.at("kept")).map(drop);
    let (written, appended, cut) = (said(open(false)), said(open(true)), said(file.set_len(7)));
    chattr("-a", &place.at("kept"));
    assert_eq!((written, appended, cut), (Err(Errno::PERM), Ok(()), Err(Errno::PERM)));
}

/// The kernel takes writes into its cache without asking; whoever syncs must not hear of flags that are set and taken away meanwhile.
#[test]
fn writers_under_chattr_i_lose_nothing_and_fail_no_sync_of_others() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut place = Place::own();
    let path = place.at("busy");
    let file = File::create(&path).expect("create");
    let any = File::open(place.at(".")).expect("open");
    std::thread::scope(|scope| {
        let toggling = scope.spawn(|| {
            for _ in 0..60 {
                chattr("+i", &path);
                chattr("-i", &path);
            }
        });
        let mut round = 0;
        while !toggling.is_finished() {
            round += 1;
            file.write_all_at(&pattern(round, 0, 200_000), 0).expect("write");
            rustix::fs::syncfs(&any).expect("syncfs");
        }
        file.write_all_at(&pattern(7, 0, 200_000), 0).expect("write");
    });
    drop((file, any));
    place.remount(&[]);
    assert!(read(&place.at("busy")) == pattern(7, 0, 200_000));
}

#[test]
fn whoever_had_a_file_open_before_chattr_a_writes_and_grows_it() {
    let place = Place::shared();
    let path = place.at("log");
    let file = File::create(&path).expect("create");
    file.write_all_at(&pattern(1, 0, 10_000), 0).expect("write");
    file.sync_all().expect("sync");
    chattr("+a", &path);
    let grown = file.write_all_at(&pattern(1, 10_000, 600_000), 10_000).and_then(|()| file.sync_all());
    chattr("-a", &path);
    grown.expect("a write by who had it open before");
    drop(file);
    assert!(read(&path) == pattern(1, 0, 610_000));
}

#[test]
fn the_times_of_a_file_under_chattr_i_are_nobodys_to_set() {
    let place = Place::shared();
    let path = place.at("fixed times");
    write(&path, b"x");
    let before = fs::metadata(&path).and_then(|meta| meta.modified()).expect("stat");
    chattr("+i", &path);
    let outcome = Command::new("touch").args(["-d", "@77"]).arg(&path).output().expect("touch");
    let after = fs::metadata(&path).and_then(|meta| meta.modified()).expect("stat");
    chattr("-i", &path);
    assert!(!outcome.status.success() && before == after, "{}: {before:?}, {after:?}", words(&outcome));
}

/// Linux asks who may set flags under one number only, and makes that of a 32-bit program's.
#[test]
fn only_the_owner_sets_flags_whatever_the_number() {
    if skipped_in_plain_mode() {
        return;
    }
    let place = Place::shared();
    let path = place.at("root's");
    write(&path, b"x");
    let flags = || Command::new("lsattr").arg(&path).output().expect("lsattr").stdout;
    let before = flags();
    let answer = Caller::user(1000).run(|| set_flags_32(&File::open(&path).expect("open"), 0x10));
    assert!(answer.is_err());
    set_flags_32(&File::open(&path).expect("open"), 0x10).expect_err("no number of ours");
    assert!(flags() == before, "{}", String::from_utf8_lossy(&flags()));
}
