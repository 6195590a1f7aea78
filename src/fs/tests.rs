//! What one call finds while another one is half done: nothing that a mount can be made to show every time.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use tempfile::TempDir;

use super::upkeep::{Name, Request};
use super::*;
use crate::crypto::Suite;
use crate::envelope::{NewVolume, Placement, VolumeHeader, create_volume};
use crate::kms::LocalKms;

struct Scene {
    backing: TempDir,
    kms: Arc<LocalKms>,
    caller: Caller,
}

impl Scene {
    fn new() -> Self {
        let backing = tempfile::tempdir().unwrap();
        let (kms, key) = LocalKms::ephemeral();
        let (suite, placement, names) = (Suite::Gcm4k, Placement::Xattr, NameForm::Base64Url);
        create_volume(
            backing.path(),
            &kms,
            &NewVolume { key: &key, suite, placement, names, labels: &BTreeMap::new() },
        )
        .unwrap();
        let caller = Caller { uid: sys::process::effective_uid(), gid: 0, pid: std::process::id() };
        Self { backing, kms: Arc::new(kms), caller }
    }

    fn mount(&self) -> Arc<EncryptedFs> {
        let volume = VolumeHeader::load(self.backing.path()).unwrap().0.unlock(&*self.kms).unwrap();
        let backing = self.backing.path().to_path_buf();
        let config = FsConfig { backing, read_only: false, durability: Durability::Atomic, allow_other: false };
        EncryptedFs::new(volume, self.kms.clone(), config).unwrap()
    }

    fn mkdir(&self, fs: &EncryptedFs, name: &[u8]) -> Ino {
        fs.mkdir(&self.caller, at(name), NEW).unwrap().attr.ino
    }

    fn create(&self, fs: &EncryptedFs, parent: Ino, name: &[u8]) -> Result<Created> {
        fs.create(&self.caller, parent, name, NEW, OpenMode { write: true, ..OpenMode::default() })
    }

    /// Where the store has `name`, which lies in the root.
    fn stored(&self, fs: &EncryptedFs, name: &[u8]) -> PathBuf {
        let name = fs.dir(Ino::ROOT).unwrap().encode(name).unwrap();
        self.backing.path().join(String::from_utf8(dirs::stored(&name).to_vec()).unwrap())
    }
}

const NEW: NewMode = NewMode { perm: 0o755, umask: 0 };

fn at(name: &[u8]) -> Location {
    Location::new(Ino::ROOT, name)
}

#[test]
fn a_write_to_a_file_that_fades_and_may_be_used_again_comes_to_an_end() {
    let scene = Scene::new();
    let fs = scene.mount();
    let made = scene.create(&fs, Ino::ROOT, b"f").unwrap();
    fs.write(made.handle, 0, &[1; 9000], WriteOrigin::Cache).unwrap();
    // Its CMK was disabled, and is enabled again before anything was dropped.
    assert!(fs.files.peek(made.looked.attr.ino).unwrap().content.fade());
    let (tell, told) = mpsc::channel();
    std::thread::spawn({
        let fs = fs.clone();
        move || tell.send(fs.write(made.handle, 4, &[2; 3], WriteOrigin::Caller).map_err(|error| error.errno()))
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(Ok(())));
    let mut found = [0; 8];
    fs.read(made.handle, 0, &mut found).unwrap();
    assert_eq!(found, [1, 1, 1, 1, 2, 2, 2, 1]);
}

#[test]
fn a_directory_is_found_while_it_is_renamed() {
    let scene = Scene::new();
    let fs = scene.mount();
    scene.mkdir(&fs, b"old");
    std::fs::rename(scene.stored(&fs, b"old"), scene.stored(&fs, b"new")).unwrap();
    for (first, then) in [(b"old", b"new"), (b"new", b"old")] {
        let fs = scene.mount();
        let stat = fs.lookup(Ino::ROOT, b"new").unwrap().attr.stat;
        let ino = Ino(stat.ino);
        fs.inodes.looked_up(ino, at(first), &stat, 0);
        fs.inodes.renaming(ino, &at(then));
        assert_eq!(fs.lookup(ino, b"none").unwrap_err().errno(), Errno::NOENT, "the directory itself is found");
    }
}

#[test]
fn a_name_in_a_directory_that_is_not_found_is_no_missing_name() {
    let scene = Scene::new();
    let fs = scene.mount();
    scene.mkdir(&fs, b"d");
    let fs = scene.mount();
    let ino = fs.lookup(Ino::ROOT, b"d").unwrap().attr.ino;
    let stored = scene.stored(&fs, b"d");
    std::fs::rename(&stored, scene.backing.path().join("aside")).unwrap();
    assert_eq!(fs.lookup(ino, b"x").unwrap_err().errno(), Errno::STALE);
    std::fs::write(&stored, b"no directory").unwrap();
    assert_eq!(fs.lookup(ino, b"x").unwrap_err().errno(), Errno::STALE);
}

#[test]
fn nothing_is_made_in_a_directory_that_is_being_shredded() {
    let scene = Scene::new();
    let fs = scene.mount();
    let mut shredded = 0;
    for round in 0..200_u32 {
        let name = format!("d{round}").into_bytes();
        let ino = scene.mkdir(&fs, &name);
        let (start, request) = (Barrier::new(2), Request::Shred { name: Name(name.clone()) });
        let (made, shred) = std::thread::scope(|scope| {
            let making = scope.spawn(|| {
                start.wait();
                std::thread::sleep(Duration::from_micros(u64::from(round) * 10));
                fs.mknod(&scene.caller, Location::new(ino, b"x"), FileKind::File, NEW, 0).is_ok()
            });
            start.wait();
            let shred = fs.upkeep(&scene.caller, (Ino::ROOT, 0), &request).is_ok();
            (making.join().unwrap(), shred)
        });
        assert!(!(made && shred), "round {round}: a file was made, and its directory shredded");
        shredded += u32::from(shred);
    }
    assert!(shredded > 0, "it was always too late");
}

#[test]
fn an_open_file_knows_that_it_got_a_long_name() {
    let scene = Scene::new();
    let fs = scene.mount();
    let long = |first| at(&[first; 250]);
    for (letter, by_link) in [(b'a', false), (b'b', true)] {
        let made = scene.create(&fs, Ino::ROOT, &[letter]).unwrap();
        let ino = made.looked.attr.ino;
        let is_long = || fs.files.peek(ino).unwrap().long_name.load(std::sync::atomic::Ordering::Relaxed);
        assert!(!is_long());
        if by_link {
            fs.link(&scene.caller, ino, long(letter)).unwrap();
        } else {
            fs.rename(&scene.caller, &at(&[letter]), &long(letter), RenameFlags::empty()).unwrap();
        }
        assert!(is_long());
        fs.fsync(made.handle, false).unwrap();
    }
}
