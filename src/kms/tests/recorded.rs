//! What the audit log says of uses through a mount.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::crypto::Secret;
use crate::kms::audit::{Event, FOLDER, Keys, Log, Options, Reader, verify};
use crate::kms::policy::Policy;

const CALLER: Caller = Caller { uid: 1000, gid: 1000, pid: 4242 };
/// Everybody may decrypt what is blue.
const BLUE: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"Blue","Effect":"Allow","Principal":"*",
    "Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:team":"blue"}}}]}"#;

struct Recorded {
    folder: TempDir,
    kms: LocalKms,
    key: KeyId,
}

impl Recorded {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (kms, key) = LocalKms::ephemeral_under(Policy::parse(BLUE).unwrap());
        let log = Log::open(&folder.path().join(FOLDER), Self::keys(), Options::default()).unwrap();
        kms.record_to(MountAudit { log, volume: Some(Uuid::from_u128(1)), paths: true });
        Self { folder, kms, key }
    }

    fn keys() -> Keys {
        Keys::derive(&Secret::build(|bytes| bytes.fill(7)))
    }

    fn ask(&self, caller: &Caller, team: &str, path: &str) -> bool {
        let told = || path.to_owned();
        let request = UserRequest { caller, path: &told };
        self.kms.authorize(request, Action::Decrypt, &self.key, &context(&[("team", team)])).is_ok()
    }

    fn events(&self) -> Vec<Event> {
        let (mut all, dir) = (Vec::new(), self.folder.path().join(FOLDER));
        let take = |_: &str, event: Event| {
            all.extend((event.event_name == "Decrypt").then_some(event));
            true
        };
        Reader::new(&dir).read(take).unwrap();
        assert_eq!(verify(&dir, &Self::keys(), None).unwrap().unwrap().fault, None);
        all
    }
}

#[test]
fn each_allowed_use_is_a_line_and_equal_refusals_of_a_second_are_two() {
    let recorded = Recorded::new();
    for round in 0..300 {
        let pid = if round % 2 == 0 { 4242 } else { 4243 };
        assert!(recorded.ask(&Caller { pid, ..CALLER }, "blue", "/blue"));
        assert!(!recorded.ask(&CALLER, "red", "/red"));
        assert!(round % 100 != 0 || !recorded.ask(&Caller { uid: 1001, ..CALLER }, "red", "/red"));
    }
    recorded.kms.flush_record();
    let events = recorded.events();
    let (denied, allowed): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.is_denied());
    assert_eq!(allowed.len(), 300);
    assert!(allowed.iter().all(|event| event.kmsfs.path.as_deref() == Some("/blue") && event.kmsfs.repeated.is_none()));
    assert_eq!(allowed.iter().filter(|event| event.kmsfs.pid == Some(4243)).count(), 150);
    let context = |event: &Event| event.request_parameters.as_ref().unwrap()["encryptionContext"]["team"].clone();
    assert!(allowed.iter().all(|event| context(event) == "blue") && denied.iter().all(|event| context(event) == "red"));
    for (uid, attempts) in [(1000, 300), (1001, 3)] {
        let of_user: Vec<&&Event> = denied.iter().filter(|event| event.kmsfs.uid == Some(uid)).collect();
        let count = |event: &&&Event| event.kmsfs.repeated.map_or(1, |repeated| repeated.count);
        assert_eq!(of_user.iter().map(count).sum::<u64>(), attempts);
        // A slow machine may take several seconds for the loop.
        assert!(of_user.len() >= 2 && of_user.len() < 40, "{}", of_user.len());
        assert!(of_user[0].kmsfs.repeated.is_none() && of_user[0].kmsfs.pid == Some(4242));
        assert!(of_user[1].kmsfs.repeated.is_some() && of_user[1].kmsfs.pid.is_none());
        assert!(of_user.iter().all(|event| event.error_code.as_deref() == Some("AccessDenied")));
    }
}

