//! The table of state and operation, as AWS's developer guide has it ("Key states of AWS KMS keys").

use super::*;

/// What a key in some state answers to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Done,
    Disabled,
    Pending,
    NotPending,
}

use Says::{Disabled, Done, NotPending, Pending};

/// For each operation what it answers when the key is enabled, disabled and pending deletion.
const TABLE: &[(&str, [Says; 3])] = &[
    ("CancelKeyDeletion", [NotPending, NotPending, Done]),
    ("CreateAlias", [Done, Done, Pending]),
    ("CreateGrant", [Done, Disabled, Pending]),
    ("Decrypt", [Done, Disabled, Pending]),
    ("DeleteAlias", [Done, Done, Done]),
    ("DescribeKey", [Done, Done, Done]),
    ("DisableKey", [Done, Done, Pending]),
    ("DisableKeyRotation", [Done, Disabled, Pending]),
    ("EnableKey", [Done, Done, Pending]),
    ("EnableKeyRotation", [Done, Disabled, Pending]),
    ("Encrypt", [Done, Disabled, Pending]),
    ("GenerateDataKey", [Done, Disabled, Pending]),
    ("GenerateDataKeyPair", [Done, Disabled, Pending]),
    ("GenerateDataKeyPairWithoutPlaintext", [Done, Disabled, Pending]),
    ("GenerateDataKeyWithoutPlaintext", [Done, Disabled, Pending]),
    ("GetKeyLastUsage", [Done, Done, Done]),
    ("GetKeyPolicy", [Done, Done, Done]),
    ("GetKeyRotationStatus", [Done, Done, Done]),
    ("ListAliases", [Done, Done, Done]),
    ("ListGrants", [Done, Done, Done]),
    ("ListKeyPolicies", [Done, Done, Done]),
    ("ListKeyRotations", [Done, Done, Done]),
    ("ListResourceTags", [Done, Done, Done]),
    ("PutKeyPolicy", [Done, Done, Done]),
    ("ReEncrypt", [Done, Disabled, Pending]),
    ("RetireGrant", [Done, Done, Done]),
    ("RevokeGrant", [Done, Done, Done]),
    ("RotateKeyOnDemand", [Done, Disabled, Pending]),
    ("ScheduleKeyDeletion", [Done, Done, Pending]),
    ("TagResource", [Done, Done, Pending]),
    ("UntagResource", [Done, Done, Pending]),
    ("UpdateAlias", [Done, Done, Pending]),
    ("UpdateKeyDescription", [Done, Done, Pending]),
];

/// A key with an alias, a grant, a blob and a tag, in one of the three states.
struct Subject {
    id: String,
    alias: String,
    grant: Value,
    blob: Value,
}

fn subject(fixture: &Fixture, state: usize, number: usize) -> Subject {
    let id = fixture.key_with(json!({ "Tags": [{ "TagKey": "t", "TagValue": "v" }] }));
    let alias = format!("alias/{state}/{number}");
    fixture.ok("CreateAlias", json!({ "AliasName": alias, "TargetKeyId": id }));
    let grant =
        json!({ "KeyId": id, "GranteePrincipal": "arn:aws:iam::000000000000:user/ada", "Operations": ["Decrypt"] });
    let grant = fixture.ok("CreateGrant", grant);
    let blob = fixture.ok("Encrypt", json!({ "KeyId": id, "Plaintext": base64(b"x") }))["CiphertextBlob"].clone();
    match state {
        0 => json!({}),
        1 => fixture.ok("DisableKey", json!({ "KeyId": id })),
        _ => fixture.ok("ScheduleKeyDeletion", json!({ "KeyId": id })),
    };
    Subject { id, alias, grant, blob }
}

