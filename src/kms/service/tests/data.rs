//! The data plane: contexts, blobs, sizes, RSA, DryRun.

use super::*;

fn encrypt(fixture: &Fixture, id: &str, context: Value) -> Value {
    fixture.ok("Encrypt", json!({ "KeyId": id, "Plaintext": base64(b"hello"), "EncryptionContext": context }))
}

#[test]
fn a_context_is_matched_exactly_and_pairs_do_not_run_into_each_other() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let sealed = encrypt(&fixture, &id, json!({ "a": "bc", "x": "y" }))["CiphertextBlob"].clone();
    let decrypt =
        |context: Value| fixture.call("Decrypt", json!({ "CiphertextBlob": sealed, "EncryptionContext": context }));
    assert_eq!(bytes(&decrypt(json!({ "x": "y", "a": "bc" })).unwrap()["Plaintext"]), b"hello");
    let others = [
        json!({ "ab": "c", "x": "y" }),
        json!({ "a": "bc" }),
        json!({}),
        json!({ "a": "bc", "x": "Y" }),
        json!({ "a": "bcx", "": "y" }),
        json!({ "A": "bc", "x": "y" }),
    ];
    for other in others {
        let error = decrypt(other.clone()).unwrap_err();
        let expected = if other.get("").is_some() { Code::Validation } else { Code::InvalidCiphertext };
        assert_eq!(error.code, expected, "{other}");
        assert!(expected == Code::Validation || error.message.is_empty());
    }
    let composed = encrypt(&fixture, &id, json!({ "k": "\u{e9}" }))["CiphertextBlob"].clone();
    let decomposed = json!({ "CiphertextBlob": composed, "EncryptionContext": { "k": "e\u{301}" } });
    assert_eq!(fixture.refused("Decrypt", decomposed), (Code::InvalidCiphertext, String::new()));
}

#[test]
fn a_context_has_texts_only_and_8_kib_at_most() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let with = |context: Value| json!({ "KeyId": id, "Plaintext": base64(b"x"), "EncryptionContext": context });
    for (context, kind) in [
        (json!({ "n": 1 }), "NUMBER_VALUE"),
        (json!({ "n": {} }), "START_OBJECT"),
        (json!({ "n": true }), "TRUE_VALUE"),
    ] {
        let message = format!("{kind} can not be converted to a String");
        assert_eq!(fixture.refused("Encrypt", with(context)), (Code::Serialization, message));
    }
    assert_eq!(fixture.refused("Encrypt", with(json!([]))).0, Code::Serialization);
    fixture.ok("Encrypt", with(json!({ "k": "v".repeat(8192 - 7) })));
    assert_eq!(fixture.refused("Encrypt", with(json!({ "k": "v".repeat(8192 - 6) }))).0, Code::Validation);
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_blob_is_refused_without_a_word() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let blob = bytes(&encrypt(&fixture, &id, json!({ "a": "b" }))["CiphertextBlob"]);
    let refused = |bad: &[u8], key: Option<&str>| {
        let parameters = json!({ "CiphertextBlob": base64(bad), "KeyId": key, "EncryptionContext": { "a": "b" } });
        let error = fixture.call("Decrypt", parameters).expect_err("it was altered");
        assert!(error.detail.is_some_and(|detail| !detail.is_empty()));
        (error.code, error.message)
    };
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut bad = blob.clone();
            bad[at] ^= 1 << bit;
            let (code, message) = refused(&bad, None);
            // The number of the key is what the blob says first: an unknown one is told like one that may not be used.
            let is_number = (1..5).contains(&at);
            assert_eq!(
                code,
                if is_number { Code::AccessDenied } else { Code::InvalidCiphertext },
                "bit {bit} of byte {at}"
            );
            assert!(is_number || message.is_empty());
            let expected = if is_number { Code::IncorrectKey } else { Code::InvalidCiphertext };
            assert_eq!(refused(&bad, Some(&id)).0, expected, "bit {bit} of byte {at}");
        }
    }
    for len in 1..blob.len() {
        assert_eq!(refused(&blob[..len], None).0, Code::InvalidCiphertext, "cut to {len}");
    }
    assert_eq!(refused(&[&blob[..], &[0]].concat(), None).0, Code::InvalidCiphertext);
}

