//! Volumes with files under both suites. Nothing in an XTS file shows whose key fits: keys.log says it of its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::check::fsck;
use crate::harness::{Volume, sidecars, skipped_in_plain_mode, words};
use crate::ops::{mkdir, pattern, read, tree, write};
use crate::scene::{
    copied, drop_envelopes, envelope, expect_same, furnish, objects, picture_of, remove_envelope, set_envelope,
};
use crate::victim::Victim;

fn skipped() -> bool {
    // There is no XTS where envelopes lie in sidecars.
    sidecars() || skipped_in_plain_mode()
}

fn set_suite(volume: &Volume, dir: &Path, suite: &str) {
    let done = volume.command().arg("set-suite").arg(dir).arg(suite).output().expect("kmsfs set-suite");
    assert!(done.status.success(), "{}", words(&done));
}

/// How many envelopes there are of each kind.
fn kinds(root: &Path) -> BTreeMap<u8, usize> {
    let mut kinds = BTreeMap::new();
    for code in objects(root).iter().filter_map(|path| envelope(path)).map(|envelope| envelope[0] & 0x0f) {
        *kinds.entry(code).or_default() += 1;
    }
    kinds
}

fn xts(fill: impl FnOnce(&Path)) -> Victim {
    Victim::with(&["--suite", "xts"], fill)
}

fn exchange(one: &Path, two: &Path) {
    let [first, second] = [one, two].map(|path| envelope(path).expect("envelope"));
    set_envelope(one, &second);
    set_envelope(two, &first);
}

#[test]
fn a_copy_without_attributes_of_a_volume_of_both_suites_comes_back_whole() {
    if skipped() {
        return;
    }
    let volume = Volume::with(&["--suite", "xts"]);
    let mount = volume.mount(&[]);
    furnish(mount.dir(), 10, 12);
    let gcm = mount.at("gcm");
    mkdir(&gcm);
    set_suite(&volume, &gcm, "gcm");
    fs::create_dir_all(gcm.join("a/b/empty")).expect("mkdir -p");
    for (number, size) in [1, 700, 3585, 9000].into_iter().enumerate() {
        write(&gcm.join(format!("a/b/{number}")), pattern(number as u64, 0, size));
    }
    // Each keeps its suite where it goes.
    fs::rename(gcm.join("a/b/3"), mount.at("odd/from gcm")).expect("rename");
    fs::rename(mount.at("odd/groups"), gcm.join("from xts")).expect("rename");
    fs::hard_link(mount.at("odd/nested").join(crate::scene::long("alone")), gcm.join("linked")).expect("link");
    mount.unmount();
    fsck(&volume, &[]).expect_clean();
    let (before, made) = (picture_of(&volume), kinds(&volume.backing));
    assert!((1..=4).all(|kind| made.contains_key(&kind)), "{made:?}");

    let copy = copied(&volume, "copy", "-r");
    assert!(kinds(&copy.backing).is_empty(), "cp -r keeps no attributes");
    let dry = fsck(&copy, &["--restore-keys", "--dry-run"]);
    assert!(dry.code == Some(0) && kinds(&copy.backing).is_empty(), "a dry run writes nothing: {dry:#?}");
    let restored = fsck(&copy, &["--restore-keys"]);
    assert_eq!((restored.code, restored.count("mended")), (Some(0), dry.count("mended")), "{restored:#?}");
    fsck(&copy, &[]).expect_clean();
    assert_eq!(kinds(&copy.backing), made, "directories give on what they gave on");
    expect_same(&picture_of(&copy), &before);
}

#[test]
fn an_exchanged_envelope_is_found_and_neither_key_is_lost() {
    if skipped() {
        return;
    }
    let victim = xts(|root| {
        for (dir, seed) in [("x", 1), ("y", 2)] {
            mkdir(&root.join(dir));
            write(&root.join(dir).join("file"), pattern(seed, 0, 5000));
        }
        write(&root.join("x/beside"), pattern(3, 0, 5000));
    });
    let [one, two, beside] = ["x/file", "y/file", "x/beside"].map(|name| victim.backing(name));
    exchange(&one, &two);
    let stored = [&one, &two].map(|path| envelope(path));
    for arguments in [&[][..], &["--restore-keys", "--repair"], &["--restore-keys", "--accept-moved", "--repair"]] {
        let checked = fsck(&victim.volume, arguments);
        assert_eq!((checked.code, checked.count("mended")), (Some(10), 0), "{checked:#?}");
        for path in ["/x/file", "/y/file"] {
            assert_eq!(checked.left(path), ["envelope-moved"], "{arguments:?}");
        }
        assert_eq!([&one, &two].map(|path| envelope(path)), stored, "nothing shows which is right");
    }
    // Whoever knows that the content was not moved takes the envelopes away.
    remove_envelope(&one);
    remove_envelope(&two);
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0));
    fsck(&victim.volume, &[]).expect_clean();

    // In one directory, both open.
    exchange(&one, &beside);
    for arguments in [&[][..], &["--restore-keys", "--repair"]] {
        let checked = fsck(&victim.volume, arguments);
        assert_eq!((checked.code, checked.count("mended")), (Some(11), 0), "{checked:#?}");
        for path in ["/x/file", "/x/beside"] {
            assert_eq!(checked.left(path), ["record-other"], "{arguments:?}");
        }
    }
    remove_envelope(&one);
    remove_envelope(&beside);
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0));
    fsck(&victim.volume, &[]).expect_clean();
    let mount = victim.mount();
    for (name, seed) in [("x/file", 1), ("y/file", 2), ("x/beside", 3)] {
        assert!(read(&mount.at(name)) == pattern(seed, 0, 5000), "{name}");
    }
    mount.unmount();
}

