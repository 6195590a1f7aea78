//! What goes to standard output.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::failure::{Code, Failure};

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub(super) fn put(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    match write(bytes.as_ref()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| refused(&error)),
    }
}

/// Writes to standard output. Whether anybody still reads there.
pub(super) fn put_while_read(bytes: impl AsRef<[u8]>) -> Result<bool, Failure> {
    match write(bytes.as_ref()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).map_err(|error| refused(&error)),
    }
}

/// Writes to standard output what must arrive.
pub(super) fn put_surely(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    write(bytes.as_ref()).map_err(|error| refused(&error))
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

fn refused(error: &io::Error) -> Failure {
    Failure::of(Code::Other, format!("cannot write to standard output: {error}"))
}

/// Writes a line.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    put(format!("{}\n", text.as_ref()))
}

/// Writes one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::of(Code::Other, error))?;
    line(text)
}

/// A point in time for people: UTC, to the second.
pub(super) fn time(unix_seconds: u64) -> String {
    let known = i64::try_from(unix_seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| format!("{unix_seconds} s after 1970"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_like_dates() {
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert!(time(u64::MAX).contains("after 1970"));
    }
}
