//! Rotation, by itself and on demand.

use super::*;
use crate::kms::clock::advance;

const DAY: i64 = 24 * 60 * 60;

fn rotations(fixture: &Fixture, id: &str, include: &str) -> Vec<Value> {
    let answer = fixture.ok("ListKeyRotations", json!({ "KeyId": id, "IncludeKeyMaterial": include }));
    answer["Rotations"].as_array().unwrap().clone()
}

fn blob(fixture: &Fixture, id: &str) -> Value {
    fixture.ok("Encrypt", json!({ "KeyId": id, "Plaintext": base64(b"kept") }))["CiphertextBlob"].clone()
}

#[test]
fn old_ciphertext_opens_after_any_number_of_rotations_and_names_its_material() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let mut made = Vec::new();
    for number in 0..5 {
        let metadata = fixture.ok("DescribeKey", json!({ "KeyId": id }))["KeyMetadata"].clone();
        made.push((blob(&fixture, &id), metadata["CurrentKeyMaterialId"].clone()));
        if number < 4 {
            assert_eq!(fixture.ok("RotateKeyOnDemand", json!({ "KeyId": id })), json!({ "KeyId": arn(&id) }));
        }
    }
    let fixture = fixture.reopened();
    for (sealed, material) in &made {
        let opened = fixture.ok("Decrypt", json!({ "CiphertextBlob": sealed }));
        assert_eq!((bytes(&opened["Plaintext"]), &opened["KeyMaterialId"]), (b"kept".to_vec(), material));
    }
    let all = rotations(&fixture, &id, "ALL_KEY_MATERIAL");
    let states: Vec<&str> = all.iter().map(|entry| entry["KeyMaterialState"].as_str().unwrap()).collect();
    assert_eq!(states, ["CURRENT", "NON_CURRENT", "NON_CURRENT", "NON_CURRENT", "NON_CURRENT"]);
    let materials: Vec<&Value> = all.iter().rev().map(|entry| &entry["KeyMaterialId"]).collect();
    assert_eq!(materials, made.iter().map(|(_, material)| material).collect::<Vec<_>>());
    assert!(all[4].get("RotationDate").is_none() && all[4].get("RotationType").is_none());
    let only = rotations(&fixture, &id, "ROTATIONS_ONLY");
    assert!(only.len() == 4 && only.iter().all(|entry| entry["RotationType"] == "ON_DEMAND"));
}

#[test]
fn a_key_is_rotated_on_demand_25_times() {
    let fixture = Fixture::new();
    let id = fixture.key();
    for _ in 0..25 {
        fixture.ok("RotateKeyOnDemand", json!({ "KeyId": id }));
    }
    let message = format!(
        "The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for \
         this key: {}",
        arn(&id)
    );
    assert_eq!(fixture.refused("RotateKeyOnDemand", json!({ "KeyId": id })), (Code::LimitExceeded, message));
    fixture.ok("RotateKeyOnDemand", json!({ "KeyId": fixture.key() }));
}

#[test]
fn automatic_rotation_keeps_to_its_schedule_and_catches_up_with_one_rotation() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let old = blob(&fixture, &id);
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id, "RotationPeriodInDays": 100 }));
    let status = || fixture.ok("GetKeyRotationStatus", json!({ "KeyId": id }));
    let first = status()["NextRotationDate"].as_u64().unwrap();
    assert_eq!(status()["RotationPeriodInDays"], 100);
    let started = first - 100 * DAY as u64;
    advance(99 * DAY);
    // A rotation on demand does not move the schedule.
    fixture.ok("RotateKeyOnDemand", json!({ "KeyId": id }));
    assert_eq!(status()["NextRotationDate"], json!(first));
    advance(DAY + 60);
    assert_eq!(status()["NextRotationDate"], json!(started + 200 * DAY as u64));
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY")[0]["RotationType"], "AUTOMATIC");
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 2);
    // Three and a half periods in which nobody looked.
    advance(350 * DAY);
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 3);
    assert_eq!(status()["NextRotationDate"], json!(started + 500 * DAY as u64));
    // A clock that goes back rotates nothing, and neither does one that comes forward again.
    advance(-200 * DAY);
    fixture.ok("Encrypt", json!({ "KeyId": id, "Plaintext": base64(b"x") }));
    advance(200 * DAY);
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 3);
    assert_eq!(bytes(&fixture.ok("Decrypt", json!({ "CiphertextBlob": old }))["Plaintext"]), b"kept");
}

#[test]
fn a_condition_on_the_period_sees_the_one_that_will_be_in_force() {
    let fixture = Fixture::new();
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*" },
        { "Effect": "Deny", "Principal": "*", "Action": "kms:EnableKeyRotation", "Resource": "*",
          "Condition": { "NumericGreaterThan": { "kms:RotationPeriodInDays": "180" } } },
    ] });
    let id = fixture.key_with(json!({ "Policy": policy.to_string() }));
    assert_eq!(fixture.refused("EnableKeyRotation", json!({ "KeyId": id })).0, Code::AccessDenied);
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id, "RotationPeriodInDays": 180 }));
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id }));
}

