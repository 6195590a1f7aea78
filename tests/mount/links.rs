//! Hard links, symbolic links and special files.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{FileType, RenameFlags, makedev};

use crate::ops::{Errno, lstat, mkdir, mknod, open_rw, pattern, read, rename, said, set_times, write};
use crate::place::Place;

#[test]
fn a_hard_link_shows_its_plain_size_at_once() {
    let place = Place::shared();
    let (a, b) = (place.at("a"), place.at("b"));
    for size in [4, 5000] {
        write(&a, pattern(1, 0, size));
        fs::hard_link(&a, &b).expect("link");
        let (first, second) = (lstat(&a), lstat(&b));
        assert_eq!((second.len(), second.ino(), second.nlink()), (size as u64, first.ino(), 2));
        assert!(read(&b) == pattern(1, 0, size));
        fs::remove_file(&b).expect("unlink");
        assert_eq!(lstat(&a).nlink(), 1);
    }
}

#[test]
fn hard_links_across_directories_outlive_each_other_and_remounts() {
    let mut place = Place::own();
    mkdir(&place.at("d"));
    mkdir(&place.at("e"));
    let [a, b, c] = ["d/a", "e/b", "c"].map(|name| place.at(name));
    write(&a, pattern(1, 0, 5000));
    fs::hard_link(&a, &b).expect("link into another directory");
    fs::hard_link(&b, &c).expect("link into the root");
    open_rw(&c).set_len(100_000).expect("grow by one name");
    place.remount(&[]);
    for path in [&a, &b, &c] {
        assert_eq!((lstat(path).nlink(), lstat(path).len()), (3, 100_000), "{}", path.display());
        assert!(read(path)[..5000] == pattern(1, 0, 5000), "{}", path.display());
    }
    fs::remove_file(&a).expect("unlink");
    rename(&b, &place.at("d/moved"), RenameFlags::empty()).expect("rename of a linked file");
    fs::remove_file(&c).expect("unlink");
    place.remount(&[]);
    assert_eq!(lstat(&place.at("d/moved")).nlink(), 1);
    assert!(read(&place.at("d/moved"))[..5000] == pattern(1, 0, 5000));
}

#[test]
fn a_file_of_many_names_is_reached_by_those_that_are_left() {
    let mut place = Place::own();
    let name = |number: u64| place.at(format!("name{number}"));
    let many = 3000;
    write(&name(0), pattern(1, 0, 100));
    (1..many).for_each(|number| fs::hard_link(name(0), name(number)).expect("link"));
    // The first, the last and each second one go; all of them are known by then.
    let goes = |number: u64| number == 0 || number == many - 1 || number.is_multiple_of(2);
    (0..many).for_each(|number| assert_eq!(lstat(&name(number)).nlink(), many));
    (0..many).filter(|number| goes(*number)).for_each(|number| fs::remove_file(name(number)).expect("unlink"));
    let left: Vec<_> = (0..many).filter(|number| !goes(*number)).map(name).collect();
    for path in &left {
        assert_eq!(lstat(path).nlink(), left.len() as u64, "{}", path.display());
    }
    write(&left[7], pattern(2, 0, 200));
    place.remount(&[]);
    assert!(left.iter().step_by(100).all(|path| read(path) == pattern(2, 0, 200)));
    left.iter().for_each(|path| fs::remove_file(path).expect("unlink"));
}

#[test]
fn an_empty_file_linked_elsewhere_can_be_filled_by_either_name() {
    let mut place = Place::own();
    mkdir(&place.at("d"));
    write(&place.at("a"), b"");
    fs::hard_link(place.at("a"), place.at("d/b")).expect("link");
    write(&place.at("d/b"), pattern(1, 0, 9000));
    place.remount(&[]);
    assert!(read(&place.at("a")) == pattern(1, 0, 9000));
    assert!(read(&place.at("d/b")) == pattern(1, 0, 9000));
}