#[test]
fn foreign_blobs_are_refused_in_the_words_of_aws() {
    let (fixture, elsewhere) = (Fixture::new(), Fixture::new());
    let (id, other) = (fixture.key(), fixture.key());
    let foreign = encrypt(&elsewhere, &elsewhere.key(), json!({}))["CiphertextBlob"].clone();
    let message = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you \
                   are not allowed to access.";
    assert_eq!(
        fixture.refused("Decrypt", json!({ "CiphertextBlob": foreign })),
        (Code::AccessDenied, message.to_owned())
    );
    let own = encrypt(&fixture, &id, json!({}))["CiphertextBlob"].clone();
    let message = "The key ID in the request does not identify a CMK that can perform this operation.";
    let refused = fixture.refused("Decrypt", json!({ "CiphertextBlob": own, "KeyId": other }));
    assert_eq!(refused, (Code::IncorrectKey, message.to_owned()));
    for junk in [&b"\x01\x02\x00\x78 a blob of AWS"[..], &[0; 6144], b"x"] {
        let refused = fixture.refused("Decrypt", json!({ "CiphertextBlob": base64(junk) }));
        assert_eq!(refused, (Code::InvalidCiphertext, String::new()));
    }
}

#[test]
fn who_may_not_use_the_key_of_a_ciphertext_does_not_learn_whether_there_is_one() {
    let (fixture, elsewhere) = (Fixture::new(), Fixture::new());
    let (own, foreign) = (fixture.key(), elsewhere.key());
    let mut blobs = vec![
        encrypt(&fixture, &own, json!({}))["CiphertextBlob"].clone(),
        encrypt(&elsewhere, &foreign, json!({}))["CiphertextBlob"].clone(),
    ];
    if crate::crypto::pair::SUPPORTED {
        let id = fixture.key_with(json!({ "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT" }));
        let number = fixture.service.keys().resolve(&id).unwrap().number;
        let origin = crate::kms::blob::Origin { number, version: 1 };
        let secret = crate::crypto::Secret::random();
        let context = crate::kms::EncryptionContext::default();
        blobs.push(json!(base64(&crate::kms::blob::seal(origin, &secret, b"x", &context).0)));
    }
    let many: Vec<&str> = vec!["x"; 11];
    for tokens in [json!([]), json!(["x"]), json!([""]), json!(many)] {
        let answers: Vec<(Code, String)> = blobs
            .iter()
            .map(|blob| {
                let parameters = json!({ "CiphertextBlob": blob, "GrantTokens": tokens });
                let error = fixture.call_as(&Principal::user("ada"), "Decrypt", parameters).unwrap_err();
                (error.code, error.message)
            })
            .collect();
        assert_eq!(answers[0].0, Code::AccessDenied, "{tokens}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{tokens}: {answers:?}");
    }
}

