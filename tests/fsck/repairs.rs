//! `--repair`: leftovers, interrupted moves, and what no mount would show.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::check::{Checked, fsck};
use crate::harness::{sidecars, skipped_in_plain_mode, xts};
use crate::ops::{mkdir, pattern, read, tree, write};
use crate::scene::{drop_envelopes, envelope, long, objects, remove_envelope, set_envelope};
use crate::victim::Victim;

/// Where a repair says that it moved what was stored at `stored`.
fn moved_to(checked: &Checked, stored: &Path, root: &Path) -> PathBuf {
    let stored = stored.strip_prefix(root).expect("in the backing tree").to_str().expect("ASCII");
    let done = checked
        .findings
        .iter()
        .filter(|finding| finding.stored == stored)
        .find_map(|finding| finding.mended.as_deref()?.strip_prefix("it was moved to /").map(PathBuf::from));
    done.unwrap_or_else(|| panic!("{stored} was not moved: {checked:#?}"))
}

#[test]
fn leftovers_go_and_interrupted_moves_are_finished() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        mkdir(&root.join("dir"));
        write(&root.join("dir/file"), pattern(1, 0, 5000));
        write(&root.join(long("kept")), "x");
        symlink("t".repeat(4000), root.join("link")).expect("symlink");
    });
    let root = &victim.volume.backing;
    let dir = victim.backing("dir");
    write(&dir.join(".kmsfs.tmp.1.2"), "half");
    write(&root.join(".kmsfs/.kmsfs.tmp.1.3"), "half");
    mkdir(&dir.join(".kmsfs.new.0123456789abcdef"));
    let side = dir.join(".kmsfs.n.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    if sidecars() {
        write(&side, "of nothing")
    } else {
        symlink("of nothing", side).expect("symlink")
    }
    write(&root.join(".kmsfs/links/AAAAAAAAAAAAAAAAAAAAAA"), "of nothing");
    let file = victim.backing("dir/file");
    let plain = envelope(&file).expect("envelope");
    // As a rename leaves it that was killed: for the new place, and for the old one.
    let moving = [&[plain[0] | 0x40, 67, 0][..], &plain[1..], &plain[1..]].concat();
    set_envelope(&file, &moving);

    let checked = fsck(&victim.volume, &[]);
    checked.expect_whole();
    assert_eq!(checked.findings.len(), 6, "{checked:#?}");
    assert_eq!(checked.left("/dir/file"), ["envelope-moving"]);
    let dry = fsck(&victim.volume, &["--repair", "--dry-run"]);
    assert_eq!((dry.count("mended"), dir.join(".kmsfs.tmp.1.2").exists()), (6, true), "{dry:#?}");
    let repaired = fsck(&victim.volume, &["--repair"]);
    assert_eq!((repaired.code, repaired.count("mended")), (Some(0), 6), "{repaired:#?}");
    fsck(&victim.volume, &[]).expect_clean();
    assert_eq!((objects(&dir).len(), envelope(&file).expect("envelope").len()), (2, 68));
    let mount = victim.mount();
    assert!(read(&mount.at("dir/file")) == pattern(1, 0, 5000));
    assert_eq!(fs::read_link(mount.at("link")).expect("readlink").as_os_str().len(), 4000);
    assert_eq!(read(&mount.at(long("kept"))), b"x");
    mount.unmount();
}

/// A directory that is no leftover, however it is called, is never removed.
#[test]
fn leftovers_that_hold_something_stay() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| write(&root.join("file"), "x"));
    let new = victim.volume.backing.join(".kmsfs.new.0123456789abcdef");
    mkdir(&new);
    write(&new.join("inside"), "precious");
    fsck(&victim.volume, &["--repair"]);
    assert_eq!(read(&new.join("inside")), b"precious");
}

