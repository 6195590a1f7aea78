//! Grants, from their making to their end.

use super::*;
use crate::kms::clock::advance;

const ADA: &str = "arn:aws:iam::000000000000:user/ada";
const BOB: &str = "arn:aws:iam::000000000000:user/bob";

fn ada() -> Principal {
    Principal::user("ada")
}

#[test]
fn a_grant_allows_what_it_says_under_its_constraint_and_is_listed_as_aws_lists_it() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let made = fixture.ok(
        "CreateGrant",
        json!({
            "KeyId": id, "GranteePrincipal": ADA, "RetiringPrincipal": BOB, "Operations": ["Encrypt", "Decrypt"],
            "Constraints": { "EncryptionContextSubset": { "team": "blue" } }, "Name": "ci",
        }),
    );
    assert_eq!(text(&made["GrantId"]).len(), 64);
    let encrypt = |context: Value| json!({ "KeyId": id, "Plaintext": base64(b"x"), "EncryptionContext": context });
    fixture.call_as(&ada(), "Encrypt", encrypt(json!({ "team": "blue", "x": "y" }))).unwrap();
    for context in [json!({ "team": "red" }), json!({}), json!({ "Team": "blue" })] {
        assert_eq!(fixture.call_as(&ada(), "Encrypt", encrypt(context)).unwrap_err().code, Code::AccessDenied);
    }
    let listed = fixture.ok("ListGrants", json!({ "KeyId": id }))["Grants"].clone();
    let expected = json!([{
        "KeyId": arn(&id), "GrantId": made["GrantId"], "Name": "ci", "CreationDate": listed[0]["CreationDate"],
        "GranteePrincipal": ADA, "RetiringPrincipal": BOB, "IssuingAccount": "arn:aws:iam::000000000000:root",
        "Operations": ["Decrypt", "Encrypt"], "Constraints": { "EncryptionContextSubset": { "team": "blue" } },
    }]);
    assert_eq!(listed, expected);
    let fixture = fixture.reopened();
    assert_eq!(fixture.ok("ListGrants", json!({ "KeyId": id, "GranteePrincipal": ADA }))["Grants"], expected);
    assert_eq!(fixture.ok("ListGrants", json!({ "KeyId": id, "GranteePrincipal": BOB }))["Grants"], json!([]));
    let retirable = json!({ "RetiringPrincipal": BOB });
    assert_eq!(fixture.ok("ListRetirableGrants", retirable.clone())["Grants"], expected);
    assert_eq!(
        fixture.call_as(&Principal::user("bob"), "ListRetirableGrants", retirable.clone()).unwrap()["Grants"],
        expected
    );
    assert_eq!(fixture.call_as(&ada(), "ListRetirableGrants", retirable).unwrap_err().code, Code::AccessDenied);
    assert_eq!(fixture.refused("ListGrants", json!({ "KeyId": id, "GrantId": "x" })).0, Code::InvalidGrantId);
}

#[test]
fn a_name_makes_a_repeated_request_the_same_grant_with_another_token() {
    let fixture = Fixture::new();
    let (id, other) = (fixture.key(), fixture.key());
    let request = |key: &str, name: Option<&str>| json!({ "KeyId": key, "GranteePrincipal": ADA, "Operations": ["Decrypt"], "Name": name });
    let (one, two) =
        (fixture.ok("CreateGrant", request(&id, Some("n"))), fixture.ok("CreateGrant", request(&id, Some("n"))));
    assert_eq!(one["GrantId"], two["GrantId"]);
    assert_ne!(one["GrantToken"], two["GrantToken"]);
    assert_ne!(fixture.ok("CreateGrant", request(&other, Some("n")))["GrantId"], one["GrantId"]);
    assert_ne!(
        fixture.ok("CreateGrant", request(&id, None))["GrantId"],
        fixture.ok("CreateGrant", request(&id, None))["GrantId"]
    );
    assert_eq!(fixture.ok("ListGrants", json!({ "KeyId": id }))["Grants"].as_array().unwrap().len(), 3);
}

