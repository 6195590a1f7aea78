//! Every operator over every kind of value, and what an absent key means to it.

use std::net::IpAddr;

use super::*;

/// Whether `operator` with these values holds for a context in which `k` is `found`, or absent.
fn on_context(operator: &str, wanted: Value, found: Option<&str>) -> bool {
    let pairs: Vec<(&str, &str)> = found.map(|value| ("k", value)).into_iter().collect();
    let context = context(&pairs);
    holds(
        json!({operator: {"kms:EncryptionContext:k": wanted}}),
        &Principal::Root,
        &ConditionKeys::at(NOON).context(&context),
    )
}

#[test]
fn texts_are_compared_as_their_operator_says() {
    // operator, wanted, found, whether they are equal for it
    for (operator, wanted, found, matches) in [
        ("StringEquals", json!("blue"), "blue", true),
        ("StringEquals", json!("blue"), "Blue", false),
        ("StringEquals", json!("b*"), "blue", false),
        ("StringEquals", json!("b*"), "b*", true),
        ("StringEquals", json!(["red", "blue"]), "blue", true),
        ("StringEquals", json!(["red", "green"]), "blue", false),
        ("StringEquals", json!(""), "", true),
        ("StringEquals", json!(true), "true", true),
        ("StringEquals", json!(5), "5", true),
        ("StringEquals", json!(1.5), "1.5", true),
        ("StringEqualsIgnoreCase", json!("BLUE"), "blue", true),
        ("StringEqualsIgnoreCase", json!("\u{c4}"), "\u{e4}", true),
        ("StringEqualsIgnoreCase", json!("bl*"), "blue", false),
        ("StringLike", json!("b*"), "blue", true),
        ("StringLike", json!("b*"), "Blue", false),
        ("StringLike", json!("b??e"), "blue", true),
        ("StringLike", json!("b?e"), "blue", false),
        ("StringLike", json!("*"), "", true),
        ("StringLike", json!("?"), "", false),
        ("StringLike", json!("*u*"), "blue", true),
        ("StringLike", json!("*a*b*c"), "xaxbxbxc", true),
        ("StringLike", json!("*a*b*c"), "xaxbxbx", false),
        ("StringLike", json!("a.c"), "abc", false),
        ("StringLike", json!("${*}b"), "*b", true),
        ("StringLike", json!("${*}b"), "ab", false),
        ("StringLike", json!("${?}${$}"), "?$", true),
        ("StringEquals", json!("${$}{x}"), "${x}", true),
    ] {
        let negated = match operator {
            "StringEquals" => "StringNotEquals",
            "StringEqualsIgnoreCase" => "StringNotEqualsIgnoreCase",
            _ => "StringNotLike",
        };
        assert_eq!(on_context(operator, wanted.clone(), Some(found)), matches, "{operator} {wanted} {found}");
        assert_eq!(on_context(negated, wanted.clone(), Some(found)), !matches, "{negated} {wanted} {found}");
    }
}

