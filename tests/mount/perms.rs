//! Who may do what: modes, owners, ACLs, times.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use rustix::fs::RenameFlags;

use crate::ops::{
    Errno, chmod, chown, get_xattr, lstat, mkdir, mkdir_mode, mode, open_rw, pattern, read, rename, said, set_times,
    set_xattr, write,
};
use crate::place::Place;
use crate::raw::{Caller, NOBODY};

/// An ordinary user besides nobody.
const ALICE: u32 = 12_345;

/// A place that everyone may write to.
fn open_place() -> Place {
    let place = Place::shared();
    chmod(&place, 0o777);
    place
}

#[test]
fn modes_are_kept_exactly() {
    let mut place = Place::own();
    let modes = [0o151, 0o700, 0o755, 0o000, 0o444, 0o200, 0o1777, 0o2755, 0o511];
    Caller::with_umask(0).run(|| {
        for bits in modes {
            mkdir_mode(&place.at(format!("d{bits:o}")), bits).expect("mkdir");
            let file = OpenOptions::new().write(true).create_new(true).mode(bits).open(place.at(format!("f{bits:o}")));
            file.expect("create").write_all(b"content").expect("write");
        }
    });
    for round in 0..2 {
        for bits in modes {
            // mkdir(2) may drop bits above 0777, open(2) keeps them
            assert_eq!(mode(&place.at(format!("d{bits:o}"))) & 0o1777, bits & 0o1777, "directory, round {round}");
            assert_eq!(mode(&place.at(format!("f{bits:o}"))) & 0o777, bits & 0o777, "file, round {round}");
            assert_eq!(read(&place.at(format!("f{bits:o}"))), b"content");
        }
        place.remount(&[]);
    }
    for bits in modes {
        chmod(&place.at("f444"), bits | 0o4000);
        assert_eq!(mode(&place.at("f444")), bits | 0o4000);
        chmod(&place.at("d151"), bits);
        assert_eq!(mode(&place.at("d151")), bits);
    }
}

#[test]
fn the_umask_of_the_caller_counts() {
    let place = open_place();
    let user = Caller { umask: 0o027, ..Caller::user(ALICE) };
    user.run(|| {
        write(&place.at("f"), b"x");
        mkdir_mode(&place.at("d"), 0o777).expect("mkdir");
    });
    assert_eq!((mode(&place.at("f")), mode(&place.at("d"))), (0o640, 0o750));
}

#[test]
fn new_objects_belong_to_the_caller() {
    let place = open_place();
    Caller { gid: 777, groups: vec![777], ..Caller::user(ALICE) }.run(|| {
        write(&place.at("f"), pattern(1, 0, 5000));
        mkdir(&place.at("d"));
        symlink("x", place.at("s")).expect("symlink");
        crate::ops::mknod(&place.at("p"), rustix::fs::FileType::Fifo, 0o600, 0).expect("fifo");
        assert!(read(&place.at("f")) == pattern(1, 0, 5000));
    });
    for name in ["f", "d", "s", "p"] {
        let stat = lstat(&place.at(name));
        assert_eq!((stat.uid(), stat.gid()), (ALICE, 777), "{name}");
    }
}

#[test]
fn identities_never_mix_under_load() {
    let place = open_place();
    let rounds = crate::harness::setting("KMSFS_IDENTITY_ROUNDS", 30);
    std::thread::scope(|scope| {
        for (uid, gid) in [(0, 0), (ALICE, 777), (NOBODY, NOBODY), (500, 501)] {
            let place = &place;
            scope.spawn(move || {
                let caller = Caller { uid, gid, groups: vec![gid], umask: 0o022 };
                caller.run(|| {
                    for round in 0..rounds {
                        for number in 0..8 {
                            let path = place.at(format!("{uid}.{round}.{number}"));
                            write(&path, b"x");
                            let stat = lstat(&path);
                            assert_eq!((stat.uid(), stat.gid()), (uid, gid), "{}", path.display());
                            fs::remove_file(&path).expect("unlink of an own file");
                        }
                        let dir = place.at(format!("{uid}.{round}"));
                        mkdir(&dir);
                        assert_eq!((lstat(&dir).uid(), lstat(&dir).gid()), (uid, gid));
                        fs::remove_dir(&dir).expect("rmdir of an own directory");
                    }
                });
            });
        }
    });
}

