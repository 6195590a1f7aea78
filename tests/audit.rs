//! The audit log with real processes: writers that are killed, a disk that is full, and `kmsfs audit` itself. Run as root.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kmsfs::kms::audit::{self, Event, FOLDER, Keys, Log, Options, Reader};
use kmsfs::kms::service::{ApiError, Call, Code, Source};
use kmsfs::kms::{BUNDLE_NAME, LocalKms, Principal, UnlockSecret};
use tempfile::TempDir;
use uuid::Uuid;
use zeroize::Zeroizing;

const PASSPHRASE: &str = "correct horse battery staple";
const ARN: &str = "arn:aws:kms:local:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// Tells the test program to be a writer: the keystore, a colon, and the writer's number.
const WRITER: &str = "KMSFS_TEST_AUDIT_WRITER";

/// A keystore that `kmsfs init` made.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: TempDir::with_prefix("kmsfs-audit-").expect("temporary folder") };
        fs::write(place.at("pass"), format!("{PASSPHRASE}\n")).expect("passphrase");
        fs::create_dir(place.at("vault")).expect("folder");
        let vault = place.at("vault");
        let made = place.unlocked(&["init", "--unlock-time", "1", vault.to_str().expect("text")]);
        assert!(made.status.success(), "{}", words(&made));
        place
    }

    /// The same, before anything was recorded.
    fn without_log() -> Self {
        let place = Self::new();
        fs::remove_dir_all(place.log_dir()).expect("what init recorded");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn keystore(&self) -> PathBuf {
        self.at("keystore")
    }

    fn log_dir(&self) -> PathBuf {
        self.keystore().join(FOLDER)
    }

    fn log(&self) -> Log {
        Log::open(&self.log_dir(), keys_of(&self.keystore()), Options::default()).expect("the log opens")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = std::env::var_os("KMSFS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_kmsfs").into());
        let mut command = Command::new(binary);
        command.args(arguments).arg("--keystore").arg(self.keystore()).stdin(Stdio::null());
        command
    }

    /// `kmsfs ARGUMENTS`, without any secret.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kmsfs runs")
    }

    fn unlocked(&self, arguments: &[&str]) -> Output {
        self.command(arguments).arg("--passfile").arg(self.at("pass")).output().expect("kmsfs runs")
    }

    /// What `kmsfs audit ARGUMENTS` prints.
    fn listed(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.run(&[&["audit"], arguments].concat());
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
    }

    /// The sound log's report.
    #[track_caller]
    fn sound(&self) -> serde_json::Value {
        let output = self.unlocked(&["audit", "verify", "--json"]);
        assert!(output.status.success(), "{}", words(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn words(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

fn keys_of(keystore: &Path) -> Keys {
    let secret = UnlockSecret::passphrase(Zeroizing::new(PASSPHRASE.as_bytes().to_vec())).expect("a passphrase");
    let kms = LocalKms::open_bundle(&keystore.join(BUNDLE_NAME), &secret).expect("the keystore opens");
    kms.audit_keys().expect("it comes from a keystore")
}

fn event(user: &str, operation: &str, time: u64) -> Event {
    let principal = if user == "root" { Principal::Root } else { Principal::user(user) };
    let call = Call {
        principal: &principal,
        access_key: None,
        region: "local",
        source: Source::Process(1),
        via_service: None,
        user_agent: "test",
        request_id: Uuid::from_u128(1),
    };
    Event::of(&call, operation, time).with_parameters(&serde_json::json!({"KeyId": "alias/mail"})).with_key(ARN)
}

fn events(log: &Path) -> Vec<Event> {
    let mut all = Vec::new();
    let read = Reader::new(log).read(|_, event| {
        all.push(event);
        true
    });
    read.expect("the log reads");
    all
}

/// Another process that writes to the log: changes, whose numbers it prints when they are recorded, among uses.
fn writer(place: &Place, number: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "what_a_writer_process_does", "--nocapture"]);
    command.env(WRITER, format!("{}:{number}", place.keystore().display()));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a writer")
}

/// The body of [`writer`]; by itself it only shows that it is not asked for.
#[test]
fn what_a_writer_process_does() {
    let Ok(asked) = std::env::var(WRITER) else { return };
    let (keystore, number) = asked.rsplit_once(':').expect("keystore and number");
    let (keystore, number) = (Path::new(keystore), number.parse::<u64>().expect("a number"));
    let options = Options { max_file_bytes: 128 * 1024, kept_files: 10_000, ..Options::default() };
    let log = Log::open(&keystore.join(FOLDER), keys_of(keystore), options).expect("the log opens");
    for n in 0..2000 {
        log.record(event("ada", "Decrypt", 0)).expect("a use");
        let id = number * 10_000 + n;
        log.record(event("ada", "TagResource", id)).expect("a change");
        println!("recorded {id}");
    }
}

/// The changes that a writer said it recorded.
fn recorded(child: &mut Child) -> Vec<u64> {
    let out = BufReader::new(child.stdout.take().expect("its output"));
    let lines = out.lines().map_while(Result::ok);
    lines.filter_map(|line| line.strip_prefix("recorded ")?.parse().ok()).collect()
}

#[test]
fn writers_that_are_killed_lose_nothing_that_they_reported_and_the_chain_goes_on() {
    let place = Place::new();
    let mut promised = Vec::new();
    for round in 0..12_u64 {
        let mut writers: Vec<Child> = (0..3).map(|n| writer(&place, round * 3 + n)).collect();
        std::thread::sleep(Duration::from_millis(300 + 97 * round));
        for writer in &mut writers {
            writer.kill().expect("kill -9");
        }
        for writer in &mut writers {
            promised.extend(recorded(writer));
            writer.wait().expect("it ended");
        }
    }
    drop(place.log());
    place.sound();
    let found: std::collections::BTreeSet<u64> =
        events(&place.log_dir()).iter().filter(|e| e.event_name == "TagResource").map(|e| e.event_time).collect();
    assert!(promised.len() > 50, "the writers got somewhere: {}", promised.len());
    let lost: Vec<u64> = promised.iter().copied().filter(|id| !found.contains(id)).collect();
    assert!(lost.is_empty(), "recorded, and lost: {lost:?}");
}

#[test]
fn four_processes_write_one_chain_to_the_end() {
    let place = Place::new();
    let mut writers: Vec<Child> = (0..4).map(|n| writer(&place, n)).collect();
    std::thread::sleep(Duration::from_secs(2));
    // A command looks meanwhile, and finds it whole.
    place.sound();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut promised = 0;
    for writer in &mut writers {
        while writer.try_wait().expect("its state").is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        // Whoever is not done by then is ended between two lines or within one.
        writer.kill().expect("kill");
        promised += recorded(writer).len();
        writer.wait().expect("it ended");
    }
    drop(place.log());
    let report = place.sound();
    assert!(report["lines"].as_u64().expect("a number") >= 2 * promised as u64);
}

/// A small disk; taken away when dropped.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn new(at: PathBuf) -> Self {
        fs::create_dir(&at).expect("folder");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "kmsfs-audit-test"]).arg(&at).status();
        assert!(done.expect("mount runs").success(), "these tests mount: run them as root");
        Self { at }
    }

    /// Fills it to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.at.join("filler");
        // It must fail: that is how one knows that the disk is full.
        let mut zeros = std::io::repeat(0).take(8 << 20);
        let mut file = fs::File::create(&path).expect("filler");
        assert!(std::io::copy(&mut zeros, &mut file).is_err());
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn on_a_full_disk_changes_are_refused_uses_go_on_and_the_gap_is_counted() {
    let place = Place::new();
    let disk = SmallDisk::new(place.at("disk"));
    let dir = disk.at.join("audit");
    let options = Options { queue: 256, ..Options::default() };
    let log = Log::open(&dir, keys_of(&place.keystore()), options).expect("the log opens");
    log.record(event("ada", "CreateAlias", 1)).expect("there is room");
    log.admit().expect("there is room");
    let filler = disk.fill();
    // The reserve holds what has happened already.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut used = 0_u64;
    while log.admit().is_ok() && Instant::now() < deadline {
        used += 1;
        log.record(event("ada", "Decrypt", used)).expect("a use is never refused");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(log.admit().is_err(), "changes are refused when the disk is full");
    log.record(event("ada", "DisableKey", 7_000_000)).expect("the reserve is for a change that was admitted before");
    let started = Instant::now();
    for _ in 0..5000 {
        used += 1;
        log.record(event("ada", "Decrypt", used)).expect("a use is never refused");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waits for a full disk: {:?}", started.elapsed());
    fs::remove_file(filler).expect("room again");
    let deadline = Instant::now() + Duration::from_secs(10);
    while log.admit().is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    log.record(event("ada", "EnableKey", 8_000_000)).expect("there is room again");
    drop(log);
    let found = events(&dir);
    let lines = found.iter().filter(|event| event.event_name == "Decrypt").count() as u64;
    let lost: u64 = found.iter().filter_map(|event| Some(event.kmsfs.gap.as_ref()?.allowed)).sum();
    assert_eq!(lines + lost, used, "each use is a line, or counted");
    assert!(lost > 0, "a queue of 256 does not hold 5000");
    let verified = audit::verify(&dir, &keys_of(&place.keystore()), None).expect("it reads").expect("a log");
    assert_eq!(verified.fault, None);
    assert!(found.iter().any(|event| event.event_time == 7_000_000));
}

#[test]
fn what_root_writes_belongs_to_the_keystores_owner() {
    const NOBODY: u32 = 65534;
    let place = Place::without_log();
    std::os::unix::fs::chown(place.keystore(), Some(NOBODY), Some(NOBODY)).expect("these tests run as root");
    let log = place.log();
    log.record(event("ada", "Decrypt", 1)).expect("use");
    log.record(event("ada", "EnableKey", 2)).expect("change");
    drop(log);
    let mut paths = vec![place.log_dir()];
    paths.extend(fs::read_dir(place.log_dir()).expect("the folder").map(|entry| entry.expect("an entry").path()));
    assert_eq!(paths.len(), 6, "folder, lock, file, anchor, last uses, reserve: {paths:?}");
    for path in paths {
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).expect("it is there"));
        assert_eq!(owner, NOBODY, "{}", path.display());
    }
}

