//! A server on real sockets, spoken to byte by byte.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Client, Listen, Server, Stop};
use crate::crypto::derive;
use crate::kms::audit::{Event, Options, Reader};
use crate::kms::clock::now;
use crate::kms::recovery::RecoveryKey;
use crate::kms::service::Service;
use crate::kms::users::tests::Known;
use crate::kms::{Keystore, LocalUser, UnlockSecret, Users};

struct Running {
    dir: tempfile::TempDir,
    address: SocketAddr,
    socket: PathBuf,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(Box::new(Known))
    }

    fn start_with(users: Box<dyn Users>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = UnlockSecret::RecoveryKey(RecoveryKey::generate());
        let (keystore, _) = Keystore::create(&dir.path().join("keystore"), &[secret], 1).unwrap();
        let (at, keys) = (keystore.dir().to_path_buf(), keystore.credential_keys());
        let service = Arc::new(Service::new(keystore, Options::default()).unwrap());
        let socket = dir.path().join("socket");
        let listen = Listen { unix: Some(socket.clone()), tcp: Some("127.0.0.1:0".parse().unwrap()), tls: None };
        let server = Server::bind(&at, &listen, service, keys, users).unwrap();
        let address = server.url().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        let stop = server.stopper();
        let thread = Some(std::thread::spawn(move || server.run(2).unwrap()));
        Self { dir, address, socket, stop, thread }
    }

    fn local(&self, operation: &str, parameters: Value) -> Value {
        Client::connect(&self.socket).unwrap().call(operation, &parameters).unwrap()
    }

    /// Sends bytes over TCP and reads until the server is done: status and body.
    fn raw(&self, request: &[u8]) -> (u16, String) {
        let stream = TcpStream::connect(self.address).unwrap();
        talk(stream, request)
    }

    fn count_keys(&self) -> usize {
        self.local("ListKeys", json!({ "Limit": 1000 }))["Keys"].as_array().unwrap().len()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(!self.socket.exists() && !self.dir.path().join("keystore/socket").exists());
        }
    }
}

fn talk(mut stream: impl Read + Write, request: &[u8]) -> (u16, String) {
    // The server may hang up before it has read everything.
    let _ = stream.write_all(request);
    read_answer(&mut stream)
}

/// One answer; `(0, "")` if the server hung up without one.
fn read_answer(stream: &mut impl Read) -> (u16, String) {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return (0, String::new()),
        }
    }
    let head = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

/// A signed request, in parts that a test can alter.
#[derive(Clone)]
struct Signed {
    access_key: String,
    secret: String,
    token: Option<String>,
    time: u64,
    region: &'static str,
    operation: String,
    body: String,
    host: String,
}

impl Signed {
    fn new(running: &Running, operation: &str, body: &Value) -> Self {
        let made = running.local("kmsfs.CreateAccessKey", json!({}));
        let text = |name: &str| made["AccessKey"][name].as_str().unwrap().to_owned();
        Self {
            access_key: text("AccessKeyId"),
            secret: text("SecretAccessKey"),
            token: None,
            // A change is to be signed after the second in which the server began.
            time: now() + 1,
            region: "us-east-1",
            operation: operation.to_owned(),
            body: body.to_string(),
            host: running.address.to_string(),
        }
    }

    /// As a short-lived session of the user who runs the test.
    fn session(running: &Running, operation: &str, body: &Value) -> Self {
        let made = running.local(super::SESSION_CREDENTIALS, json!({}));
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Self {
            access_key: text("AccessKeyId"),
            secret: text("SecretAccessKey"),
            token: Some(text("SessionToken")),
            ..Self::new(running, operation, body)
        }
    }

    fn stamp(&self) -> String {
        let time = jiff::Timestamp::from_second(i64::try_from(self.time).unwrap()).unwrap();
        time.strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1".to_owned()),
            ("host", self.host.clone()),
            ("x-amz-date", self.stamp()),
        ];
        headers.extend(self.token.clone().map(|token| ("x-amz-security-token", token)));
        headers.push(("x-amz-target", format!("TrentService.{}", self.operation)));
        headers
    }

    fn authorization(&self) -> String {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let headers = self.headers();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = names.join(";");
        let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(&derive::sha256(self.body.as_bytes())));
        let (stamp, hash) = (self.stamp(), hex(&derive::sha256(canonical.as_bytes())));
        let scope = format!("{}/{}/kms/aws4_request", &stamp[..8], self.region);
        let key = derive::sigv4_key(self.secret.as_bytes(), &stamp[..8], self.region, "kms");
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
        let signature = hex(&derive::hmac(&key, &[to_sign.as_bytes()]));
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.access_key)
    }

    fn bytes(&self) -> String {
        let lines: String = self.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let authorization = self.authorization();
        let length = self.body.len();
        format!(
            "POST / HTTP/1.1\r\n{lines}authorization: {authorization}\r\ncontent-length: {length}\r\n\r\n{}",
            self.body
        )
    }
}

