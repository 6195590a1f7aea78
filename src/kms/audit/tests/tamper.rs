//! Every kind of tampering is found, and a torn line is not taken for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{assert_sound, checked, events, filled, keys, named, open, used};
use crate::crypto::{Secret, random};
use crate::kms::audit::chain::{file_numbers, file_path};
use crate::kms::audit::store::Store;
use crate::kms::audit::{Keys, Options, verify};

fn first(dir: &Path) -> PathBuf {
    file_path(dir, 1)
}

fn lines(path: &Path) -> Vec<Vec<u8>> {
    fs::read(path).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn write(path: &Path, lines: &[Vec<u8>]) {
    fs::write(path, lines.concat()).unwrap();
}

/// The line of the first file that a check names.
#[track_caller]
fn faulty_line(dir: &Path) -> u64 {
    let fault = checked(dir).fault.expect("it is found");
    assert_eq!(fault.file, first(dir));
    fault.line.expect("a line is named")
}

#[test]
fn every_changed_byte_is_found_in_its_line() {
    let dir = filled(3);
    let whole = fs::read(first(dir.path())).unwrap();
    let mut line = 1;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        let [change] = random::array::<1>();
        bytes[at] ^= change.max(1);
        fs::write(first(dir.path()), &bytes).unwrap();
        // A line feed more or less moves the fault by nothing: the line begins where it began.
        assert_eq!(faulty_line(dir.path()), line, "byte {at}");
        if whole[at] == b'\n' {
            line += 1;
        }
    }
    fs::write(first(dir.path()), &whole).unwrap();
    assert_sound(dir.path());
}

#[test]
fn lines_that_were_removed_moved_repeated_or_put_in_are_found() {
    let dir = filled(6);
    let whole = lines(&first(dir.path()));
    for at in 0..whole.len() {
        let mut without = whole.clone();
        without.remove(at);
        write(&first(dir.path()), &without);
        let fault = checked(dir.path()).fault.expect("a removed line is found");
        let expected = if at + 1 == whole.len() { None } else { Some(at as u64 + 1) };
        assert_eq!(fault.line, expected, "line {at}: {}", fault.what);

        let mut twice = whole.clone();
        twice.insert(at, whole[at].clone());
        write(&first(dir.path()), &twice);
        assert_eq!(faulty_line(dir.path()), at as u64 + 2);

        for other in at + 1..whole.len() {
            let mut swapped = whole.clone();
            swapped.swap(at, other);
            write(&first(dir.path()), &swapped);
            assert_eq!(faulty_line(dir.path()), at as u64 + 1);
        }
    }
    write(&first(dir.path()), &whole);
    assert_sound(dir.path());
}

#[test]
fn a_line_of_another_key_is_found() {
    let dir = filled(2);
    let other = tempfile::tempdir().unwrap();
    let others = Keys::derive(&Secret::build(|bytes| bytes.fill(8)));
    let log = crate::kms::audit::Log::open(other.path(), others, Options::default()).unwrap();
    (0..2).for_each(|n| log.record(used("Decrypt", n)).unwrap());
    drop(log);
    let mut mixed = lines(&first(dir.path()));
    mixed[1] = lines(&first(other.path()))[1].clone();
    write(&first(dir.path()), &mixed);
    assert_eq!(faulty_line(dir.path()), 2);
    assert!(checked(other.path()).fault.unwrap().file.ends_with("anchor"), "that log is not ours at all");
}

#[test]
fn a_tail_that_was_cut_is_found_at_every_byte() {
    let dir = filled(2);
    let whole = fs::read(first(dir.path())).unwrap();
    for length in 0..whole.len() {
        fs::write(first(dir.path()), &whole[..length]).unwrap();
        assert!(checked(dir.path()).fault.is_some(), "cut after {length} bytes");
    }
    fs::remove_file(first(dir.path())).unwrap();
    let fault = checked(dir.path()).fault.unwrap();
    assert!(fault.what.contains("missing"), "{}", fault.what);
}

