//! Attacks on the volume's own folder.

use std::fs;

use crate::harness::{Volume, is_advice, skipped_in_plain_mode};
use crate::ops::{pattern, read, write};
use crate::victim::Victim;

fn victim() -> Victim {
    Victim::new(|root| write(&root.join("file"), pattern(1, 0, 9000)))
}

fn edit(volume: &Volume, copies: &[&str], change: impl Fn(&str) -> String) {
    for copy in copies {
        let path = volume.backing.join(".kmsfs").join(copy);
        let text = String::from_utf8(read(&path)).expect("JSON is UTF-8");
        let changed = change(&text);
        assert_ne!(changed, text, "the attack must change {copy}");
        write(&path, changed);
    }
}

type Change = fn(&str) -> String;

/// The text with the first letter or digit of a field's value replaced.
fn spoil(text: &str, field: &str) -> String {
    let name = format!("\"{field}\"");
    let start = text.find(&name).unwrap_or_else(|| panic!("no {field} in {text}")) + name.len();
    let at = start + text[start..].find(|c: char| c.is_ascii_alphanumeric()).expect("a value");
    let other = if &text[at..=at] == "0" { "1" } else { "0" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

#[test]
fn an_edited_header_mounts_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let edits: [(&str, Change); 5] = [
        ("uuid", |text| spoil(text, "uuid")),
        ("volume_key", |text| spoil(text, "volume_key")),
        ("suite", |text| text.replacen("\"gcm\"", "\"xts\"", 1)),
        ("names", |text| text.replacen("\"base64url\"", "\"base32\"", 1)),
        ("key", |text| spoil(text, "key")),
    ];
    let victim = victim();
    for (name, change) in edits {
        let good = read(&victim.volume.backing.join(".kmsfs/volume.json"));
        edit(&victim.volume, &["volume.json", "volume.json.bak"], change);
        match victim.volume.try_mount(&[]) {
            Ok(_) => panic!("a volume with another {name} was mounted"),
            Err(refusal) => {
                assert!(matches!(refusal.code, Some(3 | 4 | 7 | 8)), "{name}: {refusal:?}");
                assert!(is_advice(&refusal.said), "{name}: {refusal:?}");
            }
        }
        for copy in ["volume.json", "volume.json.bak"] {
            write(&victim.volume.backing.join(".kmsfs").join(copy), &good);
        }
    }
    let mount = victim.mount();
    assert!(read(&mount.at("file")) == pattern(1, 0, 9000), "with the header put back");
}

#[test]
fn one_edited_copy_of_the_header_never_gives_wrong_bytes() {
    if skipped_in_plain_mode() {
        return;
    }
    for copy in ["volume.json", "volume.json.bak"] {
        for field in ["uuid", "volume_key"] {
            let victim = victim();
            edit(&victim.volume, &[copy], |text| spoil(text, field));
            match victim.volume.try_mount(&[]) {
                Ok(mount) => assert!(read(&mount.at("file")) == pattern(1, 0, 9000)),
                Err(refusal) => assert!(is_advice(&refusal.said), "{refusal:?}"),
            }
        }
    }
}

#[test]
fn the_header_of_another_volume_opens_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let (victim, other) = (victim(), victim());
    for copy in ["volume.json", "volume.json.bak"] {
        fs::copy(other.volume.backing.join(".kmsfs").join(copy), victim.volume.backing.join(".kmsfs").join(copy))
            .expect("copy");
    }
    let mut mixed = victim.volume.clone();
    mixed.keystore = other.volume.keystore.clone();
    if let Ok(mount) = mixed.try_mount(&[]) {
        assert!(fs::read(mount.at("file")).is_err(), "a file of another volume");
    }
}

#[test]
fn a_damaged_keystore_copy_is_refused_when_it_is_the_only_one() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = victim();
    let bundle = victim.volume.backing.join(".kmsfs/keystore.bundle");
    let good = read(&bundle);
    let mut alone = victim.volume.clone();
    alone.keystore = victim.volume.base().join("nothing here");
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        write(&bundle, bytes);
        match alone.try_mount(&[]) {
            Ok(mount) => assert!(read(&mount.at("file")) == pattern(1, 0, 9000), "byte {at}"),
            Err(refusal) => {
                assert!(matches!(refusal.code, Some(3 | 8)), "{refusal:?}");
                assert!(is_advice(&refusal.said), "{refusal:?}");
            }
        }
        let mount = victim.mount();
        assert!(read(&mount.at("file")) == pattern(1, 0, 9000), "the own keystore suffices, byte {at}");
        mount.unmount();
    }
    write(&bundle, good);
    let mount = alone.mount(&[]);
    assert!(read(&mount.at("file")) == pattern(1, 0, 9000));
}