fn name_of((status, body): (u16, String)) -> String {
    assert_eq!(status, 400, "{body}");
    let value: Value = serde_json::from_str(&body).unwrap();
    value["__type"].as_str().unwrap().to_owned()
}

#[test]
fn signed_requests_are_answered_and_unsigned_ones_are_not() {
    let running = Running::start();
    for request in [Signed::new(&running, "ListKeys", &json!({})), Signed::session(&running, "ListKeys", &json!({}))] {
        assert_eq!(running.raw(request.bytes().as_bytes()).0, 200);
        let unsigned = request.bytes().replace("authorization:", "x-other:");
        assert_eq!(name_of(running.raw(unsigned.as_bytes())), "MissingAuthenticationTokenException");
        let presigned = unsigned.replace("POST / ", "POST /?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00 ");
        assert_eq!(name_of(running.raw(presigned.as_bytes())), "MissingAuthenticationTokenException");
    }
    let (status, body) = running.raw(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(name_of((status, body)), "MissingAuthenticationTokenException");
}

#[test]
fn a_request_altered_in_any_signed_part_is_refused() {
    let running = Running::start();
    for good in [
        Signed::new(&running, "CreateKey", &json!({ "Description": "d" })),
        Signed::session(&running, "CreateKey", &json!({ "Description": "d" })),
    ] {
        let bytes = good.bytes();
        let head = bytes.find("content-length").unwrap();
        let host = bytes.find("host: ").unwrap()..bytes.find("x-amz-date").unwrap();
        let mut tried = 0;
        for at in "POST / HTTP/1.1\r\n".len()..bytes.len() {
            // Framing, the host (which is checked before) and white space are not what signatures are about.
            if (head..bytes.find("\r\n\r\n").unwrap() + 4).contains(&at) || host.contains(&at) {
                continue;
            }
            let old = bytes.as_bytes()[at];
            if !old.is_ascii_alphanumeric() {
                continue;
            }
            let mut altered = bytes.clone().into_bytes();
            altered[at] = if old == b'1' { b'2' } else { b'1' };
            let (status, body) = running.raw(&altered);
            assert!(status == 400 && body.contains("__type"), "byte {at}: {status} {body}");
            tried += 1;
        }
        assert!(tried > 300, "{tried}");
        assert_eq!(running.count_keys(), 0);
        let other_secret = Signed { secret: format!("{}x", good.secret), ..good.clone() };
        assert_eq!(name_of(running.raw(other_secret.bytes().as_bytes())), "InvalidSignatureException");
    }
    // The letters of the answer's case: an altered name of a header makes it another header, which is absent then.
    let request = Signed::new(&running, "CreateKey", &json!({}));
    assert_eq!(running.raw(request.bytes().as_bytes()).0, 200);
    assert_eq!(running.count_keys(), 1);
}

#[test]
fn headers_that_are_added_or_doubled_do_not_slip_through() {
    let running = Running::start();
    let good = Signed::new(&running, "CreateKey", &json!({})).bytes();
    for line in [
        "x-amz-target: TrentService.ListKeys",
        "x-amz-date: 20200101T000000Z",
        "authorization: x",
        "x-amz-security-token: x",
        "x-amz-new: 1",
        "content-type: text/plain",
    ] {
        let altered = good.replacen("authorization: AWS4", &format!("{line}\r\nauthorization: AWS4"), 1);
        let (status, body) = running.raw(altered.as_bytes());
        assert_eq!(status, 400, "{line}: {body}");
    }
    assert_eq!(running.count_keys(), 0);
}

#[test]
fn a_change_is_not_replayed_on_another_connection() {
    let running = Running::start();
    let request = Signed::new(&running, "CreateKey", &json!({})).bytes();
    let mut first = TcpStream::connect(running.address).unwrap();
    for _ in 0..2 {
        first.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut first).0, 200);
    }
    for _ in 0..3 {
        assert_eq!(name_of(running.raw(request.as_bytes())), "ThrottlingException");
    }
    assert_eq!(running.count_keys(), 2);
    let read = Signed::new(&running, "ListKeys", &json!({})).bytes();
    assert!((0..3).all(|_| running.raw(read.as_bytes()).0 == 200));
    // What changes nothing takes no place among the signatures.
    for operation in ["Unknown", "Sign", "kmsfs.Nothing"] {
        let other = Signed::new(&running, operation, &json!({})).bytes();
        let names: Vec<String> = (0..2).map(|_| name_of(running.raw(other.as_bytes()))).collect();
        assert!(names[0] == names[1] && names[0] != "ThrottlingException", "{names:?}");
    }
}

