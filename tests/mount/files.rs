//! Content of regular files: reading, writing, cutting, mapping, and files without a name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;

use rustix::fs::{Mode, RenameFlags, XattrFlags};

use crate::harness::{skipped_in_plain_mode, words};
use crate::ops::{Errno, lstat, open_rw, pattern, read, rename, said, write};
use crate::place::Place;
use crate::raw::Mapping;

/// Sizes around every boundary of the format: inline, block, group.
const SIZES: [usize; 20] = [
    0, 1, 15, 16, 511, 512, 3583, 3584, 3585, 4095, 4096, 4097, 8192, 262_143, 262_144, 262_145, 266_240, 524_287,
    524_288, 1_000_003,
];

#[test]
fn files_of_every_boundary_size_read_back_also_after_a_remount() {
    let mut place = Place::own();
    for size in SIZES {
        write(&place.at(format!("f{size}")), pattern(size as u64, 0, size));
    }
    for round in 0..2 {
        for size in SIZES {
            let path = place.at(format!("f{size}"));
            assert_eq!(lstat(&path).len(), size as u64, "size of {size} in round {round}");
            assert!(read(&path) == pattern(size as u64, 0, size), "content of {size} in round {round}");
        }
        place.remount(&[]);
    }
}

#[test]
fn growing_and_cutting_from_any_size_to_any_other_zeroes_what_is_new() {
    let place = Place::shared();
    for from in SIZES {
        for to in SIZES {
            let path = place.at("f");
            write(&path, pattern(9, 0, from));
            let file = open_rw(&path);
            file.set_len(to as u64).expect("truncate");
            assert_eq!(lstat(&path).len(), to as u64);
            let mut expected = pattern(9, 0, from.min(to));
            expected.resize(to, 0);
            assert!(read(&path) == expected, "{from} to {to}");
        }
    }
}

#[test]
fn cut_then_grown_shows_no_old_bytes() {
    let mut place = Place::own();
    for (size, cut) in [(3000, 100), (10_000, 5000), (300_000, 262_145), (600_000, 4096), (4096, 0)] {
        let path = place.at(format!("f{size}"));
        write(&path, pattern(1, 0, size));
        let file = open_rw(&path);
        file.set_len(cut).expect("cut");
        file.set_len(size as u64).expect("grow");
    }
    place.remount(&[]);
    for (size, cut) in [(3000, 100), (10_000, 5000), (300_000, 262_145), (600_000, 4096), (4096, 0)] {
        let mut expected = pattern(1, 0, cut);
        expected.resize(size, 0);
        assert!(read(&place.at(format!("f{size}"))) == expected, "{size} cut at {cut}");
    }
}

#[test]
fn overwriting_any_range_changes_exactly_that_range() {
    let mut place = Place::own();
    let path = place.at("f");
    let mut model = pattern(1, 0, 700_000);
    write(&path, &model);
    let file = open_rw(&path);
    let ranges =
        [(0, 1), (4095, 2), (4096, 4096), (8190, 12_300), (262_140, 8), (262_144, 4096), (699_999, 1), (1, 699_998)];
    for (seed, (at, len)) in ranges.into_iter().enumerate() {
        let new = pattern(seed as u64 + 50, 0, len);
        file.write_all_at(&new, at as u64).expect("write");
        model[at..at + len].copy_from_slice(&new);
        assert!(read(&path) == model, "after writing {len} bytes at {at}");
    }
    drop(file);
    place.remount(&[]);
    assert!(read(&path) == model, "after a remount");
}

#[test]
fn writing_far_behind_the_end_leaves_zeros_between() {
    let place = Place::shared();
    for (size, at) in [(0u64, 1u64), (10, 3000), (3000, 3584), (3584, 5000), (5000, 262_144), (100, 900_000)] {
        let path = place.at(format!("f{size}"));
        let mut expected = pattern(3, 0, size as usize);
        write(&path, &expected);
        open_rw(&path).write_all_at(b"end", at).expect("write");
        expected.resize(at as usize, 0);
        expected.extend_from_slice(b"end");
        assert!(read(&path) == expected, "{size} bytes, then 3 at {at}");
    }
}

