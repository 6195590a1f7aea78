//! Volumes whose keystore a test governs, and two users who are neither root nor its owner.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use kmsfs::kms::audit::Options;
use kmsfs::kms::service::{Call, LOCAL_REGION, Service, Source};
use kmsfs::kms::{Keystore, Principal, UnlockSecret};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::harness::{Mount, Volume, words};
use crate::raw::Caller;

/// The key of a volume that names no other.
pub const KEY: &str = "alias/kmsfs/default";
/// A user of the system whom the test setup makes.
pub const ADA: &str = "tests";
/// One that every system has.
pub const BOB: &str = "daemon";
/// A change of the keystore is in force in every mount after a second; the rest is for a busy machine.
const IN_FORCE: Duration = Duration::from_secs(10);

/// A user, who can run things.
pub fn user(name: &str) -> Caller {
    let id = |option: &str| -> u32 {
        let answer = Command::new("id").arg(option).arg(name).output().expect("id(1)");
        assert!(answer.status.success(), "there is no user {name} here: see scripts/machine.sh");
        String::from_utf8(answer.stdout).expect("a number").trim().parse().expect("a number")
    };
    let gid = id("-g");
    Caller { uid: id("-u"), gid, groups: vec![gid], umask: 0o022 }
}

pub fn arn(name: &str) -> String {
    format!("arn:aws:iam::000000000000:user/{name}")
}

/// What a system call answered, without what it gave.
pub fn said<T>(outcome: io::Result<T>) -> Result<(), Errno> {
    outcome.map(drop).map_err(|error| Errno::from_io_error(&error).expect("an errno"))
}

pub const DENIED: Result<(), Errno> = Err(Errno::ACCESS);

/// A volume of root's, open to all users as far as unix permissions go.
pub struct Scene {
    pub volume: Volume,
}

impl Scene {
    pub fn new(init: &[&str]) -> Scene {
        Scene { volume: Volume::with(init) }
    }

    /// Another volume under the same keystore and key.
    pub fn beside(other: &Scene, init: &[&str]) -> Scene {
        let mut volume = Volume::folders();
        volume.keystore.clone_from(&other.volume.keystore);
        volume.init(init);
        Scene { volume }
    }

    /// Mounts it, its root open to everybody.
    pub fn mount(&self, arguments: &[&str]) -> Mount {
        let mount = self.volume.mount(&[&["--key-ttl", "1"], arguments].concat());
        fs::set_permissions(mount.dir(), fs::Permissions::from_mode(0o777)).expect("chmod");
        mount
    }

    /// One request of the keystore's owner.
    pub fn owner(&self, operation: &str, params: Value) -> Value {
        let secret = UnlockSecret::key_file(&self.volume.keyfile).expect("the key file");
        let keystore = Keystore::open(&self.volume.keystore).expect("open").unlock(&secret).expect("unlock");
        let service = Service::new(keystore, Options::default()).expect("a service");
        let call = Call {
            principal: &Principal::Root,
            access_key: None,
            region: LOCAL_REGION,
            source: Source::Process(std::process::id()),
            via_service: None,
            user_agent: "tests",
            request_id: uuid::Uuid::new_v4(),
        };
        service.call(&call, operation, params).unwrap_or_else(|error| panic!("{operation}: {error:?}"))
    }

    /// `kmsfs ARGUMENTS` by the owner, as anybody would type it. What it printed.
    pub fn typed(&self, arguments: &[&str]) -> String {
        let outcome = self.volume.run(arguments);
        assert!(outcome.status.success(), "{arguments:?}: {}", words(&outcome));
        String::from_utf8(outcome.stdout).expect("text")
    }

    /// `kmsfs policy put`: the owner may do all, and what else these statements say.
    pub fn put_policy(&self, statements: &[Value]) {
        let root = json!({
            "Sid": "owner", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
            "Principal": { "AWS": "arn:aws:iam::000000000000:root" },
        });
        let all: Vec<&Value> = std::iter::once(&root).chain(statements).collect();
        let file = self.volume.base().join("policy.json");
        fs::write(&file, json!({ "Version": "2012-10-17", "Statement": all }).to_string()).expect("write");
        self.typed(&["policy", "put", KEY, file.to_str().expect("text")]);
    }

    /// `kmsfs grant create`: Decrypt for a user where the context has `pair`, for a while. The grant's id.
    pub fn grant(&self, grantee: &str, pair: (&str, &str), ends: Option<Duration>) -> String {
        let pair = format!("{}={}", pair.0, pair.1);
        let create = ["grant", "create", KEY, "--operations", "Decrypt", "--json"];
        let mut arguments = [&create[..], &["--grantee", grantee, "--context-subset", &pair]].concat();
        let ends = ends.map(|ends| jiff::Timestamp::try_from(SystemTime::now() + ends).expect("a time").to_string());
        if let Some(ends) = &ends {
            arguments.extend(["--expires", ends]);
        }
        let answer: Value = serde_json::from_str(&self.typed(&arguments)).expect("JSON");
        answer["GrantId"].as_str().expect("an id").to_owned()
    }

    /// `kmsfs grant revoke`.
    pub fn revoke(&self, grant: &str) {
        self.typed(&["grant", "revoke", KEY, grant]);
    }

    /// The lines of the audit log, those that wait included.
    pub fn events(&self) -> Vec<Value> {
        events_in(&self.volume.keystore.join("audit"))
    }

    pub fn verify_audit(&self) {
        let outcome = self.volume.run(&["audit", "verify"]);
        assert!(outcome.status.success(), "{}", words(&outcome));
    }
}

/// The whole lines of all files of a log, in order.
pub fn events_in(log: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(log).map_or_else(|_| Vec::new(), |entries| entries.flatten().collect());
    files.sort_by_key(|entry| entry.file_name());
    let texts = files.iter().filter(|entry| entry.file_name().to_string_lossy().ends_with(".jsonl"));
    let mut events = Vec::new();
    for entry in texts {
        let text = fs::read_to_string(entry.path()).expect("a log");
        events.extend(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
    }
    events
}

/// Waits until a change of the keystore shows.
pub fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < IN_FORCE, "{what}: not after {IN_FORCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn allow(name: &str, actions: &[&str], principal: &str) -> Value {
    json!({
        "Sid": name, "Effect": "Allow", "Action": actions, "Resource": "*",
        "Principal": { "AWS": arn(principal) },
        "Condition": { "StringEquals": { "kms:ViaService": "kmsfs.local" } },
    })
}

/// The second statement of the mount policy.
pub fn everybody() -> Value {
    json!({
        "Sid": "everybody", "Effect": "Allow", "Principal": "*", "Resource": "*",
        "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Condition": { "StringEquals": { "kms:CallerAccount": "000000000000", "kms:ViaService": "kmsfs.local" } },
    })
}

pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}
