//! The control plane: names, aliases, tags, policies, pages, and what is not there.

use super::*;

#[test]
fn every_name_of_the_model_is_answered_and_no_other_one() {
    let fixture = Fixture::new();
    for name in catalog::UNSUPPORTED {
        let message = format!("{name} is not supported.");
        assert_eq!(fixture.refused(name, json!({})), (Code::UnsupportedOperation, message));
    }
    for name in ["", "describekey", "DescribeKeys", "kmsfs.Nothing"] {
        assert_eq!(fixture.refused(name, json!({})), (Code::UnknownOperation, String::new()));
    }
    let of_aws = catalog::OPERATIONS.iter().filter(|entry| !entry.name.starts_with("kmsfs.")).count();
    assert_eq!(of_aws + catalog::UNSUPPORTED.len(), 56);
    assert_eq!(fixture.refused("ListKeys", json!([])).0, Code::Serialization);
}

#[test]
fn the_owner_alone_sees_all_of_the_keys_and_why_a_request_is_decided() {
    let fixture = Fixture::new();
    let id = fixture.key();
    fixture.ok("RotateKeyOnDemand", json!({ "KeyId": id }));
    for _ in 0..2 {
        fixture.key();
    }
    let all = fixture.ok("kmsfs.DescribeKeys", json!({ "Limit": 2 }));
    assert_eq!((all["Keys"].as_array().unwrap().len(), &all["Truncated"]), (2, &json!(true)));
    let one = fixture.ok("kmsfs.DescribeKeys", json!({ "KeyId": id }));
    assert_eq!((one["Keys"].as_array().unwrap().len(), &one["Keys"][0]["KeyId"]), (1, &json!(id)));
    assert_eq!(one["Keys"][0]["Versions"][1]["Number"], 2);
    let question = json!({ "KeyId": id, "Action": "Decrypt", "UserName": "ada", "Groups": ["staff"] });
    assert_eq!(fixture.ok("kmsfs.GetExplanation", question.clone())["Explanation"]["allowed"], false);
    let staff = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt",
        "Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/group/staff":"true"}}}]}"#;
    let mut under = question.clone();
    under["Policy"] = json!(staff);
    assert_eq!(fixture.ok("kmsfs.GetExplanation", under)["Explanation"]["allowed"], true);
    for (operation, parameters) in [("kmsfs.DescribeKeys", json!({ "KeyId": id })), ("kmsfs.GetExplanation", question)]
    {
        let refused = fixture.call_as(&Principal::user("ada"), operation, parameters).unwrap_err();
        assert_eq!(refused.code, Code::AccessDenied);
    }
}

