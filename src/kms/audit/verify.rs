//! Checks a log from its oldest file to its end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use super::chain::{Keys, Position, Rest, claimed_start, file_numbers, file_path, follow};
use super::store::{ANCHOR, lock};
use super::{AuditError, Event, Problem, sealed};

/// A place in the chain: the number of a line and its MAC. Kept elsewhere, it shows later whether the log went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The number of the line, over all files.
    pub sequence: u64,
    /// Its MAC, 64 hexadecimal digits.
    pub mac: String,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.sequence, self.mac)
    }
}

impl std::str::FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "a head is a number, a colon and 64 hexadecimal digits, as kmsfs audit verify prints it";
        let (sequence, mac) = text.split_once(':').ok_or(bad)?;
        let is_mac = mac.len() == 64 && HEXLOWER.decode(mac.as_bytes()).is_ok();
        let sequence = sequence.parse().map_err(|_| bad)?;
        if is_mac { Ok(Self { sequence, mac: mac.to_owned() }) } else { Err(bad) }
    }
}

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1; `None` if it is the file as a whole.
    pub line: Option<u64>,
    /// What is wrong there.
    pub what: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many files were read.
    pub files: u64,
    /// How many lines follow the chain.
    pub lines: u64,
    /// When the oldest line was written, in unix seconds.
    pub begins: Option<u64>,
    /// The last line that follows the chain.
    pub head: Head,
    /// An unfinished line at the very end, in bytes: a writer was cut short. The next writer marks it.
    pub unfinished: Option<u64>,
    /// The head that was given is older than the oldest line that is kept, so it could not be compared.
    pub is_head_outgrown: bool,
    /// The first fault.
    pub fault: Option<Fault>,
}

/// A file of the log as it was at one moment.
struct Frozen {
    number: u64,
    path: PathBuf,
    file: File,
    length: u64,
}

/// The whole log at one moment. Its writers wait only while it is taken.
struct Snapshot {
    anchor: Result<Option<Position>, Problem>,
    files: Vec<Frozen>,
}

fn snapshot(dir: &Path, keys: &Keys) -> Result<Snapshot, AuditError> {
    let read = |error| AuditError::io("read the folder", dir)(error);
    if file_numbers(dir).map_err(read)?.is_empty() && !dir.join(ANCHOR).exists() {
        return Ok(Snapshot { anchor: Ok(None), files: Vec::new() });
    }
    let _lock = match lock(dir) {
        // Nobody writes there: an image, a snapshot, a copy on read-only media.
        Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => None,
        locked => Some(locked?),
    };
    let anchor = sealed::load(dir, ANCHOR, keys);
    let mut files = Vec::new();
    for number in file_numbers(dir).map_err(read)? {
        let path = file_path(dir, number);
        let open = || {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open().map_err(|error: io::Error| AuditError::io("open", &path)(error))?;
        files.push(Frozen { number, path, file, length });
    }
    Ok(Snapshot { anchor, files })
}

/// A check under way.
struct Check<'a> {
    keys: &'a Keys,
    dir: &'a Path,
    at: Position,
    anchor: Option<Position>,
    known: Option<&'a Head>,
    found: Verified,
}

/// Checks the log in `dir`. With `known`, a head that an earlier check printed, also whether that line is still in it. Answers
/// `None` if there is no log.
///
/// # Errors
/// [`AuditError`] if the files cannot be read; what is wrong with them is no error but a [`Fault`].
pub fn verify(dir: &Path, keys: &Keys, known: Option<&Head>) -> Result<Option<Verified>, AuditError> {
    let Snapshot { anchor, files } = snapshot(dir, keys)?;
    let anchor = match anchor {
        Err(Problem::Unreadable(error)) => return Err(AuditError::io("read", dir.join(ANCHOR))(error)),
        Ok(None) if files.is_empty() => return Ok(None),
        Ok(None) => Err("is missing: somebody removed it, and the end of the log may be missing too".to_owned()),
        Err(problem @ Problem::Forged) => Err(problem.to_string()),
        Ok(Some(anchor)) => Ok(anchor),
    };
    let head = Head { sequence: 0, mac: String::new() };
    let found =
        Verified { files: 0, lines: 0, begins: None, head, unfinished: None, is_head_outgrown: false, fault: None };
    let mut check = Check { keys, dir, at: Position::START, anchor: anchor.as_ref().ok().cloned(), known, found };
    if let Err(what) = anchor {
        check.fault(dir.join(ANCHOR), None, what);
    }
    check.all(files)?;
    check.finish();
    let Check { at, mut found, .. } = check;
    found.head = Head { sequence: at.sequence, mac: HEXLOWER.encode(&at.mac) };
    Ok(Some(found))
}

