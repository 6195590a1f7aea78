//! Rewrap: the same data keys under the newest version of their CMK, or under another CMK.
//!
//! A look without writing is the same walk: it counts which versions are in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use super::progress::Progress;
use super::tree::{Refusal, Tree};
use crate::fs::Errno;
use crate::fs::upkeep::{Answer, Item, Name, Page, Request, Standing, Tally, Wrap};

/// Entries of one step: a few milliseconds, so that the threads of a mount are soon free for others.
const STEP: u32 = 128;
/// So often a walk is begun again because the tree was changed under it.
const MAX_PASSES: u32 = 10;
/// More failures are counted, but not listed.
const MAX_LISTED: usize = 1000;

/// Where a walk begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The whole volume, with what it has only once.
    Volume,
    /// The top directory and what lies below it.
    Directory,
    /// One object in the top directory.
    Entry(Vec<u8>),
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Rewrap {
    /// Where.
    pub start: Start,
    /// Under what.
    pub wrap: Wrap,
    /// Directories that are visited at the same time.
    pub threads: usize,
}

/// An object that failed.
#[derive(Debug, Clone, Serialize)]
pub struct FailedPath {
    /// Its path from the top directory, as far as it can be read.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What became of the objects, in the last pass; of all passes what was rewrapped.
    pub tally: Tally,
    /// Entries visited in the last pass.
    pub entries: u64,
    /// How many objects failed in the last pass.
    pub failed: u64,
    /// Which, up to a thousand.
    pub failures: Vec<FailedPath>,
    /// How often the walk was made: more than once if the tree changed under it.
    pub passes: u32,
    /// Everything was visited that was there; without it, run it again when the tree is quieter.
    pub complete: bool,
}

/// Walks over `tree`. Stops at nothing: what fails is in the report.
///
/// # Errors
/// If the top directory, or the volume, cannot be asked at all.
pub fn rewrap<T: Tree>(tree: &T, job: &Rewrap, progress: &Progress) -> Result<Report, Refusal> {
    let top = Arc::new(Node { dir: tree.top()?, at: None });
    let mut strays = standing(tree, &top.dir, &Request::Begin)?.strays;
    let mut rewrapped = 0;
    for pass in 1..=MAX_PASSES {
        if let (1, Ok(Answer::Count(entries))) = (pass, tree.ask(&top.dir, &Request::Count)) {
            progress.objects_found.store(entries, Ordering::Relaxed);
            progress.is_counted.store(true, Ordering::Relaxed);
        }
        let mut report = walk(tree, job, &top, if pass == 1 { Some(progress) } else { None })?;
        rewrapped += report.tally.rewrapped;
        let now = standing(tree, &top.dir, &Request::Standing)?.strays;
        report.complete = now == strays && report.tally.gone == 0;
        if report.complete || pass == MAX_PASSES {
            report.tally.rewrapped = if job.wrap.write { rewrapped } else { report.tally.rewrapped };
            report.passes = pass;
            return Ok(report);
        }
        strays = now;
    }
    unreachable!("the last pass returns")
}

fn standing<T: Tree>(tree: &T, dir: &T::Dir, request: &Request) -> Result<Standing, Refusal> {
    match tree.ask(dir, request)? {
        Answer::Standing(standing) => Ok(standing),
        _ => Err(Errno::PROTO.into()),
    }
}

struct Node<D> {
    dir: D,
    at: Option<(Arc<Node<D>>, Vec<u8>)>,
}

impl<D> Node<D> {
    fn path_of(&self, name: &[u8]) -> String {
        let mut names = vec![crate::names::shown(name)];
        let mut at = &self.at;
        while let Some((parent, name)) = at {
            names.push(crate::names::shown(name));
            at = &parent.at;
        }
        names.reverse();
        names.join("/")
    }
}

/// A directory that is still to be visited.
struct Waiting<D> {
    parent: Arc<Node<D>>,
    name: Vec<u8>,
}

struct Queue<D> {
    /// The last one in is visited first, so that few parents are open.
    waiting: Vec<Waiting<D>>,
    busy: usize,
}

struct Walk<'a, T: Tree> {
    tree: &'a T,
    wrap: &'a Wrap,
    progress: Option<&'a Progress>,
    queue: Mutex<Queue<T::Dir>>,
    changed: Condvar,
    report: Mutex<Report>,
}