#[test]
fn a_change_that_was_signed_before_the_server_began_is_refused_and_what_only_looks_is_not() {
    let running = Running::start();
    let before = |operation: &str| Signed { time: now() - 60, ..Signed::new(&running, operation, &json!({})) };
    assert_eq!(name_of(running.raw(before("CreateKey").bytes().as_bytes())), "ThrottlingException");
    assert_eq!(running.count_keys(), 0);
    assert_eq!(running.raw(before("ListKeys").bytes().as_bytes()).0, 200);
}

#[test]
fn old_and_early_signatures_are_refused_with_the_words_of_aws() {
    let running = Running::start();
    let good = Signed::new(&running, "ListKeys", &json!({}));
    for (time, words) in [(now() - 302, "Signature expired: "), (now() + 310, "Signature not yet current: ")] {
        let (status, body) = running.raw(Signed { time, ..good.clone() }.bytes().as_bytes());
        assert!(status == 400 && body.contains("InvalidSignatureException") && body.contains(words), "{body}");
    }
    for time in [now() - 290, now() + 290] {
        assert_eq!(running.raw(Signed { time, ..good.clone() }.bytes().as_bytes()).0, 200);
    }
}

#[test]
fn forged_mixed_and_missing_tokens_are_refused() {
    let running = Running::start();
    let (one, two) =
        (Signed::session(&running, "ListKeys", &json!({})), Signed::session(&running, "ListKeys", &json!({})));
    let long_lived = Signed::new(&running, "ListKeys", &json!({}));
    let cases = [
        Signed { token: None, ..one.clone() },
        Signed { token: two.token.clone(), ..one.clone() },
        Signed { token: Some("AAAA".into()), ..one.clone() },
        Signed { token: one.token.clone(), ..long_lived.clone() },
        Signed { access_key: "ASIAAAAAAAAAAAAAAAAA".into(), ..one.clone() },
        Signed { access_key: "AKIAAAAAAAAAAAAAAAAA".into(), ..long_lived.clone() },
        Signed { access_key: String::new(), ..long_lived },
    ];
    for case in cases {
        assert_eq!(name_of(running.raw(case.bytes().as_bytes())), "UnrecognizedClientException");
    }
}

#[test]
fn a_deleted_access_key_is_refused_at_once() {
    let running = Running::start();
    let request = Signed::new(&running, "ListKeys", &json!({}));
    assert_eq!(running.raw(request.bytes().as_bytes()).0, 200);
    running.local("kmsfs.DeleteAccessKey", json!({ "AccessKeyId": request.access_key }));
    assert_eq!(name_of(running.raw(request.bytes().as_bytes())), "UnrecognizedClientException");
}

#[test]
fn the_access_key_of_a_user_is_refused_when_another_one_has_his_name() {
    let running = Running::start();
    for (name, uid, is_taken) in [("ada", 1000, true), ("ada", 1234, false), ("eve", 1000, false)] {
        let made = running.local("kmsfs.CreateAccessKey", json!({ "UserName": name, "UserId": uid }));
        let text = |name: &str| made["AccessKey"][name].as_str().unwrap().to_owned();
        let request = Signed {
            access_key: text("AccessKeyId"),
            secret: text("SecretAccessKey"),
            ..Signed::new(&running, "GenerateRandom", &json!({ "NumberOfBytes": 8 }))
        };
        let answer = running.raw(request.bytes().as_bytes());
        if is_taken {
            assert_eq!(answer.0, 200, "{answer:?}");
        } else {
            assert_eq!(name_of(answer), "UnrecognizedClientException", "{name} {uid}");
        }
    }
    let mut client = Client::connect(&running.socket).unwrap();
    assert!(client.call("kmsfs.CreateAccessKey", &json!({ "UserName": "ada" })).is_err());
}

