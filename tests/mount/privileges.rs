//! Capabilities, suid and sgid: they end with a write, but not with one that nobody asked for.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Volume, skipped_in_plain_mode, words};
use crate::ops::{chmod, get_xattr, lstat, mode, open_rw, pattern, read, set_xattr, tree, write};

const CAPABILITY: &str = "security.capability";
/// A background writer has looked after everything by then.
const SETTLED: Duration = Duration::from_secs(5);

/// vfs_cap_data revision 2: cap_net_raw+ep
fn net_raw() -> Vec<u8> {
    [[1, 0, 0, 2], [0, 0x20, 0, 0], [0; 4], [0; 4], [0; 4]].concat()
}

fn rewrap(volume: &Volume) {
    let mountpoint = volume.mountpoint.to_str().expect("the path is text");
    for arguments in [&["key", "rotate", "alias/kmsfs/default"][..], &["rewrap", mountpoint]] {
        let outcome = volume.run(arguments);
        assert!(outcome.status.success(), "{arguments:?}: {}", words(&outcome));
    }
}

/// The only regular file of this length or more in the backing tree.
fn stored(backing: &Path, len: u64) -> std::path::PathBuf {
    let is_it = |path: &std::path::PathBuf| lstat(path).is_file() && lstat(path).len() >= len;
    let mut found: Vec<_> = tree(backing).into_iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn rewrapping_leaves_capabilities() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    let (closed, open) = (mount.at("closed"), mount.at("open"));
    for path in [&closed, &open] {
        write(path, pattern(1, 0, 600_000));
        set_xattr(path, CAPABILITY, &net_raw()).expect("set");
    }
    let file = std::fs::File::open(&open).expect("open");
    std::thread::sleep(SETTLED);
    rewrap(&volume);
    drop(file);
    for path in [&closed, &open] {
        assert_eq!(get_xattr(path, CAPABILITY), Ok(net_raw()), "{}", path.display());
        assert!(read(path) == pattern(1, 0, 600_000));
    }
}

#[test]
fn capabilities_that_are_set_after_a_write_stay() {
    if skipped_in_plain_mode() {
        return;
    }
    let mount = Volume::new().mount(&[]);
    let path = mount.at("program");
    write(&path, pattern(1, 0, 600_000));
    std::thread::sleep(SETTLED);
    // Overwritten blocks wait in memory.
    open_rw(&path).write_all_at(&pattern(2, 0, 100_000), 4096).expect("write");
    set_xattr(&path, CAPABILITY, &net_raw()).expect("set");
    std::thread::sleep(SETTLED);
    assert_eq!(get_xattr(&path, CAPABILITY), Ok(net_raw()));
}

#[test]
fn suid_on_the_mount_of_a_user_outlives_what_the_daemon_writes() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::of_user(1000);
    let mount = volume.mount(&[]);
    let path = mount.at("program");
    crate::raw::Caller::user(1000).run(|| {
        write(&path, pattern(1, 0, 600_000));
        std::thread::sleep(SETTLED);
        open_rw(&path).write_all_at(&pattern(2, 0, 100_000), 4096).expect("write");
        chmod(&path, 0o4755);
    });
    let stored = stored(&volume.backing, 600_000);
    std::thread::sleep(SETTLED);
    assert_eq!(mode(&stored), 0o4755, "after what was written before was put in order");
    rewrap(&volume);
    assert_eq!(mode(&stored), 0o4755, "after a rewrap");
}