#[test]
fn what_names_no_key_is_told_in_the_words_of_aws() {
    let fixture = Fixture::new();
    let absent = "1234abcd-12ab-34cd-56ef-1234567890ab";
    let cases = [
        ("x".to_owned(), "Invalid keyId 'x'".to_owned()),
        (absent.to_owned(), format!("Key '{}' does not exist", arn(absent))),
        ("alias/none".to_owned(), format!("Alias arn:aws:kms:{REGION}:{ACCOUNT}:alias/none is not found.")),
        (format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{absent}"), "Invalid arn us-east-1".to_owned()),
    ];
    for (name, message) in cases {
        assert_eq!(fixture.refused("DescribeKey", json!({ "KeyId": name })), (Code::NotFound, message));
    }
    fixture.ok("CreateAlias", json!({ "AliasName": "alias/a", "TargetKeyId": fixture.key() }));
    let invalid = (Code::NotFound, "Invalid keyId 'alias/a'".to_owned());
    for operation in
        ["DisableKey", "GetKeyPolicy", "ListGrants", "ListResourceTags", "ScheduleKeyDeletion", "GetKeyRotationStatus"]
    {
        assert_eq!(fixture.refused(operation, json!({ "KeyId": "alias/a" })), invalid, "{operation}");
    }
}

#[test]
fn create_key_checks_kind_usage_and_origin() {
    let fixture = Fixture::new();
    let cases = [
        (
            json!({ "KeySpec": "RSA_2048" }),
            Code::Validation,
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
        ),
        (
            json!({ "KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT" }),
            Code::Validation,
            "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048",
        ),
        (
            json!({ "KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY" }),
            Code::UnsupportedOperation,
            "KeyUsage SIGN_VERIFY is not supported.",
        ),
        (
            json!({ "KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC" }),
            Code::UnsupportedOperation,
            "KeySpec HMAC_256 is not supported.",
        ),
        (json!({ "Origin": "EXTERNAL" }), Code::UnsupportedOperation, "Origin EXTERNAL is not supported."),
        (
            json!({ "Tags": [{ "TagKey": "aws:x", "TagValue": "" }] }),
            Code::Tag,
            "Tags beginning with aws: are reserved",
        ),
        (
            json!({ "Tags": [{ "TagKey": "x", "TagValue": "" }, { "TagKey": "x", "TagValue": "" }] }),
            Code::Tag,
            "Duplicate tag keys",
        ),
        (
            json!({ "KeyUsage": "RANDOM" }),
            Code::Validation,
            "1 validation error detected: Value 'RANDOM' at 'keyUsage' failed to satisfy constraint: Member must satisfy enum value \
             set: [ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC, KEY_AGREEMENT, ENCAPSULATE_DECAPSULATE]",
        ),
    ];
    for (parameters, code, message) in cases {
        assert_eq!(fixture.refused("CreateKey", parameters), (code, message.to_owned()));
    }
    let many: Vec<Value> = (0..51).map(|n| json!({ "TagKey": format!("t{n}"), "TagValue": "" })).collect();
    assert_eq!(fixture.refused("CreateKey", json!({ "Tags": many })), (Code::Tag, "Too many tags".to_owned()));
    let long = json!({ "Tags": [{ "TagKey": "k", "TagValue": "v".repeat(257) }] });
    assert!(fixture.refused("CreateKey", long).1.contains(
        "at 'tags.1.member.tagValue' failed to satisfy constraint: Member must have length less than or equal to 256"
    ));
    assert_eq!(fixture.refused("CreateKey", json!({ "Policy": "{" })).0, Code::MalformedPolicyDocument);
    let locked_out = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/ada"},"Action":"kms:*","Resource":"*"}]}"#;
    assert_eq!(fixture.refused("CreateKey", json!({ "Policy": locked_out })).0, Code::MalformedPolicyDocument);
    fixture.key_with(json!({ "Policy": locked_out, "BypassPolicyLockoutSafetyCheck": true }));
    assert_eq!(fixture.ok("ListKeys", json!({}))["Keys"].as_array().unwrap().len(), 1);
}

#[test]
fn aliases_are_made_moved_and_deleted_by_the_rules() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.key(), fixture.key());
    let alias = |name: &str, key: &str| json!({ "AliasName": name, "TargetKeyId": key });
    let prefix = "Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html";
    assert_eq!(fixture.refused("CreateAlias", alias("x", &one)), (Code::Validation, prefix.to_owned()));
    assert_eq!(fixture.refused("CreateAlias", alias("alias/aws/x", &one)).0, Code::NotAuthorized);
    assert_eq!(fixture.refused("CreateAlias", alias("alias/", &one)).0, Code::InvalidAliasName);
    assert_eq!(fixture.refused("CreateAlias", alias("alias/a b", &one)).0, Code::Validation);
    fixture.ok("CreateAlias", alias("alias/a", &one));
    let exists = format!("An alias with the name arn:aws:kms:{REGION}:{ACCOUNT}:alias/a already exists");
    assert_eq!(fixture.refused("CreateAlias", alias("alias/a", &two)), (Code::AlreadyExists, exists));
    assert_eq!(fixture.refused("CreateAlias", alias("alias/b", "alias/a")).0, Code::NotFound);
    let blob =
        fixture.ok("Encrypt", json!({ "KeyId": "alias/a", "Plaintext": base64(b"x") }))["CiphertextBlob"].clone();
    fixture.ok("UpdateAlias", alias("alias/a", &two));
    fixture.ok("Decrypt", json!({ "CiphertextBlob": blob }));
    let moved = fixture.refused("Decrypt", json!({ "CiphertextBlob": blob, "KeyId": "alias/a" }));
    assert_eq!(moved.0, Code::IncorrectKey);
    let listed = fixture.ok("ListAliases", json!({ "KeyId": two }))["Aliases"].clone();
    let (created, updated) = (&listed[0]["CreationDate"], &listed[0]["LastUpdatedDate"]);
    let expected = json!([{
        "AliasName": "alias/a", "AliasArn": format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/a"), "TargetKeyId": two,
        "CreationDate": created, "LastUpdatedDate": updated,
    }]);
    assert!(created.is_u64() && updated.is_u64());
    assert_eq!(listed, expected);
    assert_eq!(fixture.ok("ListAliases", json!({ "KeyId": one }))["Aliases"], json!([]));
    fixture.ok("DeleteAlias", json!({ "AliasName": "alias/a" }));
    assert_eq!(fixture.refused("DeleteAlias", json!({ "AliasName": "alias/a" })).0, Code::NotFound);
    if crate::crypto::pair::SUPPORTED {
        let rsa = fixture.key_with(json!({ "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT" }));
        fixture.ok("CreateAlias", alias("alias/r", &rsa));
        assert_eq!(fixture.refused("UpdateAlias", alias("alias/r", &one)).0, Code::Validation);
    }
    for number in 0..50 {
        fixture.ok("CreateAlias", alias(&format!("alias/n{number}"), &one));
    }
    assert_eq!(fixture.refused("CreateAlias", alias("alias/n50", &one)).0, Code::LimitExceeded);
}

