//! Crashes: kill -9 of the daemon under load, and power cuts of the disk below.
//!
//! What was synced is there whole; a block that was being overwritten is old or new; every directory opens.
//! `KMSFS_CRASH_ROUNDS` (default 5) says how often each loop runs.

#[path = "mount/check.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod check;
#[path = "mount/disk.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod disk;
#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/ops.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod ops;
#[path = "mount/raw.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod raw;

#[path = "crash/ledger.rs"]
mod ledger;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{RenameFlags, XattrFlags};

use disk::Disk;
use harness::{Mount, Volume, setting, skipped_in_plain_mode, wait_until, words};
use ledger::Ledger;
use ops::{get_xattr, lstat, mkdir, open_rw, pattern, read, rename, set_xattr, tree, write};

fn rounds() -> u64 {
    setting("KMSFS_CRASH_ROUNDS", 5)
}

fn sync(path: &Path) {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.unwrap_or_else(|e| panic!("fsync {}: {e}", path.display()));
}

/// Unmounts what a killed daemon left, which fsck must find nothing wrong with, and mounts anew.
fn mount_again(volume: &Volume, dead: Mount) -> Mount {
    let outcome = volume.umount();
    assert!(outcome.status.success(), "umount of a dead mount: {}", words(&outcome));
    drop(dead);
    check::fsck(volume, &[]).expect_whole();
    volume.mount(&[])
}

/// Every directory lists, every object has attributes, every file reads to its end.
fn everything_is_readable(root: &Path) -> usize {
    let all = tree(root);
    for path in &all {
        let stat = lstat(path);
        if stat.is_file() {
            // The size is certain once the file was opened: a new one may have died before its first commit.
            let content = read(path);
            assert_eq!(content.len() as u64, lstat(path).len(), "{}", path.display());
        } else if stat.is_symlink() {
            fs::read_link(path).unwrap_or_else(|e| panic!("readlink {}: {e}", path.display()));
        }
    }
    all.len()
}

#[test]
fn blocks_synced_before_a_kill_are_there_and_others_are_old_or_new() {
    if skipped_in_plain_mode() {
        return;
    }
    for durability in ["atomic", "fast"] {
        let volume = Volume::new();
        let mut mount = volume.mount(&["--durability", durability]);
        let ledger = Ledger::new(&mount.at("ledger"));
        for round in 1..=rounds() {
            let goal = ledger.acknowledged() + 40;
            let (file, stop) = (open_rw(&mount.at("ledger")), &ledger.stop);
            std::thread::scope(|scope| {
                for writer in 0..2 {
                    let (ledger, file) = (&ledger, &file);
                    scope.spawn(move || ledger.write_until_it_fails(file, writer, round));
                }
                wait_until("acknowledged writes", || ledger.acknowledged() >= goal);
                mount.kill();
                stop.store(true, Ordering::Relaxed);
            });
            drop(file);
            stop.store(false, Ordering::Relaxed);
            mount = mount_again(&volume, mount);
            ledger.check(&mount.at("ledger"), &format!("{durability}, after kill {round}"));
        }
        mount.unmount();
    }
}

/// One step of making, linking, moving and removing; other hands may have been faster, so it may fail.
fn rummage(root: &Path, hand: u64, number: u64) -> std::io::Result<()> {
    let (dir, other) = (root.join(format!("dir{}", number % 5)), root.join(format!("dir{}", (number + 1) % 5)));
    let _ = (fs::create_dir(&dir), fs::create_dir(&other));
    let path = dir.join(format!("{hand}.{}", number % 7));
    fs::write(&path, pattern(number, 0, (number * 1777 % 20_000) as usize))?;
    match number % 6 {
        0 => fs::rename(&path, other.join(format!("{hand}.moved"))),
        1 => fs::hard_link(&path, other.join(format!("{hand}.{}.linked", number % 11))),
        2 => fs::rename(&path, other.join(format!("{hand}.{}", "long".repeat(55)))),
        3 => symlink("t".repeat(4000), dir.join(format!("{hand}.{}.link", number % 11))),
        4 => fs::rename(&dir, root.join(format!("{hand}.renamed{}", number % 3))),
        _ => fs::remove_file(&path),
    }
}

#[test]
fn a_tree_in_motion_survives_every_kill() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mut mount = volume.mount(&[]);
    let mut most = 0;
    for round in 1..=rounds() {
        let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for hand in 0..3 {
                let (root, done, stop) = (mount.dir().to_path_buf(), &done, &stop);
                scope.spawn(move || {
                    for number in (0u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                        done.fetch_add(u64::from(rummage(&root, hand, number).is_ok()), Ordering::Relaxed);
                    }
                });
            }
            wait_until("operations", || done.load(Ordering::Relaxed) >= 50 * round);
            mount.kill();
            stop.store(true, Ordering::Relaxed);
        });
        mount = mount_again(&volume, mount);
        most = most.max(everything_is_readable(mount.dir()));
    }
    assert!(most > 10, "only {most} objects: nothing was tested");
    for path in fs::read_dir(mount.dir()).expect("read directory") {
        fs::remove_dir_all(path.expect("entry").path()).expect("everything can be removed");
    }
    mount.unmount();
}

/// A power cut now: the disk goes, the daemon goes, both come back.
fn power_cycle(disk: &mut Disk, volume: &Volume, mount: Mount) -> Mount {
    disk.cut_power();
    mount.abandon();
    disk.unmount();
    disk.mount();
    volume.mount(&[])
}

