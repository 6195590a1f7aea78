//! Random operations on the mount and on a plain directory at once: every answer and the trees must agree.
//!
//! `KMSFS_MODEL_SECONDS` (default 20) and `KMSFS_MODEL_SEED` (default: from the clock, printed) steer it.

use std::fmt::Debug;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FileType, RenameFlags, XattrFlags, fallocate};
use tempfile::TempDir;

use crate::harness::setting;
use crate::ops::{
    Answer, Errno, get_xattr, list_xattrs, lstat, mknod, names, pattern, remove_xattr, rename, said, tree,
};
use crate::place::Place;

/// SplitMix64: small, seeded, good enough to choose operations.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// An offset or length, often near a boundary of the format.
    fn place_in_file(&mut self) -> u64 {
        let edge = self.pick(&[0, 16, 512, 3584, 4096, 8192, 262_144, 266_240, 524_288]);
        match self.below(3) {
            0 => self.below(600_000),
            1 => edge + self.below(3),
            _ => edge.saturating_sub(self.below(40)),
        }
    }

    /// A path of few names, so that operations meet; some names are long.
    fn path(&mut self) -> PathBuf {
        let mut path = PathBuf::new();
        for _ in 0..self.pick(&[0, 0, 1, 1, 2]) {
            path.push(self.pick(&["d", "e"]));
        }
        path.push(match self.below(8) {
            0 => "long".repeat(60),
            1 => "d".into(),
            2 => "e".into(),
            number => format!("f{}", number % 4),
        });
        path
    }
}

