//! Contract tests of the KMS, and what a keystore must survive.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;

mod backup;
mod copies;
mod damage;
mod destroy;
mod older;
mod recorded;

fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    EncryptionContext::new(pairs.iter().copied()).unwrap()
}

fn passphrase(text: &str) -> UnlockSecret {
    UnlockSecret::passphrase(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

/// A keystore that only its recovery key opens, for speed, with one CMK behind `alias/a`.
struct Fixture {
    home: TempDir,
    recovery: UnlockSecret,
    id: KeyId,
}

impl Fixture {
    fn new() -> (Self, Keystore) {
        let home = tempfile::tempdir().unwrap();
        let (mut keystore, recovery) = Keystore::create(&home.path().join("ks"), &[], 1).unwrap();
        let id = keystore.create_key("first").unwrap();
        keystore.create_alias("alias/a", &id.0).unwrap();
        (Self { home, recovery: UnlockSecret::RecoveryKey(recovery), id }, keystore)
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("ks")
    }

    fn bundle(&self) -> PathBuf {
        self.dir().join(BUNDLE_NAME)
    }

    fn open(&self) -> Result<Keystore, KeystoreError> {
        Keystore::open(&self.dir())?.unlock(&self.recovery)
    }

    fn local(&self) -> LocalKms {
        LocalKms::open_bundle(&self.bundle(), &self.recovery).unwrap()
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn detail(result: Result<crate::crypto::DataKey, KmsError>) -> InvalidCiphertext {
    match result {
        Err(error @ KmsError::InvalidCiphertext(detail)) => {
            assert_eq!(error.to_string(), "the ciphertext is invalid");
            detail
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blob_opens_under_exactly_its_context() {
    let (fixture, _keystore) = Fixture::new();
    let kms = fixture.local();
    let given = context(&[("a", "bc"), ("x", "y")]);
    let (key, blob) = kms.generate_data_key(Requester::Own, &fixture.id, &given).unwrap();
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &context(&[("x", "y"), ("a", "bc")])).unwrap(), key);
    for other in [&[("ab", "c"), ("x", "y")][..], &[("a", "bc")], &[("a", "bc"), ("x", "Y")], &[]] {
        assert_eq!(detail(kms.decrypt(Requester::Own, &blob.0, &context(other))), InvalidCiphertext::WrongContext);
    }
    let unbound = kms.generate_data_key(Requester::Own, &KeyId("alias/a".into()), &context(&[])).unwrap().1;
    assert_eq!(detail(kms.decrypt(Requester::Own, &unbound.0, &given)), InvalidCiphertext::WrongContext);
}

#[test]
fn every_reason_for_a_bad_blob_is_known_inside_and_none_outside() {
    let (fixture, mut keystore) = Fixture::new();
    let other = keystore.create_key("second").unwrap();
    keystore.rotate("alias/a").unwrap();
    let kms = fixture.local();
    let none = context(&[]);
    let blob = kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap().1.0;
    let number = kms.keys().resolve(&other.0).unwrap().number;
    let mut cases = vec![(blob.clone(), InvalidCiphertext::Malformed); 2];
    cases[0].0.push(0);
    cases[1].0[0] = 2;
    let mut other_key = blob.clone();
    other_key[1..5].copy_from_slice(&number.to_le_bytes());
    other_key[5..7].copy_from_slice(&[1, 0]);
    cases.push((other_key, InvalidCiphertext::WrongContext));
    let mut other_version = blob.clone();
    other_version[5] = 1;
    cases.push((other_version, InvalidCiphertext::WrongContext));
    let mut no_version = blob.clone();
    no_version[5] = 9;
    let own = kms.keys().resolve("alias/a").unwrap().number;
    cases.push((no_version, InvalidCiphertext::UnknownVersion(own, 9)));
    let stranger = (0..).find(|n| kms.keys().by_number(*n).is_none()).unwrap();
    let mut no_key = blob.clone();
    no_key[1..5].copy_from_slice(&stranger.to_le_bytes());
    cases.push((no_key, InvalidCiphertext::UnknownKey(stranger)));
    for (bad, reason) in cases {
        assert_eq!(detail(kms.decrypt(Requester::Own, &bad, &none)), reason);
    }
    for bit in 0..blob.len() * 8 {
        let mut bad = blob.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(kms.decrypt(Requester::Own, &bad, &none).is_err(), "bit {bit}");
    }
}

#[test]
fn rotation_keeps_old_blobs_and_re_encrypt_makes_them_current() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = fixture.local();
    let (from, to) = (context(&[("place", "1")]), context(&[("place", "2")]));
    let (key, old) = kms.generate_data_key(Requester::Own, &fixture.id, &from).unwrap();
    assert!(kms.is_current(&old.0, &fixture.id).unwrap());
    assert_eq!(keystore.rotate(&fixture.id.0).unwrap(), 2);
    assert!(kms.refresh_if_changed().unwrap());
    assert!(!kms.is_current(&old.0, &fixture.id).unwrap());
    assert_eq!(kms.decrypt(Requester::Own, &old.0, &from).unwrap(), key);
    let new = kms.re_encrypt(&old.0, &from, None, &to).unwrap();
    assert!(kms.is_current(&new.0, &fixture.id).unwrap());
    assert_eq!(kms.decrypt(Requester::Own, &new.0, &to).unwrap(), key);
    assert_eq!(detail(kms.decrypt(Requester::Own, &new.0, &from)), InvalidCiphertext::WrongContext);

    let other = keystore.create_key("other").unwrap();
    assert!(kms.refresh_if_changed().unwrap());
    let moved = kms.re_encrypt(&new.0, &to, Some(&other), &to).unwrap();
    assert!(kms.is_current(&moved.0, &other).unwrap() && !kms.is_current(&moved.0, &fixture.id).unwrap());
    let nowhere = KeyId("alias/nowhere".into());
    assert!(matches!(kms.re_encrypt(&new.0, &to, Some(&nowhere), &to), Err(KmsError::NotFound(_))));
}

#[test]
fn a_disabled_key_refuses_on_a_live_kms_until_it_is_enabled() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = fixture.local();
    let none = context(&[]);
    let (key, blob) = kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap();
    keystore.disable("alias/a").unwrap();
    assert!(kms.refresh_if_changed().unwrap());
    assert!(!kms.refresh_if_changed().unwrap());
    let disabled = KmsError::Disabled(fixture.id.0.clone());
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &none).unwrap_err(), disabled);
    assert_eq!(kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap_err(), disabled);
    assert_eq!(kms.re_encrypt(&blob.0, &none, None, &none).unwrap_err(), disabled);
    assert!(matches!(keystore.rotate("alias/a"), Err(KeystoreError::Kms(KmsError::Disabled(_)))));

    keystore.schedule_deletion("alias/a", 7).unwrap();
    assert!(kms.refresh_if_changed().unwrap());
    assert!(matches!(kms.decrypt(Requester::Own, &blob.0, &none), Err(KmsError::InvalidState(_))));
    assert!(matches!(keystore.enable("alias/a"), Err(KeystoreError::Kms(KmsError::InvalidState(_)))));
    keystore.cancel_deletion("alias/a").unwrap();
    assert_eq!(keystore.describe_key("alias/a").unwrap().state, KeyState::Disabled);
    assert!(matches!(keystore.cancel_deletion("alias/a"), Err(KeystoreError::Kms(KmsError::NotPending(_)))));
    assert!(matches!(keystore.schedule_deletion("alias/a", 6), Err(KeystoreError::WaitingPeriod(6))));

    keystore.enable("alias/a").unwrap();
    assert!(kms.refresh_if_changed().unwrap());
    assert_eq!(kms.decrypt(Requester::Own, &blob.0, &none).unwrap(), key);
}

#[test]
fn the_watcher_brings_a_change_to_a_live_kms() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = Arc::new(fixture.local());
    let copy = fixture.home.path().join("copy.bundle");
    let (target, id) = (copy.clone(), fixture.id.clone());
    let update = move |kms: &LocalKms| assert!(kms.update_copy(&target, &id).unwrap());
    let watcher = BundleWatcher::start(Arc::clone(&kms), update).unwrap();
    let before = kms.generation();
    keystore.disable("alias/a").unwrap();
    let arrived = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        kms.generation() > before
    });
    assert!(arrived);
    drop(watcher);
    let copied = LocalKms::open_bundle(&copy, &fixture.recovery).unwrap();
    assert_eq!(copied.keys().resolve("alias/a").unwrap().state, KeyState::Disabled);
}