#[test]
fn strangers_are_kept_out() {
    let place = open_place();
    write(&place.at("secret"), b"x");
    chmod(&place.at("secret"), 0o600);
    mkdir(&place.at("closed"));
    write(&place.at("closed/f"), b"x");
    chmod(&place.at("closed"), 0o700);
    Caller::user(NOBODY).run(|| {
        assert_eq!(said(fs::read(place.at("secret")).map(drop)), Err(Errno::ACCESS));
        assert_eq!(said(fs::read(place.at("closed/f")).map(drop)), Err(Errno::ACCESS));
        assert_eq!(said(fs::read_dir(place.at("closed")).map(drop)), Err(Errno::ACCESS));
        assert_eq!(said(fs::set_permissions(place.at("secret"), lstat(&place).permissions())), Err(Errno::PERM));
        assert_eq!(said(std::os::unix::fs::chown(place.at("secret"), Some(NOBODY), None)), Err(Errno::PERM));
    });
}

#[test]
fn sticky_directories_protect_what_is_in_them() {
    let place = open_place();
    chmod(&place, 0o1777);
    Caller::user(ALICE).run(|| write(&place.at("hers"), b"x"));
    Caller::user(NOBODY).run(|| {
        assert_eq!(said(fs::remove_file(place.at("hers"))), Err(Errno::PERM));
        assert_eq!(rename(&place.at("hers"), &place.at("mine"), RenameFlags::empty()), Err(Errno::PERM));
    });
    Caller::user(ALICE).run(|| fs::remove_file(place.at("hers")).expect("unlink by the owner"));
}

/// Files without write permission are the sore point: their envelope must be set and rewrapped all the same.
#[test]
fn an_ordinary_owner_fills_moves_and_reopens_files_of_any_mode() {
    let place = open_place();
    Caller::user(ALICE).run(|| {
        mkdir(&place.at("a"));
        mkdir(&place.at("b"));
        for bits in [0o444, 0o000, 0o200, 0o400, 0o644] {
            let (from, to) = (place.at(format!("a/{bits:o}")), place.at(format!("b/{bits:o}")));
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(bits).open(&from);
            let file = file.unwrap_or_else(|e| panic!("create with mode {bits:o}: {e}"));
            file.write_all_at(&pattern(u64::from(bits), 0, 5000), 0).expect("write through the creating handle");
            drop(file);
            rename(&from, &to, RenameFlags::empty()).unwrap_or_else(|e| panic!("rename of mode {bits:o}: {e}"));
            fs::hard_link(&to, &from).unwrap_or_else(|e| panic!("link of mode {bits:o}: {e}"));
            assert_eq!(lstat(&to).mode() & 0o777, bits);
            let allowed = bits & 0o400 != 0;
            assert_eq!(said(File::open(&to).map(drop)), if allowed { Ok(()) } else { Err(Errno::ACCESS) }, "{bits:o}");
            chmod(&to, 0o600);
            assert!(read(&from) == pattern(u64::from(bits), 0, 5000), "content of mode {bits:o}");
        }
        for bits in [0o500, 0o100, 0o300] {
            let dir = place.at(format!("a/d{bits:o}"));
            mkdir_mode(&dir, bits).expect("mkdir");
            chmod(&dir, 0o700);
            write(&dir.join("f"), b"inside");
            chmod(&dir, bits | 0o200);
            rename(&dir, &place.at(format!("b/d{bits:o}")), RenameFlags::empty()).expect("rename of a directory");
            assert_eq!(read(&place.at(format!("b/d{bits:o}/f"))), b"inside");
        }
    });
}

#[test]
fn root_reaches_files_of_mode_0000() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"x");
    chmod(&path, 0);
    open_rw(&path).write_all(b"root may").expect("write");
    assert_eq!(read(&path), b"root may");
}

