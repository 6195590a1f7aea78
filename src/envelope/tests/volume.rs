//! The life of a volume header.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::fake::FakeKms;
use crate::crypto::Suite;
use crate::crypto::derive::directory_id;
use crate::envelope::{
    Access, Binder, Envelope, EnvelopeStore, KeysLog, Kind, NameForm, NewVolume, Object, Place, Placement, Sealer,
    Source, Volume, VolumeError, VolumeHeader, XattrStore, create_volume, lock, root_envelope,
};
use crate::kms::{KeyId, KmsError, Requester};
use crate::sys::xattr::{self, Target};

const PRIMARY: &str = ".kmsfs/volume.json";
const BACKUP: &str = ".kmsfs/volume.json.bak";

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), "blue \u{e9}\u{1f600}\"\\\n\u{1}".to_owned())])
}

fn make_with(root: &Path, kms: &FakeKms, labels: &BTreeMap<String, String>) -> Result<Volume, VolumeError> {
    let key = KeyId("cmk-1".into());
    let new =
        NewVolume { key: &key, suite: Suite::Xts4k, placement: Placement::Xattr, names: NameForm::Base32, labels };
    create_volume(root, kms, &new)
}

fn make(kms: &FakeKms) -> (tempfile::TempDir, Volume) {
    let dir = tempfile::tempdir().unwrap();
    let volume = make_with(dir.path(), kms, &labels()).unwrap();
    (dir, volume)
}

fn open(root: &Path, kms: &FakeKms) -> Result<Volume, VolumeError> {
    VolumeHeader::load(root)?.0.unlock(kms)
}

/// Rewrites a copy of the header as a text editor would.
fn edit(file: PathBuf, change: impl Fn(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut json);
    fs::write(&file, serde_json::to_vec(&json).unwrap()).unwrap();
}

fn edit_both(root: &Path, change: impl Fn(&mut Value)) {
    edit(root.join(PRIMARY), &change);
    edit(root.join(BACKUP), &change);
}

fn is_vacant(root: &Path) -> bool {
    let directory = File::open(root).unwrap();
    let envelope = xattr::get(Target::Open(directory.as_fd()), b"user.kmsf").unwrap();
    fs::read_dir(root).unwrap().next().is_none() && envelope.is_none()
}

#[test]
fn a_new_volume_opens_with_everything_in_its_place() {
    let kms = FakeKms::new(1);
    let (dir, made) = make(&kms);
    let root = dir.path();
    let (header, source) = VolumeHeader::load(root).unwrap();
    assert_eq!(source, Source::Primary);
    let volume = header.unlock(&kms).unwrap();
    assert_eq!(volume.key, made.key);
    assert_eq!((volume.header.suite(), volume.header.names()), (Suite::Xts4k, NameForm::Base32));
    assert_eq!((volume.header.labels(), volume.header.key().0.as_str()), (&labels(), "cmk-1"));
    assert_eq!(volume.header.uuid().len(), 36);
    volume.header.check_features(false).unwrap();
    assert_eq!(fs::read(root.join(PRIMARY)).unwrap(), fs::read(root.join(BACKUP)).unwrap());
    for (path, mode) in [(".kmsfs", 0o700), (".kmsfs/links", 0o700), (PRIMARY, 0o600), (".kmsfs/keys.log", 0o600)] {
        assert_eq!(fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    assert_eq!(fs::read_dir(root.join(".kmsfs")).unwrap().count(), 5, "and no temporary files");

    let binder = Binder::new(&volume.header);
    let sealer = Sealer { binder: &binder, kms: &kms, requester: Requester::Own };
    let envelope = root_envelope(root, &XattrStore::default()).unwrap();
    assert_eq!(envelope.kind(), Kind::DirectoryXts);
    let key = sealer.unlock(&envelope, Place::ROOT).unwrap();
    let records = KeysLog::read(root).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].directory, directory_id(&key));
    assert_eq!(sealer.restore(&records[0].mirror, Kind::DirectoryXts, Place::ROOT).unwrap().0, key);
    lock(root, Access::Write).unwrap();
}

