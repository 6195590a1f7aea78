//! Rewrap: nothing but envelopes and mirrors changes, whatever else is going on.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Volume, setting, sidecars, words, xts};
use crate::ops::pattern;
use crate::raw::NOBODY;
use crate::tree::{self, DEFAULT, done, json, refused, versions};

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn a_rewrap_moves_every_envelope_and_mirror_and_changes_nothing_else() {
    for mounted in [true, false] {
        let volume = Volume::new();
        let mount = volume.mount(&[]);
        tree::make(mount.dir());
        mount.unmount();
        let (before, plain) = (tree::stored(&volume.backing), tree::contents(volume.mount(&[]).dir()));
        let used_before = versions(&volume, DEFAULT);
        assert!(used_before.len() == 1 && used_before[0] > 300, "{used_before:?}");
        done(&volume, &["key", "rotate", DEFAULT]);
        let mut mount = mounted.then(|| volume.mount(&[]));
        let to_do = json(&volume, &["rewrap", path(&volume.backing), "--dry-run"]);
        assert!(to_do["rewrapped"].as_u64() > Some(170), "{to_do}");
        assert_eq!(versions(&volume, DEFAULT), [used_before[0], 0], "a dry run writes nothing");
        let report = json(&volume, &["rewrap", path(&volume.backing)]);
        assert_eq!((&report["failed"], &report["complete"]), (&0.into(), &true.into()), "{report}");
        // A look meets a file under each of its names; with sidecars, each has an envelope of its own.
        let further_links = if sidecars() { 0 } else { 2 };
        let number = |report: &Value| report["rewrapped"].as_u64().expect("number");
        assert_eq!(number(&report) + further_links, number(&to_do), "mounted: {mounted}");
        let used = versions(&volume, DEFAULT);
        assert_eq!(used, [0, used_before[0]]);
        assert_eq!(json(&volume, &["rewrap", path(&volume.backing)])["rewrapped"], 0);
        if let Some(mount) = mount.take() {
            mount.unmount();
        }
        let after = tree::stored(&volume.backing);
        for (path, stored) in &before {
            assert!(after[path] == *stored, "{} changed, mounted: {mounted}", path.display());
        }
        done(&volume, &["key", "retire", DEFAULT, "1"]);
        let mount = volume.mount(&[]);
        assert!(tree::contents(mount.dir()) == plain, "all is there under the new version alone");
    }
}

/// A new file that was saved while its key was disabled got none.
#[test]
fn a_rewrap_makes_mirrors_that_are_missing() {
    if xts() {
        return;
    }
    const MIRROR: std::ops::Range<usize> = 152..220;
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    let sizes = [1, 3584, 3585, 700_000];
    sizes.iter().for_each(|size| fs::write(mount.at(size.to_string()), pattern(1, 0, *size)).expect("write"));
    mount.unmount();
    let before = tree::stored(&volume.backing);
    for path in before.keys() {
        let mut bytes = fs::read(path).expect("stored");
        bytes[MIRROR].fill(0);
        let mut file = File::options().write(true).open(path).expect("open");
        file.write_all(&bytes).expect("write");
        file.set_times(fs::FileTimes::new().set_modified(path.metadata().expect("stat").modified().expect("mtime")))
            .expect("times");
    }
    let stripped = tree::stored(&volume.backing);
    let mount = volume.mount(&[]);
    // With its page 0 in memory.
    let mut open = File::options().read(true).write(true).open(mount.at("3585")).expect("open");
    open.read_exact(&mut [0; 100]).expect("read");
    assert_eq!(json(&volume, &["rewrap", path(mount.dir()), "--dry-run"])["rewrapped"], 4);
    let report = json(&volume, &["rewrap", path(mount.dir())]);
    assert_eq!((&report["rewrapped"], &report["failed"]), (&4.into(), &0.into()), "{report}");
    assert_eq!(json(&volume, &["rewrap", path(mount.dir())])["rewrapped"], 0);
    drop(open);
    mount.unmount();
    for path in before.keys() {
        assert_ne!(fs::read(path).expect("stored")[MIRROR], [0; 68], "{}", path.display());
    }
    assert!(tree::stored(&volume.backing) == stripped, "nothing else changed");
    let checked = volume.run(&[Path::new("fsck"), &volume.backing]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("0 errors, 0 warnings"), "{}", words(&checked));
}