#[test]
fn numbers_dates_addresses_booleans_and_arns_are_compared_as_such() {
    for (operator, wanted, found, matches) in [
        ("NumericEquals", json!(90), "90", true),
        ("NumericEquals", json!("90"), "90.0", true),
        ("NumericEquals", json!(90), "091", false),
        ("NumericEquals", json!("-1.5"), "-1.50", true),
        ("NumericNotEquals", json!(90), "91", true),
        ("NumericNotEquals", json!([90, 91]), "91", false),
        ("NumericLessThan", json!(30), "29.9", true),
        ("NumericLessThan", json!(30), "30", false),
        ("NumericLessThanEquals", json!(30), "30", true),
        ("NumericGreaterThan", json!(9), "10", true),
        ("NumericGreaterThan", json!(10), "10", false),
        ("NumericGreaterThanEquals", json!(10), "10", true),
        ("NumericLessThan", json!(30), "few", false),
        ("NumericEquals", json!(30), "3e1", false),
        ("DateEquals", json!("2026-03-01"), "2026-03-01T00:00:00Z", true),
        ("DateEquals", json!("2026-03-01T01:00:00+01:00"), "2026-03-01T00:00:00Z", true),
        ("DateEquals", json!("1772366400"), "2026-03-01T12:00:00Z", true),
        ("DateEquals", json!("2026-03-01T12:00Z"), "1772366400", true),
        ("DateNotEquals", json!("2026-03-01"), "2026-03-01T00:00:01Z", true),
        ("DateNotEquals", json!("2026-03-01"), "2026-03-01", false),
        ("DateLessThan", json!("2026-03-02"), "2026-03-01T23:59:59.999Z", true),
        ("DateLessThan", json!("2026-03-02"), "2026-03-02", false),
        ("DateLessThanEquals", json!("2026-03-02"), "2026-03-02", true),
        ("DateGreaterThan", json!("2026-03-01"), "2026-03-02", true),
        ("DateGreaterThanEquals", json!("2026-03-01"), "2026-03-01", true),
        ("DateGreaterThan", json!("2026-03-01"), "soon", false),
        ("Bool", json!(true), "true", true),
        ("Bool", json!("TRUE"), "True", true),
        ("Bool", json!(false), "true", false),
        ("Bool", json!([false, true]), "true", true),
        ("Bool", json!(false), "no", false),
        ("IpAddress", json!("10.0.0.0/8"), "10.255.1.2", true),
        ("IpAddress", json!("10.0.0.0/8"), "11.0.0.1", false),
        ("IpAddress", json!("10.1.2.3/8"), "10.9.9.9", true),
        ("IpAddress", json!("10.0.0.1"), "10.0.0.1", true),
        ("IpAddress", json!("10.0.0.1"), "10.0.0.2", false),
        ("IpAddress", json!("0.0.0.0/0"), "203.0.113.9", true),
        ("IpAddress", json!("0.0.0.0/0"), "::1", false),
        ("IpAddress", json!("2001:db8::/32"), "2001:db8:1::5", true),
        ("IpAddress", json!("2001:db8::/32"), "2001:db9::1", false),
        ("IpAddress", json!("::/0"), "::1", true),
        ("IpAddress", json!("127.0.0.0/8"), "::ffff:127.0.0.1", true),
        ("IpAddress", json!(["10.0.0.0/8", "::1"]), "::1", true),
        ("IpAddress", json!("10.0.0.0/8"), "localhost", false),
        ("NotIpAddress", json!("10.0.0.0/8"), "11.0.0.1", true),
        ("NotIpAddress", json!("10.0.0.0/8"), "10.0.0.1", false),
        ("ArnEquals", json!("arn:aws:iam::000000000000:user/ada"), "arn:aws:iam::000000000000:user/ada", true),
        ("ArnEquals", json!("arn:aws:iam::*:user/*"), "arn:aws:iam::000000000000:user/a/b:c", true),
        ("ArnLike", json!("arn:aws:iam::000000000000:user/ad?"), "arn:aws:iam::000000000000:user/ada", true),
        ("ArnLike", json!("arn:aws:iam:*:user/ada"), "arn:aws:iam::000000000000:user/ada", false),
        ("ArnLike", json!("arn:*:*:*:*:*"), "arn:aws:iam::000000000000:user/ada", true),
        ("ArnLike", json!("arn:*:*:*:*:*"), "ada", false),
        ("ArnNotEquals", json!("arn:aws:iam::000000000000:user/ada"), "arn:aws:iam::000000000000:user/bob", true),
        ("ArnNotLike", json!("arn:aws:iam::000000000000:user/*"), "arn:aws:iam::000000000000:user/bob", false),
    ] {
        if operator == "ArnLike" && wanted == json!("arn:aws:iam:*:user/ada") {
            // Five components are no ARN; a wildcard does not stand for a colon.
            assert!(
                parse(json!({"Statement": statement(json!({"Condition": {operator: {"aws:PrincipalArn": wanted}}}))}))
                    .is_err()
            );
            continue;
        }
        assert_eq!(on_context(operator, wanted.clone(), Some(found)), matches, "{operator} {wanted} {found}");
    }
}