#[derive(Debug, Clone)]
enum Step {
    Open { path: PathBuf, slot: usize },
    Close { slot: usize },
    Write { slot: usize, at: u64, len: usize, seed: u64 },
    Read { slot: usize, at: u64, len: usize },
    Truncate { slot: usize, len: u64 },
    TruncatePath { path: PathBuf, len: u64 },
    Allocate { slot: usize, flags: FallocateFlags, at: u64, len: u64 },
    Sync { slot: usize },
    Stat { slot: usize },
    SetXattr { path: PathBuf, name: &'static str, len: usize, flags: XattrFlags },
    RemoveXattr { path: PathBuf, name: &'static str },
    Rename { from: PathBuf, to: PathBuf, flags: RenameFlags },
    Link { from: PathBuf, to: PathBuf },
    Symlink { target: String, path: PathBuf },
    Fifo { path: PathBuf },
    Mkdir { path: PathBuf },
    Rmdir { path: PathBuf },
    Unlink { path: PathBuf },
    Chmod { path: PathBuf, mode: u32 },
    List { path: PathBuf },
    ReadWhole { path: PathBuf },
}

const SLOTS: usize = 6;
const XATTRS: [&str; 3] = ["user.a", "user.longer name", "trusted.t"];

fn choose(dice: &mut Dice) -> Step {
    let (slot, path) = (dice.below(SLOTS as u64) as usize, dice.path());
    match dice.below(46) {
        0..6 => Step::Open { path, slot },
        6 => Step::Close { slot },
        7..14 => {
            let len = dice.pick(&[1, 10, 500, 3584, 4096, 10_000, 140_000]) as usize;
            Step::Write { slot, at: dice.place_in_file(), len, seed: dice.next() }
        }
        14..18 => Step::Read { slot, at: dice.place_in_file(), len: dice.place_in_file() as usize },
        18..20 => Step::Truncate { slot, len: dice.place_in_file() },
        20 => Step::TruncatePath { path, len: dice.place_in_file() },
        21..24 => {
            let keep = FallocateFlags::KEEP_SIZE;
            let kinds = [
                FallocateFlags::empty(),
                keep,
                keep | FallocateFlags::PUNCH_HOLE,
                FallocateFlags::ZERO_RANGE,
                keep | FallocateFlags::ZERO_RANGE,
            ];
            Step::Allocate { slot, flags: dice.pick(&kinds), at: dice.place_in_file(), len: dice.place_in_file() }
        }
        24 => Step::Sync { slot },
        25..27 => Step::Stat { slot },
        27..29 => {
            let flags = dice.pick(&[XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE]);
            Step::SetXattr { path, name: dice.pick(&XATTRS), len: dice.below(200) as usize, flags }
        }
        29 => Step::RemoveXattr { path, name: dice.pick(&XATTRS) },
        30..34 => {
            let flags = dice.pick(&[RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE]);
            Step::Rename { from: path, to: dice.path(), flags }
        }
        34..36 => Step::Link { from: path, to: dice.path() },
        36 => Step::Symlink { target: "t".repeat(dice.pick(&[1, 30, 3043, 3044])), path },
        37 => Step::Fifo { path },
        38..40 => Step::Mkdir { path },
        40 => Step::Rmdir { path },
        41 => Step::Unlink { path },
        42 => Step::Chmod { path, mode: dice.pick(&[0o600, 0o755, 0o444, 0o000]) },
        43 => Step::List { path: path.parent().unwrap_or(Path::new("")).to_path_buf() },
        _ => Step::ReadWhole { path },
    }
}

/// One of the two sides, with its open files.
struct Side {
    root: PathBuf,
    open: [Option<File>; SLOTS],
}

/// What a step answered, in bytes to compare.
type Outcome = Answer<Vec<u8>>;

fn nothing(answer: Answer<()>) -> Outcome {
    answer.map(|()| Vec::new())
}

fn stat_of(stat: &fs::Metadata) -> Vec<u8> {
    let size = if stat.is_dir() { 0 } else { stat.len() };
    format!("{:o} size {size} links {} owner {}:{}", stat.mode(), stat.nlink(), stat.uid(), stat.gid()).into_bytes()
}

impl Side {
    fn new(root: &Path) -> Side {
        Side { root: root.to_path_buf(), open: [const { None }; SLOTS] }
    }

    fn apply(&mut self, step: &Step) -> Outcome {
        let at = |path: &Path| self.root.join(path);
        match step {
            Step::Open { path, slot } => {
                // a fifo would wait for its other end, so only files are opened
                if fs::metadata(at(path)).is_ok_and(|stat| !stat.is_file()) {
                    return Ok(b"not a file".to_vec());
                }
                let mut options = File::options();
                let opened = said(options.read(true).write(true).create(true).truncate(false).open(at(path)));
                nothing(opened.map(|file| self.open[*slot] = Some(file)))
            }
            Step::Close { slot } => {
                self.open[*slot] = None;
                Ok(Vec::new())
            }
            Step::TruncatePath { path, len } => nothing(said(
                File::options().write(true).custom_nonblock().open(at(path)).and_then(|file| file.set_len(*len)),
            )),
            Step::SetXattr { path, name, len, flags } => {
                nothing(rustix::fs::lsetxattr(at(path), *name, &pattern(*len as u64, 0, *len), *flags))
            }
            Step::RemoveXattr { path, name } => nothing(remove_xattr(&at(path), name)),
            Step::Rename { from, to, flags } => nothing(rename(&at(from), &at(to), *flags)),
            Step::Link { from, to } => nothing(said(fs::hard_link(at(from), at(to)))),
            Step::Symlink { target, path } => nothing(said(symlink(target, at(path)))),
            Step::Fifo { path } => nothing(mknod(&at(path), FileType::Fifo, 0o600, 0)),
            Step::Mkdir { path } => nothing(said(fs::create_dir(at(path)))),
            Step::Rmdir { path } => nothing(said(fs::remove_dir(at(path)))),
            Step::Unlink { path } => nothing(said(fs::remove_file(at(path)))),
            Step::Chmod { path, mode } => {
                let permissions = std::os::unix::fs::PermissionsExt::from_mode(*mode);
                nothing(said(fs::set_permissions(at(path), permissions)))
            }
            Step::List { path } => {
                let there = said(fs::symlink_metadata(at(path)))?;
                Ok(if there.is_dir() { names(&at(path)).join(&b'/') } else { stat_of(&there) })
            }
            Step::ReadWhole { path } => match said(fs::metadata(at(path)))? {
                stat if stat.is_file() => said(fs::read(at(path))),
                stat => Ok(stat_of(&stat)),
            },
            with_handle => self.with_handle(with_handle),
        }
    }

    fn with_handle(&self, step: &Step) -> Outcome {
        let file = |slot: &usize| self.open[*slot].as_ref().ok_or(Errno::BADF);
        match step {
            Step::Write { slot, at, len, seed } => {
                nothing(said(file(slot)?.write_all_at(&pattern(*seed, 0, *len), *at)))
            }
            Step::Read { slot, at, len } => {
                let mut content = vec![0; *len];
                let got = said(file(slot)?.read_at(&mut content, *at))?;
                content.truncate(got);
                Ok(content)
            }
            Step::Truncate { slot, len } => nothing(said(file(slot)?.set_len(*len))),
            Step::Allocate { slot, flags, at, len } => nothing(fallocate(file(slot)?, *flags, *at, *len)),
            Step::Sync { slot } => nothing(said(file(slot)?.sync_all())),
            Step::Stat { slot } => Ok(stat_of(&said(file(slot)?.metadata())?)),
            other => panic!("{other:?} needs no handle"),
        }
    }
}

trait NonBlocking {
    fn custom_nonblock(&mut self) -> &mut Self;
}

impl NonBlocking for fs::OpenOptions {
    /// A fifo without a reader answers ENXIO instead of waiting.
    fn custom_nonblock(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK)
    }
}

/// Everything that can be seen of an object.
fn portrait(root: &Path, path: &Path) -> impl PartialEq + Debug + use<> {
    let stat = lstat(path);
    let content = match stat.file_type() {
        kind if kind.is_file() => fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display())),
        kind if kind.is_symlink() => fs::read_link(path).expect("readlink").into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    let xattrs: Vec<_> =
        list_xattrs(path).expect("list").into_iter().map(|name| (get_xattr(path, &name), name)).collect();
    let shown =
        (content.len(), content.iter().fold(0u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte) + 1)));
    (path.strip_prefix(root).expect("below the root").to_path_buf(), stat_of(&stat), shown, xattrs)
}