#[test]
fn setgid_directories_hand_down_their_group() {
    let place = open_place();
    mkdir(&place.at("d"));
    chown(&place.at("d"), 0, 777);
    chmod(&place.at("d"), 0o2777);
    Caller::user(ALICE).run(|| {
        write(&place.at("d/f"), b"x");
        mkdir(&place.at("d/sub"));
    });
    assert_eq!((lstat(&place.at("d/f")).uid(), lstat(&place.at("d/f")).gid()), (ALICE, 777));
    assert_eq!(lstat(&place.at("d/sub")).gid(), 777);
    assert_eq!(mode(&place.at("d/sub")) & 0o2000, 0o2000, "subdirectories inherit setgid");
    // root's group is one like any other
    chown(&place.at("d"), 0, 0);
    chmod(&place.at("d"), 0o2777);
    Caller::user(ALICE).run(|| {
        write(&place.at("d/g"), b"x");
        mkdir(&place.at("d/sub2"));
        symlink("x", place.at("d/s")).expect("symlink");
    });
    for name in ["d/g", "d/sub2", "d/s"] {
        assert_eq!((lstat(&place.at(name)).uid(), lstat(&place.at(name)).gid()), (ALICE, 0), "{name}");
    }
}

#[test]
fn writing_cutting_and_giving_away_drop_suid_and_sgid() {
    let place = open_place();
    let path = place.at("f");
    for change in ["write", "truncate", "chown", "nothing"] {
        write(&path, pattern(1, 0, 5000));
        chown(&path, ALICE, ALICE);
        chmod(&path, 0o6777);
        match change {
            "chown" => chown(&path, ALICE, ALICE),
            "nothing" => {}
            change => Caller::user(NOBODY).run(|| {
                let file = OpenOptions::new().write(true).open(&path).expect("open");
                if change == "write" {
                    file.write_all_at(b"x", 10).expect("write");
                } else {
                    file.set_len(100).expect("truncate");
                }
            }),
        }
        assert_eq!(mode(&path), if change == "nothing" { 0o6777 } else { 0o777 }, "after {change}");
        fs::remove_file(&path).expect("unlink");
    }
}

#[test]
fn chown_changes_owner_and_group_of_links_too() {
    let mut place = Place::own();
    write(&place.at("f"), b"x");
    symlink("f", place.at("s")).expect("symlink");
    chown(&place.at("f"), 1000, 2000);
    chown(&place.at("s"), 3000, 4000);
    place.remount(&[]);
    assert_eq!((lstat(&place.at("f")).uid(), lstat(&place.at("f")).gid()), (1000, 2000));
    assert_eq!((lstat(&place.at("s")).uid(), lstat(&place.at("s")).gid()), (3000, 4000));
}

#[test]
fn times_keep_their_nanoseconds() {
    let mut place = Place::own();
    write(&place.at("f"), b"x");
    mkdir(&place.at("d"));
    for name in ["f", "d"] {
        set_times(&place.at(name), (946_684_799, 987_654_321), (1_234_567_890, 123_456_789)).expect("utimensat");
    }
    place.remount(&[]);
    for name in ["f", "d"] {
        let stat = lstat(&place.at(name));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_234_567_890, 123_456_789), "{name}");
        assert_eq!((stat.atime(), stat.atime_nsec()), (946_684_799, 987_654_321), "{name}");
    }
}

#[test]
fn changes_move_the_times_that_they_should() {
    let place = Place::shared();
    let path = place.at("f");
    let old = (1_000_000_000, 0);
    let age = |path| set_times(path, old, old).expect("utimensat");
    write(&path, b"content");
    age(&path);
    chmod(&path, 0o600);
    assert_eq!(lstat(&path).mtime(), old.0, "chmod leaves mtime alone");
    assert!(lstat(&path).ctime() > old.0, "chmod moves ctime");
    open_rw(&path).write_all(b"x").expect("write");
    assert!(lstat(&path).mtime() > old.0, "write moves mtime");
    age(&place);
    fs::remove_file(&path).expect("unlink");
    assert!(lstat(&place).mtime() > old.0, "unlink moves the directory's mtime");
}