#[test]
fn a_volume_is_not_made_over_anything() {
    let kms = FakeKms::new(1);
    let (dir, _) = make(&kms);
    assert!(matches!(make_with(dir.path(), &kms, &labels()), Err(VolumeError::Exists { .. })));
    fs::remove_file(dir.path().join(PRIMARY)).unwrap();
    assert!(matches!(make_with(dir.path(), &kms, &labels()), Err(VolumeError::Exists { .. })));

    let full = tempfile::tempdir().unwrap();
    fs::write(full.path().join("letter.txt"), b"plain").unwrap();
    assert!(matches!(make_with(full.path(), &kms, &labels()), Err(VolumeError::NotEmpty { .. })));

    // A directory inside the backing tree of another volume: its envelope stays.
    let inner = tempfile::tempdir().unwrap();
    let directory = File::open(inner.path()).unwrap();
    XattrStore::default().create(Object::Directory(directory.as_fd()), b"theirs").unwrap();
    assert!(matches!(make_with(inner.path(), &kms, &labels()), Err(VolumeError::Foreign { .. })));
    assert_eq!(XattrStore::default().load(Object::Directory(directory.as_fd())).unwrap().unwrap(), b"theirs");
    assert!(!inner.path().join(".kmsfs").exists());
}

#[test]
fn what_a_crash_left_is_replaced_but_not_a_volume_without_headers() {
    let kms = FakeKms::new(1);
    let (dir, _) = make(&kms);
    for file in [PRIMARY, BACKUP] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    fs::write(dir.path().join(".kmsfs/.kmsfs.tmp.1.0"), b"half").unwrap();
    // A sealed keystore may be the only copy of a CMK.
    let bundle = dir.path().join(".kmsfs/keystore.bundle");
    fs::write(&bundle, b"sealed").unwrap();
    assert!(matches!(make_with(dir.path(), &kms, &labels()), Err(VolumeError::Exists { .. })));
    assert!(bundle.exists());
    fs::remove_file(bundle).unwrap();
    fs::write(dir.path().join(".kmsfs/links/AAAA"), b"target").unwrap();
    assert!(matches!(make_with(dir.path(), &kms, &labels()), Err(VolumeError::Exists { .. })));
    fs::remove_file(dir.path().join(".kmsfs/links/AAAA")).unwrap();
    make_with(dir.path(), &kms, &labels()).unwrap();
    open(dir.path(), &kms).unwrap();
}

#[test]
fn a_failed_attempt_leaves_nothing() {
    let kms = FakeKms::new(1);
    let dir = tempfile::tempdir().unwrap();
    for bad in ["kmsfs:volume", "kmsfs:x", ""] {
        let labels = BTreeMap::from([(bad.to_owned(), "x".to_owned())]);
        assert!(matches!(make_with(dir.path(), &kms, &labels), Err(VolumeError::Label(_))), "{bad}");
    }
    let labels_too_long = BTreeMap::from([("k".to_owned(), "v".repeat(8000))]);
    assert!(matches!(make_with(dir.path(), &kms, &labels_too_long), Err(VolumeError::Label(_))));
    let key = KeyId("none".into());
    let new = NewVolume {
        key: &key,
        suite: Suite::Gcm4k,
        placement: Placement::Xattr,
        names: NameForm::Base64Url,
        labels: &labels(),
    };
    let refused = create_volume(dir.path(), &kms, &new);
    assert!(matches!(refused, Err(VolumeError::Kms { source: KmsError::NotFound(_), .. })));
    assert!(is_vacant(dir.path()));
    assert!(matches!(make_with(&dir.path().join("absent"), &kms, &labels()), Err(VolumeError::Io { .. })));
}