#[test]
fn a_rotation_that_is_due_is_made_by_whoever_opens_the_keystore() {
    let fixture = Fixture::new();
    let id = fixture.key();
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id, "RotationPeriodInDays": 90 }));
    advance(91 * DAY);
    let fixture = fixture.reopened();
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 1);
    let fixture = fixture.reopened();
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 1);
    let soon = json!({ "KeyId": id });
    advance(89 * DAY - 600);
    assert_eq!(fixture.refused("RotateKeyOnDemand", soon).0, Code::Conflict);
}

#[test]
fn a_rotation_that_cannot_be_made_is_tried_once_a_minute_and_keeps_no_request_waiting() {
    let fixture = Fixture::new();
    let id = fixture.key();
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id, "RotationPeriodInDays": 90 }));
    // The next bundle cannot be written.
    let obstacle = fixture.home.path().join("ks/keystore.bundle.tmp");
    std::fs::create_dir_all(obstacle.join("full")).unwrap();
    advance(91 * DAY);
    for _ in 0..3 {
        assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 0);
        let due = fixture.service.due.load(Ordering::Relaxed);
        assert!(due > crate::kms::clock::now(), "{due}");
    }
    std::fs::remove_dir_all(&obstacle).unwrap();
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 0);
    advance(61);
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 1);
}

#[test]
fn a_disabled_key_is_rotated_once_it_is_enabled_again() {
    let fixture = Fixture::new();
    let id = fixture.key();
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id }));
    assert_eq!(fixture.ok("GetKeyRotationStatus", json!({ "KeyId": id }))["RotationPeriodInDays"], 365);
    fixture.ok("DisableKey", json!({ "KeyId": id }));
    advance(400 * DAY);
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 0);
    fixture.ok("EnableKey", json!({ "KeyId": id }));
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 1);
    fixture.ok("DisableKeyRotation", json!({ "KeyId": id }));
    advance(400 * DAY);
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 1);
    for (days, limit) in [(89, "greater than or equal to 90"), (2561, "less than or equal to 2560")] {
        let message = format!(
            "1 validation error detected: Value '{days}' at 'rotationPeriodInDays' failed to satisfy constraint: Member must \
             have value {limit}"
        );
        let parameters = json!({ "KeyId": id, "RotationPeriodInDays": days });
        assert_eq!(fixture.refused("EnableKeyRotation", parameters), (Code::Validation, message));
    }
}

#[test]
fn the_service_managed_key_is_made_on_first_use_and_nobody_edits_it() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ok("ListAliases", json!({}))["Aliases"], json!([]));
    let metadata = fixture.ok("DescribeKey", json!({ "KeyId": SERVICE_ALIAS }))["KeyMetadata"].clone();
    assert_eq!((&metadata["KeyManager"], &metadata["Enabled"]), (&json!("AWS"), &json!(true)));
    let id = text(&metadata["KeyId"]);
    let made = fixture.ok("GenerateDataKey", json!({ "KeyId": SERVICE_ALIAS, "KeySpec": "AES_256" }));
    assert_eq!(made["KeyId"], json!(arn(&id)));
    assert_eq!(fixture.ok("GetKeyRotationStatus", json!({ "KeyId": id }))["RotationPeriodInDays"], 365);
    let edits = [
        ("DisableKey", json!({})),
        ("EnableKey", json!({})),
        ("UpdateKeyDescription", json!({ "Description": "x" })),
        ("ScheduleKeyDeletion", json!({})),
        ("PutKeyPolicy", json!({ "Policy": crate::kms::policy::Policy::default_for_api().text() })),
        ("TagResource", json!({ "Tags": [{ "TagKey": "a", "TagValue": "b" }] })),
        ("EnableKeyRotation", json!({})),
        ("DisableKeyRotation", json!({})),
        ("RotateKeyOnDemand", json!({})),
        ("CreateAlias", json!({ "AliasName": "alias/mine", "TargetKeyId": id })),
    ];
    for (operation, mut parameters) in edits {
        parameters["KeyId"] = json!(id);
        let message = format!("{} is managed by a service and cannot be changed.", arn(&id));
        assert_eq!(fixture.refused(operation, parameters), (Code::AccessDenied, message), "{operation}");
    }
    for operation in ["CreateAlias", "UpdateAlias"] {
        let parameters = json!({ "AliasName": "alias/svc/x", "TargetKeyId": fixture.key() });
        assert_eq!(fixture.refused(operation, parameters).0, Code::NotAuthorized);
    }
    advance(366 * DAY);
    assert_eq!(rotations(&fixture, &id, "ROTATIONS_ONLY").len(), 1);
}

