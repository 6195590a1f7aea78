//! Versions that are retired, and keys whose deletion date has passed.

use super::*;

/// Whether any file below `dir` has these bytes in it.
fn is_in_a_file(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_in_a_file(&path, bytes);
        }
        fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

/// What is sealed now, of the bundle and of the record of the CMK: pieces that must be gone after a destruction.
fn sealed_now(fixture: &Fixture, keystore: &Keystore) -> [Vec<u8>; 2] {
    let bundle = fs::read(fixture.bundle()).unwrap();
    let record = keystore.record(&format!("key/{}", fixture.id.0));
    [bundle[bundle.len() - 80..bundle.len() - 32].to_vec(), record[record.len() - 32..].to_vec()]
}

#[test]
fn a_retired_version_opens_nothing_and_leaves_no_trace() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = fixture.local();
    let none = context(&[]);
    let old = kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap().1;
    let origin = kms.origin(&old.0).unwrap();
    assert!(matches!(keystore.retire("alias/a", 1), Err(KeystoreError::NewestVersion { version: 1, .. })));
    keystore.rotate("alias/a").unwrap();
    kms.refresh_if_changed().unwrap();
    let (key, new) = kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap();
    kms.permits(&origin).unwrap();
    let traces = sealed_now(&fixture, &keystore);
    fs::create_dir(fixture.dir().join("db.damaged-1")).unwrap();
    fs::copy(fixture.bundle(), fixture.dir().join("db.damaged-1/db")).unwrap();
    fs::copy(fixture.bundle(), fixture.dir().join("keystore.bundle.old.tmp")).unwrap();
    assert!(traces.iter().all(|trace| is_in_a_file(&fixture.dir(), trace)));

    keystore.retire("alias/a", 1).unwrap();
    assert!(traces.iter().all(|trace| !is_in_a_file(&fixture.dir(), trace)));
    assert!(kms.refresh_if_changed().unwrap());
    let destroyed = |reason| matches!(reason, InvalidCiphertext::VersionDestroyed(_, 1));
    assert!(destroyed(detail(kms.decrypt(Requester::Own, &old.0, &none))));
    assert!(kms.permits(&origin).is_err());
    assert_eq!(kms.decrypt(Requester::Own, &new.0, &none).unwrap(), key);
    assert!(matches!(keystore.retire("alias/a", 1), Err(KeystoreError::VersionDestroyed { version: 1, .. })));
    assert!(matches!(keystore.retire("alias/a", 7), Err(KeystoreError::NoSuchVersion { .. })));
    // Everything goes on, and so it does after it was opened again.
    assert_eq!(keystore.rotate("alias/a").unwrap(), 3);
    drop(keystore);
    let keystore = fixture.open().unwrap();
    assert!(keystore.restored().is_none());
    let versions: Vec<bool> =
        keystore.describe_key("alias/a").unwrap().versions().iter().map(|v| v.destroyed().is_some()).collect();
    assert_eq!(versions, [true, false, false]);
    let old = LocalKms::open_bundle(&crate::kms::bundle_file::old_path(&fixture.bundle()), &fixture.recovery).unwrap();
    assert!(old.permits(&origin).is_err());
}

#[test]
fn what_a_crash_left_of_destroyed_keys_is_removed_at_the_next_opening() {
    let (fixture, mut keystore) = Fixture::new();
    keystore.rotate("alias/a").unwrap();
    let traces = sealed_now(&fixture, &keystore);
    let (db, log) = (fixture.dir().join("db"), fixture.home.path().join("log"));
    let former = fs::read(fixture.bundle()).unwrap();
    copy_dir(&db, &log);
    keystore.retire("alias/a", 1).unwrap();
    drop(keystore);
    // As if it had ended right after the change itself: the mark, the former bundle and a log with the old records.
    fs::write(fixture.dir().join("erasing"), b"").unwrap();
    fs::write(crate::kms::bundle_file::old_path(&fixture.bundle()), former).unwrap();
    fs::rename(&log, fixture.dir().join("db.damaged-5")).unwrap();
    assert!(traces.iter().any(|trace| is_in_a_file(&fixture.dir(), trace)));
    let keystore = fixture.open().unwrap();
    assert!(keystore.restored().is_none());
    assert!(traces.iter().all(|trace| !is_in_a_file(&fixture.dir(), trace)));
    assert!(!fixture.dir().join("erasing").exists() && !fixture.dir().join("db.damaged-5").exists());
}

