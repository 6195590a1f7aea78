//! Rekey and shred.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::{Volume, past_other_children, setting, sidecars, wait_until, words};
use crate::ops::pattern;
use crate::tree;

fn kmsfs(volume: &Volume, verb: &[&str], path: &Path) -> Output {
    past_other_children(|| at_once(volume, verb, path))
}

/// The same, where the answer may be that a file is open.
fn at_once(volume: &Volume, verb: &[&str], path: &Path) -> Output {
    volume.command().args(verb).arg(path).output().expect("kmsfs")
}

/// The envelopes of all stored files, and where each was found.
fn envelopes(backing: &Path) -> BTreeMap<Vec<u8>, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in walkdir(backing) {
        let name = entry.file_name().expect("name").to_string_lossy().into_owned();
        if sidecars() {
            if name.starts_with(".kmsfs.e.") {
                found.insert(fs::read(&entry).expect("sidecar"), entry);
            }
        } else {
            let mut value = [0; 256];
            if let Ok(len) = rustix::fs::getxattr(&entry, "user.kmsf", &mut value) {
                found.insert(value[..len].to_vec(), entry);
            }
        }
    }
    found
}

/// All files of a backing tree but those of the volume itself.
fn walkdir(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("list").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("type"));
        if kind.is_dir() && !path.ends_with(".kmsfs") {
            found.extend(walkdir(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found
}

/// What must not change: modes, owners, times, links, attributes.
fn attributes(root: &Path) -> String {
    let script =
        "find . -printf '%P %y %m %U %G %n %T@\\n' | sort; getfattr -dhR -m - . 2>/dev/null; getfacl -Rp . 2>/dev/null";
    let out = Command::new("sh").arg("-c").arg(script).current_dir(root).output().expect("sh");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_rekey_changes_every_key_and_nothing_that_can_be_seen() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    tree::make(mount.dir());
    for other in ["linked", "dir1/elsewhere"] {
        fs::remove_file(mount.at(other)).expect("remove");
    }
    let script = "setfattr -n user.note -v hello large; setfacl -m u:65534:r large; chown 1:2 read-only; chmod 4755 locked; \
                  touch -d '1999-12-31 23:59:59.123456789' beside";
    assert!(Command::new("sh").arg("-c").arg(script).current_dir(mount.dir()).status().expect("sh").success());
    let (before, plain, seen) = (envelopes(&volume.backing), tree::contents(mount.dir()), attributes(mount.dir()));
    let outcome = kmsfs(&volume, &["rekey"], mount.dir());
    assert!(outcome.status.success(), "{}", words(&outcome));
    let after = envelopes(&volume.backing);
    assert_eq!(before.len(), after.len());
    assert!(after.keys().all(|envelope| !before.contains_key(envelope)), "a key stayed");
    assert!(tree::contents(mount.dir()) == plain);
    assert_eq!(attributes(mount.dir()), seen);
    let sparse = fs::metadata(mount.at("sparse")).expect("stat");
    assert!(sparse.blocks() * 512 < sparse.len() / 2, "holes stay holes: {} blocks", sparse.blocks());
    mount.unmount();
    let mount = volume.mount(&[]);
    assert!(tree::contents(mount.dir()) == plain);
}

#[test]
fn files_that_are_written_or_have_several_names_are_left_alone_and_named() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    fs::write(mount.at("plain"), b"plain").expect("write");
    fs::write(mount.at("linked"), b"linked").expect("write");
    fs::hard_link(mount.at("linked"), mount.at("beside")).expect("link");
    fs::write(mount.at("busy"), b"busy").expect("write");
    let mut writer = File::options().append(true).open(mount.at("busy")).expect("open");
    let mut said = String::new();
    wait_until("what nobody has open to be rekeyed", || {
        let outcome = at_once(&volume, &["rekey"], mount.dir());
        assert!(!outcome.status.success());
        said = words(&outcome);
        said.contains("1 files rekeyed")
    });
    assert!(said.contains("busy: it is open for writing") && said.contains("linked: it has several names"), "{said}");
    writer.write_all(b", still").expect("write");
    drop(writer);
    fs::remove_file(mount.at("beside")).expect("remove");
    let outcome = kmsfs(&volume, &["rekey", "--json"], mount.dir());
    let told: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let counts = ["rekeyed", "done_before"].map(|count| told[count].as_u64().expect("a count"));
    assert!(outcome.status.success() && counts[1] >= 1 && counts[0] + counts[1] == 3, "{}", words(&outcome));
    assert_eq!(fs::read(mount.at("busy")).expect("read"), b"busy, still");

    // A list of what is done must not keep a later rekey from its work.
    fs::hard_link(mount.at("linked"), mount.at("beside")).expect("link");
    assert!(words(&kmsfs(&volume, &["rekey"], mount.dir())).contains("2 files rekeyed"));
    let said = words(&kmsfs(&volume, &["rekey"], mount.dir()));
    assert!(said.contains("0 files rekeyed") && said.contains("2 done before") && said.contains("--restart"), "{said}");
    assert!(words(&kmsfs(&volume, &["rekey", "--restart"], mount.dir())).contains("2 files rekeyed"));
    fs::remove_file(mount.at("beside")).expect("remove");
    assert_eq!(fs::read_dir(mount.dir()).expect("list").count(), 3);
}

#[test]
fn a_file_of_several_names_is_rekeyed_by_hand_as_the_manual_says() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    fs::write(mount.at("A"), pattern(1, 0, 9000)).expect("write");
    fs::hard_link(mount.at("A"), mount.at("B")).expect("link");
    let before = envelopes(&volume.backing);
    let script = "cp --preserve=all A A.new && ln -f A.new B && mv A.new A";
    assert!(Command::new("sh").arg("-c").arg(script).current_dir(mount.dir()).status().expect("sh").success());
    let inodes = ["A", "B"].map(|name| fs::metadata(mount.at(name)).expect("stat").ino());
    assert_eq!(inodes[0], inodes[1], "one file still");
    assert!(fs::read(mount.at("B")).expect("read") == pattern(1, 0, 9000));
    assert!(envelopes(&volume.backing).keys().all(|envelope| !before.contains_key(envelope)), "the key stayed");
}

