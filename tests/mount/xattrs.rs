//! Extended attributes.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use rustix::fs::XattrFlags;

use crate::harness::skipped_in_plain_mode;
use crate::ops::{Errno, get_xattr, list_xattrs, mkdir, pattern, read, remove_xattr, set_xattr, write};
use crate::place::Place;
use crate::raw::{Caller, NOBODY};

#[test]
fn user_attributes_of_files_and_directories_come_back() {
    let mut place = Place::own();
    write(&place.at("f"), pattern(1, 0, 5000));
    write(&place.at("empty"), b"");
    mkdir(&place.at("d"));
    let values: [(&str, &[u8]); 5] = [
        ("user.a", b"value"),
        ("user.empty", b""),
        ("user.binary", &[0, 255, 10, 0]),
        ("user.\u{fc}n\u{ef} code", b"x"),
        ("user.mime_type", b"text/plain"),
    ];
    for object in ["f", "empty", "d"] {
        for (name, value) in values {
            set_xattr(&place.at(object), name, value).unwrap_or_else(|e| panic!("{name} of {object}: {e}"));
        }
    }
    for _ in 0..2 {
        for object in ["f", "empty", "d"] {
            let path = place.at(object);
            for (name, value) in values {
                assert_eq!(get_xattr(&path, name).as_deref(), Ok(value), "{name} of {object}");
                let asked: Result<usize, Errno> = rustix::fs::lgetxattr_query(&path, name);
                assert_eq!(asked, Ok(value.len()), "size of {name}");
            }
            let mut expected = values.map(|(name, _)| name.to_owned());
            expected.sort();
            assert_eq!(list_xattrs(&path).expect("list"), expected, "{object}");
        }
        place.remount(&[]);
    }
    assert!(read(&place.at("f")) == pattern(1, 0, 5000));
}