#[test]
fn a_retired_version_opens_nothing_but_a_backup_of_both_does() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    tree::make(mount.dir());
    mount.unmount();
    let backup = volume.base().join("backup");
    fs::create_dir(&backup).expect("folder");
    let copied = Command::new("cp").arg("-a").args([&volume.backing, &volume.keystore]).arg(&backup).status();
    assert!(copied.expect("cp").success());
    done(&volume, &["key", "rotate", DEFAULT]);
    let said = refused(&volume, &["key", "retire", DEFAULT, "1"]);
    assert!(said.contains("still need version 1") && said.contains("kmsfs rewrap"), "{said}");
    done(&volume, &["rewrap", path(&volume.backing)]);
    done(&volume, &["key", "retire", DEFAULT, "1"]);

    // The tree from before, with the keystore of now.
    let mut old = volume.clone();
    old.backing = backup.join("backing");
    // Its own copy of its keys is from before, too.
    fs::remove_file(old.backing.join(".kmsfs/keystore.bundle")).expect("remove");
    let refusal = old.try_mount(&[]).err().expect("the old version is gone");
    assert!(refusal.said.contains("was destroyed") && refusal.said.contains("Next: "), "{refusal:?}");
    old.keystore = backup.join("keystore");
    let mount = old.mount(&[]);
    assert_eq!(fs::read(mount.at("large")).expect("read"), pattern(1, 0, 700_000));
}

/// Does what people do: makes, writes, renames within and across directories, links, removes.
fn bustle(root: &Path, until: &AtomicBool) -> u64 {
    let mut rounds = 0;
    let dirs = [root.join("dir0"), root.join("dir1/below"), root.join("dir2")];
    while !until.load(Ordering::Relaxed) {
        let (from, to) = (&dirs[rounds as usize % 3], &dirs[(rounds as usize + 1) % 3]);
        let made = from.join(format!("busy{rounds}"));
        fs::create_dir(from.join(format!("moved{rounds}"))).expect("mkdir");
        fs::write(from.join(format!("moved{rounds}/inside")), pattern(rounds, 0, 300)).expect("write");
        fs::rename(from.join(format!("moved{rounds}")), to.join(format!("moved{rounds}"))).expect("rename");
        fs::write(&made, pattern(rounds, 0, 5000)).expect("write");
        fs::rename(&made, to.join("current")).expect("rename");
        fs::hard_link(to.join("current"), from.join("second")).expect("link");
        fs::remove_file(from.join("second")).expect("unlink");
        assert!(fs::read(to.join("current")).expect("read") == pattern(rounds, 0, 5000));
        if rounds >= 5 {
            let old = &dirs[(rounds as usize - 5 + 1) % 3];
            assert!(fs::read(old.join(format!("moved{}/inside", rounds - 5))).is_ok());
            fs::remove_dir_all(old.join(format!("moved{}", rounds - 5))).expect("remove");
        }
        rounds += 1;
    }
    rounds
}

#[test]
fn a_rewrap_that_is_killed_while_the_mount_is_busy_is_finished_by_the_next() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    for copy in 0..8 {
        let at = mount.at(format!("copy{copy}"));
        fs::create_dir(&at).expect("mkdir");
        tree::make(&at);
    }
    tree::make(mount.dir());
    let until = AtomicBool::new(false);
    // A handle from before the first rotation, with a page 0 in memory.
    let mut handle = File::options().read(true).write(true).open(mount.at("large")).expect("open");
    // A file that got its key when it was made, and its first byte long after.
    let mut late = File::create(mount.at("late")).expect("create");
    let rounds = std::thread::scope(|scope| {
        let busy = scope.spawn(|| bustle(mount.dir(), &until));
        for round in 0..setting("KMSFS_REWRAP_KILLS", 6) {
            done(&volume, &["key", "rotate", DEFAULT]);
            let mut command = volume.command();
            command.arg("rewrap").arg(mount.dir()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut killed = command.spawn().expect("kmsfs rewrap");
            std::thread::sleep(Duration::from_millis(7 * round));
            killed.kill().expect("kill");
            killed.wait().expect("wait");
            handle.seek(SeekFrom::Start(4096 * round)).expect("seek");
            handle.write_all(&pattern(1, 4096 * round, 4096)).expect("write");
            handle.sync_all().expect("sync");
        }
        until.store(true, Ordering::Relaxed);
        busy.join().expect("the bustle")
    });
    assert!(rounds > 3);
    late.write_all(b"first byte").expect("write");
    late.sync_all().expect("sync");
    let report = json(&volume, &["rewrap", path(mount.dir())]);
    assert_eq!((&report["failed"], &report["complete"]), (&0.into(), &true.into()), "{report}");
    let used = versions(&volume, DEFAULT);
    let newest = used.len();
    assert!(used[..newest - 1].iter().all(|count| *count == 0), "{used:?}");
    for version in 1..newest {
        done(&volume, &["key", "retire", DEFAULT, &version.to_string()]);
    }
    let mut large = Vec::new();
    handle.rewind().expect("rewind");
    handle.read_to_end(&mut large).expect("read");
    assert!(large == pattern(1, 0, 700_000));
    drop((handle, late));
    let plain = tree::contents(mount.dir());
    mount.unmount();
    let mount = volume.mount(&[]);
    assert!(tree::contents(mount.dir()) == plain, "all opens under the newest version alone");
    assert_eq!(fs::read(mount.at("late")).expect("read"), b"first byte");
}

