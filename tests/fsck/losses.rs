//! Each loss of docs/operations.md that fsck has to do with, and the way back.

use std::fs;

use crate::check::fsck;
use crate::harness::{Volume, skipped_in_plain_mode, xts};
use crate::ops::{pattern, read, write};
use crate::scene::{drop_envelopes, expect_same, picture_of, remove_envelope, scene};
use crate::victim::Victim;

fn small() -> Victim {
    Victim::new(|root| {
        fs::create_dir_all(root.join("docs/deep")).expect("mkdir -p");
        for (name, seed) in [("docs/letter", 1), ("docs/deep/note", 2), ("top", 3)] {
            write(&root.join(name), pattern(seed, 0, 5000));
        }
    })
}

fn expect_all(volume: &Volume) {
    let mount = volume.mount(&[]);
    for (name, seed) in [("docs/letter", 1), ("docs/deep/note", 2), ("top", 3)] {
        assert!(read(&mount.at(name)) == pattern(seed, 0, 5000), "{name}");
    }
    mount.unmount();
}

#[test]
fn the_envelope_of_a_directory_of_a_file_or_of_the_root() {
    if skipped_in_plain_mode() {
        return;
    }
    for (name, path) in [("docs", "/docs"), ("docs/deep/note", "/docs/deep/note"), ("", "/")] {
        let victim = small();
        let backing = if name.is_empty() { victim.volume.backing.clone() } else { victim.backing(name) };
        remove_envelope(&backing);
        let checked = fsck(&victim.volume, &[]);
        assert_eq!((checked.code, checked.left(path)), (Some(10), vec!["envelope-missing"]), "{name}");
        assert_eq!(checked.findings.len(), 1, "{checked:#?}");
        let restored = fsck(&victim.volume, &["--restore-keys"]);
        assert_eq!((restored.code, restored.mended(path)), (Some(0), vec!["envelope-missing"]), "{name}");
        assert_eq!(restored.count("mended"), 1);
        fsck(&victim.volume, &[]).expect_clean();
        expect_all(&victim.volume);
    }
}

#[test]
fn the_header_its_copy_or_what_is_in_them() {
    if skipped_in_plain_mode() {
        return;
    }
    type Harm = fn(&std::path::Path);
    let remove: Harm = |path| fs::remove_file(path).expect("rm");
    let cut: Harm = |path| write(path, &read(path)[..100]);
    for harm in [remove, cut] {
        for (name, problem) in [("volume.json", "header-damaged"), ("volume.json.bak", "header-copy")] {
            let victim = small();
            let path = victim.volume.backing.join(".kmsfs").join(name);
            let good = read(&path);
            harm(&path);
            let (stored, checked) = (format!(".kmsfs/{name}"), fsck(&victim.volume, &[]));
            assert_eq!((checked.code, checked.left(&stored)), (Some(11), vec![problem]), "{checked:#?}");
            let repaired = fsck(&victim.volume, &["--repair"]);
            assert_eq!((repaired.code, repaired.mended(&stored)), (Some(0), vec![problem]));
            assert!(read(&path) == good, "{name} is what it was");
            fsck(&victim.volume, &[]).expect_clean();
            expect_all(&victim.volume);
        }
    }
}

/// An edited header is told; which of the two is right is for the user to say.
#[test]
fn an_edited_header_is_not_mended() {
    if skipped_in_plain_mode() {
        return;
    }
    for (name, problem, code) in [("volume.json", "header-edited", 10), ("volume.json.bak", "header-copy", 11)] {
        let victim = small();
        let path = victim.volume.backing.join(".kmsfs").join(name);
        let text = String::from_utf8(read(&path)).expect("JSON");
        write(&path, text.replacen("\"base64url\"", "\"base32\"", 1));
        let checked = fsck(&victim.volume, &[]);
        assert_eq!(checked.left(&format!(".kmsfs/{name}")), [problem], "{checked:#?}");
        assert_eq!(checked.code, Some(code), "{checked:#?}");
    }
}

