//! Tests of the whole log: what is written, and what a check finds.

mod tamper;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::chain::{file_numbers, file_path};
use super::{AuditError, Event, Filter, Head, InTimeOrder, Keys, Log, Options, Reader, Verified, learn_alias, verify};
use crate::crypto::Secret;
use crate::kms::service::{ApiError, Call, Code, Source};
use crate::kms::{KeyId, Principal};

const ARN: &str = "arn:aws:kms:local:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn root() -> Secret<32> {
    Secret::build(|bytes| bytes.fill(7))
}

fn keys() -> Keys {
    Keys::derive(&root())
}

fn open(dir: &Path, options: Options) -> Log {
    Log::open(dir, keys(), options).unwrap()
}

fn call(principal: &Principal) -> Call<'_> {
    Call {
        principal,
        access_key: None,
        region: "eu-west-1",
        source: Source::Process(42),
        via_service: None,
        user_agent: "test/1",
        request_id: Uuid::nil(),
    }
}

fn used(operation: &str, time: u64) -> Event {
    Event::of(&call(&Principal::user("ada")), operation, time)
        .with_parameters(&serde_json::json!({"KeyId": "alias/x", "EncryptionContext": {"Purpose": "test"}}))
        .with_key(ARN)
}

fn events(dir: &Path) -> Vec<Event> {
    let mut all = Vec::new();
    Reader::new(dir)
        .read(|_, event| {
            all.push(event);
            true
        })
        .unwrap();
    all
}

fn named(dir: &Path, name: &str) -> Vec<Event> {
    events(dir).into_iter().filter(|event| event.event_name == name).collect()
}

fn checked(dir: &Path) -> Verified {
    verify(dir, &keys(), None).unwrap().unwrap()
}

#[track_caller]
fn assert_sound(dir: &Path) -> Verified {
    let verified = checked(dir);
    assert_eq!(verified.fault, None);
    verified
}

fn filled(lines: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options::default());
    for n in 0..lines {
        log.record(used("Decrypt", 1_700_000_000 + n)).unwrap();
    }
    drop(log);
    dir
}

#[test]
fn a_line_has_the_shape_of_cloudtrail() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options::default());
    let error = ApiError::new(Code::AccessDenied, "not authorized").because("no statement allows it");
    let call = Call {
        source: Source::Address("127.0.0.1".parse::<IpAddr>().unwrap()),
        access_key: Some("AKIA"),
        ..call(&Principal::Root)
    };
    log.record(Event::of(&call, "Decrypt", 1_700_000_000).with_key(ARN).with_error(&error).by_uid(1000)).unwrap();
    log.flush().unwrap();
    let text = fs::read_to_string(file_path(dir.path(), 1)).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!(line["eventVersion"], "1.11");
    assert_eq!(line["eventTime"], "2023-11-14T22:13:20Z");
    assert_eq!(line["eventSource"], "kms.amazonaws.com");
    assert_eq!(line["eventName"], "Decrypt");
    assert_eq!(line["awsRegion"], "eu-west-1");
    assert_eq!(line["sourceIPAddress"], "127.0.0.1");
    assert_eq!(line["userAgent"], "test/1");
    assert_eq!(line["userIdentity"]["type"], "Root");
    assert_eq!(line["userIdentity"]["arn"], "arn:aws:iam::000000000000:root");
    assert_eq!(line["userIdentity"]["accessKeyId"], "AKIA");
    assert_eq!(line["errorCode"], "AccessDenied");
    assert_eq!(line["errorMessage"], "not authorized");
    assert!(line["requestParameters"].is_null() && line["responseElements"].is_null());
    assert_eq!(line["resources"][0]["ARN"], ARN);
    assert_eq!(line["resources"][0]["type"], "AWS::KMS::Key");
    assert_eq!(line["readOnly"], true);
    assert_eq!(line["eventType"], "AwsApiCall");
    assert_eq!(line["managementEvent"], true);
    assert_eq!(line["kmsfs"]["reason"], "no statement allows it");
    assert_eq!(line["kmsfs"]["uid"], 1000);
    assert_eq!(line["kmsfs"]["sequence"], 2);
    assert_eq!(line["kmsfs"]["mac"].as_str().unwrap().len(), 64);
    assert!(line["eventID"].as_str().unwrap().parse::<Uuid>().is_ok_and(|id| !id.is_nil()));
}