#[test]
fn a_store_without_xattrs_is_named() {
    // ramfs-like /proc takes neither files nor attributes; a store that refuses stands in for the rest.
    struct NoXattrs;
    impl EnvelopeStore for NoXattrs {
        fn load(&self, _: Object<'_>) -> std::io::Result<Option<Vec<u8>>> {
            Err(std::io::Error::from_raw_os_error(95))
        }
        fn create(&self, _: Object<'_>, _: &[u8]) -> Result<(), crate::envelope::StoreError> {
            unreachable!("only load is called")
        }
        fn replace(&self, _: Object<'_>, _: &[u8], _: &[u8]) -> Result<(), crate::envelope::StoreError> {
            unreachable!("only load is called")
        }
        fn destroy(&self, _: Object<'_>) -> std::io::Result<()> {
            unreachable!("nothing is destroyed")
        }

        fn sync(&self, _: Object<'_>) -> std::io::Result<()> {
            unreachable!("only load is called")
        }
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(root_envelope(dir.path(), &NoXattrs), Err(VolumeError::NoXattrs { path }) if path == dir.path()));
    let store = XattrStore::default();
    let missing = root_envelope(dir.path(), &store).unwrap_err().to_string();
    assert!(missing.contains("docs/operations.md"), "{missing}");
    store.create(Object::Directory(File::open(dir.path()).unwrap().as_fd()), b"\x7f").unwrap();
    assert!(matches!(root_envelope(dir.path(), &store), Err(VolumeError::RootEnvelope { .. })));
    assert!(Envelope::parse(b"\x7f").is_err());
}