/// The kernel tells the times that it keeps after a rename, which is not to be taken for touch(1) with the time that is there.
#[test]
fn change_times_are_kept_when_the_modification_time_stays() {
    let mut place = Place::own();
    let (old, omit) = ((1_000_000_000, 500), (0, rustix::fs::UTIME_OMIT));
    write(&place.at("f"), b"x");
    set_times(&place.at("f"), old, old).expect("utimensat");
    let ctime = |place: &Place, name| {
        let stat = lstat(&place.at(name));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), old, "{name}");
        (stat.ctime(), stat.ctime_nsec())
    };
    place.remount(&[]);
    let first = ctime(&place, "f");
    std::thread::sleep(Duration::from_millis(20));
    set_times(&place.at("f"), omit, old).expect("utimensat");
    place.remount(&[]);
    let touched = ctime(&place, "f");
    assert!(touched > first, "touch moves ctime");
    std::thread::sleep(Duration::from_millis(20));
    rename(&place.at("f"), &place.at("g"), RenameFlags::empty()).expect("rename");
    let renamed = ctime(&place, "g");
    place.remount(&[]);
    assert!(ctime(&place, "g") > touched, "rename moves ctime");
    assert!(ctime(&place, "g") >= renamed, "not back behind what was shown");
}

fn setfacl(arguments: &[&str]) {
    let status = Command::new("setfacl").args(arguments).status().expect("setfacl (package acl)");
    assert!(status.success(), "setfacl {arguments:?}: {status}");
}

#[test]
fn acls_are_enforced() {
    let mut place = Place::own();
    let path = place.at("f");
    write(&path, b"x");
    chmod(&path, 0o600);
    let text = path.to_str().expect("UTF-8").to_owned();
    setfacl(&["-m", &format!("u:{ALICE}:r"), &text]);
    for _ in 0..2 {
        Caller::user(ALICE).run(|| {
            assert_eq!(read(&path), b"x");
            assert_eq!(said(OpenOptions::new().write(true).open(&path).map(drop)), Err(Errno::ACCESS));
        });
        Caller::user(NOBODY).run(|| assert_eq!(said(File::open(&path).map(drop)), Err(Errno::ACCESS)));
        place.remount(&[]);
    }
    chmod(&path, 0o600);
    Caller::user(ALICE)
        .run(|| assert_eq!(said(File::open(&path).map(drop)), Err(Errno::ACCESS), "chmod sets the mask"));
    setfacl(&["-b", &text]);
    assert!(get_xattr(&path, "system.posix_acl_access").is_err());
}

#[test]
fn setting_an_acl_keeps_setgid_for_the_group_only() {
    let place = open_place();
    for (name, groups, kept) in [("member", vec![ALICE, 777], 0o2000), ("stranger", vec![ALICE], 0)] {
        let path = place.at(name);
        mkdir(&path);
        chown(&path, ALICE, 777);
        chmod(&path, 0o2775);
        let text = path.to_str().expect("UTF-8").to_owned();
        let caller = Caller { groups, ..Caller::user(ALICE) };
        caller.run(|| setfacl(&["-m", &format!("u:{NOBODY}:rx"), &text]));
        assert_eq!(mode(&path), 0o775 | kept, "{name}");
    }
}

#[test]
fn default_acls_are_inherited_and_overrule_the_umask() {
    let place = open_place();
    let dir = place.at("d");
    mkdir(&dir);
    chmod(&dir, 0o777);
    setfacl(&["-d", "-m", &format!("u::rwx,g::rwx,o::-,u:{ALICE}:rw"), dir.to_str().expect("UTF-8")]);
    Caller { umask: 0o077, ..Caller::user(NOBODY) }.run(|| {
        write(&dir.join("f"), b"x");
        mkdir_mode(&dir.join("sub"), 0o777).expect("mkdir");
    });
    assert_eq!(mode(&dir.join("f")) & 0o777, 0o660, "the default ACL decides, not the umask");
    assert_eq!(mode(&dir.join("sub")) & 0o777, 0o770);
    Caller::user(ALICE).run(|| assert_eq!(read(&dir.join("f")), b"x"));
    let inherited = get_xattr(&dir.join("sub"), "system.posix_acl_default").expect("default ACL of the subdirectory");
    assert_eq!(inherited, get_xattr(&dir, "system.posix_acl_default").expect("default ACL"));
    assert!(set_xattr(&dir.join("f"), "system.posix_acl_default", &inherited).is_err(), "only directories have one");
}