#[test]
fn a_missing_or_forged_anchor_is_found() {
    let dir = filled(2);
    let anchor = dir.path().join("anchor");
    let whole = fs::read(&anchor).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&anchor, &bytes).unwrap();
        assert!(checked(dir.path()).fault.unwrap().file.ends_with("anchor"), "byte {at}");
    }
    fs::remove_file(&anchor).unwrap();
    assert!(checked(dir.path()).fault.unwrap().what.contains("missing"));
    fs::remove_file(first(dir.path())).unwrap();
    assert_eq!(verify(dir.path(), &keys(), None).unwrap(), None, "no log at all");
}

#[test]
fn every_missing_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options { max_file_bytes: 4096, ..Options::default() });
    (0..20).for_each(|n| log.record(used("EnableKey", n)).unwrap());
    drop(log);
    let files = assert_sound(dir.path()).files;
    assert!(files > 3);
    for number in 1..=files {
        let path = file_path(dir.path(), number);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let fault = checked(dir.path()).fault.expect("a missing file is found");
        assert_eq!((fault.file, fault.line), (path.clone(), None), "{}", fault.what);
        // Cut to its first line it is found as well.
        let cut = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        if cut < bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(checked(dir.path()).fault.is_some());
        }
        fs::write(&path, bytes).unwrap();
    }
    assert_sound(dir.path());
}

#[test]
fn a_torn_last_line_is_marked_at_every_byte_and_the_log_goes_on() {
    let dir = filled(2);
    let (path, whole) = (first(dir.path()), fs::read(first(dir.path())).unwrap());
    let anchor = fs::read(dir.path().join("anchor")).unwrap();
    // The line that a writer was about to append, after the last anchor.
    let log = open(dir.path(), Options::default());
    log.record(used("Decrypt", 77)).unwrap();
    drop(log);
    let next = fs::read(&path).unwrap()[whole.len()..].to_vec();
    for length in 1..next.len() {
        fs::write(&path, [&whole[..], &next[..length]].concat()).unwrap();
        fs::write(dir.path().join("anchor"), &anchor).unwrap();
        let found = assert_sound(dir.path());
        assert_eq!(found.unfinished, Some(length as u64));
        Store::new(dir.path(), Arc::new(keys()), Options::default())
            .append(&mut [used("EnableKey", 78).into()])
            .unwrap();
        let found = assert_sound(dir.path());
        assert_eq!((found.unfinished, found.lines), (None, 5));
        let torn = named(dir.path(), "RecoverAuditFile")[0].kmsfs.torn.clone().unwrap();
        assert_eq!(torn.bytes, length as u64);
        assert!(next.starts_with(torn.text.as_bytes()));
    }
    // With its line feed it is whole, and counts.
    fs::write(&path, [&whole[..], &next].concat()).unwrap();
    fs::write(dir.path().join("anchor"), &anchor).unwrap();
    drop(open(dir.path(), Options::default()));
    assert_eq!(events(dir.path()).last().unwrap().event_time, 77);
    assert_sound(dir.path());
}

#[test]
fn a_writer_that_finds_damage_goes_on_in_a_new_file_and_the_damage_stays_visible() {
    let damages: [fn(&Path); 4] = [
        |dir| fs::remove_file(first(dir)).unwrap(),
        |dir| fs::write(first(dir), &fs::read(first(dir)).unwrap()[..100]).unwrap(),
        |dir| fs::write(first(dir), [&fs::read(first(dir)).unwrap()[..], b"{}\n"].concat()).unwrap(),
        |dir| fs::remove_file(dir.join("anchor")).unwrap(),
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let dir = filled(2);
        damage(dir.path());
        let log = open(dir.path(), Options::default());
        log.record(used("EnableKey", 5)).unwrap();
        log.admit().unwrap();
        drop(log);
        assert_eq!(events(dir.path()).last().unwrap().event_time, 5, "damage {n}");
        assert!(checked(dir.path()).fault.is_some(), "damage {n}");
        let starts = named(dir.path(), "StartAuditFile");
        assert!(starts.last().unwrap().kmsfs.file.clone().unwrap().damage.is_some(), "damage {n}");
        // And then on, without another new file.
        let files = fs::read_dir(dir.path()).unwrap().count();
        open(dir.path(), Options::default()).record(used("EnableKey", 6)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), files, "damage {n}");
    }
}

