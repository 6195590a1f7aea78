use proptest::prelude::*;

use super::*;
use crate::crypto::{DataKey, Secret};

fn key(byte: u8) -> DataKey {
    DataKey::from_secret(Secret::build(|out| out.fill(byte)))
}

fn dir(byte: u8, encoding: NameEncoding) -> DirNames {
    DirNames::new(&key(byte), encoding)
}

const BOTH: [NameEncoding; 2] = [NameEncoding::Base64Url, NameEncoding::Base32];

/// Decodes as a caller does, with the side target at hand.
fn decode(names: &DirNames, encoded: &EncodedName) -> Result<Vec<u8>, NameError> {
    match (names.decode(encoded.stored().as_bytes())?, encoded) {
        (Decoded::Short(plain), EncodedName::Short(_)) => Ok(plain),
        (Decoded::NeedsSide(asked), EncodedName::Long { stored, side, target }) => {
            assert_eq!(&asked, side);
            names.decode_long(stored.as_bytes(), target.as_bytes())
        }
        (decoded, encoded) => panic!("{encoded:?} was read as {decoded:?}"),
    }
}

#[test]
fn every_length_round_trips_in_a_stored_name_that_fits() {
    for (encoding, short_max) in [(NameEncoding::Base64Url, 174), (NameEncoding::Base32, 142)] {
        let names = dir(1, encoding);
        for len in 1..=255 {
            let plain = vec![b'a' + (len % 26) as u8; len];
            let encoded = names.encode(&plain).unwrap();
            assert_eq!(matches!(encoded, EncodedName::Short(_)), len <= short_max, "{len}");
            assert!(encoded.stored().len() <= 255 && !encoded.stored().starts_with('.'));
            if let EncodedName::Long { side, target, .. } = &encoded {
                assert!(is_internal(side.as_bytes()) && side.len() <= 255 && target.len() < 1024);
            }
            assert_eq!(decode(&names, &encoded).unwrap(), plain, "{len}");
        }
    }
}

#[test]
fn the_longest_short_name_uses_all_255_characters() {
    for (encoding, short_max) in [(NameEncoding::Base64Url, 174), (NameEncoding::Base32, 142)] {
        let names = dir(1, encoding);
        assert_eq!(names.encode(&vec![b'x'; short_max]).unwrap().stored().len(), 255);
        assert!(matches!(names.encode(&vec![b'x'; short_max + 1]).unwrap(), EncodedName::Long { .. }));
    }
}

#[test]
fn lengths_are_hidden_in_steps_of_16() {
    let names = dir(1, NameEncoding::Base64Url);
    let len = |plain: usize| names.encode(&vec![b'x'; plain]).unwrap().stored().len();
    assert_eq!((len(1), len(15), len(16), len(31)), (43, 43, 64, 64));
    assert_eq!((len(159), len(160)), (235, 255));
}

#[test]
fn base32_is_lower_case_alone() {
    let names = dir(1, NameEncoding::Base32);
    for len in [1, 100, 200] {
        let encoded = names.encode(&vec![b'x'; len]).unwrap();
        assert!(encoded.stored().bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
        assert!(names.decode(encoded.stored().to_uppercase().as_bytes()).is_err());
    }
}

#[test]
fn what_is_no_name_is_refused() {
    let names = dir(1, NameEncoding::Base64Url);
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", b"/"] {
        assert_eq!(names.encode(bad), Err(NameError::Invalid), "{bad:?}");
    }
    assert_eq!(names.encode(&[b'x'; 256]), Err(NameError::TooLong));
    for good in [&b"..."[..], b".kmsfs", b"\xff\xfe", b" ", b"\x80"] {
        let encoded = names.encode(good).unwrap();
        assert_eq!(decode(&names, &encoded).unwrap(), good);
    }
}

#[test]
fn names_that_were_not_stored_canonically_are_refused() {
    let names = dir(1, NameEncoding::Base64Url);
    let stored = names.encode(b"hello").unwrap().stored().to_owned();
    let last = stored.chars().last().unwrap();
    // 32 bytes leave two bits over in the last of 43 characters.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = alphabet.find(last).unwrap();
    assert_eq!(value % 4, 0);
    for spare in 1..4 {
        let other = alphabet.as_bytes()[value + spare] as char;
        let altered = format!("{}{other}", &stored[..42]);
        assert_eq!(names.decode(altered.as_bytes()), Err(NameError::Malformed));
    }
    for altered in [format!("{stored}="), format!("{stored} "), format!(".{stored}"), stored.replace(last, "+")] {
        assert!(names.decode(altered.as_bytes()).is_err(), "{altered}");
    }
    for foreign in ["", "L", "README.md", "lost+found", &"A".repeat(33), &"A".repeat(255)] {
        assert!(names.decode(foreign.as_bytes()).is_err(), "{foreign}");
    }
}

