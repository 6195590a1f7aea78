//! What older versions wrote still opens, and says the same.

use super::*;
use crate::kms::bundle::Bundle;
use crate::kms::keyset::{decode_alias, encode_alias};
use crate::kms::policy::Policy;

/// Written by the version before policies, grants and tags: five CMKs, one of them with a version that was retired, one
/// disabled, one pending deletion; five aliases.
const BUNDLE: &[u8] = include_bytes!("format-1/keystore.bundle");
const RECOVERY: &str = "6KQGBOGO-Z4V4BAEV-T7NCB7VG-67DJTKIC-VRRPV6PC-U3AN5OCZ-MRSFDLFZ-6XAGYOTV";

fn recovery() -> UnlockSecret {
    UnlockSecret::RecoveryKey(RecoveryKey::parse(RECOVERY).unwrap())
}

#[test]
fn a_bundle_without_the_new_members_is_read_and_would_be_written_the_same() {
    let bundle = Bundle::parse(BUNDLE).unwrap();
    let (root, _) = bundle.header.unlock(&recovery()).unwrap();
    let keys = bundle.open(&root).unwrap();
    // The records of the keystore hold a digest of this encoding.
    assert_eq!(*keys.encode(), *bundle.plain(&root).unwrap());
    assert_eq!((keys.keys().count(), keys.aliases().count(), keys.all_grants().count()), (5, 5, 0));
    let one = keys.resolve("alias/one").unwrap();
    let destroyed: Vec<bool> = one.versions().iter().map(|version| version.destroyed().is_some()).collect();
    assert_eq!((destroyed, one.on_demand_rotations()), (vec![true, false, false], 2));
    assert_eq!((one.spec, one.manager, one.rotation), (KeySpec::Symmetric, KeyManager::Customer, None));
    assert!(one.tags.is_empty() && one.policy_text() == Policy::mount_default().text());
    assert_eq!(keys.resolve("alias/two").unwrap().state, KeyState::Disabled);
    let (_, alias) = keys.alias_entries().next().unwrap();
    assert_eq!((alias.created, alias.updated), (None, None));
    assert_eq!(encode_alias(alias), alias.target.0.as_bytes());
    assert_eq!(decode_alias(alias.target.0.as_bytes()).as_ref(), Some(alias));
}

#[test]
fn an_older_keystore_is_opened_changed_and_opened_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("ks");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(BUNDLE_NAME), BUNDLE).unwrap();
    let open = || Keystore::open(&dir).unwrap().unlock(&recovery()).unwrap();
    let mut keystore = open();
    assert_eq!(keystore.rotate("alias/one").unwrap(), 4);
    keystore.update_alias("alias/also-one", "alias/two").unwrap();
    drop(keystore);
    let keystore = open();
    assert!(keystore.restored().is_none());
    let keys = keystore.keys();
    let one = keys.resolve("alias/one").unwrap();
    assert_eq!(one.newest().rotation, Some(RotationType::OnDemand));
    assert_eq!(keys.alias("alias/also-one"), Some(&keys.resolve("alias/two").unwrap().id));
    let (_, alias) = keys.alias_entries().find(|(name, _)| *name == "alias/also-one").unwrap();
    assert!(alias.created.is_none() && alias.updated.is_some());
}
