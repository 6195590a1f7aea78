//! Volumes and mounts to test with; drives the real binary.
//!
//! `KMSFS_TEST_SUITE=xts` makes volumes with the XTS suite. Other variables: `KMSFS_BIN`, another binary; `TMPDIR`, where volumes are made (it needs user xattrs).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
pub const PASSPHRASE: &str = "correct horse battery staple";

/// Whether volumes are made with `--suite xts`: `KMSFS_TEST_SUITE=xts`.
pub fn xts() -> bool {
    std::env::var_os("KMSFS_TEST_SUITE").is_some_and(|value| value == "xts")
}

/// Whether tests run in plain directories: `KMSFS_TEST_PLAIN=1`.
pub fn plain() -> bool {
    std::env::var_os("KMSFS_TEST_PLAIN").is_some_and(|value| value == "1")
}

/// True, with a word on stderr, where a test has nothing to say about a plain directory.
pub fn skipped_in_plain_mode() -> bool {
    if plain() {
        eprintln!("passed over: it needs a real mount");
    } else {
        need_root_and_fuse();
    }
    plain()
}

/// Whether volumes keep their wrapped keys in sidecars: `KMSFS_TEST_PLACEMENT=sidecar`.
pub fn sidecars() -> bool {
    std::env::var_os("KMSFS_TEST_PLACEMENT").is_some_and(|value| value == "sidecar")
}

pub fn need_root_and_fuse() {
    assert!(rustix::process::geteuid().is_root(), "these tests mount and change users: run them as root");
    assert!(plain() || Path::new("/dev/fuse").exists(), "no /dev/fuse: these tests mount (modprobe fuse)");
}

/// A number from the environment, or `default`.
pub fn setting(name: &str, default: u64) -> u64 {
    let parse = |text: String| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"));
    std::env::var(name).map_or(default, parse)
}

/// Whether a message tells what happened and what to do next: `kmsfs: WHAT; NEXT`.
pub fn is_advice(said: &str) -> bool {
    let advice = |line: &str| line.starts_with("kmsfs: ") && (line.contains("; ") || line.contains("Next: "));
    said.lines().any(advice)
}

