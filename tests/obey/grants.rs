//! Grants in a mount: leave for one user and one label, which ends by itself or by revocation.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use crate::scene::{ADA, BOB, DENIED, Scene, allow, said, soon, user};

/// Long enough for what is tried before it ends, even on a busy machine.
const WHILE: Duration = Duration::from_secs(12);

#[test]
fn a_grant_opens_what_has_its_label_and_ends_by_itself() {
    let blue = Scene::new(&["--context", "team=blue"]);
    let red = Scene::beside(&blue, &["--context", "team=red"]);
    let (blue_mount, red_mount) = (blue.mount(&[]), red.mount(&[]));
    for mount in [&blue_mount, &red_mount] {
        fs::create_dir(mount.at("src")).expect("mkdir");
        fs::write(mount.at("src/code"), vec![b'c'; 50_000]).expect("write");
        fs::set_permissions(mount.at("src"), fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    blue.put_policy(&[allow("bob", &["kms:Decrypt"], BOB)]);
    let reads = |name: &str, mount: &crate::harness::Mount| {
        user(name).run(|| said(fs::read(mount.at("src/code"))).and(said(fs::read_dir(mount.at("src")))))
    };
    soon("the policy", || reads(ADA, &blue_mount) == DENIED && reads(ADA, &red_mount) == DENIED);

    blue.grant(ADA, ("team", "blue"), Some(WHILE));
    // The end was reckoned from a moment before this one.
    let granted = Instant::now();
    soon("the grant", || reads(ADA, &blue_mount) == Ok(()));
    assert_eq!(reads(ADA, &red_mount), DENIED, "the other volume has another label");
    assert_eq!(user(ADA).run(|| said(File::create(blue_mount.at("src/new")))), DENIED, "Decrypt alone was granted");
    let hers = user(ADA).run(|| File::open(blue_mount.at("src/code")).expect("open"));
    let his = user(BOB).run(|| File::open(blue_mount.at("src/code")).expect("open"));
    let mut part = [0; 10];
    hers.read_exact_at(&mut part, 0).expect("read");
    assert!(granted.elapsed() < WHILE, "this machine is too slow for {WHILE:?}");

    // Nothing changes in the keystore: the time alone ends it.
    std::thread::sleep((WHILE + Duration::from_secs(1)).saturating_sub(granted.elapsed()));
    assert_eq!(reads(ADA, &blue_mount), DENIED, "a new open is refused at once");
    soon("her handle to close", || said(hers.read_exact_at(&mut part, 45_000)) == DENIED);
    assert_eq!(reads(BOB, &blue_mount), Ok(()));
    his.read_exact_at(&mut part, 45_000).expect("he goes on");
    drop((hers, his));
    blue_mount.unmount();
    red_mount.unmount();
    blue.verify_audit();
}

#[test]
fn a_revoked_grant_closes_what_it_opened() {
    let scene = Scene::new(&["--context", "team=blue"]);
    let mount = scene.mount(&[]);
    fs::write(mount.at("file"), vec![b'x'; 50_000]).expect("write");
    scene.put_policy(&[]);
    soon("the policy", || user(ADA).run(|| said(fs::read(mount.at("file")))) == DENIED);
    let grant = scene.grant(ADA, ("team", "blue"), None);
    soon("the grant", || user(ADA).run(|| fs::read(mount.at("file")).is_ok()));
    let hers = user(ADA).run(|| File::open(mount.at("file")).expect("open"));
    scene.revoke(&grant);
    let started = Instant::now();
    soon("the revocation", || user(ADA).run(|| said(fs::read(mount.at("file")))) == DENIED);
    soon("her handle to close", || said(hers.read_exact_at(&mut [0; 10], 45_000)) == DENIED);
    eprintln!("closed after {:?}", started.elapsed());
    scene.grant(ADA, ("team", "blue"), None);
    soon("her handle to open again", || hers.read_exact_at(&mut [0; 10], 45_000).is_ok());
    drop(hers);
    mount.unmount();
}

#[test]
fn a_grant_may_be_for_one_directory() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    for name in ["one", "two"] {
        fs::create_dir(mount.at(name)).expect("mkdir");
        fs::set_permissions(mount.at(name), fs::Permissions::from_mode(0o777)).expect("chmod");
        fs::write(mount.at(name).join("file"), b"x").expect("write");
    }
    fs::read(mount.at("one/file")).expect("read");
    soon("the read to be in the log", || scene.events().iter().any(|event| event["kmsfs"]["path"] == "/one/file"));
    let events = scene.events();
    let event = events.iter().find(|event| event["kmsfs"]["path"] == "/one/file").expect("an event");
    let parent = &event["requestParameters"]["encryptionContext"]["kmsfs:parent"];
    scene.put_policy(&[]);
    scene.grant(ADA, ("kmsfs:parent", parent.as_str().expect("an id")), None);
    soon("the grant", || user(ADA).run(|| fs::read(mount.at("one/file")).is_ok()));
    soon("the policy", || user(ADA).run(|| said(fs::read(mount.at("two/file")))) == DENIED);
    // Unix permissions let her move what lies there to where she may read.
    fs::create_dir(mount.at("two/below")).expect("mkdir");
    fs::set_permissions(mount.at("two/file"), fs::Permissions::from_mode(0o666)).expect("chmod");
    for moved in ["file", "below"] {
        let there = mount.at("one").join(format!("moved-{moved}"));
        let hers = || user(ADA).run(|| said(fs::rename(mount.at("two").join(moved), &there)));
        assert_eq!(hers(), DENIED, "{moved}");
    }
    assert_eq!(user(ADA).run(|| said(fs::hard_link(mount.at("two/file"), mount.at("one/linked")))), Ok(()));
    assert_eq!(user(ADA).run(|| said(fs::read(mount.at("one/linked")))), DENIED, "it is bound to no directory now");
    fs::rename(mount.at("one/file"), mount.at("two/hers")).expect("the owner may");
    fs::rename(mount.at("two/hers"), mount.at("one/file")).expect("and back");
    assert!(user(ADA).run(|| fs::read(mount.at("one/file")).is_ok()));
    mount.unmount();
}

#[test]
fn a_second_link_is_no_way_around_a_directory_that_is_closed() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    for name in ["closed", "open"] {
        fs::create_dir(mount.at(name)).expect("mkdir");
        fs::set_permissions(mount.at(name), fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    fs::write(mount.at("closed/file"), b"x").expect("write");
    fs::set_permissions(mount.at("closed/file"), fs::Permissions::from_mode(0o666)).expect("chmod");
    fs::read(mount.at("closed/file")).expect("read");
    let is_read = |event: &serde_json::Value| event["kmsfs"]["path"] == "/closed/file";
    soon("the read to be in the log", || scene.events().iter().any(is_read));
    let event = scene.events().into_iter().find(is_read).expect("an event");
    let mut closed = allow("adaElsewhere", &["kms:Decrypt", "kms:GenerateDataKey"], ADA);
    closed["Condition"] = serde_json::json!({"StringNotEquals": {
        "kms:EncryptionContext:kmsfs:parent": event["requestParameters"]["encryptionContext"]["kmsfs:parent"]}});
    scene.put_policy(&[closed]);
    let link = || user(ADA).run(|| said(fs::hard_link(mount.at("closed/file"), mount.at("open/linked"))));
    soon("the policy", || user(ADA).run(|| said(fs::read(mount.at("closed/file")))) == DENIED);
    assert_eq!(link(), DENIED);
    assert_eq!(user(ADA).run(|| said(fs::rename(mount.at("closed/file"), mount.at("open/moved")))), DENIED);
    mount.unmount();
}