#[test]
fn o_trunc_empties_and_o_excl_refuses() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, pattern(1, 0, 10_000));
    let file = OpenOptions::new().write(true).truncate(true).open(&path).expect("open with O_TRUNC");
    assert_eq!(file.metadata().expect("fstat").len(), 0);
    assert_eq!(lstat(&path).len(), 0);
    drop(file);
    assert_eq!(read(&path), b"");
    assert_eq!(said(OpenOptions::new().write(true).create_new(true).open(&path).map(drop)), Err(Errno::EXIST));
}

#[test]
fn two_appenders_lose_nothing() {
    let place = Place::shared();
    let path = place.at("log");
    std::thread::scope(|scope| {
        for writer in [b'a', b'b'] {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).expect("open for appending");
                for _ in 0..500 {
                    file.write_all(&[writer; 100]).expect("append");
                }
            });
        }
    });
    let content = read(&path);
    assert_eq!(content.len(), 100_000);
    for record in content.chunks(100) {
        assert!(record.iter().all(|&byte| byte == record[0]), "a torn record: {record:?}");
    }
    assert_eq!(content.iter().filter(|&&byte| byte == b'a').count(), 50_000);
}

#[test]
fn appending_goes_to_the_end_also_after_another_hand_cut_the_file() {
    let place = Place::shared();
    let path = place.at("log");
    let mut appender = OpenOptions::new().append(true).create(true).open(&path).expect("open for appending");
    appender.write_all(&[1; 9000]).expect("append");
    open_rw(&path).set_len(10).expect("cut");
    appender.write_all(b"more").expect("append");
    appender.seek(SeekFrom::Start(0)).expect("seek");
    appender.write_all(b"end").expect("append");
    assert_eq!(read(&path), [&[1; 10][..], b"moreend"].concat());
}

/// One write(2) reaches the daemon in parts, several at once.
#[test]
fn a_long_direct_append_stays_in_order() {
    const PART: usize = 1 << 20;
    let place = Place::shared();
    let path = place.at("log");
    write(&path, []);
    let appender = OpenOptions::new().append(true).custom_flags(libc::O_DIRECT).open(&path).expect("O_DIRECT");
    let mut room = vec![0u8; 16 * PART + 4096];
    let skip = room.as_ptr().align_offset(4096);
    let data = &mut room[skip..skip + 16 * PART];
    for round in 0..10_u8 {
        for (number, part) in data.chunks_mut(PART).enumerate() {
            part.fill(16 * round + number as u8 + 1);
        }
        assert_eq!(said((&appender).write(data)), Ok(data.len()));
    }
    drop(appender);
    let found = read(&path);
    assert_eq!(found.len(), 160 * PART);
    for (number, part) in found.chunks(PART).enumerate() {
        let expected = 16 * (number / 16) as u8 + (number % 16) as u8 + 1;
        assert!(part.iter().all(|byte| *byte == expected), "part {number} is another one: {}", part[0]);
    }
}

#[test]
fn o_direct_reads_what_buffers_wrote_and_the_other_way_round() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, pattern(1, 0, 40_960));
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).expect("O_DIRECT");
    let mut room = vec![0u8; 3 * 4096];
    let skip = room.as_ptr().align_offset(4096);
    let aligned = &mut room[skip..skip + 8192];
    direct.read_exact_at(aligned, 4096).expect("direct read");
    assert!(*aligned == *pattern(1, 4096, 8192));
    aligned.copy_from_slice(&pattern(2, 8192, 8192));
    direct.write_all_at(aligned, 8192).expect("direct write");
    assert!(read(&path)[8192..16_384] == pattern(2, 8192, 8192));
}

