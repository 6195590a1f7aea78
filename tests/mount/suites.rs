//! Files under both suites in one mount.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::harness::{Volume, past_other_children, sidecars, skipped_in_plain_mode, words};

/// Lengths around the edges of AES blocks, data units, the inline form and groups.
const LENGTHS: [usize; 12] = [0, 1, 15, 16, 17, 3584, 3585, 4095, 4096, 4097, 4111, 266_241];

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn set_suite(volume: &Volume, dir: &Path, suite: &str) {
    let done = volume.command().arg("set-suite").arg(dir).arg(suite).output().expect("works");
    assert!(done.status.success(), "{}", words(&done));
}

/// The lengths of all backing files with content, sorted.
fn backing_lengths(volume: &Volume) -> Vec<u64> {
    let mut find = Command::new("find");
    find.arg(&volume.backing).args(["-path", "*/.kmsfs", "-prune", "-o", "-type", "f"]);
    let listed = find.args(["-size", "+0", "-printf", "%s\n"]).output().expect("works");
    let mut lengths: Vec<u64> =
        String::from_utf8(listed.stdout).expect("works").lines().map(|l| l.parse().expect("works")).collect();
    lengths.sort_unstable();
    lengths
}

fn fill(dir: &Path) {
    for len in LENGTHS {
        fs::write(dir.join(len.to_string()), bytes(len)).expect("works");
    }
}

fn check(dir: &Path) {
    for len in LENGTHS {
        let path = dir.join(len.to_string());
        // The size first: before the file is opened, it follows from the backing file alone.
        assert_eq!(fs::metadata(&path).expect("works").len(), len as u64, "{}", path.display());
        assert_eq!(fs::read(&path).expect("works"), bytes(len), "{}", path.display());
    }
}

#[test]
fn both_suites_live_in_one_mount_and_files_keep_theirs() {
    if skipped_in_plain_mode() || sidecars() {
        return;
    }
    let volume = Volume::with(&["--suite", "gcm"]);
    let mount = volume.mount(&[]);
    let (gcm, xts) = (mount.at("gcm"), mount.at("xts"));
    fs::create_dir(&gcm).expect("works");
    fs::create_dir(&xts).expect("works");
    fill(&gcm);
    assert!(fs::read_to_string(volume.backing.join(".kmsfs/volume.json")).expect("works").contains("\"incompat\": []"));
    set_suite(&volume, &xts, "xts");
    assert!(fs::read_to_string(volume.backing.join(".kmsfs/volume.json")).expect("works").contains("\"xts\""));
    let before = backing_lengths(&volume);
    fs::create_dir(xts.join("below")).expect("works");
    fill(&xts.join("below"));
    let mut expected = before.clone();
    expected.extend(LENGTHS.iter().filter(|len| **len > 0).map(|len| *len as u64));
    expected.sort_unstable();
    mount.unmount();
    assert_eq!(backing_lengths(&volume), expected, "XTS keeps lengths");

    let mount = volume.mount(&[]);
    check(&gcm);
    check(&xts.join("below"));
    // Moved files keep their suite, and their size, in either direction; hard links too.
    fs::rename(gcm.join("4097"), xts.join("4097")).expect("works");
    fs::rename(xts.join("below/17"), gcm.join("from-xts")).expect("works");
    fs::hard_link(xts.join("below/4111"), gcm.join("linked")).expect("works");
    // The link is listed under both of its names.
    expected.push(4111);
    expected.sort_unstable();
    assert_eq!(backing_lengths(&volume), expected);
    mount.unmount();
    let mount = volume.mount(&[]);
    assert_eq!(fs::metadata(xts.join("4097")).expect("works").len(), 4097);
    assert_eq!(fs::metadata(gcm.join("from-xts")).expect("works").len(), 17);
    assert_eq!(fs::metadata(gcm.join("linked")).expect("works").len(), 4111);
    assert_eq!(fs::read(gcm.join("from-xts")).expect("works"), bytes(17));
    assert_eq!(fs::read(gcm.join("linked")).expect("works"), bytes(4111));
    OpenOptions::new().append(true).open(gcm.join("from-xts")).expect("works").write_at(b"more", 17).expect("works");
    // Copies take the suite of where they are made, by copy_file_range(2) as well.
    fs::copy(xts.join("4097"), xts.join("copy")).expect("works");
    set_suite(&volume, &xts, "gcm");
    fs::copy(gcm.join("from-xts"), xts.join("back")).expect("works");
    fs::create_dir(xts.join("gcm")).expect("works");
    fs::write(xts.join("gcm/file"), bytes(5000)).expect("works");
    mount.unmount();
    let mut now = expected.clone();
    now[expected.iter().position(|len| *len == 17).expect("works")] = 21;
    now.extend([4097, 512 + 21, 5000 + 4096]);
    now.sort_unstable();
    assert_eq!(backing_lengths(&volume), now);
    let mount = volume.mount(&[]);
    assert_eq!(fs::read(xts.join("copy")).expect("works"), bytes(4097));
    assert_eq!(fs::read(xts.join("gcm/file")).expect("works"), bytes(5000));
    mount.unmount();
}