#[test]
fn a_change_is_on_the_disk_when_it_was_recorded_and_others_soon_after() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options::default());
    log.record(used("Decrypt", 1)).unwrap();
    log.record(used("DisableKey", 2)).unwrap();
    let found: Vec<u64> = events(dir.path()).iter().skip(1).map(|event| event.event_time).collect();
    assert_eq!(found, [1, 2]);
    log.record(used("Decrypt", 3)).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(events(dir.path()).len(), 4);
    assert_sound(dir.path());
}

#[test]
fn files_follow_one_another_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_file_bytes: 4096, kept_files: 3, ..Options::default() };
    for round in 0..40 {
        let log = open(dir.path(), options);
        for n in 0..2 {
            log.record(used("Decrypt", round * 2 + n)).unwrap();
        }
    }
    let numbers = file_numbers(dir.path()).unwrap();
    assert_eq!(numbers.len(), 3);
    assert!(numbers[0] > 3, "{numbers:?}");
    let verified = assert_sound(dir.path());
    assert_eq!(verified.files, 3);
    let times: Vec<u64> = named(dir.path(), "Decrypt").iter().map(|event| event.event_time).collect();
    assert_eq!(times.last(), Some(&79));
    assert!(times.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{times:?}");
    let outgrown = Head { sequence: 1, mac: "0".repeat(64) };
    let compared = verify(dir.path(), &keys(), Some(&outgrown)).unwrap().unwrap();
    assert!(compared.is_head_outgrown && compared.fault.is_none());
    let compared = verify(dir.path(), &keys(), Some(&verified.head)).unwrap().unwrap();
    assert!(!compared.is_head_outgrown && compared.fault.is_none());
    fs::remove_file(file_path(dir.path(), numbers[0])).unwrap();
    let fault = checked(dir.path()).fault.unwrap();
    assert_eq!((fault.file, fault.line), (file_path(dir.path(), numbers[0]), None));
}

#[test]
fn writers_at_once_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_file_bytes: 256 * 1024, kept_files: 100, ..Options::default() };
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let dir = dir.path();
            scope.spawn(move || {
                let log = open(dir, options);
                for n in 0..500 {
                    log.record(used(if n % 50 == 0 { "EnableKey" } else { "Encrypt" }, writer * 1000 + n)).unwrap();
                }
            });
        }
    });
    let verified = assert_sound(dir.path());
    let mut times: Vec<u64> =
        events(dir.path()).iter().filter(|e| e.kmsfs.file.is_none()).map(|e| e.event_time).collect();
    times.sort_unstable();
    let expected: Vec<u64> = (0..4).flat_map(|writer| (0..500).map(move |n| writer * 1000 + n)).collect();
    assert_eq!(times, expected);
    assert!(verified.files > 3);
    assert_eq!(verified.head.sequence, verified.lines);
}

#[test]
fn repeated_uses_are_one_line_with_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options { repeat_interval: Duration::from_secs(3600), ..Options::default() });
    let uses = log.repeated(used("Decrypt", 10));
    let same = log.repeated(used("Decrypt", 11));
    let other = log.repeated(used("GenerateDataKey", 11));
    std::thread::scope(|scope| {
        for uses in [&uses, &same] {
            scope.spawn(move || (0..10_000).for_each(|n| uses.count(100 + n % 7)));
        }
    });
    other.count(50);
    log.flush().unwrap();
    let found = named(dir.path(), "Decrypt");
    assert_eq!(found.len(), 1);
    let repeated = found[0].kmsfs.repeated.unwrap();
    assert_eq!((repeated.count, repeated.first, repeated.last), (20_000, 100, 106));
    assert_eq!(named(dir.path(), "GenerateDataKey")[0].kmsfs.repeated.unwrap().count, 1);
    log.flush().unwrap();
    assert_eq!(named(dir.path(), "Decrypt").len(), 1, "nothing was counted since");
    uses.count(200);
    drop((uses, same));
    drop(log);
    assert_eq!(named(dir.path(), "Decrypt")[1].kmsfs.repeated.unwrap().count, 1);
    assert_sound(dir.path());
}

