//! Kills and power cuts at every point, over a recording of what reached the backing file.
//!
//! A kill keeps a prefix of the calls. A power cut keeps everything up to a completed sync and any part of what came later, in pages
//! of 4096 bytes, with one promise that every journaling filesystem keeps: what was written into a range after that range was
//! cut or punched is not there unless the cut is. What must hold then:
//! - the file opens, if any of it was synced and it was not emptied since;
//! - its size is the synced one or one it had later;
//! - each block reads as it was synced or as it was at some time later, never as anything else, never with an error.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "core_crash/disk.rs"]
mod disk;
#[path = "core_crash/scenarios.rs"]
mod scenarios;

use std::sync::Arc;

use disk::{Choices, Disk, Image, Op};
use kmsfs::content::{BackingFile, Content, ContentKey, Durability, Error};
use kmsfs::crypto::{DataKey, Secret};
use scenarios::{Step, any_step};

const BLOCK: usize = 4096;

fn key() -> ContentKey {
    ContentKey { key: DataKey::from_secret(Secret::build(|to| to.fill(7))), mirror: None }
}

/// What the file was at some time.
struct Version {
    plain: Vec<u8>,
    /// Calls recorded before the operation that led to it: from there on it may be seen.
    from: usize,
}

struct History {
    versions: Vec<Version>,
    /// For each completed sync: calls recorded then, and the version that was synced.
    syncs: Vec<(usize, usize)>,
}

/// A scenario in the making: a file, what it should hold, and the recording.
struct Session {
    content: Content<Arc<Disk>>,
    plain: Vec<u8>,
    history: History,
}

impl Session {
    fn start(disk: Arc<Disk>, plain: Vec<u8>, durability: Durability) -> Self {
        let exists = disk.len().unwrap() > 0;
        let content = if exists {
            Content::open(disk, key(), durability).unwrap()
        } else {
            Content::create(disk, key(), durability)
        };
        let versions = vec![Version { plain: plain.clone(), from: 0 }];
        Self { content, plain, history: History { versions, syncs: vec![(0, 0)] } }
    }

    fn step(&mut self, step: Step, choices: &mut Choices, durability: Durability) {
        let from = self.content.backing().recorded();
        let done = match step {
            Step::Write { at, len } => self.write(at, len, choices),
            Step::Append { len } => self.write(self.plain.len() as u64, len, choices),
            Step::Truncate(size) => {
                self.plain.resize(size as usize, 0);
                self.content.truncate(size)
            }
            Step::Punch { at, len } => {
                self.zero(at, len);
                self.content.punch_hole(at, len)
            }
            Step::Zero { at, len } => {
                self.zero(at, len);
                self.content.zero_range(at, len, true)
            }
            Step::Commit => self.content.commit(),
            Step::Settle => self.content.settle(),
            Step::Sync => self.content.sync(choices.below(2) == 0).map(|()| {
                let version = self.history.versions.len() - 1;
                self.history.syncs.push((self.content.backing().recorded(), version));
            }),
            Step::Reopen => self.content.commit().map(|()| {
                let disk = Arc::clone(self.content.backing());
                self.content = if disk.len().unwrap() > 0 {
                    Content::open(disk, key(), durability).unwrap()
                } else {
                    Content::create(disk, key(), durability)
                };
            }),
        };
        if done.is_err() {
            // What was to be may be there after a crash as well as what became of it.
            self.history.versions.push(Version { plain: self.plain.clone(), from });
            self.plain = vec![0; self.content.size() as usize];
            self.content.read(0, &mut self.plain).unwrap();
        }
        if self.history.versions.last().unwrap().plain != self.plain {
            self.history.versions.push(Version { plain: self.plain.clone(), from });
        }
    }

    fn write(&mut self, at: u64, len: usize, choices: &mut Choices) -> Result<(), Error> {
        // Each write fills with its own byte, which is never zero: cheap to make, and a stale or mixed block shows.
        let data = vec![1 + choices.below(255) as u8; len];
        let (at, end) = (at as usize, at as usize + len);
        if self.plain.len() < end {
            self.plain.resize(end, 0);
        }
        self.plain[at..end].copy_from_slice(&data);
        self.content.write(at as u64, &data)
    }

    fn zero(&mut self, at: u64, len: u64) {
        let end = self.plain.len().min((at + len) as usize);
        if (at as usize) < end {
            self.plain[at as usize..end].fill(0);
        }
    }
}

