//! A progress bar with rate and time left, on a terminal only.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

use crate::maintain::Progress;

const TICK: Duration = Duration::from_millis(100);

/// What an object costs beside its bytes, for a bar that shows both as one.
const OBJECT: u64 = 4096;

/// Shows a [`Progress`] until it is dropped.
pub(super) struct Bar {
    progress: Arc<Progress>,
    drawn: ProgressBar,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// Begins to show `progress` on standard error, unless that is no terminal or `quiet`.
    pub(super) fn show(progress: &Arc<Progress>, what: &'static str, quiet: bool) -> Self {
        let known = "{msg} {bar:30} {human_pos}/{human_len} {rate} {eta} left";
        let unknown = "{msg} {spinner} {human_pos} {rate}";
        Self::start(progress, what, quiet, [known, unknown], |objects, _| objects)
    }

    /// The same for work that reads content: what is shown are bytes.
    pub(super) fn show_work(progress: &Arc<Progress>, what: &'static str, quiet: bool) -> Self {
        let known = "{msg} {bar:30} {percent}% {binary_bytes_per_sec} {eta} left";
        let unknown = "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}";
        Self::start(progress, what, quiet, [known, unknown], |objects, bytes| objects * OBJECT + bytes)
    }

    fn start(
        progress: &Arc<Progress>,
        what: &'static str,
        quiet: bool,
        [known, unknown]: [&str; 2],
        unit: fn(u64, u64) -> u64,
    ) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        // Whole ones: the library's own rate has four decimals.
        let rate = |state: &ProgressState, text: &mut dyn Write| {
            let _ = write!(text, "{}/s", HumanCount(state.per_sec() as u64));
        };
        let style = |template| ProgressStyle::with_template(template).expect("a fixed template").with_key("rate", rate);
        let drawn = if visible { ProgressBar::no_length().with_message(what) } else { ProgressBar::hidden() };
        let (shown, bar, known) = (progress.clone(), drawn.clone(), style(known));
        drawn.set_style(style(unknown));
        let draw = move || draw(&shown, &bar, &known, unit);
        // Without the thread nothing is shown; the work goes on.
        let thread = visible.then(|| std::thread::Builder::new().name("progress".into()).spawn(draw));
        Self { progress: progress.clone(), drawn, thread: thread.and_then(Result::ok) }
    }

    /// Whether there is anything to see.
    pub(super) fn is_visible(&self) -> bool {
        self.thread.is_some()
    }

    /// Writes something where the bar is, which goes on below it.
    pub(super) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.drawn.suspend(write)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn draw(progress: &Progress, bar: &ProgressBar, known: &ProgressStyle, unit: fn(u64, u64) -> u64) {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    while !progress.stop.load(Ordering::Relaxed) {
        let passed = unit(get(&progress.objects), get(&progress.bytes));
        if progress.is_counted.load(Ordering::Relaxed) && bar.length().is_none() {
            bar.set_style(known.clone());
            bar.set_length(unit(get(&progress.objects_found), get(&progress.bytes_found)).max(passed));
        }
        bar.set_position(passed);
        std::thread::sleep(TICK);
    }
    bar.finish_and_clear();
}
