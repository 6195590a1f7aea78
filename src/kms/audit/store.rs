//! The files of the log, as one writer among several sees them.
//!
//! All writers append to one file, in batches, each under a lock (flock) on the folder's lock file, so there is one chain and one
//! order. Before a writer appends it follows what others have appended since its own last line. A writer that dies leaves at
//! most a line without an end, which the next one cuts off and says so; anything else that does not follow is left where it
//! is, and the chain goes on in a new file whose first line says why.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use uuid::Builder;

use super::chain::{Keys, MOST_FILES, Position, Rest, claimed_start, end_line, file_numbers, file_path, follow};
use super::entry::{Entry, Moment};
use super::last_use::LastUses;
use super::{AuditError, Event, FileStart, Options, Problem, Torn, files, sealed};
use crate::crypto::random;
use crate::kms::bundle_file;
use crate::kms::owner::give_to_owner;
use crate::kms::stamp::Stamp;

/// The sealed file that says how far the log goes.
pub(super) const ANCHOR: &str = "anchor";
const LOCK: &str = "lock";
/// Room that is given up when the disk is full, so that what was done already can still be written.
const RESERVE: &str = "reserve";
const RESERVE_LEN: usize = 64 * 1024;
/// How long another writer may keep the lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How much memory for lines is kept, in bytes.
const KEPT_MEMORY: usize = 1 << 20;
/// How much of a torn line is told.
const TORN_TEXT: usize = 4096;

/// One writer.
pub(super) struct Store {
    pub(super) dir: PathBuf,
    keys: Arc<Keys>,
    options: Options,
    at: Option<Position>,
    anchored: Option<Position>,
    /// The anchor that was read or saved last: when it is another, somebody has vouched for more, or taken it away.
    anchor: Option<Stamp>,
    used: LastUses,
    /// The memory of the lines that were appended last: taking it anew each time costs more than making the lines.
    lines: Vec<u8>,
    reserve_gone: bool,
}

/// Where a writer goes on, and what it must say there first.
struct Resume {
    at: Position,
    torn: Option<Torn>,
    damage: Option<String>,
}

impl Resume {
    fn at(at: Position) -> Self {
        Self { at, torn: None, damage: None }
    }
}