#[test]
fn sizes_are_checked_in_the_words_of_aws() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let of = |length: usize| json!({ "KeyId": id, "Plaintext": base64(&vec![1; length]) });
    let sealed = fixture.ok("Encrypt", of(4096));
    assert_eq!(
        bytes(&fixture.ok("Decrypt", json!({ "CiphertextBlob": sealed["CiphertextBlob"] }))["Plaintext"]),
        vec![1; 4096]
    );
    let constraint = |what: &str| format!("1 validation error detected: Value {what}");
    let cases = [
        (
            "Encrypt",
            of(4097),
            "at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096",
        ),
        (
            "Encrypt",
            of(0),
            "at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            "Encrypt",
            json!({ "KeyId": id }),
            "null at 'plaintext' failed to satisfy constraint: Member must not be null",
        ),
        (
            "GenerateRandom",
            json!({ "NumberOfBytes": 0 }),
            "'0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1",
        ),
        (
            "GenerateRandom",
            json!({ "NumberOfBytes": 1025 }),
            "'1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024",
        ),
        (
            "GenerateDataKey",
            json!({ "KeyId": id, "KeySpec": "AES_512" }),
            "'AES_512' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]",
        ),
        ("DescribeKey", json!({}), "null at 'keyId' failed to satisfy constraint: Member must not be null"),
    ];
    for (operation, parameters, fault) in cases {
        assert_eq!(fixture.refused(operation, parameters), (Code::Validation, constraint(fault)));
    }
    let required = (Code::Validation, "NumberOfBytes is required.".to_owned());
    assert_eq!(fixture.refused("GenerateRandom", json!({})), required);
    let either = (Code::Validation, "Please specify either number of bytes or key spec.".to_owned());
    assert_eq!(fixture.refused("GenerateDataKey", json!({ "KeyId": id })), either);
    let both = json!({ "KeyId": id, "KeySpec": "AES_128", "NumberOfBytes": 16 });
    assert_eq!(fixture.refused("GenerateDataKey", both), either);
    let two = fixture.refused("Encrypt", json!({ "KeyId": "", "Plaintext": "" })).1;
    assert!(
        two.starts_with("2 validation errors detected: Value '' at 'keyId'") && two.contains("; Value at 'plaintext'")
    );
}

#[test]
fn data_keys_have_the_wanted_length_and_open_again() {
    let fixture = Fixture::new();
    let id = fixture.key();
    for (size, length) in [
        (json!({ "KeySpec": "AES_128" }), 16),
        (json!({ "KeySpec": "AES_256" }), 32),
        (json!({ "NumberOfBytes": 1024 }), 1024),
    ] {
        let mut parameters = size;
        parameters["KeyId"] = json!(id);
        let made = fixture.ok("GenerateDataKey", parameters.clone());
        assert_eq!(bytes(&made["Plaintext"]).len(), length);
        let opened = fixture.ok("Decrypt", json!({ "CiphertextBlob": made["CiphertextBlob"] }));
        assert_eq!((&opened["Plaintext"], &opened["KeyMaterialId"]), (&made["Plaintext"], &made["KeyMaterialId"]));
        let silent = fixture.ok("GenerateDataKeyWithoutPlaintext", parameters);
        assert!(silent.get("Plaintext").is_none());
        let opened = fixture.ok("Decrypt", json!({ "CiphertextBlob": silent["CiphertextBlob"] }));
        assert_eq!(bytes(&opened["Plaintext"]).len(), length);
    }
}

#[test]
fn re_encrypt_changes_key_and_context() {
    let fixture = Fixture::new();
    let (from, to) = (fixture.key(), fixture.key());
    let blob = encrypt(&fixture, &from, json!({ "a": "1" }))["CiphertextBlob"].clone();
    let parameters = json!({
        "CiphertextBlob": blob, "DestinationKeyId": to,
        "SourceEncryptionContext": { "a": "1" }, "DestinationEncryptionContext": { "b": "2" },
    });
    let moved = fixture.ok("ReEncrypt", parameters);
    assert_eq!((&moved["SourceKeyId"], &moved["KeyId"]), (&json!(arn(&from)), &json!(arn(&to))));
    assert_eq!(moved["SourceEncryptionAlgorithm"], "SYMMETRIC_DEFAULT");
    assert_ne!(moved["SourceKeyMaterialId"], moved["DestinationKeyMaterialId"]);
    let opened =
        fixture.ok("Decrypt", json!({ "CiphertextBlob": moved["CiphertextBlob"], "EncryptionContext": { "b": "2" } }));
    assert_eq!(bytes(&opened["Plaintext"]), b"hello");
    let wrong = json!({ "CiphertextBlob": blob, "DestinationKeyId": to });
    assert_eq!(fixture.refused("ReEncrypt", wrong), (Code::InvalidCiphertext, String::new()));
}