#[test]
fn the_owner_retires_an_old_version_and_nobody_else_any() {
    const RETIRE: &str = "kmsfs.RetireKeyVersion";
    let fixture = Fixture::new();
    let id = fixture.key();
    let old = blob(&fixture, &id);
    fixture.ok("RotateKeyOnDemand", json!({ "KeyId": id }));
    let new = blob(&fixture, &id);
    let version = |number: u32| json!({ "KeyId": id, "Version": number });
    let denied = fixture.call_as(&Principal::user("eve"), RETIRE, version(1)).unwrap_err();
    assert_eq!(denied.code, Code::AccessDenied);
    for number in [0, 2, 3, 65_536] {
        assert_eq!(fixture.refused(RETIRE, version(number)).0, Code::Validation, "{number}");
    }
    assert_eq!(fixture.refused(RETIRE, json!({ "KeyId": id })).0, Code::Validation);
    fixture.ok("Decrypt", json!({ "CiphertextBlob": old }));
    assert_eq!(fixture.ok(RETIRE, version(1)), json!({ "KeyId": arn(&id), "Version": 1 }));
    assert_eq!(fixture.refused(RETIRE, version(1)).0, Code::Validation);
    let fixture = fixture.reopened();
    assert_eq!(fixture.refused("Decrypt", json!({ "CiphertextBlob": old })).0, Code::InvalidCiphertext);
    fixture.ok("Decrypt", json!({ "CiphertextBlob": new }));
    fixture.ok("ScheduleKeyDeletion", json!({ "KeyId": id }));
    assert_eq!(fixture.refused(RETIRE, version(1)).0, Code::KmsInvalidState);
}

#[test]
fn who_may_not_use_the_service_managed_key_does_not_have_it_made() {
    let fixture = Fixture::new();
    let ada = Principal::user("ada");
    for (operation, more) in [("Encrypt", json!({ "Plaintext": "eA==" })), ("DescribeKey", json!({}))] {
        let mut parameters = more;
        parameters["KeyId"] = json!(SERVICE_ALIAS);
        assert!(fixture.call_as(&ada, operation, parameters).is_err());
        assert_eq!(fixture.ok("ListAliases", json!({}))["Aliases"], json!([]), "{operation}");
    }
    fixture.ok("Encrypt", json!({ "KeyId": SERVICE_ALIAS, "Plaintext": "eA==" }));
    assert_eq!(fixture.ok("ListAliases", json!({}))["Aliases"].as_array().unwrap().len(), 1);
    let denied = fixture.call_as(&ada, "Encrypt", json!({ "KeyId": SERVICE_ALIAS, "Plaintext": "eA==" }));
    assert_eq!(denied.unwrap_err().code, Code::AccessDenied);
}

/// A link in the place of the log's lock: it cannot be written until that is gone.
fn break_log(fixture: &Fixture) -> std::path::PathBuf {
    let lock = fixture.home.path().join("ks/audit/lock");
    std::fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink("nowhere", &lock).unwrap();
    assert!(fixture.service.log().flush().is_err());
    lock
}

#[test]
fn what_happens_by_itself_waits_for_a_log_that_can_be_written() {
    let fixture = Fixture::new();
    let key = fixture.key();
    fixture.ok("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 }));
    let lock = break_log(&fixture);
    advance(8 * DAY);
    assert_eq!(fixture.refused("DescribeKey", json!({ "KeyId": key })).0, Code::NotFound, "the date counts");
    assert_eq!(fixture.refused("DescribeKey", json!({ "KeyId": SERVICE_ALIAS })).0, Code::KmsInternal);
    fixture.service.with_keystore(|keystore| assert!(keystore.deleted().is_empty()));
    assert!(fixture.service.keys().alias(SERVICE_ALIAS).is_none());
    std::fs::remove_file(lock).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fixture.service.log().admit().is_err() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    fixture.ok("DescribeKey", json!({ "KeyId": SERVICE_ALIAS }));
    fixture.service.with_keystore(|keystore| assert_eq!(keystore.deleted().len(), 1));
}

#[test]
fn what_a_keystore_did_by_itself_is_recorded_also_without_a_service() {
    let fixture = Fixture::new();
    let key = fixture.key();
    fixture.ok("ScheduleKeyDeletion", json!({ "KeyId": key, "PendingWindowInDays": 7 }));
    let Fixture { home, recovery, service } = fixture;
    drop(service);
    advance(8 * DAY);
    let keystore = Keystore::open(&home.path().join("ks")).unwrap().unlock(&recovery).unwrap();
    record_opening(&keystore).unwrap();
    let mut deleted = Vec::new();
    crate::kms::audit::Reader::new(&home.path().join("ks/audit"))
        .read(|_, event| {
            deleted.extend((event.event_name == "DeleteKey").then(|| event.keys().collect::<Vec<_>>()));
            true
        })
        .unwrap();
    assert_eq!(deleted, [vec![KeyId(key)]]);
}