#[test]
fn an_absent_key_fails_plain_operators_and_passes_negated_ones() {
    let arn = "arn:aws:iam::000000000000:user/ada";
    for (operator, wanted, plain) in [
        ("StringEquals", json!("x"), false),
        ("StringNotEquals", json!("x"), true),
        ("StringEqualsIgnoreCase", json!("x"), false),
        ("StringNotEqualsIgnoreCase", json!("x"), true),
        ("StringLike", json!("*"), false),
        ("StringNotLike", json!("*"), true),
        ("NumericEquals", json!(1), false),
        ("NumericNotEquals", json!(1), true),
        ("NumericLessThan", json!(1), false),
        ("NumericLessThanEquals", json!(1), false),
        ("NumericGreaterThan", json!(1), false),
        ("NumericGreaterThanEquals", json!(1), false),
        ("DateEquals", json!("2026-01-01"), false),
        ("DateNotEquals", json!("2026-01-01"), true),
        ("DateLessThan", json!("2026-01-01"), false),
        ("DateLessThanEquals", json!("2026-01-01"), false),
        ("DateGreaterThan", json!("2026-01-01"), false),
        ("DateGreaterThanEquals", json!("2026-01-01"), false),
        ("Bool", json!(false), false),
        ("IpAddress", json!("0.0.0.0/0"), false),
        ("NotIpAddress", json!("0.0.0.0/0"), true),
        ("ArnEquals", json!(arn), false),
        ("ArnLike", json!(arn), false),
        ("ArnNotEquals", json!(arn), true),
        ("ArnNotLike", json!(arn), true),
    ] {
        assert_eq!(on_context(operator, wanted.clone(), None), plain, "{operator}");
        assert!(on_context(&format!("{operator}IfExists"), wanted.clone(), None), "{operator}IfExists");
        let tags = |set: &str| json!({format!("{set}:{operator}"): {"aws:TagKeys": wanted}});
        let keys = ConditionKeys::at(NOON);
        assert!(holds(tags("ForAllValues"), &Principal::Root, &keys), "ForAllValues:{operator}");
        assert!(!holds(tags("ForAnyValue"), &Principal::Root, &keys), "ForAnyValue:{operator}");
    }
    assert!(!on_context("StringEqualsIfExists", json!("x"), Some("y")), "IfExists still compares");
    for (present, absent, expected) in
        [(None, true, true), (None, false, false), (Some("x"), true, false), (Some("x"), false, true)]
    {
        assert_eq!(on_context("Null", json!(absent), present), expected);
        assert_eq!(on_context("Null", json!(absent.to_string()), present), expected);
    }
}

#[test]
fn sets_are_compared_value_by_value() {
    for (operator, wanted, found, expected) in [
        ("ForAllValues:StringEquals", json!(["a", "b"]), &["a", "b"][..], true),
        ("ForAllValues:StringEquals", json!(["a", "b"]), &["a"], true),
        ("ForAllValues:StringEquals", json!(["a", "b"]), &["a", "c"], false),
        ("ForAllValues:StringEquals", json!(["a", "b"]), &[], true),
        ("ForAllValues:StringNotEquals", json!(["a", "b"]), &["c", "d"], true),
        ("ForAllValues:StringNotEquals", json!(["a", "b"]), &["c", "a"], false),
        ("ForAnyValue:StringEquals", json!(["a", "b"]), &["a", "c"], true),
        ("ForAnyValue:StringEquals", json!(["a", "b"]), &["c", "d"], false),
        ("ForAnyValue:StringEquals", json!(["a", "b"]), &[], false),
        ("ForAnyValue:StringNotEquals", json!(["a", "b"]), &["a", "c"], true),
        ("ForAnyValue:StringNotEquals", json!(["a", "b"]), &["a", "b"], false),
        ("ForAnyValue:StringLike", json!("a*"), &["b", "ab"], true),
        ("ForAnyValue:StringEqualsIfExists", json!("a"), &[], true),
        ("forallvalues:stringequals", json!(["a"]), &["b"], false),
    ] {
        let pairs: Vec<(&str, &str)> = found.iter().map(|key| (*key, "v")).collect();
        let context = context(&pairs);
        let keys = ConditionKeys::at(NOON).context(&context);
        let condition = json!({operator: {"kms:EncryptionContextKeys": wanted}});
        assert_eq!(holds(condition.clone(), &Principal::Root, &keys), expected, "{condition} {found:?}");
        let given = ConditionKeys::at(NOON).with_many(Key::GrantOperations, found.iter().copied());
        let condition = json!({operator: {"kms:GrantOperations": wanted}});
        assert_eq!(holds(condition.clone(), &Principal::Root, &given), expected, "{condition} {found:?}");
    }
}

