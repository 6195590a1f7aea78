//! What is not as the kernel believes, because others changed the backing tree.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::path::PathBuf;

use crate::harness::{Volume, skipped_in_plain_mode};
use crate::ops::{Errno, chmod, lstat, pattern, read, said, tree, write};
use crate::raw::Caller;

/// The only file with content in the backing tree, but for kmsfs's own.
fn stored(volume: &Volume) -> PathBuf {
    let is_it = |path: &PathBuf| {
        let is_own = path.strip_prefix(&volume.backing).is_ok_and(|path| path.to_string_lossy().contains("kmsfs"));
        !is_own && lstat(path).is_file()
    };
    let mut found: Vec<PathBuf> = tree(&volume.backing).into_iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn new_files_inherit_no_corrected_size() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with(&["--placement", "xattr", "--suite", "gcm"]);
    let mount = volume.mount(&[]);
    write(&mount.at("long"), pattern(1, 0, 40_960));
    mount.unmount();
    let backing = OpenOptions::new().write(true).open(stored(&volume)).expect("open");
    backing.set_len(backing.metadata().expect("stat").len() + 4096).expect("truncate");
    drop(backing);
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("long")) == pattern(1, 0, 40_960));
    fs::remove_file(mount.at("long")).expect("rm");
    for number in 0..200 {
        let path = mount.at(format!("new{number}"));
        write(&path, []);
        assert_eq!(lstat(&path).len(), 0, "file {number}");
    }
}

/// The kernel has asked for nobody's permission, because it knew of no file.
#[test]
fn whoever_makes_a_file_that_is_there_already_is_not_let_in_by_that() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with(&["--placement", "xattr"]);
    let mount = volume.mount(&[]);
    write(&mount.at("secret"), b"secret");
    chmod(&mount.at("secret"), 0o600);
    chmod(mount.dir(), 0o777);
    mount.unmount();
    let (there, aside) = (stored(&volume), volume.base().join("aside"));
    fs::rename(&there, &aside).expect("rename");
    let mount = volume.mount(&[]);
    let path = mount.at("secret");
    assert_eq!(said(fs::symlink_metadata(&path).map(drop)), Err(Errno::NOENT));
    fs::rename(&aside, &there).expect("rename");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    assert_eq!(said(Caller::user(1000).run(|| open().map(drop))), Err(Errno::ACCESS));
    let mut found = String::new();
    open().and_then(|mut file| file.read_to_string(&mut found)).expect("its owner opens it");
    assert_eq!(found, "secret");
}