fn compare_trees(left: &Path, right: &Path, when: &str) {
    let (mut seen, mut expected) = (tree(left), tree(right));
    seen.sort();
    expected.sort();
    let relative = |root: &Path, all: &[PathBuf]| -> Vec<PathBuf> {
        all.iter().map(|path| path.strip_prefix(root).expect("below the root").to_path_buf()).collect()
    };
    assert_eq!(relative(left, &seen), relative(right, &expected), "names {when}");
    for (ours, theirs) in seen.iter().zip(&expected) {
        let (ours, theirs) = (portrait(left, ours), portrait(right, theirs));
        assert!(ours == theirs, "{when}:\n{ours:?}\nbut the plain directory has\n{theirs:?}");
    }
}

/// Longest path below the root, in bytes. No call takes one of 4096.
const LONGEST: usize = 3000;

/// Whether a directory would be moved so deep that its entries have no path any more: they move into each other without end.
fn is_too_deep(root: &Path, step: &Step) -> bool {
    let Step::Rename { from, to, flags } = step else { return false };
    let deepest = |moved: &Path, into: &Path| {
        let dir = root.join(moved);
        let is_dir = fs::symlink_metadata(&dir).is_ok_and(|stat| stat.is_dir());
        let below = if is_dir { tree(&dir) } else { Vec::new() };
        let longest = below.iter().map(|path| path.as_os_str().len() - dir.as_os_str().len()).max();
        longest.unwrap_or(0) + into.as_os_str().len()
    };
    deepest(from, to) > LONGEST || (flags.contains(RenameFlags::EXCHANGE) && deepest(to, from) > LONGEST)
}

#[test]
fn random_operations_answer_as_a_plain_directory_does() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let seed = setting("KMSFS_MODEL_SEED", clock);
    let length = Duration::from_secs(setting("KMSFS_MODEL_SECONDS", 20));
    eprintln!("KMSFS_MODEL_SEED={seed}");
    let mut dice = Dice(seed);
    let mut place = Place::own();
    let model = TempDir::with_prefix("kmsfs-model-").expect("temporary folder");
    let (mut ours, mut theirs) = (Side::new(&place), Side::new(model.path()));
    let (start, mut history) = (Instant::now(), Vec::new());
    while start.elapsed() < length {
        let step = choose(&mut dice);
        if is_too_deep(model.path(), &step) {
            continue;
        }
        history.push(step.clone());
        let (seen, expected) = (ours.apply(&step), theirs.apply(&step));
        if seen != expected {
            let short = |outcome: &Outcome| match outcome {
                Ok(bytes) if bytes.len() > 300 => format!("{} bytes, {:?}...", bytes.len(), &bytes[..50]),
                Ok(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
                Err(error) => error.to_string(),
            };
            let differ = seen.iter().flatten().zip(expected.iter().flatten()).position(|(a, b)| a != b);
            let recent = &history[history.len().saturating_sub(30)..];
            panic!(
                "seed {seed}, step {}: {step:?}\nkmsfs: {}\nplain: {}\nfirst difference at {differ:?}\nbefore: {recent:#?}",
                history.len(),
                short(&seen),
                short(&expected)
            );
        }
        if history.len() % 1500 == 0 {
            compare_trees(&place, model.path(), "with open files");
            ours.open = [const { None }; SLOTS];
            theirs.open = [const { None }; SLOTS];
            place.remount(&[]);
            compare_trees(&place, model.path(), "after a remount");
        }
    }
    drop((ours, theirs));
    place.remount(&[]);
    compare_trees(&place, model.path(), &format!("after {} steps, seed {seed}", history.len()));
    // the dice must have done something, else this test proves nothing
    assert!(history.len() > 500, "only {} steps", history.len());
}
