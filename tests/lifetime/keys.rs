//! A CMK for each directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Volume, past_other_children, words};
use crate::tree::{self, DEFAULT, done, json, refused, versions};

fn which(volume: &Volume, path: &Path) -> String {
    let outcome = volume.command().args(["key", "which"]).arg(path).output().expect("kmsfs key which");
    assert!(outcome.status.success(), "{}", words(&outcome));
    String::from_utf8(outcome.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn set_key(volume: &Volume, dir: &Path, key: &str, more: &[&str]) {
    let outcome = volume.command().arg("set-key").arg(dir).arg(key).args(more).output().expect("kmsfs set-key");
    assert!(outcome.status.success(), "{}", words(&outcome));
}

#[test]
fn what_is_made_below_a_directory_takes_its_key() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    done(&volume, &["key", "create", "--alias", "alias/team"]);
    fs::create_dir(mount.at("team")).expect("mkdir");
    fs::write(mount.at("team/before"), b"x").expect("write");
    set_key(&volume, &mount.at("team"), "alias/team", &[]);
    fs::write(mount.at("team/after"), b"x").expect("write");
    fs::create_dir_all(mount.at("team/deep/er")).expect("mkdir");
    fs::write(mount.at("team/deep/er/file"), b"x").expect("write");
    fs::write(mount.at("elsewhere"), b"x").expect("write");
    assert!(which(&volume, &mount.at("team")).contains("alias/team"));
    assert!(which(&volume, &mount.at("team/deep/er/file")).contains("alias/team"));
    assert!(which(&volume, &mount.at("team/before")).contains(DEFAULT));
    assert!(which(&volume, &mount.at("elsewhere")).contains(DEFAULT));
    // A file keeps its key where it goes, as its content does.
    fs::rename(mount.at("team/after"), mount.at("after")).expect("rename");
    assert!(which(&volume, &mount.at("after")).contains("alias/team"));
    set_key(&volume, &mount.at("team"), "alias/team", &["--rewrap"]);
    assert!(which(&volume, &mount.at("team/before")).contains("alias/team"));
    mount.unmount();
    // The volume's own copy of the keystore knows of it.
    let mut copied = volume.clone();
    copied.keystore = volume.base().join("none");
    let mount = copied.mount(&[]);
    assert_eq!(fs::read(mount.at("team/deep/er/file")).expect("read"), b"x");
}

#[test]
fn a_file_that_is_empty_while_its_directory_gets_another_key_is_stored_under_that() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    done(&volume, &["key", "create", "--alias", "alias/team"]);
    fs::create_dir(mount.at("team")).expect("mkdir");
    let file = fs::File::create(mount.at("team/file")).expect("create");
    // More directories than the daemon keeps, so that it lets go of that one and opens it again.
    for number in 0..700 {
        fs::create_dir(mount.at(format!("d{number}"))).expect("mkdir");
    }
    set_key(&volume, &mount.at("team"), "alias/team", &["--rewrap"]);
    fs::write(mount.at("team/later"), b"x").expect("write");
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).and_then(|()| file.sync_all()).expect("write");
    drop(file);
    for name in ["team/later", "team/file"] {
        assert!(which(&volume, &mount.at(name)).contains("alias/team"), "{name}");
    }
    mount.unmount();
}

#[test]
fn a_whole_volume_moves_to_another_key() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    tree::make(mount.dir());
    done(&volume, &["key", "create", "--alias", "alias/new"]);
    let plain = tree::contents(mount.dir());
    let report = json(&volume, &["rewrap", text(mount.dir()), "--to-key", "alias/new"]);
    assert_eq!((&report["failed"], &report["complete"]), (&0.into(), &true.into()), "{report}");
    assert_eq!(versions(&volume, DEFAULT), [0]);
    fs::write(mount.at("fresh"), b"x").expect("write");
    assert!(which(&volume, &mount.at("fresh")).contains("alias/new"));
    mount.unmount();
    // Nothing needs the old key: not the header either.
    done(&volume, &["key", "disable", DEFAULT]);
    let mount = volume.mount(&[]);
    let mut now = tree::contents(mount.dir());
    now.remove(Path::new("fresh"));
    assert!(now == plain);
}