/// Polls until `done`, else panics with `what`.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Repeats `attempt` for five seconds, while it fails because something is in use.
///
/// A child that another test is just starting has all our descriptors from its fork(2) to its execve(2): what was closed is
/// in use for that moment more. A leak lasts longer than this waits.
pub fn past_other_children(mut attempt: impl FnMut() -> Output) -> Output {
    let start = Instant::now();
    loop {
        let outcome = attempt();
        if !is_busy(&outcome) || start.elapsed() > Duration::from_secs(5) {
            return outcome;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether kmsfs, umount(8), mount(8) or fusermount3 refused because something is in use.
fn is_busy(outcome: &Output) -> bool {
    let said = words(outcome);
    !outcome.status.success()
        && (outcome.status.code() == Some(IN_USE) || said.contains("busy") || said.contains(": it is open"))
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("KMSFS_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kmsfs")), PathBuf::from)
}

/// A backing tree, its keystore, what opens that and its mountpoint, all in a temporary folder.
///
/// A key file opens it, the same for all, unless a test asks for a passphrase: Argon2id at its least takes more processor time
/// than all else that a command does in most tests.
#[derive(Clone)]
pub struct Volume {
    base: Arc<TempDir>,
    binary: PathBuf,
    user: Option<u32>,
    has_passphrase: bool,
    pub backing: PathBuf,
    pub keystore: PathBuf,
    pub keyfile: PathBuf,
    pub passfile: PathBuf,
    pub mountpoint: PathBuf,
}

impl Volume {
    /// A fresh volume.
    pub fn new() -> Volume {
        Volume::with(&[])
    }

    /// A fresh volume, `init` with more arguments.
    pub fn with(arguments: &[&str]) -> Volume {
        let volume = Volume::folders();
        volume.init(arguments);
        volume
    }

    /// A fresh volume that a passphrase opens.
    pub fn with_passphrase() -> Volume {
        let volume = Volume::folders().by_passphrase();
        volume.init(&[]);
        volume
    }

    /// Everything but the volume itself.
    pub fn folders() -> Volume {
        let base = TempDir::with_prefix("kmsfs-test-").expect("temporary folder");
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let at = base.path().canonicalize().expect("path of the temporary folder");
        let volume = Volume {
            binary: binary(),
            user: None,
            has_passphrase: false,
            backing: at.join("backing"),
            keystore: at.join("keystore"),
            keyfile: at.join("key"),
            passfile: at.join("passphrase"),
            mountpoint: at.join("mountpoint"),
            base: Arc::new(base),
        };
        fs::create_dir(&volume.backing).expect("backing folder");
        fs::create_dir(&volume.mountpoint).expect("mountpoint");
        fs::write(&volume.passfile, format!("{PASSPHRASE}\n")).expect("passphrase file");
        fs::write(&volume.keyfile, [b'k'; 64]).expect("key file");
        fs::set_permissions(&volume.keyfile, fs::Permissions::from_mode(0o600)).expect("chmod");
        volume
    }

    /// The same, to be opened by the passphrase.
    pub fn by_passphrase(mut self) -> Volume {
        self.has_passphrase = true;
        self
    }

    /// The arguments that open the keystore.
    pub fn secret(&self) -> [&OsStr; 4] {
        let (option, file) =
            if self.has_passphrase { ("--passfile", &self.passfile) } else { ("--keyfile", &self.keyfile) };
        ["--keystore".as_ref(), self.keystore.as_os_str(), option.as_ref(), file.as_os_str()]
    }

    /// A fresh volume of an ordinary user, who makes and mounts it.
    pub fn of_user(user: u32) -> Volume {
        let mut volume = Volume::folders();
        // the build folder may be closed to that user
        volume.binary = volume.base().join("kmsfs");
        fs::copy(binary(), &volume.binary).expect("copy of the binary");
        // For the same reason as in `past_other_children`, the copy may be open for writing still.
        wait_until("the copy of the binary to be closed", || {
            let started = Command::new(&volume.binary).arg("--version").output();
            !started.is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
        });
        volume.user = Some(user);
        for path in [volume.base.path(), &volume.backing, &volume.mountpoint, &volume.keyfile] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).expect("chown");
        }
        volume.init(&[]);
        volume
    }

    /// The temporary folder, for what a test needs besides.
    pub fn base(&self) -> PathBuf {
        self.base.path().canonicalize().expect("path of the temporary folder")
    }

    /// `kmsfs init`.
    pub fn init(&self, arguments: &[&str]) {
        let mut all = vec![OsStr::new("init"), OsStr::new("--unlock-time"), OsStr::new("1"), self.backing.as_os_str()];
        if sidecars() && !arguments.contains(&"--placement") {
            all.extend(["--placement", "sidecar"].map(OsStr::new));
        }
        all.extend(arguments.iter().map(OsStr::new));
        if xts() && !arguments.contains(&"--suite") {
            all.extend(["--suite", "xts"].map(OsStr::new));
        }
        let outcome = self.run(&all);
        assert!(outcome.status.success(), "kmsfs init: {}", words(&outcome));
    }

    /// A command of the volume's user, without secrets.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.stdin(Stdio::null()).env("HOME", self.base.path()).env_remove("KMSFS_KEYSTORE");
        if let Some(user) = self.user {
            command.uid(user).gid(user).current_dir("/");
        }
        command
    }

    /// Runs `kmsfs ARGUMENTS` with the volume's keystore and what opens it.
    pub fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        let mut command = self.command();
        command.args(arguments).args(self.secret());
        command.output().unwrap_or_else(|e| panic!("{}: {e}", self.binary.display()))
    }

    /// Mounts, or panics with what kmsfs said. Arguments as of `kmsfs mount`.
    pub fn mount(&self, arguments: &[&str]) -> Mount {
        self.try_mount(arguments).unwrap_or_else(|refusal| panic!("kmsfs mount: {refusal:?}"))
    }

    /// Mounts in the foreground with the log kept, or gives the refusal.
    pub fn try_mount(&self, arguments: &[&str]) -> Result<Mount, Refusal> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let [log, told] = ["log", "told"].map(|name| self.base.path().join(format!("{name}.{count}")));
        let [stderr, stdout] = [&log, &told].map(|path| File::create(path).expect("a file for the daemon's words"));
        let mut command = self.command();
        command.arg("mount").arg(&self.backing).arg(&self.mountpoint).arg("-f").args(arguments);
        command.args(self.secret());
        if self.user.is_none() {
            command.args(["-o", "allow_other"]);
        }
        let child = command.stdout(stdout).stderr(stderr).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{}: {e}", self.binary.display()));
        let mut ended = None;
        // It is in the table of mounts before it has greeted the kernel: who unmounts then breaks it off.
        wait_until("the mount", || {
            ended = child.try_wait().expect("wait for kmsfs");
            ended.is_some() || read_text(&told).starts_with("Mounted ")
        });
        match ended {
            Some(status) => Err(Refusal { code: status.code(), said: read_text(&log) }),
            None => Ok(Mount { volume: self.clone(), child, log }),
        }
    }

    /// `kmsfs umount` of the volume's mountpoint.
    pub fn umount(&self) -> Output {
        past_other_children(|| self.umount_at_once())
    }

    /// The same, where the answer may be that it is in use.
    pub fn umount_at_once(&self) -> Output {
        let mut command = self.command();
        command.arg("umount").arg(&self.mountpoint).output().expect("kmsfs umount")
    }
}