#[test]
fn shared_mapping_and_file_see_each_other() {
    let mut place = Place::own();
    let path = place.at("f");
    write(&path, pattern(1, 0, 20_000));
    let file = open_rw(&path);
    let mut mapping = Mapping::new(&file, 20_000, true);
    assert!(mapping.read(0, 20_000) == pattern(1, 0, 20_000));
    file.write_all_at(b"by write", 9000).expect("write");
    assert_eq!(mapping.read(9000, 8), b"by write");
    mapping.write(4090, b"by mapping");
    mapping.sync();
    let mut through_file = [0; 10];
    file.read_exact_at(&mut through_file, 4090).expect("read");
    assert_eq!(&through_file, b"by mapping");
    drop((mapping, file));
    place.remount(&[]);
    let content = read(&path);
    assert_eq!((&content[4090..4100], &content[9000..9008]), (&b"by mapping"[..], &b"by write"[..]));
    assert_eq!(content.len(), 20_000);
}

#[test]
fn private_mapping_changes_nothing() {
    let place = Place::shared();
    let path = place.at("f");
    write(&path, pattern(1, 0, 5000));
    let mut mapping = Mapping::new(&open_rw(&path), 5000, false);
    mapping.write(0, b"private");
    assert_eq!(mapping.read(0, 7), b"private");
    assert!(read(&path) == pattern(1, 0, 5000));
}

#[test]
fn a_file_without_a_name_answers_every_call() {
    let place = Place::shared();
    let path = place.at("gone");
    let file = open_rw(&path);
    file.write_all_at(&pattern(1, 0, 6000), 0).expect("write");
    fs::remove_file(&path).expect("unlink");

    file.write_all_at(b"new", 5000).expect("pwrite");
    rustix::fs::fsync(&file).expect("fsync");
    rustix::fs::fdatasync(&file).expect("fdatasync");
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640)).expect("fchmod");
    std::os::unix::fs::fchown(&file, Some(7), Some(8)).expect("fchown");
    let time = rustix::fs::Timespec { tv_sec: 1_000_000_007, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(&file, &times).expect("futimens");
    rustix::fs::fsetxattr(&file, "user.a", b"value", XattrFlags::empty()).expect("fsetxattr");
    let mut value = [0; 16];
    let len = rustix::fs::fgetxattr(&file, "user.a", &mut value).expect("fgetxattr");
    assert_eq!(&value[..len], b"value");
    let mut list = [0u8; 256];
    let len = rustix::fs::flistxattr(&file, &mut list).expect("flistxattr");
    assert!(list[..len].starts_with(b"user.a\0"), "{:?}", String::from_utf8_lossy(&list[..len]));
    rustix::fs::fremovexattr(&file, "user.a").expect("fremovexattr");
    rustix::fs::fstatfs(&file).expect("fstatfs");

    let mut again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("open through /proc");
    let mut content = Vec::new();
    again.read_to_end(&mut content).expect("read");
    let mut expected = pattern(1, 0, 6000);
    expected[5000..5003].copy_from_slice(b"new");
    assert!(content == expected);

    file.set_len(10).expect("ftruncate");
    let stat = file.metadata().expect("fstat");
    assert_eq!((stat.len(), stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.nlink()), (10, 0o640, 7, 8, 0));
    assert!(stat.mtime() > 1_000_000_007, "ftruncate sets mtime");
}

#[test]
fn a_file_replaced_by_rename_lives_on_for_who_has_it_open() {
    let place = Place::shared();
    let (old, new) = (place.at("old"), place.at("new"));
    write(&old, pattern(1, 0, 5000));
    write(&new, pattern(2, 0, 6000));
    let file = open_rw(&old);
    rename(&new, &old, RenameFlags::empty()).expect("rename");
    let mut content = vec![0; 5000];
    file.read_exact_at(&mut content, 0).expect("read");
    assert!(content == pattern(1, 0, 5000), "the replaced file");
    let stat = file.metadata().expect("fstat of a replaced file");
    assert_eq!((stat.len(), stat.nlink()), (5000, 0));
    assert!(read(&old) == pattern(2, 0, 6000), "the new file");
    assert_eq!(said(fs::metadata(&new).map(drop)), Err(Errno::NOENT));
}

