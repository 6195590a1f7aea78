//! The bounded queue between those who record and the thread that writes.
//!
//! Whoever records an allowed use waits at most a second for room, and not at all while the log cannot be written: then the
//! event is counted into the gap, which becomes a line of its own. Refused requests wait longer. A change of the keystore
//! waits until its line is on the disk.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Gap;
use super::entry::Entry;
use super::event::Weight;

/// How long an allowed use waits for room.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a refused request or a change waits for room, and a change for its line.
const LONG_PATIENCE: Duration = Duration::from_secs(10);
/// How long the writer lets events gather, so that a flood costs few wake-ups and few locks.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    gap: Option<Gap>,
    /// Why the log cannot be written, or nothing should be changed now.
    unfit: Option<String>,
    /// Whether `unfit` also means that lines cannot be written.
    is_stuck: bool,
    pushed: u64,
    durable: u64,
    /// Somebody waits for the disk.
    is_urgent: bool,
    flushes_wanted: u64,
    flushes_done: u64,
    is_closing: bool,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// For the writer.
    work: Condvar,
    /// For who waits for room.
    room: Condvar,
    /// For who waits for the disk.
    done: Condvar,
    capacity: usize,
}

/// What the writer is to do now.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    pub(super) gap: Option<Gap>,
    /// The number of the last event in it.
    pub(super) last: u64,
    /// Whether somebody waits for the disk.
    pub(super) is_urgent: bool,
    /// The flush that is wanted, if one is.
    pub(super) flush: Option<u64>,
    pub(super) is_closing: bool,
}

/// Why an event was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) String);

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let (work, room, done) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self { state: Mutex::default(), work, room, done, capacity: capacity.max(1) }
    }

    /// Takes an event. For a change of the keystore the answer comes when its line is on the disk.
    pub(super) fn push(&self, entry: Entry) -> Result<(), Refused> {
        let weight = entry.weight();
        let mut state = self.state.lock();
        let patience = if weight == Weight::Allowed { PATIENCE } else { LONG_PATIENCE };
        let deadline = Instant::now() + patience;
        while state.entries.len() >= self.capacity {
            if state.gap.is_some() || state.is_stuck || self.room.wait_until(&mut state, deadline).timed_out() {
                let reason =
                    state.unfit.clone().unwrap_or_else(|| "events come faster than they can be written".into());
                return lose(&mut state, &entry, reason);
            }
        }
        state.entries.push_back(entry);
        state.pushed += 1;
        let number = state.pushed;
        if weight == Weight::Management {
            state.is_urgent = true;
            self.work.notify_one();
            let deadline = Instant::now() + LONG_PATIENCE;
            while state.durable < number {
                if let Some(reason) = state.unfit.clone().filter(|_| state.is_stuck) {
                    return Err(Refused(reason));
                }
                if self.done.wait_until(&mut state, deadline).timed_out() && state.durable < number {
                    return Err(Refused(format!("nothing was written for {} s", LONG_PATIENCE.as_secs())));
                }
            }
        } else if state.entries.len() == 1 || state.entries.len() == self.capacity / 2 {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Why nothing should be changed now.
    pub(super) fn unfit(&self) -> Option<String> {
        self.state.lock().unfit.clone()
    }

    /// Whether who pushes may soon have to wait for room.
    pub(super) fn is_crowded(&self) -> bool {
        self.state.lock().entries.len() > self.capacity / 2
    }

    /// Waits until all that was pushed before is on the disk, with anchor and last uses. Whether it is.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.state.lock();
        state.flushes_wanted += 1;
        state.is_urgent = true;
        let number = state.flushes_wanted;
        self.work.notify_one();
        let deadline = Instant::now() + LONG_PATIENCE;
        while state.flushes_done < number && !self.done.wait_until(&mut state, deadline).timed_out() {}
        state.flushes_done >= number && state.unfit.is_none()
    }

    /// Tells the writer to end.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closing = true;
        state.is_urgent = true;
        self.work.notify_one();
    }

    /// Waits for work until `wake`, and takes all of it. While the writer is stuck it takes no more than what it was stuck with.
    pub(super) fn take(&self, wake: Instant) -> Batch {
        let mut state = self.state.lock();
        let is_late = || Instant::now() >= wake;
        while (state.entries.is_empty() || state.is_stuck) && !state.is_urgent && !is_late() {
            self.work.wait_until(&mut state, wake);
        }
        let gathered = Instant::now() + GATHER;
        while !state.is_urgent && state.entries.len() < self.capacity / 2 && !is_late() {
            if self.work.wait_until(&mut state, gathered).timed_out() {
                break;
            }
        }
        let is_open = !state.is_stuck || state.is_closing;
        let entries = if is_open { state.entries.drain(..).collect() } else { Vec::new() };
        let flush = (state.flushes_wanted > state.flushes_done).then_some(state.flushes_wanted);
        let is_urgent = std::mem::take(&mut state.is_urgent);
        self.room.notify_all();
        let last = state.pushed - state.entries.len() as u64;
        let gap = if is_open { state.gap.take() } else { None };
        Batch { entries, gap, last, is_urgent, flush, is_closing: state.is_closing }
    }

    /// Tells that everything up to event `last` is in the log, and on the disk if `flush` or `is_urgent` asked for that.
    pub(super) fn wrote(&self, last: u64, is_durable: bool, flush: Option<u64>, unfit: Option<String>) {
        let mut state = self.state.lock();
        if is_durable {
            state.durable = state.durable.max(last);
        }
        state.flushes_done = flush.unwrap_or(state.flushes_done);
        state.is_stuck = false;
        state.unfit = unfit;
        self.done.notify_all();
    }

    /// Tells that the log cannot be written now.
    pub(super) fn stuck(&self, reason: String, flush: Option<u64>) {
        let mut state = self.state.lock();
        state.is_stuck = true;
        state.unfit = Some(reason);
        state.flushes_done = flush.unwrap_or(state.flushes_done);
        self.done.notify_all();
        self.room.notify_all();
    }
}

/// Counts an event into the gap. What was allowed goes on; everything else is told.
fn lose(state: &mut State, entry: &Entry, reason: String) -> Result<(), Refused> {
    let (time, weight, count) = (entry.time(), entry.weight(), entry.count());
    if state.gap.is_none() {
        log::error!("the audit log cannot take all events and counts them instead: {reason}");
    }
    let empty = Gap { allowed: 0, denied: 0, management: 0, first: time, last: time, reason: reason.clone() };
    let gap = state.gap.get_or_insert(empty);
    gap.last = gap.last.max(time);
    match weight {
        Weight::Allowed => gap.allowed += count,
        Weight::Denied => gap.denied += count,
        Weight::Management => gap.management += count,
    }
    if weight == Weight::Management { Err(Refused(reason)) } else { Ok(()) }
}
