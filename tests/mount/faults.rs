//! What goes wrong around a volume: secrets, headers, mountpoints, disks. Codes are those of the manual.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::disk::Disk;
use crate::harness::{Refusal, Volume, detach, is_advice, sidecars, skipped_in_plain_mode, wait_until, words, xts};
use crate::ops::{Errno, names, open_rw, pattern, read, said, write};

const WRONG_PASSPHRASE: i32 = 3;
const NO_VOLUME: i32 = 4;
const MOUNTPOINT: i32 = 5;
const IN_USE: i32 = 6;
const UNSUPPORTED: i32 = 7;
const KEYSTORE: i32 = 8;
const BACKING_STORE: i32 = 9;

/// The refusal of a mount that must not come about: with one of `codes` and with advice.
fn refused(volume: &Volume, codes: &[i32]) -> Refusal {
    let refusal = match volume.try_mount(&[]) {
        Err(refusal) => refusal,
        Ok(_) => panic!("this mount must be refused with {codes:?}"),
    };
    assert!(refusal.code.is_some_and(|code| codes.contains(&code)), "{codes:?} expected: {refusal:?}");
    assert!(is_advice(&refusal.said), "no advice: {refusal:?}");
    refusal
}

fn failed(outcome: &Output, codes: &[i32]) {
    assert!(outcome.status.code().is_some_and(|code| codes.contains(&code)), "{codes:?} expected: {}", words(outcome));
    assert!(is_advice(&String::from_utf8_lossy(&outcome.stderr)), "no advice: {}", words(outcome));
}

#[test]
fn a_wrong_passphrase_is_refused() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with_passphrase();
    let right = fs::read(&volume.passfile).expect("passphrase");
    for wrong in [&b"incorrect horse\n"[..], b"\n", b"", b"correct horse battery staple \n"] {
        write(&volume.passfile, wrong);
        refused(&volume, if wrong.len() < 2 { &[WRONG_PASSPHRASE, 1, 2] } else { &[WRONG_PASSPHRASE] });
    }
    write(&volume.passfile, right);
    volume.mount(&[]).unmount();
}

#[test]
fn another_keystore_is_refused_and_the_copy_in_the_volume_suffices() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut volume = Volume::with_passphrase();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), pattern(1, 0, 5000));
    mount.unmount();
    let elsewhere = volume.base().join("no keystore");
    let own = std::mem::replace(&mut volume.keystore, elsewhere);
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("f")) == pattern(1, 0, 5000), "the tree and the passphrase suffice");
    mount.unmount();
    volume.keystore = own;
    volume.mount(&[]).unmount();

    let mut detached = Volume::with(&["--detached"]);
    detached.keystore = detached.base().join("no keystore");
    let refusal = refused(&detached, &[KEYSTORE, WRONG_PASSPHRASE]);
    assert!(refusal.said.contains("keystore"), "{refusal:?}");
    let stranger = Volume::new();
    detached.keystore = stranger.keystore.clone();
    refused(&detached, &[KEYSTORE, WRONG_PASSPHRASE]);
}

#[test]
fn a_folder_that_is_no_volume_is_refused() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let header = volume.backing.join(".kmsfs");
    fs::rename(&header, volume.base().join("away")).expect("rename");
    refused(&volume, &[NO_VOLUME]);
    fs::remove_dir_all(&volume.backing).expect("rmdir");
    refused(&volume, &[NO_VOLUME]);
}

/// Both copies of the header, changed by `edit`.
fn edit_header(volume: &Volume, edit: impl Fn(&str) -> String) {
    for copy in ["volume.json", "volume.json.bak"] {
        let path = volume.backing.join(".kmsfs").join(copy);
        let text = String::from_utf8(read(&path)).expect("JSON is UTF-8");
        let edited = edit(&text);
        assert_ne!(text, edited, "the edit must change {copy}");
        write(&path, edited);
    }
}

#[test]
fn a_damaged_header_is_refused_and_one_good_copy_suffices() {
    if skipped_in_plain_mode() {
        return;
    }
    for garbage in ["", "{", "nonsense", "[]", "{\"format\":1}", "\u{0}\u{0}\u{0}\u{0}"] {
        let volume = Volume::new();
        let path = volume.backing.join(".kmsfs/volume.json");
        let good = read(&path);
        write(&path, garbage);
        match volume.try_mount(&[]) {
            Ok(mount) => mount.unmount(),
            Err(refusal) => assert!(refusal.code == Some(NO_VOLUME) && is_advice(&refusal.said), "{refusal:?}"),
        }
        edit_header(&volume, |_| format!("{garbage} "));
        refused(&volume, &[NO_VOLUME]);
        write(&path, good);
        volume.mount(&[]).unmount();
    }
}