#[test]
fn a_retirement_that_cannot_be_written_changes_nothing() {
    let (fixture, mut keystore) = Fixture::new();
    keystore.rotate("alias/a").unwrap();
    let blocked = fixture.dir().join("keystore.bundle.tmp");
    fs::create_dir(&blocked).unwrap();
    assert!(matches!(keystore.retire("alias/a", 1), Err(KeystoreError::Io { .. })));
    assert!(keystore.describe_key("alias/a").unwrap().version(1).unwrap().destroyed().is_none());
    assert!(!fixture.dir().join("erasing").exists());
    fs::remove_dir(blocked).unwrap();
    keystore.retire("alias/a", 1).unwrap();
}

#[test]
fn a_key_whose_date_has_passed_is_gone_at_once_and_destroyed_at_the_next_opening() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = fixture.local();
    let none = context(&[]);
    let blob = kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap().1;
    let copy = fixture.home.path().join("copy.bundle");
    keystore.export_subset(std::slice::from_ref(&fixture.id), &copy).unwrap();
    let kept = keystore.create_key("kept").unwrap();
    let cmk = keystore.describe_key("alias/a").unwrap();
    let mut keys = (*keystore.keys()).clone();
    keys.put(cmk.with_state(KeyState::PendingDeletion { deletion_date: 1 }));
    keystore.commit(keystore.header().slots.clone(), keys).unwrap();
    let traces = sealed_now(&fixture, &keystore);
    assert!(kms.refresh_if_changed().unwrap());
    let gone = KmsError::NotFound(fixture.id.0.clone());
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &none).unwrap_err(), gone);
    assert!(keystore.cancel_deletion("alias/a").is_err());
    drop(keystore);

    let keystore = fixture.open().unwrap();
    assert_eq!(keystore.deleted(), std::slice::from_ref(&fixture.id));
    assert!(matches!(keystore.describe_key("alias/a"), Err(KeystoreError::Kms(KmsError::NotFound(_)))));
    assert!(matches!(keystore.describe_key(&fixture.id.0), Err(KeystoreError::Kms(KmsError::NotFound(_)))));
    assert!(keystore.describe_key(&kept.0).is_ok());
    assert!(traces.iter().all(|trace| !is_in_a_file(&fixture.dir(), trace)));
    drop(keystore);
    assert!(fixture.open().unwrap().deleted().is_empty());
    assert!(kms.refresh_if_changed().unwrap());
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &none).unwrap_err(), gone);
    assert_eq!(kms.origin(&blob.0).unwrap().key, fixture.id);
    // The copy in a mounted volume loses it too.
    assert!(kms.update_copy(&copy, &fixture.id).unwrap());
    let copied = LocalKms::open_bundle(&copy, &fixture.recovery).unwrap();
    assert_eq!(copied.decrypt(Requester::Own, &blob.0, &none).unwrap_err(), gone);
}

#[test]
fn a_destruction_that_fails_leaves_the_mark_of_the_one_before() {
    let (fixture, mut keystore) = Fixture::new();
    keystore.rotate("alias/a").unwrap();
    keystore.rotate("alias/a").unwrap();
    keystore.retire("alias/a", 1).unwrap();
    // As if its traces could not be removed.
    let (mark, trace) = (fixture.dir().join("erasing"), fixture.dir().join("db.damaged-5"));
    fs::write(&mark, b"").unwrap();
    fs::create_dir(&trace).unwrap();
    let blocked = fixture.dir().join("keystore.bundle.tmp");
    fs::create_dir(&blocked).unwrap();
    assert!(keystore.retire("alias/a", 2).is_err());
    assert!(mark.exists());
    fs::remove_dir(blocked).unwrap();
    drop(keystore);
    fixture.open().unwrap();
    assert!(!mark.exists() && !trace.exists());
}

#[test]
fn a_removed_slot_leaves_no_trace() {
    let (fixture, mut keystore) = Fixture::new();
    let added = keystore.add_slot(&passphrase("leaked"), 1).unwrap();
    let slot = keystore.header().slots.iter().find(|slot| slot.id == added).unwrap().encode();
    assert!(is_in_a_file(&fixture.dir(), &slot));
    keystore.remove_slot(added).unwrap();
    assert!(!is_in_a_file(&fixture.dir(), &slot));
    keystore.rotate("alias/a").unwrap();
    drop(keystore);
    fixture.open().unwrap();
}