#[test]
fn a_rewrap_takes_xts_files_along() {
    if skipped_in_plain_mode() || sidecars() {
        return;
    }
    let volume = Volume::with(&["--suite", "xts"]);
    let mount = volume.mount(&[]);
    fs::create_dir(mount.at("d")).expect("works");
    fill(&mount.at("d"));
    let rotated = volume.run(&["key", "rotate", "alias/kmsfs/default"]);
    assert!(rotated.status.success(), "{}", words(&rotated));
    let done = volume.command().arg("rewrap").arg(mount.dir()).output().expect("works");
    assert!(done.status.success(), "{}", words(&done));
    assert!(String::from_utf8_lossy(&done.stdout).contains(" 0 failed"), "{}", words(&done));
    mount.unmount();
    let mount = volume.mount(&[]);
    check(&mount.at("d"));
    mount.unmount();
}

#[test]
fn what_xts_leaves_open_is_said() {
    if skipped_in_plain_mode() || sidecars() {
        return;
    }
    let volume = Volume::with(&["--suite", "xts"]);
    let info = volume.command().arg("info").arg(&volume.backing).output().expect("works");
    let said = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(said.contains("suite       xts") && said.contains("changes are not"), "{said}");
    let mount = volume.mount(&[]);
    fs::write(mount.at("file"), bytes(10)).expect("works");
    let on_file = volume.command().arg("set-suite").arg(mount.at("file")).arg("gcm").output().expect("works");
    assert!(!on_file.status.success() && words(&on_file).contains("no directory"), "{}", words(&on_file));
    let outside = volume.command().arg("set-suite").arg("/tmp").arg("gcm").output().expect("works");
    assert!(!outside.status.success(), "{}", words(&outside));
    mount.unmount();
}

#[test]
fn shredding_an_xts_file_leaves_no_copy_of_its_key() {
    if skipped_in_plain_mode() || sidecars() {
        return;
    }
    let volume = Volume::with(&["--suite", "xts"]);
    let log = volume.backing.join(".kmsfs/keys.log");
    let mount = volume.mount(&[]);
    fs::create_dir(mount.at("d")).expect("works");
    fs::write(mount.at("stays"), bytes(100)).expect("works");
    let before = fs::metadata(&log).expect("works").len();
    fs::write(mount.at("secret"), bytes(5000)).expect("works");
    fs::rename(mount.at("secret"), mount.at("d/moved")).expect("works");
    assert_eq!(fs::metadata(&log).expect("works").len(), before + 2 * 86, "one record for each place");
    mount.unmount();
    let mount = volume.mount(&[]);
    let done = past_other_children(|| volume.command().arg("shred").arg(mount.at("d/moved")).output().expect("works"));
    assert!(done.status.success(), "{}", words(&done));
    assert!(!mount.at("d/moved").exists());
    assert_eq!(fs::metadata(&log).expect("works").len(), before, "both records are gone");
    assert_eq!(fs::read(mount.at("stays")).expect("works"), bytes(100));
    mount.unmount();
}

/// A cut is finished, or was not begun, whenever the daemon is killed.
#[test]
fn a_killed_daemon_leaves_ends_that_can_be_read() {
    if skipped_in_plain_mode() || sidecars() {
        return;
    }
    let volume = Volume::with(&["--suite", "xts"]);
    for round in 0..6_u64 {
        let mut mount = volume.mount(&[]);
        let path = mount.at(format!("cut{round}"));
        fs::write(&path, bytes(20_000)).expect("works");
        File::open(&path).expect("works").sync_all().expect("works");
        let cutting = std::thread::spawn({
            let path = path.clone();
            move || {
                let file = OpenOptions::new().write(true).open(&path).expect("works");
                (1..20_000).rev().take_while(|len| file.set_len(*len).is_ok()).count()
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(20 + round * 13));
        mount.kill();
        cutting.join().expect("works");
        drop(mount);
        let mount = volume.mount(&[]);
        let found = fs::read(&path).expect("works");
        assert!(found == bytes(found.len()), "{} bytes are left, and some are wrong", found.len());
        assert_eq!(fs::metadata(&path).expect("works").size(), found.len() as u64);
        mount.unmount();
    }
}
