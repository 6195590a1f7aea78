//! A tree with one of everything, what it looks like, and copies of its backing tree.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kmsfs::envelope::{DIRECTORY_SIDECAR, sidecar_name};

use crate::harness::{Volume, sidecars, words};
use crate::ops::{chmod, get_xattr, lstat, mkdir, open_rw, pattern, remove_xattr, set_xattr, tree, write};

/// The name of everything that has a long one.
pub fn long(kind: &str) -> String {
    format!("{kind}{}", "n".repeat(230))
}

/// Fills a mount: directories of many files, and one of everything else. Nothing in it keeps its owner out of a directory.
pub fn furnish(root: &Path, directories: u64, files: u64) {
    for number in 0..directories {
        let dir = root.join(format!("dir{}", number % 7)).join(format!("sub{number}"));
        fs::create_dir_all(&dir).expect("mkdir -p");
        for file in 0..files {
            let size = [0, 1, 700, 3584, 3585, 9000][(file % 6) as usize];
            write(&dir.join(format!("file{file}")), pattern(number * 1000 + file, 0, size));
        }
    }
    mkdir(&root.join("odd"));
    let at = |name: &str| root.join("odd").join(name);
    write(&at("groups"), pattern(1, 0, 700_000));
    let sparse = open_rw(&at("sparse"));
    sparse.set_len(1 << 27).expect("grow");
    std::os::unix::fs::FileExt::write_all_at(&sparse, &pattern(2, 0, 5000), 75 << 20).expect("write");
    drop(sparse);
    for name in ["one", "two", "nested"] {
        mkdir(&at(name));
    }
    fs::create_dir_all(at("empty/below/it")).expect("mkdir -p");
    write(&at("one/linked"), pattern(3, 0, 5000));
    fs::hard_link(at("one/linked"), at("one/beside")).expect("link");
    fs::hard_link(at("one/linked"), at("two/elsewhere")).expect("link");
    symlink("where it leads", at("link")).expect("symlink");
    symlink("t".repeat(4000), at("long link")).expect("symlink");
    mkdir(&at(&long("d")));
    write(&at(&long("d")).join(long("f")), pattern(4, 0, 5000));
    // Only long names in it.
    write(&at("nested").join(long("alone")), pattern(5, 0, 500));
    for (name, mode) in [("read-only", 0o444), ("closed", 0o000), ("write-only", 0o200)] {
        write(&at(name), pattern(6, 0, 5000));
        chmod(&at(name), mode);
    }
    let fifo = rustix::fs::FileType::Fifo;
    crate::ops::mknod(&at("fifo"), fifo, 0o600, 0).expect("mkfifo");
}

/// What is at a path: type and mode, and a hash of its content or target.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Look {
    mode: u32,
    size: u64,
    content: u64,
}

/// What everything below `root` looks like, by path. Sparse content is read as it is.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, Look> {
    tree(root).into_iter().map(|path| (path.strip_prefix(root).expect("below").to_path_buf(), look(&path))).collect()
}

fn look(path: &Path) -> Look {
    let stat = lstat(path);
    let mut hasher = DefaultHasher::new();
    if stat.is_file() {
        let mut file = File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
            buffer[..count].hash(&mut hasher);
            if count == 0 {
                break;
            }
        }
    } else if stat.is_symlink() {
        fs::read_link(path).unwrap_or_else(|e| panic!("readlink {}: {e}", path.display())).hash(&mut hasher);
    }
    let size = if stat.is_dir() { 0 } else { stat.len() };
    Look { mode: stat.mode(), size, content: hasher.finish() }
}

/// The picture of a volume, mounted for that.
pub fn picture_of(volume: &Volume) -> BTreeMap<PathBuf, Look> {
    let mount = volume.mount(&["--ro"]);
    let picture = picture(mount.dir());
    mount.unmount();
    picture
}

/// Says which paths differ, instead of printing both pictures.
pub fn expect_same(found: &BTreeMap<PathBuf, Look>, expected: &BTreeMap<PathBuf, Look>) {
    let differing = |a: &BTreeMap<PathBuf, Look>, b: &BTreeMap<PathBuf, Look>| -> Vec<String> {
        a.iter()
            .filter(|(path, look)| b.get(*path) != Some(look))
            .map(|(path, look)| format!("{path:?} {look:?}"))
            .collect()
    };
    let (more, fewer) = (differing(found, expected), differing(expected, found));
    assert!(more.is_empty() && fewer.is_empty(), "found {more:#?}\nexpected {fewer:#?}");
}

/// A volume that is furnished and unmounted, and what it looks like.
pub fn scene(directories: u64, files: u64) -> (Volume, BTreeMap<PathBuf, Look>) {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    furnish(mount.dir(), directories, files);
    mount.unmount();
    let picture = picture_of(&volume);
    (volume, picture)
}

/// The same volume in a copy of its backing tree, made by `cp` with these arguments and no umask.
pub fn copied(volume: &Volume, name: &str, arguments: &str) -> Volume {
    let mut copy = volume.clone();
    copy.backing = volume.base().join(name);
    let script = format!("umask 0; exec cp {arguments} \"$0\" \"$1\"");
    let outcome = Command::new("sh").args(["-c", &script]).arg(&volume.backing).arg(&copy.backing).output();
    let outcome = outcome.expect("cp");
    assert!(outcome.status.success(), "cp: {}", words(&outcome));
    copy
}

/// Where the envelope of a backing object is if it has a file of its own.
fn sidecar(path: &Path) -> PathBuf {
    if lstat(path).is_dir() {
        return path.join(DIRECTORY_SIDECAR);
    }
    path.with_file_name(sidecar_name(path.file_name().expect("a name").as_encoded_bytes()))
}

/// The envelope of a backing object, in either placement.
pub fn envelope(path: &Path) -> Option<Vec<u8>> {
    if sidecars() { fs::read(sidecar(path)).ok() } else { get_xattr(path, "user.kmsf").ok() }
}

/// Puts bytes in the place of an envelope.
pub fn set_envelope(path: &Path, bytes: &[u8]) {
    if sidecars() {
        return write(&sidecar(path), bytes);
    }
    set_xattr(path, "user.kmsf", bytes).expect("set");
}

/// Takes the envelope of an object away, if it has one.
pub fn remove_envelope(path: &Path) {
    if sidecars() {
        let _ = fs::remove_file(sidecar(path));
    } else {
        let _ = remove_xattr(path, "user.kmsf");
    }
}

/// The objects of a backing tree that can have envelopes: nothing of kmsfs's own.
pub fn objects(root: &Path) -> Vec<PathBuf> {
    let internal = |path: &Path| {
        let below = path.strip_prefix(root).expect("below");
        below.iter().any(|name| name.as_encoded_bytes().starts_with(b".kmsfs"))
    };
    tree(root).into_iter().chain([root.to_path_buf()]).filter(|path| !internal(path)).collect()
}

/// How many objects have envelopes.
pub fn envelopes(root: &Path) -> usize {
    objects(root).iter().filter(|path| envelope(path).is_some()).count()
}

/// Takes all envelopes away.
pub fn drop_envelopes(root: &Path) {
    objects(root).iter().for_each(|path| remove_envelope(path));
}
