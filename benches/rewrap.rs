//! Rewrap against the least that it could cost: one getxattr(2) and one setxattr(2) for each file of the same tree.
//!
//! `cargo build --release && cargo bench -p kmsfs-bench --bench rewrap`. KMSFS_BENCH_FILES is how many files (default 100,000),
//! TMPDIR where they lie: on a filesystem with user attributes; KMSFS_BIN is the program (default target/release/kmsfs). The
//! unlocking of the keystore (Argon2id, a millisecond here) is in the time of the unmounted rewrap.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The envelopes go from one to the other: rotations on demand are 25 for a key.
const KEYS: [&str; 2] = ["alias/kmsfs/default", "alias/other"];
const PER_DIRECTORY: usize = 500;

struct Volume {
    folder: tempfile::TempDir,
    turn: Cell<usize>,
}

fn program() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/kmsfs");
    std::env::var_os("KMSFS_BIN").map_or_else(built, PathBuf::from)
}

impl Volume {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make(files: usize) -> Self {
        let volume = Self { folder: tempfile::tempdir().expect("temporary folder"), turn: Cell::new(0) };
        fs::create_dir(volume.at("mnt")).expect("mountpoint");
        fs::write(volume.at("pass"), "a passphrase for measuring\n").expect("passphrase");
        volume.kmsfs(&["init", "--unlock-time", "1"], &[volume.at("vault")]);
        volume.kmsfs(&["key", "create", "--alias", KEYS[1]], &[]);
        volume.mount();
        for number in 0..files {
            let folder = volume.at("mnt").join(format!("d{}", number / PER_DIRECTORY));
            if number % PER_DIRECTORY == 0 {
                fs::create_dir(&folder).expect("directory");
            }
            fs::write(folder.join(format!("f{number}")), vec![b'x'; 100 + number % 3000]).expect("file");
        }
        volume
    }

    /// With the keystore and its passphrase.
    fn kmsfs(&self, arguments: &[&str], paths: &[PathBuf]) {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .args(paths)
            .arg("--keystore")
            .arg(self.at("keystore"))
            .arg("--passfile")
            .arg(self.at("pass"));
        run(&mut command);
    }

    fn mount(&self) {
        self.kmsfs(&["mount"], &[self.at("vault"), self.at("mnt")]);
    }

    fn umount(&self) {
        run(Command::new(program()).arg("umount").arg(self.at("mnt")));
    }

    /// The time of a rewrap in which every envelope and mirror is stale.
    fn rewrap(&self, path: &Path) -> Duration {
        self.turn.set(1 - self.turn.get());
        let began = Instant::now();
        self.kmsfs(&["rewrap", "--to-key", KEYS[self.turn.get()]], &[path.to_path_buf()]);
        began.elapsed()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new(program()).arg("umount").arg(self.at("mnt")).stderr(Stdio::null()).status();
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("kmsfs");
    assert!(status.success(), "{command:?}: {status}");
}

/// Reads and sets the envelope of everything below `dir`, which changes nothing.
fn touch_all(dir: &Path) {
    for entry in fs::read_dir(dir).expect("directory").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("type"));
        if path.ends_with(".kmsfs") || kind.is_symlink() {
            continue;
        }
        let mut envelope = [0; 256];
        let len = rustix::fs::getxattr(&path, "user.kmsf", &mut envelope).expect("envelope");
        rustix::fs::setxattr(&path, "user.kmsf", &envelope[..len], rustix::fs::XattrFlags::REPLACE).expect("envelope");
        if kind.is_dir() {
            touch_all(&path);
        }
    }
}

fn rewrap(criterion: &mut Criterion) {
    let files = std::env::var("KMSFS_BENCH_FILES").map_or(100_000, |files| files.parse().expect("a number"));
    let volume = Volume::make(files);
    let mut group = criterion.benchmark_group("envelopes");
    group.throughput(Throughput::Elements(files as u64)).sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("getxattr and setxattr", |bencher| bencher.iter(|| touch_all(&volume.at("vault"))));
    let timed = |path: PathBuf| {
        let volume = &volume;
        move |rounds: u64| (0..rounds).map(|_| volume.rewrap(&path)).sum::<Duration>()
    };
    group.bench_function("rewrap, mounted", |bencher| bencher.iter_custom(timed(volume.at("mnt"))));
    volume.umount();
    group.bench_function("rewrap, not mounted", |bencher| bencher.iter_custom(timed(volume.at("vault"))));
    group.finish();
}

criterion_group!(benches, rewrap);
criterion_main!(benches);