#[test]
fn aliases_follow_the_rules() {
    let (_fixture, mut keystore) = Fixture::new();
    let second = keystore.create_key("second").unwrap();
    for bad in [
        "a",
        "alias/",
        "alias/aws/x",
        "alias/svc/x",
        "alias/a b",
        "alias/\u{e9}",
        &format!("alias/{}", "x".repeat(251)),
    ] {
        assert!(matches!(keystore.create_alias(bad, &second.0), Err(KeystoreError::InvalidAlias(_))), "{bad}");
    }
    assert!(matches!(keystore.create_alias("alias/a", &second.0), Err(KeystoreError::AliasExists(_))));
    assert!(keystore.update_alias("alias/new", &second.0).is_err());
    keystore.update_alias("alias/a", &second.0).unwrap();
    assert_eq!(keystore.resolve("alias/a").unwrap(), second);
    keystore.schedule_deletion(&second.0, 30).unwrap();
    assert!(keystore.create_alias("alias/b", &second.0).is_err());
    keystore.delete_alias("alias/a").unwrap();
    assert!(keystore.resolve("alias/a").is_err() && keystore.delete_alias("alias/a").is_err());
    assert_eq!(keystore.list_keys().len(), 2);
}

#[test]
fn slots_open_refuse_and_are_replaced() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("deep/ks");
    let (keystore, recovery) = Keystore::create(&dir, &[passphrase("old")], 1).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for file in [dir.join(BUNDLE_NAME), dir.join("db/db"), dir.join("lock")] {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    drop(keystore);
    let open = |secret: &UnlockSecret| Keystore::open(&dir).unwrap().unlock(secret);
    assert!(matches!(open(&passphrase("wrong")), Err(KeystoreError::WrongSecret("passphrase"))));
    let stranger = UnlockSecret::RecoveryKey(RecoveryKey::generate());
    assert!(matches!(open(&stranger), Err(KeystoreError::WrongSecret("recovery key"))));

    let mut keystore = open(&passphrase("old")).unwrap();
    keystore.change_passphrase(&passphrase("new"), 1).unwrap();
    assert!(keystore.check_secret(&passphrase("old")).is_err());
    drop(keystore);
    let old = super::bundle_file::old_path(&dir.join(BUNDLE_NAME));
    assert!(LocalKms::open_bundle(&old, &passphrase("old")).is_err());
    // Forgotten: the recovery key replaces every passphrase.
    let recovery = UnlockSecret::RecoveryKey(recovery);
    let mut keystore = open(&recovery).unwrap();
    keystore.change_passphrase(&passphrase("third"), 1).unwrap();
    let opened = keystore.check_secret(&passphrase("third")).unwrap();
    assert!(keystore.check_secret(&passphrase("new")).is_err());
    let by_recovery = keystore.check_secret(&recovery).unwrap();
    keystore.remove_slot(opened).unwrap();
    assert!(matches!(keystore.remove_slot(opened), Err(KeystoreError::NoSuchSlot(_))));
    assert!(matches!(keystore.remove_slot(by_recovery), Err(KeystoreError::LastSlot(_))));
    let second = UnlockSecret::RecoveryKey(keystore.add_recovery_key().unwrap());
    keystore.remove_slot(by_recovery).unwrap();
    drop(keystore);
    assert!(open(&recovery).is_err());
    open(&second).unwrap();
}