#[test]
fn copy_file_range_copies() {
    let place = Place::shared();
    write(&place.at("from"), pattern(1, 0, 300_000));
    let (from, to) = (open_rw(&place.at("from")), open_rw(&place.at("to")));
    let (mut read_at, mut write_at) = (1000, 50);
    while read_at < 290_000 {
        let rest = 290_000 - read_at as usize;
        let step = rustix::fs::copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), rest);
        assert!(step.expect("copy_file_range") > 0);
    }
    let content = read(&place.at("to"));
    assert_eq!(content.len(), 50 + 289_000);
    assert!(content[..50] == [0; 50] && content[50..] == pattern(1, 0, 300_000)[1000..290_000]);
}

#[test]
fn reading_at_and_behind_the_end_gives_nothing() {
    let place = Place::shared();
    for size in [0, 5, 3584, 4096, 262_144] {
        write(&place.at("f"), pattern(1, 0, size));
        let file = open_rw(&place.at("f"));
        for at in [size, size + 1, size + 300_000] {
            assert_eq!(file.read_at(&mut [0; 100], at as u64).expect("read"), 0, "{size} read at {at}");
        }
    }
}

#[test]
fn opening_the_wrong_kind_fails_as_everywhere() {
    let place = Place::shared();
    write(&place.at("f"), b"x");
    let directory = OpenOptions::new().write(true).open(&*place).map(drop);
    assert_eq!(said(directory), Err(Errno::ISDIR));
    assert_eq!(said(File::open(place.at("f/under")).map(drop)), Err(Errno::NOTDIR));
    assert_eq!(said(File::open(place.at("nothing")).map(drop)), Err(Errno::NOENT));
    let read_only = File::open(place.at("f")).expect("open");
    assert_eq!(said(read_only.write_at(b"x", 0)), Err(Errno::BADF));
}

/// What the protocol has and fuser has not: a program must see that it is not there, and go on as on NFS.
#[test]
fn what_the_fuse_library_lacks_is_refused_in_the_words_that_programs_expect() {
    if skipped_in_plain_mode() {
        return;
    }
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
    let place = Place::shared();
    let unnamed = rustix::fs::openat(CWD, place.at("."), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
    assert_eq!(unnamed.err(), Some(rustix::io::Errno::OPNOTSUPP), "O_TMPFILE");
    write(&place.at("file"), b"x");
    let stat = rustix::fs::statx(CWD, place.at("file"), AtFlags::empty(), StatxFlags::ALL).expect("statx");
    assert_eq!(stat.stx_mask & StatxFlags::BTIME.bits(), 0, "no time of birth is better than a wrong one");
    // FIEMAP is answered by the kernel, which knows no blocks of a FUSE file.
    let said = Command::new("filefrag").arg("-v").arg(place.at("file")).output().expect("filefrag");
    assert!(!said.status.success() || words(&said).contains(" 0 extents found"), "{}", words(&said));
    // Python, git and others make files without a name only if they can.
    let python = "import tempfile; f = tempfile.TemporaryFile(dir='.'); f.write(b'x' * 100000); f.seek(0); assert len(f.read()) == 100000";
    let said = Command::new("python3").args(["-c", python]).current_dir(place.at(".")).output().expect("python3");
    assert!(said.status.success(), "{}", words(&said));
}

#[test]
fn times_of_files_that_are_gone_trouble_nobody() {
    let place = Place::shared();
    for round in 0..40 {
        let path = place.at(format!("gone{round}"));
        write(&path, pattern(round, 0, 5000));
        fs::remove_file(&path).expect("remove");
    }
    let any = File::open(place.at(".")).expect("open");
    rustix::fs::syncfs(&any).expect("syncfs");
}
