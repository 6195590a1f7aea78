//! Records and bundles that are lost, damaged, old or of another keystore.

use super::*;

fn blob_survives(fixture: &Fixture, damage: impl FnOnce(&Path)) -> Keystore {
    let none = context(&[]);
    let (key, blob) = fixture.local().generate_data_key(Requester::Own, &fixture.id, &none).unwrap();
    damage(&fixture.dir());
    let keystore = fixture.open().unwrap();
    let kms = LocalKms::fixed(keystore.keys());
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &none).unwrap(), key);
    assert_eq!(keystore.resolve("alias/a").unwrap(), fixture.id);
    keystore
}

#[test]
fn deleted_records_come_back_from_the_bundle() {
    let (fixture, keystore) = Fixture::new();
    drop(keystore);
    let keystore = blob_survives(&fixture, |dir| fs::remove_dir_all(dir.join("db")).unwrap());
    assert!(keystore.restored().is_some());
    drop(keystore);
    assert!(fixture.open().unwrap().restored().is_none());
}

#[test]
fn garbage_in_the_records_is_kept_aside_and_restored_over() {
    for garbage in [vec![0xA5; 100_000], Vec::new()] {
        let (fixture, keystore) = Fixture::new();
        drop(keystore);
        let mut keystore = blob_survives(&fixture, |dir| {
            for name in ["db/db", "db/conf"] {
                fs::write(dir.join(name), &garbage).unwrap();
            }
        });
        assert!(keystore.restored().is_some());
        let aside = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("db.damaged-");
        assert!(fs::read_dir(fixture.dir()).unwrap().any(|entry| aside(entry.unwrap())));
        keystore.create_key("still writable").unwrap();
    }
}

#[test]
fn records_put_back_from_an_older_copy_do_not_win() {
    let (fixture, keystore) = Fixture::new();
    drop(keystore);
    let (db, copy) = (fixture.dir().join("db"), fixture.home.path().join("copy"));
    copy_dir(&db, &copy);
    fixture.open().unwrap().disable("alias/a").unwrap();
    fs::remove_dir_all(&db).unwrap();
    copy_dir(&copy, &db);
    let keystore = fixture.open().unwrap();
    assert!(keystore.restored().is_some());
    assert_eq!(keystore.describe_key("alias/a").unwrap().state, KeyState::Disabled);
}

#[test]
fn a_lost_or_old_bundle_is_written_anew_from_the_records() {
    let (fixture, mut keystore) = Fixture::new();
    let before = fs::read(fixture.bundle()).unwrap();
    keystore.disable("alias/a").unwrap();
    drop(keystore);
    let state = || fixture.local().keys().resolve("alias/a").unwrap().state;
    let old = super::bundle_file::old_path(&fixture.bundle());
    for content in [None, Some(&before[..]), Some(b"torn")] {
        fs::remove_file(fixture.bundle()).unwrap();
        let _ = fs::remove_file(&old);
        if let Some(content) = content {
            fs::write(fixture.bundle(), content).unwrap();
        }
        assert!(fixture.open().unwrap().restored().is_none());
        assert_eq!(state(), KeyState::Disabled);
    }
}

#[test]
fn a_torn_bundle_falls_back_to_the_one_before() {
    let (fixture, keystore) = Fixture::new();
    drop(keystore);
    let whole = fs::read(fixture.bundle()).unwrap();
    fs::write(fixture.bundle(), &whole[..whole.len() / 2]).unwrap();
    let kms = fixture.local();
    assert!(kms.keys().resolve(&fixture.id.0).is_ok());
    fs::write(super::bundle_file::old_path(&fixture.bundle()), b"").unwrap();
    let both_bad = LocalKms::open_bundle(&fixture.bundle(), &fixture.recovery);
    assert!(matches!(both_bad, Err(KeystoreError::Damaged { .. })));
    fs::remove_dir_all(fixture.dir().join("db")).unwrap();
    assert!(matches!(fixture.open(), Err(KeystoreError::Damaged { .. })));
}

#[test]
fn a_foreign_bundle_is_named_and_nothing_is_touched() {
    let (fixture, keystore) = Fixture::new();
    let (other, other_keystore) = Fixture::new();
    let kms = fixture.local();
    drop((keystore, other_keystore));
    let own = fs::read(fixture.bundle()).unwrap();
    fs::copy(other.bundle(), fixture.bundle()).unwrap();
    assert!(matches!(fixture.open(), Err(KeystoreError::Foreign { .. })));
    assert!(matches!(kms.refresh_if_changed(), Err(KeystoreError::Foreign { .. })));
    assert!(kms.keys().resolve(&fixture.id.0).is_ok());
    fs::write(fixture.bundle(), own).unwrap();
    fixture.open().unwrap();
}
