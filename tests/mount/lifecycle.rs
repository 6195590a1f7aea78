//! Mounting and unmounting, in every way that a user may.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Volume, mounts_on, past_other_children, skipped_in_plain_mode, wait_until, words};
use crate::ops::{Errno, mkdir, names, pattern, read, said, write};
use crate::place::Place;
use crate::raw::{Caller, NOBODY};

/// Processes that have `path` among their arguments.
fn daemons(path: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|&byte| byte == 0).any(|argument| argument == path.as_os_str().as_encoded_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// `kmsfs mount` without `-f`: returns when kmsfs does.
fn mount_in_the_background(volume: &Volume, arguments: &[&str]) {
    let stderr = File::create(volume.base().join("stderr")).expect("file");
    let mut command = volume.command();
    command.arg("mount").arg(&volume.backing).arg(&volume.mountpoint).args(arguments);
    command.args(volume.secret());
    let status = command.stdout(Stdio::null()).stderr(stderr).status().expect("kmsfs mount");
    let said = fs::read_to_string(volume.base().join("stderr")).expect("stderr");
    assert!(status.success(), "kmsfs mount: {status}\n{said}");
}

#[test]
fn a_background_mount_is_ready_when_the_command_returns_and_its_daemon_ends_with_it() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with_passphrase();
    for round in 0..2 {
        mount_in_the_background(&volume, &[]);
        assert_eq!(mounts_on(&volume.mountpoint), 1);
        write(&volume.mountpoint.join(format!("f{round}")), pattern(round, 0, 5000));
        assert_eq!(daemons(&volume.mountpoint).len(), 1, "one daemon");
        let outcome = volume.umount();
        assert!(outcome.status.success(), "{}", words(&outcome));
        assert_eq!(mounts_on(&volume.mountpoint), 0);
        wait_until("the daemon to end", || daemons(&volume.mountpoint).is_empty());
    }
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("f0")) == pattern(0, 0, 5000) && read(&mount.at("f1")) == pattern(1, 0, 5000));
}

#[test]
fn a_service_manager_is_told_when_a_mount_answers() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let path = volume.base().join("notify");
    let socket = UnixDatagram::bind(&path).expect("socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("time limit");
    let mut command = volume.command();
    command.args(["mount", "-f"]).arg(&volume.backing).arg(&volume.mountpoint).args(volume.secret());
    let mut daemon = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).spawn().expect("kmsfs mount");
    let mut message = [0; 64];
    let told = socket.recv(&mut message).map(|count| message[..count].trim_ascii() == b"READY=1");
    let written = fs::write(volume.mountpoint.join("f"), b"x");
    let outcome = volume.umount();
    assert!(outcome.status.success(), "{}", words(&outcome));
    assert!(daemon.wait().expect("wait").success());
    assert!(told.expect("a message") && written.is_ok());
    assert!(names(&volume.mountpoint).is_empty(), "it was written into the mount");
}

#[test]
fn a_background_mount_lets_go_of_its_pipes() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with_passphrase();
    // output() waits until nobody holds the pipes any more: with a daemon that kept them this never returns
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = volume.clone();
    std::thread::spawn(move || {
        let arguments = [Path::new("mount"), &other.backing, &other.mountpoint];
        let _ = sender.send(other.run(&arguments).status.success());
    });
    let answer = receiver.recv_timeout(std::time::Duration::from_secs(30));
    let outcome = volume.umount();
    assert_eq!(answer, Ok(true), "kmsfs mount returned, and with success");
    assert!(outcome.status.success(), "{}", words(&outcome));
}

#[test]
fn umount_and_fusermount_unmount_too() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    for (number, tool) in [&["umount"][..], &["fusermount3", "-u"]].into_iter().enumerate() {
        let mut mount = volume.mount(&[]);
        write(&mount.at(format!("f{number}")), pattern(1, 0, 9000));
        let outcome = past_other_children(|| {
            Command::new(tool[0]).args(&tool[1..]).arg(&volume.mountpoint).output().expect("the tool")
        });
        assert!(outcome.status.success(), "{tool:?}: {}", words(&outcome));
        mount.wait_end();
    }
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("f0")) == pattern(1, 0, 9000) && read(&mount.at("f1")) == pattern(1, 0, 9000));
}

