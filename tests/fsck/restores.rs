//! `--restore-keys`: trees that lost their attributes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::check::fsck;
use crate::disk::Disk;
use crate::harness::{Volume, setting, sidecars, skipped_in_plain_mode, wait_until, words, xts};
use crate::ops::{chmod, lstat, mkdir, names, pattern, read, tree, write};
use crate::raw::{Caller, NOBODY};
use crate::scene::{
    copied, drop_envelopes, envelope, envelopes, expect_same, furnish, objects, picture_of, remove_envelope, scene,
    set_envelope,
};

#[test]
fn a_tree_copied_with_plain_cp_comes_back_whole() {
    if skipped_in_plain_mode() {
        return;
    }
    let (volume, before) = scene(60, 40);
    let copy = copied(&volume, "copy", "-r");
    if sidecars() {
        // They are files like others: somebody thought them useless.
        drop_envelopes(&copy.backing);
    }
    assert_eq!(envelopes(&copy.backing), 0, "cp -r keeps no attributes");
    let checked = fsck(&copy, &[]);
    assert_eq!((checked.code, checked.left("/")), (Some(10), vec!["envelope-missing"]));
    assert_eq!(checked.json["counts"]["complete"], false);
    let dry = fsck(&copy, &["--restore-keys", "--dry-run"]);
    assert_eq!((dry.code, envelopes(&copy.backing)), (Some(0), 0), "a dry run writes nothing");
    let restored = fsck(&copy, &["--restore-keys"]);
    assert_eq!(restored.code, Some(0), "{restored:#?}");
    assert_eq!(restored.count("mended"), dry.count("mended"));
    assert_eq!(restored.mended("/odd/one/linked"), ["envelope-missing"]);
    let again = fsck(&copy, &["--restore-keys"]);
    again.expect_clean();
    fsck(&copy, &[]).expect_clean();
    expect_same(&picture_of(&copy), &before);
    // It is a volume like any other.
    let mount = copy.mount(&[]);
    write(&mount.at("odd/empty/below/it/new"), pattern(9, 0, 5000));
    fs::rename(mount.at("odd/one/linked"), mount.at("odd/two/moved")).expect("rename");
    assert!(read(&mount.at("odd/two/moved")) == pattern(3, 0, 5000));
    mount.unmount();
    fsck(&copy, &[]).expect_clean();
}

/// `rsync -H` and `cp --preserve=links` keep hard links and drop attributes: such files are bound to no directory.
#[test]
fn files_with_several_names_open_under_each() {
    if skipped_in_plain_mode() {
        return;
    }
    let (volume, before) = scene(2, 4);
    let copy = copied(&volume, "copy", "-r --preserve=links");
    drop_envelopes(&copy.backing);
    assert_eq!(fsck(&copy, &["--restore-keys"]).code, Some(0));
    fsck(&copy, &[]).expect_clean();
    expect_same(&picture_of(&copy), &before);
    let mount = copy.mount(&["--ro"]);
    assert_eq!(lstat(&mount.at("odd/one/linked")).nlink(), 3);
    mount.unmount();
}

/// Killed at any moment, it is run again, and every restored envelope is whole.
#[test]
fn a_restore_that_was_killed_is_finished_by_the_next() {
    if skipped_in_plain_mode() {
        return;
    }
    let (volume, before) = scene(80, 30);
    let [copy, whole] = ["copy", "whole"].map(|name| copied(&volume, name, "-r"));
    drop_envelopes(&copy.backing);
    drop_envelopes(&whole.backing);
    let started = Instant::now();
    assert_eq!(fsck(&whole, &["--restore-keys"]).code, Some(0));
    let usual = started.elapsed();
    for round in 0..setting("KMSFS_CRASH_ROUNDS", 5) {
        let mut command = copy.command();
        command.arg("fsck").arg(&copy.backing).arg("--restore-keys").args(copy.secret());
        let mut child = command.stdout(Stdio::null()).spawn().expect("fsck");
        std::thread::sleep(usual.mul_f64(0.2 + 0.15 * round as f64).min(Duration::from_secs(10)));
        child.kill().expect("kill");
        child.wait().expect("wait");
        if round % 2 == 1 {
            // Half of what is there goes again.
            objects(&copy.backing).iter().step_by(2).for_each(|path| remove_envelope(path));
        }
    }
    assert_eq!(fsck(&copy, &["--restore-keys"]).code, Some(0));
    fsck(&copy, &[]).expect_whole();
    expect_same(&picture_of(&copy), &before);
}

