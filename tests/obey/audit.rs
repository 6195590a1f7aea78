//! The audit log of a mount: every use of a key by a user has its line.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use kmsfs::kms::api::Client;
use serde_json::Value;

use crate::scene::{ADA, BOB, DENIED, Scene, allow, arn, events_in, said, soon, user};

/// The lines of one user about one path.
fn about<'a>(events: &'a [Value], name: &str, path: &str) -> Vec<&'a Value> {
    let found = |event: &&Value| event["userIdentity"]["arn"] == arn(name).as_str() && event["kmsfs"]["path"] == path;
    events.iter().filter(found).collect()
}

#[test]
fn every_open_has_its_line_allowed_or_denied() {
    let scene = Scene::new(&["--context", "team=blue"]);
    let mount = scene.mount(&[]);
    fs::create_dir(mount.at("dir")).expect("mkdir");
    fs::set_permissions(mount.at("dir"), fs::Permissions::from_mode(0o777)).expect("chmod");
    for number in 0..20 {
        fs::write(mount.at(format!("dir/{number}")), b"x").expect("write");
    }
    scene.put_policy(&[allow("writes", &["kms:GenerateDataKey"], ADA), allow("reads", &["kms:Decrypt"], BOB)]);
    soon("the policy", || user(ADA).run(|| said(fs::read(mount.at("dir/0")))) == DENIED);
    soon("the policy", || user(BOB).run(|| said(File::create(mount.at("dir/none")))) == DENIED);
    // The lines of those attempts come first.
    let wait = || {
        soon("the lines", || scene.events().iter().any(|event| event["kmsfs"]["path"] == "/dir/none"));
        scene.events().len()
    };
    let before = wait();
    let bob = user(BOB);
    let pid = std::process::id();
    bob.run(|| {
        for round in 0..3 {
            for number in 0..20 {
                assert_eq!(fs::read(mount.at(format!("dir/{number}"))).expect("read"), b"x", "{round}");
            }
        }
        fs::read_dir(mount.at("dir")).expect("list");
    });
    user(ADA).run(|| {
        for number in 0..20 {
            assert_eq!(said(fs::read(mount.at(format!("dir/{number}")))), DENIED);
        }
        fs::write(mount.at("dir/hers"), b"x").expect("write");
    });
    mount.unmount();
    let events = scene.events();
    let after = &events[before..];
    for number in 0..20 {
        let path = format!("/dir/{number}");
        let (reads, refusals) = (about(after, BOB, &path), about(after, ADA, &path));
        assert_eq!((reads.len(), refusals.len()), (3, 1), "{path}");
        for event in reads {
            assert_eq!((&event["eventName"], &event["errorCode"]), (&Value::from("Decrypt"), &Value::Null));
            assert_eq!(event["kmsfs"]["reason"], "statement 3 (reads)");
        }
        assert_eq!(refusals[0]["errorCode"], "AccessDenied");
        assert_eq!(refusals[0]["kmsfs"]["reason"], "no statement and no grant allows it");
    }
    assert_eq!(about(after, BOB, "/dir").len(), 1, "the listing");
    let made = about(after, ADA, "/dir/hers");
    assert_eq!(made.len(), 1);
    let event = made[0];
    assert_eq!(event["eventName"], "GenerateDataKey");
    assert_eq!(event["userIdentity"]["invokedBy"], "kmsfs.local");
    assert_eq!(event["userIdentity"]["userName"], ADA);
    let context = &event["requestParameters"]["encryptionContext"];
    assert_eq!((&context["team"], &context["kmsfs:kind"]), (&Value::from("blue"), &Value::from("file-gcm")));
    assert_eq!(context["kmsfs:volume"], event["kmsfs"]["volume"]);
    assert_eq!(event["kmsfs"]["uid"], user(ADA).uid);
    // Threads of this process made the calls: FUSE tells the id of the thread.
    let told = event["kmsfs"]["pid"].as_u64().expect("a pid");
    assert!(told >= u64::from(pid), "{told} is none of {pid}'s threads");
    assert!(
        events.iter().any(|event| event["userIdentity"]["principalId"] == "kmsfs.local"
            && event["kmsfs"]["repeated"]["count"].as_u64() > Some(0)),
        "what the mount did by itself is counted as its own"
    );
    scene.verify_audit();
}

#[test]
fn paths_stay_out_of_the_log_where_they_are_not_wanted() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&["-o", "audit_paths=no"]);
    fs::write(mount.at("confidential-name"), b"x").expect("write");
    fs::read(mount.at("confidential-name")).expect("read");
    mount.unmount();
    let events = scene.events();
    let reads =
        events.iter().filter(|event| event["eventName"] == "Decrypt" && event["kmsfs"]["volume"] != Value::Null);
    assert!(reads.count() > 0);
    assert!(!events.iter().any(|event| event.to_string().contains("confidential")));
    scene.verify_audit();
}

#[test]
fn a_mount_that_has_only_the_copy_in_the_volume_writes_a_log_of_this_users() {
    let scene = Scene::new(&[]);
    let away = scene.volume.base().join("away");
    fs::rename(&scene.volume.keystore, &away).expect("rename");
    let mount = scene.mount(&[]);
    fs::write(mount.at("file"), b"x").expect("write");
    mount.unmount();
    let state = scene.volume.base().join(".local/state/kmsfs");
    let logs: Vec<_> =
        fs::read_dir(&state).expect("a folder").flatten().map(|entry| entry.path().join("audit")).collect();
    assert_eq!(logs.len(), 1);
    let events = events_in(&logs[0]);
    assert!(events.iter().any(|event| event["kmsfs"]["path"] == "/file"));
    assert!(!scene.volume.keystore.exists());
}

#[test]
fn a_server_of_another_user_is_not_spoken_to() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let socket = folder.path().join("socket");
    let hers = user(ADA).run(|| UnixListener::bind(&socket).expect("bind"));
    let refused = Client::connect(&socket).map(drop).expect_err("the folder is root's, the server is not");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    chown(folder.path(), Some(user(ADA).uid), None).expect("chown");
    Client::connect(&socket).map(drop).expect("the folder is that user's own");
    drop(hers);
}