#[test]
fn signals_unmount_cleanly() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    for (number, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let mut mount = volume.mount(&[]);
        write(&mount.at(format!("f{number}")), pattern(1, 0, 9000));
        kill_process(Pid::from_raw(mount.pid() as i32).expect("a pid"), signal).expect("kill");
        mount.wait_end();
        assert_eq!(mounts_on(&volume.mountpoint), 0, "{signal:?} leaves no mount behind");
    }
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("f0")) == pattern(1, 0, 9000) && read(&mount.at("f1")) == pattern(1, 0, 9000));
}

#[test]
fn a_busy_mount_is_not_unmounted() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), pattern(1, 0, 9000));
    let open = File::open(mount.at("f")).expect("open");
    let outcome = volume.umount_at_once();
    assert!(!outcome.status.success() && !outcome.stderr.is_empty(), "{}", words(&outcome));
    assert!(read(&mount.at("f")) == pattern(1, 0, 9000), "and goes on");
    drop(open);
    mount.unmount();
}

#[test]
fn the_mount_dead_by_kill_is_recognised_and_repaired() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mut mount = volume.mount(&[]);
    write(&mount.at("f"), pattern(1, 0, 9000));
    File::open(mount.at("f")).and_then(|file| file.sync_all()).expect("fsync");
    mount.kill();
    assert_eq!(mounts_on(&volume.mountpoint), 1, "a dead mount stays");
    assert_eq!(said(fs::metadata(&volume.mountpoint).map(drop)), Err(Errno::NOTCONN));
    if let Err(refusal) = volume.try_mount(&[]) {
        // mounting may repair by itself; if it does not, it says how
        assert_eq!(refusal.code, Some(5), "{refusal:?}");
        assert!(refusal.said.contains("umount"), "{refusal:?}");
    }
    let outcome = volume.umount();
    assert!(outcome.status.success(), "{}", words(&outcome));
    assert_eq!(mounts_on(&volume.mountpoint), 0);
    drop(mount);
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("f")) == pattern(1, 0, 9000));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), pattern(1, 0, 9000));
    mkdir(&mount.at("d"));
    mount.unmount();
    for arguments in [&["--ro"][..], &["-o", "ro"]] {
        let mount = volume.mount(arguments);
        assert!(read(&mount.at("f")) == pattern(1, 0, 9000));
        assert_eq!(said(fs::write(mount.at("new"), b"x")), Err(Errno::ROFS));
        assert_eq!(said(OpenOptions::new().write(true).open(mount.at("f")).map(drop)), Err(Errno::ROFS));
        assert_eq!(said(fs::create_dir(mount.at("new"))), Err(Errno::ROFS));
        assert_eq!(said(fs::remove_file(mount.at("f"))), Err(Errno::ROFS));
        assert_eq!(said(fs::rename(mount.at("f"), mount.at("g"))), Err(Errno::ROFS));
        assert_eq!(names(mount.dir()), [&b"d"[..], b"f"]);
        mount.unmount();
    }
}

#[test]
fn statfs_tells_the_backing_store() {
    let place = Place::own();
    let stat = rustix::fs::statvfs(&*place).expect("statvfs");
    assert!(stat.f_blocks > 0 && stat.f_bavail > 0 && stat.f_bavail <= stat.f_blocks && stat.f_files > 0);
    assert_eq!(stat.f_namemax, 255);
    assert!(stat.f_bsize.is_power_of_two());
}

