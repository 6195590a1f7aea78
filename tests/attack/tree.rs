//! Attacks on names, places, envelopes, links and attributes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use kmsfs::envelope::{DIRECTORY_SIDECAR, sidecar_name};

use crate::harness::{sidecars, skipped_in_plain_mode};
use crate::ops::{
    Errno, get_xattr, list_xattrs, mkdir, names, pattern, read, remove_xattr, rename, said, set_xattr, write,
};
use crate::victim::{Victim, expect_damage, expect_found, expect_whole, found};

const ENVELOPE: &str = "user.kmsf";
const SIZES: [usize; 2] = [3000, 20_000];

type Change = fn(&mut Vec<u8>);

/// Where the envelope of a backing object is if it has a file of its own.
fn sidecar(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.join(DIRECTORY_SIDECAR);
    }
    path.with_file_name(sidecar_name(path.file_name().expect("a name").as_encoded_bytes()))
}

fn envelope(path: &Path) -> Vec<u8> {
    if sidecars() {
        return read(&sidecar(path));
    }
    get_xattr(path, ENVELOPE).unwrap_or_else(|e| panic!("envelope of {}: {e}", path.display()))
}

fn set_envelope(path: &Path, bytes: &[u8]) {
    if sidecars() {
        return write(&sidecar(path), bytes);
    }
    set_xattr(path, ENVELOPE, bytes).expect("set");
}

fn remove_envelope(path: &Path) {
    if sidecars() {
        return fs::remove_file(sidecar(path)).expect("remove");
    }
    remove_xattr(path, ENVELOPE).expect("remove");
}

fn exchange_envelopes(a: &Path, b: &Path) {
    let (first, second) = (envelope(a), envelope(b));
    set_envelope(a, &second);
    set_envelope(b, &first);
}

/// Two directories with the same names inside: `x/KIND-SIZE`, `y/KIND-SIZE`, content by directory.
fn twins(kinds: &'static [&'static str]) -> (Victim, Vec<(String, usize)>) {
    let all = kinds.iter().flat_map(|kind| SIZES.map(|size| (format!("{kind}-{size}"), size)));
    let all: Vec<(String, usize)> = all.collect();
    let victim = Victim::new(|root| {
        for dir in ["x", "y"] {
            mkdir(&root.join(dir));
            for (name, size) in &all {
                write(&root.join(dir).join(name), content(dir, *size));
            }
        }
    });
    (victim, all)
}

fn content(dir: &str, size: usize) -> Vec<u8> {
    pattern(u64::from(dir.as_bytes()[0]), 0, size)
}

#[test]
fn envelopes_fit_no_other_file() {
    if skipped_in_plain_mode() {
        return;
    }
    let (victim, all) = twins(&["one", "two"]);
    for size in SIZES {
        let file = |dir: &str, kind: &str| victim.backing(format!("{dir}/{kind}-{size}"));
        exchange_envelopes(&file("x", "one"), &file("y", "one"));
        exchange_envelopes(&file("x", "two"), &victim.backing(format!("x/two-{}", SIZES[0])));
        exchange_envelopes(&file("y", "two"), &file("x", "two"));
    }
    let mount = victim.mount();
    for (name, size) in &all {
        for dir in ["x", "y"] {
            expect_damage(&mount, &format!("{dir}/{name}"), &content(dir, *size));
        }
    }
}

#[test]
fn an_edited_or_missing_envelope_opens_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let edits: [(&str, Change); 9] = [
        ("gone", Vec::clear),
        ("kind", |bytes| bytes[0] = (bytes[0] & 0xF0) | 2),
        ("linked", |bytes| bytes[0] |= 0x80),
        ("moving", |bytes| bytes[0] |= 0x40),
        ("reserved", |bytes| bytes[0] |= 0x10),
        ("key", |bytes| bytes[2] ^= 1),
        ("version", |bytes| bytes[6] ^= 1),
        ("ciphertext", |bytes| bytes[30] ^= 1),
        ("short", |bytes| bytes.truncate(67)),
    ];
    let victim = Victim::new(|root| {
        for size in SIZES {
            edits.iter().for_each(|(name, _)| write(&root.join(format!("{name}-{size}")), content("x", size)));
        }
    });
    for (size, (name, edit)) in SIZES.into_iter().flat_map(|size| edits.iter().map(move |edit| (size, edit))) {
        let path = victim.backing(format!("{name}-{size}"));
        let mut bytes = envelope(&path);
        edit(&mut bytes);
        if bytes.is_empty() {
            remove_envelope(&path);
        } else {
            set_envelope(&path, &bytes);
        }
    }
    let mount = victim.mount();
    for (size, (name, _)) in SIZES.into_iter().flat_map(|size| edits.iter().map(move |edit| (size, edit))) {
        expect_damage(&mount, &format!("{name}-{size}"), &content("x", size));
    }
}

