//! A key is disabled while the volume is mounted and in use: everything under it goes dark, and comes back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::harness::{Mount, Volume, skipped_in_plain_mode, wait_until, words};
use crate::raw::Mapping;

const KEY: &str = "alias/kmsfs/default";
const BLOCK: usize = 4096;

fn refused<T>(outcome: io::Result<T>) -> bool {
    outcome.err().and_then(|error| error.raw_os_error()) == Some(Errno::ACCESS.raw_os_error())
}

fn key(volume: &Volume, verb: &str) {
    done(volume, &["key", verb, KEY]);
}

fn done(volume: &Volume, arguments: &[&str]) {
    let outcome = volume.run(arguments);
    assert!(outcome.status.success(), "kmsfs {arguments:?}: {}", words(&outcome));
}

/// How often the mount has said that it went dark.
fn dark_times(mount: &Mount) -> usize {
    mount.log().lines().filter(|line| line.contains("out of reach until")).count()
}

/// Disables the default key, and waits until that has arrived.
fn disable(volume: &Volume, mount: &Mount) {
    let times = dark_times(mount);
    key(volume, "disable");
    wait_until("the mount to go dark", || dark_times(mount) > times);
    assert!(refused(fs::read_dir(mount.dir())));
}

fn enable(volume: &Volume, mount: &Mount) {
    key(volume, "enable");
    wait_until("the mount to come back", || fs::read_dir(mount.dir()).is_ok());
}

fn open_both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("open")
}

#[test]
fn everything_goes_dark_and_comes_back() {
    if skipped_in_plain_mode() {
        return;
    }
    for placement in ["xattr", "sidecar"] {
        goes_and_comes_back(&Volume::with(&["--placement", placement]));
    }
}

fn goes_and_comes_back(volume: &Volume) {
    let mount = volume.mount(&["--key-ttl", "1"]);
    let content: Vec<u8> = (0..40 * BLOCK).map(|i| (i / 7) as u8).collect();
    fs::create_dir_all(mount.at("dir/sub")).expect("mkdir");
    for name in ["dir/cached", "dir/open", "small"] {
        fs::write(mount.at(name), if name == "small" { &content[..100] } else { &content }).expect("write");
        assert!(!fs::read(mount.at(name)).expect("read").is_empty());
    }
    std::os::unix::fs::symlink("small", mount.at("link")).expect("symlink");
    fs::read_link(mount.at("link")).expect("readlink");
    rustix::fs::setxattr(mount.at("small"), "user.a", b"1", rustix::fs::XattrFlags::empty()).expect("setxattr");
    let mut opened = open_both(&mount.at("dir/open"));
    let small = open_both(&mount.at("small"));
    let mut part = vec![0; BLOCK];
    opened.read_exact(&mut part).expect("read");
    let mut listing = rustix::fs::Dir::new(File::open(mount.at("dir")).expect("open")).expect("open");
    assert_eq!(listing.by_ref().count(), 5);
    assert!(fs::read_dir(mount.at("dir")).expect("list").count() == 3);

    disable(volume, &mount);
    for name in ["", "dir", "dir/sub"] {
        assert!(refused(fs::read_dir(mount.at(name))), "{name}");
    }
    for name in ["dir/cached", "dir/open", "small", "link", "dir/sub/none"] {
        assert!(refused(fs::symlink_metadata(mount.at(name))), "{name}");
        assert!(refused(fs::read(mount.at(name))), "{name}");
    }
    assert!(refused(fs::read_link(mount.at("link"))));
    assert!(refused(fs::write(mount.at("dir/new"), b"x")));
    assert!(refused(fs::remove_file(mount.at("dir/cached"))));
    assert!(fs::symlink_metadata(mount.dir()).is_ok(), "the directory itself still has attributes");
    for file in [&opened, &small] {
        assert!(refused(file.read_at(&mut part[..10], 0)));
        assert!(refused(file.write_at(&part[..10], 0).and_then(|_| file.sync_all())));
        assert!(refused(file.set_len(10)));
        assert!(refused(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 10).map_err(Into::into)));
        assert!(refused(
            rustix::fs::fsetxattr(file, "user.b", b"2", rustix::fs::XattrFlags::empty()).map_err(Into::into)
        ));
        assert!(file.metadata().is_ok());
    }
    listing.rewind();
    assert!(matches!(listing.read(), Some(Err(error)) if error == Errno::ACCESS));

    enable(volume, &mount);
    opened.seek(SeekFrom::Start(0)).expect("seek");
    let mut again = Vec::new();
    opened.read_to_end(&mut again).expect("read");
    assert!(again == content);
    assert_eq!(fs::read(mount.at("small")).expect("read"), &content[..100]);
    small.write_at(b"back", 0).expect("write");
    small.sync_all().expect("fsync");
    assert_eq!(fs::read(mount.at("link")).expect("read")[..4], *b"back");
    assert_eq!(fs::read_dir(mount.at("dir")).expect("list").count(), 3);
    listing.rewind();
    assert_eq!(listing.by_ref().filter(Result::is_ok).count(), 5);
    drop((opened, small, listing));
    assert!(fs::read(mount.at("dir/cached")).expect("read") == content);
    mount.unmount();
}

