//! Many at once, slow ones, and those who hold places that others need.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Running, Signed, name_of, read_to_close, talk};
use crate::kms::api::guests;
use crate::kms::users::tests::Known;
use crate::kms::{LocalUser, Users};

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
    let mut held: Vec<UnixStream> = (0..guests::MOST_EACH).map(|_| open()).collect();
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
