//! Keys, aliases and data keys from end to end.

use super::*;

#[test]
fn a_key_is_made_described_listed_and_used_by_all_its_names() {
    let fixture = Fixture::new();
    let made =
        fixture.ok("CreateKey", json!({ "Description": "d", "Tags": [{ "TagKey": "team", "TagValue": "blue" }] }));
    let metadata = &made["KeyMetadata"];
    let id = text(&metadata["KeyId"]);
    let expected = json!({
        "AWSAccountId": ACCOUNT,
        "Arn": arn(&id),
        "CreationDate": metadata["CreationDate"],
        "CurrentKeyMaterialId": metadata["CurrentKeyMaterialId"],
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "Description": "d",
        "Enabled": true,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "KeyId": id,
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": false,
        "Origin": "AWS_KMS",
    });
    assert_eq!(metadata, &expected);
    assert_eq!(text(&metadata["CurrentKeyMaterialId"]).len(), 64);
    fixture.ok("CreateAlias", json!({ "AliasName": "alias/a", "TargetKeyId": id }));
    let alias_arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:alias/a");
    for name in [&*id, &arn(&id), "alias/a", &alias_arn] {
        assert_eq!(fixture.ok("DescribeKey", json!({ "KeyId": name })), json!({ "KeyMetadata": expected }));
        let sealed = fixture.ok("Encrypt", json!({ "KeyId": name, "Plaintext": base64(b"hello") }));
        assert_eq!(sealed["KeyId"], json!(arn(&id)));
        assert_eq!(sealed["EncryptionAlgorithm"], "SYMMETRIC_DEFAULT");
        let opened = fixture.ok("Decrypt", json!({ "CiphertextBlob": sealed["CiphertextBlob"], "KeyId": name }));
        let expected = json!({
            "KeyId": arn(&id),
            "Plaintext": base64(b"hello"),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyMaterialId": metadata["CurrentKeyMaterialId"],
        });
        assert_eq!(opened, expected);
    }
    let listed = fixture.ok("ListKeys", json!({}));
    assert_eq!(listed, json!({ "Keys": [{ "KeyId": id, "KeyArn": arn(&id) }], "Truncated": false }));
}

#[test]
fn the_log_tells_reads_from_changes_as_the_table_of_operations_does() {
    let fixture = Fixture::new();
    fixture.ok("kmsfs.ListAccessKeys", json!({}));
    let made = fixture.ok("kmsfs.CreateAccessKey", json!({ "UserName": "ada", "UserId": 1000, "ValidDays": 3 }));
    fixture.service.log().flush().unwrap();
    let mut events = Vec::new();
    crate::kms::audit::Reader::new(fixture.service.log().dir())
        .read(|line, event| {
            assert!(!line.contains(made["AccessKey"]["SecretAccessKey"].as_str().unwrap()));
            events.push(event);
            true
        })
        .unwrap();
    let find = |name: &str| events.iter().find(|event| event.event_name == name).unwrap();
    assert!(find("kmsfs.ListAccessKeys").read_only && !find("kmsfs.CreateAccessKey").read_only);
    let created = find("kmsfs.CreateAccessKey");
    assert_eq!(created.request_parameters, Some(json!({ "userName": "ada", "userId": 1000, "validDays": 3 })));
    let told = &created.response_elements.as_ref().unwrap()["accessKey"];
    assert_eq!((&told["accessKeyId"], &told["userName"]), (&made["AccessKey"]["AccessKeyId"], &json!("ada")));
}