impl Check<'_> {
    /// Notes a fault; the first one counts.
    fn fault(&mut self, file: PathBuf, line: Option<u64>, what: impl Into<String>) {
        self.found.fault.get_or_insert(Fault { file, line, what: what.into() });
    }

    fn all(&mut self, files: Vec<Frozen>) -> Result<(), AuditError> {
        let oldest = self.anchor.as_ref().map_or_else(|| files.first().map_or(1, |file| file.number), |a| a.oldest);
        let newest = files.last().map_or(0, |file| file.number);
        let mut expected = oldest;
        // Files before the oldest were outgrown, and a crash kept them from being removed.
        for file in files.into_iter().filter(|file| file.number >= oldest) {
            if file.number != expected {
                self.fault(file_path(self.dir, expected), None, "the file is missing");
            }
            expected = file.number + 1;
            if self.found.fault.as_ref().is_some_and(|fault| fault.file != self.dir.join(ANCHOR)) {
                return Ok(());
            }
            self.one(file, newest)?;
        }
        Ok(())
    }

    fn one(&mut self, frozen: Frozen, newest: u64) -> Result<(), AuditError> {
        let Frozen { number, path, file, length } = frozen;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).map_err(AuditError::io("read", &path))?;
        self.found.files += 1;
        self.at.file = number;
        self.at.length = 0;
        if let Some(what) = self.link(&bytes) {
            self.fault(path, Some(1), what);
            return Ok(());
        }
        let (anchor, known) = (self.anchor.clone(), self.known.cloned());
        let (mut lines, mut what, mut begins) = (0, None, self.found.begins);
        let mut at = self.at.clone();
        let rest = follow(self.keys, &mut at, &bytes, |at, line| {
            lines += 1;
            if lines == 1 || begins.is_none() {
                let event = serde_json::from_slice::<Event>(line).ok();
                begins = begins.or(event.as_ref().map(|event| event.event_time));
                let damage = event.and_then(|event| event.kmsfs.file?.damage);
                let damage = damage.map(|damage| format!("the log was continued here after it was damaged: {damage}"));
                what = what.take().or(damage.map(|damage| (lines, damage)));
            }
            if let Some(mismatch) = contradicts(at, anchor.as_ref(), known.as_ref()) {
                what = what.take().or(Some((lines, mismatch)));
            }
        });
        self.at = at;
        self.found.begins = begins;
        self.found.lines += lines;
        if let Some((line, what)) = what {
            self.fault(path, Some(line), what);
            return Ok(());
        }
        let left = length - self.at.length;
        match rest {
            Rest::Clean => {}
            Rest::Torn if number == newest && !self.is_short() => self.found.unfinished = Some(left),
            Rest::Torn | Rest::Broken => {
                let what = "the line does not follow the chain: it, or what was before it, was edited, removed, put in or moved";
                self.fault(path, Some(lines + 1), what);
            }
        }
        Ok(())
    }

    /// How a file hangs together with the one before it.
    fn link(&mut self, bytes: &[u8]) -> Option<String> {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if bytes.is_empty() || !bytes.contains(&b'\n') {
            return None;
        }
        let Some((previous, sequence)) = claimed_start(first) else {
            return Some("the file does not begin as a file of the log does".to_owned());
        };
        if self.found.files == 1 {
            // The oldest that is kept. Its first line vouches for what it follows.
            self.at.mac = previous;
            self.at.sequence = sequence.saturating_sub(1);
            self.found.is_head_outgrown = self.known.is_some_and(|known| known.sequence < sequence);
            let begins_late = self.at.file == 1 && (previous != [0; 32] || sequence != 1);
            return begins_late.then(|| "the first file does not begin with the first line".to_owned());
        }
        let lost = sequence.saturating_sub(1).checked_sub(self.at.sequence).filter(|lost| *lost > 0);
        lost.map(|lost| format!("{lost} lines before this one are missing: the file before it was cut"))
    }

    /// Whether the log has not reached what the anchor vouches for.
    fn is_short(&self) -> bool {
        self.anchor.as_ref().is_some_and(|anchor| anchor.sequence > self.at.sequence)
    }

    fn finish(&mut self) {
        let path = if self.at.file == 0 { self.dir.to_path_buf() } else { file_path(self.dir, self.at.file) };
        if let Some(anchor) = self.anchor.clone().filter(|_| self.is_short()) {
            let missing = anchor.sequence - self.at.sequence;
            let file = if anchor.file > self.at.file { file_path(self.dir, anchor.file) } else { path.clone() };
            self.fault(file, None, format!("{missing} lines at the end are missing"));
        }
        if let Some(known) = self.known.filter(|known| known.sequence > self.at.sequence) {
            let (known, last) = (known.sequence, self.at.sequence);
            self.fault(path, None, format!("the log went back: it had line {known} once, and ends with line {last}"));
        }
    }
}

/// Whether a line is another one than the anchor, or a head that was kept elsewhere, says.
fn contradicts(at: &Position, anchor: Option<&Position>, known: Option<&Head>) -> Option<String> {
    let by_anchor = anchor.filter(|anchor| anchor.sequence == at.sequence);
    if by_anchor.is_some_and(|anchor| (anchor.mac, anchor.file, anchor.length) != (at.mac, at.file, at.length)) {
        return Some("the line is not the one that the anchor names".to_owned());
    }
    let known = known.filter(|known| known.sequence == at.sequence);
    let is_other = known.is_some_and(|known| known.mac != HEXLOWER.encode(&at.mac));
    is_other.then(|| {
        "the line is another one than the head that was given: the log went back and was written anew".to_owned()
    })
}