#[test]
fn a_change_of_the_passphrase_ends_what_a_killed_one_left() {
    let (fixture, mut keystore) = Fixture::new();
    for text in ["old", "leaked"] {
        keystore.add_slot(&passphrase(text), 1).unwrap();
    }
    drop(keystore);
    let mut keystore = Keystore::open(&fixture.dir()).unwrap().unlock(&passphrase("old")).unwrap();
    keystore.change_passphrase(&passphrase("new"), 1).unwrap();
    for text in ["old", "leaked"] {
        assert!(keystore.check_secret(&passphrase(text)).is_err(), "{text}");
    }
    keystore.check_secret(&passphrase("new")).unwrap();
    keystore.check_secret(&fixture.recovery).unwrap();
}

#[test]
fn a_bundle_that_could_not_be_read_for_a_moment_is_read_again() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = fixture.local();
    keystore.disable("alias/a").unwrap();
    let no_descriptors = |path: &Path| Err(KeystoreError::io("open", path)(std::io::Error::from_raw_os_error(24)));
    assert!(matches!(kms.refresh_by(no_descriptors), Err(KeystoreError::Io { .. })));
    assert!(kms.refresh_if_changed().unwrap());
    assert_eq!(kms.keys().resolve("alias/a").unwrap().state, KeyState::Disabled);
    assert!(!kms.refresh_if_changed().unwrap());
}