#[test]
fn the_command_lists_filters_and_follows() {
    let place = Place::without_log();
    let output = place.run(&["audit"]);
    assert_eq!(output.status.code(), Some(8), "{}", words(&output));
    let log = place.log();
    let volume = Uuid::from_u128(9);
    log.record(event("ada", "Decrypt", 1_700_000_000).in_volume(volume, Some("/mail/\u{1b}[2Jx".into()))).expect("use");
    let refused = ApiError::new(Code::AccessDenied, "no").because("statement \"Narrow\" denies it");
    log.record(event("bob", "Decrypt", 1_700_000_100).with_error(&refused).by_uid(1001)).expect("refusal");
    log.record(event("root", "DisableKey", 1_700_000_050)).expect("change");
    log.flush().expect("on the disk");

    let all = place.listed(&[]);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].starts_with("2023-11-14T22:13:20Z  allowed  Decrypt") && all[0].contains("ada"), "{}", all[0]);
    assert!(all[0].contains("/mail/\\u{1b}[2Jx"), "what moves the cursor is escaped: {}", all[0]);
    assert!(all[1].contains("DisableKey") && all[1].contains("root"), "in the order of time: {}", all[1]);
    assert!(all[2].contains("denied") && all[2].contains("AccessDenied; statement \"Narrow\" denies it"), "{}", all[2]);

    assert_eq!(place.listed(&["list", "--denied"]), [all[2].clone()]);
    assert_eq!(place.listed(&["list", "--allowed"]).len(), 2);
    assert_eq!(place.listed(&["--user", "1001"]), [all[2].clone()]);
    assert_eq!(place.listed(&["--user", "root"]), [all[1].clone()]);
    assert_eq!(place.listed(&["--path", "/mail"]), [all[0].clone()]);
    assert_eq!(place.listed(&["--volume", &volume.to_string()]), [all[0].clone()]);
    assert_eq!(place.listed(&["--operation", "decrypt"]).len(), 2);
    assert_eq!(place.listed(&["--key", "alias/mail"]).len(), 3);
    assert_eq!(place.listed(&["--key", ARN]).len(), 3);
    assert!(place.listed(&["--key", "alias/other"]).is_empty());
    assert_eq!(place.listed(&["--since", "2023-11-14T22:14:00Z", "--until", "2023-11-14T22:14:30Z"]), [all[1].clone()]);
    assert!(place.listed(&["--since", "1h", "--denied"]).is_empty());
    let json = place.listed(&["--json", "--user", "bob"]);
    let line: serde_json::Value = serde_json::from_str(&json[0]).expect("a JSON line");
    assert_eq!((json.len(), &line["userIdentity"]["userName"]), (1, &"bob".into()));

    let mut follower =
        place.command(&["audit", "--follow", "--json", "--user", "eve"]).stdout(Stdio::piped()).spawn().expect("kmsfs");
    let mut out = BufReader::new(follower.stdout.take().expect("its output"));
    std::thread::sleep(Duration::from_millis(500));
    log.record(event("ada", "Decrypt", 1)).expect("use");
    log.record(event("eve", "Encrypt", 2)).expect("use");
    log.flush().expect("on the disk");
    let mut line = String::new();
    out.read_line(&mut line).expect("a line arrives");
    follower.kill().expect("kill");
    follower.wait().expect("it ended");
    assert!(line.contains("\"eve\"") && line.contains("\"Encrypt\""), "{line}");
}

