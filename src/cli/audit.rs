//! `kmsfs audit`: reads the audit log of a keystore, and checks that nobody changed it.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::output::{self, line};
use super::unlock::open_kms;
use crate::kms::audit::{self, AuditError, Event, Filter, Head, InTimeOrder, Reader};

/// How often `--follow` looks.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// Arguments of `kmsfs audit`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Show who used which key, and who was refused; needs no secret and checks nothing
    List(List),
    /// Check that no line was changed, removed or put in
    Verify(Verify),
}

#[derive(clap::Args)]
struct List {
    /// Only this key: an id, an ARN, or an alias (which finds the keys that it led to when it was used)
    #[arg(long)]
    key: Option<String>,
    /// Only this user: a name, a uid or an ARN; the keystore's owner is root
    #[arg(long)]
    user: Option<String>,
    /// Only this plain path in a volume, and what is below it
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Only this volume
    #[arg(long, value_name = "UUID")]
    volume: Option<Uuid>,
    /// Only this operation: Decrypt, GenerateDataKey, ...
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Not before: 2026-01-31, 2026-01-31T12:00:00Z, or as long ago as 1h, 30m, 2d
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    since: Option<u64>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    until: Option<u64>,
    /// Only what was refused or failed
    #[arg(long, conflicts_with = "allowed")]
    denied: bool,
    /// Only what was allowed
    #[arg(long)]
    allowed: bool,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// For programs: the lines of the log as they are
    #[arg(long)]
    json: bool,
    /// The keystore [default: ${XDG_DATA_HOME:-~/.local/share}/kmsfs/keystore]
    #[arg(long, value_name = "DIR", env = "KMSFS_KEYSTORE")]
    keystore: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Verify {
    /// A head that an earlier check printed: the log must still have that line
    #[arg(long, value_name = "N:MAC")]
    head: Option<Head>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        None => list(&args.list),
        Some(Verb::List(args)) => list(args),
        Some(Verb::Verify(args)) => verify(args),
    }
}

fn point_in_time(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<Timestamp>().ok().or_else(|| {
        let date = text.parse::<Date>().ok()?;
        date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    });
    let parsed = parsed.or_else(|| {
        let span = text.parse::<Span>().ok()?.abs();
        let ago = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        Timestamp::now().checked_sub(ago).ok()
    });
    let wrong = || "not a date (2026-01-31), a time (2026-01-31T12:00:00Z) or how long ago (1h, 30m, 2d)".to_owned();
    u64::try_from(parsed.ok_or_else(wrong)?.as_second()).map_err(|_| wrong())
}

impl List {
    fn filter(&self, log: &std::path::Path) -> Result<Filter, AuditError> {
        let alias = self.key.as_deref().filter(|key| key.starts_with("alias/"));
        Ok(Filter {
            key_ids: alias.map(|alias| audit::learn_alias(log, alias)).transpose()?.unwrap_or_default(),
            key: self.key.clone(),
            user: self.user.clone(),
            path: self.path.clone(),
            volume: self.volume,
            since: self.since,
            until: self.until,
            denied: if self.denied || self.allowed { Some(self.denied) } else { None },
            operation: self.operation.clone(),
        })
    }
}

fn folder(keystore: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let args = KeystoreArgs { keystore: keystore.cloned(), ..KeystoreArgs::default() };
    Ok(args.dir()?.join(audit::FOLDER))
}

fn list(args: &List) -> Result<(), Failure> {
    let log = folder(args.keystore.as_ref())?;
    if !log.is_dir() && !args.follow {
        return Err(no_log(&log));
    }
    let filter = args.filter(&log)?;
    let mut reader = Reader::new(&log);
    let mut order = InTimeOrder::default();
    let mut shown = Ok(true);
    reader.read(|text, event| {
        if filter.shows(&event) {
            let next = if args.follow { Some(text.to_owned()) } else { order.push(&event, text) };
            shown = next.map_or(Ok(true), |next| show(&next, args.json));
        }
        matches!(shown, Ok(true))
    })?;
    while matches!(shown, Ok(true)) {
        match order.pop() {
            Some(next) => shown = show(&next, args.json),
            None => break,
        }
    }
    while args.follow && matches!(shown, Ok(true)) {
        std::thread::sleep(FOLLOW_INTERVAL);
        reader.read(|text, event| {
            if filter.shows(&event) {
                shown = show(text, args.json);
            }
            matches!(shown, Ok(true))
        })?;
    }
    if reader.unreadable > 0 {
        eprintln!("kmsfs: note: {} lines could not be read. Next: kmsfs audit verify", reader.unreadable);
    }
    shown.map(|_| ())
}

/// Shows a line. Whether anybody reads on.
fn show(text: &str, json: bool) -> Result<bool, Failure> {
    if json {
        return output::put_while_read(format!("{text}\n"));
    }
    let event: Event = serde_json::from_str(text).map_err(|error| Failure::of(Code::Other, error))?;
    match row(&event) {
        Some(row) => output::put_while_read(row + "\n"),
        None => Ok(true),
    }
}