#[test]
fn the_servers_own_operations_are_local_and_unsigned() {
    let running = Running::start();
    for operation in [super::SESSION_CREDENTIALS, super::ENDPOINT] {
        let request = Signed::new(&running, operation, &json!({}));
        assert_eq!(name_of(running.raw(request.bytes().as_bytes())), "AccessDeniedException");
        let signed = talk(UnixStream::connect(&running.socket).unwrap(), request.bytes().as_bytes());
        assert_eq!(name_of(signed), "AccessDeniedException");
    }
    let endpoint = running.local(super::ENDPOINT, json!({}));
    assert_eq!(endpoint["Endpoint"], format!("http://{}", running.address));
}

#[test]
fn a_signed_request_over_the_unix_socket_is_checked_as_well() {
    let running = Running::start();
    let good = Signed::new(&running, "ListKeys", &json!({}));
    assert_eq!(talk(UnixStream::connect(&running.socket).unwrap(), good.bytes().as_bytes()).0, 200);
    let bad = Signed { secret: "x".into(), ..good };
    let answer = talk(UnixStream::connect(&running.socket).unwrap(), bad.bytes().as_bytes());
    assert_eq!(name_of(answer), "InvalidSignatureException");
}

#[test]
fn browsers_are_not_answered() {
    let running = Running::start();
    let good = Signed::new(&running, "ListKeys", &json!({}));
    let elsewhere = Signed { host: "kms.example:4566".into(), ..good.clone() };
    assert_eq!(name_of(running.raw(elsewhere.bytes().as_bytes())), "AccessDeniedException");
    let with_origin = good.bytes().replacen("authorization:", "origin: http://localhost\r\nauthorization:", 1);
    assert_eq!(name_of(running.raw(with_origin.as_bytes())), "AccessDeniedException");
}

#[test]
fn what_is_too_large_is_cut_off() {
    let running = Running::start();
    let head = |length: usize| format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    assert_eq!(running.raw(&[head(300_000).as_bytes(), &vec![b'x'; 300_000]].concat()).0, 413);
    let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = running.raw(format!("POST / HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes());
    assert!([431, 400, 0].contains(&answer.0), "{answer:?}");
    let long = "a".repeat(100_000);
    let answer = running.raw(format!("POST / HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").as_bytes());
    assert!([431, 400, 0].contains(&answer.0), "{answer:?}");
}

#[test]
fn the_identity_of_the_caller_is_told_in_xml() {
    let running = Running::start();
    let body = "Action=GetCallerIdentity&Version=2011-06-15";
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, xml) = running.raw(request.as_bytes());
    assert!(status == 403 && xml.contains("<Code>MissingAuthenticationToken</Code>"), "{xml}");
    let (status, xml) = talk(UnixStream::connect(&running.socket).unwrap(), request.as_bytes());
    assert!(status == 200 && xml.contains("<Arn>arn:aws:iam::000000000000:root</Arn>"), "{xml}");
    let line = serde_json::to_value(&lines_of(&running, "GetCallerIdentity", 1)[0]).unwrap();
    assert_eq!((&line["eventSource"], &line["readOnly"]), (&json!("sts.amazonaws.com"), &json!(true)));
}

#[test]
fn a_thousand_clients_are_answered_and_idle_ones_do_not_keep_the_owner_out() {
    crate::sys::process::raise_open_files().unwrap();
    let running = Running::start();
    let key = running.local("CreateKey", json!({}))["KeyMetadata"]["Arn"].clone();
    let idle: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(running.address).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let (running, key) = (&running, &key);
            scope.spawn(move || {
                for _ in 0..50 {
                    let made = running.local("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" }));
                    let opened = running.local("Decrypt", json!({ "CiphertextBlob": made["CiphertextBlob"] }));
                    assert_eq!(opened["Plaintext"], made["Plaintext"]);
                }
            });
        }
    });
    drop(idle);
    let request = Signed::new(&running, "ListKeys", &json!({}));
    assert_eq!(running.raw(request.bytes().as_bytes()).0, 200);
}

fn list_keys() -> &'static str {
    "POST / HTTP/1.1\r\nhost: localhost\r\nx-amz-target: TrentService.ListKeys\r\ncontent-length: 2\r\n\r\n{}"
}