#[test]
fn what_was_written_before_is_there_after() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&["--key-ttl", "1"]);
    let content: Vec<u8> = (0..1000 * BLOCK + 17).map(|i| (i / 3) as u8).collect();
    fs::write(mount.at("old"), vec![1; 100 * BLOCK]).expect("write");
    // The kernel holds all of this when the key goes; the first byte of a new file has not got to the daemon at all.
    let mut new = File::create(mount.at("new")).expect("create");
    let mut tiny = File::create(mount.at("tiny")).expect("create");
    let old = open_both(&mount.at("old"));
    new.write_all(&content).expect("write");
    tiny.write_all(b"first words").expect("write");
    old.write_all_at(&content[..BLOCK + 5], 50 * BLOCK as u64 - 2).expect("write");
    disable(&volume, &mount);
    assert!(refused(old.read_at(&mut [0; 10], 0)));
    // It is on the disk: a new mount, after kill -9, has it.
    let mut mount = mount;
    mount.kill();
    crate::harness::detach(&volume.mountpoint);
    drop(mount);
    key(&volume, "enable");
    let mount = volume.mount(&[]);
    assert!(fs::read(mount.at("new")).expect("read") == content);
    assert_eq!(fs::read(mount.at("tiny")).expect("read"), b"first words");
    let read = fs::read(mount.at("old")).expect("read");
    assert!(read[50 * BLOCK - 2..][..BLOCK + 5] == content[..BLOCK + 5]);
    mount.unmount();
}

#[test]
fn it_comes_and_goes_under_load_without_a_wrong_byte() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&["--key-ttl", "1"]);
    fs::write(mount.at("f"), vec![0; 64 * BLOCK]).expect("write");
    let file = open_both(&mount.at("f"));
    let over = AtomicBool::new(false);
    let load = |first: u8| {
        let mut was_refused = 0;
        for round in 0_u64.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let at = (round * 7 % 32) * BLOCK as u64 + u64::from(first) * 32 * BLOCK as u64;
            let block = vec![(round % 251) as u8; BLOCK];
            // Direct, so that an answered write is one that the daemon took.
            if file.write_all_at(&block, at).and_then(|()| file.sync_data()).is_err() {
                was_refused += 1;
                continue;
            }
            let mut read = vec![0; BLOCK];
            if file.read_exact_at(&mut read, at).is_ok() {
                assert!(read == block, "round {round}");
            } else {
                was_refused += 1;
            }
        }
        was_refused
    };
    std::thread::scope(|scope| {
        let writers = [scope.spawn(|| load(0)), scope.spawn(|| load(1))];
        for _ in 0..3 {
            disable(&volume, &mount);
            enable(&volume, &mount);
        }
        over.store(true, Ordering::Relaxed);
        assert!(writers.map(|writer| writer.join().expect("it ends")).iter().sum::<u64>() > 0);
    });
    file.write_all_at(&[9; BLOCK], 0).expect("write");
    // An error of a write in between is told once.
    let _ = file.sync_all();
    assert!(file.sync_all().is_ok());
    drop(file);
    mount.unmount();
}

/// A program that maps a file, says so, waits for a line, and then reads the first byte through the mapping.
const MAPPER: &str = "import mmap, sys\nf = open(sys.argv[1], 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
    print(m[0], flush=True)\nsys.stdin.readline()\nprint(m[0], flush=True)\n";

