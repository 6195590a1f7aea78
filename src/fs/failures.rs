//! Errors of work that nobody waits for, kept until those who have the file open were told.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::error::Result;
use crate::sys::Errno;

/// The last such error of one file. Every handle is told of it once, by fsync(2) or close(2); a handle that comes
/// later is told if no other was. This is what errseq_t does in Linux.
#[derive(Debug, Default)]
pub struct Failures {
    last: Mutex<Option<Failure>>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    errno: Errno,
    /// Counted from 1.
    number: u64,
    was_told: bool,
}

impl Failures {
    /// Notes that work failed. As long as nobody was told of it, the same failure again is no news.
    pub fn note(&self, errno: Errno) {
        let mut last = self.last.lock();
        let number = match &*last {
            Some(known) if known.errno == errno && !known.was_told => return,
            Some(known) => known.number + 1,
            None => 1,
        };
        *last = Some(Failure { errno, number, was_told: false });
    }

    /// What a new handle has seen.
    pub fn sample(&self) -> AtomicU64 {
        let seen = self.last.lock().map_or(0, |last| if last.was_told { last.number } else { last.number - 1 });
        AtomicU64::new(seen)
    }

    /// Tells whoever has `seen` so much.
    ///
    /// # Errors
    /// The failure, if it is news.
    pub fn tell(&self, seen: &AtomicU64) -> Result<()> {
        let mut last = self.last.lock();
        let Some(last) = &mut *last else { return Ok(()) };
        if seen.swap(last.number, Ordering::Relaxed) == last.number {
            return Ok(());
        }
        last.was_told = true;
        Err(last.errno.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failures: &Failures, seen: &AtomicU64) -> Option<Errno> {
        failures.tell(seen).err().map(|error| error.errno())
    }

    #[test]
    fn every_handle_is_told_once() {
        let failures = Failures::default();
        let (one, two) = (failures.sample(), failures.sample());
        assert_eq!(told(&failures, &one), None);
        failures.note(Errno::NOSPC);
        failures.note(Errno::NOSPC);
        assert_eq!((told(&failures, &one), told(&failures, &one)), (Some(Errno::NOSPC), None));
        assert_eq!((told(&failures, &two), told(&failures, &two)), (Some(Errno::NOSPC), None));
        failures.note(Errno::NOSPC);
        assert_eq!(told(&failures, &one), Some(Errno::NOSPC), "it failed again after it was told");
    }

    #[test]
    fn a_later_handle_is_told_what_nobody_was_told() {
        let failures = Failures::default();
        failures.note(Errno::IO);
        let later = failures.sample();
        assert_eq!(told(&failures, &later), Some(Errno::IO));
        assert_eq!(told(&failures, &failures.sample()), None);
    }

    #[test]
    fn another_cause_is_news() {
        let failures = Failures::default();
        let seen = failures.sample();
        failures.note(Errno::NOSPC);
        failures.note(Errno::IO);
        assert_eq!((told(&failures, &seen), told(&failures, &seen)), (Some(Errno::IO), None));
    }
}
