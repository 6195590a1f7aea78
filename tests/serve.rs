//! `kmsfs serve` as a process: in the background, with commands beside it, killed under load.
//!
//! `KMSFS_SERVE_ROUNDS` (default 10) says how often it is killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kmsfs::kms::api::Client;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A keystore with its passphrase.
struct Scene {
    base: TempDir,
    keystore: PathBuf,
    passfile: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let (keystore, passfile) = (base.path().join("keystore"), base.path().join("passphrase"));
        fs::write(&passfile, "passphrase of a test\n").unwrap();
        let scene = Self { base, keystore, passfile };
        let vault = scene.base.path().join("vault");
        fs::create_dir(&vault).unwrap();
        let made = scene.run(&["init", vault.to_str().unwrap(), "--unlock-time", "1"]);
        assert!(made.status.success(), "{made:?}");
        scene
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = std::env::var_os("KMSFS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_kmsfs").into());
        let mut command = Command::new(binary);
        command.args(arguments).arg("--passfile").arg(&self.passfile).env("KMSFS_KEYSTORE", &self.keystore);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// A server in front, once it is ready, and what it said then.
    fn serve(&self, arguments: &[&str]) -> (Child, String) {
        let mut command = self.command(&[&["serve", "--foreground"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("Serving "), "{line}");
        (child, line)
    }

    fn client(&self) -> Client {
        Client::of_keystore(&self.keystore).unwrap()
    }

    fn key_ids(&self) -> BTreeSet<String> {
        let (mut client, mut found, mut marker) = (self.client(), BTreeSet::new(), None);
        loop {
            let mut parameters = json!({ "Limit": 1000 });
            if let Some(marker) = &marker {
                parameters["Marker"] = Value::clone(marker);
            }
            let page = client.call("ListKeys", &parameters).unwrap();
            let keys = page["Keys"].as_array().unwrap().iter();
            found.extend(keys.map(|key| key["KeyId"].as_str().unwrap().to_owned()));
            if page["Truncated"] != true {
                return found;
            }
            marker = Some(page["NextMarker"].clone());
        }
    }
}

fn end(mut child: Child, signal: Signal) -> std::process::ExitStatus {
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_goes_to_the_background_once_it_is_ready_and_ends_with_a_signal() {
    let scene = Scene::new();
    let socket = scene.base.path().join("s");
    let started = scene.run(&["serve", "--unix", socket.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&started.stdout).into_owned();
    assert!(started.status.success() && said.contains("http://127.0.0.1:") && said.contains("/s"), "{started:?}");
    assert_eq!(Client::connect(&socket).unwrap().call("ListKeys", &json!({})).unwrap()["Truncated"], false);
    let pid = fs::read_to_string(scene.keystore.join("lock")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    wait_until("the server to end", || test_kill_process(pid).is_err());
    assert!(!socket.exists() && !scene.keystore.join("socket").exists());
    assert!(scene.run(&["access-key", "list"]).status.success());
}

#[test]
fn a_server_that_cannot_start_says_why_in_either_way() {
    let scene = Scene::new();
    for (arguments, words, code) in [
        (vec!["serve", "--listen", "0.0.0.0:0"], "no loopback address", 2),
        (vec!["serve", "--listen", "0.0.0.0:0", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere", 2),
        (vec!["serve", "--unix", "/nowhere/s"], "/nowhere/s", 1),
    ] {
        for more in [&[][..], &["--foreground"]] {
            let refused = scene.run(&[&arguments[..], more].concat());
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                refused.status.code() == Some(code) && said.contains(words) && said.contains("Next: "),
                "{refused:?}"
            );
        }
    }
    assert!(scene.run(&["access-key", "list"]).status.success(), "nothing holds the keystore");
}

#[test]
fn commands_find_the_server_that_has_the_keystore_and_others_find_it_in_use() {
    let scene = Scene::new();
    let (server, _) = scene.serve(&[]);
    let made = scene.run(&["access-key", "create", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let id = made["AccessKey"]["AccessKeyId"].as_str().unwrap();
    let listed = scene.run(&["access-key", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(id));
    let second = scene.run(&["serve"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(6) && said.contains(&format!("process {}", server.id())), "{second:?}");
    assert!(end(server, Signal::TERM).success());
    let listed = scene.run(&["access-key", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains(id), "it was kept");
    assert!(scene.run(&["access-key", "delete", id]).status.success());
    assert!(!scene.run(&["access-key", "delete", id]).status.success());
}

/// What is shown beside a server needs no secret, and is what is shown without one.
#[test]
fn keys_are_rotated_and_shown_beside_a_server_without_a_passphrase() {
    const KEY: &str = "alias/0";
    let scene = Scene::new();
    let bare = |arguments: &[&str]| {
        let binary = std::env::var_os("KMSFS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_kmsfs").into());
        let mut command = Command::new(binary);
        command.args(arguments).env("KMSFS_KEYSTORE", &scene.keystore).stdin(Stdio::null()).output().unwrap()
    };
    let shown: &[&[&str]] = &[
        &["key", "list"],
        &["key", "list", "--json"],
        &["key", "describe", KEY],
        &["key", "describe", KEY, "--json"],
        &["alias", "list", "--json"],
        &["key", "explain", KEY, "--user", "daemon", "--context", "team=blue"],
    ];
    assert!(!bare(shown[0]).status.success(), "without a server a passphrase is needed");
    for number in 0..12 {
        assert!(scene.run(&["key", "create", "--alias", &format!("alias/{number}")]).status.success());
    }
    assert!(scene.run(&["key", "rotate", KEY]).status.success());
    assert!(scene.run(&["key", "retire", KEY, "1"]).status.success());
    let (server, _) = scene.serve(&[]);
    for (version, arguments) in [(3, &["key", "rotate", KEY, "--json"][..]), (4, &["key", "rotate", KEY, "--json"])] {
        let rotated = bare(arguments);
        assert!(rotated.status.success(), "{rotated:?}");
        assert_eq!(serde_json::from_slice::<Value>(&rotated.stdout).unwrap()["version"], version);
    }
    let beside: Vec<Output> = shown.iter().map(|arguments| bare(arguments)).collect();
    assert!(end(server, Signal::TERM).success());
    for (arguments, beside) in shown.iter().zip(beside) {
        let alone = scene.run(arguments);
        assert!(beside.status.success() && alone.status.success(), "{arguments:?}: {beside:?}");
        assert_eq!(String::from_utf8_lossy(&beside.stdout), String::from_utf8_lossy(&alone.stdout), "{arguments:?}");
    }
    let described = scene.run(&["key", "describe", KEY, "--json"]);
    let described: Value = serde_json::from_slice(&described.stdout).unwrap();
    assert_eq!((&described["state"], &described["aliases"]), (&json!("Enabled"), &json!([KEY])));
    let versions = described["versions"].as_array().unwrap();
    assert!(versions.len() == 4 && versions[0]["destroyed"].is_u64() && versions[1].get("destroyed").is_none());
}

#[test]
fn a_version_is_retired_through_the_server() {
    const DEFAULT: &str = "alias/kmsfs/default";
    let scene = Scene::new();
    let (server, _) = scene.serve(&[]);
    let vault = scene.base.path().join("vault");
    let vault = vault.to_str().unwrap();
    let ok = |arguments: &[&str]| {
        let done = scene.run(arguments);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    ok(&["key", "rotate", DEFAULT]);
    let kept = scene.run(&["key", "retire", DEFAULT, "1"]);
    let said = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(kept.status.code() == Some(8) && said.contains("still need version 1"), "{kept:?}");
    ok(&["rewrap", vault]);
    assert!(ok(&["key", "retire", DEFAULT, "1"]).contains("Version 1 of alias/kmsfs/default is destroyed"));
    let again = scene.run(&["key", "retire", DEFAULT, "1"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("destroyed"), "{again:?}");
    let log = fs::read_to_string(scene.keystore.join("audit/events-00000001.jsonl")).unwrap();
    assert!(log.contains("\"eventName\":\"kmsfs.RetireKeyVersion\""));
    assert!(end(server, Signal::TERM).success());
    let versions: Value = serde_json::from_str(&ok(&["key", "versions", DEFAULT, "--json"])).unwrap();
    assert!(versions[0]["destroyed"].is_u64() && versions[1]["destroyed"].is_null(), "{versions}");
}

#[test]
fn every_answered_change_is_there_after_kill_9() {
    let rounds = std::env::var("KMSFS_SERVE_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let scene = Scene::new();
    let answered = Mutex::new(BTreeSet::new());
    for round in 0..rounds {
        let (server, _) = scene.serve(&[]);
        let (before, go_on) = (answered.lock().unwrap().len(), AtomicBool::new(true));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (mut client, answered, go_on) = (scene.client(), &answered, &go_on);
                scope.spawn(move || {
                    while go_on.load(Ordering::Relaxed)
                        && let Ok(made) = client.call("CreateKey", &json!({ "Description": format!("round {round}") }))
                    {
                        let id = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
                        answered.lock().unwrap().insert(id);
                    }
                });
            }
            wait_until("the first keys", || answered.lock().unwrap().len() > before + 3);
            std::thread::sleep(Duration::from_millis(17 * (round % 7)));
            assert!(!end(server, Signal::KILL).success());
            go_on.store(false, Ordering::Relaxed);
        });
        // One of the two sources must do.
        match round % 3 {
            1 => fs::remove_dir_all(scene.keystore.join("db")).unwrap(),
            2 => fs::remove_file(scene.keystore.join("keystore.bundle")).unwrap(),
            _ => {}
        }
        let (server, _) = scene.serve(&[]);
        let (there, answered) = (scene.key_ids(), answered.lock().unwrap());
        assert!(answered.is_subset(&there), "round {round}: lost {:?}", answered.difference(&there));
        assert!(end(server, Signal::TERM).success());
    }
    println!("{rounds} rounds, {} keys", answered.lock().unwrap().len());
}
