//! What an envelope is bound to.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fake::FakeKms;
use crate::crypto::{DataKey, Suite};
use crate::envelope::{
    Binder, Envelope, EnvelopeError, EnvelopeStore, Envelopes, Kind, NameForm, NewVolume, Object, Place, Placement,
    Sealer, StoreError, VolumeHeader, sidecar_name,
};
use crate::kms::{InvalidCiphertext, KeyId, KmsError, Requester};

const A: Place = Place::In([0xaa; 16]);
const B: Place = Place::In([0xbb; 16]);
const C: Place = Place::In([0xcc; 16]);

fn binder(kms: &FakeKms, label: &str) -> Binder {
    let labels = BTreeMap::from([("team".to_owned(), label.to_owned())]);
    let new = NewVolume {
        key: &cmk(1),
        suite: Suite::Gcm4k,
        placement: Placement::Xattr,
        names: NameForm::Base64Url,
        labels: &labels,
    };
    Binder::new(&VolumeHeader::generate("/nowhere".as_ref(), kms, &new).unwrap().header)
}

fn cmk(number: u32) -> KeyId {
    KeyId(format!("cmk-{number}"))
}

/// Runs `test` with a sealer of some volume.
fn with(test: impl Fn(&FakeKms, &Sealer<'_>)) {
    let kms = FakeKms::new(1);
    let binder = binder(&kms, "blue");
    test(&kms, &Sealer { binder: &binder, kms: &kms, requester: Requester::Own });
}

#[track_caller]
fn wrong(unlocked: Result<DataKey, EnvelopeError>) {
    let wrong_context = KmsError::InvalidCiphertext(InvalidCiphertext::WrongContext);
    assert_eq!(unlocked, Err(EnvelopeError::Kms(wrong_context)));
}

#[test]
fn the_contexts_are_those_of_the_format() {
    let kms = FakeKms::new(1);
    let binder = binder(&kms, "blue");
    let pairs = |context: &crate::kms::EncryptionContext| -> Vec<String> {
        context.pairs().map(|(k, v)| format!("{k}={v}")).filter(|pair| !pair.starts_with("kmsfs:volume=")).collect()
    };
    assert_eq!(
        pairs(&binder.context(Kind::FileGcm, A)),
        ["kmsfs:kind=file-gcm", "kmsfs:parent=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "team=blue"]
    );
    assert_eq!(pairs(&binder.context(Kind::FileXts, Place::Linked)), ["kmsfs:kind=linked-file-xts", "team=blue"]);
    assert_eq!(pairs(binder.mirror_context(Kind::Directory)), ["kmsfs:kind=mirror-directory", "team=blue"]);
    let volume = binder.context(Kind::FileGcm, A).pairs().any(|(k, v)| k == "kmsfs:volume" && v.len() == 36);
    assert!(volume);
}

#[test]
fn an_envelope_opens_in_its_place_alone() {
    with(|_, sealer| {
        for kind in Kind::ALL {
            for place in [Place::ROOT, A, Place::Linked] {
                let (key, envelope) = sealer.create(&cmk(1), kind, place).unwrap();
                assert_eq!(envelope.encode().len(), 68);
                let envelope = Envelope::parse(&envelope.encode()).unwrap();
                assert_eq!(sealer.unlock(&envelope, place).unwrap(), key);
                if envelope.is_linked() {
                    assert_eq!(sealer.unlock(&envelope, B).unwrap(), key);
                } else {
                    wrong(sealer.unlock(&envelope, B));
                    wrong(sealer.unlock(&envelope, Place::Linked));
                }
            }
        }
    });
}

#[test]
fn neither_kind_nor_flags_can_be_changed() {
    with(|_, sealer| {
        for (kind, place) in
            [(Kind::FileGcm, A), (Kind::FileXts, A), (Kind::Directory, A), (Kind::FileGcm, Place::Linked)]
        {
            let bytes = sealer.create(&cmk(1), kind, place).unwrap().1.encode();
            for code in 0..=255 {
                if code == bytes[0] {
                    continue;
                }
                let mut altered = bytes.clone();
                altered[0] = code;
                if let Ok(envelope) = Envelope::parse(&altered) {
                    assert!(sealer.unlock(&envelope, place).is_err(), "{kind:?} as {code:#x}");
                }
            }
        }
    });
}

#[test]
fn another_volume_other_labels_or_another_kms_do_not_open_it() {
    with(|kms, sealer| {
        let (_, envelope) = sealer.create(&cmk(1), Kind::FileGcm, A).unwrap();
        let other = binder(kms, "blue");
        wrong(Sealer { binder: &other, ..*sealer }.unlock(&envelope, A));
        let other_kms = FakeKms::new(2);
        wrong(Sealer { kms: &other_kms, ..*sealer }.unlock(&envelope, A));
    });
}

#[test]
fn a_moving_envelope_opens_in_both_places_and_the_final_one_in_the_new() {
    with(|_, sealer| {
        let (key, envelope) = sealer.create(&cmk(1), Kind::Directory, A).unwrap();
        let (moving, last) = sealer.moving(&envelope, A, B).unwrap();
        let moving = Envelope::parse(&moving.encode()).unwrap();
        assert!(moving.is_moving() && !last.is_moving());
        assert_eq!(moving.encode().len(), 137);
        assert_eq!(sealer.unlock(&moving, A).unwrap(), key);
        assert_eq!(sealer.unlock(&moving, B).unwrap(), key);
        wrong(sealer.unlock(&moving, C));
        assert_eq!(sealer.unlock(&last, B).unwrap(), key);
        wrong(sealer.unlock(&last, A));
        assert!(sealer.moving(&envelope, B, C).is_err(), "it is not at B");
    });
}

#[test]
fn an_interrupted_move_can_go_on_from_either_place() {
    with(|_, sealer| {
        let (key, envelope) = sealer.create(&cmk(1), Kind::FileGcm, A).unwrap();
        let (moving, _) = sealer.moving(&envelope, A, B).unwrap();
        for from in [A, B] {
            let (again, last) = sealer.moving(&moving, from, C).unwrap();
            assert_eq!(sealer.unlock(&again, from).unwrap(), key);
            assert_eq!(sealer.unlock(&again, C).unwrap(), key);
            let other = if from == A { B } else { A };
            wrong(sealer.unlock(&again, other));
            assert_eq!(sealer.unlock(&last, C).unwrap(), key);
            assert_eq!(sealer.unlock(&sealer.linked(&moving, from).unwrap(), C).unwrap(), key);
            let settled = sealer.rewrapped(&moving, from, None).unwrap();
            assert!(!settled.is_moving());
            assert_eq!(sealer.unlock(&settled, from).unwrap(), key);
            wrong(sealer.unlock(&settled, other));
        }
    });
}

#[test]
fn linked_opens_anywhere_and_stays_linked() {
    with(|_, sealer| {
        let (key, envelope) = sealer.create(&cmk(1), Kind::FileGcm, A).unwrap();
        assert!(sealer.linked(&envelope, B).is_err(), "it is not at B");
        let linked = sealer.linked(&envelope, A).unwrap();
        let linked = Envelope::parse(&linked.encode()).unwrap();
        assert_eq!(sealer.unlock(&linked, C).unwrap(), key);
        assert_eq!(sealer.linked(&linked, C).unwrap(), linked);
        assert_eq!(sealer.moving(&linked, A, B).unwrap(), (linked.clone(), linked));
    });
}

#[test]
fn a_mirror_is_no_envelope_but_can_be_restored() {
    with(|_, sealer| {
        for kind in Kind::ALL {
            let (key, envelope) = sealer.create(&cmk(1), kind, A).unwrap();
            let mirror = sealer.mirror(&envelope, A).unwrap();
            assert_eq!(mirror.len(), 68);
            for place in [A, Place::ROOT, Place::Linked] {
                wrong(sealer.unlock(&Envelope::parse(&mirror).unwrap(), place));
            }
            let (restored, again) = sealer.restore(&mirror, kind, B).unwrap();
            assert_eq!(restored, key);
            assert_eq!(sealer.unlock(&again, B).unwrap(), key);
            let other = if kind == Kind::FileGcm { Kind::FileXts } else { Kind::FileGcm };
            assert!(sealer.restore(&mirror, other, B).is_err());
            assert!(sealer.restore(&envelope.encode(), kind, A).is_err(), "an envelope is no mirror");
        }
    });
}

#[test]
fn rewrap_changes_the_version_or_the_cmk_and_nothing_else() {
    with(|kms, sealer| {
        let (key, envelope) = sealer.create(&cmk(1), Kind::FileGcm, A).unwrap();
        kms.rotate();
        assert_eq!(sealer.unlock(&envelope, A).unwrap(), key, "old versions still open");
        let new = sealer.rewrapped(&envelope, A, None).unwrap();
        let kms: &dyn crate::kms::Kms = sealer.kms;
        assert!(!kms.is_current(&envelope.blob().0, &cmk(1)).unwrap());
        assert!(kms.is_current(&new.blob().0, &cmk(1)).unwrap());
        assert_eq!(sealer.unlock(&new, A).unwrap(), key);
        let other = sealer.rewrapped(&new, A, Some(&cmk(2))).unwrap();
        assert!(kms.is_current(&other.blob().0, &cmk(2)).unwrap());
        assert_eq!(sealer.unlock(&other, A).unwrap(), key);
        wrong(sealer.unlock(&other, B));
    });
}

#[test]
fn a_refusal_of_the_kms_comes_through() {
    with(|kms, sealer| {
        assert!(matches!(
            sealer.create(&KeyId("none".into()), Kind::FileGcm, A),
            Err(EnvelopeError::Kms(KmsError::NotFound(_)))
        ));
        let (_, envelope) = sealer.create(&cmk(1), Kind::FileGcm, A).unwrap();
        let (moving, _) = sealer.moving(&envelope, A, B).unwrap();
        *kms.disabled.lock() = true;
        for envelope in [envelope, moving] {
            assert!(matches!(sealer.unlock(&envelope, A), Err(EnvelopeError::Kms(KmsError::Disabled(_)))));
        }
    });
}

#[test]
fn the_store_makes_once_and_replaces_only_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("f")).unwrap();
    let directory = File::open(dir.path()).unwrap();
    for store in [Placement::Xattr, Placement::Sidecar].map(Envelopes::new) {
        for object in [Object::file(file.as_fd(), directory.as_fd(), b"f"), Object::Directory(directory.as_fd())] {
            assert_eq!(store.load(object).unwrap(), None);
            assert!(matches!(store.replace(object, b"", b"new"), Err(StoreError::Changed)));
            store.create(object, b"one").unwrap();
            assert!(matches!(store.create(object, b"two"), Err(StoreError::Exists)));
            assert!(matches!(store.replace(object, b"two", b"three"), Err(StoreError::Changed)));
            assert_eq!(store.load(object).unwrap().unwrap(), b"one");
            store.replace(object, b"one", &[7; 137]).unwrap();
            store.sync(object).unwrap();
            assert_eq!(store.load(object).unwrap().unwrap(), [7; 137]);
        }
    }
    let names = std::fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [sidecar_name(b"f"), ".kmsfs.k".to_owned(), "f".to_owned()]);
}

#[test]
fn of_many_who_replace_the_same_envelope_one_wins() {
    const THREADS: u8 = 4;
    const ROUNDS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("f")).unwrap();
    let directory = File::open(dir.path()).unwrap();
    let object = Object::file(file.as_fd(), directory.as_fd(), b"f");
    for store in [Placement::Xattr, Placement::Sidecar].map(Envelopes::new) {
        store.create(object, b"old").unwrap();
        let start = Barrier::new(usize::from(THREADS));
        let wins = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, start, wins) = (&store, &start, &wins);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        start.wait();
                        let expected = store.load(object).unwrap().unwrap();
                        start.wait();
                        let new = format!("{round} by {thread}");
                        match store.replace(object, &expected, new.as_bytes()) {
                            Ok(()) => _ = wins.fetch_add(1, Ordering::Relaxed),
                            Err(StoreError::Changed) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                });
            }
        });
        assert_eq!(wins.into_inner(), ROUNDS);
    }
}
