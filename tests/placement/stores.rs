//! Stores and copies without extended attributes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::harness::{Volume, detach, skipped_in_plain_mode, words};
use crate::ops::{Errno, mkdir, pattern, read, said, set_xattr, tree, write};

fn succeed(command: &mut Command) {
    let outcome = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(outcome.status.success(), "{command:?}: {}", words(&outcome));
}

/// A store that knows no user attributes.
struct Store {
    folder: TempDir,
    device: Option<String>,
}

impl Store {
    fn dir(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn empty() -> Store {
        let folder = TempDir::with_prefix("kmsfs-store-").expect("temporary folder");
        fs::create_dir(folder.path().join("store")).expect("mkdir");
        Store { folder, device: None }
    }

    /// In memory: it tells upper from lower case, and has symlinks and hard links.
    fn ramfs() -> Store {
        let store = Store::empty();
        succeed(Command::new("mount").args(["-t", "ramfs", "ramfs"]).arg(store.dir()));
        store
    }

    /// FAT, or its successor, on a loop device: neither case, nor links, nor modes, nor stable inode numbers. By the
    /// kernel if it can, else by FUSE. `None` if this machine has neither.
    fn fat() -> Option<Store> {
        let mut store = Store::empty();
        let image = store.folder.path().join("image");
        fs::File::create(&image).and_then(|image| image.set_len(256 << 20)).expect("image");
        let knows = |kind: &str| fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains(kind));
        let has = |program: &str| Command::new(program).arg("--help").output().is_ok();
        if knows("\tvfat") && has("mkfs.vfat") {
            succeed(Command::new("mkfs.vfat").args(["-F", "32"]).arg(&image));
            succeed(Command::new("mount").args(["-t", "vfat", "-o", "loop"]).arg(&image).arg(store.dir()));
            return Some(store);
        }
        if !has("mkfs.exfat") || !has("mount.exfat-fuse") {
            eprintln!("passed over: this kernel has no vfat, and there is no mount.exfat-fuse");
            return None;
        }
        succeed(Command::new("mkfs.exfat").arg(&image));
        let device = Command::new("losetup").args(["-f", "--show"]).arg(&image).output().expect("losetup");
        let device = String::from_utf8(device.stdout).expect("a path").trim().to_owned();
        succeed(Command::new("mount.exfat-fuse").arg(&device).arg(store.dir()));
        store.device = Some(device);
        Some(store)
    }

    fn volume(&self, arguments: &[&str]) -> Volume {
        let mut volume = Volume::folders();
        volume.backing = self.dir().join("backing");
        fs::create_dir(&volume.backing).expect("backing folder");
        volume.init(arguments);
        volume
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        detach(&self.dir());
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["-d", device]).output();
        }
    }
}

fn furnish(root: &Path) {
    mkdir(&root.join("dir"));
    mkdir(&root.join("dir").join("D".repeat(200)));
    write(&root.join("dir/small"), pattern(1, 0, 100));
    write(&root.join("dir/SMALL"), pattern(2, 0, 100));
    write(&root.join("dir/big"), pattern(3, 0, 3_000_000));
    write(&root.join("dir").join("n".repeat(255)), pattern(4, 0, 9000));
    write(&root.join("dir/old"), pattern(5, 0, 9000));
    write(&root.join("dir/new"), pattern(6, 0, 9500));
    fs::rename(root.join("dir/new"), root.join("dir/old")).expect("rename over");
    fs::rename(root.join("dir/small"), root.join("moved")).expect("rename elsewhere");
    mkdir(&root.join("gone"));
    mkdir(&root.join("replaced"));
    fs::rename(root.join("gone"), root.join("replaced")).expect("rename over a directory");
    mkdir(&root.join("gone"));
    fs::remove_dir(root.join("gone")).expect("rmdir");
}

fn check(root: &Path) {
    assert!(read(&root.join("moved")) == pattern(1, 0, 100));
    assert!(read(&root.join("dir/SMALL")) == pattern(2, 0, 100));
    assert!(read(&root.join("dir/big")) == pattern(3, 0, 3_000_000));
    assert!(read(&root.join("dir").join("n".repeat(255))) == pattern(4, 0, 9000));
    assert!(read(&root.join("dir/old")) == pattern(6, 0, 9500));
    assert!(root.join("replaced").is_dir() && !root.join("gone").exists() && !root.join("dir/new").exists());
}

