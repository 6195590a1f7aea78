//! A progress bar with rate and time left, on a terminal only.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::maintain::Progress;

const TICK: Duration = Duration::from_millis(100);

/// Shows a [`Progress`] until it is dropped.
pub(super) struct Bar {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// Begins to show `progress` on standard error, unless that is no terminal or `quiet`.
    pub(super) fn show(progress: &Arc<Progress>, what: &'static str, quiet: bool) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let shown = progress.clone();
        // Without the thread nothing is shown; the work goes on.
        let thread =
            visible.then(|| std::thread::Builder::new().name("progress".into()).spawn(move || draw(&shown, what)));
        Self { progress: progress.clone(), thread: thread.and_then(Result::ok) }
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

fn draw(progress: &Progress, what: &'static str) {
    let bar = ProgressBar::no_length().with_message(what);
    let known = ProgressStyle::with_template("{msg} {bar:30} {human_pos}/{human_len} {per_sec} {eta} left");
    let unknown = ProgressStyle::with_template("{msg} {spinner} {human_pos} {per_sec}");
    let (known, unknown) = (known.expect("a fixed template"), unknown.expect("a fixed template"));
    bar.set_style(unknown);
    while !progress.stop.load(Ordering::Relaxed) {
        let passed = progress.objects.load(Ordering::Relaxed);
        if progress.is_counted.load(Ordering::Relaxed) && bar.length().is_none() {
            bar.set_style(known.clone());
            bar.set_length(progress.objects_found.load(Ordering::Relaxed).max(passed));
        }
        bar.set_position(passed);
        std::thread::sleep(TICK);
    }
    bar.finish_and_clear();
}
