//! What is no key policy.

use super::*;

fn refused(document: Value) -> String {
    match parse(document.clone()) {
        Err(error) => error.message,
        Ok(_) => panic!("accepted: {document}"),
    }
}

fn refused_statement(changes: Value) -> String {
    refused(json!({"Version": "2012-10-17", "Statement": [statement(changes)]}))
}

#[test]
fn the_built_in_policies_parse_and_are_written_as_aws_writes_them() {
    let api = Policy::default_for_api();
    assert!(
        api.text().starts_with("{\n  \"Version\" : \"2012-10-17\",\n  \"Id\" : \"key-default-1\",\n"),
        "{}",
        api.text()
    );
    let value: Value = serde_json::from_str(api.text()).unwrap();
    assert_eq!(
        value["Statement"],
        json!([{
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
            "Action": "kms:*",
            "Resource": "*"
        }])
    );
    let mount: Value = serde_json::from_str(Policy::mount_default().text()).unwrap();
    assert_eq!(mount["Statement"][0], value["Statement"][0]);
    assert_eq!(mount["Statement"][1]["Sid"], "Allow use through mounts");
}

#[test]
fn a_policy_is_returned_as_it_was_written() {
    let text =
        " {\n\t\"Statement\":{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"kms:*\",\"Resource\":\"*\"} }\r\n";
    assert_eq!(Policy::parse(text).unwrap().text(), text);
}