#[test]
fn create_replace_and_remove_answer_as_everywhere() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"x");
    let set = |value: &[u8], flags| rustix::fs::setxattr(&path, "user.a", value, flags);
    assert_eq!(set(b"1", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set(b"1", XattrFlags::CREATE), Ok(()));
    assert_eq!(set(b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(get_xattr(&path, "user.a").as_deref(), Ok(&b"1"[..]));
    assert_eq!(set(b"longer", XattrFlags::REPLACE), Ok(()));
    assert_eq!(get_xattr(&path, "user.a").as_deref(), Ok(&b"longer"[..]));
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut [0u8; 3]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::listxattr(&path, &mut [0u8; 3]), Err(Errno::RANGE));
    assert_eq!(remove_xattr(&path, "user.a"), Ok(()));
    assert_eq!(remove_xattr(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(get_xattr(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(list_xattrs(&path), Ok(vec![]));
}

#[test]
fn values_are_whole_or_refused() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"x");
    for size in [1, 100, 1000, 3000, 16_000, 60_000, 65_536] {
        let value = pattern(size as u64, 0, size);
        match set_xattr(&path, "user.big", &value) {
            Ok(()) => assert!(get_xattr(&path, "user.big").as_deref() == Ok(&value[..]), "{size} bytes"),
            Err(error) => {
                assert!(size > 3000, "{size} bytes fit a default ext4: {error}");
                assert!([Errno::NOSPC, Errno::TOOBIG, Errno::RANGE].contains(&error), "{size} bytes: {error}");
                let kept = get_xattr(&path, "user.big").expect("the former value");
                assert!(kept == pattern(kept.len() as u64, 0, kept.len()), "a refused value changes nothing");
            }
        }
    }
    for len in 150..=251 {
        let name = format!("user.{}", "n".repeat(len - 1));
        if set_xattr(&path, &name, b"v").is_ok() {
            assert_eq!(get_xattr(&path, &name).as_deref(), Ok(&b"v"[..]), "a name of {len} bytes");
            assert!(list_xattrs(&path).expect("list").contains(&name));
            remove_xattr(&path, &name).expect("remove");
        } else {
            assert!(len > 167, "names up to 167 bytes have room, this one has {len}");
        }
    }
}

#[test]
fn what_kmsfs_keeps_for_itself_is_never_shown() {
    let place = Place::own();
    write(&place.at("f"), pattern(1, 0, 5000));
    mkdir(&place.at("d"));
    symlink("f", place.at("s")).expect("symlink");
    write(&place.at("n".repeat(255)), b"long");
    set_xattr(&place.at("f"), "user.mine", b"v").expect("set");
    for object in ["", "f", "d", "s", &"n".repeat(255)] {
        let path = place.at(object);
        let listed = list_xattrs(&path).expect("list");
        assert!(listed.iter().all(|name| !name.contains("kmsf") && !name.contains("kmsx")), "{object}: {listed:?}");
        let dump = Command::new("getfattr").args(["-h", "-d", "-m", "-"]).arg(&path).output();
        let dump = String::from_utf8_lossy(&dump.expect("getfattr (package attr)").stdout).into_owned();
        assert!(!dump.contains("user.kms"), "{dump}");
        if !object.is_empty() {
            assert_eq!(get_xattr(&path, "user.kmsf"), Err(Errno::NODATA), "{object}");
        }
    }
    assert_eq!(list_xattrs(&place.at("f")), Ok(vec!["user.mine".to_owned()]));
}

#[test]
fn no_user_can_break_a_file_through_its_attributes() {
    let mut place = Place::own();
    write(&place.at("f"), pattern(1, 0, 5000));
    mkdir(&place.at("d"));
    write(&place.at("d/f"), b"inside");
    for object in ["f", "d"] {
        // each may be refused or be an attribute like any other
        let _ = set_xattr(&place.at(object), "user.kmsf", b"nonsense");
        let _ = set_xattr(&place.at(object), "user.kmsx.abc", b"nonsense");
        let _ = remove_xattr(&place.at(object), "user.kmsf");
    }
    place.remount(&[]);
    assert!(read(&place.at("f")) == pattern(1, 0, 5000));
    assert_eq!(read(&place.at("d/f")), b"inside");
}

#[test]
fn attributes_go_with_renames_and_links() {
    let mut place = Place::own();
    mkdir(&place.at("d"));
    write(&place.at("f"), b"");
    set_xattr(&place.at("f"), "user.a", b"of f").expect("set on an empty file");
    fs::rename(place.at("f"), place.at("d/g")).expect("rename");
    fs::hard_link(place.at("d/g"), place.at("h")).expect("link");
    write(&place.at("h"), pattern(1, 0, 9000));
    place.remount(&[]);
    for path in ["d/g", "h"] {
        assert_eq!(get_xattr(&place.at(path), "user.a").as_deref(), Ok(&b"of f"[..]), "{path}");
        assert!(read(&place.at(path)) == pattern(1, 0, 9000), "{path}");
    }
}

#[test]
fn who_has_no_privileges_is_not_shown_trusted_attributes() {
    let place = Place::shared();
    let path = place.at("trusted and not");
    write(&path, b"x");
    for name in ["trusted.t", "user.u"] {
        set_xattr(&path, name, b"v").expect("set");
    }
    assert_eq!(list_xattrs(&path).expect("list"), ["trusted.t", "user.u"]);
    let seen = Caller::user(NOBODY).run(|| list_xattrs(&path).expect("list"));
    assert_eq!(seen, ["user.u"]);
}

#[test]
fn trusted_and_security_attributes_work_on_everything_also_on_symlinks() {
    let mut place = Place::own();
    write(&place.at("f"), b"x");
    mkdir(&place.at("d"));
    symlink("nowhere", place.at("s")).expect("symlink");
    for object in ["f", "d", "s"] {
        for name in ["trusted.t", "security.s"] {
            set_xattr(&place.at(object), name, name.as_bytes()).unwrap_or_else(|e| panic!("{name} of {object}: {e}"));
        }
    }
    for _ in 0..2 {
        for object in ["f", "d", "s"] {
            let path = place.at(object);
            for name in ["trusted.t", "security.s"] {
                assert_eq!(get_xattr(&path, name).as_deref(), Ok(name.as_bytes()), "{name} of {object}");
            }
            assert_eq!(list_xattrs(&path).expect("list"), ["security.s", "trusted.t"], "{object}");
        }
        place.remount(&[]);
    }
    remove_xattr(&place.at("s"), "trusted.t").expect("remove from a symlink");
    assert_eq!(set_xattr(&place.at("s"), "user.a", b"v"), Err(Errno::PERM), "symlinks have no user attributes");
}

#[test]
fn file_capabilities_survive_and_die_with_a_write() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"program");
    // vfs_cap_data revision 2: cap_net_raw+ep
    let capability = [[1, 0, 0, 2], [0, 0x20, 0, 0], [0; 4], [0; 4], [0; 4]].concat();
    set_xattr(&path, "security.capability", &capability).expect("set");
    assert_eq!(get_xattr(&path, "security.capability"), Ok(capability));
    write(&path, b"changed");
    assert_eq!(get_xattr(&path, "security.capability"), Err(Errno::NODATA), "a write drops capabilities");
}

#[test]
fn names_of_attributes_are_found_only_where_they_are() {
    if skipped_in_plain_mode() {
        return;
    }
    let place = Place::shared();
    write(&place.at("a"), b"x");
    write(&place.at("b"), b"x");
    set_xattr(&place.at("a"), "user.only.a", b"v").expect("set");
    assert_eq!(get_xattr(&place.at("b"), "user.only.a"), Err(Errno::NODATA));
    assert_eq!(set_xattr(&place.at("a"), "nonsense", b"v"), Err(Errno::OPNOTSUPP));
}