#[test]
fn the_command_verifies_and_names_file_and_line() {
    let place = Place::without_log();
    let output = place.unlocked(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(8), "there is no log yet: {}", words(&output));
    let log = place.log();
    for n in 0..5 {
        log.record(event("ada", "EnableKey", 1_700_000_000 + n)).expect("change");
    }
    drop(log);
    let report = place.sound();
    assert_eq!((&report["lines"], &report["files"]), (&6.into(), &1.into()));
    let head = report["head"].as_str().expect("text").to_owned();
    let output = place.unlocked(&["audit", "verify", "--head", &head]);
    assert!(output.status.success() && words(&output).contains(&format!("head {head}")), "{}", words(&output));
    let ahead = format!("9{head}");
    assert_eq!(place.unlocked(&["audit", "verify", "--head", &ahead]).status.code(), Some(10));
    assert_eq!(place.unlocked(&["audit", "verify", "--head", "7"]).status.code(), Some(2));

    let path = place.log_dir().join("events-00000001.jsonl");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("the file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&path).expect("the file");
    fs::write(&path, text.replacen("22:13:22Z", "22:13:52Z", 1)).expect("edit");
    let output = place.unlocked(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(10), "{}", words(&output));
    assert!(words(&output).contains("events-00000001.jsonl, line 4"), "{}", words(&output));
    fs::remove_dir_all(place.log_dir()).expect("removed");
    assert_eq!(place.unlocked(&["audit", "verify"]).status.code(), Some(8), "nothing shows that there was a log");
    let output = place.unlocked(&["audit", "verify", "--head", &head]);
    assert_eq!(output.status.code(), Some(10), "but a head does: {}", words(&output));
    fs::write(place.at("pass"), "wrong\n").expect("another passphrase");
    assert_eq!(place.unlocked(&["audit", "verify"]).status.code(), Some(3));
}

/// What a command does with keys on a volume that is not mounted is counted in the log.
#[test]
fn commands_on_a_volume_that_is_not_mounted_are_recorded() {
    let place = Place::new();
    let vault = place.at("vault");
    let vault = vault.to_str().expect("text");
    let other = place.at("other");
    let other = other.to_str().expect("text");
    let uses = || {
        let own = |event: &Event| event.kmsfs.repeated.is_some();
        events(&place.log_dir())
            .into_iter()
            .filter(own)
            .map(|event| (event.event_name, event.kmsfs.volume.is_some()))
            .collect::<Vec<_>>()
    };
    for (arguments, operation, names_volume) in [
        (&["init", "--detached", other][..], "GenerateDataKey", false),
        (&["fsck", vault], "Decrypt", true),
        (&["key", "rotate", "alias/kmsfs/default"], "", false),
        (&["key", "versions", "alias/kmsfs/default"], "Decrypt", false),
        (&["rewrap", vault], "ReEncrypt", true),
        (&["migrate", vault, "--placement", "sidecar"], "Decrypt", true),
    ] {
        let before = if place.log_dir().is_dir() { uses().len() } else { 0 };
        let done = place.unlocked(arguments);
        assert!(done.status.success(), "{}", words(&done));
        let new = uses().split_off(before);
        let is_there = new.contains(&(operation.into(), names_volume));
        assert!(is_there || operation.is_empty(), "{arguments:?}: {new:?}");
    }
    place.sound();
}

#[test]
fn changes_that_no_operation_of_the_kms_makes_have_lines_too() {
    let place = Place::new();
    fs::write(place.at("new"), "another passphrase altogether\n").expect("passphrase");
    let new = place.at("new");
    let change = ["passphrase", "change", "--unlock-time", "1", "--new-passfile", new.to_str().expect("text")];
    let outcome = place.unlocked(&change);
    assert!(outcome.status.success(), "{}", words(&outcome));
    fs::rename(&new, place.at("pass")).expect("rename");
    let outcome = place.unlocked(&["recovery-key", "new"]);
    assert!(outcome.status.success(), "{}", words(&outcome));
    let named: Vec<String> = events(&place.log_dir()).iter().map(|event| event.event_name.to_string()).collect();
    let all = ["CreateKey", "CreateAlias", "kmsfs.ChangePassphrase", "kmsfs.ReplaceRecoveryKey"];
    let told: Vec<&str> = named.iter().map(String::as_str).filter(|name| all.contains(name)).collect();
    assert_eq!(told, all);
    place.sound();
    // What cannot be recorded is not done.
    let lock = place.log_dir().join("lock");
    fs::remove_file(&lock).expect("rm");
    std::os::unix::fs::symlink("nowhere", &lock).expect("link");
    let bundle = fs::read(place.keystore().join(BUNDLE_NAME)).expect("read");
    fs::write(place.at("new"), "a third passphrase altogether\n").expect("passphrase");
    let refused = place.unlocked(&change);
    assert!(!refused.status.success() && words(&refused).contains("symbolic link"), "{}", words(&refused));
    assert!(fs::read(place.keystore().join(BUNDLE_NAME)).expect("read") == bundle);
}
