//! What a check says of volumes that are whole, in use, or damaged here and there.

use std::fs;
use std::path::Path;

use crate::check::fsck;
use crate::harness::{skipped_in_plain_mode, words, xts};
use crate::ops::{mkdir, pattern, read, set_xattr, write};
use crate::scene::{remove_envelope, scene};
use crate::victim::{Victim, block_at};

#[test]
fn a_whole_volume_is_clean_and_counted() {
    if skipped_in_plain_mode() {
        return;
    }
    let (volume, _) = scene(10, 12);
    for arguments in [&["--threads", "1"][..], &["--threads", "7"], &["--quick"]] {
        let checked = fsck(&volume, arguments);
        checked.expect_clean();
        let counted = ["directories", "files", "symlinks", "special"].map(|name| checked.count(name));
        assert_eq!(counted, [26, 10 * 12 + 10, 2, 1]);
        assert_eq!(checked.json["counts"]["complete"], true);
    }
    let output = volume.run(&[Path::new("fsck"), &volume.backing]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("0 errors, 0 warnings, 0 notes"), "{}", words(&output));
}

#[test]
fn a_mounted_volume_is_refused_unless_nothing_can_change() {
    if skipped_in_plain_mode() {
        return;
    }
    let (volume, _) = scene(1, 2);
    let run = |arguments: &[&str]| {
        let mut all = vec!["fsck", volume.backing.to_str().expect("UTF-8")];
        all.extend(arguments);
        let output = volume.run(&all);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mount = volume.mount(&[]);
    let (code, said) = run(&[]);
    assert!(code == Some(6) && said.contains("unmount"), "{said}");
    mount.unmount();
    let mount = volume.mount(&["--ro"]);
    assert_eq!(run(&[]).0, Some(0));
    for change in ["--repair", "--restore-keys"] {
        assert_eq!(run(&[change]).0, Some(6));
    }
    assert_eq!(run(&["--repair", "--dry-run"]).0, Some(0));
    mount.unmount();
    assert_eq!(run(&["--accept-moved"]).0, Some(2));
}

#[test]
fn a_part_of_a_volume_can_be_checked_alone() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        fs::create_dir_all(root.join("a/b")).expect("mkdir -p");
        mkdir(&root.join("c"));
        for name in ["a/x", "a/b/y", "c/z"] {
            write(&root.join(name), pattern(1, 0, 5000));
        }
    });
    for name in ["a/b/y", "c/z"] {
        remove_envelope(&victim.backing(name));
    }
    let checked = fsck(&victim.volume, &["/a"]);
    assert_eq!((checked.code, checked.left("/a/b/y")), (Some(10), vec!["envelope-missing"]));
    assert_eq!((checked.findings.len(), checked.count("files")), (1, 2));
    for path in ["/absent", "/a/x", "/a/../c"] {
        let refused = victim.volume.run(&[Path::new("fsck"), &victim.volume.backing, Path::new(path)]);
        assert_eq!(refused.status.code(), Some(2), "{path}: {}", words(&refused));
    }
}

#[test]
fn a_quick_check_reads_no_blocks_and_a_full_one_names_them() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| write(&root.join("file"), pattern(1, 0, 700_000)));
    let path = victim.backing("file");
    let mut bytes = read(&path);
    for block in [3, 4, 5, 70] {
        bytes[block_at(block)] ^= 1;
    }
    write(&path, bytes);
    fsck(&victim.volume, &["--quick"]).expect_clean();
    if xts() {
        // Nothing in such a file authenticates.
        return fsck(&victim.volume, &[]).expect_clean();
    }
    let output = victim.volume.run(&[Path::new("fsck"), &victim.volume.backing]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("error: /file: ") && text.contains("blocks 3 to 5, 70"), "{text}");
    assert_eq!(output.status.code(), Some(10));
}

#[test]
fn foreign_things_are_told_apart_from_damage() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        write(&root.join("file"), pattern(1, 0, 5000));
        write(&root.join("empty"), "");
    });
    let root = &victim.volume.backing;
    write(&root.join("README.txt"), "not encrypted");
    write(&root.join("a".repeat(64)), "named like a hash");
    mkdir(&root.join("lost+found"));
    write(&root.join(".kmsfs/notes"), "");
    set_xattr(&victim.backing("file"), "user.comment", b"plain").expect("set");
    let checked = fsck(&victim.volume, &[]);
    assert_eq!(checked.code, Some(11), "{checked:#?}");
    assert_eq!(checked.left("/?README.txt"), ["name-foreign"]);
    assert_eq!(checked.left(&format!("/?{}", "a".repeat(64))), ["name-foreign"]);
    assert_eq!(checked.left(".kmsfs/notes"), ["internal-unknown"]);
    assert_eq!(checked.left("/file"), ["xattr-foreign"]);
    assert_eq!(checked.findings.len(), 4, "{checked:#?}");
    let repaired = fsck(&victim.volume, &["--repair"]);
    assert_eq!((repaired.code, repaired.count("mended")), (Some(11), 0), "{repaired:#?}");
    assert_eq!(read(&root.join("README.txt")), b"not encrypted");
}
