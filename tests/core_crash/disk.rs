//! A disk that records what is done to one file, and what is left of it after a crash.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use kmsfs::content::{BackingFile, CipherOffset};
use parking_lot::Mutex;

const PAGE: usize = 4096;

/// Something that was done to the file.
#[derive(Clone)]
pub enum Op {
    Write {
        at: u64,
        bytes: Arc<[u8]>,
    },
    SetLen(u64),
    Punch {
        at: u64,
        len: u64,
    },
    Sync,
    /// A sync that failed: pages written since the last good one may never get to the disk unless they are written again.
    Failed,
}

/// The bytes of a file.
#[derive(Clone, Default)]
pub struct Image(Vec<u8>);

impl Image {
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { at, bytes } => self.write(*at as usize, bytes),
            Op::SetLen(len) => self.0.resize(*len as usize, 0),
            Op::Punch { at, len } => self.zero(*at as usize, *len as usize),
            Op::Sync | Op::Failed => {}
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn zero(&mut self, at: usize, len: usize) {
        let end = self.0.len().min(at + len);
        if at < end {
            self.0[at..end].fill(0);
        }
    }

    /// What is left if the power fails after these calls on a new file.
    pub fn after_power_cut(log: &[Op], choices: &mut Choices) -> (Self, String) {
        Self::after_power_cut_of(Self::default(), log, choices)
    }

    /// What is left if the power fails after these calls on a file that was `self` on the disk.
    pub fn after_power_cut_of(mut self, log: &[Op], choices: &mut Choices) -> (Self, String) {
        let synced = log.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
        for (number, op) in log[..synced].iter().enumerate() {
            let next = log[number..synced].iter().find(|op| matches!(op, Op::Sync | Op::Failed));
            match (op, next) {
                (Op::Write { at, bytes }, Some(Op::Failed)) => {
                    let kept = pages(*at as usize, bytes).filter(|_| choices.below(2) == 0);
                    kept.for_each(|(at, bytes)| self.write(at, bytes));
                }
                _ => self.apply(op),
            }
        }
        // How much of the rest is kept: now nearly nothing, now nearly all.
        let odds = 1 + choices.below(7);
        let mut kept = String::new();
        // Ranges that were cut or punched by a call that is lost: nothing that was written there later is kept.
        let mut lost: Vec<(usize, usize)> = Vec::new();
        for (number, op) in log.iter().enumerate().skip(synced) {
            let keep = choices.below(8) < odds;
            match op {
                Op::Write { at, bytes } => {
                    for (at, bytes) in pages(*at as usize, bytes) {
                        let blocked = lost.iter().any(|(from, to)| at < *to && at + bytes.len() > *from);
                        if choices.below(8) < odds && !blocked {
                            self.write(at, bytes);
                            let _ = write!(kept, " {number}@{at}");
                        }
                    }
                }
                Op::SetLen(len) if keep && !lost.iter().any(|(_, to)| *to == usize::MAX) => {
                    self.0.resize(*len as usize, 0);
                    let _ = write!(kept, " {number}");
                }
                Op::SetLen(len) => lost.push((*len as usize, usize::MAX)),
                Op::Punch { at, len } if keep => {
                    self.zero(*at as usize, *len as usize);
                    let _ = write!(kept, " {number}");
                }
                Op::Punch { at, len } => lost.push((*at as usize, (*at + *len) as usize)),
                Op::Sync | Op::Failed => {}
            }
        }
        (self, kept)
    }
}

/// The parts of a write that lie in one page each.
fn pages(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let from = at + done;
        let len = (PAGE - from % PAGE).min(bytes.len() - done);
        let part = &bytes[done..done + len];
        done += len;
        (len > 0).then_some((from, part))
    })
}

/// The recorder.
pub struct Disk {
    image: Mutex<Image>,
    log: Mutex<Vec<Op>>,
    /// This many syncs succeed before one fails.
    pub failing: Mutex<Option<usize>>,
}

impl Disk {
    pub fn of(image: Image) -> Arc<Self> {
        Arc::new(Self { image: Mutex::new(image), log: Mutex::default(), failing: Mutex::default() })
    }

    pub fn log(&self) -> Vec<Op> {
        self.log.lock().clone()
    }

    pub fn recorded(&self) -> usize {
        self.log.lock().len()
    }

    fn record(&self, op: Op) {
        self.image.lock().apply(&op);
        self.log.lock().push(op);
    }
}

impl BackingFile for Disk {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        let image = self.image.lock();
        let there = image.0.get(at.0 as usize..).unwrap_or_default();
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }
    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        self.record(Op::Write { at: at.0, bytes: buf.into() });
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Op::SetLen(len));
        Ok(())
    }
    fn allocate(&self, _: CipherOffset, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        self.record(Op::Punch { at: at.0, len });
        Ok(())
    }
    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        let image = self.image.lock();
        let there = image.0.get(at.0 as usize..).unwrap_or_default();
        Ok(there.iter().position(|byte| *byte != 0).map(|skip| CipherOffset(at.0 + skip as u64)))
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut failing = self.failing.lock();
        if *failing == Some(0) {
            *failing = None;
            self.record(Op::Failed);
            return Err(io::ErrorKind::Other.into());
        }
        *failing = failing.map(|left| left - 1);
        self.record(Op::Sync);
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// The calls, one a line.
pub fn listing(log: &[Op]) -> String {
    let mut text = String::new();
    for (number, op) in log.iter().enumerate() {
        let _ = match op {
            Op::Write { at, bytes } => writeln!(text, "{number}: write {} at {at}", bytes.len()),
            Op::SetLen(len) => writeln!(text, "{number}: length {len}"),
            Op::Punch { at, len } => writeln!(text, "{number}: punch {len} at {at}"),
            Op::Sync => writeln!(text, "{number}: sync"),
            Op::Failed => writeln!(text, "{number}: failed sync"),
        };
    }
    text
}

/// SplitMix64: what is chosen follows from the seed.
pub struct Choices(pub u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}