#[test]
fn the_last_use_of_each_key_is_known_to_all_writers() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path(), Options::default()), open(dir.path(), Options::default()));
    one.record(used("Encrypt", 500)).unwrap();
    two.record(used("Decrypt", 400)).unwrap();
    two.record(used("DescribeKey", 900)).unwrap();
    let denied = used("Decrypt", 950).with_error(&ApiError::new(Code::Disabled, ""));
    two.record(denied).unwrap();
    one.flush().unwrap();
    let uses = two.last_uses();
    let last = &uses.keys[&KeyId("1234abcd-12ab-34cd-56ef-1234567890ab".into())];
    assert_eq!((&*last.operation, last.time), ("Encrypt", 500));
    assert_eq!(named(dir.path(), "Encrypt")[0].event_id, last.event);
    assert!(uses.since > 1_700_000_000);
    drop((one, two));
    let later = open(dir.path(), Options::default());
    assert_eq!(later.last_uses(), uses);
    fs::write(dir.path().join("last-use"), "{}\n").unwrap();
    assert!(later.last_uses().keys.is_empty(), "nothing vouches for that file");
}

#[test]
fn a_log_that_cannot_be_written_refuses_changes_and_counts_the_rest() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("audit");
    fs::write(&dir, "a file where the folder should be").unwrap();
    let log = open(&dir, Options { queue: 8, ..Options::default() });
    assert!(matches!(log.admit(), Err(AuditError::Closed { .. })));
    assert!(log.record(used("DisableKey", 1)).is_err());
    for n in 0..20 {
        let started = std::time::Instant::now();
        log.record(used("Decrypt", n)).unwrap();
        assert!(started.elapsed() < Duration::from_millis(500), "nobody waits for a broken log");
    }
    let denied = || used("Decrypt", 30).with_error(&ApiError::new(Code::Disabled, ""));
    log.record(denied()).unwrap();
    fs::remove_file(&dir).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    log.admit().unwrap();
    log.record(used("EnableKey", 40)).unwrap();
    drop(log);
    assert_sound(&dir);
    let gap = named(&dir, "AuditGap")[0].kmsfs.gap.clone().unwrap();
    assert_eq!((gap.allowed, gap.denied, gap.management), (13, 1, 0));
    assert_eq!((gap.first, gap.last), (7, 30));
    let kept = named(&dir, "Decrypt").len() + named(&dir, "DisableKey").len();
    assert_eq!(kept, 8, "what fitted into the queue is there");
}

#[test]
fn a_flood_waits_for_room_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options { queue: 16, ..Options::default() });
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || (0..1000).for_each(|n| log.record(used("Decrypt", thread * 1000 + n)).unwrap()));
        }
    });
    drop(log);
    let mut times: Vec<u64> = named(dir.path(), "Decrypt").iter().map(|event| event.event_time).collect();
    times.sort_unstable();
    assert_eq!(times, (0..4000).collect::<Vec<_>>());
    assert!(named(dir.path(), "AuditGap").is_empty());
}