#[test]
fn unknown_features_are_refused_or_mounted_read_only() {
    if skipped_in_plain_mode() {
        return;
    }
    let add = |text: &str, kind: &str| {
        let start = text.find(&format!("\"{kind}\"")).expect("the feature list") + kind.len() + 2;
        let open = start + text[start..].find('[').expect("an array") + 1;
        let separator = if text[open..].trim_start().starts_with(']') { "" } else { "," };
        format!("{}\"from_the_future\"{separator}{}", &text[..open], &text[open..])
    };
    let volume = Volume::new();
    edit_header(&volume, |text| add(text, "incompat"));
    let refusal = refused(&volume, &[UNSUPPORTED]);
    assert!(refusal.said.contains("from_the_future"), "{refusal:?}");

    let volume = Volume::new();
    edit_header(&volume, |text| {
        text.replacen("\"format\": 1", "\"format\": 2", 1).replacen("\"format\":1", "\"format\":2", 1)
    });
    refused(&volume, &[UNSUPPORTED]);
}

#[test]
fn init_spares_what_is_there() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::folders();
    write(&volume.backing.join("photo"), b"mine");
    let arguments = ["init", "--unlock-time", "1", volume.backing.to_str().expect("UTF-8")];
    failed(&volume.run(&arguments), &[1, 2]);
    assert_eq!(names(&volume.backing), [b"photo"], "nothing was made beside it");

    let volume = Volume::new();
    let header = read(&volume.backing.join(".kmsfs/volume.json"));
    let arguments = ["init", "--unlock-time", "1", volume.backing.to_str().expect("UTF-8")];
    let second = volume.run(&arguments);
    assert!(!second.status.success(), "{}", words(&second));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"), "{}", words(&second));
    assert_eq!(read(&volume.backing.join(".kmsfs/volume.json")), header, "a second init leaves the volume alone");
}

#[test]
fn unusable_mountpoints_are_refused() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut volume = Volume::new();
    let good = volume.mountpoint.clone();
    write(&good.join("in the way"), b"x");
    refused(&volume, &[MOUNTPOINT]);
    fs::remove_file(good.join("in the way")).expect("unlink");
    volume.mountpoint = volume.base().join("missing");
    let refusal = refused(&volume, &[MOUNTPOINT]);
    assert!(refusal.said.contains("missing"), "{refusal:?}");
    write(&volume.mountpoint, b"a file");
    refused(&volume, &[MOUNTPOINT]);
    // a mount inside its own backing tree would feed on itself
    volume.mountpoint = volume.backing.join("inside");
    fs::create_dir(&volume.mountpoint).expect("mkdir");
    refused(&volume, &[MOUNTPOINT]);
    fs::remove_dir(&volume.mountpoint).expect("rmdir");
    volume.mountpoint = good;
    volume.mount(&[]).unmount();
}

#[test]
fn a_volume_has_one_mount_and_a_mountpoint_one_volume() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), b"x");
    let mut second = volume.clone();
    second.mountpoint = volume.base().join("second");
    fs::create_dir(&second.mountpoint).expect("mkdir");
    let refusal = refused(&second, &[IN_USE]);
    assert!(refusal.said.contains(&mount.pid().to_string()) || refusal.said.contains("mounted"), "{refusal:?}");

    let mut other = Volume::new();
    other.mountpoint = volume.mountpoint.clone();
    refused(&other, &[MOUNTPOINT, IN_USE]);
    assert_eq!(read(&mount.at("f")), b"x", "the mount goes on");
}

#[test]
fn a_store_without_extended_attributes_is_refused() {
    if skipped_in_plain_mode() {
        return;
    }
    // ramfs knows no user attributes
    let volume = Volume::folders();
    let status = Command::new("mount").args(["-t", "ramfs", "none"]).arg(&volume.backing).status().expect("mount");
    assert!(status.success(), "mount -t ramfs: {status}");
    let backing = volume.backing.to_str().expect("UTF-8");
    let outcome = volume.run(&["init", "--unlock-time", "1", backing, "--placement", "xattr"]);
    let left = names(&volume.backing);
    detach(&volume.backing);
    failed(&outcome, &[BACKING_STORE]);
    assert_eq!(left, [[0u8; 0]; 0], "nothing was made");
}

#[test]
fn a_read_only_store_is_mounted_read_only_or_refused() {
    if skipped_in_plain_mode() {
        return;
    }
    let disk = Disk::new(32);
    let volume = disk.volume();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), pattern(1, 0, 9000));
    mount.unmount();
    disk.remount("ro");
    match volume.try_mount(&[]) {
        Ok(mount) => {
            assert!(read(&mount.at("f")) == pattern(1, 0, 9000));
            assert_eq!(said(fs::write(mount.at("new"), b"x")), Err(Errno::ROFS));
        }
        Err(refusal) => assert!(refusal.code == Some(BACKING_STORE) && is_advice(&refusal.said), "{refusal:?}"),
    }
    let mount = volume.mount(&["--ro"]);
    assert!(read(&mount.at("f")) == pattern(1, 0, 9000));
}