/// Seals what no correct writer would: the reader must refuse it although it authenticates.
#[test]
fn authentic_plaintexts_in_a_wrong_form_are_refused() {
    let names = dir(1, NameEncoding::Base64Url);
    let raw = crate::crypto::derive::name_key(&key(1));
    let store = |padded: &[u8]| NameEncoding::Base64Url.write(&raw.seal(&[], padded));
    let pad = |plain: &[u8], len: usize| {
        let mut padded = [plain, &[0x80]].concat();
        padded.resize(len, 0);
        padded
    };
    assert_eq!(names.decode(store(&pad(b"ok", 16)).as_bytes()), Ok(Decoded::Short(b"ok".to_vec())));
    let cases =
        [pad(b"ok", 32), pad(b"ok", 3), pad(b"..", 16), pad(b"", 16), pad(b"a/b", 16), vec![0; 16], b"x".to_vec()];
    for padded in cases {
        assert_eq!(names.decode(store(&padded).as_bytes()), Err(NameError::Malformed), "{padded:?}");
    }
    // A long name stored whole, and a short one in long form.
    assert_eq!(names.decode(store(&pad(&[b'x'; 175], 176)).as_bytes()), Err(NameError::Malformed));
    let short = names.encode(b"ok").unwrap();
    let hash = crate::crypto::derive::hash_long_name(&crate::crypto::derive::long_name_key(&key(1)), b"ok");
    let stored = format!("L{}", NameEncoding::Base64Url.write(&hash[..24]));
    assert_eq!(names.decode_long(stored.as_bytes(), short.stored().as_bytes()), Err(NameError::Malformed));
}

#[test]
fn a_long_name_does_not_take_another_ones_target() {
    let names = dir(1, NameEncoding::Base64Url);
    let (a, b) = (names.encode(&[b'a'; 200]).unwrap(), names.encode(&[b'b'; 200]).unwrap());
    let (EncodedName::Long { stored, .. }, EncodedName::Long { target, .. }) = (a, b) else { panic!("both are long") };
    assert_eq!(names.decode_long(stored.as_bytes(), target.as_bytes()), Err(NameError::BadTag));
}

#[test]
fn a_volume_of_one_encoding_does_not_read_the_other() {
    let (one, other) = (dir(1, NameEncoding::Base64Url), dir(1, NameEncoding::Base32));
    for len in [5, 100, 200] {
        let plain = vec![b'x'; len];
        assert!(!matches!(one.decode(other.encode(&plain).unwrap().stored().as_bytes()), Ok(Decoded::Short(_))));
        assert!(!matches!(other.decode(one.encode(&plain).unwrap().stored().as_bytes()), Ok(Decoded::Short(_))));
    }
}

fn plain_name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>().prop_filter("no separator", |b| *b != 0 && *b != b'/'), 1..=255)
        .prop_filter("no dots", |name| name != b"." && name != b"..")
}

proptest! {
    #[test]
    fn names_round_trip_and_are_bound_to_their_directory(plain in plain_name(), base32 in any::<bool>()) {
        let encoding = BOTH[usize::from(base32)];
        let (here, there) = (dir(1, encoding), dir(2, encoding));
        let encoded = here.encode(&plain).unwrap();
        prop_assert_eq!(&here.encode(&plain).unwrap(), &encoded);
        prop_assert_eq!(decode(&here, &encoded).unwrap(), plain.clone());
        prop_assert_ne!(&there.encode(&plain).unwrap(), &encoded);
        // Swapped into another directory.
        prop_assert!(decode(&there, &encoded).is_err());
    }

    #[test]
    fn no_altered_name_is_read(plain in plain_name(), at in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let names = dir(1, NameEncoding::Base64Url);
        let encoded = names.encode(&plain).unwrap();
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let alter = |text: &str| {
            let mut text = text.as_bytes().to_vec();
            let at = at.index(text.len());
            let others: Vec<u8> = alphabet.iter().copied().filter(|c| *c != text[at]).collect();
            text[at] = others[to.index(others.len())];
            text
        };
        match &encoded {
            EncodedName::Short(stored) => prop_assert!(!matches!(names.decode(&alter(stored)), Ok(Decoded::Short(_)))),
            EncodedName::Long { stored, target, .. } => {
                prop_assert!(names.decode_long(&alter(stored), target.as_bytes()).is_err());
                prop_assert!(names.decode_long(stored.as_bytes(), &alter(target)).is_err());
            }
        }
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for encoding in BOTH {
            let names = dir(1, encoding);
            prop_assert!(!matches!(names.decode(&bytes), Ok(Decoded::Short(_))));
            prop_assert!(names.decode_long(&bytes, &bytes).is_err());
        }
        let links = Symlinks::new(&key(1));
        prop_assert!(links.open_short(&bytes).is_err());
        prop_assert!(links.open_long(&bytes, bytes.len()).is_err());
        prop_assert!(Symlinks::parse_long(&bytes).is_none());
        let xattrs = Xattrs::new(&key(1));
        prop_assert!(xattrs.decode_name(&bytes).is_none());
        prop_assert!(xattrs.open_value(b"a", &bytes).is_err());
    }

    #[test]
    fn symlinks_round_trip(target in proptest::collection::vec(1u8.., 1..=4095)) {
        let links = Symlinks::new(&key(1));
        match links.seal(&target).unwrap() {
            SealedLink::Short(text) => {
                prop_assert!(target.len() <= 3043 && text.len() <= 4095);
                prop_assert_eq!(plain_len(text.len() as u64), Some(target.len() as u64));
                prop_assert_eq!(links.open_short(text.as_bytes()), Ok(target));
                prop_assert!(Symlinks::parse_long(text.as_bytes()).is_none());
            }
            SealedLink::Long(LongLink { text, home_name, home_bytes }) => {
                prop_assert!(target.len() > 3043);
                prop_assert_eq!(text.len() as u64, LONG_LINK_LEN);
                prop_assert_eq!(plain_len(text.len() as u64), None);
                prop_assert_eq!(Symlinks::parse_long(text.as_bytes()), Some((home_name, target.len())));
                prop_assert_eq!(links.open_long(&home_bytes, target.len()), Ok(target));
            }
        }
    }

    #[test]
    fn xattrs_round_trip_and_are_bound_to_name_and_owner(
        name in proptest::collection::vec(1u8.., 1..=167),
        value in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let (here, there) = (Xattrs::new(&key(1)), Xattrs::new(&key(2)));
        let stored = here.encode_name(&name).unwrap();
        prop_assert!(stored.len() <= 255 && is_hidden_xattr(stored.as_bytes()));
        prop_assert_eq!(here.decode_name(stored.as_bytes()), Some(name.clone()));
        prop_assert_eq!(there.decode_name(stored.as_bytes()), None);
        let sealed = here.seal_value(&name, &value);
        prop_assert_eq!(sealed.len(), value.len() + VALUE_OVERHEAD);
        prop_assert!(there.open_value(&name, &sealed).is_err());
        prop_assert!(here.open_value(&[&name[..], b"x"].concat(), &sealed).is_err());
        for bit in [0, sealed.len() * 4, sealed.len() * 8 - 1] {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(here.open_value(&name, &altered).is_err());
        }
        prop_assert_eq!(here.open_value(&name, &sealed), Ok(value));
    }
}