#[test]
fn filters_find_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Uuid::from_u128(5);
    let log = open(dir.path(), Options::default());
    log.record(used("Decrypt", 100).in_volume(volume, Some("/a/b".into())).by_uid(1000)).unwrap();
    log.record(used("Encrypt", 200).in_volume(volume, Some("/ab".into()))).unwrap();
    let denied = ApiError::new(Code::Disabled, "");
    log.record(Event::of(&call(&Principal::Root), "Decrypt", 300).with_key(ARN).with_error(&denied)).unwrap();
    drop(log);
    let all = events(dir.path());
    let count = |filter: Filter| all.iter().filter(|e| e.kmsfs.file.is_none() && filter.shows(e)).count();
    let none = Filter::default;
    assert_eq!(count(none()), 3);
    assert_eq!(count(Filter { path: Some("/a".into()), ..none() }), 1);
    assert_eq!(count(Filter { path: Some("a/b/".into()), ..none() }), 1);
    assert_eq!(count(Filter { path: Some("/".into()), ..none() }), 2);
    assert_eq!(count(Filter { volume: Some(volume), ..none() }), 2);
    assert_eq!(count(Filter { volume: Some(Uuid::nil()), ..none() }), 0);
    assert_eq!(count(Filter { user: Some("ada".into()), ..none() }), 2);
    assert_eq!(count(Filter { user: Some("1000".into()), ..none() }), 1);
    assert_eq!(count(Filter { user: Some("root".into()), ..none() }), 1);
    assert_eq!(count(Filter { denied: Some(true), ..none() }), 1);
    assert_eq!(count(Filter { denied: Some(false), ..none() }), 2);
    assert_eq!(count(Filter { operation: Some("decrypt".into()), ..none() }), 2);
    assert_eq!(count(Filter { since: Some(200), until: Some(200), ..none() }), 1);
    assert_eq!(count(Filter { key: Some(ARN.into()), ..none() }), 3);
    assert_eq!(count(Filter { key: Some("1234abcd-12ab-34cd-56ef-1234567890ab".into()), ..none() }), 3);
    assert_eq!(count(Filter { key: Some("arn:aws:kms:eu-west-1:000000000000:alias/x".into()), ..none() }), 2);
    assert_eq!(count(Filter { key: Some(ARN.replace("local", "us-east-1")), ..none() }), 3);
    assert_eq!(count(Filter { key: Some("alias/x".into()), ..none() }), 2);
    assert_eq!(count(Filter { key: Some("alias/y".into()), ..none() }), 0);
    let key_ids = learn_alias(dir.path(), "alias/x").unwrap();
    assert_eq!(count(Filter { key: Some("alias/x".into()), key_ids, ..none() }), 3);
}

#[test]
fn a_reader_goes_on_where_it_stopped_over_files_and_unfinished_lines() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), Options { max_file_bytes: 4096, ..Options::default() });
    let mut reader = Reader::new(dir.path());
    let mut seen = Vec::new();
    for n in 0..30 {
        log.record(used("EnableKey", n)).unwrap();
        let read = |_: &str, event: Event| {
            seen.extend(event.kmsfs.file.is_none().then_some(event.event_time));
            true
        };
        reader.read(read).unwrap();
        assert_eq!(seen.len() as u64, n + 1);
    }
    assert!(file_numbers(dir.path()).unwrap().len() > 2);
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
    drop(log);
    let path = file_path(dir.path(), *file_numbers(dir.path()).unwrap().last().unwrap());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], b"{\"half"].concat()).unwrap();
    reader.read(|_, _| panic!("there is no whole line")).unwrap();
    assert_eq!(reader.unreadable, 0);
}

#[test]
fn lines_come_in_the_order_of_time() {
    let mut order = InTimeOrder::default();
    for (time, sequence) in [(5, 1), (3, 2), (3, 3), (9, 4)] {
        let mut event = used("Decrypt", time);
        event.kmsfs.sequence = sequence;
        assert_eq!(order.push(&event, &sequence.to_string()), None);
    }
    let lines: Vec<String> = std::iter::from_fn(|| order.pop()).collect();
    assert_eq!(lines, ["2", "3", "1", "4"]);
}

#[test]
fn a_head_that_was_kept_elsewhere_shows_that_the_log_went_back() {
    let dir = filled(3);
    let early = checked(dir.path()).head;
    let copy = |to: &Path| {
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    let older = tempfile::tempdir().unwrap();
    copy(older.path());
    let log = open(dir.path(), Options::default());
    log.record(used("DisableKey", 1)).unwrap();
    drop(log);
    let late: Head = checked(dir.path()).head.to_string().parse().unwrap();
    assert_eq!(late.sequence, early.sequence + 1);
    let with = |dir: &Path, head: &Head| verify(dir, &keys(), Some(head)).unwrap().unwrap().fault;
    assert_eq!(with(dir.path(), &early), None);
    assert_eq!(with(dir.path(), &late), None);
    assert!(checked(older.path()).fault.is_none(), "an older copy of log and anchor looks sound by itself");
    assert!(with(older.path(), &late).unwrap().what.contains("went back"));
    open(older.path(), Options::default()).record(used("EnableKey", 2)).unwrap();
    assert!(with(older.path(), &late).unwrap().what.contains("another one"));
    assert!("7:xyz".parse::<Head>().is_err() && "x".parse::<Head>().is_err());
}