/// What a writer does with a log of four lines in whose folder somebody put something: it must go on, and soon.
fn goes_on_after(plant: fn(&Path)) -> (tempfile::TempDir, Vec<u64>) {
    let dir = filled(3);
    plant(dir.path());
    for time in [5, 6] {
        let log = open(dir.path(), Options::default());
        log.admit().unwrap();
        log.record(used("Decrypt", time)).unwrap();
        log.flush().unwrap();
    }
    let said: Vec<u64> = events(dir.path()).iter().map(|event| event.event_time).collect();
    assert!(said.contains(&5) && said.contains(&6), "{said:?}");
    assert!(said.contains(&1_700_000_000), "and what was there stays");
    assert!(checked(dir.path()).fault.is_some(), "what was put there is told");
    (dir, said)
}

#[test]
fn a_file_with_a_number_far_ahead_neither_holds_the_log_up_nor_pushes_older_files_out() {
    let started = std::time::Instant::now();
    for number in [3, 99_999_999_999, 999_999_999_998] {
        let dir = filled(3);
        fs::write(file_path(dir.path(), number), "").unwrap();
        let log = open(dir.path(), Options { kept_files: 4, ..Options::default() });
        log.record(used("DisableKey", 5)).unwrap();
        drop(log);
        let starts = named(dir.path(), "StartAuditFile");
        let damage = starts.last().unwrap().kmsfs.file.clone().unwrap().damage.unwrap();
        assert!(damage.starts_with("events-00000002.jsonl is missing before events-"), "{damage}");
        assert_eq!(file_numbers(dir.path()).unwrap(), [1, number, number + 1]);
    }
    goes_on_after(|dir| fs::write(file_path(dir, 999_999_999_999), "").unwrap());
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn numbers_that_no_log_reaches_are_no_files_of_it() {
    let dir = filled(3);
    fs::write(file_path(dir.path(), u64::MAX), "").unwrap();
    let log = open(dir.path(), Options::default());
    log.record(used("DisableKey", 5)).unwrap();
    drop(log);
    assert_eq!(assert_sound(dir.path()).files, 1);
}

#[test]
fn without_an_anchor_only_what_a_true_first_line_claims_counts() {
    let (_, said) = goes_on_after(|dir| {
        fs::remove_file(dir.join("anchor")).unwrap();
        let own = String::from_utf8(lines(&first(dir))[0].clone()).unwrap();
        let forged = own.replace("\"sequence\":1,", &format!("\"sequence\":{},", u64::MAX));
        assert_ne!(own, forged);
        fs::write(file_path(dir, 7), forged).unwrap();
    });
    let dir = goes_on_after(|dir| {
        fs::remove_file(dir.join("anchor")).unwrap();
        fs::write(file_path(dir, 999_999_999_999), "x").unwrap();
    });
    assert!(said.len() > 4 && dir.1.len() > 4);
    let last = events(dir.0.path()).into_iter().find(|event| event.event_time == 6).unwrap();
    assert!(last.kmsfs.sequence > 4, "the numbers of lines go on too");
}

#[test]
fn a_writer_notices_that_its_own_line_went_although_others_wrote_beyond_it() {
    let dir = filled(3);
    let copy = |from: &Path, to: &Path| {
        for name in ["anchor", "events-00000001.jsonl"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    let earlier = tempfile::tempdir().unwrap();
    copy(dir.path(), earlier.path());
    let standing = open(dir.path(), Options::default());
    standing.record(used("Decrypt", 5)).unwrap();
    standing.flush().unwrap();
    copy(earlier.path(), dir.path());
    let others = open(dir.path(), Options::default());
    for time in 10..20 {
        others.record(used("Decrypt", time)).unwrap();
    }
    drop(others);
    assert_sound(dir.path());
    standing.record(used("Decrypt", 30)).unwrap();
    drop(standing);
    let damage = named(dir.path(), "StartAuditFile").last().unwrap().kmsfs.file.clone().unwrap().damage;
    assert_eq!(damage.as_deref(), Some("line 5, which this process wrote, is not where it was"));
    assert_eq!(events(dir.path()).last().unwrap().event_time, 30);
    assert!(checked(dir.path()).fault.is_some());
}

#[test]
fn a_writer_whose_line_stands_follows_others_over_files_also_where_its_own_was_outgrown() {
    let dir = tempfile::tempdir().unwrap();
    let standing = open(dir.path(), Options::default());
    standing.record(used("Decrypt", 1)).unwrap();
    standing.flush().unwrap();
    let others = open(dir.path(), Options { max_file_bytes: 1500, kept_files: 3, ..Options::default() });
    for time in 2..4 {
        others.record(used("DisableKey", time)).unwrap();
    }
    standing.record(used("DisableKey", 4)).unwrap();
    for time in 5..40 {
        others.record(used("DisableKey", time)).unwrap();
    }
    assert!(!first(dir.path()).exists());
    standing.record(used("DisableKey", 40)).unwrap();
    drop((standing, others));
    assert_sound(dir.path());
}

#[test]
fn a_planted_link_is_refused_and_nothing_is_written_through_it() {
    let dir = filled(2);
    let target = dir.path().join("target");
    fs::write(&target, "precious").unwrap();
    let options = Options { max_file_bytes: 1, ..Options::default() };
    symlink(&target, file_path(dir.path(), 2)).unwrap();
    let log = open(dir.path(), options);
    log.record(used("Decrypt", 77)).unwrap();
    let refused = log.record(used("DisableKey", 78)).unwrap_err().to_string();
    assert!(refused.contains("symbolic link"), "{refused}");
    assert!(log.admit().is_err() && fs::read(&target).unwrap() == b"precious");
    fs::remove_file(file_path(dir.path(), 2)).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    log.admit().unwrap();
    drop(log);
    assert_sound(dir.path());
    assert_eq!(events(dir.path()).iter().filter(|event| event.event_time == 77).count(), 1);
    // Where the newest file was: it would be read for the end of the log, and its end cut off.
    let newest = file_path(dir.path(), *file_numbers(dir.path()).unwrap().last().unwrap());
    fs::rename(&newest, dir.path().join("aside")).unwrap();
    fs::write(&target, "precious ".repeat(1000)).unwrap();
    symlink(&target, &newest).unwrap();
    drop(open(dir.path(), options));
    assert_eq!(fs::read(&target).unwrap().len(), 9000);
    let name = dir.path().join("anchor.tmp");
    symlink(&target, &name).unwrap();
    let log = open(dir.path(), options);
    log.record(used("EnableKey", 79)).unwrap();
    drop(log);
    assert_eq!(fs::read(&target).unwrap().len(), 9000);
}

#[test]
fn a_writer_does_not_cover_up_that_lines_of_others_behind_its_own_went() {
    for anchor_goes_too in [false, true] {
        let dir = filled(3);
        let standing = open(dir.path(), Options::default());
        standing.record(used("Decrypt", 5)).unwrap();
        standing.flush().unwrap();
        let length = fs::metadata(first(dir.path())).unwrap().len();
        let others = open(dir.path(), Options::default());
        for name in ["DisableKey", "RetireGrant"] {
            others.record(used(name, 6)).unwrap();
        }
        drop(others);
        fs::OpenOptions::new().write(true).open(first(dir.path())).unwrap().set_len(length).unwrap();
        if anchor_goes_too {
            fs::remove_file(dir.path().join("anchor")).unwrap();
        }
        for time in 10..20 {
            standing.record(used("Decrypt", time)).unwrap();
        }
        drop(standing);
        assert!(checked(dir.path()).fault.is_some(), "anchor removed: {anchor_goes_too}");
        assert_eq!(events(dir.path()).last().unwrap().event_time, 19);
    }
}