/// Takes the lock of the log in `dir`; it is released when the answer is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join(LOCK);
    let file = files::open_or_make(dir, &path).map_err(AuditError::io("open", &path))?;
    let deadline = Instant::now() + LOCK_WAIT;
    let mut pause = Duration::from_micros(50);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(AuditError::io("lock", &path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(AuditError::Busy(dir.into())),
            Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// What of a file lies behind a position in it.
fn rest_of(dir: &Path, path: &Path, from: u64) -> std::io::Result<Vec<u8>> {
    let mut file = files::open(dir, path, OpenOptions::new().read(true))?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    Ok(rest)
}

impl Store {
    pub(super) fn new(dir: &Path, keys: Arc<Keys>, options: Options) -> Self {
        let (used, lines) = (LastUses::default(), Vec::new());
        Self {
            dir: dir.into(),
            keys,
            options,
            at: None,
            anchored: None,
            anchor: None,
            used,
            lines,
            reserve_gone: false,
        }
    }

    /// Why nothing should be changed now although lines can be written.
    pub(super) fn unfit(&self) -> Option<String> {
        self.reserve_gone.then(|| "the disk is full, and what was held back for the log is used up".to_owned())
    }

    /// Appends `entries`. On error they should be offered again; if a line of them is in the log already then, which happens only if
    /// the rest of it could not be taken back, it comes twice with one `eventID`.
    pub(super) fn append(&mut self, entries: &mut [Entry]) -> Result<(), AuditError> {
        let done = self.try_append(entries);
        if self.gives_way(&done) { self.try_append(entries) } else { done }
    }

    /// Gives up the reserve if the disk is full: what is to be written has happened, and the room was kept for it.
    fn gives_way(&mut self, done: &Result<(), AuditError>) -> bool {
        let is_full = done.as_ref().is_err_and(AuditError::is_full) && !self.reserve_gone;
        if is_full {
            self.reserve_gone = true;
            // If it is missing there is nothing to give.
            let _ = fs::remove_file(self.dir.join(RESERVE));
        }
        is_full
    }

    fn try_append(&mut self, entries: &mut [Entry]) -> Result<(), AuditError> {
        self.make_folder()?;
        let _lock = lock(&self.dir)?;
        let Resume { mut at, torn, damage } = self.resume()?;
        let is_full = at.length >= self.options.max_file_bytes && !entries.is_empty();
        if at.file == 0 || is_full {
            self.sync_data(&at)?;
            at.file += 1;
            at.length = 0;
        }
        let start = at.clone();
        let mut own = Vec::new();
        let begins = at.length == 0;
        if begins {
            at.oldest = self.oldest_kept(&at);
            let previous = HEXLOWER.encode(&at.mac);
            let mut first = Event::of_service("StartAuditFile", crate::kms::clock::now());
            first.kmsfs.file = Some(FileStart { number: at.file, previous, oldest: at.oldest, damage });
            own.push(Entry::from(first));
        }
        if let Some(torn) = torn {
            let mut event = Event::of_service("RecoverAuditFile", crate::kms::clock::now());
            event.kmsfs.torn = Some(torn);
            own.push(Entry::from(event));
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        for part in [&mut own, &mut *entries] {
            self.seal(part, &mut at, &mut lines)?;
        }
        self.write(&start, &lines)?;
        at.length += lines.len() as u64;
        lines.shrink_to(KEPT_MEMORY);
        self.lines = lines;
        self.at = Some(at.clone());
        for entry in &*entries {
            self.used.note(entry);
        }
        if begins {
            match self.save_anchor(&at) {
                Ok(()) => self.prune(at.oldest),
                // The next sync saves it.
                Err(error) => log::warn!("{error}"),
            }
        }
        Ok(())
    }

    /// Appends the lines of `entries` to `lines`, and moves `at` on but for its length.
    fn seal(&self, entries: &mut [Entry], at: &mut Position, lines: &mut Vec<u8>) -> Result<(), AuditError> {
        let mut moment = Moment::default();
        // One call of the kernel for all.
        let mut ids = vec![[0; 16]; entries.len()];
        random::fill(ids.as_flattened_mut());
        for (entry, id) in entries.iter_mut().zip(ids) {
            at.sequence += 1;
            if entry.id().is_nil() {
                entry.set_id(Builder::from_random_bytes(id).into_uuid());
            }
            let sealed = self.keys.seal(&at.mac, lines, |out| entry.write(at.sequence, &mut moment, out));
            at.mac = sealed.map_err(|error| AuditError::io("write a line of", &self.dir)(error.into()))?;
        }
        Ok(())
    }

    /// Brings the lines of this writer to the disk.
    pub(super) fn sync_lines(&self) -> Result<(), AuditError> {
        self.at.as_ref().map_or(Ok(()), |at| self.sync_data(at))
    }

    fn make_folder(&self) -> Result<(), AuditError> {
        let failed = |action, error| AuditError::io(action, &self.dir)(error);
        match files::check_folder(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => return done.map_err(|error| failed("write in", error)),
        }
        bundle_file::make_private_dir(&self.dir)?;
        // If it is another's meanwhile, that was refused above or is next time.
        let folder = File::open(&self.dir).map_err(|error| failed("open", error))?;
        give_to_owner(self.dir.parent().unwrap_or(&self.dir), &folder);
        Ok(())
    }

    fn write(&self, at: &Position, lines: &[u8]) -> Result<(), AuditError> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = file_path(&self.dir, at.file);
        // One that was removed a moment ago must not be made again without its beginning.
        let open = if at.length == 0 {
            files::open_or_make(&self.dir, &path)
        } else {
            files::open(&self.dir, &path, OpenOptions::new().append(true))
        };
        let mut file = open.map_err(AuditError::io("open", &path))?;
        file.write_all(lines).map_err(|error| {
            // What remains of it would be found as a torn line.
            if let Err(error) = file.set_len(at.length) {
                log::warn!("{} keeps part of a line: {error}", path.display());
            }
            AuditError::io("write", &path)(error)
        })
    }

    fn sync_data(&self, at: &Position) -> Result<(), AuditError> {
        let path = file_path(&self.dir, at.file);
        if at.file == 0 {
            return Ok(());
        }
        let open = files::open(&self.dir, &path, OpenOptions::new().read(true));
        open.and_then(|file| file.sync_data()).map_err(AuditError::io("sync", &path))
    }

    fn save_anchor(&mut self, at: &Position) -> Result<(), AuditError> {
        // The lines first: an anchor must never be ahead of them.
        self.sync_data(at)?;
        sealed::save(&self.dir, ANCHOR, &self.keys, at)?;
        self.anchor = Stamp::of(&self.dir.join(ANCHOR));
        self.anchored = Some(at.clone());
        Ok(())
    }

    /// Brings the lines to the disk, then the anchor, then the last uses; makes the reserve if it is missing.
    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        self.append(&mut [])?;
        let done = self.try_sync();
        if self.gives_way(&done) { self.try_sync() } else { done }
    }

    fn try_sync(&mut self) -> Result<(), AuditError> {
        let _lock = lock(&self.dir)?;
        let Some(at) = self.at.clone() else { return Ok(()) };
        if self.anchored.as_ref() != Some(&at) {
            // Another writer may have gone further meanwhile: its lines are its own to vouch for.
            let stored: Option<Position> = sealed::load(&self.dir, ANCHOR, &self.keys).ok().flatten();
            if stored.is_none_or(|stored| stored.sequence < at.sequence) {
                self.save_anchor(&at)?;
            }
            self.anchored = Some(at);
        }
        self.used.save(&self.dir, &self.keys, crate::kms::clock::now())?;
        let reserve = self.dir.join(RESERVE);
        let is_whole = fs::symlink_metadata(&reserve).is_ok_and(|metadata| metadata.len() == RESERVE_LEN as u64);
        if !is_whole {
            let made = files::replace(&self.dir, &reserve, &[b' '; RESERVE_LEN]);
            made.map_err(AuditError::io("write", &reserve))?;
        }
        self.reserve_gone = false;
        Ok(())
    }

    /// The oldest file that is kept when `at` begins one. Files are counted, because their numbers may have a gap.
    fn oldest_kept(&self, at: &Position) -> u64 {
        let before = file_numbers(&self.dir).unwrap_or_default().into_iter().rev().filter(|number| *number < at.file);
        let kept = usize::try_from(self.options.kept_files.max(1)).unwrap_or(usize::MAX);
        std::iter::once(at.file).chain(before).nth(kept - 1).map_or(at.oldest, |oldest| oldest.max(at.oldest))
    }

    fn prune(&self, oldest: u64) {
        let old = file_numbers(&self.dir).unwrap_or_default().into_iter().take_while(|number| *number < oldest);
        for number in old {
            let path = file_path(&self.dir, number);
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove {}, which the log has outgrown: {error}", path.display());
            }
        }
    }

    /// Where to go on: behind the last line that follows the chain.
    fn resume(&mut self) -> Result<Resume, AuditError> {
        if let Some(at) = self.at.as_ref().filter(|at| self.is_last(at)) {
            return Ok(Resume::at(at.clone()));
        }
        let read = |error| AuditError::io("read the folder", &self.dir)(error);
        let numbers = file_numbers(&self.dir).map_err(read)?;
        self.anchor = Stamp::of(&self.dir.join(ANCHOR));
        let anchor: Result<Option<Position>, Problem> = sealed::load(&self.dir, ANCHOR, &self.keys);
        let anchor = match anchor {
            Err(Problem::Unreadable(error)) => return Err(AuditError::io("read", self.dir.join(ANCHOR))(error)),
            Err(problem @ Problem::Forged) => Err(problem.to_string()),
            Ok(None) if !numbers.is_empty() => Err("is missing".to_owned()),
            Ok(anchor) => Ok(anchor),
        };
        let mine = self.at.take();
        let known = match (mine, anchor) {
            (Some(mine), Ok(Some(anchor))) if anchor.sequence > mine.sequence => {
                let stands = self.stands(&mine).map_err(read)?;
                let resume = self.walk(anchor, &numbers)?;
                if stands || resume.damage.is_some() {
                    return Ok(resume);
                }
                // Log and anchor went back together, and others wrote on since.
                let why = format!("line {}, which this process wrote, is not where it was", mine.sequence);
                return Ok(Resume { torn: resume.torn, ..Self::give_up(resume.at, &numbers, why) });
            }
            (Some(mine), Ok(_)) => mine,
            (Some(mine), Err(reason)) => {
                let resume = self.walk(mine, &numbers)?;
                if resume.damage.is_some() {
                    return Ok(resume);
                }
                // Nothing vouches any more for what others wrote behind it.
                return Ok(Resume {
                    torn: resume.torn,
                    ..Self::give_up(resume.at, &numbers, format!("{ANCHOR} {reason}"))
                });
            }
            (None, Ok(Some(anchor))) => anchor,
            (None, Ok(None)) => {
                // Before any line: files without an anchor would look as if somebody had removed it.
                sealed::save(&self.dir, ANCHOR, &self.keys, &Position::START)?;
                return Ok(Resume::at(Position::START));
            }
            (None, Err(reason)) => return self.resume_unanchored(&numbers, &format!("{ANCHOR} {reason}")),
        };
        self.walk(known, &numbers)
    }

    /// Whether the line that ends at a position of this writer's is there still, or its file was outgrown.
    fn stands(&self, mine: &Position) -> std::io::Result<bool> {
        let path = file_path(&self.dir, mine.file);
        let file = match files::open(&self.dir, &path, OpenOptions::new().read(true)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        let mut end = Vec::new();
        end_line(&mine.mac, &mut end);
        let mut found = vec![0; end.len()];
        match file.read_exact_at(&mut found, mine.length.saturating_sub(end.len() as u64)) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| found == end),
        }
    }

    fn is_last(&self, at: &Position) -> bool {
        let is_as_long =
            fs::symlink_metadata(file_path(&self.dir, at.file)).is_ok_and(|found| found.len() == at.length);
        let is_vouched_alike = Stamp::of(&self.dir.join(ANCHOR)) == self.anchor;
        at.file > 0 && is_as_long && is_vouched_alike && !file_path(&self.dir, at.file + 1).exists()
    }

    /// Follows the chain from a position that is vouched for to the end of the log.
    fn walk(&self, mut at: Position, numbers: &[u64]) -> Result<Resume, AuditError> {
        loop {
            let next = numbers.iter().copied().find(|number| *number > at.file);
            let is_newest = next.is_none();
            if at.file > 0 {
                let path = file_path(&self.dir, at.file);
                let length = match fs::symlink_metadata(&path) {
                    Ok(metadata) => metadata.len(),
                    // Made next.
                    Err(error) if error.kind() == ErrorKind::NotFound => 0,
                    Err(error) => return Err(AuditError::io("look at", &path)(error)),
                };
                if length < at.length {
                    let why = format!("{} ends after {length} bytes, of {} that were written", name(&path), at.length);
                    return Ok(Self::give_up(at, numbers, why));
                }
                let rest = if length > at.length { rest_of(&self.dir, &path, at.length) } else { Ok(Vec::new()) };
                let rest = rest.map_err(AuditError::io("read", &path))?;
                match follow(&self.keys, &mut at, &rest, |_, _| ()) {
                    Rest::Clean => {}
                    Rest::Torn if is_newest => return self.cut(&path, at, length),
                    Rest::Torn | Rest::Broken => {
                        let why = format!("{} does not follow the chain from byte {} on", name(&path), at.length);
                        return Ok(Self::give_up(at, numbers, why));
                    }
                }
            }
            match next {
                None => return Ok(Resume::at(at)),
                Some(next) if next == at.file + 1 => at.file = next,
                // Not one by one: who puts a file there could have the search take years.
                Some(next) => {
                    let (missing, next) = (file_path(&self.dir, at.file + 1), file_path(&self.dir, next));
                    let why = format!("{} is missing before {}", name(&missing), name(&next));
                    return Ok(Self::give_up(at, numbers, why));
                }
            }
            at.length = 0;
        }
    }

    /// Takes the end off a line that was never finished.
    fn cut(&self, path: &Path, at: Position, length: u64) -> Result<Resume, AuditError> {
        let text = rest_of(&self.dir, path, at.length).map_err(AuditError::io("read", path))?;
        let text = String::from_utf8_lossy(&text[..text.len().min(TORN_TEXT)]).into_owned();
        let file = files::open(&self.dir, path, OpenOptions::new().write(true));
        let file = file.map_err(AuditError::io("open", path))?;
        file.set_len(at.length).map_err(AuditError::io("shorten", path))?;
        let torn = Torn { bytes: length - at.length, text };
        log::warn!("{} ended in an unfinished line of {} bytes, which was cut off", path.display(), torn.bytes);
        Ok(Resume { torn: Some(torn), ..Resume::at(at) })
    }

    /// Goes on in a new file, whose first line says why.
    fn give_up(mut at: Position, numbers: &[u64], why: String) -> Resume {
        log::error!("the audit log was tampered with or damaged: {why}. Next: kmsfs audit verify");
        let behind_all = numbers.last().copied().unwrap_or(0).max(at.file) + 1;
        // Else the first number behind `at` that no file has.
        let free = || (at.file + 1..).find(|number| numbers.binary_search(number).is_err()).unwrap_or(behind_all);
        at.file = if behind_all <= MOST_FILES { behind_all } else { free() };
        at.length = 0;
        Resume { damage: Some(why), ..Resume::at(at) }
    }

    /// Goes on behind the newest file whose first line is one of this log.
    fn resume_unanchored(&self, numbers: &[u64], why: &str) -> Result<Resume, AuditError> {
        let start = Position { oldest: numbers[0], ..Position::START };
        for number in numbers.iter().rev() {
            let path = file_path(&self.dir, *number);
            let bytes = rest_of(&self.dir, &path, 0).map_err(AuditError::io("read", &path))?;
            let claimed = bytes.split(|byte| *byte == b'\n').next().and_then(claimed_start);
            let Some((mac, sequence)) = claimed else { continue };
            let mut at = Position { file: *number, mac, sequence: sequence.saturating_sub(1), ..start.clone() };
            follow(&self.keys, &mut at, &bytes, |_, _| ());
            // What a line says of itself counts only if it followed.
            if at.length > 0 {
                return Ok(Self::give_up(at, numbers, why.to_owned()));
            }
        }
        Ok(Self::give_up(start, numbers, why.to_owned()))
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
