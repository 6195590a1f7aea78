//! Key policies in a mount: who may open, list and make what.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use serde_json::json;

use crate::raw::Mapping;
use crate::scene::{ADA, BOB, DENIED, KEY, Scene, allow, arn, create, everybody, said, soon, user};

#[test]
fn under_the_mount_policy_unix_permissions_decide() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    user(ADA).run(|| {
        fs::write(mount.at("open"), b"x").expect("write");
        fs::write(mount.at("own"), b"x").expect("write");
        fs::set_permissions(mount.at("own"), fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::create_dir(mount.at("dir")).expect("mkdir");
    });
    user(BOB).run(|| {
        assert_eq!(fs::read(mount.at("open")).expect("read"), b"x");
        assert_eq!(said(fs::read(mount.at("own"))), DENIED);
        assert_eq!(fs::read_dir(mount.at("dir")).expect("list").count(), 0);
        fs::write(mount.at("his"), b"y").expect("write");
    });
    mount.unmount();
}

#[test]
fn an_explicit_deny_closes_the_volume_to_one_user_and_not_to_others() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    fs::create_dir(mount.at("dir")).expect("mkdir");
    fs::set_permissions(mount.at("dir"), fs::Permissions::from_mode(0o777)).expect("chmod");
    fs::write(mount.at("dir/file"), b"secret").expect("write");
    fs::write(mount.at("empty"), b"").expect("write");
    symlink("dir/file", mount.at("link")).expect("symlink");
    setxattr(mount.at("dir/file"), "user.a", b"1", XattrFlags::empty()).expect("setxattr");
    setxattr(mount.at("dir"), "user.a", b"1", XattrFlags::empty()).expect("setxattr");
    let attribute = |name: &str| said(getxattr(mount.at(name), "user.a", &mut [0; 8]).map_err(Into::into));
    let all = || {
        [
            said(fs::read(mount.at("dir/file"))),
            said(File::open(mount.at("empty"))),
            said(fs::read_dir(mount.at("dir"))),
            said(fs::read_link(mount.at("link"))),
            said(fs::read(mount.at("link"))),
            attribute("dir/file"),
            attribute("dir"),
        ]
    };
    assert_eq!(user(ADA).run(all), [Ok(()); 7]);

    let deny = json!({ "Sid": "not ada", "Effect": "Deny", "Action": "kms:*", "Resource": "*",
        "Principal": { "AWS": arn(ADA) } });
    scene.put_policy(&[everybody(), deny]);
    soon("the denial", || user(ADA).run(|| said(fs::read(mount.at("dir/file")))) == DENIED);
    assert_eq!(user(ADA).run(all), [DENIED; 7]);
    user(ADA).run(|| {
        assert!(fs::symlink_metadata(mount.at("dir/file")).is_ok(), "a name that is known is found");
        assert_eq!(said(create(&mount.at("dir/new"))), DENIED);
        assert_eq!(said(fs::create_dir(mount.at("dir/sub"))), DENIED);
        assert_eq!(said(symlink("x", mount.at("dir/second"))), DENIED);
        assert_eq!(said(fs::rename(mount.at("dir/file"), mount.at("dir/moved"))), Ok(()));
        assert_eq!(said(fs::rename(mount.at("dir/moved"), mount.at("file"))), Ok(()), "moving reads nothing");
        assert_eq!(said(fs::rename(mount.at("file"), mount.at("dir/file"))), Ok(()));
    });
    assert_eq!(user(BOB).run(all), [Ok(()); 7]);
    assert_eq!(fs::read(mount.at("dir/file")).expect("read"), b"secret");

    scene.put_policy(&[everybody()]);
    soon("the end of the denial", || user(ADA).run(|| fs::read(mount.at("dir/file")).is_ok()));
    assert_eq!(user(ADA).run(all), [Ok(()); 7]);
    mount.unmount();
    scene.verify_audit();
}