#[test]
fn a_dry_run_says_what_would_have_been_and_does_nothing() {
    let fixture = Fixture::new();
    let id = fixture.key();
    let blob = encrypt(&fixture, &id, json!({}))["CiphertextBlob"].clone();
    let ada = "arn:aws:iam::000000000000:user/ada";
    let grant = fixture.ok("CreateGrant", json!({ "KeyId": id, "GranteePrincipal": ada, "Operations": ["Decrypt"] }));
    let requests = [
        ("Encrypt", json!({ "KeyId": id, "Plaintext": base64(b"x") })),
        ("Decrypt", json!({ "CiphertextBlob": blob })),
        ("Decrypt", json!({ "KeyId": id, "DryRunModifiers": ["IGNORE_CIPHERTEXT"] })),
        ("ReEncrypt", json!({ "CiphertextBlob": blob, "DestinationKeyId": id })),
        ("ReEncrypt", json!({ "SourceKeyId": id, "DestinationKeyId": id, "DryRunModifiers": ["IGNORE_CIPHERTEXT"] })),
        ("GenerateDataKey", json!({ "KeyId": id, "KeySpec": "AES_256" })),
        ("GenerateDataKeyWithoutPlaintext", json!({ "KeyId": id, "KeySpec": "AES_256" })),
        ("CreateGrant", json!({ "KeyId": id, "GranteePrincipal": ada, "Operations": ["Encrypt"] })),
        ("RetireGrant", json!({ "GrantToken": grant["GrantToken"] })),
        ("RevokeGrant", json!({ "KeyId": id, "GrantId": grant["GrantId"] })),
    ];
    let before = fixture.service.keys();
    for (operation, mut parameters) in requests {
        parameters["DryRun"] = json!(true);
        let message = "The request would have succeeded, but the DryRun option is set.".to_owned();
        assert_eq!(fixture.refused(operation, parameters.clone()), (Code::DryRunOperation, message), "{operation}");
        let stranger = fixture.call_as(&Principal::user("eve"), operation, parameters).unwrap_err();
        assert_eq!(stranger.code, Code::AccessDenied, "{operation}");
    }
    assert_eq!(*before.encode(), *fixture.service.keys().encode());
    let unwanted = json!({ "KeyId": id, "DryRunModifiers": ["IGNORE_CIPHERTEXT"] });
    assert_eq!(fixture.refused("Decrypt", unwanted).0, Code::Validation);
}

