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