#[test]
fn a_full_disk_ends_a_restore_and_room_lets_it_go_on() {
    if skipped_in_plain_mode() {
        return;
    }
    let disk = Disk::with_inodes(48, 128);
    let volume = disk.volume();
    let mount = volume.mount(&[]);
    furnish(mount.dir(), 20, 20);
    mount.unmount();
    let before = picture_of(&volume);
    drop_envelopes(&volume.backing);
    let ballast = disk.dir().join("ballast");
    fill(&ballast);
    let refused = volume.run(&[Path::new("fsck"), &volume.backing, Path::new("--restore-keys")]);
    assert_eq!(refused.status.code(), Some(9), "{}", words(&refused));
    let told = fsck(&volume, &["--restore-keys"]);
    assert_eq!((told.code, &told.json["counts"]["complete"]), (Some(9), &false.into()), "whole JSON all the same");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("run the command again"), "{}", words(&refused));
    fs::remove_file(&ballast).expect("rm");
    assert_eq!(fsck(&volume, &["--restore-keys"]).code, Some(0));
    fsck(&volume, &[]).expect_clean();
    expect_same(&picture_of(&volume), &before);
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).expect("ballast");
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).is_ok() && file.sync_data().is_ok() {}
    }
}

/// User attributes need the right to write: the owner of a file of mode 0444 or 0000 has it all the same.
#[test]
fn an_ordinary_user_restores_files_that_they_may_not_write() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::of_user(NOBODY);
    let mount = volume.mount(&[]);
    let caller = Caller::user(NOBODY);
    let root = mount.dir().to_path_buf();
    caller.run(|| {
        mkdir(&root.join("dir"));
        for mode in [0o644_u32, 0o444, 0o400, 0o200, 0o000] {
            let path = root.join(format!("dir/file{mode:o}"));
            write(&path, pattern(mode.into(), 0, 5000));
            chmod(&path, mode);
        }
        mkdir(&root.join("locked"));
        write(&root.join("locked/inside"), pattern(1, 0, 100));
        chmod(&root.join("locked"), 0o555);
    });
    mount.unmount();
    drop_envelopes(&volume.backing);
    let modes = || objects(&volume.backing).iter().map(|path| (path.clone(), lstat(path).mode())).collect::<Vec<_>>();
    let before = modes();
    let checked = fsck(&volume, &["--restore-keys"]);
    assert_eq!(checked.code, Some(0), "{checked:#?}");
    assert_eq!(modes(), before, "modes are put back");
    let mount = volume.mount(&[]);
    caller.run(|| {
        for mode in [0o644_u32, 0o444, 0o400, 0o200, 0o000] {
            let path = root.join(format!("dir/file{mode:o}"));
            chmod(&path, 0o600);
            assert!(read(&path) == pattern(u64::from(mode), 0, 5000), "{mode:o}");
        }
        assert!(read(&root.join("locked/inside")) == pattern(1, 0, 100));
    });
    mount.unmount();
}

/// What root writes for another user is that user's, who could not mount the volume else.
#[test]
fn root_mends_the_volume_of_another_user() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::of_user(NOBODY);
    let mount = volume.mount(&[]);
    let root = mount.dir().to_path_buf();
    Caller::user(NOBODY).run(|| {
        mkdir(&root.join("dir"));
        write(&root.join("dir/file"), pattern(1, 0, 5000));
        mkdir(&root.join("empty"));
    });
    mount.unmount();
    drop_envelopes(&volume.backing);
    for name in ["volume.json", "keystore.bundle"] {
        fs::remove_file(volume.backing.join(".kmsfs").join(name)).expect("rm");
    }
    let mut by_root = std::process::Command::new(crate::harness::binary());
    by_root.arg("fsck").arg(&volume.backing).args(["--restore-keys", "--repair", "--keys-copy"]);
    let outcome = by_root.args(volume.secret()).output().expect("fsck");
    assert!(outcome.status.success(), "{}", words(&outcome));
    for path in tree(&volume.backing) {
        assert_eq!(lstat(&path).uid(), NOBODY, "{}", path.display());
    }
    let mount = volume.mount(&[]);
    Caller::user(NOBODY).run(|| assert!(read(&root.join("dir/file")) == pattern(1, 0, 5000)));
    mount.unmount();
}

/// Looking changes no mode; what may not be read is told.
#[test]
fn a_check_by_an_ordinary_user_says_what_it_could_not_see() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::of_user(NOBODY);
    let mount = volume.mount(&[]);
    let root = mount.dir().to_path_buf();
    Caller::user(NOBODY).run(|| {
        for (name, mode) in [("open", 0o400), ("closed", 0o000)] {
            write(&root.join(name), pattern(1, 0, 5000));
            chmod(&root.join(name), mode);
        }
    });
    mount.unmount();
    let checked = fsck(&volume, &[]);
    assert_eq!((checked.code, checked.left("/closed")), (Some(11), vec!["not-readable"]), "{checked:#?}");
    assert_eq!(checked.findings.len(), 1, "{checked:#?}");
}