#[test]
fn what_is_counted_becomes_a_line_by_itself() {
    let recorded = Recorded::new();
    for _ in 0..5 {
        assert!(!recorded.ask(&CALLER, "red", "/red"));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while recorded.events().len() < 2 {
        assert!(std::time::Instant::now() < deadline, "nobody asks again, and the line must come all the same");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(recorded.events()[1].kmsfs.repeated.unwrap().count, 4);
    assert!(!recorded.ask(&CALLER, "green", "/green"));
    drop(recorded.kms);
}

#[test]
fn a_user_who_becomes_another_one_has_lines_of_their_own() {
    let recorded = Recorded::new();
    for uid in [1, 2, 1, 3] {
        assert!(recorded.ask(&Caller { uid, ..CALLER }, "blue", "/blue"));
    }
    recorded.kms.flush_record();
    let who: Vec<String> =
        recorded.events().iter().map(|event| event.user_identity.user_name.clone().unwrap()).collect();
    assert_eq!(who, ["uid/1", "uid/2", "uid/1", "uid/3"]);
}

#[test]
fn a_use_of_a_key_that_is_gone_or_of_a_blob_that_is_none_is_a_line_too() {
    let recorded = Recorded::new();
    let (told, none) = (|| "/file".to_owned(), context(&[]));
    let user = Requester::User(UserRequest { caller: &CALLER, path: &told });
    let (gone, key) = LocalKms::ephemeral();
    let blob = gone.generate_data_key(Requester::Own, &key, &none).unwrap().1;
    let unknown = detail(recorded.kms.decrypt(user, &blob.0, &none));
    assert!(matches!(unknown, InvalidCiphertext::UnknownKey(_)));
    assert_eq!(detail(recorded.kms.decrypt(user, b"no blob", &none)), InvalidCiphertext::Malformed);
    let request = UserRequest { caller: &CALLER, path: &told };
    assert!(matches!(recorded.kms.authorize(request, Action::Decrypt, &key, &none), Err(KmsError::NotFound(_))));
    recorded.kms.flush_record();
    let codes: Vec<String> = recorded.events().iter().map(|event| event.error_code.clone().unwrap().into()).collect();
    assert_eq!(codes, ["InvalidCiphertextException", "InvalidCiphertextException", "NotFoundException"]);
    for event in recorded.events() {
        assert_eq!((event.kmsfs.uid, event.kmsfs.path.as_deref()), (Some(1000), Some("/file")));
    }
    assert_eq!(recorded.events()[2].keys().collect::<Vec<_>>(), [key]);
}

#[test]
fn an_open_under_a_destroyed_key_names_the_key_in_its_line() {
    let (fixture, mut keystore) = Fixture::new();
    let kms = fixture.local();
    let log = Log::open(&fixture.dir().join(FOLDER), keystore.audit_keys(), Options::default()).unwrap();
    kms.record_to(MountAudit { log, volume: Some(Uuid::from_u128(1)), paths: true });
    let (told, none) = (|| "/file".to_owned(), context(&[]));
    let user = Requester::User(UserRequest { caller: &CALLER, path: &told });
    let blob = kms.generate_data_key(Requester::Own, &fixture.id, &none).unwrap().1;
    keystore.schedule_deletion("alias/a", 7).unwrap();
    crate::kms::clock::advance(8 * 86_400);
    keystore.catch_up();
    assert_eq!(keystore.deleted().len(), 1);
    kms.refresh_if_changed().unwrap();
    assert!(matches!(kms.decrypt(user, &blob.0, &none), Err(KmsError::NotFound(_))));
    kms.flush_record();
    let mut lines = Vec::new();
    Reader::new(&fixture.dir().join(FOLDER))
        .read(|_, event| {
            lines.extend((event.kmsfs.uid == Some(1000)).then_some(event));
            true
        })
        .unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].error_code.as_deref(), Some("NotFoundException"));
    assert_eq!(lines[0].keys().next().as_ref(), Some(&fixture.id));
}
