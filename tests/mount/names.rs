//! Names, renaming and directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, RenameFlags};

use crate::harness::skipped_in_plain_mode;
use crate::ops::{Errno, child, lstat, mkdir, mknod, names, pattern, read, rename, said, write};
use crate::place::Place;

/// Around the length from which names are stored hashed (174), and the longest.
const LENGTHS: [usize; 9] = [1, 15, 16, 142, 143, 174, 175, 254, 255];

fn long(first: char, len: usize) -> String {
    format!("{first}{}", "n".repeat(len - 1))
}

#[test]
fn names_of_every_length_work_for_every_kind() {
    let mut place = Place::own();
    for len in LENGTHS {
        write(&place.at(long('f', len)), pattern(len as u64, 0, 100));
        mkdir(&place.at(long('d', len)));
        write(&place.at(long('d', len)).join(long('i', len)), b"inside");
        symlink(long('f', len), place.at(long('s', len))).expect("symlink");
        mknod(&place.at(long('p', len)), FileType::Fifo, 0o600, 0).expect("fifo");
        fs::hard_link(place.at(long('f', len)), place.at(long('h', len))).expect("link");
    }
    for _ in 0..2 {
        let expected =
            LENGTHS.iter().flat_map(|&len| ['f', 'd', 's', 'p', 'h'].map(|kind| long(kind, len).into_bytes()));
        let mut expected: Vec<Vec<u8>> = expected.collect();
        expected.sort();
        assert_eq!(names(&place), expected);
        for len in LENGTHS {
            assert!(read(&place.at(long('s', len))) == pattern(len as u64, 0, 100), "through the symlink of {len}");
            assert_eq!(lstat(&place.at(long('h', len))).nlink(), 2);
            assert_eq!(read(&place.at(long('d', len)).join(long('i', len))), b"inside");
            assert!(!lstat(&place.at(long('p', len))).is_file());
        }
        place.remount(&[]);
    }
    for len in LENGTHS {
        fs::remove_dir_all(place.at(long('d', len))).expect("remove a directory");
        for kind in ['f', 's', 'p', 'h'] {
            fs::remove_file(place.at(long(kind, len))).expect("unlink");
        }
    }
    assert_eq!(names(&place), [[0u8; 0]; 0]);
}

#[test]
fn a_name_of_256_bytes_is_too_long_everywhere() {
    let place = Place::shared();
    let path = place.at(long('f', 256));
    write(&place.at("f"), b"x");
    assert_eq!(said(fs::write(&path, b"x")), Err(Errno::NAMETOOLONG));
    assert_eq!(said(fs::create_dir(&path)), Err(Errno::NAMETOOLONG));
    assert_eq!(said(symlink("x", &path)), Err(Errno::NAMETOOLONG));
    assert_eq!(said(fs::hard_link(place.at("f"), &path)), Err(Errno::NAMETOOLONG));
    assert_eq!(rename(&place.at("f"), &path, RenameFlags::empty()), Err(Errno::NAMETOOLONG));
    assert_eq!(said(fs::metadata(&path).map(drop)), Err(Errno::NAMETOOLONG));
    assert_eq!(names(&place), [b"f"]);
}

#[test]
fn names_may_be_any_bytes() {
    let mut place = Place::own();
    let odd: [&[u8]; 12] = [
        b"new\nline",
        b" ",
        b"-rf",
        b"\\",
        b"*",
        "\u{fc}n\u{ef}".as_bytes(),
        "u\u{308}".as_bytes(),
        "\u{1F512}".as_bytes(),
        b"\xff\xfe",
        b"\x01\x7f\x80",
        b"...",
        b"A",
    ];
    for name in odd {
        write(&child(&place, name), name);
    }
    write(&place.at("a"), b"small");
    place.remount(&[]);
    for name in odd {
        assert_eq!(read(&child(&place, name)), name);
    }
    assert_eq!(read(&place.at("a")), b"small", "names differ by case");
    assert_eq!(names(&place).len(), odd.len() + 1);
}

#[test]
fn internal_names_are_out_of_reach() {
    if skipped_in_plain_mode() {
        return;
    }
    let place = Place::own();
    assert_eq!(names(&place), [[0u8; 0]; 0], "a fresh volume shows nothing");
    // the mount has its own names: what the backing tree calls so is not visible, and can be a name of the user's
    assert_eq!(said(fs::metadata(place.at(".kmsfs")).map(drop)), Err(Errno::NOENT));
    assert_eq!(said(fs::metadata(place.at(".kmsfs/volume.json")).map(drop)), Err(Errno::NOENT));
}

#[test]
fn renaming_between_short_and_long_names_keeps_the_content() {
    let mut place = Place::own();
    let (short, long_one, other) = (place.at("short"), place.at(long('x', 255)), place.at(long('y', 200)));
    write(&short, pattern(1, 0, 5000));
    for (from, to) in [(&short, &long_one), (&long_one, &other), (&other, &short)] {
        rename(from, to, RenameFlags::empty()).expect("rename");
        place.remount(&[]);
        assert_eq!(names(&place).len(), 1);
        assert!(read(to) == pattern(1, 0, 5000), "{}", to.display());
    }
    fs::hard_link(&short, &long_one).expect("link to a long name");
    fs::remove_file(&short).expect("unlink of the short name");
    place.remount(&[]);
    assert!(read(&long_one) == pattern(1, 0, 5000));
}

