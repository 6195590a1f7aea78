//! The one place that this room reads the time from.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before that counts as 1970.
pub(super) fn now() -> u64 {
    let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    #[cfg(test)]
    let system = system.saturating_add_signed(OFFSET.get());
    system
}

#[cfg(test)]
thread_local! {
    static OFFSET: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// Moves the clock of this thread, forward or back, by seconds.
#[cfg(test)]
pub(super) fn advance(seconds: i64) {
    OFFSET.set(OFFSET.get() + seconds);
}
