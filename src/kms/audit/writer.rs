//! The log of a process: takes events from any thread, and writes them from its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::chain::Keys;
use super::entry::Entry;
use super::last_use::LastUses;
use super::queue::{Batch, Queue, Refused};
use super::repeated::{Counters, Uses};
use super::store::Store;
use super::{AuditError, Event, Options, PatternUse};
use crate::kms::clock::now;

/// The name of the log's folder in a keystore.
pub const FOLDER: &str = "audit";

/// How long the writer waits before it tries again after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// An audit log that this process writes. Dropping it writes what is left.
///
/// It has a thread of its own: make it after the process has gone into the background.
pub struct Log {
    dir: PathBuf,
    shared: Arc<Shared>,
    keys: Arc<Keys>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Queue,
    counters: Counters,
}

impl Log {
    /// Opens the log in `dir`, which is made if it is missing. A log that cannot be written does not fail here: it refuses
    /// changes ([`Log::admit`]) and counts everything else until it can.
    ///
    /// # Errors
    /// [`AuditError::Io`] if there can be no thread.
    pub fn open(dir: &Path, keys: Keys, options: Options) -> Result<Self, AuditError> {
        let keys = Arc::new(keys);
        let shared = Arc::new(Shared { queue: Queue::new(options.queue), counters: Counters::default() });
        let mut writer = Writer {
            store: Store::new(dir, Arc::clone(&keys), options),
            shared: Arc::clone(&shared),
            options,
            held: Vec::new(),
            held_last: 0,
            sync_at: None,
            count_at: Instant::now() + options.repeat_interval,
            is_stuck: false,
        };
        writer.sync(None);
        let thread = thread::Builder::new().name("kmsfs-audit".to_owned()).spawn(move || writer.run());
        let writer = Some(thread.map_err(AuditError::io("start a thread for", dir))?);
        Ok(Self { dir: dir.to_path_buf(), shared, keys, writer })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a change may be made now: ask before making it, because a change that cannot be recorded must not happen.
    ///
    /// # Errors
    /// [`AuditError::Closed`].
    pub fn admit(&self) -> Result<(), AuditError> {
        self.shared.queue.unfit().map_or(Ok(()), |reason| Err(self.closed(reason)))
    }

    /// Records an event. An allowed use or a refusal is queued: the caller waits only if the queue is full. A change of the
    /// keystore (an event that is not read-only and has no error) is on the disk when this returns.
    ///
    /// # Errors
    /// [`AuditError::Closed`] for a change whose line is not on the disk. Everything else that cannot be written is counted,
    /// and the count becomes a line of the log.
    pub fn record(&self, event: Event) -> Result<(), AuditError> {
        self.shared.queue.push(event.into()).map_err(|Refused(reason)| self.closed(reason))
    }

    /// Records a use like others. It is queued as an event would be.
    ///
    /// # Errors
    /// As those of [`Log::record`].
    pub fn record_use(&self, used: PatternUse) -> Result<(), AuditError> {
        self.shared.queue.push(used.into()).map_err(|Refused(reason)| self.closed(reason))
    }

    /// Whether [`Log::record`] may soon keep its caller waiting for room.
    pub fn is_crowded(&self) -> bool {
        self.shared.queue.is_crowded()
    }

    /// A counter for uses like `template` that come again and again: they become one line for each interval, with their
    /// number. Events with the same principal, keys, operation, error, uid and volume have one counter.
    pub fn repeated(&self, template: Event) -> Arc<Uses> {
        self.shared.counters.of(template)
    }

    /// Waits until everything recorded before is on the disk.
    ///
    /// # Errors
    /// [`AuditError::Closed`].
    pub fn flush(&self) -> Result<(), AuditError> {
        if self.shared.queue.flush() {
            return Ok(());
        }
        Err(self.closed(self.shared.queue.unfit().unwrap_or_else(|| "it takes too long".to_owned())))
    }

    /// When each key was last used, by all writers.
    pub fn last_uses(&self) -> LastUses {
        // What cannot be written now is missing from the answer, as it is from the log.
        let _ = self.flush();
        LastUses::default().merged(&self.dir, &self.keys, now())
    }

    fn closed(&self, reason: String) -> AuditError {
        AuditError::Closed { dir: self.dir.clone(), reason }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.queue.close();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            log::error!("the writer of the audit log {} gave up", self.dir.display());
        }
    }
}

/// The thread that writes.
struct Writer {
    store: Store,
    shared: Arc<Shared>,
    options: Options,
    /// What could not be written yet.
    held: Vec<Entry>,
    held_last: u64,
    sync_at: Option<Instant>,
    count_at: Instant,
    is_stuck: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let wake = self.sync_at.map_or(self.count_at, |sync_at| sync_at.min(self.count_at));
            let batch = self.shared.queue.take(wake);
            let is_closing = batch.is_closing;
            self.write(batch);
            if is_closing {
                break;
            }
        }
        if !self.held.is_empty() {
            let dir = self.store.dir.display();
            log::error!("{} events could not be written to the audit log {dir} and are lost", self.held.len());
        }
    }

    fn write(&mut self, batch: Batch) {
        let Batch { entries, gap, last, is_urgent, flush, is_closing } = batch;
        self.held.extend(entries);
        self.held_last = last;
        let is_counted = flush.is_some() || Instant::now() >= self.count_at;
        // While nothing can be written the counters go on counting: that takes no memory.
        if is_closing || (is_counted && !self.is_stuck) {
            self.held.extend(self.shared.counters.take().into_iter().map(Entry::from));
        }
        if is_counted {
            self.count_at = Instant::now() + self.options.repeat_interval;
        }
        if let Some(gap) = gap {
            let mut event = Event::of_service("AuditGap", now());
            event.kmsfs.gap = Some(gap);
            self.held.push(event.into());
        }
        if !self.held.is_empty() {
            if let Err(error) = self.store.append(&mut self.held) {
                return self.stuck(&error, flush);
            }
            self.held.clear();
            self.sync_at.get_or_insert(Instant::now() + self.options.sync_interval);
        }
        let is_due = self.sync_at.is_some_and(|at| Instant::now() >= at);
        if flush.is_some() || is_closing || is_due || self.is_stuck {
            return self.sync(flush);
        }
        if is_urgent && let Err(error) = self.store.sync_lines() {
            return self.stuck(&error, flush);
        }
        self.well(is_urgent, flush);
    }

    fn sync(&mut self, flush: Option<u64>) {
        match self.store.sync() {
            Ok(()) => {
                self.sync_at = None;
                self.well(true, flush);
            }
            // Lines go in still; only changes are refused.
            Err(error) if error.is_full() && self.store.unfit().is_some() => {
                self.sync_at = Some(Instant::now() + RETRY);
                self.well(true, flush);
            }
            Err(error) => self.stuck(&error, flush),
        }
    }

    fn well(&mut self, is_durable: bool, flush: Option<u64>) {
        if std::mem::take(&mut self.is_stuck) {
            log::warn!("the audit log {} is written again", self.store.dir.display());
        }
        self.shared.queue.wrote(self.held_last, is_durable, flush, self.store.unfit());
    }

    fn stuck(&mut self, error: &AuditError, flush: Option<u64>) {
        let reason = error.to_string();
        if !std::mem::replace(&mut self.is_stuck, true) {
            log::error!(
                "the audit log cannot be written: {reason}. Until it can, changes of keys are refused and uses only counted"
            );
        }
        self.sync_at = Some(Instant::now() + RETRY);
        self.shared.queue.stuck(reason, flush);
    }
}