#[test]
fn a_link_opens_after_the_directory_of_another_went() {
    let place = Place::own();
    for dir in ["a", "b"] {
        mkdir(&place.at(dir));
    }
    write(&place.at("a/f"), pattern(3, 0, 9000));
    for name in ["b/g", "b/h"] {
        fs::hard_link(place.at("a/f"), place.at(name)).expect("link");
    }
    fs::remove_file(place.at("a/f")).expect("unlink");
    fs::remove_dir(place.at("a")).expect("rmdir");
    for name in ["b/g", "b/h"] {
        assert!(read(&place.at(name)) == pattern(3, 0, 9000), "{name}");
        assert_eq!(crate::ops::mode(&place.at(name)), 0o644);
    }
}

#[test]
fn the_first_byte_finds_the_name_that_is_left() {
    let mut place = Place::own();
    for dir in ["a", "b", "c"] {
        mkdir(&place.at(dir));
    }
    // opened by a name that goes, then by the one that stays
    write(&place.at("a/f"), b"");
    fs::hard_link(place.at("a/f"), place.at("b/f")).expect("link");
    place.remount(&[]);
    let first = open_rw(&place.at("a/f"));
    fs::remove_file(place.at("a/f")).expect("unlink");
    open_rw(&place.at("b/f")).write_all_at(&pattern(1, 0, 5000), 0).expect("write");
    drop(first);
    // a second name moves on and goes
    let file = fs::File::create(place.at("a/g")).expect("create");
    fs::hard_link(place.at("a/g"), place.at("b/g")).expect("link");
    fs::rename(place.at("b/g"), place.at("c/g")).expect("rename");
    fs::remove_file(place.at("c/g")).expect("unlink");
    file.write_all_at(&pattern(2, 0, 5000), 0).expect("write");
    drop(file);
    place.remount(&[]);
    assert!(read(&place.at("b/f")) == pattern(1, 0, 5000));
    assert!(read(&place.at("a/g")) == pattern(2, 0, 5000));
}

#[test]
fn links_that_must_fail_fail() {
    let place = Place::shared();
    mkdir(&place.at("d"));
    write(&place.at("f"), b"x");
    write(&place.at("g"), b"y");
    assert_eq!(said(fs::hard_link(place.at("d"), place.at("e"))), Err(Errno::PERM));
    assert_eq!(said(fs::hard_link(place.at("f"), place.at("g"))), Err(Errno::EXIST));
    assert_eq!(said(fs::hard_link(place.at("no"), place.at("h"))), Err(Errno::NOENT));
    assert_eq!((read(&place.at("f")), read(&place.at("g"))), (b"x".to_vec(), b"y".to_vec()));
}

/// The longest target that the backing link holds is 3043 bytes; the kernel takes up to 4095.
const TARGET_LENGTHS: [usize; 7] = [1, 15, 255, 3042, 3043, 3044, 4095];

#[test]
fn symlinks_of_every_length_read_back() {
    let mut place = Place::own();
    for len in TARGET_LENGTHS {
        symlink("t".repeat(len), place.at(format!("s{len}"))).unwrap_or_else(|e| panic!("symlink of {len}: {e}"));
    }
    for round in 0..2 {
        for len in TARGET_LENGTHS {
            let path = place.at(format!("s{len}"));
            assert_eq!(lstat(&path).len(), len as u64, "lstat length in round {round}");
            let target = fs::read_link(&path).unwrap_or_else(|e| panic!("readlink of {len}: {e}"));
            assert_eq!(target.as_os_str(), &*"t".repeat(len), "target in round {round}");
        }
        place.remount(&[]);
    }
    for len in TARGET_LENGTHS {
        let path = place.at(format!("s{len}"));
        rename(&path, &place.at("moved"), RenameFlags::empty()).expect("rename of a symlink");
        assert_eq!(fs::read_link(place.at("moved")).expect("readlink").as_os_str().len(), len);
        fs::remove_file(place.at("moved")).expect("unlink of a symlink");
    }
    assert_eq!(fs::read_dir(&*place).expect("read directory").count(), 0);
}