#[test]
fn files_made_while_a_rewrap_runs_are_under_the_newest_version() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    tree::make(mount.dir());
    let until = AtomicBool::new(false);
    done(&volume, &["key", "rotate", DEFAULT]);
    let report = std::thread::scope(|scope| {
        let busy = scope.spawn(|| bustle(mount.dir(), &until));
        std::thread::sleep(Duration::from_millis(20));
        let outcome = volume.run(&["rewrap", path(mount.dir()), "--json"]);
        until.store(true, Ordering::Relaxed);
        busy.join().expect("the bustle");
        outcome
    });
    // Under so many renames it may have to be run again, and says so.
    assert!(report.status.success() || words(&report).contains("run it again"), "{}", words(&report));
    assert_eq!(json(&volume, &["rewrap", path(mount.dir())])["complete"], true);
    assert_eq!(versions(&volume, DEFAULT)[0], 0);
}

#[test]
fn an_ordinary_user_rewraps_what_its_modes_lock_out() {
    let volume = Volume::of_user(NOBODY);
    let mount = volume.mount(&[]);
    let outcome = {
        let mut command = Command::new("sh");
        command.arg("-c").arg("mkdir d; echo a > d/a; echo b > b; chmod 444 d/a; chmod 000 b; chmod 555 d");
        command.uid(NOBODY).gid(NOBODY).current_dir(mount.dir()).status().expect("sh")
    };
    assert!(outcome.success());
    done(&volume, &["key", "rotate", DEFAULT]);
    let report = json(&volume, &["rewrap", path(mount.dir())]);
    assert_eq!((&report["failed"], &report["complete"]), (&0.into(), &true.into()), "{report}");
    assert_eq!(versions(&volume, DEFAULT)[0], 0);
    mount.unmount();
    let modes: Vec<String> = {
        let out =
            Command::new("find").arg(&volume.backing).args(["-type", "f", "-printf", "%m\n"]).output().expect("find");
        String::from_utf8(out.stdout).expect("text").lines().map(str::to_owned).collect()
    };
    assert!(modes.contains(&"444".to_owned()) && modes.contains(&"0".to_owned()), "{modes:?}");
}

#[test]
fn paths_that_are_no_volume_or_no_plain_path_are_explained() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    fs::create_dir(mount.at("d")).expect("mkdir");
    let inside = fs::read_dir(&volume.backing).expect("list").flatten().map(|entry| entry.path());
    let inside = inside.into_iter().find(|path| !path.ends_with(".kmsfs")).expect("a stored directory");
    let said = refused(&volume, &["rewrap", path(&inside)]);
    assert!(said.contains("inside of a backing tree"), "{said}");
    let said = refused(&volume, &["rewrap", path(&volume.base())]);
    assert!(said.contains("in no volume"), "{said}");
    let said = refused(&volume, &["rewrap", path(mount.dir()), "--to-key", "alias/nowhere"]);
    assert!(said.contains("alias/nowhere") && said.contains("kmsfs key list"), "{said}");
    let key = done(&volume, &["key", "create", "--alias", "alias/off"]);
    done(&volume, &["key", "disable", "alias/off"]);
    let said = refused(&volume, &["rewrap", path(mount.dir()), "--to-key", "alias/off"]);
    assert!(said.contains(key.trim()) && said.contains("disabled"), "{said}");
    assert_eq!(versions(&volume, "alias/off"), [0]);
}