#[cfg(feature = "aws-lc")]
#[test]
fn an_rsa_key_encrypts_offline_too_and_refuses_what_is_for_symmetric_keys() {
    use crate::crypto::pair::{Oaep, oaep_encrypt};
    let fixture = Fixture::new();
    let id = fixture.key_with(json!({ "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT" }));
    let answer = fixture.ok("GetPublicKey", json!({ "KeyId": id }));
    assert_eq!((&answer["KeyId"], &answer["KeySpec"]), (&json!(arn(&id)), &json!("RSA_2048")));
    assert_eq!(answer["EncryptionAlgorithms"], json!(["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]));
    let offline = oaep_encrypt(&bytes(&answer["PublicKey"]), Oaep::Sha256, b"hello").unwrap();
    let decrypt = |blob: &[u8], algorithm: &str| json!({ "KeyId": id, "CiphertextBlob": base64(blob), "EncryptionAlgorithm": algorithm });
    let opened = fixture.ok("Decrypt", decrypt(&offline, "RSAES_OAEP_SHA_256"));
    assert_eq!((bytes(&opened["Plaintext"]), opened.get("KeyMaterialId")), (b"hello".to_vec(), None));
    let empty = (Code::InvalidCiphertext, String::new());
    assert_eq!(fixture.refused("Decrypt", decrypt(&offline, "RSAES_OAEP_SHA_1")), empty);
    assert_eq!(fixture.refused("Decrypt", decrypt(&offline[..255], "RSAES_OAEP_SHA_256")), empty);
    let incompatible = "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.".to_owned();
    assert_eq!(
        fixture.refused("Decrypt", decrypt(&offline, "SYMMETRIC_DEFAULT")),
        (Code::InvalidKeyUsage, incompatible)
    );
    let symmetric = encrypt(&fixture, &fixture.key(), json!({}))["CiphertextBlob"].clone();
    assert_eq!(fixture.refused("Decrypt", decrypt(&bytes(&symmetric), "RSAES_OAEP_SHA_256")), empty);
    for (algorithm, most) in [("RSAES_OAEP_SHA_1", 214), ("RSAES_OAEP_SHA_256", 190)] {
        let of = |length: usize| json!({ "KeyId": id, "Plaintext": base64(&vec![7; length]), "EncryptionAlgorithm": algorithm });
        fixture.ok("Encrypt", of(most));
        let message =
            format!("Algorithm {algorithm} and key spec RSA_2048 cannot encrypt data larger than {most} bytes.");
        assert_eq!(fixture.refused("Encrypt", of(most + 1)), (Code::Validation, message));
    }
    for operation in ["EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand", "ListKeyRotations"] {
        assert_eq!(fixture.refused(operation, json!({ "KeyId": id })).0, Code::UnsupportedOperation, "{operation}");
    }
    let data_key = fixture.refused("GenerateDataKey", json!({ "KeyId": id, "KeySpec": "AES_256" }));
    assert_eq!(data_key.0, Code::InvalidKeyUsage);
    assert_eq!(fixture.refused("GetPublicKey", json!({ "KeyId": fixture.key() })).0, Code::UnsupportedOperation);
    let fixture = fixture.reopened();
    let opened = fixture.ok("Decrypt", decrypt(&offline, "RSAES_OAEP_SHA_256"));
    assert_eq!(bytes(&opened["Plaintext"]), b"hello");
}

#[cfg(feature = "aws-lc")]
#[test]
fn key_pairs_come_with_a_private_key_that_decrypt_opens() {
    let fixture = Fixture::new();
    let id = fixture.key();
    for spec in ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_EDWARDS25519"] {
        let parameters = json!({ "KeyId": id, "KeyPairSpec": spec, "EncryptionContext": { "a": "b" } });
        let made = fixture.ok("GenerateDataKeyPair", parameters.clone());
        let blob = made["PrivateKeyCiphertextBlob"].clone();
        let opened = fixture.ok("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": { "a": "b" } }));
        assert_eq!((&opened["Plaintext"], &made["KeyPairSpec"]), (&made["PrivateKeyPlaintext"], &json!(spec)));
        let silent = fixture.ok("GenerateDataKeyPairWithoutPlaintext", parameters);
        assert!(silent.get("PrivateKeyPlaintext").is_none() && silent["PublicKey"] != made["PublicKey"]);
    }
    let big = fixture.ok("GenerateDataKeyPair", json!({ "KeyId": id, "KeyPairSpec": "RSA_4096" }));
    assert!(bytes(&big["PrivateKeyCiphertextBlob"]).len() <= 6144);
    let refused = fixture.refused("GenerateDataKeyPair", json!({ "KeyId": id, "KeyPairSpec": "ML_KEM_768" }));
    assert_eq!(refused, (Code::UnsupportedOperation, "KeyPairSpec ML_KEM_768 is not supported.".to_owned()));
    assert_eq!(
        fixture.refused("GenerateDataKeyPair", json!({ "KeyId": id, "KeyPairSpec": "RSA_1" })).0,
        Code::Validation
    );
}

#[test]
fn wiping_reaches_every_text_of_an_answer() {
    let mut answer = json!({ "Plaintext": "c2VjcmV0", "List": [{ "Deep": ["x", 1, null, true] }], "Number": 7 });
    wipe(&mut answer);
    assert_eq!(answer, json!({ "Plaintext": "", "List": [{ "Deep": ["", 1, null, true] }], "Number": 7 }));
}
