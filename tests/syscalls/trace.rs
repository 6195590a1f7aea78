//! strace on a FUSE daemon: how many requests were answered, and what the threads that answer called for that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::wait_until;

/// Threads wait and allocate as their luck has it; strace itself restarts what it interrupted.
const NOT_WORK: [&str; 11] = [
    "brk",
    "futex",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    // A worker looks for its next request before it reads it.
    "ppoll",
    "munmap",
    "restart_syscall",
    "rt_sigprocmask",
    "sched_yield",
];
const DEVICE: &str = "</dev/fuse>";
/// RELEASE and FORGET come after the program was answered.
const SETTLE: Duration = Duration::from_millis(200);

/// A running strace.
pub struct Trace {
    strace: Child,
    folder: TempDir,
}

impl Trace {
    pub fn start(pid: u32) -> Self {
        std::thread::sleep(SETTLE);
        let folder = TempDir::with_prefix("strace-").expect("temporary folder");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-p", &pid.to_string(), "-o"]).arg(folder.path().join("log"));
        let strace = command.stderr(Stdio::null()).spawn().expect("strace");
        let is_traced = |status: String| !status.contains("TracerPid:\t0\n");
        wait_until("strace", || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads of the daemon");
            let mut statuses = tasks.map(|task| fs::read_to_string(task.expect("thread").path().join("status")));
            statuses.all(|status| status.is_ok_and(is_traced))
        });
        std::thread::sleep(SETTLE);
        Self { strace, folder }
    }

    /// Lets the daemon go; what was counted.
    pub fn end(mut self) -> Total {
        std::thread::sleep(SETTLE);
        let strace = rustix::process::Pid::from_raw(self.strace.id().cast_signed()).expect("pid");
        rustix::process::kill_process(strace, rustix::process::Signal::INT).expect("end strace");
        self.strace.wait().expect("wait for strace");
        Total::of(&fs::read_to_string(self.folder.path().join("log")).expect("log of strace"))
    }
}

/// What a trace has in it.
#[derive(Debug, PartialEq)]
pub struct Total {
    answers: u32,
    calls: BTreeMap<String, u32>,
}

impl Total {
    /// Reads a log of `strace -f -y`: lines `TID CALL(ARGUMENTS...`, a call that was interrupted in two lines.
    fn of(log: &str) -> Self {
        let lines: Vec<(&str, &str, &str)> = log.lines().filter_map(begun).collect();
        let reads = |call: &str, rest: &str| call == "read" && rest.contains(DEVICE);
        let workers: BTreeSet<&str> =
            lines.iter().filter(|(_, call, rest)| reads(call, rest)).map(|(thread, ..)| *thread).collect();
        let mut total = Self { answers: 0, calls: BTreeMap::new() };
        for (_, call, rest) in lines.iter().filter(|(thread, ..)| workers.contains(thread)) {
            if rest.contains(DEVICE) {
                total.answers += u32::from(*call != "read");
            } else if !NOT_WORK.contains(call) {
                *total.calls.entry((*call).to_owned()).or_default() += 1;
            }
        }
        total
    }

    pub fn per(self, times: u32) -> Count {
        Count { total: self, times }
    }
}

/// Thread, call and the rest of a line with which a call begins.
fn begun(line: &str) -> Option<(&str, &str, &str)> {
    let (thread, said) = line.split_once(' ')?;
    let (call, rest) = said.trim_start().split_once('(')?;
    let is_name = !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((thread, call, rest))
}

/// The cost of one operation, on average and rounded.
#[derive(Debug)]
pub struct Count {
    total: Total,
    times: u32,
}

impl Count {
    /// Requests that were answered. FORGET has no answer.
    pub fn requests(&self) -> u32 {
        self.rounded(self.total.answers)
    }

    /// Calls besides the reading and answering of requests.
    pub fn calls(&self) -> u32 {
        self.rounded(self.total.calls.values().sum())
    }

    /// The calls by name.
    pub fn which(&self) -> String {
        let counts = self.total.calls.iter().map(|(call, count)| (call, self.rounded(*count)));
        let words: Vec<String> =
            counts.filter(|(_, count)| *count > 0).map(|(call, n)| format!("{call} {n}")).collect();
        words.join(", ")
    }

    fn rounded(&self, count: u32) -> u32 {
        (count + self.times / 2) / self.times
    }
}

impl fmt::Display for Count {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} requests, {} calls ({})", self.requests(), self.calls(), self.which())
    }
}

#[test]
fn a_log_is_counted_by_the_threads_that_answer() {
    let log = "7  read(9</dev/fuse>, \"\"..., 99) = 40\n\
               7  statx(5</x>, \"\"..., 0, 0, {}) = 0\n\
               8  statx(5</x>, \"\"..., 0, 0, {}) = 0\n\
               7  fsync(6</y> <unfinished ...>\n\
               7  <... fsync resumed>) = 0\n\
               7  writev(9</dev/fuse>, [], 2) = 16\n\
               7  futex(0x1, FUTEX_WAKE_PRIVATE, 1) = 0\n\
               7  --- SIGSTOP {} ---\n\
               7  ppoll([{fd=4, events=POLLIN}], 1, {}, NULL, 8) = 0 (Timeout)\n\
               7  read(9</dev/fuse>,  <detached ...>\n";
    let calls = [("fsync".to_owned(), 1), ("statx".to_owned(), 1)].into();
    assert_eq!(Total::of(log), Total { answers: 1, calls });
}