/// An envelope that is there and does not open is left alone, unless the user says that it shall be replaced; then
/// everything that was rebound is listed.
#[test]
fn what_was_moved_behind_its_back_needs_consent() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = crate::victim::Victim::new(|root| {
        for dir in ["x", "y", "x/dir", "y/dir", "same1", "same2"] {
            mkdir(&root.join(dir));
        }
        for (name, seed) in
            [("x/file", 1), ("y/file", 2), ("x/dir/in", 3), ("y/dir/in", 4), ("same1/in", 5), ("same2/in", 6)]
        {
            write(&root.join(name), pattern(seed, 0, 5000));
        }
    });
    let exchange = |name: &str| {
        let (x, y) = (victim.backing(format!("x/{name}")), victim.backing(format!("y/{name}")));
        crate::ops::rename(&x, &y, rustix::fs::RenameFlags::EXCHANGE).expect("exchange");
        // Whoever exchanges files takes their sidecars along.
        if sidecars() && lstat(&x).is_file() {
            let (first, second) = (envelope(&x).expect("envelope"), envelope(&y).expect("envelope"));
            set_envelope(&x, &second);
            set_envelope(&y, &first);
        }
    };
    exchange("file");
    exchange("dir");
    // The envelopes alone: each opens, and no name under it.
    let (a, b) = (victim.backing("same1"), victim.backing("same2"));
    let (first, second) = (envelope(&a).expect("envelope"), envelope(&b).expect("envelope"));
    set_envelope(&a, &second);
    set_envelope(&b, &first);
    let moved = ["/x/file", "/y/file", "/x/dir", "/y/dir", "/same1", "/same2"];
    let untouched = fsck(&victim.volume, &["--repair"]);
    assert_eq!(
        (untouched.code, untouched.count("mended")),
        (Some(10), 0),
        "a repair moves nothing of that: {untouched:#?}"
    );
    let restored = fsck(&victim.volume, &["--restore-keys"]);
    assert_eq!(restored.code, Some(10));
    for path in moved {
        assert_eq!(restored.left(path), ["envelope-moved"], "{path}");
    }
    assert_eq!(restored.count("mended"), 0);
    let accepted = fsck(&victim.volume, &["--restore-keys", "--accept-moved"]);
    // Of an XTS file keys.log says another key for the place, and nothing shows which is right: put back, it is whole.
    let (back, bound) = moved.split_at(if xts() { 2 } else { 0 });
    assert_eq!(accepted.code, Some(if xts() { 10 } else { 0 }), "{accepted:#?}");
    for path in bound {
        assert_eq!(accepted.mended(path), ["envelope-moved"], "{path} is listed");
    }
    for path in back {
        assert_eq!(accepted.left(path), ["envelope-moved"], "{path} is left");
    }
    if xts() {
        exchange("file");
    }
    fsck(&victim.volume, &[]).expect_clean();
    let mount = victim.mount();
    let (one, two) = if xts() { ("x/file", "y/file") } else { ("y/file", "x/file") };
    for (name, seed) in [(one, 1), (two, 2), ("y/dir/in", 3), ("x/dir/in", 4), ("same1/in", 5), ("same2/in", 6)] {
        assert!(read(&mount.at(name)) == pattern(seed, 0, 5000), "{name}");
    }
    mount.unmount();
}

/// A mirror of another file in the place of one's own: the content does not fit, and nothing is restored.
#[test]
fn a_mirror_of_another_file_restores_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = crate::victim::Victim::new(|root| {
        write(&root.join("one"), pattern(1, 0, 5000));
        write(&root.join("two"), pattern(2, 0, 5000));
    });
    let (one, two) = (victim.backing("one"), victim.backing("two"));
    let (mut bytes, other) = (read(&one), read(&two));
    bytes[152..220].copy_from_slice(&other[152..220]);
    write(&one, bytes);
    remove_envelope(&one);
    let restored = fsck(&victim.volume, &["--restore-keys"]);
    if xts() {
        // There is no mirror in such a file: what keys.log has for the place is its key, whatever the content is.
        assert_eq!((restored.code, restored.mended("/one")), (Some(0), vec!["envelope-missing"]), "{restored:#?}");
        return;
    }
    assert_eq!((restored.code, restored.left("/one")), (Some(10), vec!["envelope-missing"]), "{restored:#?}");
    assert!(envelope(&one).is_none());
}

/// Ten thousand directories are searched for in seconds, not minutes.
#[test]
fn many_directories_do_not_take_long() {
    if skipped_in_plain_mode() {
        return;
    }
    let count = setting("KMSFS_FSCK_DIRECTORIES", 2500);
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    for number in 0..count {
        let dir = mount.at(format!("{:02}/{number}", number % 50));
        fs::create_dir_all(&dir).expect("mkdir -p");
        write(&dir.join("file"), "x");
    }
    mount.unmount();
    drop_envelopes(&volume.backing);
    // The worst order for the search: none.
    let started = Instant::now();
    let restored = fsck(&volume, &["--restore-keys"]);
    let took = started.elapsed();
    assert_eq!(restored.code, Some(0));
    assert!(took < Duration::from_secs(60), "{took:?} for {count} directories");
    let mount = volume.mount(&["--ro"]);
    wait_until("the listing", || names(mount.dir()).len() == 50);
    assert_eq!(read(&mount.at("07/57/file")), b"x");
    mount.unmount();
}