#[test]
fn lists_come_in_pages_whose_markers_are_their_own() {
    let fixture = Fixture::new();
    let mut ids: Vec<String> = (0..5).map(|_| fixture.key()).collect();
    ids.sort();
    let mut seen = Vec::new();
    let mut parameters = json!({ "Limit": 2 });
    loop {
        let page = fixture.ok("ListKeys", parameters.clone());
        seen.extend(page["Keys"].as_array().unwrap().iter().map(|key| text(&key["KeyId"])));
        assert_eq!(page["Truncated"], json!(page.get("NextMarker").is_some()));
        match page.get("NextMarker") {
            Some(marker) => parameters["Marker"] = marker.clone(),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    let marker = fixture.ok("ListKeys", json!({ "Limit": 1 }))["NextMarker"].clone();
    for bad in [marker, json!("x"), json!("")] {
        let refused = fixture.refused("ListAliases", json!({ "Marker": bad })).0;
        assert_eq!(refused, if bad == "" { Code::Validation } else { Code::InvalidMarker });
    }
    assert_eq!(fixture.refused("ListKeys", json!({ "Limit": 1001 })).0, Code::Validation);
    assert_eq!(fixture.refused("ListAliases", json!({ "Limit": 101 })).0, Code::Validation);
    assert_eq!(
        fixture.refused("ListKeys", json!({ "Limit": "2" })),
        (Code::Serialization, "STRING_VALUE can not be converted to an Integer".to_owned())
    );
}

#[test]
fn tags_are_merged_replaced_and_taken_away() {
    let fixture = Fixture::new();
    let id = fixture.key_with(json!({ "Tags": [{ "TagKey": "a", "TagValue": "1" }] }));
    let tags = |given: Value| json!({ "KeyId": id, "Tags": given });
    fixture.ok("TagResource", tags(json!([{ "TagKey": "b", "TagValue": "2" }, { "TagKey": "a", "TagValue": "3" }])));
    let listed = || fixture.ok("ListResourceTags", json!({ "KeyId": id }))["Tags"].clone();
    assert_eq!(listed(), json!([{ "TagKey": "a", "TagValue": "3" }, { "TagKey": "b", "TagValue": "2" }]));
    fixture.ok("UntagResource", json!({ "KeyId": id, "TagKeys": ["a", "none"] }));
    assert_eq!(listed(), json!([{ "TagKey": "b", "TagValue": "2" }]));
    let many: Vec<Value> = (0..50).map(|n| json!({ "TagKey": format!("t{n}"), "TagValue": "" })).collect();
    assert_eq!(fixture.refused("TagResource", tags(json!(many))), (Code::Tag, "Too many tags".to_owned()));
    let reserved = json!([{ "TagKey": "AWS:x", "TagValue": "" }]);
    assert_eq!(
        fixture.refused("TagResource", tags(reserved)),
        (Code::Tag, "Tags beginning with aws: are reserved".to_owned())
    );
}

#[test]
fn a_policy_decides_at_once_and_stays_as_it_was_written() {
    let fixture = Fixture::new();
    let (id, ada) = (fixture.key(), Principal::user("ada"));
    assert_eq!(
        fixture.ok("ListKeyPolicies", json!({ "KeyId": id })),
        json!({ "PolicyNames": ["default"], "Truncated": false })
    );
    let policy = r#"{ "Version":"2012-10-17", "Statement":[
        {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"},
        {"Sid":"ada writes","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/ada"},"Action":["kms:Encrypt","kms:GenerateDataKey*"],
         "Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:team":"blue"}}}]}"#;
    let encrypt = |team: &str| json!({ "KeyId": id, "Plaintext": base64(b"x"), "EncryptionContext": { "team": team } });
    let error = fixture.call_as(&ada, "Encrypt", encrypt("blue")).unwrap_err();
    let message = format!(
        "User: arn:aws:iam::000000000000:user/ada is not authorized to perform: kms:Encrypt on resource: {} because no \
         resource-based policy allows the kms:Encrypt action",
        arn(&id)
    );
    assert_eq!((error.code, error.message), (Code::AccessDenied, message));
    fixture.ok("PutKeyPolicy", json!({ "KeyId": id, "Policy": policy }));
    assert_eq!(
        fixture.ok("GetKeyPolicy", json!({ "KeyId": id })),
        json!({ "Policy": policy, "PolicyName": "default" })
    );
    let blob = fixture.call_as(&ada, "Encrypt", encrypt("blue")).unwrap()["CiphertextBlob"].clone();
    assert_eq!(fixture.call_as(&ada, "Encrypt", encrypt("red")).unwrap_err().code, Code::AccessDenied);
    let back = json!({ "CiphertextBlob": blob, "EncryptionContext": { "team": "blue" } });
    let error = fixture.call_as(&ada, "Decrypt", back.clone()).unwrap_err();
    assert!(error.code == Code::AccessDenied && error.message.starts_with("The ciphertext refers to"));
    fixture.ok("Decrypt", back);
    for operation in ["CreateKey", "ListKeys", "ListAliases"] {
        assert_eq!(fixture.call_as(&ada, operation, json!({})).unwrap_err().code, Code::AccessDenied, "{operation}");
    }
    let absent = json!({ "KeyId": "00000000-0000-0000-0000-000000000000" });
    assert_eq!(fixture.call_as(&ada, "ListAliases", absent).unwrap_err().code, Code::AccessDenied);
    fixture.call_as(&ada, "GenerateRandom", json!({ "NumberOfBytes": 8 })).unwrap();
    let other = json!({ "KeyId": id, "PolicyName": "other", "Policy": policy });
    assert_eq!(fixture.refused("PutKeyPolicy", other), (Code::NotFound, "No such policy exists".to_owned()));
    let fixture = fixture.reopened();
    assert_eq!(fixture.ok("GetKeyPolicy", json!({ "KeyId": id }))["Policy"], policy);
}