fn parameters(operation: &str, subject: &Subject) -> Value {
    let Subject { id, alias, grant, blob } = subject;
    let mut all = json!({ "KeyId": id });
    let more = match operation {
        "CreateAlias" => json!({ "AliasName": format!("{alias}/new"), "TargetKeyId": id }),
        "UpdateAlias" => json!({ "AliasName": alias, "TargetKeyId": id }),
        "DeleteAlias" => json!({ "AliasName": alias }),
        "CreateGrant" => {
            json!({ "GranteePrincipal": "arn:aws:iam::000000000000:user/bob", "Operations": ["Encrypt"] })
        }
        "RetireGrant" | "RevokeGrant" => json!({ "GrantId": grant["GrantId"] }),
        "Decrypt" => json!({ "CiphertextBlob": blob }),
        "ReEncrypt" => json!({ "CiphertextBlob": blob, "DestinationKeyId": id }),
        "Encrypt" => json!({ "Plaintext": base64(b"x") }),
        "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => json!({ "KeySpec": "AES_256" }),
        "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => json!({ "KeyPairSpec": "ECC_NIST_P256" }),
        "PutKeyPolicy" => json!({ "Policy": crate::kms::policy::Policy::default_for_api().text() }),
        "TagResource" => json!({ "Tags": [{ "TagKey": "a", "TagValue": "b" }] }),
        "UntagResource" => json!({ "TagKeys": ["t"] }),
        "UpdateKeyDescription" => json!({ "Description": "d" }),
        _ => json!({}),
    };
    if operation == "ReEncrypt" {
        all = json!({});
    }
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

#[test]
fn every_operation_answers_by_the_state_of_its_key() {
    let fixture = Fixture::new();
    for (number, (operation, row)) in TABLE.iter().enumerate() {
        if operation.contains("Pair") && !crate::crypto::pair::SUPPORTED {
            continue;
        }
        for (state, says) in row.iter().enumerate() {
            let subject = subject(&fixture, state, number);
            let answer = fixture.call(operation, parameters(operation, &subject));
            let arn = arn(&subject.id);
            let expected = match says {
                Done => None,
                Disabled => Some((Code::Disabled, format!("{arn} is disabled."))),
                Pending => Some((Code::KmsInvalidState, format!("{arn} is pending deletion."))),
                NotPending => Some((Code::KmsInvalidState, format!("{arn} is not pending deletion."))),
            };
            let found = answer.err().map(|error| (error.code, error.message));
            assert_eq!(found, expected, "{operation} in state {state}");
        }
    }
}

#[test]
fn the_table_has_every_operation_that_is_about_a_key() {
    let not_about_a_key = ["CreateKey", "GenerateRandom", "ListKeys", "ListRetirableGrants", "GetPublicKey"];
    let own = |name: &str| name.starts_with("kmsfs.");
    let mut known: Vec<&str> = TABLE.iter().map(|(name, _)| *name).chain(not_about_a_key).collect();
    known.sort_unstable();
    let mut all: Vec<&str> = catalog::OPERATIONS.iter().map(|entry| entry.name).filter(|name| !own(name)).collect();
    all.sort_unstable();
    assert_eq!(known, all);
}

#[test]
fn a_cancelled_deletion_leaves_the_key_disabled_and_its_schedule_in_force() {
    let fixture = Fixture::new();
    let id = fixture.key();
    fixture.ok("EnableKeyRotation", json!({ "KeyId": id, "RotationPeriodInDays": 90 }));
    let scheduled = fixture.ok("ScheduleKeyDeletion", json!({ "KeyId": id, "PendingWindowInDays": 7 }));
    let date = scheduled["DeletionDate"].as_u64().unwrap();
    let expected =
        json!({ "KeyId": arn(&id), "DeletionDate": date, "KeyState": "PendingDeletion", "PendingWindowInDays": 7 });
    assert_eq!(scheduled, expected);
    let metadata = fixture.ok("DescribeKey", json!({ "KeyId": id }))["KeyMetadata"].clone();
    assert_eq!((&metadata["DeletionDate"], &metadata["Enabled"]), (&json!(date), &json!(false)));
    assert_eq!(fixture.ok("GetKeyRotationStatus", json!({ "KeyId": id }))["KeyRotationEnabled"], false);
    assert_eq!(fixture.ok("CancelKeyDeletion", json!({ "KeyId": id })), json!({ "KeyId": arn(&id) }));
    let metadata = fixture.ok("DescribeKey", json!({ "KeyId": id }))["KeyMetadata"].clone();
    assert_eq!((&metadata["KeyState"], &metadata["DeletionDate"]), (&json!("Disabled"), &Value::Null));
    assert_eq!(fixture.ok("GetKeyRotationStatus", json!({ "KeyId": id }))["RotationPeriodInDays"], 90);
}

#[test]
fn a_key_is_gone_when_its_date_has_passed_and_so_are_its_aliases_and_grants() {
    let fixture = Fixture::new();
    let subject = subject(&fixture, 2, 0);
    crate::kms::clock::advance(30 * 24 * 60 * 60);
    let missing = (Code::NotFound, format!("Key '{}' does not exist", arn(&subject.id)));
    assert_eq!(fixture.refused("DescribeKey", json!({ "KeyId": subject.id })), missing);
    assert_eq!(fixture.refused("CancelKeyDeletion", json!({ "KeyId": subject.id })), missing);
    let (code, message) = fixture.refused("Decrypt", json!({ "CiphertextBlob": subject.blob }));
    assert_eq!(code, Code::AccessDenied);
    assert!(message.starts_with("The ciphertext refers to a customer master key that does not exist"));
    assert_eq!(fixture.ok("ListAliases", json!({}))["Aliases"], json!([]));
    assert_eq!(fixture.service.keys().all_grants().count(), 0);
    let fixture = fixture.reopened();
    assert_eq!(fixture.refused("DescribeKey", json!({ "KeyId": subject.id })), missing);
}