#[test]
fn a_missing_or_damaged_primary_falls_back_to_the_backup() {
    let kms = FakeKms::new(1);
    for damage in [None, Some(&b""[..]), Some(b"{\"format\":1"), Some(b"[]"), Some(b"{}"), Some(&[0; 300])] {
        let (dir, made) = make(&kms);
        let primary = dir.path().join(PRIMARY);
        match damage {
            None => fs::remove_file(&primary).unwrap(),
            Some(bytes) => fs::write(&primary, bytes).unwrap(),
        }
        let (header, source) = VolumeHeader::load(dir.path()).unwrap();
        assert_eq!(source, Source::Backup);
        assert_eq!(header.unlock(&kms).unwrap().key, made.key);
        // Without a backup, the error is about the primary.
        fs::remove_file(dir.path().join(BACKUP)).unwrap();
        match (damage, VolumeHeader::load(dir.path())) {
            (None, Err(VolumeError::NotAVolume { .. })) => {}
            (Some(_), Err(VolumeError::Damaged { file, .. })) => assert_eq!(file, primary),
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_edited_header_unwraps_nothing() {
    let kms = FakeKms::new(1);
    let edits: [(&str, Value); 6] = [
        ("suite", json!("gcm")),
        ("names", json!("base64url")),
        ("context", json!({})),
        ("key", json!("cmk-2")),
        ("uuid", json!("00000000-0000-4000-8000-000000000000")),
        ("unknown", json!({"nested": [1, true, null]})),
    ];
    for (member, value) in edits {
        let (dir, made) = make(&kms);
        edit(dir.path().join(PRIMARY), |json| json[member] = value.clone());
        let error = open(dir.path(), &kms).unwrap_err();
        let VolumeError::Edited { file, advice } = &error else { panic!("{member}: {error}") };
        assert_eq!(file, &dir.path().join(PRIMARY));
        assert!(advice.contains(&format!("cp {0}.bak {0}", file.display())), "{advice}");
        // Following the advice helps.
        fs::copy(dir.path().join(BACKUP), file).unwrap();
        assert_eq!(open(dir.path(), &kms).unwrap().key, made.key);
        edit_both(dir.path(), |json| json[member] = value.clone());
        let error = open(dir.path(), &kms).unwrap_err().to_string();
        assert!(error.contains("volume.json") && error.contains("no copy opens"), "{error}");
    }
}

#[test]
fn layout_and_order_of_the_json_do_not_matter() {
    let kms = FakeKms::new(1);
    let (dir, made) = make(&kms);
    let text = fs::read_to_string(dir.path().join(PRIMARY)).unwrap();
    let Value::Object(members) = serde_json::from_str(&text).unwrap() else { panic!("an object") };
    let reversed: Vec<String> = members.iter().rev().map(|(k, v)| format!("\t{k:?} : {v}")).collect();
    fs::write(dir.path().join(PRIMARY), format!("{{{}}}", reversed.join(",\n"))).unwrap();
    let (header, source) = VolumeHeader::load(dir.path()).unwrap();
    assert_eq!((header.hash(), source), (made.header.hash(), Source::Primary));
    assert_eq!(header.unlock(&kms).unwrap().key, made.key);
}

#[test]
fn features_and_formats_of_the_future_are_refused_by_name() {
    let kms = FakeKms::new(1);
    let (dir, _) = make(&kms);
    let root = dir.path();
    edit(root.join(PRIMARY), |json| json["features"]["ro_compat"] = json!(["quotas"]));
    let (header, _) = VolumeHeader::load(root).unwrap();
    header.check_features(true).unwrap();
    assert!(matches!(header.check_features(false), Err(VolumeError::ReadOnly { feature, .. }) if feature == "quotas"));
    edit(root.join(PRIMARY), |json| json["features"]["compat"] = json!(["harmless"]));
    VolumeHeader::load(root).unwrap();
    // Neither falls back to the backup, which is older and does not say so.
    edit(root.join(PRIMARY), |json| json["features"]["incompat"] = json!(["compression"]));
    assert!(matches!(VolumeHeader::load(root), Err(VolumeError::Incompat { feature, .. }) if feature == "compression"));
    edit(root.join(PRIMARY), |json| *json = json!({"format": 2, "all": "else differs"}));
    let error = VolumeHeader::load(root).unwrap_err();
    assert!(matches!(error, VolumeError::Format { found: 2, .. }));
    assert!(error.to_string().contains("reads format 2"), "{error}");
}

#[test]
fn members_of_a_wrong_form_are_damage() {
    let kms = FakeKms::new(1);
    let (dir, _) = make(&kms);
    let pristine = fs::read(dir.path().join(PRIMARY)).unwrap();
    fs::remove_file(dir.path().join(BACKUP)).unwrap();
    let edits: [(&str, Value); 10] = [
        ("format", json!("1")),
        ("uuid", json!("AAAAAAAA-0000-4000-8000-000000000000")),
        ("uuid", json!("../../x")),
        ("suite", json!("rot13")),
        ("placement", json!("cloud")),
        ("names", json!("plain")),
        ("context", json!({"kmsfs:kind": "x"})),
        ("volume_key", json!("AAB")),
        ("features", json!([])),
        ("unknown", json!([1.5])),
    ];
    for (member, value) in edits {
        fs::write(dir.path().join(PRIMARY), &pristine).unwrap();
        edit(dir.path().join(PRIMARY), |json| json[member] = value.clone());
        assert!(matches!(VolumeHeader::load(dir.path()), Err(VolumeError::Damaged { .. })), "{member} = {value}");
    }
    fs::write(dir.path().join(PRIMARY), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(VolumeHeader::load(dir.path()), Err(VolumeError::Damaged { .. })));
    assert!(matches!(VolumeHeader::load("/nowhere".as_ref()), Err(VolumeError::NotAVolume { .. })));
}

#[test]
fn a_keystore_that_lacks_the_key_and_a_disabled_key_are_told_apart() {
    let kms = FakeKms::new(1);
    let (dir, _) = make(&kms);
    // The fake KMS knows no key number above 9.
    edit_both(dir.path(), |json| {
        let blob = json["volume_key"].as_str().unwrap().as_bytes();
        let mut blob = data_encoding::BASE64URL_NOPAD.decode(blob).unwrap();
        blob[1] = 77;
        json["volume_key"] = data_encoding::BASE64URL_NOPAD.encode(&blob).into();
    });
    assert!(matches!(open(dir.path(), &kms), Err(VolumeError::WrongKeystore { .. })));
    let (dir, _) = make(&kms);
    *kms.disabled.lock() = true;
    assert!(matches!(open(dir.path(), &kms), Err(VolumeError::Kms { source: KmsError::Disabled(_), .. })));
}

#[test]
fn rewrapping_the_volume_key_keeps_it_and_can_change_the_cmk() {
    let kms = FakeKms::new(1);
    let (dir, made) = make(&kms);
    kms.rotate();
    for (to, expected) in [(None, "cmk-1"), (Some(KeyId("cmk-2".into())), "cmk-2")] {
        let (header, _) = VolumeHeader::load(dir.path()).unwrap();
        header.rewrapped(&kms, to.as_ref()).unwrap().store().unwrap();
        let volume = open(dir.path(), &kms).unwrap();
        assert_eq!((&volume.key, volume.header.key().0.as_str()), (&made.key, expected));
        assert_eq!(volume.header.uuid(), made.header.uuid());
    }
}