impl History {
    /// Opens what a crash after `cut` calls left, and says what is wrong with it. Gives the content if it opens.
    fn judge(&self, image: Image, cut: usize) -> Result<Option<Vec<u8>>, String> {
        let synced = self.syncs.iter().rev().find(|(at, _)| *at <= cut).map_or(0, |sync| sync.1);
        let until = self.versions.iter().rposition(|version| version.from <= cut).unwrap_or(0);
        let allowed = &self.versions[synced..=until.max(synced)];
        // Nothing was promised for a file that never was synced, or that was emptied after it was.
        let promised = allowed.iter().all(|version| !version.plain.is_empty());
        let len = image.len();
        let disk = Disk::of(image);
        if len == 0 {
            let fine = allowed.iter().any(|version| version.plain.is_empty());
            return if fine { Ok(Some(Vec::new())) } else { Err("the file is empty".into()) };
        }
        let content = match Content::open(disk, key(), Durability::Atomic) {
            Ok(content) => content,
            Err(_) if !promised => return Ok(None),
            Err(error) => return Err(format!("it does not open: {error}")),
        };
        let size = content.size() as usize;
        if !allowed.iter().any(|version| version.plain.len() == size) {
            return Err(format!("size {size} was never valid"));
        }
        let mut plain = vec![0xee; size];
        for (number, block) in plain.chunks_mut(BLOCK).enumerate() {
            let at = number * BLOCK;
            match content.read(at as u64, block) {
                Ok(read) if read == block.len() => {}
                Ok(read) => return Err(format!("block {number}: {read} bytes instead of {}", block.len())),
                Err(_) if !promised => return Ok(None),
                Err(error) => return Err(format!("block {number}: {error}")),
            }
            if !allowed.iter().any(|version| is_version_of(block, &version.plain, at)) {
                return Err(format!(
                    "block {number} of {size} bytes was never so: {:?}..",
                    &block[..block.len().min(4)]
                ));
            }
        }
        if content.backing().recorded() != 0 {
            return Err("reading wrote".into());
        }
        Ok(Some(plain))
    }
}

/// Whether `block`, which lies at `at`, is what `plain` has there; behind the end of either there are zeros.
fn is_version_of(block: &[u8], plain: &[u8], at: usize) -> bool {
    let there = plain.get(at..).unwrap_or_default();
    let common = there.len().min(block.len());
    block[..common] == there[..common] && block[common..].iter().all(|byte| *byte == 0)
}

fn random_scenario(seed: u64, durability: Durability) -> (Session, Vec<Step>) {
    let mut choices = Choices(seed);
    let large = choices.below(3) == 0;
    let mut session = Session::start(Disk::of(Image::default()), Vec::new(), durability);
    let mut steps = Vec::new();
    let first = [Step::Write { at: 0, len: 1 + choices.below(20_000) as usize }, Step::Sync];
    for number in 0..4 + choices.below(12) as usize {
        let size = session.plain.len() as u64;
        let step = first.get(number).copied().unwrap_or_else(|| any_step(&mut choices, size, large));
        steps.push(step);
        session.step(step, &mut choices, durability);
    }
    (session, steps)
}

fn kill_everywhere(session: &Session, name: &str, steps: &[Step]) {
    let log = session.content.backing().log();
    let mut image = Image::default();
    for cut in 0..=log.len() {
        if cut > 0 {
            image.apply(&log[cut - 1]);
        }
        if let Err(what) = session.history.judge(image.clone(), cut) {
            panic!("{name}, killed after call {cut} of {}: {what}\n{steps:?}\n{}", log.len(), disk::listing(&log));
        }
    }
}

fn cut_power(session: &Session, name: &str, steps: &[Step], choices: &mut Choices, cases: usize) {
    let log = session.content.backing().log();
    for _ in 0..cases {
        let cut = choices.below(log.len() as u64 + 1) as usize;
        let (image, kept) = Image::after_power_cut(&log[..cut], choices);
        if let Err(what) = session.history.judge(image, cut) {
            panic!(
                "{name}, power cut after call {cut} of {}: {what}\n{steps:?}\n{}\nkept {kept}",
                log.len(),
                disk::listing(&log[..cut])
            );
        }
    }
}

fn each_scenario(durability: Durability, mut judge: impl FnMut(&Session, &str, &[Step])) {
    for (name, steps) in scenarios::all() {
        let mut session = Session::start(Disk::of(Image::default()), Vec::new(), durability);
        let mut choices = Choices(1);
        for step in &steps {
            session.step(*step, &mut choices, durability);
        }
        judge(&session, name, &steps);
    }
}

#[test]
fn a_kill_at_any_call_leaves_old_or_new_when_atomic() {
    each_scenario(Durability::Atomic, kill_everywhere);
}

