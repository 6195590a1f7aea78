//! Sparse files: holes, their seeking, punching, zeroing and allocating.

use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use crate::ops::{Errno, lstat, open_rw, pattern, read, write};
use crate::place::Place;

const TIB: u64 = 1 << 40;

#[test]
fn a_file_of_one_tebibyte_costs_what_was_written() {
    let mut place = Place::own();
    let path = place.at("huge");
    let file = open_rw(&path);
    file.set_len(TIB).expect("truncate to 1 TiB");
    file.write_all_at(b"the end", TIB - 7).expect("write at the end");
    file.write_all_at(b"middle", TIB / 2 - 3).expect("write in the middle");
    file.sync_all().expect("fsync");
    drop(file);
    for _ in 0..2 {
        let stat = lstat(&path);
        assert_eq!(stat.len(), TIB);
        assert!(stat.blocks() < 1000, "{} sectors for three written blocks", stat.blocks());
        let file = open_rw(&path);
        let mut end = [1; 20];
        file.read_exact_at(&mut end, TIB - 20).expect("read");
        assert_eq!(&end, b"\0\0\0\0\0\0\0\0\0\0\0\0\0the end");
        file.read_exact_at(&mut end, TIB / 2 - 10).expect("read");
        assert_eq!(&end, b"\0\0\0\0\0\0\0middle\0\0\0\0\0\0\0");
        file.read_exact_at(&mut end, 12_345_678_901).expect("read");
        assert_eq!(end, [0; 20]);
        drop(file);
        place.remount(&[]);
    }
    let file = open_rw(&path);
    file.set_len(10).expect("cut");
    assert_eq!(read(&path), [0; 10]);
}

#[test]
fn seek_finds_holes_and_data() {
    let mut place = Place::own();
    let path = place.at("f");
    let file = open_rw(&path);
    file.write_all_at(&pattern(1, 0, 4096), 0).expect("write");
    file.write_all_at(&pattern(2, 0, 8192), 1 << 20).expect("write");
    file.set_len(4 << 20).expect("grow");
    file.sync_all().expect("fsync");
    drop(file);
    for _ in 0..2 {
        let file = open_rw(&path);
        let data = |from| seek(&file, SeekFrom::Data(from));
        let hole = |from| seek(&file, SeekFrom::Hole(from));
        assert_eq!(data(0), Ok(0));
        assert_eq!(data(100), Ok(100), "from inside data");
        let first_hole = hole(0).expect("a hole");
        assert!((4096..=1 << 20).contains(&first_hole), "hole at {first_hole}");
        let second_data = data(first_hole).expect("more data");
        assert!(second_data > first_hole && second_data <= 1 << 20, "data at {second_data}");
        let second_hole = hole(1 << 20).expect("the last hole");
        assert!(((1 << 20) + 8192..=4 << 20).contains(&second_hole), "hole at {second_hole}");
        assert_eq!(data(2 << 20), Err(Errno::NXIO), "no data behind the last");
        assert_eq!(hole(2 << 20), Ok(2 << 20));
        assert_eq!((data(4 << 20), hole(4 << 20)), (Err(Errno::NXIO), Err(Errno::NXIO)), "at the end");
        drop(file);
        place.remount(&[]);
    }
}

#[test]
fn data_behind_unsynced_writes_is_found() {
    let place = Place::shared();
    let file = open_rw(&place.at("f"));
    file.set_len(1 << 20).expect("grow");
    file.write_all_at(b"x", 500_000).expect("write");
    let data = seek(&file, SeekFrom::Data(0)).expect("data, though not written back yet");
    let hole = seek(&file, SeekFrom::Hole(500_000)).expect("hole");
    assert!(data <= 500_000 && hole > 500_000, "data {data}, hole {hole}");
}

#[test]
fn allocating_makes_room_and_grows_or_not() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, b"content");
    let file = open_rw(&path);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).expect("KEEP_SIZE");
    assert_eq!(lstat(&path).len(), 7);
    assert_eq!(read(&path), b"content");
    fallocate(&file, FallocateFlags::empty(), 0, 300_000).expect("fallocate");
    assert_eq!(lstat(&path).len(), 300_000);
    let content = read(&path);
    assert!(content.len() == 300_000 && content.starts_with(b"content\0") && content[7..].iter().all(|&b| b == 0));
    file.write_all_at(b"tail", 299_996).expect("write");
    assert!(read(&path).ends_with(b"\0tail"));
    fallocate(&file, FallocateFlags::empty(), 10, 100).expect("inside the file");
    assert_eq!(lstat(&path).len(), 300_000);
}

/// Applies `flags` to ranges of every kind and compares with a model, at once and after a remount.
fn zeroing(flags: FallocateFlags, may_grow: bool) {
    let mut place = Place::own();
    let ranges: [(usize, usize); 9] = [
        (0, 1),
        (100, 4000),
        (4096, 4096),
        (5000, 10_000),
        (262_000, 300),
        (262_144, 262_144),
        (0, 700_000),
        (690_000, 50_000),
        (1_000_000, 10),
    ];
    for (number, (at, len)) in ranges.into_iter().enumerate() {
        let path = place.at(format!("f{number}"));
        write(&path, pattern(7, 0, 700_000));
        let file = open_rw(&path);
        fallocate(&file, flags, at as u64, len as u64).unwrap_or_else(|e| panic!("{flags:?} {len} at {at}: {e}"));
    }
    for round in 0..2 {
        for (number, (at, len)) in ranges.into_iter().enumerate() {
            let mut model = pattern(7, 0, 700_000);
            if may_grow && at + len > model.len() {
                model.resize(at + len, 0);
            }
            let size = model.len();
            model[at.min(size)..(at + len).min(size)].fill(0);
            assert!(read(&place.at(format!("f{number}"))) == model, "{flags:?} {len} at {at}, round {round}");
        }
        place.remount(&[]);
    }
}

#[test]
fn punching_zeroes_exactly_the_range() {
    zeroing(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, false);
}

#[test]
fn zeroing_a_range_zeroes_exactly_it() {
    zeroing(FallocateFlags::ZERO_RANGE, true);
    zeroing(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, false);
}

#[test]
fn punching_gives_room_back() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, pattern(1, 0, 4 << 20));
    let file = open_rw(&path);
    file.sync_all().expect("fsync");
    let before = lstat(&path).blocks();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 3 << 20).expect("punch");
    file.sync_all().expect("fsync");
    let after = lstat(&path).blocks();
    assert!(after < before / 2, "{before} sectors before, {after} after a hole of three quarters");
    assert!(read(&path)[3 << 20..] == pattern(1, 0, 4 << 20)[3 << 20..]);
}

#[test]
fn what_is_written_into_a_punched_hole_stays() {
    let mut place = Place::own();
    let path = place.at("f");
    write(&path, pattern(1, 0, 100_000));
    let file = open_rw(&path);
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 40_960).expect("punch");
    file.write_all_at(b"island", 20_000).expect("write");
    drop(file);
    place.remount(&[]);
    let mut model = pattern(1, 0, 100_000);
    model[8192..8192 + 40_960].fill(0);
    model[20_000..20_006].copy_from_slice(b"island");
    assert!(read(&path) == model);
}

#[test]
fn collapsing_and_inserting_are_refused() {
    if crate::harness::skipped_in_plain_mode() {
        return;
    }
    let place = Place::shared();
    write(&place.at("f"), pattern(1, 0, 20_000));
    let file = open_rw(&place.at("f"));
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(fallocate(&file, flags, 4096, 4096), Err(Errno::OPNOTSUPP));
    }
    assert!(read(&place.at("f")) == pattern(1, 0, 20_000));
}