/// Writes and syncs until the disk is full; gives how much was acknowledged.
fn fill(path: &Path) -> usize {
    let mut file = open_rw(path);
    for chunk in 0..200 {
        let step = file.write_all(&pattern(99, chunk << 20, 1 << 20)).and_then(|()| file.sync_all());
        if let Err(error) = step {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC), "{error}");
            return (chunk as usize) << 20;
        }
    }
    panic!("48 MiB hold more than 200 MiB");
}

#[test]
fn a_full_disk_costs_only_what_did_not_fit() {
    if skipped_in_plain_mode() {
        return;
    }
    let disk = Disk::new(48);
    let volume = disk.volume();
    let mount = volume.mount(&[]);
    for number in 0..20 {
        write(&mount.at(format!("keep{number}")), pattern(number, 0, (number * 7001) as usize));
    }
    let acknowledged = fill(&mount.at("filler"));
    assert!(acknowledged > 20 << 20, "{acknowledged} bytes before the disk was full");
    // overwriting what is there must end old or new, never broken
    let _ = open_rw(&mount.at("keep19")).write_all_at(&pattern(19, 0, 133_019), 0);
    let crowd =
        (0..2000).take_while(|number| fs::write(mount.at(format!("crowd{number}")), pattern(1, 0, 3000)).is_ok());
    let crowd = crowd.count();
    let check = |root: &Path| {
        for number in 0..20 {
            let content = read(&root.join(format!("keep{number}")));
            assert!(content == pattern(number, 0, (number * 7001) as usize), "keep{number}");
        }
    };
    check(mount.dir());
    let mut start = vec![0; acknowledged];
    open_rw(&mount.at("filler")).read_exact_at(&mut start, 0).expect("what was synced is readable");
    assert!(start == pattern(99, 0, acknowledged), "what was synced is right");
    fs::remove_file(mount.at("filler")).expect("unlink on a full disk");
    for number in 0..=crowd {
        let _ = fs::remove_file(mount.at(format!("crowd{number}")));
    }
    // the kernel tells the daemon of the last close when it likes, and ext4 frees blocks at a commit
    let after = mount.at("after");
    let there_is_room =
        || fs::write(&after, pattern(5, 0, 1 << 20)).and_then(|()| File::open(&after)?.sync_all()).is_ok();
    wait_until("room on the disk", there_is_room);
    mount.unmount();
    let mount = volume.mount(&[]);
    check(mount.dir());
    assert!(read(&mount.at("after")) == pattern(5, 0, 1 << 20));
    assert_eq!(names(mount.dir()).len(), 21, "no half-made files stay");
}

#[test]
fn what_finds_no_room_waits_in_memory_and_is_told_once() {
    if skipped_in_plain_mode() || xts() {
        // Under XTS nothing waits in memory: the write itself fails.
        return;
    }
    let disk = Disk::new(48);
    let volume = disk.volume();
    let mount = volume.mount(&[]);
    let eaten = disk.dir().join("eaten");
    let mut eater = File::create(&eaten).expect("create");
    while eater.write_all(&[1; 1 << 16]).is_ok() {}
    while eater.write_all(&[1; 512]).is_ok() {}
    let mut late = open_new(&mount.at("late"));
    late.write_all(&pattern(6, 0, 3000)).expect("the kernel and the daemon take it");
    let synced = late.sync_all().map_err(|error| Errno::from_io_error(&error));
    assert_eq!(synced, Err(Some(Errno::NOSPC)));
    if sidecars() {
        // There was no room for the key either, so nothing was taken. It is told, and the file can be written again.
        fs::remove_file(&eaten).expect("unlink");
        drop(eater);
        wait_until("room on the disk", || {
            late.write_all_at(&pattern(6, 0, 3000), 0).and_then(|()| late.sync_all()).is_ok()
        });
        drop(late);
        mount.unmount();
        assert!(read(&volume.mount(&[]).at("late")) == pattern(6, 0, 3000));
        return;
    }
    mount.wait_log(&["/late", "kept in memory"]);
    assert!(read(&mount.at("late")) == pattern(6, 0, 3000), "it can be read meanwhile");
    fs::remove_file(&eaten).expect("unlink");
    drop(eater);
    wait_until("room on the disk", || late.sync_all().is_ok());
    late.sync_all().expect("all is told and done");
    let told = mount.log().lines().filter(|line| line.contains("/late")).count();
    assert_eq!(told, 1, "{}", mount.log());
    drop(late);
    mount.unmount();
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("late")) == pattern(6, 0, 3000));
}

fn open_new(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("create")
}