#[test]
fn the_copy_of_the_keys() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = small();
    let bundle = victim.volume.backing.join(".kmsfs/keystore.bundle");
    let left = |arguments: &[&str]| {
        let checked = fsck(&victim.volume, arguments);
        (checked.code, checked.left(".kmsfs/keystore.bundle").join(" "), checked.count("mended"))
    };
    write(&bundle, b"nonsense");
    assert_eq!(left(&[]), (Some(11), "keys-copy-damaged".to_owned(), 0));
    assert_eq!(left(&["--repair"]), (Some(0), String::new(), 1));
    assert_eq!(left(&[]), (Some(0), String::new(), 0));
    // Whether it is lost or was never there on purpose is for the user to say.
    fs::remove_file(&bundle).expect("rm");
    assert_eq!(left(&["--repair"]), (Some(0), "keys-copy-missing".to_owned(), 0));
    assert_eq!(left(&["--repair", "--keys-copy"]), (Some(0), String::new(), 1));
    assert_eq!(left(&[]), (Some(0), String::new(), 0));
    // It opens the volume alone again.
    let mut alone = victim.volume.clone();
    alone.keystore = victim.volume.base().join("nothing here");
    expect_all(&alone);
}

/// With the keystore lost, the volume's own copy serves, for a check and for a restore.
#[test]
fn the_keystore() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = small();
    let mut alone = victim.volume.clone();
    alone.keystore = victim.volume.base().join("nothing here");
    fsck(&alone, &[]).expect_clean();
    drop_envelopes(&alone.backing);
    assert_eq!(fsck(&alone, &["--restore-keys"]).code, Some(0));
    fsck(&alone, &[]).expect_clean();
    expect_all(&alone);
}

#[test]
fn the_log_of_directory_keys_and_the_mirrors() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = small();
    let log = victim.volume.backing.join(".kmsfs/keys.log");
    let whole = read(&log);
    // A torn end is what a crash leaves.
    write(&log, [&whole[..], &[7; 30]].concat());
    let checked = fsck(&victim.volume, &[]);
    assert_eq!((checked.code, checked.left(".kmsfs/keys.log")), (Some(0), vec!["log-torn"]));
    fs::remove_file(&log).expect("rm");
    let checked = fsck(&victim.volume, &[]);
    assert_eq!((checked.code, checked.left("/docs/deep")), (Some(11), vec!["record-missing"]));
    assert_eq!(checked.left(".kmsfs/keys.log"), ["log-missing"]);
    assert_eq!(fsck(&victim.volume, &["--repair"]).code, Some(0));
    fsck(&victim.volume, &[]).expect_clean();
    assert_eq!(read(&log).len(), whole.len(), "one record for each directory");
    // What was appended is of use.
    remove_envelope(&victim.backing("docs"));
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0));

    if xts() {
        // keys.log is the only mirror that such a file has.
        return expect_all(&victim.volume);
    }
    let file = victim.backing("docs/letter");
    let (mut bytes, before) = (read(&file), crate::ops::lstat(&file));
    for (fill, problem) in [(0, "mirror-missing"), (9, "mirror-wrong")] {
        bytes[152..220].fill(fill);
        write(&file, &bytes);
        let modified = fs::FileTimes::new().set_modified(before.modified().expect("mtime"));
        fs::File::open(&file).and_then(|file| file.set_times(modified)).expect("utimes");
        let checked = fsck(&victim.volume, &[]);
        assert_eq!((checked.code, checked.left("/docs/letter")), (Some(11), vec![problem]));
        assert_eq!(fsck(&victim.volume, &["--repair"]).mended("/docs/letter"), [problem]);
        assert_eq!(crate::ops::lstat(&file).modified().expect("mtime"), before.modified().expect("mtime"));
        fsck(&victim.volume, &[]).expect_clean();
    }
    remove_envelope(&file);
    assert_eq!(fsck(&victim.volume, &["--restore-keys"]).code, Some(0));
    expect_all(&victim.volume);
}

/// Nothing lost: a run with everything asked for changes nothing.
#[test]
fn nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let (volume, before) = scene(3, 6);
    fsck(&volume, &["--restore-keys", "--accept-moved", "--repair"]).expect_clean();
    expect_same(&picture_of(&volume), &before);
}