#[test]
fn the_table_of_mounts_names_kmsfs() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let _mount = volume.mount(&[]);
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let point = volume.mountpoint.to_str().expect("UTF-8");
    let line = table.lines().find(|line| line.split(' ').nth(1) == Some(point)).expect("the mount");
    assert!(line.contains("fuse.kmsfs"), "{line}");
    assert!(line.contains("default_permissions"), "the kernel checks permissions: {line}");
    assert!(line.contains("nosuid") && line.contains("nodev") || line.contains("allow_other"), "{line}");
    let status = volume.command().args(["status", "--json"]).output().expect("kmsfs status");
    assert!(status.status.success(), "{}", words(&status));
    assert!(String::from_utf8_lossy(&status.stdout).contains(point), "{}", words(&status));
}

#[test]
fn an_ordinary_user_mounts_for_himself_alone() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::of_user(NOBODY);
    let mount = volume.mount(&[]);
    Caller::user(NOBODY).run(|| {
        write(&mount.at("f"), pattern(1, 0, 9000));
        mkdir(&mount.at("d"));
        for mode in [0o444, 0o000] {
            let path = mount.at(format!("{mode:o}"));
            let mut options = OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), mode);
            options.open(&path).expect("create").write_all(b"closed").expect("write through the creating handle");
            fs::rename(&path, mount.at(format!("d/{mode:o}"))).expect("rename across directories");
        }
        assert_eq!(read(&mount.at("d/444")), b"closed");
        crate::ops::chmod(&mount.at("d/0"), 0o600);
        assert_eq!(read(&mount.at("d/0")), b"closed");
    });
    assert_eq!(said(fs::read(mount.at("f")).map(drop)), Err(Errno::ACCESS), "not even root");
    mount.unmount();
    let mount = volume.mount(&[]);
    Caller::user(NOBODY).run(|| assert!(read(&mount.at("f")) == pattern(1, 0, 9000)));
    mount.unmount();
}

#[test]
fn a_disabled_key_closes_files_and_an_enabled_one_opens_them_without_a_remount() {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount(&[]);
    for name in ["first", "second"] {
        write(&mount.at(name), pattern(1, 0, 9000));
    }
    mount.unmount();
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("first")) == pattern(1, 0, 9000));
    let outcome = volume.run(&["key", "disable", "alias/kmsfs/default"]);
    assert!(outcome.status.success(), "{}", words(&outcome));
    wait_until("opens to be refused", || said(fs::read(mount.at("second")).map(drop)) == Err(Errno::ACCESS));
    let cut = fs::OpenOptions::new().write(true).truncate(true).open(mount.at("second"));
    assert_eq!(said(cut.map(drop)), Err(Errno::ACCESS), "a refused open cuts nothing");
    let outcome = volume.run(&["key", "enable", "alias/kmsfs/default"]);
    assert!(outcome.status.success(), "{}", words(&outcome));
    wait_until("opens to work again", || fs::read(mount.at("second")).is_ok());
    assert!(read(&mount.at("second")) == pattern(1, 0, 9000));
    write(&mount.at("third"), b"and new files too");
}

#[test]
fn a_new_passphrase_replaces_the_old_one() {
    if skipped_in_plain_mode() {
        return;
    }
    let mut volume = Volume::with_passphrase();
    let mount = volume.mount(&[]);
    write(&mount.at("f"), pattern(1, 0, 9000));
    mount.unmount();
    let new = volume.base().join("new passphrase");
    fs::write(&new, "a quite different one\n").expect("file");
    let new_text = new.to_str().expect("UTF-8");
    let arguments = ["passphrase", "change", "--unlock-time", "1", "--new-passfile", new_text];
    let outcome = volume.run(&arguments);
    assert!(outcome.status.success(), "{}", words(&outcome));
    assert_eq!(volume.try_mount(&[]).err().and_then(|refusal| refusal.code), Some(3), "the old one is dead");
    volume.passfile = new;
    let mount = volume.mount(&[]);
    assert!(read(&mount.at("f")) == pattern(1, 0, 9000));
    mount.unmount();
}
