//! The worked examples of `tests/vectors/`, which `tests/decoder.py` checks too: two programs that
//! agree on docs/format.md. What Rust seals under random nonces is checked by opening what Python sealed.
#![allow(clippy::unwrap_used, reason = "a test should panic, in its helpers too")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use kmsfs::content::{Durability, XtsContent};
use kmsfs::crypto::aead::{DefaultGcm, Gcm, PortableGcm, default_hkdf_expand, portable_hkdf_expand};
use kmsfs::crypto::siv::SivKey;
use kmsfs::crypto::{DataKey, Secret, derive};
use kmsfs::envelope::{Binder, Envelope, Kind, Place, VolumeHeader};
use kmsfs::kms::EncryptionContext;
use kmsfs::names::{Decoded, DirNames, EncodedName, NameEncoding, Symlinks, Xattrs, plain_len};
use proptest::prelude::*;
use serde_json::Value;

mod memory;
use memory::Memory;

const PRIMITIVES: &str = include_str!("vectors/primitives.json");
const FORMAT: &str = include_str!("vectors/format1.json");

/// The vectors of one group; there are some, or the test would prove nothing.
fn group(file: &str, name: &str) -> Vec<Value> {
    let mut file: Value = serde_json::from_str(file).unwrap();
    let Value::Array(rows) = file[name].take() else { panic!("no vectors called {name}") };
    assert!(!rows.is_empty(), "{name}");
    rows
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap_or_else(|| panic!("{member} of {row}"))
}

fn bytes(row: &Value, member: &str) -> Vec<u8> {
    HEXLOWER.decode(text(row, member).as_bytes()).unwrap()
}

fn array<const N: usize>(row: &Value, member: &str) -> [u8; N] {
    bytes(row, member).try_into().unwrap()
}

fn secret<const N: usize>(row: &Value, member: &str) -> Secret<N> {
    Secret::take(&mut bytes(row, member)).unwrap()
}

fn data_key(row: &Value, member: &str) -> DataKey {
    DataKey::from_secret(secret(row, member))
}

fn check_gcm<P: Gcm>(row: &Value) {
    let (nonce, aad, plain) = (array(row, "nonce"), bytes(row, "aad"), bytes(row, "plaintext"));
    let key = P::new(&array(row, "key"));
    let mut sealed = vec![0; plain.len()];
    let tag = key.seal(&nonce, &aad, &plain, &mut sealed);
    assert_eq!((sealed, tag.to_vec()), (bytes(row, "ciphertext"), bytes(row, "tag")), "{} {row}", P::NAME);
    let (sealed, mut opened) = (bytes(row, "ciphertext"), vec![1; plain.len()]);
    key.open(&nonce, &aad, &sealed, &tag, &mut opened).unwrap();
    assert_eq!(opened, plain);
}

#[test]
fn gcm_by_both_providers() {
    for row in group(PRIMITIVES, "gcm") {
        check_gcm::<DefaultGcm>(&row);
        check_gcm::<PortableGcm>(&row);
    }
}

#[test]
fn hkdf_expand_by_both_providers() {
    for row in group(PRIMITIVES, "hkdf_expand") {
        let (info, okm) = (bytes(&row, "info"), bytes(&row, "okm"));
        for expand in [default_hkdf_expand, portable_hkdf_expand] {
            let mut out = vec![0; okm.len()];
            expand(&array(&row, "prk"), &[&info[..info.len() / 2], &info[info.len() / 2..]], &mut out);
            assert_eq!(out, okm, "{row}");
        }
    }
}

#[test]
fn siv() {
    for row in group(PRIMITIVES, "siv") {
        let key = SivKey::new(&secret(&row, "key"));
        assert_eq!(key.seal(&[], &bytes(&row, "plaintext")), bytes(&row, "sealed"), "{row}");
        assert_eq!(key.open(&[], &bytes(&row, "sealed")).unwrap(), bytes(&row, "plaintext"));
    }
}