#[test]
fn a_new_keys_policy_is_tried_as_put_key_policy_would_be() {
    let fixture = Fixture::new();
    let other = arn(&fixture.key());
    let allow = |changes: Value| {
        let mut statement = json!({ "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*" });
        statement.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        statement
    };
    let policy = |statements: Value| json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
    let named = |name: &str| allow(json!({ "Condition": { "StringEquals": { "kms:PolicyName": name } } }));
    for locked in [
        policy(json!([allow(json!({})), allow(json!({ "Effect": "Deny", "Resource": "arn:aws:kms:*:*:key/*" }))])),
        policy(json!([allow(json!({ "Resource": other }))])),
        policy(json!([named("other")])),
        policy(json!([
            allow(json!({})),
            allow(json!({ "Effect": "Deny", "Condition": { "Null": { "kms:PolicyName": "false" } } }))
        ])),
    ] {
        let refused = fixture.refused("CreateKey", json!({ "Policy": locked }));
        assert_eq!(refused.0, Code::MalformedPolicyDocument, "{locked}");
        fixture.key_with(json!({ "Policy": locked, "BypassPolicyLockoutSafetyCheck": true }));
    }
    for open in [json!([named("default")]), json!([allow(json!({ "Resource": "arn:aws:kms:*:*:key/*" }))])] {
        let id = fixture.key_with(json!({ "Policy": policy(open.clone()) }));
        fixture.ok("PutKeyPolicy", json!({ "KeyId": id, "Policy": policy(open) }));
    }
}

#[test]
fn re_encrypt_needs_two_permissions_on_two_keys() {
    let fixture = Fixture::new();
    let ada = "arn:aws:iam::000000000000:user/ada";
    let (from, to) = (fixture.key(), fixture.key());
    let blob = fixture.ok("Encrypt", json!({ "KeyId": from, "Plaintext": base64(b"x") }))["CiphertextBlob"].clone();
    let attempt = |fixture: &Fixture| {
        let parameters = json!({ "CiphertextBlob": blob, "DestinationKeyId": to });
        fixture.call_as(&Principal::user("ada"), "ReEncrypt", parameters).map_err(|error| error.code)
    };
    let grant = |key: &str, operation: &str| {
        fixture.ok("CreateGrant", json!({ "KeyId": key, "GranteePrincipal": ada, "Operations": [operation] }))
    };
    assert_eq!(attempt(&fixture), Err(Code::AccessDenied));
    grant(&from, "ReEncryptFrom");
    assert_eq!(attempt(&fixture), Err(Code::AccessDenied));
    grant(&to, "ReEncryptFrom");
    assert_eq!(attempt(&fixture), Err(Code::AccessDenied));
    grant(&to, "ReEncryptTo");
    attempt(&fixture).unwrap();
}