#[test]
fn one_user_does_not_take_all_places_of_a_socket() {
    let running = Running::start();
    let open = || UnixStream::connect(&running.socket).unwrap();
    let mut held: Vec<UnixStream> = (0..super::guests::MOST_EACH).map(|_| open()).collect();
    for stream in &mut held {
        assert_eq!(talk(stream, list_keys().as_bytes()).0, 200);
    }
    assert_eq!(talk(open(), list_keys().as_bytes()).0, 0, "one more is hung up on");
    let owner = UnixStream::connect(running.dir.path().join("keystore/socket")).unwrap();
    assert_eq!(talk(owner, list_keys().as_bytes()).0, 200);
    drop(held);
    let start = Instant::now();
    while talk(open(), list_keys().as_bytes()).0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "the places do not come back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_connection_over_which_nobody_makes_himself_known_is_closed_soon() {
    let running = Running::start();
    let mut known = UnixStream::connect(&running.socket).unwrap();
    assert_eq!(talk(&mut known, list_keys().as_bytes()).0, 200);
    let silent = TcpStream::connect(running.address).unwrap();
    let mut unsigned = TcpStream::connect(running.address).unwrap();
    assert_eq!(name_of(talk(&mut unsigned, list_keys().as_bytes())), "MissingAuthenticationTokenException");
    for mut stream in [silent, unsigned] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(matches!(read_to_close(&mut stream), Ok(0)));
    }
    assert_eq!(talk(&mut known, list_keys().as_bytes()).0, 200);
}

/// Users of whom one takes long to be found: until somebody opens, but ten seconds at most.
#[derive(Clone, Default)]
struct Slow(Arc<SlowState>);

#[derive(Default)]
struct SlowState {
    waiting: AtomicUsize,
    is_open: AtomicBool,
    gave_up: AtomicBool,
}

impl Users for Slow {
    fn by_uid(&self, uid: u32) -> std::io::Result<Option<LocalUser>> {
        Known.by_uid(uid)
    }

    fn by_name(&self, name: &str) -> std::io::Result<Option<LocalUser>> {
        if name.starts_with("slow") {
            self.0.waiting.fetch_add(1, Ordering::SeqCst);
            let start = Instant::now();
            while !self.0.is_open.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.0.gave_up.fetch_or(!self.0.is_open.load(Ordering::SeqCst), Ordering::SeqCst);
            return Ok(Some(LocalUser { uid: 5000, name: name.to_owned(), groups: BTreeSet::new() }));
        }
        Known.by_name(name)
    }
}

#[test]
fn a_user_whose_name_takes_long_to_be_found_keeps_nobody_else_waiting() {
    let slow = Slow::default();
    let running = Running::start_with(Box::new(slow.clone()));
    let requests: Vec<Signed> = (0..4)
        .map(|number| {
            let made =
                running.local("kmsfs.CreateAccessKey", json!({ "UserName": format!("slow{number}"), "UserId": 5000 }));
            let text = |name: &str| made["AccessKey"][name].as_str().unwrap().to_owned();
            Signed {
                access_key: text("AccessKeyId"),
                secret: text("SecretAccessKey"),
                ..Signed::new(&running, "GenerateRandom", &json!({ "NumberOfBytes": 8 }))
            }
        })
        .collect();
    std::thread::scope(|scope| {
        for request in &requests {
            scope.spawn(|| assert_eq!(running.raw(request.bytes().as_bytes()).0, 200));
        }
        while slow.0.waiting.load(Ordering::SeqCst) < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(running.count_keys(), 0);
        slow.0.is_open.store(true, Ordering::SeqCst);
    });
    assert!(!slow.0.gave_up.load(Ordering::SeqCst), "the owner had to wait");
}