#[test]
fn a_kill_at_any_call_leaves_old_or_new_when_fast() {
    each_scenario(Durability::Fast, kill_everywhere);
}

#[test]
fn a_kill_in_random_scenarios() {
    for seed in 0..300 {
        for durability in [Durability::Atomic, Durability::Fast] {
            let (session, steps) = random_scenario(seed, durability);
            kill_everywhere(&session, &format!("seed {seed} {durability:?}"), &steps);
        }
    }
}

#[test]
fn a_power_cut_leaves_what_was_synced() {
    let mut choices = Choices(2);
    each_scenario(Durability::Atomic, |session, name, steps| cut_power(session, name, steps, &mut choices, 400));
}

#[test]
fn a_power_cut_in_random_scenarios() {
    for seed in 1000..1500 {
        let (session, steps) = random_scenario(seed, Durability::Atomic);
        cut_power(&session, &format!("seed {seed}"), &steps, &mut Choices(seed), 40);
    }
}

/// One sync fails on the way. The file stays open: who opens it anew cannot know of it.
#[test]
fn a_power_cut_after_a_sync_that_failed() {
    for seed in 2000..2600 {
        let mut choices = Choices(seed);
        let mut session = Session::start(Disk::of(Image::default()), Vec::new(), Durability::Atomic);
        let mut steps = vec![Step::Write { at: 0, len: 1 + choices.below(20_000) as usize }, Step::Sync];
        for number in 0..12 {
            if number >= steps.len() {
                let size = session.plain.len() as u64;
                let any = any_step(&mut choices, size, false);
                steps.push(if matches!(any, Step::Reopen) { Step::Sync } else { any });
            }
            session.step(steps[number], &mut choices, Durability::Atomic);
            if number == 1 {
                *session.content.backing().failing.lock() = Some(choices.below(8) as usize);
            }
        }
        cut_power(&session, &format!("seed {seed}, a failed sync"), &steps, &mut Choices(seed), 40);
    }
}

/// A crash, more work on what it left, and another crash.
#[test]
fn a_second_crash_after_the_first() {
    for seed in 5000..5400 {
        let mut choices = Choices(seed);
        let (session, steps) = random_scenario(seed, Durability::Atomic);
        let log = session.content.backing().log();
        let cut = choices.below(log.len() as u64 + 1) as usize;
        let killed = choices.below(2) == 0;
        let left = if killed {
            let mut image = Image::default();
            log[..cut].iter().for_each(|op| image.apply(op));
            image
        } else {
            Image::after_power_cut(&log[..cut], &mut choices).0
        };
        let Ok(Some(plain)) = session.history.judge(left.clone(), cut) else { continue };
        if plain.is_empty() {
            continue;
        }
        let name = format!("seed {seed}, {} after call {cut}", if killed { "killed" } else { "power cut" });
        second_life(left, if killed { &log[..cut] } else { &[] }, plain, &session, &mut choices, &name, &steps);
    }
}

fn second_life(
    left: Image,
    before: &[Op],
    plain: Vec<u8>,
    session: &Session,
    choices: &mut Choices,
    name: &str,
    steps: &[Step],
) {
    let disk = Disk::of(left.clone());
    let mut second = Session::start(disk, plain, Durability::Atomic);
    // After a kill, what was synced before is what a power cut may bring back: so is every version since.
    if !before.is_empty() {
        let synced = session.history.syncs.iter().rev().find(|(at, _)| *at <= before.len()).map_or(0, |sync| sync.1);
        let older = session.history.versions[synced..].iter().filter(|version| version.from <= before.len());
        let older: Vec<Version> = older.map(|version| Version { plain: version.plain.clone(), from: 0 }).collect();
        second.history.syncs = vec![(0, 0)];
        second.history.versions.splice(0..0, older);
    }
    let mut more = Vec::new();
    for _ in 0..2 + choices.below(6) {
        let step = any_step(choices, second.plain.len() as u64, false);
        more.push(step);
        second.step(step, choices, Durability::Atomic);
    }
    let log = second.content.backing().log();
    for _ in 0..20 {
        let cut = choices.below(log.len() as u64 + 1) as usize;
        let image = if before.is_empty() {
            Image::after_power_cut_of(left.clone(), &log[..cut], choices).0
        } else {
            let all: Vec<Op> = before.iter().chain(&log[..cut]).cloned().collect();
            Image::after_power_cut(&all, choices).0
        };
        if let Err(what) = second.history.judge(image, cut) {
            let listing = format!("{}--\n{}", disk::listing(before), disk::listing(&log[..cut]));
            panic!("{name}, then cut after call {cut}: {what}\n{steps:?}\n{more:?}\n{listing}");
        }
    }
}