/// The mirror opens no file: else it could stand in for an envelope that is bound to its place.
#[test]
fn a_mirror_is_no_envelope() {
    if skipped_in_plain_mode() {
        return;
    }
    let (victim, all) = twins(&["one"]);
    for (name, _) in &all {
        let path = victim.backing(format!("x/{name}"));
        let mirror = read(&path)[152..220].to_vec();
        assert!(mirror.iter().any(|&byte| byte != 0), "there is a mirror");
        set_envelope(&path, &mirror);
    }
    let mount = victim.mount();
    for (name, size) in &all {
        expect_damage(&mount, &format!("x/{name}"), &content("x", *size));
        expect_whole(&mount, &format!("y/{name}"), &content("y", *size));
    }
}

#[test]
fn files_moved_to_another_directory_do_not_open() {
    if skipped_in_plain_mode() {
        return;
    }
    let (victim, all) = twins(&["one"]);
    for (name, _) in &all {
        let (first, second) = (victim.backing(format!("x/{name}")), victim.backing(format!("y/{name}")));
        rename(&first, &second, rustix::fs::RenameFlags::EXCHANGE).expect("exchange");
        if sidecars() {
            exchange_envelopes(&first, &second);
        }
    }
    // one more, under the name that it had at home
    let stray = victim.backing(format!("x/{}", all[0].0));
    let stray_name = stray.file_name().expect("a name");
    let y = victim.backing("y");
    if !y.join(stray_name).exists() {
        fs::hard_link(&stray, y.join(stray_name)).expect("link");
    }
    let mount = victim.mount();
    for (name, size) in &all {
        for dir in ["x", "y"] {
            expect_damage(&mount, &format!("{dir}/{name}"), &content(dir, *size));
        }
    }
    let mut expected: Vec<Vec<u8>> = all.iter().map(|(name, _)| name.clone().into_bytes()).collect();
    expected.sort();
    assert_eq!(names(&mount.at("y")), expected, "a name from elsewhere is not shown");
}

/// Nothing below `name` may come out; listing it fails or shows nothing.
fn expect_closed(mount: &crate::harness::Mount, name: &str, below: &str) {
    let listed = fs::read_dir(mount.at(name)).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    match said(listed) {
        Ok(entries) => assert!(entries.is_empty(), "{name} shows {entries:?}"),
        Err(error) => assert_eq!(error, Errno::IO, "listing {name}"),
    }
    let opened = said(fs::read(mount.at(name).join(below)));
    assert!(matches!(opened, Err(Errno::IO | Errno::NOENT)), "{name}/{below}: {opened:?}");
    expect_found(mount, name);
    mount.wait_log(&[name]);
}

#[test]
fn directories_moved_or_given_other_envelopes_stay_closed() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        for dir in ["x", "y", "x/moved", "y/moved", "x/keys", "y/keys", "x/bare", "x/same1", "x/same2", "x/good"] {
            mkdir(&root.join(dir));
            write(&root.join(dir).join("file"), content("x", 5000));
        }
    });
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rename(&victim.backing("x/moved"), &victim.backing("y/moved"), exchange).expect("exchange");
    exchange_envelopes(&victim.backing("x/keys"), &victim.backing("y/keys"));
    exchange_envelopes(&victim.backing("x/same1"), &victim.backing("x/same2"));
    remove_envelope(&victim.backing("x/bare"));
    let mount = victim.mount();
    for name in ["x/moved", "y/moved", "x/keys", "y/keys", "x/bare", "x/same1", "x/same2"] {
        expect_closed(&mount, name, "file");
    }
    expect_whole(&mount, "x/good/file", &content("x", 5000));
}

