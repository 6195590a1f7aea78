//! A server on real sockets, spoken to byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
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
use crate::kms::{Keystore, UnlockSecret, Users};

mod crowds;
mod signatures;

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
    let deadline = Instant::now() + Duration::from_secs(20);
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
        assert!(Instant::now() < deadline, "{operation}: {} of {count} lines", found.len());
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
