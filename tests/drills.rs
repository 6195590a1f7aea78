//! What is lost, and how it comes back: each drill is typed as a user would type it. Run as root.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use harness::{PASSPHRASE, Volume, is_advice, skipped_in_plain_mode, words};

/// A volume with a file in it, and the recovery key of its keystore.
struct Drill {
    volume: Volume,
    recovery: String,
}

impl Drill {
    fn new() -> Option<Drill> {
        if skipped_in_plain_mode() {
            return None;
        }
        let volume = Volume::folders().by_passphrase();
        let made = volume.run(&["init", "--unlock-time", "1", path(&volume.backing)]);
        assert!(made.status.success(), "{}", words(&made));
        let text = String::from_utf8(made.stdout).expect("text");
        let is_group =
            |word: &str| word.len() == 8 && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        let groups: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c == '-').filter(|word| is_group(word)).collect();
        assert_eq!(groups.len(), 8, "{text}");
        let recovery = groups.join("-");
        let drill = Drill { volume, recovery };
        let mount = drill.volume.mount(&[]);
        fs::create_dir(mount.at("dir")).expect("mkdir");
        fs::write(mount.at("dir/file"), b"the only copy").expect("write");
        mount.unmount();
        Some(drill)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.volume.base().join(name)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.volume.run(arguments);
        assert!(outcome.status.success(), "kmsfs {arguments:?}: {}", words(&outcome));
        String::from_utf8(outcome.stdout).expect("text") + &String::from_utf8_lossy(&outcome.stderr)
    }

    fn refused(&self, arguments: &[&str], code: i32, said: &str) {
        let outcome = self.volume.run(arguments);
        let text = words(&outcome);
        assert_eq!(outcome.status.code(), Some(code), "kmsfs {arguments:?}: {text}");
        assert!(is_advice(&text) && text.contains(said), "kmsfs {arguments:?}: {text}");
    }

    /// A command with only these arguments and `secret` on its standard input.
    fn typed(&self, arguments: &[&str], secret: &str) -> Output {
        let mut command = self.volume.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kmsfs");
        child.stdin.take().expect("write").write_all(format!("{secret}\n").as_bytes()).expect("write");
        child.wait_with_output().expect("kmsfs")
    }

    fn is_whole(&self) {
        let mount = self.volume.mount(&[]);
        assert_eq!(fs::read(mount.at("dir/file")).expect("read"), b"the only copy");
        mount.unmount();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn the_records_are_lost_or_damaged() {
    let Some(drill) = Drill::new() else { return };
    let db = drill.volume.keystore.join("db");
    fs::remove_dir_all(&db).expect("remove");
    drill.refused(&["keystore", "verify"], 8, "db");
    assert!(drill.ok(&["key", "list"]).contains("restored from keystore.bundle"));
    drill.ok(&["keystore", "verify"]);
    drill.is_whole();
    fs::write(db.join("db"), [0x5A; 4096]).expect("write");
    assert!(drill.ok(&["key", "list"]).contains("restored from keystore.bundle"));
    drill.ok(&["keystore", "verify"]);
    drill.is_whole();
}

#[test]
fn the_bundle_is_lost_or_damaged() {
    let Some(drill) = Drill::new() else { return };
    let bundle = drill.volume.keystore.join("keystore.bundle");
    let whole = fs::read(&bundle).expect("read");
    for content in [None, Some(&whole[..whole.len() / 2]), Some(b"")] {
        fs::remove_file(&bundle).expect("remove");
        if let Some(content) = content {
            fs::write(&bundle, content).expect("write");
        }
        drill.refused(&["keystore", "verify"], 8, "keystore.bundle");
        drill.is_whole();
        drill.ok(&["key", "list"]);
        drill.ok(&["keystore", "verify"]);
    }
    // Both generations at once: the records write them anew.
    for name in ["keystore.bundle", "keystore.bundle.old"] {
        fs::write(drill.volume.keystore.join(name), b"garbage").expect("write");
    }
    drill.is_whole();
    drill.ok(&["key", "rotate", "alias/kmsfs/default"]);
    drill.ok(&["keystore", "verify"]);
}

#[test]
fn the_keystore_is_lost_and_the_volume_opens_with_its_own_copy() {
    let Some(drill) = Drill::new() else { return };
    fs::remove_dir_all(&drill.volume.keystore).expect("remove");
    drill.is_whole();
    assert!(!drill.volume.keystore.exists());
    // Another machine, the recovery key instead of the passphrase, typed in capitals with spaces.
    let (backing, mountpoint) = (path(&drill.volume.backing), path(&drill.volume.mountpoint));
    let mounted = drill.typed(&["mount", backing, mountpoint, "--recovery-key"], &drill.recovery.replace('-', " "));
    assert!(mounted.status.success(), "{}", words(&mounted));
    assert!(words(&mounted).contains("the volume's own copy"), "{}", words(&mounted));
    assert_eq!(fs::read(drill.volume.mountpoint.join("dir/file")).expect("read"), b"the only copy");
    assert!(drill.volume.umount().status.success());
    let (key, retire) = ("alias/kmsfs/default", ["key", "retire", "alias/kmsfs/default", "1"]);
    for command in [&["key", "versions", key][..], &retire, &["key", "delete", key], &["audit", "verify"]] {
        drill.refused(command, 8, "no keystore");
    }
    // And a keystore again, from the copy.
    let copy = drill.volume.backing.join(".kmsfs/keystore.bundle");
    let restored = drill.ok(&["keystore", "restore", path(&copy)]);
    assert!(restored.contains("one volume") && restored.contains("mount each one once"), "{restored}");
    drill.ok(&["key", "rotate", key]);
    drill.ok(&["keystore", "verify"]);
    drill.is_whole();
    // It cannot know whether there are other volumes.
    drill.ok(&["rewrap", path(&drill.volume.backing)]);
    drill.refused(&retire, 4, "--without unlisted");
    assert!(drill.ok(&["key", "versions", key]).contains("are not known"));
    drill.ok(&[&retire[..], &["--without", "unlisted"]].concat());
    drill.is_whole();
}

#[test]
fn the_passphrase_is_forgotten() {
    let Some(drill) = Drill::new() else { return };
    let (new, wrong) = (drill.at("new"), drill.at("wrong"));
    fs::write(&new, "a new passphrase\n").expect("write");
    fs::write(&wrong, "no idea\n").expect("write");
    let keystore = path(&drill.volume.keystore);
    let forgotten =
        drill.volume.command().args(["key", "list", "--keystore", keystore, "--passfile", path(&wrong)]).output();
    assert_eq!(forgotten.expect("it answers").status.code(), Some(3));
    let change = [
        "passphrase",
        "change",
        "--recovery-key",
        "--keystore",
        keystore,
        "--new-passfile",
        path(&new),
        "--unlock-time",
        "1",
    ];
    let changed = drill.typed(&change, &drill.recovery);
    assert!(changed.status.success(), "{}", words(&changed));
    drill.refused(&["key", "list"], 3, "passphrase");
    fs::copy(&new, &drill.volume.passfile).expect("copy");
    drill.ok(&["key", "list"]);
    drill.ok(&["keystore", "verify"]);
    drill.is_whole();
}

#[test]
fn a_backup_opens_everything_on_another_machine() {
    let Some(drill) = Drill::new() else { return };
    let (backup, backing) = (drill.at("keys.backup"), path(&drill.volume.backing));
    let backup = path(&backup);
    drill.ok(&["keystore", "backup", backup]);
    assert!(drill.ok(&["keystore", "verify", backup]).contains("whole"));
    // Nothing is left here: neither the keystore nor the volume's copy.
    fs::remove_dir_all(&drill.volume.keystore).expect("remove");
    fs::remove_file(drill.volume.backing.join(".kmsfs/keystore.bundle")).expect("remove");
    drill.refused(&["mount", backing, path(&drill.volume.mountpoint)], 8, "no keystore");
    let elsewhere = drill.at("machine2/keystore");
    let restore = ["keystore", "restore", backup, "--keystore", path(&elsewhere), "--recovery-key"];
    let restored = drill.typed(&restore, &drill.recovery);
    assert!(restored.status.success(), "{}", words(&restored));
    let arguments = ["mount", backing, path(&drill.volume.mountpoint), "--keystore", path(&elsewhere)];
    let mounted = drill.typed(&arguments, PASSPHRASE);
    assert!(mounted.status.success(), "{}", words(&mounted));
    assert_eq!(fs::read(drill.volume.mountpoint.join("dir/file")).expect("read"), b"the only copy");
    assert!(drill.volume.umount().status.success());
}

#[test]
fn a_bad_backup_is_told_apart_and_changes_nothing() {
    let Some(drill) = Drill::new() else { return };
    let at = |name: &str| path(&drill.at(name)).to_owned();
    drill.ok(&["keystore", "backup", &at("older")]);
    drill.ok(&["key", "create", "--alias", "alias/second"]);
    drill.ok(&["keystore", "backup", &at("whole")]);
    let whole = fs::read(at("whole")).expect("read");
    fs::write(at("cut"), &whole[..whole.len() - 7]).expect("write");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0x10;
    fs::write(at("damaged"), damaged).expect("write");
    fs::write(at("text"), "shopping list").expect("write");
    let bundle = drill.volume.keystore.join("keystore.bundle");
    let before = fs::read(&bundle).expect("read");
    drill.refused(&["keystore", "restore", &at("whole")], 8, "there is a keystore already");
    for (name, said) in
        [("cut", "cut or added to"), ("damaged", "checksum"), ("text", "no whole backup"), ("older", "older")]
    {
        drill.refused(&["keystore", "restore", "--force", &at(name)], 8, said);
        if name != "older" {
            drill.refused(&["keystore", "verify", &at(name)], 8, said);
            drill.refused(&["keystore", "backup", &at(name)], 8, "left alone");
        }
        assert!(fs::read(&bundle).expect("read") == before, "{name}");
    }
    drill.refused(&["keystore", "restore", "--force", &at("none")], 1, "none");
    let kept = drill.ok(&["keystore", "restore", "--force", &at("whole")]);
    assert!(kept.contains(".replaced-") && !kept.contains("mount each one once"), "{kept}");
    assert!(drill.ok(&["key", "list"]).contains("alias/second"));
    drill.is_whole();
}

#[test]
fn a_deletion_names_the_volumes_and_can_be_taken_back() {
    let Some(drill) = Drill::new() else { return };
    let key = "alias/kmsfs/default";
    drill.refused(&["key", "delete", key, "--days", "6"], 2, "7 to 30");
    drill.refused(&["key", "delete", key, "--volume", path(&drill.at("nowhere"))], 1, "nowhere");
    let said = drill.ok(&["key", "delete", key, "--volume", path(&drill.volume.backing)]);
    assert!(said.contains(path(&drill.volume.backing)) && said.contains("cancel-deletion"), "{said}");
    drill.refused(&["mount", path(&drill.volume.backing), path(&drill.volume.mountpoint)], 8, "pending deletion");
    drill.ok(&["key", "cancel-deletion", key]);
    drill.refused(&["mount", path(&drill.volume.backing), path(&drill.volume.mountpoint)], 8, "disabled");
    drill.ok(&["key", "enable", key]);
    let mount = drill.volume.mount(&["--key-ttl", "1"]);
    let said = drill.ok(&["key", "delete", key, "--days", "7", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["volumes"][0]["mounted_on"], path(&drill.volume.mountpoint));
    harness::wait_until("the mount to go dark", || fs::read_dir(mount.dir()).is_err());
    drill.ok(&["key", "cancel-deletion", key]);
    drill.ok(&["key", "enable", key]);
    harness::wait_until("the mount to come back", || fs::read_dir(mount.dir()).is_ok());
    assert_eq!(fs::read(mount.at("dir/file")).expect("read"), b"the only copy");
    mount.unmount();
}