fn walk<T: Tree>(
    tree: &T,
    job: &Rewrap,
    top: &Arc<Node<T::Dir>>,
    progress: Option<&Progress>,
) -> Result<Report, Refusal> {
    let walk = Walk {
        tree,
        wrap: &job.wrap,
        progress,
        queue: Mutex::new(Queue { waiting: Vec::new(), busy: 1 }),
        changed: Condvar::new(),
        report: Mutex::default(),
    };
    let name = if let Start::Entry(name) = &job.start { Some(Name(name.clone())) } else { None };
    // The directory before what lies in it: new entries take their CMK from it.
    let item = item(tree, &top.dir, Request::One { name, wrap: job.wrap.clone() });
    match item {
        Ok(item) => walk.report.lock().tally.add(&item.tally),
        Err(refusal) => walk.failed(String::from("."), refusal.reason),
    }
    if !matches!(job.start, Start::Entry(_)) {
        walk.visit(top);
        walk.queue.lock().busy = 0;
        std::thread::scope(|scope| {
            for _ in 0..job.threads.max(1) {
                scope.spawn(|| walk.work());
            }
        });
    }
    if job.start == Start::Volume {
        let page = page(tree, &top.dir, Request::Volume { wrap: job.wrap.clone() })?;
        walk.report.lock().tally.add(&page.tally);
        for failed in page.failed {
            walk.failed(String::from_utf8_lossy(&failed.name.0).into_owned(), failed.reason);
        }
    }
    Ok(walk.report.into_inner())
}

fn item<T: Tree>(tree: &T, dir: &T::Dir, request: Request) -> Result<Item, Refusal> {
    match tree.ask(dir, &request)? {
        Answer::Item(item) => Ok(item),
        _ => Err(Errno::PROTO.into()),
    }
}

fn page<T: Tree>(tree: &T, dir: &T::Dir, request: Request) -> Result<Page, Refusal> {
    match tree.ask(dir, &request)? {
        Answer::Page(page) => Ok(page),
        _ => Err(Errno::PROTO.into()),
    }
}

impl<T: Tree> Walk<'_, T> {
    fn work(&self) {
        while let Some(Waiting { parent, name }) = self.next() {
            match self.tree.open(&parent.dir, &name) {
                Ok(dir) => self.visit(&Arc::new(Node { dir, at: Some((parent, name)) })),
                // Moved or removed since its parent was listed.
                Err(refusal) if matches!(refusal.errno, Errno::NOENT | Errno::NOTDIR | Errno::STALE) => {
                    self.report.lock().tally.gone += 1;
                }
                Err(refusal) => self.failed(parent.path_of(&name), refusal.reason),
            }
            self.queue.lock().busy -= 1;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Waiting<T::Dir>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(next) = queue.waiting.pop() {
                queue.busy += 1;
                return Some(next);
            }
            if queue.busy == 0 {
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }

    fn visit(&self, node: &Arc<Node<T::Dir>>) {
        let mut from = 0;
        loop {
            let request = Request::Entries { from, limit: STEP, wrap: self.wrap.clone() };
            let page = match page(self.tree, &node.dir, request) {
                Ok(page) => page,
                Err(refusal) => {
                    let path = node.at.as_ref().map_or_else(|| ".".into(), |(parent, name)| parent.path_of(name));
                    return self.failed(path, refusal.reason);
                }
            };
            if let Some(progress) = self.progress {
                progress.objects.fetch_add(page.entries, Ordering::Relaxed);
            }
            let mut report = self.report.lock();
            report.entries += page.entries;
            report.tally.add(&page.tally);
            drop(report);
            for failed in page.failed {
                self.failed(node.path_of(&failed.name.0), failed.reason);
            }
            if !page.directories.is_empty() {
                let below = page.directories.into_iter().map(|name| Waiting { parent: node.clone(), name: name.0 });
                self.queue.lock().waiting.extend(below);
                self.changed.notify_all();
            }
            match page.next {
                Some(next) => from = next,
                None => return,
            }
        }
    }

    fn failed(&self, path: String, reason: String) {
        let mut report = self.report.lock();
        report.failed += 1;
        if report.failures.len() < MAX_LISTED {
            report.failures.push(FailedPath { path, reason });
        }
    }
}
