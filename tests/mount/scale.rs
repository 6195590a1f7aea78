//! Many files: big directories, stable offsets, bounded descriptors, parallel work.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::setting;
use crate::ops::{child, lstat, mkdir, names, pattern, read, write};
use crate::place::Place;

/// More descriptors than this are a leak, whatever caches there are.
const DESCRIPTORS: usize = 1000;

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors of the daemon").count()
}

#[test]
fn a_directory_of_many_entries_lists_and_goes_away() {
    let mut place = Place::own();
    let count = setting("KMSFS_BIG_DIRECTORY", 100_000) as usize;
    mkdir(&place.at("d"));
    for number in 0..count {
        File::create(place.at(format!("d/{number}"))).unwrap_or_else(|e| panic!("create of {number}: {e}"));
    }
    let mut expected: Vec<Vec<u8>> = (0..count).map(|number| number.to_string().into_bytes()).collect();
    expected.sort();
    assert!(names(&place.at("d")) == expected, "every name once");
    place.remount(&[]);
    assert!(names(&place.at("d")) == expected, "every name once after a remount");
    let mut most = 0;
    for number in 0..count {
        assert_eq!(lstat(&place.at(format!("d/{number}"))).len(), 0);
        if number % 10 == 0 {
            drop(File::open(place.at(format!("d/{number}"))).expect("open"));
        }
        if number % 1000 == 0 {
            most = most.max(descriptors(place.daemon()));
        }
    }
    assert!(most < DESCRIPTORS, "{most} descriptors while {count} files were looked up");
    for number in 0..count {
        fs::remove_file(place.at(format!("d/{number}"))).expect("unlink");
    }
    fs::remove_dir(place.at("d")).expect("the directory is empty");
}

#[test]
fn walking_many_directories_needs_few_descriptors() {
    let mut place = Place::own();
    for number in 0..2000 {
        mkdir(&place.at(format!("d{number}")));
        write(&place.at(format!("d{number}/f")), pattern(number, 0, 100));
    }
    place.remount(&[]);
    let mut most = 0;
    for number in 0..2000 {
        assert_eq!(names(&place.at(format!("d{number}"))), [b"f"]);
        assert!(read(&place.at(format!("d{number}/f"))) == pattern(number, 0, 100));
        most = most.max(descriptors(place.daemon()));
    }
    assert!(most < DESCRIPTORS, "{most} descriptors while 2000 directories were read");
}

#[test]
fn files_written_one_after_the_other_need_few_descriptors() {
    let place = Place::own();
    let mut most = 0;
    for number in 0..5000u64 {
        write(&place.at(format!("f{number}")), pattern(number, 0, 100));
        if number % 500 == 499 {
            most = most.max(descriptors(place.daemon()));
        }
    }
    assert!(most < DESCRIPTORS, "{most} descriptors while small files were written");
}

#[test]
fn thousands_of_files_can_be_open_at_once_and_are_let_go() {
    let place = Place::own();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("setrlimit");
    let before = descriptors(place.daemon());
    let open: Vec<File> = (0..3000u64)
        .map(|number| {
            let path = place.at(number.to_string());
            write(&path, pattern(number, 0, 64));
            File::open(&path).unwrap_or_else(|e| panic!("open of file {number} while the others are open: {e}"))
        })
        .collect();
    for (number, file) in open.iter().enumerate() {
        let mut content = [0; 64];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut content, 0).expect("read");
        assert!(content[..] == pattern(number as u64, 0, 64));
    }
    drop(open);
    crate::harness::wait_until("descriptors to be let go", || descriptors(place.daemon()) < before + DESCRIPTORS);
}

/// Entries of a directory without `.` and `..`, each with the offset behind it, beginning at `from`.
fn entries(dir: &File, from: u64) -> Vec<(Vec<u8>, u64)> {
    seek(dir, SeekFrom::Start(from)).expect("seekdir");
    let mut room = [MaybeUninit::uninit(); 2048];
    let mut reader = RawDir::new(dir, &mut room);
    let mut found = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry.expect("getdents");
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
        }
    }
    found
}

fn unlink(dir: &Path, name: &[u8]) {
    fs::remove_file(child(dir, name)).unwrap_or_else(|e| panic!("unlink of {}: {e}", String::from_utf8_lossy(name)));
}

#[test]
fn directory_offsets_stay_true_while_entries_go() {
    let place = Place::shared();
    for number in 0..500 {
        File::create(place.at(format!("entry{number}"))).expect("create");
    }
    let dir = File::open(&*place).expect("open of a directory");
    let all = entries(&dir, 0);
    assert_eq!(all.len(), 500);
    for (name, _) in all.iter().skip(1).step_by(2) {
        unlink(&place, name);
    }
    for number in (0..498).step_by(14) {
        // whether what was removed after opendir(3) still shows is open; what stays shows once, in the same order
        let behind = entries(&dir, all[number].1).into_iter().map(|(name, _)| name);
        let kept: Vec<Vec<u8>> = behind.filter(|name| child(&place, name).exists()).collect();
        let expected: Vec<Vec<u8>> = all[number + 2..].iter().step_by(2).map(|(name, _)| name.clone()).collect();
        assert!(kept == expected, "behind entry {number}: {} of {}", kept.len(), expected.len());
    }
    let reopened = File::open(&*place).expect("open of a directory");
    assert_eq!(entries(&reopened, 0).len(), 250);
}

#[test]
fn deleting_while_listing_misses_nothing() {
    let place = Place::shared();
    for number in 0..3000 {
        File::create(place.at(format!("entry{number}"))).expect("create");
    }
    let mut seen = 0;
    for entry in fs::read_dir(&*place).expect("read directory") {
        fs::remove_file(entry.expect("entry").path()).expect("each entry is listed once");
        seen += 1;
    }
    assert_eq!(seen, 3000);
    assert_eq!(names(&place), [[0u8; 0]; 0]);
}

#[test]
fn parallel_hands_do_not_disturb_each_other() {
    let mut place = Place::own();
    mkdir(&place.at("common"));
    std::thread::scope(|scope| {
        for hand in 0..8u64 {
            let place = &place;
            scope.spawn(move || {
                for round in 0..40u64 {
                    let (size, seed) = ((round * 2999 % 40_000) as usize, hand * 1000 + round);
                    let (path, moved) =
                        (place.at(format!("common/{hand}.{round}")), place.at(format!("{hand}.{round}")));
                    write(&path, pattern(seed, 0, size));
                    assert!(read(&path) == pattern(seed, 0, size), "hand {hand}, round {round}");
                    fs::rename(&path, &moved).expect("rename");
                    if round % 3 == 0 {
                        fs::remove_file(&moved).expect("unlink");
                    }
                }
            });
        }
    });
    place.remount(&[]);
    for (hand, round) in (0..8u64).flat_map(|hand| (0..40u64).map(move |round| (hand, round))) {
        let path = place.at(format!("{hand}.{round}"));
        assert_eq!(path.exists(), round % 3 != 0, "{}", path.display());
        if round % 3 != 0 {
            assert!(read(&path) == pattern(hand * 1000 + round, 0, (round * 2999 % 40_000) as usize));
        }
    }
    assert_eq!(names(&place.at("common")), [[0u8; 0]; 0]);
    assert_eq!(lstat(&place.at("common")).nlink(), 2);
}
