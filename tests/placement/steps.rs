//! kill -9 of the daemon at each system call of an operation that changes names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::RenameFlags;

use crate::harness::{Mount, Volume, skipped_in_plain_mode, wait_until, words};
use crate::ops::{mkdir, pattern, read, tree, write};

/// What the daemon does to names and sidecars.
const CALLS: [&str; 7] = ["openat", "pwrite64", "fsync", "renameat2", "unlinkat", "linkat", "mkdirat"];
/// No operation has more of one kind.
const MOST: u32 = 30;

/// What is done to a directory.
type Step = fn(&Path);

/// Plain content by path: what may be there after a crash. Directories have none.
type State = BTreeMap<String, Option<Vec<u8>>>;

fn state(root: &Path) -> State {
    let all = tree(root).into_iter().map(|path| {
        let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
        let content = path.is_file().then(|| read(&path));
        (name, content)
    });
    all.collect()
}

/// strace on the daemon, which kills it when one of its threads makes this call for the n-th time.
fn killer(daemon: u32, call: &str, number: u32) -> Child {
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    command.args(["-p", &daemon.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("strace");
    let traced = || {
        let tasks = fs::read_dir(format!("/proc/{daemon}/task")).into_iter().flatten().flatten();
        let mut said = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
        // A thread of the background may have made the call already: then the daemon is dead before the operation.
        said.all(|status| !status.contains("TracerPid:\t0\n") || status.contains("State:\tZ"))
    };
    wait_until("strace", traced);
    child
}

/// Runs `change` on what `furnish` made, with the daemon killed at its first call, its second, and so on, until it is not
/// killed any more. Each time everything must be as before, as afterwards, or as one of `between`.
fn at_each_step(furnish: Step, change: Step, between: &[Step]) {
    if skipped_in_plain_mode() {
        return;
    }
    let volume = Volume::with(&["--placement", "sidecar"]);
    let mut mount = volume.mount(&[]);
    let model = |steps: &[Step]| {
        let dir = tempfile::tempdir().expect("temporary folder");
        furnish(dir.path());
        steps.iter().for_each(|step| step(dir.path()));
        state(dir.path())
    };
    let mut allowed = vec![model(&[]), model(&[change])];
    allowed.extend(between.iter().map(|step| model(&[*step])));
    let mut killed = 0;
    for call in CALLS {
        for number in 1..=MOST {
            assert!(number < MOST, "more than {MOST} of {call}");
            let name = format!("{call}{number}");
            let survived;
            (mount, survived) = one_step(&volume, mount, &name, (furnish, change), (call, number));
            let found = state(&mount.at(&name));
            assert!(allowed.contains(&found), "killed at {call} {number}: {:?}", found.keys().collect::<Vec<_>>());
            mount = usable(&volume, mount, &name);
            if survived {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 1, "nothing was tested");
    mount.unmount();
}

/// Whether the daemon survived the change; else the volume is mounted again.
fn one_step(
    volume: &Volume,
    mut mount: Mount,
    name: &str,
    (furnish, change): (Step, Step),
    (call, number): (&str, u32),
) -> (Mount, bool) {
    let place = mount.at(name);
    mkdir(&place);
    furnish(&place);
    // The kernel and the daemon must have nothing else to do.
    for path in tree(&place).into_iter().filter(|path| !path.is_symlink()) {
        fs::File::open(&path).and_then(|file| file.sync_all()).expect("fsync");
    }
    let mut strace = killer(mount.pid(), call, number);
    let changed = std::panic::catch_unwind(|| change(&place)).is_ok();
    let survived = changed && fs::metadata(mount.dir()).is_ok();
    if survived {
        let strace = rustix::process::Pid::from_raw(strace.id() as i32).expect("pid");
        rustix::process::kill_process(strace, rustix::process::Signal::INT).expect("end strace");
    } else {
        // By itself it would wait for ever for a daemon that died while it attached to the threads.
        strace.kill().expect("end strace");
    }
    strace.wait().expect("wait for strace");
    if survived {
        return (mount, true);
    }
    mount.kill();
    let outcome = volume.umount();
    assert!(outcome.status.success(), "umount of a dead mount: {}", words(&outcome));
    drop(mount);
    (volume.mount(&[]), false)
}

/// What a crash left must not stand in the way of anything.
fn usable(volume: &Volume, mount: Mount, name: &str) -> Mount {
    let place = mount.at(name);
    for path in tree(&place).into_iter().filter(|path| path.is_file()) {
        write(&path, pattern(9, 0, 700));
        assert!(read(&path) == pattern(9, 0, 700));
    }
    for path in ["fresh", "x/a", "x/t", "y/t", "y/new", "y/linked"].map(|name| place.join(name)) {
        if !path.exists() && path.parent().is_some_and(Path::exists) {
            write(&path, pattern(7, 0, 5000));
        }
    }
    mount.unmount();
    let mount = volume.mount(&[]);
    for path in tree(&mount.at(name)).into_iter().filter(|path| path.is_file()) {
        assert!(read(&path) == pattern(9, 0, 700) || read(&path) == pattern(7, 0, 5000), "{}", path.display());
    }
    fs::remove_dir_all(mount.at(name)).expect("everything can be removed");
    mount
}

fn two_files(root: &Path) {
    for (number, dir) in [(1, "x"), (2, "y")] {
        mkdir(&root.join(dir));
        for name in ["a", "t"] {
            write(&root.join(dir).join(name), pattern(number * 10 + u64::from(name.as_bytes()[0]), 0, 6000));
        }
    }
}

fn renamed(root: &Path, from: &str, to: &str, flags: RenameFlags) {
    rustix::fs::renameat_with(rustix::fs::CWD, root.join(from), rustix::fs::CWD, root.join(to), flags).expect("rename");
}

#[test]
fn a_file_that_replaces_another_in_its_directory() {
    at_each_step(two_files, |root| renamed(root, "x/a", "x/t", RenameFlags::empty()), &[]);
}

#[test]
fn a_file_that_replaces_another_elsewhere() {
    at_each_step(two_files, |root| renamed(root, "x/a", "y/t", RenameFlags::empty()), &[]);
}

#[test]
fn a_file_that_gets_another_name_elsewhere() {
    at_each_step(two_files, |root| renamed(root, "x/a", "y/new", RenameFlags::empty()), &[]);
}

#[test]
fn an_empty_file_that_replaces_another() {
    let furnish = |root: &Path| {
        two_files(root);
        write(&root.join("x/empty"), []);
    };
    at_each_step(furnish, |root| renamed(root, "x/empty", "x/t", RenameFlags::empty()), &[]);
}

#[test]
fn two_files_that_change_places() {
    at_each_step(two_files, |root| renamed(root, "x/a", "y/t", RenameFlags::EXCHANGE), &[]);
}

#[test]
fn a_further_link() {
    at_each_step(two_files, |root| fs::hard_link(root.join("x/a"), root.join("y/linked")).expect("link"), &[]);
}

#[test]
fn a_file_that_is_removed() {
    at_each_step(two_files, |root| fs::remove_file(root.join("x/a")).expect("unlink"), &[]);
}

#[test]
fn a_directory_that_is_removed() {
    let furnish = |root: &Path| {
        two_files(root);
        mkdir(&root.join("x/empty"));
    };
    at_each_step(furnish, |root| fs::remove_dir(root.join("x/empty")).expect("rmdir"), &[]);
}

#[test]
fn a_directory_that_replaces_another() {
    let furnish = |root: &Path| {
        two_files(root);
        mkdir(&root.join("x/empty"));
    };
    // The empty one may be gone before the other takes its place.
    let gone = |root: &Path| fs::remove_dir(root.join("x/empty")).expect("rmdir");
    at_each_step(furnish, |root| renamed(root, "y", "x/empty", RenameFlags::empty()), &[gone]);
}

#[test]
fn a_directory_that_is_made() {
    at_each_step(two_files, |root| mkdir(&root.join("x/new")), &[]);
}