#[test]
fn too_long_or_empty_targets_are_refused() {
    let place = Place::shared();
    assert_eq!(said(symlink("t".repeat(4096), place.at("s"))), Err(Errno::NAMETOOLONG));
    assert_eq!(said(symlink("", place.at("s"))), Err(Errno::NOENT));
}

#[test]
fn symlinks_are_followed() {
    let place = Place::shared();
    mkdir(&place.at("d"));
    write(&place.at("d/f"), b"through links");
    symlink("d", place.at("to_d")).expect("symlink");
    symlink("to_d/f", place.at("to_f")).expect("symlink");
    symlink(place.at("to_f"), place.at("absolute")).expect("symlink");
    symlink("loop", place.at("loop")).expect("symlink");
    assert_eq!(read(&place.at("absolute")), b"through links");
    assert_eq!(said(fs::read(place.at("loop")).map(drop)), Err(Errno::LOOP));
}

#[test]
fn lstat_leaves_the_atime_of_a_symlink_alone() {
    let place = Place::shared();
    let path = place.at("s");
    symlink("target", &path).expect("symlink");
    let old = (1_000_000_000, 5);
    set_times(&path, old, (1_000_000_100, 7)).expect("utimensat of a symlink");
    for _ in 0..3 {
        let stat = lstat(&path);
        assert_eq!(
            (stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec()),
            (old.0, old.1, 1_000_000_100, 7)
        );
        fs::read_dir(&*place).expect("read directory").for_each(|entry| drop(entry.expect("entry").metadata()));
    }
}

#[test]
fn special_files_have_their_kinds_and_numbers() {
    let mut place = Place::own();
    mknod(&place.at("fifo"), FileType::Fifo, 0o640, 0).expect("mkfifo");
    mknod(&place.at("sock"), FileType::Socket, 0o600, 0).expect("mknod of a socket");
    mknod(&place.at("null"), FileType::CharacterDevice, 0o666, makedev(1, 3)).expect("mknod c 1 3");
    mknod(&place.at("block"), FileType::BlockDevice, 0o600, makedev(7, 200)).expect("mknod b 7 200");
    for _ in 0..2 {
        assert!(lstat(&place.at("fifo")).file_type().is_fifo());
        assert_eq!(lstat(&place.at("fifo")).mode() & 0o777, 0o640);
        assert!(lstat(&place.at("sock")).file_type().is_socket());
        let device = lstat(&place.at("null"));
        assert!(device.file_type().is_char_device());
        assert_eq!(device.rdev(), makedev(1, 3));
        assert!(lstat(&place.at("block")).file_type().is_block_device());
        assert_eq!(lstat(&place.at("block")).rdev(), makedev(7, 200));
        place.remount(&[]);
    }
    mkdir(&place.at("d"));
    for name in ["fifo", "sock", "null", "block"] {
        rename(&place.at(name), &place.at("d").join(name), RenameFlags::empty()).expect("rename across directories");
        fs::remove_file(place.at("d").join(name)).expect("unlink");
    }
}

#[test]
fn a_fifo_and_a_socket_carry_bytes() {
    let place = Place::shared();
    let (fifo, sock) = (place.at("fifo"), place.at("sock"));
    mknod(&fifo, FileType::Fifo, 0o600, 0).expect("mkfifo");
    let mut both_ends = open_rw(&fifo);
    both_ends.write_all(b"through").expect("write");
    let mut heard = [0; 7];
    both_ends.read_exact(&mut heard).expect("read");
    assert_eq!(&heard, b"through");
    let listener = UnixListener::bind(&sock).expect("bind");
    let mut client = UnixStream::connect(&sock).expect("connect");
    client.write_all(b"hello").expect("write");
    let mut heard = [0; 5];
    listener.accept().expect("accept").0.read_exact(&mut heard).expect("read");
    assert_eq!(&heard, b"hello");
}