#[test]
fn symlink_boundaries() {
    let links = Symlinks::new(&key(1));
    let SealedLink::Short(text) = links.seal(&[b'x'; 3043]).unwrap() else { panic!("3043 bytes are short") };
    assert_eq!(text.len(), 4095);
    assert!(matches!(links.seal(&[b'x'; 3044]), Ok(SealedLink::Long(_))));
    assert!(matches!(links.seal(&[b'x'; 4095]), Ok(SealedLink::Long(_))));
    // For a store that takes no long symlinks, a short target may have a home, too.
    let long = links.seal_long(b"short");
    assert_eq!(Symlinks::parse_long(long.text.as_bytes()), Some((long.home_name.clone(), 5)));
    assert_eq!(links.open_long(&long.home_bytes, 5).unwrap(), b"short");
    assert_eq!(links.seal(&[b'x'; 4096]), Err(NameError::TooLong));
    assert_eq!(links.seal(b""), Err(NameError::Invalid));
    assert_eq!(links.seal(b"a\0b"), Err(NameError::Invalid));
    // Two symlinks to the same target do not look alike.
    assert_ne!(links.seal(b"same"), links.seal(b"same"));
}

#[test]
fn a_home_is_named_by_base64url_alone() {
    let text = |id: &str, len: &str| format!("L{id}.{len}");
    let id = "AAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(Symlinks::parse_long(text(id, "04000").as_bytes()), Some((id.to_owned(), 4000)));
    for (id, len) in [
        (id, "00000"),
        (id, "04096"),
        (id, "+4000"),
        (id, "4000"),
        ("../../../../../../../x", "04000"),
        ("AAAAAAAAAAAAAAAAAAAAAB", "04000"),
        ("AAAAAAAAAAAAAAAAAAAAA", "04000"),
    ] {
        assert_eq!(Symlinks::parse_long(text(id, len).as_bytes()), None, "{id} {len}");
    }
    let links = Symlinks::new(&key(1));
    let SealedLink::Long(LongLink { home_bytes, .. }) = links.seal(&[b'x'; 4000]).unwrap() else {
        panic!("4000 bytes are long")
    };
    assert_eq!(links.open_long(&home_bytes, 4001), Err(NameError::Malformed));
    assert!(Symlinks::new(&key(2)).open_long(&home_bytes, 4000).is_err());
}

#[test]
fn xattr_name_boundaries() {
    let xattrs = Xattrs::new(&key(1));
    assert_eq!(xattrs.encode_name(&[b'x'; 167]).unwrap().len(), 254);
    assert_eq!(xattrs.encode_name(&[b'x'; 168]), Err(NameError::TooLong));
    assert_eq!(xattrs.encode_name(b""), Err(NameError::Invalid));
    assert_eq!(xattrs.decode_name(b"user.plain"), None);
    assert!(is_hidden_xattr(b"user.kmsf") && !is_hidden_xattr(b"user.kmsfx") && !is_hidden_xattr(b"user.plain"));
}