#[test]
fn mapped_pages_go_and_come_back_and_nothing_of_them_is_lost() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&["--key-ttl", "1"]);
    fs::write(mount.at("f"), vec![7; 8 * BLOCK]).expect("write");
    let file = open_both(&mount.at("f"));
    let mut mapping = Mapping::new(&file, 8 * BLOCK, true);
    mapping.write(3 * BLOCK, b"mapped");
    let reader = |path: &Path| {
        let mut python = Command::new("python3");
        python.args(["-c", MAPPER]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = python.spawn().expect("python3");
        let mut first = [0];
        child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("it maps the file");
        child
    };
    let faulting = reader(&mount.at("f"));
    let waiting = reader(&mount.at("f"));
    disable(&volume, &mount);
    let output = end(faulting);
    assert_eq!(
        output.status.signal(),
        Some(rustix::process::Signal::BUS.as_raw()),
        "a fault on a page that is out of reach"
    );
    enable(&volume, &mount);
    assert!(end(waiting).status.success(), "a mapping outlives the time in the dark");
    assert_eq!(mapping.read(3 * BLOCK, 6), b"mapped");
    mapping.write(5 * BLOCK, b"later");
    mapping.sync();
    drop((mapping, file));
    mount.unmount();
    let mount = volume.mount(&[]);
    let read = fs::read(mount.at("f")).expect("read");
    assert_eq!((&read[3 * BLOCK..][..6], &read[5 * BLOCK..][..5]), (&b"mapped"[..], &b"later"[..]));
    mount.unmount();
}

fn end(mut child: Child) -> Output {
    child.stdin.take().expect("piped").write_all(b"\n").expect("it waits");
    child.wait_with_output().expect("python3")
}

#[test]
fn one_key_of_two_goes_and_the_other_half_sees_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&["--key-ttl", "1"]);
    done(&volume, &["key", "create", "--alias", "alias/team"]);
    fs::create_dir(mount.at("team")).expect("mkdir");
    fs::create_dir(mount.at("other")).expect("mkdir");
    let set = volume.command().arg("set-key").arg(mount.at("team")).arg("alias/team").output().expect("kmsfs");
    assert!(set.status.success(), "{}", words(&set));
    fs::write(mount.at("team/file"), b"secret").expect("write");
    // A file keeps its key where it goes.
    fs::write(mount.at("team/out"), b"secret").expect("write");
    fs::rename(mount.at("team/out"), mount.at("other/out")).expect("rename");
    let open = open_both(&mount.at("team/file"));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            for round in 0_u64.. {
                let path = mount.at(format!("other/{}", round % 8));
                let content = vec![(round % 251) as u8; 3 * BLOCK];
                fs::write(&path, &content).expect("write");
                assert!(fs::read(&path).expect("read") == content);
                assert!(fs::read_dir(mount.at("other")).expect("list").all(|entry| entry.is_ok()));
                if over.load(Ordering::Relaxed) {
                    return round;
                }
            }
            0
        });
        for _ in 0..3 {
            let times = dark_times(&mount);
            done(&volume, &["key", "disable", "alias/team"]);
            wait_until("the team's half to go dark", || dark_times(&mount) > times);
            assert!(refused(fs::read_dir(mount.at("team"))));
            assert!(refused(fs::read(mount.at("team/file"))) && refused(open.read_at(&mut [0], 0)));
            assert!(refused(fs::read(mount.at("other/out"))), "it is under the team's key");
            assert!(
                fs::symlink_metadata(mount.at("team")).expect("stat").is_dir(),
                "the directory itself is in another"
            );
            assert!(fs::read_dir(mount.dir()).expect("list").any(|entry| entry.expect("list").file_name() == "team"));
            done(&volume, &["key", "enable", "alias/team"]);
            wait_until("the team's half to come back", || fs::read_dir(mount.at("team")).is_ok());
            let mut read = [0; 6];
            open.read_exact_at(&mut read, 0).expect("read");
            assert_eq!((&read, &*fs::read(mount.at("other/out")).expect("read")), (b"secret", &b"secret"[..]));
        }
        over.store(true, Ordering::Relaxed);
        assert!(other.join().expect("it ends") > 0);
    });
    drop(open);
    mount.unmount();
}
