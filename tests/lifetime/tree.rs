//! A tree with one of everything, and what must not change in its backing tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Volume, is_advice, words};
use crate::ops::pattern;

/// The CMK that init makes.
pub const DEFAULT: &str = "alias/kmsfs/default";

/// Makes directories, small and large files, holes, links in one and in two directories, long names, modes that lock out
/// their owner. Returns how many plain files have content.
pub fn make(root: &Path) {
    for dir in 0..8 {
        let at = root.join(format!("dir{dir}/below"));
        fs::create_dir_all(&at).expect("directories");
        for file in 0..20 {
            fs::write(at.join(format!("f{file}")), pattern(file, 0, 37 * file as usize)).expect("file");
        }
    }
    fs::write(root.join("large"), pattern(1, 0, 700_000)).expect("large file");
    let sparse = fs::File::create(root.join("sparse")).expect("sparse file");
    sparse.set_len(5 << 20).expect("length");
    sparse.write_all_at(b"tail", 3 << 20).expect("write");
    fs::write(root.join("n".repeat(250)), b"long name").expect("long name");
    fs::write(root.join("linked"), pattern(2, 0, 9000)).expect("file");
    fs::hard_link(root.join("linked"), root.join("beside")).expect("link");
    fs::hard_link(root.join("linked"), root.join("dir1/elsewhere")).expect("link");
    symlink("dir1/elsewhere", root.join("symlink")).expect("symlink");
    fs::write(root.join("read-only"), b"0444").expect("file");
    fs::set_permissions(root.join("read-only"), fs::Permissions::from_mode(0o444)).expect("chmod");
    fs::write(root.join("locked"), b"0000").expect("file");
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o000)).expect("chmod");
    fs::write(root.join("empty"), b"").expect("file");
}

/// Every plain file below `root` with its content, and the targets of symlinks.
pub fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    each(root, &mut |path, metadata| {
        let content = if metadata.is_symlink() {
            fs::read_link(path).expect("readlink").as_os_str().as_bytes().to_vec()
        } else {
            fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        found.insert(path.strip_prefix(root).expect("below").to_path_buf(), content);
    });
    found
}

/// Every stored file with its bytes but for the mirror, its length and its modification time; directories by their times.
pub fn stored(backing: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    each(backing, &mut |path, metadata| {
        let is_internal = |part: std::path::Component<'_>| part.as_os_str().as_bytes().starts_with(b".kmsfs");
        if path.components().any(is_internal) || !metadata.is_file() {
            return;
        }
        let mut bytes = fs::read(path).expect("stored file");
        if bytes.len() >= 512 {
            bytes[152..220].fill(0);
        }
        found.insert(path.to_path_buf(), (bytes, metadata.mtime(), metadata.mtime_nsec()));
    });
    found
}

fn each(root: &Path, act: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display())) {
        let path = entry.expect("entry").path();
        let metadata = path.symlink_metadata().expect("metadata");
        if metadata.is_dir() {
            each(&path, act);
        } else {
            act(&path, &metadata);
        }
    }
}

/// Runs kmsfs and demands success.
pub fn done(volume: &Volume, arguments: &[&str]) -> String {
    let outcome = volume.run(arguments);
    assert!(outcome.status.success(), "kmsfs {arguments:?}: {}", words(&outcome));
    String::from_utf8(outcome.stdout).expect("text")
}

/// The same with `--json`.
pub fn json(volume: &Volume, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(volume, &[arguments, &["--json"]].concat())).expect("JSON")
}

/// Runs kmsfs and demands that it fails; returns what it said.
pub fn refused(volume: &Volume, arguments: &[&str]) -> String {
    let outcome = volume.run(arguments);
    assert!(!outcome.status.success(), "kmsfs {arguments:?} succeeded");
    let said = String::from_utf8(outcome.stderr).expect("text");
    assert!(is_advice(&said), "no advice in: {said}");
    said
}

/// How many wrapped keys are under each version of a CMK.
pub fn versions(volume: &Volume, key: &str) -> Vec<u64> {
    let used = json(volume, &["key", "versions", key]);
    used.as_array().expect("array").iter().map(|version| version["wrapped_keys"].as_u64().expect("number")).collect()
}