/// The exit code for what is in use.
const IN_USE: i32 = 6;

/// A mount that did not come about.
#[derive(Debug)]
pub struct Refusal {
    /// None: killed by a signal.
    pub code: Option<i32>,
    pub said: String,
}

/// What a command said, for a panic.
pub fn words(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// How many filesystems are mounted on `path`; asks no filesystem, so a dead mount cannot hang it.
pub fn mounts_on(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path)).count()
}

/// A mounted volume with its daemon in the foreground; unmounts when dropped.
pub struct Mount {
    volume: Volume,
    child: Child,
    log: PathBuf,
}

impl Mount {
    pub fn dir(&self) -> &Path {
        &self.volume.mountpoint
    }

    /// `dir/name`.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.volume.mountpoint.join(name)
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon has written to its stderr so far.
    pub fn log(&self) -> String {
        read_text(&self.log)
    }

    /// Waits for a line of the log that contains all of `parts`.
    pub fn wait_log(&self, parts: &[&str]) {
        let found = || self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let start = Instant::now();
        while !found() {
            assert!(start.elapsed() < Duration::from_secs(5), "no line with {parts:?} in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Unmounts with `kmsfs umount` and waits for the daemon, which must end well.
    pub fn unmount(mut self) {
        let outcome = self.volume.umount();
        assert!(outcome.status.success(), "kmsfs umount: {}\nlog:\n{}", words(&outcome), self.log());
        self.wait_end();
    }

    /// kill -9 of the daemon; the dead mount stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait for the daemon");
    }

    /// Lets go of a mount whose backing store died: detaches it and ends the daemon.
    pub fn abandon(mut self) {
        detach(&self.volume.mountpoint);
        self.kill();
    }

    /// Waits until the daemon ended by itself, which it must do well.
    pub fn wait_end(&mut self) {
        let status = self.wait_for_end();
        assert!(status.success(), "the daemon ended with {status}; log:\n{}", self.log());
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the daemon to end", || {
            status = self.child.try_wait().expect("wait for the daemon");
            status.is_some()
        });
        status.expect("it ended")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let running = matches!(self.child.try_wait(), Ok(None));
        if !running && mounts_on(&self.volume.mountpoint) == 0 {
            return;
        }
        if std::thread::panicking() {
            eprintln!("log of the daemon ({}):\n{}", self.child.id(), self.log());
        }
        if !running || !self.volume.umount().status.success() {
            detach(&self.volume.mountpoint);
        }
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(20) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// umount -l, last resort.
pub fn detach(mountpoint: &Path) {
    let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
}