fn gcm_agrees(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) {
    let (one, other) = (DefaultGcm::new(key), PortableGcm::new(key));
    let (mut sealed, mut sealed_other) = (vec![0; plain.len()], vec![0; plain.len()]);
    let tag = one.seal(nonce, aad, plain, &mut sealed);
    assert_eq!(tag, other.seal(nonce, aad, plain, &mut sealed_other));
    assert_eq!(sealed, sealed_other);
    let mut opened = vec![0; plain.len()];
    other.open(nonce, aad, &sealed, &tag, &mut opened).unwrap();
    assert_eq!(opened, plain);
    one.open(nonce, aad, &sealed, &tag, &mut opened).unwrap();
    assert_eq!(opened, plain);
    let mut wrong = tag;
    wrong[15] ^= 1;
    let mut wiped = vec![7; plain.len()];
    assert!(one.open(nonce, aad, &sealed, &wrong, &mut wiped).is_err());
    assert!(wiped.iter().all(|byte| *byte == 0));
    wiped.fill(7);
    assert!(other.open(nonce, aad, &sealed, &wrong, &mut wiped).is_err());
    assert!(wiped.iter().all(|byte| *byte == 0));
}

proptest! {
    #[test]
    fn both_providers_seal_alike_and_open_each_other(
        key: [u8; 32],
        nonce: [u8; 12],
        aad in proptest::collection::vec(any::<u8>(), 0..80),
        plain in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        gcm_agrees(&key, &nonce, &aad, &plain);
    }

    #[test]
    fn both_providers_expand_alike(
        key: [u8; 32],
        info in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
        len in 1..=8160usize,
    ) {
        let parts: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
        let (mut one, mut other, mut joined) = (vec![0; len], vec![0; len], vec![0; len]);
        default_hkdf_expand(&key, &parts, &mut one);
        portable_hkdf_expand(&key, &parts, &mut other);
        default_hkdf_expand(&key, &[&info.concat()], &mut joined);
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one, joined);
    }
}

/// Whether `key` is the GCM key that `found` expanded: they seal alike.
fn same_gcm(found: &kmsfs::crypto::GcmKey, key: &[u8]) -> bool {
    let expected = kmsfs::crypto::GcmKey::<DefaultGcm>::new(key.try_into().unwrap());
    let (mut one, mut other) = ([0; 16], [0; 16]);
    let plain = [5; 16];
    let tags = (found.seal(&[1; 12], b"", &plain, &mut one), expected.seal(&[1; 12], b"", &plain, &mut other));
    tags.0 == tags.1 && one == other
}

#[test]
fn derivations() {
    for row in group(FORMAT, "derive") {
        let (context, key) = (bytes(&row, "context"), bytes(&row, "key"));
        let parent = data_key(&row, "parent");
        let material: Secret<32> = secret(&row, "parent");
        let number = || u64::from_le_bytes(context[..8].try_into().unwrap());
        let siv = |found: SivKey| found.seal(&[], b"name") == SivKey::new(&secret(&row, "key")).seal(&[], b"name");
        let right = match text(&row, "label") {
            "com" => derive::commitment(&parent)[..] == key,
            "grp" => {
                let keys = derive::group_keys(&parent, number(), context[8..].try_into().unwrap());
                same_gcm(&keys.block, &key[..32]) && same_gcm(&keys.meta, &key[32..])
            }
            "xat" => siv(derive::xattr_name_key(&parent)),
            "xav" => same_gcm(&derive::xattr_value_key(&parent), &key),
            "xts" => derive::xts_keys(&parent, number()).expose()[..] == key,
            "fid" => derive::file_id(&parent)[..] == key,
            "did" => derive::directory_id(&parent)[..] == key,
            "nam" => siv(derive::name_key(&parent)),
            "lng" => derive::long_name_key(&parent).expose()[..] == key,
            "lnk" => same_gcm(&derive::symlink_key(&parent), &key),
            // Its context is made inside, of a nonce and a hash: covered by the envelopes.
            "wrap" => continue,
            "slot" => {
                let (kek, commitment) = derive::slot_keys(&material, &context[..].try_into().unwrap());
                same_gcm(&kek, &key[..32]) && commitment[..] == key[32..]
            }
            "store" => same_gcm(&derive::store_key(&material), &key),
            "bundle" => same_gcm(&derive::bundle_key(&material), &key),
            other => panic!("unknown label {other}"),
        };
        assert!(right, "{row}");
    }
}