#[test]
fn a_write_only_principal_fills_a_drop_box_and_reads_nothing() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    fs::create_dir(mount.at("box")).expect("mkdir");
    fs::set_permissions(mount.at("box"), fs::Permissions::from_mode(0o777)).expect("chmod");
    user(BOB).run(|| fs::write(mount.at("box/his"), b"of bob").expect("write"));
    scene.put_policy(&[
        allow("drop", &["kms:GenerateDataKey"], ADA),
        allow("both", &["kms:GenerateDataKey", "kms:Decrypt"], BOB),
    ]);
    soon("the policy", || user(ADA).run(|| said(fs::read(mount.at("box/his")))) == DENIED);
    let big = vec![7; 300_000];
    user(ADA).run(|| {
        let mut letter = create(&mount.at("box/letter")).expect("create");
        letter.write_all(b"dear bob").expect("write");
        letter.sync_all().expect("fsync");
        letter.write_all(b", yours").expect("write");
        let mut heard = [0; 15];
        letter.read_exact_at(&mut heard, 0).expect("what it wrote itself, through this handle");
        assert_eq!(&heard, b"dear bob, yours");
        drop(letter);
        fs::write(mount.at("box/big"), &big).expect("write");
        fs::create_dir(mount.at("box/sub")).expect("mkdir");
        fs::write(mount.at("box/sub/inner"), b"inner").expect("write");
        for name in ["box/letter", "box/his", "box/big", "box/sub/inner"] {
            assert_eq!(said(fs::read(mount.at(name))), DENIED, "{name}");
            assert_eq!(said(OpenOptions::new().append(true).open(mount.at(name))), DENIED, "{name}");
            assert_eq!(said(File::create(mount.at(name))), DENIED, "{name} keeps its key, which must be opened");
            assert!(fs::symlink_metadata(mount.at(name)).is_ok());
        }
        assert_eq!(said(fs::read_dir(mount.at("box"))), DENIED);
        assert_eq!(said(fs::read_dir(mount.at("box/sub"))), DENIED);
        // What is made without content can be filled once, but not watched.
        File::create(mount.at("box/empty")).expect("create");
        assert_eq!(said(File::open(mount.at("box/empty"))), DENIED);
        assert_eq!(said(OpenOptions::new().read(true).write(true).open(mount.at("box/empty"))), DENIED);
        fs::write(mount.at("box/empty"), b"filled").expect("write");
        assert_eq!(said(fs::write(mount.at("box/empty"), b"again")), DENIED);
    });
    user(BOB).run(|| {
        assert_eq!(fs::read(mount.at("box/letter")).expect("read"), b"dear bob, yours");
        assert!(fs::read(mount.at("box/big")).expect("read") == big);
        assert_eq!(fs::read(mount.at("box/sub/inner")).expect("read"), b"inner");
        assert_eq!(fs::read(mount.at("box/empty")).expect("read"), b"filled");
        assert_eq!(fs::read_dir(mount.at("box")).expect("list").count(), 5);
    });
    mount.unmount();
    let mount = scene.mount(&[]);
    assert_eq!(user(ADA).run(|| said(fs::read(mount.at("box/letter")))), DENIED, "a new mount knows it too");
    assert_eq!(fs::read(mount.at("box/letter")).expect("read"), b"dear bob, yours");
    mount.unmount();
    scene.verify_audit();
}

#[test]
fn who_is_let_in_by_nothing_is_kept_out_and_the_owner_is_let_in_by_the_first_statement() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    fs::write(mount.at("file"), b"x").expect("write");
    scene.put_policy(&[]);
    soon("the policy", || user(ADA).run(|| said(fs::read(mount.at("file")))) == DENIED);
    assert_eq!(user(BOB).run(|| said(create(&mount.at("new")))), DENIED);
    assert_eq!(fs::read(mount.at("file")).expect("the owner reads"), b"x");
    fs::write(mount.at("new"), b"y").expect("the owner writes");
    mount.unmount();
}