#[test]
fn every_call_is_in_the_audit_log_with_its_reason_and_without_secrets() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let made = fixture
        .ok("GenerateDataKey", json!({ "KeyId": id, "KeySpec": "AES_256", "EncryptionContext": { "Team": "Blue" } }));
    fixture.refused("Decrypt", json!({ "CiphertextBlob": made["CiphertextBlob"] }));
    fixture.call_as(&Principal::user("eve"), "DisableKey", json!({ "KeyId": id })).unwrap_err();
    fixture.refused("Sign", json!({ "KeyId": id, "Message": base64(b"to be signed") }));
    fixture.refused("Forge", json!({ "KeyId": id }));
    fixture.service.log().flush().unwrap();
    let mut log = String::new();
    for entry in std::fs::read_dir(fixture.service.log().dir()).unwrap() {
        log += &String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    for secret in [&made["Plaintext"], &made["CiphertextBlob"]] {
        assert!(!log.contains(secret.as_str().unwrap()));
    }
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let event = |name: &str| events.iter().find(|event| event["eventName"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(event("CreateKey")["responseElements"]["keyMetadata"]["keyId"], json!(id));
    let generated = event("GenerateDataKey");
    assert_eq!(generated["requestParameters"]["encryptionContext"], json!({ "Team": "Blue" }));
    assert_eq!(generated["additionalEventData"]["keyMaterialId"], made["KeyMaterialId"]);
    assert_eq!(generated["resources"][0]["ARN"], json!(arn(&id)));
    assert_eq!(generated["kmsfs"]["reason"], "statement 1 (Enable IAM User Permissions)");
    assert_eq!(event("Decrypt")["errorCode"], "InvalidCiphertextException");
    assert_eq!(event("Decrypt")["kmsfs"]["reason"], "wrong encryption context or altered blob");
    let denied = event("DisableKey");
    assert_eq!((&denied["errorCode"], &denied["userIdentity"]["userName"]), (&json!("AccessDenied"), &json!("eve")));
    let unsupported = event("Sign");
    assert_eq!(unsupported["errorCode"], "UnsupportedOperationException");
    assert_eq!(unsupported["requestParameters"], json!({ "keyId": id }));
    assert!(events.iter().all(|event| event["eventName"] != "Forge"), "no KMS has that operation");
    let usage = fixture.ok("GetKeyLastUsage", json!({ "KeyId": id }));
    assert_eq!(usage["KeyLastUsage"]["Operation"], "GenerateDataKey");
    fixture.ok("CreateAlias", json!({ "AliasName": "alias/used", "TargetKeyId": id }));
    assert_eq!(fixture.ok("GetKeyLastUsage", json!({ "KeyId": "alias/used" })), usage);
    let unused = fixture.ok("GetKeyLastUsage", json!({ "KeyId": fixture.key() }));
    assert_eq!(unused["KeyLastUsage"], json!({}));
}

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    const MEMBERS: &[&str] = &[
        "KeyId",
        "AliasName",
        "TargetKeyId",
        "Plaintext",
        "CiphertextBlob",
        "EncryptionContext",
        "GrantTokens",
        "Tags",
        "TagKeys",
        "Policy",
        "Limit",
        "Marker",
        "Operations",
        "GranteePrincipal",
        "Constraints",
        "GrantId",
        "GrantToken",
        "NumberOfBytes",
        "KeySpec",
        "DryRun",
        "DryRunModifiers",
        "DestinationKeyId",
        "Description",
        "RotationPeriodInDays",
        "Expires",
    ];

    fn value(key: String) -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            Just(json!("alias/a")),
            Just(json!(key)),
            proptest::collection::vec(any::<u8>(), 0..100).prop_map(|bytes| json!(base64(&bytes))),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[a-zA-Z]{0,8}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    #[test]
    fn whatever_is_asked_is_answered_and_the_keystore_opens_afterwards() {
        let fixture = Fixture::new();
        let id = fixture.key();
        let requests = proptest::collection::vec((0..MEMBERS.len(), value(id)), 0..5);
        let operations = 0..catalog::OPERATIONS.len();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(500));
        runner
            .run(&(operations, requests), |(operation, members)| {
                let parameters: serde_json::Map<String, Value> =
                    members.into_iter().map(|(member, value)| (MEMBERS[member].to_owned(), value)).collect();
                let answer = fixture.call(catalog::OPERATIONS[operation].name, Value::Object(parameters));
                prop_assert_ne!(answer.err().map(|error| error.code), Some(Code::KmsInternal));
                Ok(())
            })
            .unwrap();
        fixture.reopened();
    }
}
