//! Backups, and looking whether everything is whole.

use super::*;

#[test]
fn a_backup_is_written_replaced_and_restored_elsewhere() {
    let (fixture, mut keystore) = Fixture::new();
    let file = fixture.home.path().join("backup");
    keystore.backup(&file).unwrap();
    keystore.rotate("alias/a").unwrap();
    let (key, blob) = {
        let kms = fixture.local();
        kms.generate_data_key(Requester::Own, &fixture.id, &context(&[])).unwrap()
    };
    keystore.backup(&file).unwrap();
    let verified = verify_backup(&file, &fixture.recovery).unwrap();
    assert!(verified.is_sound() && (verified.keys, verified.versions, verified.aliases) == (1, 2, 1));
    let stranger = UnlockSecret::RecoveryKey(RecoveryKey::generate());
    assert!(matches!(verify_backup(&file, &stranger), Err(KeystoreError::WrongSecret(_))));
    let elsewhere = fixture.home.path().join("new/machine");
    let restored = restore_backup(&file, &elsewhere, &fixture.recovery, false).unwrap();
    assert!(restored.replaced.is_none());
    let opened = Keystore::open(&elsewhere).unwrap().unlock(&fixture.recovery).unwrap();
    let kms = LocalKms::fixed(opened.keys());
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &context(&[])).unwrap(), key);
    drop(opened);
    let again = restore_backup(&file, &elsewhere, &fixture.recovery, false);
    assert!(matches!(again, Err(KeystoreError::AlreadyExists(_))));
    let restored = restore_backup(&file, &elsewhere, &fixture.recovery, true).unwrap();
    let aside = restored.replaced.unwrap();
    assert!(Keystore::open(&aside).unwrap().unlock(&fixture.recovery).is_ok());
    assert!(Keystore::open(&elsewhere).unwrap().unlock(&fixture.recovery).is_ok());
}

#[test]
fn what_is_no_fitting_backup_is_refused_and_changes_nothing() {
    let (fixture, mut keystore) = Fixture::new();
    let (other, other_keystore) = Fixture::new();
    let at = |name: &str| fixture.home.path().join(name);
    keystore.backup(&at("older")).unwrap();
    other_keystore.backup(&at("foreign")).unwrap();
    keystore.rotate("alias/a").unwrap();
    keystore.backup(&at("whole")).unwrap();
    keystore.export_subset(std::slice::from_ref(&fixture.id), &at("subset")).unwrap();
    let whole = fs::read(at("whole")).unwrap();
    fs::write(at("cut"), &whole[..whole.len() - 1]).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(at("damaged"), damaged).unwrap();
    fs::write(at("text"), "no backup").unwrap();
    // Nor is anything like that overwritten by a backup.
    for name in ["foreign", "text", "damaged"] {
        let before = fs::read(at(name)).unwrap();
        assert!(matches!(keystore.backup(&at(name)), Err(KeystoreError::Backup { .. })), "{name}");
        assert_eq!(fs::read(at(name)).unwrap(), before);
    }
    drop((keystore, other_keystore));
    let bundle = fs::read(fixture.bundle()).unwrap();
    for name in ["older", "foreign", "subset", "cut", "damaged", "text"] {
        let secret = if name == "foreign" { &other.recovery } else { &fixture.recovery };
        let refused = restore_backup(&at(name), &fixture.dir(), secret, true).unwrap_err();
        assert!(matches!(&refused, KeystoreError::Backup { .. }), "{name}: {refused}");
        assert!(refused.to_string().contains("Next: "), "{refused}");
        assert_eq!(fs::read(fixture.bundle()).unwrap(), bundle, "{name}");
    }
    let names = fs::read_dir(fixture.home.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("ks"));
    assert_eq!(names.count(), 1, "nothing was moved aside");
    restore_backup(&at("subset"), &at("volume"), &fixture.recovery, false).unwrap();
}

#[test]
fn a_keystore_that_cannot_be_read_is_replaced_by_force_and_kept() {
    let (fixture, keystore) = Fixture::new();
    let file = fixture.home.path().join("backup");
    keystore.backup(&file).unwrap();
    drop(keystore);
    fs::remove_dir_all(fixture.dir().join("db")).unwrap();
    let old = crate::kms::bundle_file::old_path(&fixture.bundle());
    for path in [fixture.bundle(), old] {
        fs::write(path, b"garbage").unwrap();
    }
    assert!(matches!(fixture.open(), Err(KeystoreError::Damaged { .. })));
    let restored = restore_backup(&file, &fixture.dir(), &fixture.recovery, true).unwrap();
    assert_eq!(fs::read(restored.replaced.unwrap().join(BUNDLE_NAME)).unwrap(), b"garbage");
    fixture.open().unwrap();
}

#[test]
fn verification_finds_what_is_damaged_and_repairs_nothing() {
    let (fixture, mut keystore) = Fixture::new();
    keystore.rotate("alias/a").unwrap();
    drop(keystore);
    let verify = || Keystore::open(&fixture.dir()).unwrap().verify(&fixture.recovery).unwrap();
    let faulty = || -> Vec<String> {
        verify().parts.into_iter().filter(|part| part.fault.is_some()).map(|part| part.name).collect()
    };
    assert!(verify().is_sound() && verify().parts.len() == 3);
    let old = crate::kms::bundle_file::old_path(&fixture.bundle());
    let (bundle, former) = (fs::read(fixture.bundle()).unwrap(), fs::read(&old).unwrap());
    fs::write(fixture.bundle(), &bundle[..100]).unwrap();
    assert_eq!(faulty(), ["keystore.bundle"]);
    fs::write(fixture.bundle(), &former).unwrap();
    assert_eq!(faulty(), ["keystore.bundle"]);
    fs::write(fixture.bundle(), &bundle).unwrap();
    fs::write(&old, b"").unwrap();
    assert_eq!(faulty(), ["keystore.bundle.old"]);
    fs::write(&old, &former).unwrap();
    fs::remove_dir_all(fixture.dir().join("db")).unwrap();
    assert_eq!(faulty(), ["db"]);
    assert!(!fixture.dir().join("db").exists());
    fixture.open().unwrap();
    assert!(verify().is_sound());
}

#[test]
fn a_damaged_bundle_does_not_take_the_place_of_the_one_before() {
    let (fixture, mut keystore) = Fixture::new();
    let old = crate::kms::bundle_file::old_path(&fixture.bundle());
    let former = fs::read(&old).unwrap();
    fs::write(fixture.bundle(), b"torn").unwrap();
    keystore.rotate("alias/a").unwrap();
    assert_eq!(fs::read(&old).unwrap(), former);
    assert_eq!(fixture.local().keys().resolve("alias/a").unwrap().newest().number, 2);
}