#[test]
fn a_store_without_attributes_gets_sidecars() {
    if skipped_in_plain_mode() {
        return;
    }
    let store = Store::ramfs();
    // Without being told, init finds out.
    let volume = store.volume(&[]);
    let mount = volume.mount(&[]);
    furnish(mount.dir());
    assert_eq!(set_xattr(&mount.at("moved"), "user.a", b"1"), Err(Errno::OPNOTSUPP));
    mount.unmount();
    let mount = volume.mount(&[]);
    check(mount.dir());
    mount.unmount();
    let refused = volume.run(&["migrate", volume.backing.to_str().expect("UTF-8"), "--placement", "xattr"]);
    assert_eq!(refused.status.code(), Some(9), "{}", words(&refused));
    volume.mount(&[]).unmount();
    let other = store.dir().join("other");
    fs::create_dir(&other).expect("mkdir");
    let refused = volume.run(&["init", other.to_str().expect("UTF-8"), "--placement", "xattr"]);
    assert_eq!(refused.status.code(), Some(9), "{}", words(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--placement sidecar"), "{}", words(&refused));
}

#[test]
fn a_memory_card_holds_a_volume() {
    if skipped_in_plain_mode() {
        return;
    }
    let Some(store) = Store::fat() else { return };
    let volume = store.volume(&[]);
    let mut mount = volume.mount(&[]);
    furnish(mount.dir());
    for result in [
        fs::hard_link(mount.at("moved"), mount.at("linked")),
        std::os::unix::fs::symlink("moved", mount.at("symlink")),
        set_xattr(&mount.at("moved"), "user.a", b"1").map_err(std::io::Error::from),
    ] {
        assert_ne!(said(result), Err(Errno::IO));
    }
    check(mount.dir());
    mount.unmount();
    for round in 0..5_u64 {
        mount = volume.mount(&[]);
        check(mount.dir());
        let dir = mount.at(format!("round{round}"));
        let busy = std::thread::spawn(move || {
            let _ = fs::create_dir(&dir);
            for number in 0.. {
                let path = dir.join("f");
                let new = dir.join("f.new");
                if fs::write(&new, pattern(round, 0, 5000 + number % 7)).and_then(|()| fs::rename(&new, &path)).is_err()
                {
                    return;
                }
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        mount.kill();
        let outcome = volume.umount();
        assert!(outcome.status.success(), "{}", words(&outcome));
        drop(mount);
        busy.join().expect("the thread ends with the mount");
        mount = volume.mount(&[]);
        for path in tree(mount.dir()).into_iter().filter(|path| path.is_file()) {
            let _ = read(&path);
        }
        mount.unmount();
    }
}

/// Where inode numbers are made up anew when the store forgets an object, everything is still found.
#[test]
fn a_big_tree_is_found_again_after_the_store_forgot_it() {
    if skipped_in_plain_mode() {
        return;
    }
    let Some(store) = Store::fat() else { return };
    let volume = store.volume(&[]);
    let mount = volume.mount(&[]);
    const DIRS: u64 = 700;
    for number in 0..DIRS {
        mkdir(&mount.at(format!("d{number}")));
        write(&mount.at(format!("d{number}/f")), pattern(number, 0, 50));
    }
    let held = fs::File::open(mount.at("d3")).expect("open a directory");
    for _ in 0..3 {
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
        for number in 0..DIRS {
            assert!(read(&mount.at(format!("d{number}/f"))) == pattern(number, 0, 50), "d{number}");
        }
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
        // Through a directory that someone holds, too.
        let flags = OFlags::CREATE | OFlags::RDWR;
        rustix::fs::openat(&held, "f", OFlags::RDONLY, Mode::empty()).expect("open below a held directory");
        rustix::fs::openat(&held, "another", flags, Mode::from_raw_mode(0o644)).expect("make below a held directory");
    }
    drop(held);
    mount.unmount();
}

#[test]
fn a_plain_copy_of_a_volume_with_sidecars_opens() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut volume = Volume::with(&["--placement", "sidecar"]);
    let mount = volume.mount(&[]);
    furnish(mount.dir());
    mount.unmount();
    let copy = volume.base().join("copy");
    succeed(Command::new("cp").arg("-r").arg(&volume.backing).arg(&copy));
    fs::remove_dir_all(&volume.backing).expect("remove the original");
    volume.backing = copy;
    let mount = volume.mount(&[]);
    check(mount.dir());
    write(&mount.at("dir/big"), b"changed");
    mount.unmount();
}