fn pairs(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn contexts() {
    for row in group(FORMAT, "context") {
        let context = EncryptionContext::new(pairs(&row["pairs"])).unwrap();
        assert_eq!(context.canonical(), bytes(&row, "canonical"), "{row}");
    }
}

/// Opens a blob as docs/format.md section 3 says: the KMS itself is tested in its own room.
fn open_blob(blob: &[u8], context: &EncryptionContext) -> Option<DataKey> {
    let blob: &[u8; 67] = blob.try_into().ok()?;
    let number = u32::from_le_bytes(blob[1..5].try_into().unwrap());
    let version = u16::from_le_bytes(blob[5..7].try_into().unwrap());
    let keys = group(FORMAT, "keys");
    let material = keys.iter().find(|row| row["number"] == number && row["version"] == version)?;
    let nonce = blob[7..19].try_into().unwrap();
    let key = derive::wrap_key(&secret(material, "secret"), nonce, context.canonical());
    let aad = [&blob[..7], context.canonical()].concat();
    let mut plain = [0; 32];
    key.open(nonce, &aad, &blob[19..51], blob[51..].try_into().unwrap(), &mut plain).ok()?;
    Secret::take(&mut plain).map(DataKey::from_secret)
}

/// A header on disk with this uuid and these labels, loaded.
fn header(json: &Value) -> VolumeHeader {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".kmsfs")).unwrap();
    std::fs::write(dir.path().join(".kmsfs/volume.json"), json.to_string()).unwrap();
    VolumeHeader::load(dir.path()).unwrap().0
}

fn binder(row: &Value) -> Binder {
    Binder::new(&header(&serde_json::json!({
        "format": 1, "uuid": row["volume"], "features": {"compat": [], "ro_compat": [], "incompat": []},
        "suite": "gcm", "placement": "xattr", "names": "base64url", "context": row["labels"], "key": "k", "volume_key": "",
    })))
}

#[test]
fn envelopes() {
    for row in group(FORMAT, "envelope") {
        let envelope = Envelope::parse(&bytes(&row, "envelope")).unwrap();
        assert_eq!(envelope.encode(), bytes(&row, "envelope"));
        assert_eq!(envelope.kind().name(), text(&row, "kind"));
        let place = if envelope.is_linked() { Place::Linked } else { Place::In(array(&row, "parent")) };
        let binder = binder(&row);
        let context = binder.context(envelope.kind(), place);
        let opened = [Some(envelope.blob()), envelope.old_place()].into_iter().flatten();
        let keys: Vec<DataKey> = opened.filter_map(|blob| open_blob(&blob.0, &context)).collect();
        assert_eq!(keys, [data_key(&row, "data_key")], "{row}");
    }
}

#[test]
fn mirrors() {
    for row in group(FORMAT, "mirror") {
        let mirror = Envelope::parse(&bytes(&row, "mirror")).unwrap();
        assert_eq!(mirror.kind().name(), text(&row, "kind"));
        let binder = binder(&row);
        let key = open_blob(&mirror.blob().0, binder.mirror_context(mirror.kind()));
        assert_eq!(key, Some(data_key(&row, "data_key")));
        for kind in Kind::ALL {
            assert_eq!(open_blob(&mirror.blob().0, &binder.context(kind, Place::Linked)), None);
        }
    }
}

