//! What the workers do around each operation: a panic becomes an error, and the next request is waited for awake.
//!
//! A program that works on many small files asks again a few microseconds after the answer. To put a worker to sleep
//! and wake it takes longer, and on a virtual machine longer than most operations. So the last worker that is awake
//! looks for the next request for a moment before it goes to sleep, as long as that mostly finds one.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::sys::ready::is_readable;

/// How long to look. Twice or five times as long found hardly more requests (decision 0014).
const MOMENT: Duration = Duration::from_micros(20);

/// The workers of a session.
#[derive(Default)]
pub(super) struct Workers {
    /// /dev/fuse, if it is worth looking there.
    device: OnceLock<OwnedFd>,
    /// How many are in an operation, or look for the next one.
    awake: AtomicUsize,
    luck: Luck,
}

impl Workers {
    /// From now on the next request is looked for at `device`. Not to be called where there is one core, which the
    /// program that is to ask needs.
    pub(super) fn look_at(&self, device: OwnedFd) {
        // There is one session, so it is not set twice.
        let _ = self.device.set(device);
    }

    /// Runs an operation to its end. If it panics, the reply that `act` owns is dropped on the way, and fuser answers
    /// a dropped reply with EIO: the caller gets an error, and the worker goes on.
    pub(super) fn run(&self, operation: &str, act: impl FnOnce()) {
        self.awake.fetch_add(1, Ordering::Relaxed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            log::error!("{operation}: internal error, the caller got EIO: {text}. Next: please report this as a bug");
        }
        self.linger();
        self.awake.fetch_sub(1, Ordering::Relaxed);
    }

    /// Looks for the next request. When another worker is awake, it will take it.
    fn linger(&self) {
        let Some(device) = self.device.get() else { return };
        if !self.is_last_awake() || !self.luck.tries() {
            return;
        }
        let began = Instant::now();
        while self.is_last_awake() {
            if is_readable(device.as_fd()) {
                return self.luck.note(true);
            }
            if began.elapsed() >= MOMENT {
                return self.luck.note(false);
            }
        }
    }

    fn is_last_awake(&self) -> bool {
        self.awake.load(Ordering::Relaxed) == 1
    }
}

/// Whether it has been worth it lately. Workers share it without order: it is a guess, whoever changes it.
struct Luck {
    /// Finds less misses, from 0 to [`Luck::MOST`].
    found: AtomicU32,
    /// How often it was left out since the last try.
    left_out: AtomicU32,
}

impl Luck {
    const MOST: u32 = 16;
    /// Out of luck, one time of so many is a try.
    const RARELY: u32 = 32;

    /// Whether to look now.
    fn tries(&self) -> bool {
        self.found.load(Ordering::Relaxed) > 0
            || self.left_out.fetch_add(1, Ordering::Relaxed).is_multiple_of(Self::RARELY)
    }

    fn note(&self, found: bool) {
        let luck = self.found.load(Ordering::Relaxed);
        let luck = if found { (luck + 1).min(Self::MOST) } else { luck.saturating_sub(1) };
        self.found.store(luck, Ordering::Relaxed);
    }
}

impl Default for Luck {
    fn default() -> Self {
        Self { found: AtomicU32::new(Self::MOST / 2), left_out: AtomicU32::new(1) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Write};

    use super::*;

    fn workers() -> (Workers, PipeReader, PipeWriter) {
        let (out, into) = std::io::pipe().unwrap();
        let workers = Workers::default();
        workers.look_at(out.try_clone().unwrap().into());
        (workers, out, into)
    }

    fn luck(workers: &Workers) -> u32 {
        workers.luck.found.load(Ordering::Relaxed)
    }

    #[test]
    fn a_panic_ends_the_operation_and_not_the_worker() {
        let (workers, _out, _into) = workers();
        workers.run("test", || panic!("as the test wants it"));
        assert_eq!(workers.awake.load(Ordering::Relaxed), 0);
        let mut done = false;
        workers.run("test", || done = true);
        assert!(done);
    }

    #[test]
    fn a_request_that_is_there_is_luck_and_none_is_bad_luck() {
        let (workers, _out, mut into) = workers();
        let before = luck(&workers);
        workers.run("test", || ());
        assert_eq!(luck(&workers), before - 1);
        into.write_all(b"x").unwrap();
        workers.run("test", || ());
        workers.run("test", || ());
        assert_eq!(luck(&workers), before + 1);
    }

    #[test]
    fn out_of_luck_it_looks_rarely_and_finds_back() {
        let (workers, _out, mut into) = workers();
        for _ in 0..Luck::MOST {
            workers.run("test", || ());
        }
        assert_eq!(luck(&workers), 0);
        let tries = (0..10 * Luck::RARELY).filter(|_| workers.luck.tries()).count();
        assert_eq!(tries, 10);
        into.write_all(b"x").unwrap();
        for _ in 0..Luck::RARELY {
            workers.run("test", || ());
        }
        assert!(luck(&workers) > 0);
    }

    #[test]
    fn nobody_looks_while_another_worker_is_awake() {
        let (workers, _out, mut into) = workers();
        into.write_all(b"x").unwrap();
        let before = luck(&workers);
        workers.run("outer", || workers.run("inner", || ()));
        // The outer one looked, at its end.
        assert_eq!(luck(&workers), before + 1);
    }

    #[test]
    fn on_one_core_nobody_looks() {
        let workers = Workers::default();
        let before = luck(&workers);
        workers.run("test", || ());
        assert_eq!(luck(&workers), before);
    }
}
