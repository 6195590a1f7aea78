//! A mount or a server in the background: the command starts itself once more, hands the secret over through a pipe, and
//! waits for one line: `ready TEXT`, or `failed CODE TEXT`. In the foreground the text alone is printed.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::{Code, Failure};
use super::{logging, output};
use crate::sys;

const READY: &str = "ready";
const FAILED: &str = "failed ";

/// Starts `kmsfs ARGUMENTS`, gives it `line` on its standard input, and waits until it is ready; answers what it said then.
pub(super) fn start(arguments: &[OsString], line: &[u8]) -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::io(Path::new("/proc/self/exe"), "find", &error))?;
    let run = |action, error: &io::Error| Failure::io(&program, action, error);
    let mut command = Command::new(&program);
    command.arg0("kmsfs").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| run("start", &error))?;
    let mut input = child.stdin.take().expect("standard input was asked for");
    // Should it have ended already, its own words say why.
    let _ = input.write_all(line).and_then(|()| input.write_all(b"\n"));
    drop(input);

    let mut answer = BufReader::new(child.stdout.take().expect("standard output was asked for"));
    let mut word = String::new();
    answer.read_line(&mut word).map_err(|error| run("listen to", &error))?;
    if let Some(text) = word.strip_prefix(READY) {
        return Ok(text.trim().to_owned());
    }
    let mut rest = String::new();
    // What is missing of the text cannot be had.
    let _ = answer.read_to_string(&mut rest);
    let status = child.wait().map_err(|error| run("wait for", &error))?;
    let failed = word.strip_prefix(FAILED).and_then(|failed| failed.split_once(' '));
    Err(match failed {
        Some((number, text)) => {
            let code = Code::from_number(number.parse().unwrap_or_default());
            Failure::of(code, format!("{text}{rest}").trim_end())
        }
        None => Failure::new(
            Code::Other,
            "kmsfs",
            format!("the process in the background ended with {status}"),
            "try again with -f",
        ),
    })
}

/// What was asked for is there: says so, in `text`, to whoever waits for it.
pub(super) fn ready(reporter: Option<&Reporter>, text: &str) {
    match reporter {
        Some(reporter) => reporter.ready(text),
        // Nobody listens; it is there all the same.
        None => drop(output::line(text)),
    }
    // For units of Type=notify; elsewhere it does nothing.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::warn!("cannot tell systemd: {error}");
    }
}

/// The other end: the process in the background.
#[derive(Default)]
pub(super) struct Reporter {
    is_ready: AtomicBool,
}

impl Reporter {
    /// Says so to the parent, leaves the terminal and logs to syslog.
    fn ready(&self, text: &str) {
        self.is_ready.store(true, Ordering::Release);
        let mut out = io::stdout().lock();
        // If the command was interrupted nobody listens; it is there all the same.
        let _ = writeln!(out, "{READY} {text}").and_then(|()| out.flush());
        logging::use_syslog();
        if let Err(error) = sys::background::leave_terminal() {
            log::warn!("cannot leave the terminal: {error}");
        }
    }

    /// Says why there is none, and ends the process. Why one ended later has been logged by who served it.
    pub(super) fn fail(&self, failure: &Failure) -> ! {
        if !self.is_ready.load(Ordering::Acquire) {
            let mut out = io::stdout().lock();
            // Nobody is left to tell.
            let _ = write!(out, "{FAILED}{} {}", failure.code as u8, failure.text).and_then(|()| out.flush());
        }
        std::process::exit(failure.code.into())
    }
}

impl From<Code> for i32 {
    fn from(code: Code) -> Self {
        code as Self
    }
}