#[test]
fn a_second_server_of_the_same_place_is_refused_and_a_dead_ones_socket_gives_way() {
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    let (keystore, _) =
        Keystore::create(&dir.path().join("k"), &[UnlockSecret::RecoveryKey(RecoveryKey::generate())], 1).unwrap();
    let (at, keys) = (keystore.dir().to_path_buf(), keystore.credential_keys());
    let service = Arc::new(Service::new(keystore, Options::default()).unwrap());
    let listen = Listen { unix: Some(running.socket.clone()), ..Listen::default() };
    let again = || {
        Server::bind(
            &at,
            &listen,
            Arc::clone(&service),
            crate::kms::api::CredentialKeys::new(&crate::crypto::Secret::random()),
            Box::new(Known),
        )
    };
    assert!(matches!(again(), Err(super::ServeError::InUse(_))));
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let listen = Listen { unix: Some(file.clone()), ..Listen::default() };
    let refused = Server::bind(&at, &listen, Arc::clone(&service), keys, Box::new(Known));
    assert!(matches!(refused, Err(super::ServeError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let abroad = Listen { tcp: Some("0.0.0.0:0".parse().unwrap()), ..Listen::default() };
    let keys = crate::kms::api::CredentialKeys::new(&crate::crypto::Secret::random());
    assert!(matches!(
        Server::bind(&at, &abroad, service, keys, Box::new(Known)),
        Err(super::ServeError::NotLoopback(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, ..ProptestConfig::default() })]
    #[test]
    fn raw_bytes_neither_end_nor_confuse_the_server(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                "(POST|GET|PUT|\\PC{0,5}) (/|\\*|http://h/|/\\?a=b|\\PC{0,9}) HTTP/1.[01]\r\n".prop_map(String::into_bytes),
                "(host|content-length|transfer-encoding|authorization|x-amz-target|x-amz-date|\\PC{1,9}): (localhost|[0-9]{1,30}|chunked|AWS4-HMAC-SHA256 \\PC{0,40})\r\n".prop_map(String::into_bytes),
                Just(b"\r\n".to_vec()),
            ],
            400,
        )
    ) {
        let running = Running::start();
        for chunk in pieces.chunks(4) {
            let mut stream = TcpStream::connect(running.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = stream.write_all(&chunk.concat());
            let _ = read_to_close(&mut stream);
        }
        prop_assert_eq!(running.count_keys(), 0);
        let request = Signed::new(&running, "ListKeys", &json!({}));
        prop_assert_eq!(running.raw(request.bytes().as_bytes()).0, 200);
    }
}

fn read_to_close(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.read_to_end(&mut Vec::new())
}

/// The lines of the log of an operation, once there are `count`.
fn lines_of(running: &Running, operation: &str, count: usize) -> Vec<Event> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut found = Vec::new();
        Reader::new(&running.dir.path().join("keystore/audit"))
            .read(|_, event| {
                found.extend((event.event_name == operation).then_some(event));
                true
            })
            .unwrap();
        if found.len() >= count {
            assert_eq!(found.len(), count, "{operation}");
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{operation}: {} of {count} lines", found.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_the_service_does_not_hear_of_is_in_the_log_too() {
    let running = Running::start();
    let change = Signed::new(&running, "CreateKey", &json!({})).bytes();
    assert_eq!(running.raw(change.as_bytes()).0, 200);
    assert_eq!(name_of(running.raw(change.as_bytes())), "ThrottlingException");
    let replayed = lines_of(&running, "CreateKey", 2).pop().unwrap();
    assert_eq!(replayed.error_code.as_deref(), Some("ThrottlingException"));
    assert!(replayed.user_identity.access_key_id.is_some() && replayed.source_ip_address.is_some());

    let broken = Signed { body: "{".into(), ..Signed::new(&running, "Encrypt", &json!({})) };
    assert_eq!(name_of(running.raw(broken.bytes().as_bytes())), "SerializationException");
    assert_eq!(lines_of(&running, "Encrypt", 1)[0].error_code.as_deref(), Some("SerializationException"));
    let unheard = Signed { body: "{".into(), ..Signed::new(&running, "Unheard", &json!({})) };
    assert_eq!(name_of(running.raw(unheard.bytes().as_bytes())), "SerializationException");
    lines_of(&running, "Unheard", 0);

    let made = running.local(super::SESSION_CREDENTIALS, json!({ "DurationSeconds": 1000 }));
    assert!(
        Client::connect(&running.socket)
            .unwrap()
            .call(super::SESSION_CREDENTIALS, &json!({ "DurationSeconds": 1 }))
            .is_err()
    );
    let issued = lines_of(&running, super::SESSION_CREDENTIALS, 2);
    assert_eq!(issued[0].response_elements.as_ref().unwrap()["accessKeyId"], made["AccessKeyId"]);
    assert_eq!(issued[0].request_parameters, Some(json!({ "durationSeconds": 1000 })));
    assert!(issued[0].read_only && issued[1].is_denied());
    let log = std::fs::read_to_string(running.dir.path().join("keystore/audit/events-00000001.jsonl")).unwrap();
    for secret in ["SecretAccessKey", "SessionToken"] {
        assert!(!log.contains(made[secret].as_str().unwrap()), "{secret}");
    }
}