#[test]
fn a_file_that_is_cut_and_open_while_it_moves_to_another_key_is_under_that() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    let path = mount.at("file");
    fs::write(&path, [b'x'; 5000]).expect("write");
    let cut = fs::File::create(&path).expect("open with O_TRUNC");
    done(&volume, &["key", "create", "--alias", "alias/new"]);
    done(&volume, &["rewrap", text(mount.dir()), "--to-key", "alias/new"]);
    std::os::unix::fs::FileExt::write_all_at(&cut, b"anew", 0).and_then(|()| cut.sync_all()).expect("write");
    done(&volume, &["key", "disable", DEFAULT]);
    // Twice as long as the mount needs to see it.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(fs::read(&path).expect("the old key is of no use to it"), b"anew");
    drop(cut);
    assert!(which(&volume, &path).contains("alias/new"));
    mount.unmount();
}

#[test]
fn a_volume_that_another_one_is_mounted_over_is_not_taken_for_it() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    fs::write(mount.at("file"), b"x").expect("write");
    // kmsfs refuses to mount over a mount; whoever binds one there is not asked.
    let (other, covered) = (Volume::new(), text(mount.dir()));
    let over = other.mount(&[]);
    let run = |command: &[&str]| {
        let outcome = past_other_children(|| Command::new(command[0]).args(&command[1..]).output().expect("a tool"));
        assert!(outcome.status.success(), "{command:?}: {}", words(&outcome));
    };
    run(&["mount", "--bind", text(over.dir()), covered]);
    done(&volume, &["key", "rotate", DEFAULT]);
    // The volume that answers there has another keystore, and nothing under this key.
    let said = refused(&volume, &["key", "retire", DEFAULT, "1"]);
    assert!(said.contains("in use"), "{said}");
    run(&["umount", covered]);
    assert!(refused(&volume, &["key", "retire", DEFAULT, "1"]).contains("still need version 1"));
    assert_eq!(fs::read(mount.at("file")).expect("read"), b"x");
}

#[test]
fn a_key_is_set_only_for_directories_of_a_mount() {
    let volume = Volume::new();
    let said = refused(&volume, &["rewrap", text(&volume.backing), "--to-key", "alias/nowhere"]);
    assert!(said.contains("alias/nowhere"), "{said}");
    let outcome = volume.command().arg("set-key").arg(&volume.backing).arg(DEFAULT).output().expect("set-key");
    assert!(!outcome.status.success() && words(&outcome).contains("not mounted"), "{}", words(&outcome));
    let mount = volume.mount(&[]);
    fs::write(mount.at("file"), b"x").expect("write");
    let outcome = volume.command().arg("set-key").arg(mount.at("file")).arg(DEFAULT).output().expect("set-key");
    assert!(!outcome.status.success() && words(&outcome).contains("no directory"), "{}", words(&outcome));
}

#[test]
fn a_destination_out_of_use_is_named_with_the_way_out_and_nothing_changes() {
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    fs::write(mount.at("file"), b"x").expect("write");
    let id = done(&volume, &["key", "create", "--alias", "alias/off"]).trim().to_owned();
    let fresh = volume.base().join("fresh");
    for (act, way_out) in [("disable", "kmsfs key enable"), ("delete", "kmsfs key cancel-deletion")] {
        done(&volume, &["key", act, "alias/off"]);
        let check = |outcome: std::process::Output| {
            let said = words(&outcome);
            let is_told = said.contains(&id) && said.contains(&format!("{way_out} {id}"));
            assert!(outcome.status.code() == Some(8) && is_told && !said.contains("volume key"), "{act}: {said}");
        };
        let run = |arguments: &[&str]| check(volume.command().args(arguments).output().expect("kmsfs"));
        run(&["rewrap", text(mount.dir()), "--to-key", "alias/off"]);
        run(&["set-key", text(mount.dir()), "alias/off"]);
        let said = refused(&volume, &["init", text(&fresh), "--key", "alias/off"]);
        assert!(said.contains(&format!("{way_out} {id}")) && !said.contains("volume key"), "{said}");
        assert!(!fresh.exists());
        assert!(which(&volume, mount.dir()).contains(DEFAULT) && which(&volume, &mount.at("file")).contains(DEFAULT));
    }
}