/// Makes one of everything below `dir` and syncs as a careful program does.
fn furnish(root: &Path, dir: &str) {
    let at = |name: &str| root.join(dir).join(name);
    mkdir(&root.join(dir));
    for (name, size) in
        [("small", 500), ("inline", 3584), ("paged", 20_000), ("groups", 600_000), (&"n".repeat(255), 5000)]
    {
        write(&at(name), pattern(size as u64, 0, size));
        sync(&at(name));
    }
    mkdir(&at("sub"));
    mkdir(&at(&"s".repeat(255)));
    write(&at(&"s".repeat(255)).join("deep"), pattern(7, 0, 5000));
    sync(&at(&"s".repeat(255)).join("deep"));
    sync(&at(&"s".repeat(255)));
    fs::hard_link(at("paged"), at("sub/linked")).expect("link");
    symlink("short target", at("link")).expect("symlink");
    symlink("t".repeat(4000), at("long link")).expect("symlink");
    rustix::fs::setxattr(at("small"), "user.a", b"value", XattrFlags::empty()).expect("setxattr");
    write(&at("before"), pattern(8, 0, 9000));
    sync(&at("before"));
    rename(&at("before"), &at("sub/moved"), RenameFlags::empty()).expect("rename across directories");
    write(&at("old"), pattern(1, 0, 9000));
    write(&at("old.new"), pattern(2, 0, 9500));
    sync(&at("old.new"));
    rename(&at("old.new"), &at("old"), RenameFlags::empty()).expect("rename over a file");
    for path in [at("small"), at("sub"), root.join(dir), root.to_path_buf()] {
        sync(&path);
    }
}

fn check_furniture(root: &Path, dir: &str) {
    let at = |name: &str| root.join(dir).join(name);
    for (name, size) in
        [("small", 500), ("inline", 3584), ("paged", 20_000), ("groups", 600_000), (&"n".repeat(255), 5000)]
    {
        assert!(read(&at(name)) == pattern(size as u64, 0, size), "{dir}/{name}");
    }
    assert!(read(&at(&"s".repeat(255)).join("deep")) == pattern(7, 0, 5000));
    assert!(read(&at("sub/linked")) == pattern(20_000, 0, 20_000));
    assert_eq!((lstat(&at("paged")).nlink(), lstat(&at("paged")).ino()), (2, lstat(&at("sub/linked")).ino()));
    assert_eq!(fs::read_link(at("link")).expect("readlink"), Path::new("short target"));
    assert_eq!(fs::read_link(at("long link")).expect("readlink of a long one").as_os_str().len(), 4000);
    assert_eq!(get_xattr(&at("small"), "user.a").as_deref(), Ok(&b"value"[..]));
    assert!(read(&at("sub/moved")) == pattern(8, 0, 9000), "a rename across directories");
    assert!(!at("before").exists());
    assert!(read(&at("old")) == pattern(2, 0, 9500), "a file replaced by rename");
}

#[test]
fn what_was_synced_survives_a_power_cut() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut disk = Disk::new(256);
    let volume = disk.volume();
    let mut mount = volume.mount(&[]);
    for round in 0..rounds().min(3) {
        furnish(mount.dir(), &format!("home{round}"));
        // not synced: may be there or not, but must not break anything
        fs::write(mount.at(format!("unsynced{round}")), pattern(1, 0, 100_000)).expect("write");
        fs::create_dir(mount.at(format!("unsynced dir{round}"))).expect("mkdir");
        mount = power_cycle(&mut disk, &volume, mount);
        (0..=round).for_each(|round| check_furniture(mount.dir(), &format!("home{round}")));
        everything_is_listed(mount.dir());
    }
    write(&mount.at("after"), pattern(1, 0, 9000));
    mount.unmount();
}

/// Files that were never synced may be empty or short after a power cut; directories and names must be whole.
fn everything_is_listed(root: &Path) {
    for path in tree(root) {
        let stat = lstat(&path);
        assert!(stat.is_dir() || stat.is_file() || stat.is_symlink(), "{}", path.display());
    }
}

/// gocryptfs loses this file: the new directory's own secret must be durable before what depends on it.
#[test]
fn one_synced_file_in_a_new_directory_survives_a_power_cut() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut disk = Disk::new(64);
    let volume = disk.volume();
    let mount = volume.mount(&[]);
    let dir = mount.at("new").join("d".repeat(255)).join("deeper");
    fs::create_dir_all(&dir).expect("mkdir -p");
    let long = dir.join("f".repeat(255));
    write(&long, pattern(1, 0, 5000));
    sync(&long);
    for made in long.ancestors().skip(1).take(4) {
        sync(made);
    }
    let mount = power_cycle(&mut disk, &volume, mount);
    assert!(read(&long) == pattern(1, 0, 5000));
    set_xattr(&long, "user.still", b"usable").expect("setxattr");
    mount.unmount();
}

#[test]
fn overwritten_blocks_are_old_or_new_after_a_power_cut() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut disk = Disk::new(128);
    let volume = disk.volume();
    let mut mount = volume.mount(&["--durability", "atomic"]);
    let ledger = Ledger::new(&mount.at("ledger"));
    for name in ["ledger", ""] {
        sync(&mount.at(name));
    }
    for round in 1..=rounds() {
        let goal = ledger.acknowledged() + 30;
        let file = open_rw(&mount.at("ledger"));
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (ledger, file) = (&ledger, &file);
                scope.spawn(move || ledger.write_until_it_fails(file, writer, round));
            }
            wait_until("acknowledged writes", || ledger.acknowledged() >= goal);
            disk.cut_power();
            ledger.stop.store(true, Ordering::Relaxed);
        });
        ledger.stop.store(false, Ordering::Relaxed);
        drop(file);
        mount.abandon();
        disk.unmount();
        disk.mount();
        mount = volume.mount(&["--durability", "atomic"]);
        ledger.check(&mount.at("ledger"), &format!("after power cut {round}"));
    }
    mount.unmount();
}
