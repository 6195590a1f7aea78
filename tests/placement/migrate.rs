//! `kmsfs migrate`: there and back, and killed on the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kmsfs::crypto::derive::sha256;

use crate::harness::{Volume, skipped_in_plain_mode, wait_until, words};
use crate::ops::{get_xattr, lstat, mkdir, pattern, read, set_xattr, tree, write};

/// Everything a user sees of a tree, but for ctimes and inode numbers.
#[derive(Debug, PartialEq)]
struct Seen {
    /// A hash, so that a difference can be shown.
    content: Option<[u8; 32]>,
    target: Option<PathBuf>,
    mode: u32,
    links: u64,
    mtime: (i64, i64),
    note: Option<Vec<u8>>,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let seen = |path: PathBuf| {
        let stat = lstat(&path);
        let note = if stat.is_symlink() { None } else { get_xattr(&path, "user.note").ok() };
        let seen = Seen {
            content: stat.is_file().then(|| sha256(&read(&path))),
            target: fs::read_link(&path).ok(),
            mode: stat.permissions().mode(),
            links: if stat.is_dir() { 0 } else { stat.nlink() },
            mtime: (stat.mtime(), stat.mtime_nsec()),
            note,
        };
        (path.strip_prefix(root).expect("below").to_path_buf(), seen)
    };
    tree(root).into_iter().map(seen).collect()
}

fn same(before: &BTreeMap<PathBuf, Seen>, now: &BTreeMap<PathBuf, Seen>, when: &str) {
    assert_eq!(before.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>(), "{when}");
    for (path, seen) in before {
        assert_eq!(seen, &now[path], "{}: {when}", path.display());
    }
}

fn furnish(root: &Path, width: u32) {
    for number in 0..width {
        let dir = root.join(format!("dir{number}"));
        mkdir(&dir);
        mkdir(&dir.join("below"));
        mkdir(&dir.join("d".repeat(240)));
        write(&dir.join("empty"), []);
        write(&dir.join("below/inline"), pattern(1, u64::from(number), 3000));
        write(&dir.join("paged"), pattern(2, u64::from(number), 9000));
        write(&dir.join("n".repeat(250)), pattern(3, u64::from(number), 400));
        write(&dir.join("closed"), pattern(4, 0, 100));
        fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o444)).expect("chmod");
        fs::hard_link(dir.join("paged"), dir.join("same")).expect("link");
        fs::hard_link(dir.join("paged"), dir.join("below/other")).expect("link");
        symlink("target", dir.join("link")).expect("symlink");
        set_xattr(&dir.join("paged"), "user.note", b"kept").expect("setxattr");
        set_xattr(&dir.join("below"), "user.note", b"kept as well").expect("setxattr");
    }
}

/// What lies in the backing tree: attributes with envelopes, and sidecars.
fn placed(volume: &Volume) -> (usize, usize) {
    let all = tree(&volume.backing);
    let of_kmsfs = |path: &Path| path.starts_with(volume.backing.join(".kmsfs"));
    let names = all.iter().filter(|path| !of_kmsfs(path));
    let sidecar = |path: &&PathBuf| {
        let name = path.file_name().expect("a name").to_str().expect("ASCII");
        name == ".kmsfs.k" || name.starts_with(".kmsfs.e.")
    };
    let attributes = all.iter().filter(|path| !lstat(path).is_symlink() && get_xattr(path, "user.kmsf").is_ok());
    (attributes.count(), names.filter(sidecar).count())
}

fn migrate(volume: &Volume, to: &str) {
    let outcome = volume.run(&["migrate", volume.backing.to_str().expect("UTF-8"), "--placement", to]);
    assert!(outcome.status.success(), "{}", words(&outcome));
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let is_told = said.contains(" moved,") && said.contains("No content was");
    assert!(is_told || said.contains(" already"), "{said}");
}

#[test]
fn a_volume_moves_there_and_back() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with(&["--placement", "xattr"]);
    let mount = volume.mount(&[]);
    furnish(mount.dir(), 2);
    mount.unmount();
    let mount = volume.mount(&[]);
    let before = look(mount.dir());
    let refused = volume.run(&["migrate", volume.backing.to_str().expect("UTF-8"), "--placement", "sidecar"]);
    assert_eq!(refused.status.code(), Some(6), "{}", words(&refused));
    mount.unmount();
    for to in ["sidecar", "xattr", "sidecar"] {
        migrate(&volume, to);
        let (attributes, sidecars) = placed(&volume);
        assert_eq!((attributes > 0, sidecars > 0), (to == "xattr", to == "sidecar"), "{attributes} and {sidecars}");
        let mount = volume.mount(&[]);
        same(&before, &look(mount.dir()), to);
        mount.unmount();
    }
    let mount = volume.mount(&[]);
    write(&mount.at("dir0/below/other"), b"changed");
    assert_eq!(read(&mount.at("dir0/same")), b"changed");
    mount.unmount();
}

#[test]
fn a_move_that_is_killed_is_finished_by_another_one() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with(&["--placement", "xattr"]);
    let mount = volume.mount(&[]);
    furnish(mount.dir(), 60);
    mount.unmount();
    let mount = volume.mount(&[]);
    let before = look(mount.dir());
    mount.unmount();
    let (mut interrupted, mut wait) = (0, Duration::ZERO);
    for round in 0..10 {
        let to = if round % 2 == 0 { "sidecar" } else { "xattr" };
        // Twice, at moments that wander through the whole of it; then it is let finish.
        for _ in 0..2 {
            let mut command = volume.command();
            command.args(["migrate", volume.backing.to_str().expect("UTF-8"), "--placement", to]);
            command.args(volume.secret());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("kmsfs migrate");
            let header = volume.backing.join(".kmsfs/volume.json");
            wait_until("the move to begin", || {
                String::from_utf8_lossy(&read(&header)).contains("\"migrating\"")
                    || child.try_wait().is_ok_and(|end| end.is_some())
            });
            std::thread::sleep(wait);
            child.kill().expect("kill");
            child.wait().expect("wait");
            match volume.try_mount(&[]) {
                Err(refusal) => {
                    assert!(refusal.said.contains("finish that: kmsfs migrate"), "{refusal:?}");
                    interrupted += 1;
                    wait += Duration::from_millis(11);
                }
                // It came too late, by how fast the machine is.
                Ok(_) => wait /= 3,
            }
        }
        migrate(&volume, to);
        let (attributes, sidecars) = placed(&volume);
        assert_eq!((attributes > 0, sidecars > 0), (to == "xattr", to == "sidecar"), "{attributes} and {sidecars}");
    }
    assert!(interrupted > 3, "only {interrupted} moves were interrupted");
    let mount = volume.mount(&[]);
    let (mut before, mut now) = (before, look(mount.dir()));
    // A kill in the middle of a directory can leave it a new modification time.
    for seen in before.values_mut().chain(now.values_mut()).filter(|seen| seen.content.is_none()) {
        seen.mtime = (0, 0);
    }
    same(&before, &now, "at the end");
    mount.unmount();
}