#[test]
fn operators_and_keys_all_count_and_values_are_alternatives() {
    let context = context(&[("a", "1"), ("b", "2")]);
    let keys = ConditionKeys::at(NOON).context(&context);
    for (condition, expected) in [
        (json!({}), true),
        (json!({"StringEquals": {"kms:EncryptionContext:a": "1", "kms:EncryptionContext:b": ["1", "2"]}}), true),
        (json!({"StringEquals": {"kms:EncryptionContext:a": "1", "kms:EncryptionContext:b": "1"}}), false),
        (
            json!({"StringEquals": {"kms:EncryptionContext:a": "1"}, "StringLike": {"kms:EncryptionContext:b": "?"}}),
            true,
        ),
        (
            json!({"StringEquals": {"kms:EncryptionContext:a": "1"}, "StringNotLike": {"kms:EncryptionContext:b": "?"}}),
            false,
        ),
        (json!({"StringNotEquals": {"kms:EncryptionContext:a": ["0", "1"]}}), false),
        (json!({"StringNotEquals": {"kms:EncryptionContext:a": ["0", "2"]}}), true),
    ] {
        assert_eq!(holds(condition.clone(), &Principal::Root, &keys), expected, "{condition}");
    }
}

#[test]
fn names_of_keys_are_case_insensitive_and_values_are_not() {
    let blue = context(&[("Team", "blue")]);
    let keys = ConditionKeys::at(NOON).context(&blue).with(Key::ViaService, "kmsfs.local");
    for (key, wanted, expected) in [
        ("KMS:ENCRYPTIONCONTEXT:TEAM", "blue", true),
        ("kms:EncryptionContext:team", "Blue", false),
        ("kms:viaservice", "kmsfs.local", true),
        ("kms:viaservice", "KMSFS.local", false),
    ] {
        assert_eq!(holds(json!({"StringEquals": {key: wanted}}), &Principal::Root, &keys), expected, "{key}");
    }
}

#[test]
fn of_two_context_keys_that_differ_in_case_the_worse_counts() {
    let both = context(&[("Team", "blue"), ("team", "red")]);
    let keys = ConditionKeys::at(NOON).context(&both);
    for operator in ["StringEquals", "StringNotEquals"] {
        let condition = json!({operator: {"kms:EncryptionContext:team": "blue"}});
        assert!(!holds(condition.clone(), &Principal::Root, &keys), "{operator} allows only if both pass");
        let deny = policy(statement(json!({"Effect": "Deny", "Condition": condition})));
        assert_eq!(
            ask(&deny, &Principal::Root, "kms:Decrypt", &keys),
            Verdict::Denied(0),
            "{operator} denies if one passes"
        );
    }
}