#[test]
fn header_hashes() {
    for row in group(FORMAT, "header") {
        let header = header(&row["header"]);
        assert_eq!(HEXLOWER.encode(&header.hash()), text(&row, "hash"));
        let fixed = [("kmsfs:volume", header.uuid()), ("kmsfs:kind", "volume"), ("kmsfs:header", text(&row, "hash"))];
        let labels = header.labels().iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let context = EncryptionContext::new(fixed.into_iter().chain(labels)).unwrap();
        assert_eq!(open_blob(&header.volume_key().0, &context), Some(data_key(&row, "volume_key")));
    }
}

#[test]
fn names() {
    for row in group(FORMAT, "name") {
        let encoding = NameEncoding::from_name(text(&row, "encoding")).unwrap();
        let names = DirNames::new(&data_key(&row, "directory_key"), encoding);
        let (plain, stored) = (bytes(&row, "plain"), text(&row, "stored"));
        match names.encode(&plain).unwrap() {
            EncodedName::Short(encoded) => {
                assert_eq!((encoded.as_str(), &row["side"]), (stored, &Value::Null));
                assert_eq!(names.decode(stored.as_bytes()).unwrap(), Decoded::Short(plain));
            }
            EncodedName::Long { stored: encoded, side, target } => {
                assert_eq!(
                    (encoded.as_str(), side.as_str(), target.as_str()),
                    (stored, text(&row, "side"), text(&row, "target"))
                );
                assert_eq!(names.decode(stored.as_bytes()).unwrap(), Decoded::NeedsSide(side));
                assert_eq!(names.decode_long(stored.as_bytes(), target.as_bytes()).unwrap(), plain);
            }
        }
    }
}

#[test]
fn symlinks() {
    for row in group(FORMAT, "symlink") {
        let links = Symlinks::new(&data_key(&row, "volume_key"));
        let (stored, target) = (text(&row, "text").as_bytes(), bytes(&row, "target"));
        match Symlinks::parse_long(stored) {
            None => {
                assert_eq!(plain_len(stored.len() as u64), Some(target.len() as u64));
                assert_eq!(links.open_short(stored).unwrap(), target);
            }
            Some((home, len)) => {
                assert_eq!((home.as_str(), len), (text(&row, "home_name"), target.len()));
                assert_eq!(links.open_long(&bytes(&row, "home"), len).unwrap(), target);
            }
        }
    }
}

#[test]
fn xattrs() {
    for row in group(FORMAT, "xattr") {
        let xattrs = Xattrs::new(&data_key(&row, "owner_key"));
        let name = bytes(&row, "name");
        assert_eq!(xattrs.encode_name(&name).unwrap(), text(&row, "stored_name"));
        assert_eq!(xattrs.decode_name(text(&row, "stored_name").as_bytes()), Some(name.clone()));
        assert_eq!(xattrs.open_value(&name, &bytes(&row, "stored_value")).unwrap(), bytes(&row, "value"));
    }
}

#[test]
fn files_under_the_xts_suite() {
    for row in group(FORMAT, "xts_file") {
        let (backing, content) = (bytes(&row, "backing"), bytes(&row, "content"));
        let memory = Arc::new(Memory(Mutex::new(backing.clone())));
        let opened = XtsContent::open(memory, data_key(&row, "data_key"), Durability::Atomic).unwrap();
        let mut found = vec![0; content.len()];
        assert_eq!(opened.read(0, &mut found).unwrap(), content.len());
        assert!(found == content, "{}", text(&row, "name"));
        // The other way round, but for holes: what is written is no hole.
        if !backing.starts_with(&[0; 4096]) {
            let memory = Arc::<Memory>::default();
            let made = XtsContent::create(memory.clone(), data_key(&row, "data_key"), Durability::Atomic).unwrap();
            made.write(0, &content).unwrap();
            assert!(*memory.0.lock().unwrap() == backing, "{}", text(&row, "name"));
        }
    }
}