#[test]
fn who_waits_for_a_directory_that_is_moved_away_gets_the_lock_of_the_one_in_its_place() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("ks");
    fs::create_dir(&dir).unwrap();
    let held = lock::take(&dir, Instant::now()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lock::take(&dir, Instant::now() + Duration::from_secs(20)).unwrap());
        while !is_waited_for(&dir.join("lock")) {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::rename(&dir, home.path().join("aside")).unwrap();
        fs::create_dir(&dir).unwrap();
        drop(held);
        let got = waiting.join().unwrap();
        assert_eq!(got.metadata().unwrap().ino(), fs::metadata(dir.join("lock")).unwrap().ino());
    });
}

/// Whether this process has `path` open twice: once to hold its lock, and once to wait for it.
fn is_waited_for(path: &Path) -> bool {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link == path).count() == 2
}

#[test]
fn a_keystore_is_not_overwritten_and_not_invented() {
    let (fixture, keystore) = Fixture::new();
    let elsewhere = fixture.home.path().join("none");
    assert!(matches!(Keystore::open(&elsewhere), Err(KeystoreError::NotFound(_))));
    assert!(!elsewhere.exists());
    drop(keystore);
    assert!(matches!(Keystore::create(&fixture.dir(), &[], 1), Err(KeystoreError::AlreadyExists(_))));
    fixture.open().unwrap();
}

#[test]
fn a_keystore_in_use_names_the_process() {
    let (fixture, _keystore) = Fixture::new();
    match Keystore::open(&fixture.dir()) {
        Err(KeystoreError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn a_live_kms_does_not_go_back_and_survives_a_lost_bundle() {
    let (fixture, mut keystore) = Fixture::new();
    let before = fs::read(fixture.bundle()).unwrap();
    keystore.disable("alias/a").unwrap();
    let kms = fixture.local();
    fs::write(fixture.bundle(), before).unwrap();
    assert!(matches!(kms.refresh_if_changed(), Err(KeystoreError::RolledBack { .. })));
    fs::remove_file(fixture.bundle()).unwrap();
    assert!(kms.refresh_if_changed().is_err());
    assert!(!kms.refresh_if_changed().unwrap());
    assert_eq!(kms.keys().resolve("alias/a").unwrap().state, KeyState::Disabled);
}

#[test]
fn a_change_that_cannot_be_published_changes_nothing() {
    // The first stands in the way of staging the bundle, the second of publishing it, after the records were written.
    for blocked in ["keystore.bundle.tmp", "keystore.bundle.old.tmp"] {
        let (fixture, mut keystore) = Fixture::new();
        let bundle = fs::read(fixture.bundle()).unwrap();
        let blocked = fixture.dir().join(blocked);
        fs::create_dir(&blocked).unwrap();
        for reopened in [false, true] {
            if reopened {
                drop(keystore);
                keystore = fixture.open().unwrap();
                assert!(keystore.restored().is_none());
            }
            assert!(matches!(keystore.disable("alias/a"), Err(KeystoreError::Io { .. })));
            assert!(matches!(keystore.create_key("lost"), Err(KeystoreError::Io { .. })));
            assert_eq!(keystore.list_keys().len(), 1);
            assert_eq!(keystore.describe_key("alias/a").unwrap().state, KeyState::Enabled);
            assert_eq!(fs::read(fixture.bundle()).unwrap(), bundle);
        }
        fs::remove_dir(&blocked).unwrap();
        keystore.disable("alias/a").unwrap();
        drop(keystore);
        assert_eq!(fixture.open().unwrap().describe_key("alias/a").unwrap().state, KeyState::Disabled);
    }
}

#[test]
fn a_change_that_no_reader_could_take_is_refused_before_anything_is_written() {
    let (fixture, mut keystore) = Fixture::new();
    let text = policy::Policy::mount_default().text().to_owned();
    let padded = format!("{text}{}", " ".repeat(policy::MAX_LEN - text.len()));
    let policy = policy::Policy::parse(&padded).unwrap();
    let add = |keystore: &mut Keystore, count: usize| {
        keystore.change(|keys| {
            for _ in 0..count {
                keys.put(Cmk { policy: Some(policy.clone().into()), ..Cmk::generate(keys.free_number(), "") });
            }
            Ok(())
        })
    };
    let before = fs::read(fixture.bundle()).unwrap();
    assert!(matches!(add(&mut keystore, 2050), Err(KeystoreError::TooLarge)));
    assert_eq!(fs::read(fixture.bundle()).unwrap(), before);
    assert_eq!(service::ApiError::from(KeystoreError::TooLarge).code, service::Code::LimitExceeded);
    add(&mut keystore, 1).unwrap();
    assert_eq!(fixture.local().keys().keys().count(), 2);
}
