//! A volume's own copy of the keystore.

use super::*;

#[test]
fn a_volumes_copy_opens_with_the_same_secrets_and_holds_its_keys_only() {
    let (fixture, mut keystore) = Fixture::new();
    let other = keystore.create_key("other").unwrap();
    let path = fixture.home.path().join(BUNDLE_NAME);
    keystore.export_subset(std::slice::from_ref(&fixture.id), &path).unwrap();
    assert!(keystore.export_subset(&[KeyId("nowhere".into())], &path).is_err());
    let kms = LocalKms::open_bundle(&path, &fixture.recovery).unwrap();
    assert!(kms.keys().resolve("alias/a").is_ok() && kms.keys().resolve(&other.0).is_err());
    // It keeps its keys when it is brought up to date, and only a newer keystore does that.
    keystore.rotate(&other.0).unwrap();
    let main = fixture.local();
    assert!(main.update_copy(&path, &other).unwrap() && !main.update_copy(&path, &other).unwrap());
    let kms = LocalKms::open_bundle(&path, &fixture.recovery).unwrap();
    assert!(kms.keys().resolve("alias/a").is_ok() && kms.keys().resolve(&other.0).unwrap().newest().number == 2);
    // Alone, it makes a keystore again.
    let again = fixture.home.path().join("again");
    fs::create_dir(&again).unwrap();
    fs::copy(&path, again.join(BUNDLE_NAME)).unwrap();
    let mut restored = Keystore::open(&again).unwrap().unlock(&fixture.recovery).unwrap();
    restored.rotate("alias/a").unwrap();
    assert!(!restored.header().is_subset);
}

#[test]
fn a_volumes_copy_loses_no_key_when_several_bring_it_up_to_date() {
    let (fixture, mut keystore) = Fixture::new();
    let others: Vec<KeyId> = (0..6).map(|_| keystore.create_key("other").unwrap()).collect();
    let path = fixture.home.path().join(BUNDLE_NAME);
    let main = fixture.local();
    for _ in 0..20 {
        keystore.export_subset(std::slice::from_ref(&fixture.id), &path).unwrap();
        std::thread::scope(|scope| {
            for other in &others {
                scope.spawn(|| main.update_copy(&path, other).unwrap());
            }
        });
        let kms = LocalKms::open_bundle(&path, &fixture.recovery).unwrap();
        assert!(others.iter().all(|other| kms.keys().resolve(&other.0).is_ok()));
    }
}

/// A volume's copy with `fixture.id` and `other`, and a keystore that was restored from a copy without `other`.
fn restored_without(fixture: &Fixture, keystore: &Keystore, other: &KeyId) -> (PathBuf, Keystore) {
    let (whole, part) = (fixture.home.path().join("whole"), fixture.home.path().join("part"));
    keystore.export_subset(&[fixture.id.clone(), other.clone()], &whole).unwrap();
    keystore.export_subset(std::slice::from_ref(&fixture.id), &part).unwrap();
    let dir = fixture.home.path().join("restored");
    restore_backup(&part, &dir, &fixture.recovery, false).unwrap();
    let mut restored = Keystore::open(&dir).unwrap().unlock(&fixture.recovery).unwrap();
    restored.rotate("alias/a").unwrap();
    (whole, restored)
}

#[test]
fn a_keystore_restored_from_one_volume_takes_no_key_from_the_copy_of_another() {
    let (fixture, mut keystore) = Fixture::new();
    let other = keystore.create_key("other").unwrap();
    keystore.create_alias("alias/other", &other.0).unwrap();
    let blob = fixture.local().generate_data_key(Requester::Own, &other, &context(&[])).unwrap().1;
    let (copy, mut restored) = restored_without(&fixture, &keystore, &other);
    drop(keystore);
    for _ in 0..2 {
        let kms = LocalKms::open_bundle(&restored.dir().join(BUNDLE_NAME), &fixture.recovery).unwrap();
        assert!(kms.update_copy(&copy, &fixture.id).unwrap());
        let copied = LocalKms::open_bundle(&copy, &fixture.recovery).unwrap();
        copied.decrypt(Requester::Own, &blob.0, &context(&[])).unwrap();
        let keys = copied.keys();
        assert_eq!(keys.resolve("alias/other").unwrap().id, other);
        assert_eq!(
            keys.resolve("alias/a").unwrap().newest().number,
            restored.describe_key("alias/a").unwrap().newest().number
        );
        restored.rotate("alias/a").unwrap();
    }
}

#[test]
fn a_copy_that_is_written_anew_keeps_keys_that_nothing_was_seen_of() {
    let (fixture, mut keystore) = Fixture::new();
    let other = keystore.create_key("other").unwrap();
    let copy = fixture.home.path().join("copy");
    keystore.export_subset(&[fixture.id.clone(), other.clone()], &copy).unwrap();
    keystore.disable(&other.0).unwrap();
    fixture.local().write_copy(&copy, std::slice::from_ref(&fixture.id)).unwrap();
    let copied = LocalKms::open_bundle(&copy, &fixture.recovery).unwrap();
    assert_eq!(copied.keys().resolve(&other.0).unwrap().state, KeyState::Disabled);
}

#[test]
fn a_copy_that_cannot_be_read_is_left_alone_and_a_damaged_one_is_replaced() {
    let (fixture, keystore) = Fixture::new();
    let kms = fixture.local();
    let copy = fixture.home.path().join("copy");
    keystore.export_subset(std::slice::from_ref(&fixture.id), &copy).unwrap();
    let whole = fs::read(&copy).unwrap();
    let mut newer = whole.clone();
    newer[8] = 9;
    fs::write(&copy, &newer).unwrap();
    let refused = kms.update_copy(&copy, &fixture.id).unwrap_err();
    assert!(matches!(refused, KeystoreError::UnsupportedVersion { version: 9, .. }), "{refused}");
    assert_eq!(fs::read(&copy).unwrap(), newer);
    fs::write(&copy, &whole[..whole.len() - 1]).unwrap();
    assert!(kms.update_copy(&copy, &fixture.id).unwrap());
    LocalKms::open_bundle(&copy, &fixture.recovery).unwrap();
}

#[test]
fn a_keystore_restored_from_one_volume_does_not_replace_a_backup_of_all() {
    let (fixture, mut keystore) = Fixture::new();
    let other = keystore.create_key("other").unwrap();
    let backup = fixture.home.path().join("backup");
    keystore.backup(&backup).unwrap();
    let before = fs::read(&backup).unwrap();
    let (_, restored) = restored_without(&fixture, &keystore, &other);
    let refused = restored.backup(&backup).unwrap_err().to_string();
    assert!(refused.contains(&other.0) && refused.contains("Next: give another name"), "{refused}");
    assert_eq!(fs::read(&backup).unwrap(), before);
    restored.backup(&fixture.home.path().join("another")).unwrap();
}