#[test]
fn what_lost_its_name_is_found_again() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        fs::create_dir_all(root.join("docs/edited-dir/below")).expect("mkdir -p");
        for (name, seed) in [("docs/edited", 1), ("docs/kept", 2), ("docs/edited-dir/below/file", 3)] {
            write(&root.join(name), pattern(seed, 0, 5000));
        }
        write(&root.join("docs").join(long("sideless")), pattern(4, 0, 5000));
        write(&root.join("docs/linked"), pattern(5, 0, 5000));
        fs::hard_link(root.join("docs/linked"), root.join("docs/also")).expect("link");
        symlink("where it leads", root.join("docs/link")).expect("symlink");
    });
    let other = |path: &Path| {
        let mut name = path.file_name().expect("a name").as_bytes().to_vec();
        name[5] = if name[5] == b'A' { b'B' } else { b'A' };
        path.with_file_name(std::ffi::OsStr::from_bytes(&name))
    };
    let edit = |from: PathBuf| {
        let (to, beside) = (other(&from), envelope(&from).filter(|_| sidecars() && from.is_file()));
        if beside.is_some() {
            remove_envelope(&from);
        }
        fs::rename(&from, &to).expect("rename");
        beside.iter().for_each(|bytes| set_envelope(&to, bytes));
        to
    };
    let [file, dir, link] = ["docs/edited", "docs/edited-dir", "docs/link"].map(|name| edit(victim.backing(name)));
    let linked = edit(victim.backing_of_any(&["docs/linked", "docs/also"]));
    let sideless = victim.backing(format!("docs/{}", long("sideless")));
    let text = sideless.file_name().and_then(|name| name.to_str()).expect("ASCII").to_owned();
    fs::remove_file(sideless.with_file_name(format!(".kmsfs.n.{}", &text[1..]))).expect("rm");

    assert_eq!(fsck(&victim.volume, &[]).count("errors"), 5);
    let dry = fsck(&victim.volume, &["--repair", "--dry-run"]);
    assert_eq!(dry.count("mended"), 5, "{dry:#?}");
    let repaired = fsck(&victim.volume, &["--repair"]);
    assert_eq!(repaired.code, Some(0), "{repaired:#?}");
    fsck(&victim.volume, &[]).expect_clean();
    let to = |stored: &Path| moved_to(&repaired, stored, &victim.volume.backing);
    let mount = victim.mount();
    assert!(read(&mount.at(to(&file))) == pattern(1, 0, 5000));
    assert!(to(&file).to_str().expect("UTF-8").starts_with("lost+found/docs:"), "{:?}", to(&file));
    assert!(read(&mount.at(to(&dir)).join("below/file")) == pattern(3, 0, 5000));
    assert!(read(&mount.at(to(&sideless))) == pattern(4, 0, 5000));
    assert!(read(&mount.at(to(&linked))) == pattern(5, 0, 5000));
    let left: Vec<&str> = ["docs/linked", "docs/also"].into_iter().filter(|name| mount.at(name).exists()).collect();
    assert!(left.len() == 1 && read(&mount.at(left[0])) == pattern(5, 0, 5000), "under its other name, too: {left:?}");
    assert_eq!(fs::read_link(mount.at(to(&link))).expect("readlink"), Path::new("where it leads"));
    assert!(read(&mount.at("docs/kept")) == pattern(2, 0, 5000));
    // lost+found is a directory like any other.
    fs::rename(mount.at(to(&file)), mount.at("docs/edited")).expect("rename back");
    assert!(read(&mount.at("docs/edited")) == pattern(1, 0, 5000));
    mount.unmount();
    fsck(&victim.volume, &[]).expect_clean();
}

/// No attribute and no log: the keys of the directories are gone, and all names with them. The files are not.
#[test]
fn without_any_directory_key_the_files_are_saved() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        fs::create_dir_all(root.join("a/b")).expect("mkdir -p");
        for (name, seed) in [("top", 1), ("a/middle", 2), ("a/b/low", 3)] {
            write(&root.join(name), pattern(seed, 0, 5000));
        }
        symlink("where it leads", root.join("a/link")).expect("symlink");
    });
    let root = &victim.volume.backing;
    drop_envelopes(root);
    fs::remove_file(root.join(".kmsfs/keys.log")).expect("rm");
    let checked = fsck(&victim.volume, &["--restore-keys"]);
    assert_eq!((checked.code, checked.left("/")), (Some(10), vec!["key-lost"]), "{checked:#?}");
    let repaired = fsck(&victim.volume, &["--restore-keys", "--repair"]);
    if xts() {
        // Nothing shows that a file under that suite is one of the volume, and no key of it is left: it stays.
        for checked in [repaired, fsck(&victim.volume, &[])] {
            let stay = checked.findings.iter().filter(|f| f.problem == "name-foreign" && f.mended.is_none()).count();
            assert_eq!((checked.code, stay), (Some(11), 3), "{checked:#?}");
        }
    } else {
        assert_eq!(repaired.code, Some(0), "{repaired:#?}");
        fsck(&victim.volume, &[]).expect_clean();
    }
    let mount = victim.mount();
    let saved: Vec<PathBuf> = tree(&mount.at("lost+found")).into_iter().filter(|path| path.is_file()).collect();
    let mut contents: Vec<Vec<u8>> = saved.iter().map(|path| read(path)).collect();
    contents.sort();
    let mut expected: Vec<Vec<u8>> = [1, 2, 3].map(|seed| pattern(seed, 0, 5000)).into();
    expected.truncate(if xts() { 0 } else { 3 });
    expected.sort();
    assert!(contents == expected, "{saved:?}");
    let links = tree(&mount.at("lost+found")).into_iter().filter_map(|path| fs::read_link(path).ok());
    assert_eq!(links.collect::<Vec<_>>(), [Path::new("where it leads")]);
    mount.unmount();
}

/// What cannot be mended stays where it is: its name tells what to restore from a backup.
#[test]
fn damage_stays_in_its_place() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| write(&root.join("file"), pattern(1, 0, 9000)));
    let path = victim.backing("file");
    let mut bytes = read(&path);
    bytes[5000] ^= 1;
    write(&path, &bytes);
    for _ in 0..2 {
        let repaired = fsck(&victim.volume, &["--repair", "--restore-keys"]);
        if xts() {
            // It reads as noise there, and nothing can tell.
            repaired.expect_clean();
            continue;
        }
        assert_eq!((repaired.code, repaired.left("/file")), (Some(10), vec!["block-damaged"]));
    }
    assert!(read(&path) == bytes);
}