#[test]
fn tokens_are_checked_and_forged_foreign_and_revoked_ones_give_nothing() {
    let fixture = Fixture::new();
    let (id, other) = (fixture.key(), fixture.key());
    let grant = |key: &str| {
        fixture.ok("CreateGrant", json!({ "KeyId": key, "GranteePrincipal": ADA, "Operations": ["Encrypt"] }))
    };
    let (own, foreign) = (grant(&id), grant(&other));
    let encrypt = |token: &Value| {
        let parameters = json!({ "KeyId": id, "Plaintext": base64(b"x"), "GrantTokens": [token] });
        fixture.call_as(&ada(), "Encrypt", parameters).map_err(|error| error.code)
    };
    encrypt(&own["GrantToken"]).unwrap();
    let mut forged = text(&own["GrantToken"]);
    forged.replace_range(10..11, if &forged[10..11] == "A" { "B" } else { "A" });
    for bad in [json!(forged), json!("token"), foreign["GrantToken"].clone()] {
        assert_eq!(encrypt(&bad), Err(Code::InvalidGrantToken));
    }
    fixture.ok("RevokeGrant", json!({ "KeyId": id, "GrantId": own["GrantId"] }));
    assert_eq!(encrypt(&own["GrantToken"]), Err(Code::AccessDenied));
    let many: Vec<&Value> = std::iter::repeat_n(&foreign["GrantToken"], 11).collect();
    let parameters = json!({ "KeyId": other, "Plaintext": base64(b"x"), "GrantTokens": many });
    assert_eq!(fixture.refused("Encrypt", parameters).0, Code::Validation);
}

#[test]
fn a_grant_ends_by_itself_by_retirement_and_by_revocation() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let blob = fixture.ok("Encrypt", json!({ "KeyId": id, "Plaintext": base64(b"x") }))["CiphertextBlob"].clone();
    let decrypt = || fixture.call_as(&ada(), "Decrypt", json!({ "CiphertextBlob": blob })).map_err(|error| error.code);
    let now = crate::kms::clock::now();
    let request = json!({ "KeyId": id, "GranteePrincipal": ADA, "RetiringPrincipal": BOB, "Operations": ["Decrypt"] });
    let mut ending = request.clone();
    ending["Expires"] = json!(now + 100);
    fixture.ok("CreateGrant", ending.clone());
    decrypt().unwrap();
    advance(101);
    assert_eq!(decrypt().unwrap_err(), Code::AccessDenied);
    assert_eq!(fixture.ok("ListGrants", json!({ "KeyId": id }))["Grants"], json!([]));
    assert_eq!(fixture.refused("CreateGrant", ending).0, Code::Validation);

    let grant = fixture.ok("CreateGrant", request.clone());
    decrypt().unwrap();
    let by_id = json!({ "KeyId": arn(&id), "GrantId": grant["GrantId"] });
    assert_eq!(fixture.call_as(&ada(), "RetireGrant", by_id.clone()).unwrap_err().code, Code::AccessDenied);
    fixture.call_as(&Principal::user("bob"), "RetireGrant", json!({ "GrantToken": grant["GrantToken"] })).unwrap();
    assert_eq!(decrypt().unwrap_err(), Code::AccessDenied);
    assert_eq!(fixture.refused("RetireGrant", by_id).0, Code::NotFound);
    assert_eq!(fixture.refused("RetireGrant", json!({ "KeyId": id })).0, Code::Validation);

    let grant = fixture.ok("CreateGrant", request);
    let by_id = json!({ "KeyId": id, "GrantId": grant["GrantId"] });
    assert_eq!(
        fixture.call_as(&Principal::user("bob"), "RevokeGrant", by_id.clone()).unwrap_err().code,
        Code::AccessDenied
    );
    fixture.ok("RevokeGrant", by_id.clone());
    assert_eq!(decrypt().unwrap_err(), Code::AccessDenied);
    assert_eq!(fixture.refused("RevokeGrant", by_id).0, Code::NotFound);
}

#[test]
fn grants_that_have_ended_take_no_room_in_a_keystore_that_stays_open() {
    let fixture = Fixture::new();
    let (id, now) = (fixture.key(), crate::kms::clock::now());
    for seconds in [100, 101, 1000] {
        let ending =
            json!({ "KeyId": id, "GranteePrincipal": ADA, "Operations": ["Decrypt"], "Expires": now + seconds });
        fixture.ok("CreateGrant", ending);
    }
    advance(161);
    fixture.ok("GenerateRandom", json!({ "NumberOfBytes": 1 }));
    assert_eq!(fixture.service.keys().all_grants().count(), 1);
    advance(900);
    fixture.ok("GenerateRandom", json!({ "NumberOfBytes": 1 }));
    assert_eq!(fixture.service.keys().all_grants().count(), 0);
}

