//! Uses that come again and again: counted, and written as one line for an interval.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

use super::{Event, Repeated};

/// Uses of one key by one principal with one operation in one volume. Keep it and call [`Uses::count`]: that costs a few
/// nanoseconds, takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Uses {
    template: Event,
    count: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Uses {
    /// One more use, at a time in unix seconds.
    pub fn count(&self, time: u64) {
        // The time first: whoever takes the count must find times for it.
        let _ = self.first.compare_exchange(0, time, Ordering::Relaxed, Ordering::Relaxed);
        self.last.fetch_max(time, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// The line for what was counted since the last one.
    fn line(&self) -> Option<Event> {
        let count = self.count.swap(0, Ordering::Acquire);
        if count == 0 {
            return None;
        }
        let last = self.last.load(Ordering::Relaxed);
        let first = self.first.swap(0, Ordering::Relaxed);
        let first = if first == 0 { last } else { first };
        let mut event = self.template.clone();
        event.event_time = last;
        event.kmsfs.repeated = Some(Repeated { count, first, last });
        Some(event)
    }
}

/// What two uses must have in common to be counted together.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    principal: Option<String>,
    keys: Vec<String>,
    operation: String,
    error: Option<String>,
    uid: Option<u32>,
    volume: Option<Uuid>,
}

impl Kind {
    fn of(event: &Event) -> Self {
        Self {
            principal: event.user_identity.arn.clone(),
            keys: event.resources.iter().map(|resource| resource.arn.clone()).collect(),
            operation: event.event_name.to_string(),
            error: event.error_code.as_ref().map(ToString::to_string),
            uid: event.kmsfs.uid,
            volume: event.kmsfs.volume,
        }
    }
}

/// All that is counted.
#[derive(Default)]
pub(super) struct Counters {
    uses: Mutex<HashMap<Kind, Arc<Uses>>>,
}

impl Counters {
    /// The counter for events like `template`.
    pub(super) fn of(&self, mut template: Event) -> Arc<Uses> {
        let mut uses = self.uses.lock();
        let counter = uses.entry(Kind::of(&template)).or_insert_with(|| {
            // These belong to one use.
            template.request_id = None;
            template.kmsfs.path = None;
            template.kmsfs.pid = None;
            let [count, first, last] = [const { AtomicU64::new(0) }; 3];
            Arc::new(Uses { template, count, first, last })
        });
        Arc::clone(counter)
    }

    /// The lines that are due, and forgets counters that nobody holds any more.
    pub(super) fn take(&self) -> Vec<Event> {
        let mut uses = self.uses.lock();
        let lines = uses.values().filter_map(|uses| uses.line()).collect();
        // Looked at after the counting: who let go of it before has counted before.
        uses.retain(|_, uses| Arc::strong_count(uses) > 1 || uses.count.load(Ordering::Acquire) > 0);
        lines
    }
}