#[test]
fn every_condition_key_is_found_under_its_name() {
    let pairs = context(&[("aws:s3:arn", "x")]);
    let tags = BTreeMap::from([("Owner".to_owned(), "ada".to_owned())]);
    let ada = member("ada", &["staff", "Admin"]);
    let mut keys = ConditionKeys::at(NOON)
        .context(&pairs)
        .resource_tags(&tags)
        .request_tags(&tags)
        .source_ip("::ffff:127.0.0.1".parse::<IpAddr>().unwrap());
    let fixed = [
        (Key::BypassPolicyLockoutSafetyCheck, "kms:BypassPolicyLockoutSafetyCheck"),
        (Key::DataKeyPairSpec, "kms:DataKeyPairSpec"),
        (Key::EncryptionAlgorithm, "kms:EncryptionAlgorithm"),
        (Key::GrantConstraintType, "kms:GrantConstraintType"),
        (Key::GranteePrincipal, "kms:GranteePrincipal"),
        (Key::GrantIsForAwsResource, "kms:GrantIsForAWSResource"),
        (Key::KeyOrigin, "kms:KeyOrigin"),
        (Key::KeySpec, "kms:KeySpec"),
        (Key::KeyUsage, "kms:KeyUsage"),
        (Key::PolicyName, "kms:PolicyName"),
        (Key::ReEncryptOnSameKey, "kms:ReEncryptOnSameKey"),
        (Key::RequestAlias, "kms:RequestAlias"),
        (Key::RetiringPrincipal, "kms:RetiringPrincipal"),
        (Key::RotationPeriodInDays, "kms:RotationPeriodInDays"),
        (Key::ScheduleKeyDeletionPendingWindowInDays, "kms:ScheduleKeyDeletionPendingWindowInDays"),
        (Key::ViaService, "kms:ViaService"),
    ];
    for (key, name) in fixed {
        assert!(!holds(json!({"Null": {name: false}}), &ada, &keys), "{name} is absent until it is set");
        assert_eq!(key.name(), name);
        keys = keys.with(key, name.to_owned());
    }
    keys = keys.with_many(Key::ResourceAliases, ["alias/a", "alias/b"]);
    let mut wanted: Vec<(String, &str)> = fixed.iter().map(|(_, name)| ((*name).to_owned(), *name)).collect();
    for (name, value) in [
        ("aws:CurrentTime", "2026-03-01T12:00:00Z"),
        ("aws:EpochTime", "1772366400"),
        ("aws:PrincipalAccount", ACCOUNT),
        ("aws:PrincipalArn", "arn:aws:iam::000000000000:user/ada"),
        ("aws:PrincipalTag/group/staff", "true"),
        ("aws:PrincipalTag/GROUP/Admin", "true"),
        ("aws:RequestTag/owner", "ada"),
        ("aws:ResourceTag/Owner", "ada"),
        ("aws:SourceIp", "127.0.0.1"),
        ("aws:username", "ada"),
        ("kms:CallerAccount", ACCOUNT),
        ("kms:EncryptionContext:aws:s3:arn", "x"),
    ] {
        wanted.push((name.to_owned(), value));
    }
    for (name, value) in &wanted {
        assert!(holds(json!({"StringEquals": {name: value}}), &ada, &keys), "{name}");
        assert!(!holds(json!({"StringEquals": {name: "other"}}), &ada, &keys), "{name}");
    }
    for (name, value) in
        [("aws:TagKeys", "Owner"), ("kms:EncryptionContextKeys", "aws:s3:arn"), ("kms:ResourceAliases", "alias/b")]
    {
        assert!(holds(json!({"ForAnyValue:StringEquals": {name: value}}), &ada, &keys), "{name}");
    }
    for absent in
        ["aws:PrincipalTag/group/admin", "aws:PrincipalTag/staff", "aws:ResourceTag/x", "kms:EncryptionContext:s3"]
    {
        assert!(holds(json!({"Null": {absent: true}}), &ada, &keys), "{absent}");
    }
    assert!(holds(json!({"Null": {"aws:username": true}}), &Principal::Root, &keys));
    let ses = Principal::Service("ses.amazonaws.com".to_owned());
    assert!(holds(
        json!({"Null": {"kms:CallerAccount": true, "aws:PrincipalArn": true, "aws:username": true}}),
        &ses,
        &keys
    ));
}