#[test]
fn rename_replaces_or_refuses_as_asked() {
    let mut place = Place::own();
    for directory in ["", "d"] {
        let (a, b) = (place.at("a"), place.at(directory).join("b"));
        fs::create_dir_all(b.parent().expect("parent")).expect("mkdir");
        write(&a, pattern(1, 0, 100));
        write(&b, pattern(2, 0, 5000));
        assert_eq!(rename(&a, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
        assert!(read(&b) == pattern(2, 0, 5000));
        rename(&a, &b, RenameFlags::EXCHANGE).expect("exchange");
        assert!(read(&a) == pattern(2, 0, 5000) && read(&b) == pattern(1, 0, 100), "exchanged");
        place.remount(&[]);
        assert!(read(&a) == pattern(2, 0, 5000) && read(&b) == pattern(1, 0, 100), "exchanged, remounted");
        rename(&a, &b, RenameFlags::empty()).expect("rename over a file");
        assert!(read(&b) == pattern(2, 0, 5000));
        assert_eq!(rename(&a, &b, RenameFlags::EXCHANGE), Err(Errno::NOENT));
        assert_eq!(rename(&a, &b, RenameFlags::empty()), Err(Errno::NOENT));
        rename(&b, &a, RenameFlags::NOREPLACE).expect("NOREPLACE without an obstacle");
        place.remount(&[]);
        assert!(read(&a) == pattern(2, 0, 5000), "after the way back");
        fs::remove_file(&a).expect("unlink");
    }
}

#[test]
fn directories_exchange_move_and_keep_what_is_in_them() {
    let mut place = Place::own();
    for name in ["a", "b", "a/deep", "a/deep/er"] {
        mkdir(&place.at(name));
    }
    write(&place.at("a/deep/er/f"), pattern(1, 0, 5000));
    write(&place.at("a/one"), b"one");
    write(&place.at("b/two"), b"two");
    rename(&place.at("a"), &place.at("b"), RenameFlags::EXCHANGE).expect("exchange of directories");
    assert_eq!(read(&place.at("b/one")), b"one");
    rename(&place.at("b/deep"), &place.at("a/moved"), RenameFlags::empty()).expect("move of a directory");
    assert!(read(&place.at("a/moved/er/f")) == pattern(1, 0, 5000));
    place.remount(&[]);
    assert_eq!(
        (names(&place.at("a")), names(&place.at("b"))),
        (vec![b"moved".to_vec(), b"two".to_vec()], vec![b"one".to_vec()])
    );
    assert!(read(&place.at("a/moved/er/f")) == pattern(1, 0, 5000));
    assert_eq!(lstat(&place.at("a")).nlink(), 3, "a directory counts its subdirectories");
    assert_eq!(lstat(&place.at("b")).nlink(), 2);
}

#[test]
fn renames_that_must_fail_fail() {
    let place = Place::shared();
    for name in ["empty", "full", "full/sub"] {
        mkdir(&place.at(name));
    }
    write(&place.at("f"), b"x");
    let try_rename = |from: &str, to: &str| rename(&place.at(from), &place.at(to), RenameFlags::empty());
    assert_eq!(try_rename("empty", "full"), Err(Errno::NOTEMPTY));
    assert_eq!(try_rename("full", "full/sub/below"), Err(Errno::INVAL));
    assert_eq!(try_rename("f", "empty"), Err(Errno::ISDIR));
    assert_eq!(try_rename("empty", "f"), Err(Errno::NOTDIR));
    assert_eq!(try_rename("no", "new"), Err(Errno::NOENT));
    try_rename("full", "empty").expect("rename over an empty directory");
    assert_eq!(names(&place), [b"empty".to_vec(), b"f".to_vec()]);
    assert_eq!(names(&place.at("empty")), [b"sub"]);
}

#[test]
fn directories_are_made_and_removed_as_everywhere() {
    let place = Place::shared();
    mkdir(&place.at("d"));
    write(&place.at("d/f"), b"x");
    write(&place.at("f"), b"x");
    assert_eq!(said(fs::remove_dir(place.at("d"))), Err(Errno::NOTEMPTY));
    assert_eq!(read(&place.at("d/f")), b"x", "a refused rmdir leaves the directory whole");
    assert_eq!(said(fs::remove_dir(place.at("f"))), Err(Errno::NOTDIR));
    assert_eq!(said(fs::remove_file(place.at("d"))), Err(Errno::ISDIR));
    assert_eq!(said(fs::create_dir(place.at("f"))), Err(Errno::EXIST));
    assert_eq!(said(fs::create_dir(place.at("no/d"))), Err(Errno::NOENT));
    fs::remove_file(place.at("d/f")).expect("unlink");
    fs::remove_dir(place.at("d")).expect("rmdir");
    assert_eq!(said(fs::metadata(place.at("d")).map(drop)), Err(Errno::NOENT));
}

#[test]
fn a_directory_that_was_removed_while_open_is_empty_and_takes_nothing() {
    let place = Place::shared();
    mkdir(&place.at("d"));
    let handle = fs::File::open(place.at("d")).expect("open of a directory");
    fs::remove_dir(place.at("d")).expect("rmdir");
    assert!(handle.metadata().expect("fstat").is_dir());
    let made = rustix::fs::mkdirat(&handle, "sub", 0o755.into());
    assert_eq!(made, Err(Errno::NOENT));
}

#[test]
fn inode_numbers_stay_over_remounts() {
    let mut place = Place::own();
    mkdir(&place.at("d"));
    write(&place.at("d/f"), b"x");
    symlink("f", place.at("d/s")).expect("symlink");
    let inodes = |root: &Path| ["d", "d/f", "d/s"].map(|name| lstat(&root.join(name)).ino());
    let before = inodes(&place);
    place.remount(&[]);
    assert_eq!(inodes(&place), before);
    for entry in fs::read_dir(place.at("d")).expect("read directory") {
        let entry = entry.expect("entry");
        let listed = std::os::unix::fs::DirEntryExt::ino(&entry);
        assert_eq!(listed, lstat(&entry.path()).ino(), "readdir and stat agree");
    }
}