#[test]
fn text_that_is_no_policy_document_is_refused() {
    for (text, reason) in [
        ("", "Syntax errors in policy."),
        ("{", "Syntax errors in policy."),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        ("{}", "Missing required field Statement"),
        (r#"{"Statement":[]}"#, "Missing required field Statement"),
        (r#"{"Statement":"x"}"#, "Syntax errors in policy."),
        (r#"{"Statement":[],"Statement":[]}"#, "there twice"),
        (r#"{"Statement":[{}],"Extra":1}"#, "Unknown or wrong element: Extra"),
        (r#"{"Version":"2013-01-01","Statement":[{}]}"#, "version must be 2012-10-17 or 2008-10-17"),
        (r#"{"Version":20121017,"Statement":[{}]}"#, "version must be"),
        (r#"{"Id":5,"Statement":[{}]}"#, "Unknown or wrong element: Id"),
    ] {
        let message = Policy::parse(text).unwrap_err().message;
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn a_member_that_is_there_twice_is_refused_at_every_depth() {
    let text = r#"{"Statement":{"Effect":"Allow","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*"}}"#;
    assert!(Policy::parse(text).unwrap_err().message.contains("\"Effect\" is there twice"));
    let text = r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*",
        "Condition":{"Bool":{"kms:ReEncryptOnSameKey":"true","kms:ReEncryptOnSameKey":"false"}}}}"#;
    assert!(Policy::parse(text).unwrap_err().message.contains("there twice"));
}

#[test]
fn size_and_characters_are_bounded() {
    let fits = |text: String| Policy::parse(&text).is_ok();
    let padded = |pad: &str, count| {
        let body = json!({"Statement": statement(json!({}))}).to_string();
        format!("{body}{}", pad.repeat(count))
    };
    let room = MAX_LEN - padded("", 0).len();
    assert!(fits(padded(" ", room)));
    assert!(!fits(padded(" ", room + 1)));
    let with_sid = |sid: &str| json!({"Statement": statement(json!({"Sid": sid}))}).to_string();
    assert!(fits(with_sid("\u{ff}\u{20}")));
    assert!(!fits(with_sid("\u{100}")));
    assert!(
        Policy::parse(&with_sid("\u{7}").replace("\\u0007", "\u{7}"))
            .unwrap_err()
            .message
            .contains("invalid character")
    );
}

#[test]
fn a_statement_that_is_not_one_is_refused() {
    for (changes, reason) in [
        (json!({"Effect": null}), "Missing required field Effect"),
        (json!({"Effect": "allow"}), "Invalid effect: allow"),
        (json!({"Effect": "Permit"}), "Invalid effect: Permit"),
        (json!({"Effect": 1}), "Missing required field Effect"),
        (json!({"Principal": null}), "Missing required field Principal (statement 1)"),
        (json!({"NotPrincipal": "*"}), "Principal and NotPrincipal exclude each other"),
        (json!({"NotAction": "kms:Decrypt"}), "Action and NotAction exclude each other"),
        (json!({"NotResource": "*"}), "Resource and NotResource exclude each other"),
        (json!({"Action": []}), "Action is no list of texts"),
        (json!({"Action": ["kms:Decrypt", 5]}), "Action is no list of texts"),
        (json!({"Action": "Decrypt"}), "must be prefaced by a vendor"),
        (json!({"Action": "kms:"}), "must be prefaced by a vendor"),
        (json!({"Resource": "key/x"}), "Resource key/x must be in ARN format or \"*\"."),
        (json!({"Resource": "arn:${oops"}), "has no end"),
        (json!({"Sid": 7}), "Sid is no text"),
        (json!({"Resources": "*"}), "Unknown element: Resources"),
        (json!({"Condition": []}), "Condition is {OPERATOR"),
        (json!({"Condition": {"StringEquals": {}}}), "Missing: a key for StringEquals"),
        (json!({"Condition": {"StringEquals": "x"}}), "Condition is {OPERATOR"),
        (json!({"Condition": {"StringEquals": {"kms:ViaService": []}}}), "Missing: values for kms:ViaService"),
        (json!({"Condition": {"StringEquals": {"kms:ViaService": null}}}), "Missing: values for kms:ViaService"),
        (json!({"Condition": {"StringEquals": {"kms:ViaService": {"a": "b"}}}}), "Missing: values for kms:ViaService"),
    ] {
        let message = refused_statement(changes.clone());
        assert!(message.contains(reason), "{changes}: {message}");
    }
}

#[test]
fn principals_that_are_none_are_refused() {
    for principal in [
        json!("ada"),
        json!("arn:aws:iam::000000000000:root"),
        json!({}),
        json!([]),
        json!({"AWS": []}),
        json!({"AWS": 5}),
        json!({"AWS": "ada"}),
        json!({"AWS": "12345678901"}),
        json!({"AWS": "arn:aws:iam::000000000000:user/*"}),
        json!({"AWS": "arn:aws:iam::000000000000:user/"}),
        json!({"AWS": "arn:aws:iam::000000000000:group/staff"}),
        json!({"AWS": "arn:aws:iam:us-east-1:000000000000:user/ada"}),
        json!({"AWS": "arn:aws:s3:::bucket"}),
        json!({"Service": "ses"}),
        json!({"Service": "*"}),
        json!({"Federated": "cognito-identity.amazonaws.com"}),
        json!({"User": "ada"}),
    ] {
        for element in ["Principal", "NotPrincipal"] {
            let mut changes = json!({"Principal": null});
            changes[element] = principal.clone();
            let message = refused_statement(changes);
            assert!(
                message.starts_with("Policy contains a statement with one or more invalid principals."),
                "{principal}: {message}"
            );
        }
    }
}

#[test]
fn statement_ids_are_unique() {
    let document = json!({"Statement": [statement(json!({"Sid": "a"})), statement(json!({"Sid": "a"}))]});
    assert_eq!(refused(document), "Statement IDs (SID) in a single policy must be unique.");
    assert!(
        parse(json!({"Statement": [statement(json!({})), statement(json!({})), statement(json!({"Sid": "a"}))]}))
            .is_ok()
    );
}

#[test]
fn conditions_that_cannot_be_read_are_refused() {
    for (condition, reason) in [
        (json!({"StringSame": {"kms:ViaService": "x"}}), "Invalid Condition type : StringSame"),
        (json!({"ForSomeValues:StringEquals": {"kms:ViaService": "x"}}), "Invalid Condition type"),
        (json!({"BinaryEquals": {"kms:ViaService": "eA=="}}), "Invalid Condition type"),
        (json!({"NullIfExists": {"kms:ViaService": true}}), "Invalid Condition type"),
        (json!({"ForAnyValue:Null": {"kms:EncryptionContextKeys": true}}), "Invalid Condition type"),
        (json!({"NumericLike": {"kms:RotationPeriodInDays": 5}}), "Invalid Condition type"),
        (json!({"": {"kms:ViaService": "x"}}), "Invalid Condition type"),
        (json!({"Dat": {"kms:ViaService": "x"}}), "Invalid Condition type"),
        (json!({"Null": {"kms:ViaService": "maybe"}}), "maybe is not true or false"),
        (json!({"Bool": {"kms:ReEncryptOnSameKey": 1}}), "1 is not true or false"),
        (json!({"NumericEquals": {"kms:RotationPeriodInDays": "ninety"}}), "ninety is not a number"),
        (json!({"NumericEquals": {"kms:RotationPeriodInDays": "1e3"}}), "1e3 is not a number"),
        (json!({"NumericEquals": {"kms:RotationPeriodInDays": "1234567890123456"}}), "is not a number"),
        (json!({"DateLessThan": {"aws:CurrentTime": "tomorrow"}}), "tomorrow is not a date"),
        (json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}}), "10.0.0.0/33 is not an address"),
        (json!({"IpAddress": {"aws:SourceIp": "10.0.0/8"}}), "is not an address"),
        (json!({"ArnLike": {"aws:PrincipalArn": "*"}}), "* is not an ARN"),
        (json!({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam"}}), "is not an ARN"),
        (json!({"StringEquals": {"kms:ViaService": "${aws:username"}}), "has no end"),
        (json!({"StringEquals": {"kms:ViaService": "${username}"}}), "is not a policy variable"),
        (json!({"StringEquals": {"kms:ViaService": "${aws:username, ada}"}}), "is not in single quotes"),
        (json!({"ForAllValues:StringEquals": {"aws:RequestTag/team": "x"}}), "or with an unspecified tag. To fix"),
        (
            json!({"ForAllValues:StringEquals": {"kms:EncryptionContext:team": "x"}}),
            "OverlyPermissiveCondition: Using the ForAllValues",
        ),
    ] {
        let message = refused_statement(json!({"Condition": condition.clone()}));
        assert!(message.contains(reason), "{condition}: {message}");
    }
}

#[test]
fn a_deny_that_would_never_match_is_refused_and_an_allow_never_matches() {
    for condition in [
        json!({"Bool": {"aws:SecureTransport": "false"}}),
        json!({"StringNotEquals": {"kms:Nothing": "x"}}),
        json!({"StringEqualsIfExists": {"s3:prefix": "x"}}),
        json!({"Null": {"kms:Nothing": "true"}}),
        json!({"ForAllValues:StringEquals": {"kms:Nothing": "x"}}),
        json!({"StringNotEquals": {"kms:ViaService": "${kms:Nothing}"}}),
        json!({"StringNotEquals": {"kms:EncryptionContextKeys": "x"}}),
        json!({"StringEquals": {"kms:EncryptionContext:": "x"}}),
    ] {
        let message = refused_statement(json!({"Effect": "Deny", "Condition": condition.clone()}));
        assert!(message.contains("would never match, so it would deny nothing"), "{condition}: {message}");
        let keys = context(&[("a", "b")]);
        assert!(!holds(condition, &Principal::Root, &ConditionKeys::at(NOON).context(&keys)));
    }
}

#[test]
fn an_unknown_variable_excepts_nothing_and_is_refused_where_that_would_open_something() {
    let of_unknown = json!("arn:aws:kms:*:000000000000:key/${kms:Nothing}");
    for effect in ["Allow", "Deny"] {
        let changes = json!({"Effect": effect, "Resource": null, "NotResource": of_unknown});
        assert!(refused_statement(changes).contains("so it would except nothing"), "{effect}");
    }
    let denied = refused_statement(json!({"Effect": "Deny", "Resource": of_unknown}));
    assert!(denied.contains("so it would deny nothing"));
    let allowed = policy(statement(json!({"Resource": of_unknown})));
    assert_eq!(ask(&allowed, &Principal::Root, "kms:Decrypt", &ConditionKeys::at(NOON)), Verdict::Silent);
}