/// An event for people; nothing for one that only says that a file begins.
fn row(event: &Event) -> Option<String> {
    let (detail, identity) = (&event.kmsfs, &event.user_identity);
    let mut why = Vec::new();
    match &detail.file {
        Some(start) => {
            why.push(format!("the log was damaged and goes on in file {}: {}", start.number, start.damage.as_ref()?))
        }
        None => why.extend(event.error_code.as_ref().map(ToString::to_string)),
    }
    why.extend(detail.reason.clone());
    why.extend(
        detail.repeated.map(|repeated| format!("{} times since {}", repeated.count, output::time(repeated.first))),
    );
    why.extend(detail.torn.as_ref().map(|torn| format!("an unfinished line of {} bytes was cut off", torn.bytes)));
    why.extend(detail.gap.as_ref().map(|gap| {
        let (allowed, denied, changes) = (gap.allowed, gap.denied, gap.management);
        format!("not recorded: {allowed} allowed, {denied} denied, {changes} changes: {}", gap.reason)
    }));
    let outcome = if event.is_denied() { "denied" } else { "allowed" };
    let user = identity.user_name.as_deref().unwrap_or(if identity.kind == "Root" { "root" } else { "-" });
    let key = event.keys().next().map_or_else(|| "-".to_owned(), |key| key.0.chars().take(8).collect());
    let place = detail.path.clone().or_else(|| detail.volume.map(|volume| volume.to_string()));
    let (time, name) = (output::time(event.event_time), &event.event_name);
    let row = format!("{time}  {outcome:7}  {name:20}  {user:10}  {key:8}  {}", place.as_deref().unwrap_or("-"));
    // What clients send may hold what moves a terminal's cursor.
    let clean = |text: &str| text.chars().flat_map(printable).collect::<String>();
    Some(clean(&if why.is_empty() { row } else { format!("{row}  {}", why.join("; ")) }))
}

fn printable(letter: char) -> impl Iterator<Item = char> {
    let (plain, escaped) =
        if letter.is_control() { (None, Some(letter.escape_unicode())) } else { (Some(letter), None) };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

fn no_log(log: &std::path::Path) -> Failure {
    let next = "name the keystore with --keystore; a log is made when a key is first used";
    Failure::new(Code::Keystore, log.display(), "there is no audit log", next)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    files: u64,
    lines: u64,
    begins: Option<String>,
    head: String,
    unfinished: Option<u64>,
    /// Whether the head that was given is older than what is kept.
    head_outgrown: bool,
    fault: Option<ShownFault<'a>>,
}

#[derive(Serialize)]
struct ShownFault<'a> {
    file: &'a std::path::Path,
    line: Option<u64>,
    what: &'a str,
}

fn verify(args: &Verify) -> Result<(), Failure> {
    let dir = args.keystore.dir()?;
    let log = dir.join(audit::FOLDER);
    let kms = args.keystore.secret.unlock(|secret| Ok(open_kms(&dir, &secret)?))?;
    let keys = kms.audit_keys().ok_or_else(|| no_log(&log))?;
    let found = audit::verify(&log, &keys, args.head.as_ref())?.ok_or_else(|| match &args.head {
        Some(head) => fault_at(log.display(), format!("the log is gone: it had line {} once", head.sequence)),
        None => no_log(&log),
    })?;
    let fault = found.fault.as_ref();
    let begins = found.begins.map(output::time);
    if args.json {
        let fault = fault.map(|fault| ShownFault { file: &fault.file, line: fault.line, what: &fault.what });
        let (files, lines, unfinished) = (found.files, found.lines, found.unfinished);
        let (head, head_outgrown) = (found.head.to_string(), found.is_head_outgrown);
        output::json(&Shown { files, lines, begins, head, unfinished, head_outgrown, fault })?;
    } else if fault.is_none() {
        let begins = begins.map(|time| format!(" since {time}")).unwrap_or_default();
        line(format!("{} lines in {} files{begins} follow one another", found.lines, found.files))?;
        line(format!("head {}", found.head))?;
        if let Some(bytes) = found.unfinished {
            line(format!("the last line was never finished ({bytes} bytes); the next writer marks it"))?;
        }
        if found.is_head_outgrown {
            line("the head that was given is older than the oldest line that is kept, and could not be compared")?;
        }
    }
    let Some(fault) = fault else { return Ok(()) };
    let place = fault.line.map_or_else(String::new, |line| format!(", line {line}"));
    Err(fault_at(format!("{}{place}", fault.file.display()), &fault.what))
}

fn fault_at(place: impl Display, what: impl Display) -> Failure {
    let next = "keep a copy of the folder, and compare it with backups; lines before this one are as they were written";
    Failure::new(Code::Damaged, place, what, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_instants_or_how_long_ago() {
        assert_eq!(point_in_time("2023-11-14T22:13:20Z"), Ok(1_700_000_000));
        assert_eq!(point_in_time("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000));
        assert_eq!(point_in_time("1970-01-02"), Ok(86400));
        let now = u64::try_from(Timestamp::now().as_second()).unwrap();
        for (text, ago) in [("1h", 3600), ("90m", 5400), ("2d", 172_800), ("1h 30m", 5400)] {
            let time = point_in_time(text).unwrap();
            assert!((now - ago..=now - ago + 2).contains(&time), "{text}");
        }
        assert!(["", "yesterday", "1", "1900-01-01"].iter().all(|text| point_in_time(text).is_err()));
    }

    #[test]
    fn what_would_move_the_cursor_is_escaped() {
        assert_eq!("a\u{1b}[2J\u{e9}".chars().flat_map(printable).collect::<String>(), "a\\u{1b}[2J\u{e9}");
    }
}