#[test]
fn a_rekey_that_is_killed_loses_nothing_and_is_continued() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    let mut files = BTreeMap::new();
    for number in 0..120_u64 {
        let path = PathBuf::from(format!("f{number}"));
        let content = pattern(number, 0, (number * 4001) as usize % 300_000 + 1);
        fs::write(mount.at(&path), &content).expect("write");
        files.insert(path, content);
    }
    let before = envelopes(&volume.backing);
    for round in 0..setting("KMSFS_REWRAP_KILLS", 6) {
        let mut command = volume.command();
        let mut rekey =
            command.arg("rekey").arg(mount.dir()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawn");
        std::thread::sleep(Duration::from_millis(15 + 9 * round));
        rekey.kill().expect("kill");
        rekey.wait().expect("wait");
        for (path, content) in &files {
            assert!(fs::read(mount.at(path)).expect("read") == *content, "{}", path.display());
        }
    }
    let outcome = kmsfs(&volume, &["rekey"], mount.dir());
    assert!(outcome.status.success(), "{}", words(&outcome));
    assert!(tree::contents(mount.dir()) == files, "no copy is left over");
    let after = envelopes(&volume.backing);
    assert!(after.len() == files.len() && after.keys().all(|envelope| !before.contains_key(envelope)));
}

#[test]
fn a_full_disk_ends_a_rekey_with_every_file_as_it_was() {
    let disk = crate::disk::Disk::new(48);
    let volume = disk.volume();
    let mount = volume.mount(&[]);
    let content = pattern(7, 0, 24 << 20);
    fs::write(mount.at("large"), &content).expect("write");
    fs::write(mount.at("small"), b"small").expect("write");
    let outcome = kmsfs(&volume, &["rekey"], mount.dir());
    assert!(!outcome.status.success() && words(&outcome).contains("large: No space left"), "{}", words(&outcome));
    assert!(fs::read(mount.at("large")).expect("read") == content);
    assert_eq!(fs::read(mount.at("small")).expect("read"), b"small");
    assert_eq!(fs::read_dir(mount.dir()).expect("list").count(), 2, "no copy is left over");
}

#[test]
fn what_is_shredded_opens_nowhere_any_more() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    tree::make(mount.dir());
    let keep = fs::read(mount.at("large")).expect("read");
    let known = walkdir(&volume.backing);
    fs::write(mount.at("secret"), pattern(3, 0, 10_000)).expect("write");
    let fresh = walkdir(&volume.backing).into_iter().filter(|path| !known.contains(path));
    let backing =
        fresh.into_iter().find(|path| fs::metadata(path).expect("stat").len() > 10_000).expect("the stored file");

    let outcome = kmsfs(&volume, &["shred"], &mount.at("linked"));
    assert!(!outcome.status.success() && words(&outcome).contains("it has other names"), "{}", words(&outcome));
    let reader = File::open(mount.at("secret")).expect("open");
    let outcome = at_once(&volume, &["shred"], &mount.at("secret"));
    assert!(!outcome.status.success() && words(&outcome).contains("it is open"), "{}", words(&outcome));
    drop(reader);
    let mirror = fs::read(&backing).expect("stored")[152..220].to_vec();
    let held = File::open(&backing).expect("open the stored file");
    let outcome = kmsfs(&volume, &["shred"], &mount.at("secret"));
    assert!(outcome.status.success() && words(&outcome).contains("backups"), "{}", words(&outcome));
    assert!(!mount.at("secret").exists());
    let mut left = vec![0; 4096];
    std::os::unix::fs::FileExt::read_at(&held, &mut left, 0).expect("read what was the file");
    assert!(!left.windows(32).any(|window| mirror.windows(32).any(|part| part == window)), "the mirror is there");

    let log = fs::read(volume.backing.join(".kmsfs/keys.log")).expect("keys.log").len();
    let outcome = kmsfs(&volume, &["shred"], &mount.at("dir3"));
    assert!(!outcome.status.success() && words(&outcome).contains("-r"), "{}", words(&outcome));
    let outcome = kmsfs(&volume, &["shred", "-r"], &mount.at("dir3"));
    assert!(outcome.status.success(), "{}", words(&outcome));
    assert!(!mount.at("dir3").exists());
    let now = fs::read(volume.backing.join(".kmsfs/keys.log")).expect("keys.log").len();
    assert!(log - now >= 2 * (16 + 2 + 68), "the records of two directories are gone");
    assert!(fs::read(mount.at("large")).expect("read") == keep);
    fs::set_permissions(mount.at("locked"), fs::Permissions::from_mode(0o600)).expect("chmod");
}