#[test]
fn missing_records_are_appended_and_restore_what_they_are_of() {
    if skipped() {
        return;
    }
    let victim = xts(|root| {
        mkdir(&root.join("dir"));
        write(&root.join("dir/file"), pattern(1, 0, 5000));
        write(&root.join("linked"), pattern(2, 0, 31));
        fs::hard_link(root.join("linked"), root.join("dir/also")).expect("link");
        write(&root.join("empty"), "");
    });
    let root = &victim.volume.backing;
    fs::remove_file(root.join(".kmsfs/keys.log")).expect("rm");
    let checked = fsck(&victim.volume, &[]);
    assert_eq!(checked.code, Some(11));
    for path in ["/", "/dir", "/dir/file", "/linked", "/dir/also"] {
        assert_eq!(checked.left(path), ["record-missing"], "{checked:#?}");
    }
    assert_eq!(fsck(&victim.volume, &["--repair"]).code, Some(0));
    fsck(&victim.volume, &[]).expect_clean();
    drop_envelopes(root);
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0));
    fsck(&victim.volume, &[]).expect_clean();
    let mount = victim.mount();
    assert!(read(&mount.at("dir/file")) == pattern(1, 0, 5000));
    assert!(["linked", "dir/also"].iter().all(|name| read(&mount.at(name)) == pattern(2, 0, 31)));
    mount.unmount();
}

/// A record of another key is appended to only where the user says that the file is what it should be.
#[test]
fn a_record_of_an_earlier_file_is_superseded_with_consent() {
    if skipped() {
        return;
    }
    let log = |volume: &Volume| volume.backing.join(".kmsfs/keys.log");
    let mut before = Vec::new();
    let victim = xts(|root| write(&root.join("file"), pattern(1, 0, 5000)));
    before.extend(read(&log(&victim.volume)));
    let mount = victim.volume.mount(&[]);
    write(&mount.at("new"), pattern(2, 0, 5000));
    fs::rename(mount.at("new"), mount.at("file")).expect("rename");
    mount.unmount();
    // As if the process had died before the record of the rename.
    write(&log(&victim.volume), &before);
    let checked = fsck(&victim.volume, &["--repair"]);
    assert_eq!((checked.code, checked.left("/file")), (Some(11), vec!["record-other"]), "{checked:#?}");
    let accepted = fsck(&victim.volume, &["--restore-keys", "--accept-moved", "--repair"]);
    assert_eq!((accepted.code, accepted.mended("/file")), (Some(0), vec!["record-other"]), "{accepted:#?}");
    fsck(&victim.volume, &[]).expect_clean();
    drop_envelopes(&victim.volume.backing);
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0));
    let mount = victim.mount();
    assert!(read(&mount.at("file")) == pattern(2, 0, 5000));
    mount.unmount();
}

/// Its name does not authenticate there, but its envelope went with it.
#[test]
fn a_moved_file_is_saved_with_its_own_key() {
    if skipped() {
        return;
    }
    let victim = xts(|root| {
        mkdir(&root.join("x"));
        mkdir(&root.join("y"));
        write(&root.join("x/file"), pattern(1, 0, 5000));
        for stays in ["x/stays", "y/stays"] {
            write(&root.join(stays), "x");
        }
    });
    let from = victim.backing("x/file");
    fs::rename(&from, victim.backing("y").join(from.file_name().expect("a name"))).expect("rename");
    let saved = fsck(&victim.volume, &["--restore-keys", "--accept-moved", "--repair"]);
    assert_eq!(saved.code, Some(0), "{saved:#?}");
    fsck(&victim.volume, &[]).expect_clean();
    drop_envelopes(&victim.volume.backing);
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0), "lost+found has a record of it");
    let mount = victim.mount();
    let found = tree(&mount.at("lost+found"));
    assert!(found.len() == 1 && read(&found[0]) == pattern(1, 0, 5000), "{found:?}");
    mount.unmount();
}

/// An old header is as genuine as the new one.
#[test]
fn xts_in_a_volume_that_says_to_have_none_is_an_error() {
    if skipped() {
        return;
    }
    let volume = Volume::with(&["--suite", "gcm"]);
    let headers = ["volume.json", "volume.json.bak"].map(|name| volume.backing.join(".kmsfs").join(name));
    let old = headers.each_ref().map(|path| read(path));
    let mount = volume.mount(&[]);
    mkdir(&mount.at("dir"));
    set_suite(&volume, &mount.at("dir"), "xts");
    for name in ["dir/file", "dir/stays"] {
        write(&mount.at(name), pattern(1, 0, 5000));
    }
    fs::rename(mount.at("dir/file"), mount.at("file")).expect("rename");
    mount.unmount();
    fsck(&volume, &[]).expect_clean();
    let new = headers.each_ref().map(|path| read(path));
    headers.iter().zip(&old).for_each(|(path, bytes)| write(path, bytes));
    for arguments in [&[][..], &["--restore-keys", "--accept-moved", "--repair"]] {
        let checked = fsck(&volume, arguments);
        assert_eq!((checked.code, checked.count("mended")), (Some(10), 0), "{checked:#?}");
        for path in ["/dir", "/file"] {
            assert_eq!(checked.left(path), ["xts-undeclared"], "{checked:#?}");
        }
    }
    let copy = copied(&volume, "copy", "-r");
    let restored = fsck(&copy, &["--restore-keys"]);
    assert_eq!((restored.code, restored.left("/dir")), (Some(10), vec!["xts-undeclared"]), "{restored:#?}");
    assert_eq!(restored.left("/file"), ["envelope-missing"], "{restored:#?}");
    headers.iter().zip(&new).for_each(|(path, bytes)| write(path, bytes));
    fsck(&volume, &[]).expect_clean();
}