#[test]
fn who_may_grant_by_a_grant_passes_on_a_part_of_it_and_a_cascade_takes_all_back() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let grant = |operations: Value, constraint: Value| json!({ "KeyId": id, "GranteePrincipal": BOB, "Operations": operations, "Constraints": constraint });
    let subset = |pairs: Value| json!({ "EncryptionContextSubset": pairs });
    let parent = fixture.ok("CreateGrant", json!({
        "KeyId": id, "GranteePrincipal": ADA, "Operations": ["CreateGrant", "Decrypt"], "Constraints": subset(json!({ "a": "1" })),
    }));
    let by_ada = |request: Value| fixture.call_as(&ada(), "CreateGrant", request).map_err(|error| error.code);
    assert_eq!(by_ada(grant(json!(["Encrypt"]), subset(json!({ "a": "1" })))).unwrap_err(), Code::AccessDenied);
    assert_eq!(by_ada(grant(json!(["Decrypt"]), Value::Null)).unwrap_err(), Code::AccessDenied);
    let child = by_ada(grant(json!(["Decrypt"]), subset(json!({ "a": "1", "b": "2" })))).unwrap();
    assert_ne!(child["GrantId"], parent["GrantId"]);
    fixture.ok("RevokeGrant", json!({ "KeyId": id, "GrantId": parent["GrantId"], "Cascade": true }));
    assert_eq!(fixture.ok("ListGrants", json!({ "KeyId": id }))["Grants"], json!([]));
}

#[test]
fn what_is_no_grant_is_refused() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let cases = [
        (json!({ "GranteePrincipal": ADA }), Code::Validation),
        (json!({ "GranteePrincipal": ADA, "Operations": [] }), Code::Validation),
        (json!({ "GranteePrincipal": ADA, "Operations": ["Fly"] }), Code::Validation),
        (json!({ "GranteePrincipal": ADA, "Operations": ["Sign"] }), Code::Validation),
        (json!({ "GranteePrincipal": ADA, "Operations": ["GetPublicKey"] }), Code::Validation),
        (json!({ "GranteePrincipal": "ada", "Operations": ["Decrypt"] }), Code::InvalidArn),
        (json!({ "Operations": ["Decrypt"] }), Code::Validation),
        (json!({ "GranteePrincipal": ADA, "Operations": ["Decrypt"], "Name": "a b" }), Code::Validation),
        (
            json!({ "GranteePrincipal": ADA, "Operations": ["Decrypt"],
            "Constraints": { "EncryptionContextEquals": {"a": "b"}, "EncryptionContextSubset": {"a": "b"} } }),
            Code::Validation,
        ),
        (
            json!({ "GranteePrincipal": ADA, "Operations": ["Decrypt"],
            "Constraints": { "EncryptionContextSubSet": {"a": "b"} } }),
            Code::UnsupportedOperation,
        ),
        (
            json!({ "GranteePrincipal": ADA, "Operations": ["Decrypt"],
            "Constraints": { "EncryptionContextSubset": {"a": "b"}, "SourceArn": "arn:aws:s3:::b" } }),
            Code::UnsupportedOperation,
        ),
        (
            json!({ "GranteePrincipal": ADA, "Operations": ["Decrypt"], "Constraints": { "EncryptionContextSubset": 7 } }),
            Code::Serialization,
        ),
        (
            json!({ "GranteeServicePrincipal": "s3.amazonaws.com", "Operations": ["Decrypt"] }),
            Code::UnsupportedOperation,
        ),
    ];
    for (mut parameters, code) in cases {
        parameters["KeyId"] = json!(id);
        assert_eq!(fixture.refused("CreateGrant", parameters.clone()).0, code, "{parameters}");
    }
    let nulls = json!({ "EncryptionContextEquals": null, "SourceArn": null });
    fixture.ok(
        "CreateGrant",
        json!({ "KeyId": id, "GranteePrincipal": ADA, "Operations": ["Decrypt"], "Constraints": nulls }),
    );
}