#[test]
fn edited_names_are_not_shown() {
    if skipped_in_plain_mode() {
        return;
    }
    let long = |kind: &str| format!("{kind}{}", "n".repeat(240));
    let victim = Victim::new(|root| {
        for name in ["edited", "upper", "kept", "copied"] {
            write(&root.join(name), content("x", 3000));
        }
        mkdir(&root.join("edited-dir"));
        for kind in ["edited", "sideless", "crossed", "kept"] {
            write(&root.join(long(kind)), content("x", 3000));
        }
    });
    let other_letter = |path: &Path| {
        let mut name = path.file_name().and_then(|name| name.to_str()).expect("encoded names are ASCII").to_owned();
        let letter = if name.as_bytes()[5] == b'A' { "B" } else { "A" };
        name.replace_range(5..6, letter);
        path.with_file_name(name)
    };
    for name in ["edited", "edited-dir", &long("edited")] {
        let path = victim.backing(name);
        fs::rename(&path, other_letter(&path)).expect("rename");
    }
    let copied = victim.backing("copied");
    fs::hard_link(&copied, other_letter(&copied)).expect("link");
    fs::hard_link(&copied, copied.with_file_name("plain name")).expect("link");
    if sidecars() {
        for other in [other_letter(&copied), copied.with_file_name("plain name")] {
            fs::copy(sidecar(&copied), sidecar(&other)).expect("copy");
        }
    }
    let upper = victim.backing("upper");
    let text = upper.file_name().and_then(|name| name.to_str()).expect("ASCII").to_owned();
    fs::rename(&upper, upper.with_file_name(format!("{text}="))).expect("rename");
    let side = |name: &str| {
        let path = victim.backing(name);
        let text = path.file_name().and_then(|name| name.to_str()).expect("ASCII").to_owned();
        path.with_file_name(format!(".kmsfs.n.{}", &text[1..]))
    };
    fs::remove_file(side(&long("sideless"))).expect("the name beside a long-named file");
    if sidecars() {
        write(&side(&long("crossed")), read(&side(&long("kept"))));
    } else {
        let target = fs::read_link(side(&long("kept"))).expect("readlink");
        fs::remove_file(side(&long("crossed"))).expect("unlink");
        symlink(target, side(&long("crossed"))).expect("symlink");
    }

    let mount = victim.mount();
    let at_root = victim.volume.backing.read_dir().expect("read").map(|entry| entry.expect("entry").file_name());
    let hidden: Vec<String> = at_root.map(|name| name.into_string().expect("ASCII")).collect();
    // two names of a file that is shown under a third, and what lost its name
    let lost = hidden.iter().filter(|name| found(&mount, &format!("?{name}"))).count();
    assert_eq!(lost, 8, "of {hidden:?}");
    let mut expected = vec![b"copied".to_vec(), b"kept".to_vec(), long("kept").into_bytes()];
    expected.sort();
    assert_eq!(names(mount.dir()), expected);
    for name in ["copied", "kept", &long("kept")] {
        expect_whole(&mount, name, &content("x", 3000));
    }
    for name in ["edited", "upper", &long("edited"), "plain name"] {
        assert!(matches!(said(fs::read(mount.at(name))), Err(Errno::NOENT | Errno::IO)), "{name}");
    }
}

#[test]
fn edited_symlinks_answer_eio() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        for name in ["edited", "plain", "kept"] {
            symlink("where it leads", root.join(name)).expect("symlink");
        }
        symlink("t".repeat(4000), root.join("long")).expect("symlink");
    });
    let replace = |name: &str, edit: &dyn Fn(String) -> String| {
        let path = victim.backing(name);
        let target = fs::read_link(&path).expect("readlink").into_os_string().into_string().expect("ASCII");
        fs::remove_file(&path).expect("unlink");
        symlink(edit(target), &path).expect("symlink");
    };
    replace("edited", &|target| format!("{}{}", if target.starts_with('A') { 'B' } else { 'A' }, &target[1..]));
    replace("plain", &|_| "/etc/passwd".to_owned());
    for home in fs::read_dir(victim.volume.backing.join(".kmsfs/links")).expect("links") {
        let home = home.expect("entry").path();
        let mut bytes = read(&home);
        bytes[100] ^= 1;
        write(&home, bytes);
    }
    let mount = victim.mount();
    for name in ["edited", "plain", "long"] {
        assert_eq!(said(fs::read_link(mount.at(name))), Err(Errno::IO), "{name}");
        expect_found(&mount, name);
        mount.wait_log(&[name]);
    }
    assert_eq!(fs::read_link(mount.at("kept")).expect("readlink"), Path::new("where it leads"));
}

#[test]
fn edited_attributes_never_show_wrong_values() {
    if skipped_in_plain_mode() {
        return;
    }
    let victim = Victim::new(|root| {
        for name in ["giver", "taker", "edited"] {
            write(&root.join(name), content("x", 3000));
        }
        set_xattr(&root.join("giver"), "user.secret", b"of the giver").expect("set");
        set_xattr(&root.join("taker"), "user.other", b"of the taker").expect("set");
        set_xattr(&root.join("edited"), "user.edited", b"original").expect("set");
    });
    let stored = |name: &str| {
        let path = victim.backing(name);
        let list = list_xattrs(&path).expect("list");
        let found = list.into_iter().find(|name| name.starts_with("user.kmsx.")).expect("a sealed attribute");
        (path, found)
    };
    let (giver, sealed_name) = stored("giver");
    let (taker, other_name) = stored("taker");
    let value = get_xattr(&giver, &sealed_name).expect("value");
    set_xattr(&taker, &sealed_name, &value).expect("set");
    set_xattr(&taker, &other_name, &value).expect("set");
    let (edited, name) = stored("edited");
    let mut bytes = get_xattr(&edited, &name).expect("value");
    bytes[14] ^= 1;
    set_xattr(&edited, &name, &bytes).expect("set");

    let mount = victim.mount();
    expect_found(&mount, "edited");
    expect_found(&mount, "taker");
    assert_eq!(get_xattr(&mount.at("edited"), "user.edited"), Err(Errno::IO));
    mount.wait_log(&["edited"]);
    assert_eq!(get_xattr(&mount.at("taker"), "user.other"), Err(Errno::IO), "a value from another file");
    assert_eq!(get_xattr(&mount.at("taker"), "user.secret"), Err(Errno::NODATA));
    assert_eq!(list_xattrs(&mount.at("taker")), Ok(vec!["user.other".to_owned()]), "a name from another file");
    assert_eq!(get_xattr(&mount.at("giver"), "user.secret").as_deref(), Ok(&b"of the giver"[..]));
}