#[test]
fn variables_stand_for_what_the_request_has() {
    let own = |value: &str| context(&[("user", value)]);
    let check = |wanted: &str, context: &EncryptionContext, principal: &Principal| {
        let keys = ConditionKeys::at(NOON).context(context);
        holds(json!({"StringLike": {"kms:EncryptionContext:user": wanted}}), principal, &keys)
    };
    let ada = Principal::user("ada");
    assert!(check("${aws:username}", &own("ada"), &ada));
    assert!(check("${AWS:UserName}", &own("ada"), &ada));
    assert!(check("u-${aws:username}-*", &own("u-ada-1"), &ada));
    assert!(!check("${aws:username}", &own("bob"), &ada));
    assert!(!check("${aws:username}", &own("ada"), &Principal::Root), "root has no name");
    assert!(check("${aws:username, 'nobody'}", &own("nobody"), &Principal::Root));
    assert!(!check("${aws:username, 'nobody'}", &own("nobody"), &ada));
    assert!(!check("${aws:username}", &own("anything"), &Principal::user("*")), "what a variable brings is literal");
    assert!(check("${aws:username}", &own("*"), &Principal::user("*")));
    assert!(
        !check("${kms:EncryptionContextKeys}", &context(&[("user", "user"), ("x", "y")]), &ada),
        "several values are none"
    );
    let keys = own("ada");
    let keys = ConditionKeys::at(NOON).context(&keys);
    assert!(holds(
        json!({"StringNotEquals": {"kms:EncryptionContext:user": "${aws:username}"}}),
        &Principal::Root,
        &keys
    ));
    assert!(holds(
        json!({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::${kms:CallerAccount}:user/${aws:username}"}}),
        &ada,
        &keys
    ));
    assert!(!holds(json!({"ArnEquals": {"aws:PrincipalArn": "${aws:username}"}}), &ada, &keys));
}

#[test]
fn documents_of_the_first_version_have_no_variables() {
    let old = json!({"Version": "2008-10-17", "Statement": statement(json!({
        "Condition": {"StringEquals": {"kms:EncryptionContext:user": "${aws:username}"}}
    }))});
    let without_version = json!({"Statement": old["Statement"]});
    for document in [old, without_version] {
        let policy = parse(document).unwrap();
        for (value, expected) in [("ada", Verdict::Silent), ("${aws:username}", Verdict::Allowed(0))] {
            let context = context(&[("user", value)]);
            assert_eq!(
                ask(&policy, &Principal::user("ada"), "kms:Decrypt", &ConditionKeys::at(NOON).context(&context)),
                expected
            );
        }
    }
}

/// Amazon SES developer guide, "Encrypting messages at rest": word for word but for the account.
#[test]
fn the_statement_that_amazon_ses_prints_works_as_it_stands() {
    let policy = policy(json!({
        "Sid": "AllowSESToEncryptMessagesBelongingToThisAccount",
        "Effect": "Allow",
        "Principal": {"Service": "ses.amazonaws.com"},
        "Action": ["kms:Encrypt", "kms:GenerateDataKey*"],
        "Resource": "*",
        "Condition": {
            "Null": {"kms:EncryptionContext:aws:ses:rule-name": false, "kms:EncryptionContext:aws:ses:message-id": false},
            "StringEquals": {"kms:EncryptionContext:aws:ses:source-account": "000000000000"}
        }
    }));
    let ses = Principal::Service("ses.amazonaws.com".to_owned());
    let full = [("aws:ses:rule-name", "r"), ("aws:ses:message-id", "m"), ("aws:ses:source-account", ACCOUNT)];
    let verdict = |principal: &Principal, action: &str, pairs: &[(&str, &str)]| {
        let context = context(pairs);
        ask(&policy, principal, action, &ConditionKeys::at(NOON).context(&context))
    };
    for action in ["kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext"] {
        assert_eq!(verdict(&ses, action, &full), Verdict::Allowed(0));
    }
    for missing in 0..full.len() {
        let mut pairs = full.to_vec();
        pairs.remove(missing);
        assert_eq!(verdict(&ses, "kms:Encrypt", &pairs), Verdict::Silent, "without {:?}", full[missing]);
    }
    assert_eq!(verdict(&ses, "kms:Decrypt", &full), Verdict::Silent);
    assert_eq!(verdict(&Principal::user("ada"), "kms:Encrypt", &full), Verdict::Silent);
    assert_eq!(verdict(&Principal::Service("s3.amazonaws.com".to_owned()), "kms:Encrypt", &full), Verdict::Silent);
    let mut other = full;
    other[2].1 = "111122223333";
    assert_eq!(verdict(&ses, "kms:Encrypt", &other), Verdict::Silent);
}
