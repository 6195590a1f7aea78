//! Who signed, with what, and when.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::json;

use super::{Running, Signed, name_of, read_answer, talk};
use crate::kms::api::{Client, ENDPOINT, SESSION_CREDENTIALS};
use crate::kms::clock::now;

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
    for operation in [SESSION_CREDENTIALS, ENDPOINT] {
        let request = Signed::new(&running, operation, &json!({}));
        assert_eq!(name_of(running.raw(request.bytes().as_bytes())), "AccessDeniedException");
        let signed = talk(UnixStream::connect(&running.socket).unwrap(), request.bytes().as_bytes());
        assert_eq!(name_of(signed), "AccessDeniedException");
    }
    let endpoint = running.local(ENDPOINT, json!({}));
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