#[test]
fn a_handle_goes_dark_with_the_leave_of_its_user_and_comes_back_with_it() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    let content: Vec<u8> = (0..100_000).map(|i| (i / 3) as u8).collect();
    fs::write(mount.at("file"), &content).expect("write");
    fs::set_permissions(mount.at("file"), fs::Permissions::from_mode(0o666)).expect("chmod");
    let both = || OpenOptions::new().read(true).write(true).open(mount.at("file")).expect("open");
    let hers = user(ADA).run(both);
    let his = user(BOB).run(both);
    let mut part = [0; 100];
    for file in [&hers, &his] {
        file.read_exact_at(&mut part, 5000).expect("read");
    }
    let mut listing =
        rustix::fs::Dir::new(user(ADA).run(|| File::open(mount.dir()).expect("open"))).expect("a listing");
    assert_eq!(listing.by_ref().filter(Result::is_ok).count(), 3);

    let deny = json!({ "Effect": "Deny", "Action": "kms:*", "Resource": "*", "Principal": { "AWS": arn(ADA) } });
    scene.put_policy(&[everybody(), deny]);
    let mut part = [0; 100];
    soon("her handle to close", || said(hers.read_exact_at(&mut part, 70_000)) == DENIED);
    mount.wait_log(&["are closed to users who have no leave any more"]);
    assert_eq!(said(hers.set_len(5)), DENIED);
    assert_eq!(said(hers.write_at(b"x", 3).and_then(|_| hers.sync_all())), DENIED);
    listing.rewind();
    assert!(matches!(listing.read(), Some(Err(error)) if error == Errno::ACCESS));
    his.read_exact_at(&mut part, 70_000).expect("he goes on");
    assert_eq!(part, content[70_000..70_100]);
    his.write_at(b"his", 10).expect("write");
    his.sync_all().expect("fsync");

    scene.put_policy(&[everybody()]);
    // Not a read, which a page that he brought into the kernel's cache may answer.
    soon("her handle to open again", || hers.write_at(b"hers", 20).is_ok());
    hers.read_exact_at(&mut part, 0).expect("read");
    assert_eq!(part[10..13], *b"his");
    hers.sync_all().expect("fsync");
    listing.rewind();
    assert_eq!(listing.by_ref().filter(Result::is_ok).count(), 3);
    drop((hers, his, listing));
    assert_eq!(fs::read(mount.at("file")).expect("read")[20..24], *b"hers");
    mount.unmount();
}

#[test]
fn mapped_pages_go_dark_with_the_leave_of_their_user() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    fs::write(mount.at("file"), vec![b'x'; 50_000]).expect("write");
    let hers = user(ADA).run(|| File::open(mount.at("file")).expect("open"));
    let mapped = Mapping::new(&hers, 50_000, false);
    for at in [0, 45_000] {
        assert_eq!(mapped.peek(at).expect("it is hers to read"), b'x');
    }
    let deny = json!({ "Effect": "Deny", "Action": "kms:*", "Resource": "*", "Principal": { "AWS": arn(ADA) } });
    scene.put_policy(&[everybody(), deny]);
    for at in [0, 45_000] {
        soon("a page to close", || mapped.peek(at).is_err_and(|error| error == Errno::FAULT));
    }
    scene.put_policy(&[everybody()]);
    soon("a page to open again", || mapped.peek(45_000).is_ok_and(|byte| byte == b'x'));
    drop((mapped, hers));
    mount.unmount();
}

#[test]
fn a_disabled_key_refuses_everybody_whatever_the_policy_says() {
    let scene = Scene::new(&[]);
    let mount = scene.mount(&[]);
    fs::write(mount.at("file"), b"x").expect("write");
    scene.typed(&["key", "disable", KEY]);
    soon("the key to be off", || said(fs::read(mount.at("file"))) == DENIED);
    for name in [ADA, BOB] {
        assert_eq!(user(name).run(|| said(fs::read(mount.at("file")))), DENIED);
        assert_eq!(user(name).run(|| said(create(&mount.at("new")))), DENIED);
    }
    scene.typed(&["key", "enable", KEY]);
    for name in [ADA, BOB] {
        soon("the key to be back", || user(name).run(|| fs::read(mount.at("file")).is_ok()));
    }
    assert!(scene.owner("DescribeKey", json!({ "KeyId": KEY }))["KeyMetadata"]["Enabled"].as_bool().expect("a bool"));
    mount.unmount();
    scene.verify_audit();
}

#[test]
fn a_damaged_bundle_takes_back_no_change() {
    let scene = Scene::new(&[]);
    scene.typed(&["key", "disable", KEY]);
    let bundle = scene.volume.keystore.join("keystore.bundle");
    for what in ["damaged", "missing"] {
        let whole = fs::read(&bundle).expect("read");
        match what {
            "damaged" => fs::write(&bundle, b"nonsense").expect("write"),
            _ => fs::remove_file(&bundle).expect("rm"),
        }
        let refused = scene.volume.try_mount(&[]).map(drop).expect_err("the key is disabled");
        let said = format!("{refused:?}");
        assert!(said.contains("kmsfs key enable"), "{what}: {said}");
        assert_eq!(fs::read(&bundle).expect("read").len(), whole.len(), "{what}: it was written anew");
    }
    scene.typed(&["key", "enable", KEY]);
    scene.mount(&[]).unmount();
}
