//! Nothing secret outside: neither on the disk nor in reach of other processes.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::harness::{PASSPHRASE, Volume, skipped_in_plain_mode, wait_until};
use crate::ops::{Errno, lstat, mkdir, said, set_xattr, tree, write};
use crate::raw::{Caller, NOBODY};

/// Words that appear in contents, names, targets and attributes, and nowhere else.
const WORDS: [&str; 5] = ["ZebraContent", "QuaggaName", "OkapiTarget", "TapirXattrName", "DodoXattrValue"];

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// Every byte that the backing tree shows: names, contents, targets, attributes.
fn shown(root: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for path in tree(root) {
        all.extend_from_slice(path.as_os_str().as_encoded_bytes());
        let kind = lstat(&path).file_type();
        if kind.is_file() {
            all.extend(fs::read(&path).expect("backing file"));
        } else if kind.is_symlink() {
            all.extend_from_slice(fs::read_link(&path).expect("backing link").as_os_str().as_encoded_bytes());
        }
        for name in crate::ops::list_xattrs(&path).expect("list") {
            all.extend_from_slice(name.as_bytes());
            all.extend(crate::ops::get_xattr(&path, &name).expect("attribute"));
        }
        all.push(b'\n');
    }
    all
}

#[test]
fn the_backing_tree_and_the_keystore_show_nothing_plain() {
    if skipped_in_plain_mode() {
        return;
    }
    let [content, name, target, xattr, value] = WORDS;
    let volume = Volume::with_passphrase();
    let mount = volume.mount(&[]);
    let dir = mount.at(format!("{name}Dir"));
    mkdir(&dir);
    for copies in [1, 100, 10_000, 50_000] {
        write(&dir.join(format!("{name}{copies}")), content.repeat(copies));
    }
    write(&dir.join(format!("{name}{}", "x".repeat(240))), content);
    for length in [1, 300] {
        symlink(target.repeat(length), dir.join(format!("{name}Link{length}"))).expect("symlink");
    }
    set_xattr(&dir.join(format!("{name}1")), &format!("user.{xattr}"), value.as_bytes()).expect("setxattr");
    set_xattr(&dir, &format!("user.{xattr}"), value.as_bytes()).expect("setxattr");
    let while_mounted = shown(&volume.backing);
    mount.unmount();
    // The audit log names the files that keys were used for, and shows nothing else of them.
    let log = volume.base().join("log");
    fs::rename(volume.keystore.join("audit"), &log).expect("rename");
    let recorded = shown(&log);
    assert!(contains(&recorded, name.as_bytes()));
    for word in [content, target, xattr, value, PASSPHRASE] {
        assert!(!contains(&recorded, word.as_bytes()), "{word} is in the audit log");
    }
    let afterwards = [shown(&volume.backing), shown(&volume.keystore)].concat();
    for (when, bytes) in [("while mounted", while_mounted), ("unmounted", afterwards)] {
        for word in WORDS.into_iter().chain([PASSPHRASE]) {
            assert!(!contains(&bytes, word.as_bytes()), "{word} is in the clear, {when}");
        }
    }
}

#[test]
fn equal_contents_and_names_look_different() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    for dir in ["a", "b"] {
        mkdir(&mount.at(dir));
        write(&mount.at(dir).join("same"), vec![7; 20_000]);
        symlink("same", mount.at(dir).join("link")).expect("symlink");
    }
    mount.unmount();
    let files: Vec<Vec<u8>> = tree(&volume.backing)
        .iter()
        .filter(|path| lstat(path).is_file() && !path.to_string_lossy().contains("/.kmsfs"))
        .map(|path| fs::read(path).expect("backing file"))
        .collect();
    assert_eq!(files.len(), 2);
    let blocks: Vec<&[u8]> = files.iter().flat_map(|content| content.chunks_exact(512)).collect();
    // META pages have zeros of their own
    let sealed: Vec<&[u8]> =
        blocks.into_iter().filter(|block| block.iter().filter(|&&byte| byte == 0).count() < 64).collect();
    let distinct: std::collections::HashSet<&[u8]> = sealed.iter().copied().collect();
    assert!(sealed.len() > 60, "{} sealed blocks", sealed.len());
    assert_eq!(distinct.len(), sealed.len(), "two blocks look alike");
    let mut names: Vec<_> =
        tree(&volume.backing).iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
    names.retain(|name| name != ".kmsfs.k");
    let before = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), before, "two names look alike");
}

#[test]
fn the_keystore_is_for_its_owner_only() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    assert_eq!(lstat(&volume.keystore).mode() & 0o777, 0o700);
    let secret = [tree(&volume.keystore), vec![volume.backing.join(".kmsfs/keystore.bundle")]].concat();
    for path in secret {
        assert_eq!(lstat(&path).mode() & 0o077, 0, "{}", path.display());
    }
}

fn limit(pid: u32, name: &str) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    limits.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[test]
fn the_memory_of_a_daemon_of_root_never_comes_to_swap() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("status");
    let kilobytes = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    };
    assert!(kilobytes("VmLck:") >= kilobytes("RssAnon:"), "{status}");
}

/// The daemon of an ordinary user, because root may look anywhere.
#[test]
fn the_daemon_cannot_be_read_or_dumped() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::of_user(NOBODY);
    let mount = volume.mount(&[]);
    let pid = mount.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("Uid").split_whitespace().nth(1);
    assert_eq!(uid, Some("65534"), "the daemon is nobody's");
    Caller::user(NOBODY).run(|| {
        for secret in ["mem", "maps", "environ"] {
            let opened = said(fs::File::open(format!("/proc/{pid}/{secret}")).map(drop));
            assert!(
                matches!(opened, Err(Errno::ACCESS | Errno::PERM)),
                "{secret} of a process of the same user: {opened:?}"
            );
        }
    });
    assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).expect("stat").uid(), 0, "dumpable is 0");
    let cores = limit(pid, "Max core file size");
    assert_eq!(cores.split_whitespace().rev().nth(2), Some("0"), "{cores}");
    mount.unmount();
    wait_until("the process to be gone", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn no_secret_is_among_arguments_environment_or_log() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with_passphrase();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), b"x");
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", mount.pid())).expect("/proc");
        assert!(!contains(&bytes, PASSPHRASE.as_bytes()), "{file}");
    }
    assert!(!mount.log().contains(PASSPHRASE));
}
