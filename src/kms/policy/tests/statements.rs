//! Principals, actions, resources, and how statements add up.

use super::*;

fn verdict(statements: Value, principal: &Principal) -> Verdict {
    ask(&policy(statements), principal, "kms:Decrypt", &ConditionKeys::at(NOON))
}

fn service() -> Principal {
    Principal::Service("ses.amazonaws.com".to_owned())
}

#[test]
fn principals_are_matched_as_documented() {
    let (root, ada, bob, ses) = (Principal::Root, Principal::user("ada"), Principal::user("bob"), service());
    // Who among root, ada, bob and the service a statement is about: when it allows, and when it denies.
    for (principal, allowed, denied) in [
        (json!("*"), "rabs", "rabs"),
        (json!({"AWS": "*"}), "rabs", "rabs"),
        (json!({"AWS": "000000000000"}), "r", "rab"),
        (json!({"AWS": "arn:aws:iam::000000000000:root"}), "r", "rab"),
        (json!({"AWS": "arn:aws:iam::000000000000:user/ada"}), "a", "a"),
        (json!({"AWS": ["arn:aws:iam::000000000000:user/ada", "arn:aws:iam::000000000000:user/bob"]}), "ab", "ab"),
        (json!({"AWS": "arn:aws:iam::000000000000:user/Ada"}), "", ""),
        (json!({"AWS": "arn:aws:iam::111122223333:user/ada"}), "", ""),
        (json!({"AWS": "arn:aws:iam::111122223333:root"}), "", ""),
        (json!({"AWS": "111122223333"}), "", ""),
        (json!({"AWS": "arn:aws-cn:iam::000000000000:user/ada"}), "", ""),
        (json!({"AWS": "arn:aws:iam::000000000000:role/ada"}), "", ""),
        (json!({"AWS": "arn:aws:sts::000000000000:assumed-role/ada/x"}), "", ""),
        (json!({"Service": "ses.amazonaws.com"}), "s", "s"),
        (
            json!({"Service": ["s3.amazonaws.com", "ses.amazonaws.com"], "AWS": "arn:aws:iam::000000000000:user/bob"}),
            "bs",
            "bs",
        ),
    ] {
        for (effect, about) in [("Allow", allowed), ("Deny", denied)] {
            for (letter, who) in [('r', &root), ('a', &ada), ('b', &bob), ('s', &ses)] {
                let found = verdict(statement(json!({"Effect": effect, "Principal": principal})), who);
                assert_eq!(found != Verdict::Silent, about.contains(letter), "{effect} {principal} {who:?}");
            }
        }
    }
}

#[test]
fn not_principal_is_everyone_else() {
    let (root, ada, bob, ses) = (Principal::Root, Principal::user("ada"), Principal::user("bob"), service());
    for (principal, allowed, denied) in [
        (json!("*"), "", ""),
        (json!({"AWS": "arn:aws:iam::000000000000:user/ada"}), "rbs", "rbs"),
        (json!({"AWS": "arn:aws:iam::000000000000:root"}), "s", "abs"),
        (json!({"AWS": ["arn:aws:iam::000000000000:root", "arn:aws:iam::000000000000:user/ada"]}), "s", "bs"),
        (json!({"Service": "ses.amazonaws.com"}), "rab", "rab"),
    ] {
        for (effect, about) in [("Allow", allowed), ("Deny", denied)] {
            for (letter, who) in [('r', &root), ('a', &ada), ('b', &bob), ('s', &ses)] {
                let changes = json!({"Effect": effect, "Principal": null, "NotPrincipal": principal});
                let found = verdict(statement(changes), who);
                assert_eq!(found != Verdict::Silent, about.contains(letter), "{effect} {principal} {who:?}");
            }
        }
    }
}

#[test]
fn actions_are_case_insensitive_and_take_wildcards() {
    for (action, asked, matches) in [
        (json!("kms:Decrypt"), "kms:Decrypt", true),
        (json!("KMS:decrypt"), "kms:Decrypt", true),
        (json!("*"), "kms:Decrypt", true),
        (json!("kms:*"), "kms:PutKeyPolicy", true),
        (json!("kms:GenerateDataKey*"), "kms:GenerateDataKey", true),
        (json!("kms:GenerateDataKey*"), "kms:GenerateDataKeyPairWithoutPlaintext", true),
        (json!("kms:GenerateDataKey*"), "kms:GenerateRandom", false),
        (json!("kms:Re?ncrypt*"), "kms:ReEncryptFrom", true),
        (json!("kms:Re?ncrypt"), "kms:ReEncryptTo", false),
        (json!("kms:Decryp?"), "kms:Decrypt", true),
        (json!("kms:Decrypt?"), "kms:Decrypt", false),
        (json!("kms:*t"), "kms:Encrypt", true),
        (json!("kms:*Key*Key*"), "kms:GetKeyPolicy", false),
        (json!("kms:*e*y*P*"), "kms:GetKeyPolicy", true),
        (json!("s3:*"), "kms:Decrypt", false),
        (json!(["kms:Encrypt", "kms:Decrypt"]), "kms:Decrypt", true),
        (json!(["kms:Encrypt", "kms:Decryp"]), "kms:Decrypt", false),
    ] {
        let only = policy(statement(json!({"Action": action})));
        let all_but = policy(statement(json!({"Action": null, "NotAction": action})));
        let keys = ConditionKeys::at(NOON);
        assert_eq!(ask(&only, &Principal::Root, asked, &keys) == Verdict::Allowed(0), matches, "{action} {asked}");
        assert_eq!(ask(&all_but, &Principal::Root, asked, &keys) == Verdict::Silent, matches, "not {action} {asked}");
    }
}

#[test]
fn resources_are_this_key_or_patterns_of_its_arn() {
    let of_user = format!("arn:aws:kms:*:{ACCOUNT}:key/${{aws:username}}");
    for (resource, matches) in [
        (json!("*"), true),
        (json!(ARN), true),
        (json!("arn:aws:kms:*:000000000000:key/*"), true),
        (json!("arn:aws:kms:*"), true),
        (json!("arn:aws:kms:us-east-?:000000000000:key/1234abcd*"), true),
        (json!("arn:aws:kms:eu-west-1:000000000000:key/*"), true),
        (json!(ARN.replace("us-east-1", "local")), true),
        (json!(ARN.replace("us-east-1", "")), true),
        (json!(ARN.replace("aws:kms:us-east-1", "*:eu-west-1")), true),
        (json!(ARN.replace("us-east-1:0", "eu-*0")), true),
        (json!(ARN.replace("us-east-1", "us-east-1:000000000000")), false),
        (json!("arn:aws:kms:us-east-1:111122223333:key/*"), false),
        (json!("arn:aws:kms:us-east-1:000000000000:alias/*"), false),
        (json!("arn:aws:kms:us-east-1"), false),
        (json!("arn:aws:kms:us-east-1:000000000000:key/1234ABCD-12ab-34cd-56ef-1234567890ab"), false),
        (json!("arn:aws:s3:::bucket"), false),
        (json!(["arn:aws:s3:::bucket", "*"]), true),
        (json!(of_user), false),
    ] {
        let only = statement(json!({"Resource": resource}));
        let all_but = statement(json!({"Resource": null, "NotResource": resource}));
        assert_eq!(verdict(only, &Principal::user("ada")) == Verdict::Allowed(0), matches, "{resource}");
        assert_eq!(verdict(all_but, &Principal::user("ada")) == Verdict::Silent, matches, "not {resource}");
    }
    let own = policy(statement(json!({"Resource": of_user})));
    let id = ARN.rsplit('/').next().unwrap();
    assert_eq!(ask(&own, &Principal::user(id), "kms:Decrypt", &ConditionKeys::at(NOON)), Verdict::Allowed(0));
}

#[test]
fn a_deny_that_names_the_key_holds_in_every_region() {
    let deny = json!([statement(json!({})), statement(json!({"Effect": "Deny", "Resource": ARN}))]);
    let but = statement(json!({"Resource": null, "NotResource": ARN}));
    for region in ["us-east-1", "eu-west-1", "local", ""] {
        let (resource, keys) = (ARN.replace("us-east-1", region), ConditionKeys::at(NOON));
        let request = Request { principal: &Principal::Root, action: "kms:Decrypt", resource: &resource, keys: &keys };
        assert_eq!(policy(deny.clone()).evaluate(&request), Verdict::Denied(1), "{region}");
        assert_eq!(policy(but.clone()).evaluate(&request), Verdict::Silent, "{region}");
    }
}

#[test]
fn a_statement_without_action_or_resource_has_no_effect() {
    for gap in ["Action", "Resource"] {
        for effect in ["Allow", "Deny"] {
            let mut changes = json!({"Effect": effect});
            changes[gap] = Value::Null;
            let policy = policy(statement(changes));
            assert_eq!(ask(&policy, &Principal::Root, "kms:Decrypt", &ConditionKeys::at(NOON)), Verdict::Silent);
            let keys = ConditionKeys::at(NOON);
            let request = Request { principal: &Principal::Root, action: "kms:Decrypt", resource: ARN, keys: &keys };
            assert_eq!(policy.examine(&request)[0].misses, [Miss::Incomplete]);
        }
    }
}

#[test]
fn a_deny_wins_wherever_it_stands_and_silence_is_no_leave() {
    let allow = statement(json!({}));
    let deny = statement(json!({"Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::000000000000:user/ada"}}));
    let other = statement(json!({"Action": "kms:Encrypt"}));
    let (ada, bob) = (Principal::user("ada"), Principal::user("bob"));
    assert_eq!(verdict(json!([allow, deny]), &ada), Verdict::Denied(1));
    assert_eq!(verdict(json!([deny, allow]), &ada), Verdict::Denied(0));
    assert_eq!(verdict(json!([deny, allow]), &bob), Verdict::Allowed(1));
    assert_eq!(verdict(json!([deny, other]), &bob), Verdict::Silent);
    assert_eq!(verdict(json!([other, allow, allow]), &bob), Verdict::Allowed(1));
}

#[test]
fn the_default_policies_say_what_they_should() {
    let via = ConditionKeys::at(NOON).with(Key::ViaService, "kmsfs.local");
    let direct = ConditionKeys::at(NOON);
    let (api, mount) = (Policy::default_for_api(), Policy::mount_default());
    let ada = Principal::user("ada");
    for action in ["kms:Decrypt", "kms:GenerateDataKey", "kms:PutKeyPolicy"] {
        for keys in [&via, &direct] {
            assert_eq!(ask(&api, &Principal::Root, action, keys), Verdict::Allowed(0));
            assert_eq!(ask(&mount, &Principal::Root, action, keys), Verdict::Allowed(0));
            assert_eq!(ask(&api, &ada, action, keys), Verdict::Silent);
        }
        assert_eq!(ask(&mount, &ada, action, &direct), Verdict::Silent);
    }
    for action in
        ["kms:Decrypt", "kms:Encrypt", "kms:ReEncryptTo", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"]
    {
        assert_eq!(ask(&mount, &ada, action, &via), Verdict::Allowed(1));
        assert_eq!(ask(&mount, &service(), action, &via), Verdict::Silent, "a service belongs to no account");
    }
    for action in ["kms:PutKeyPolicy", "kms:CreateGrant", "kms:ScheduleKeyDeletion"] {
        assert_eq!(ask(&mount, &ada, action, &via), Verdict::Silent);
    }
}

#[test]
fn nobody_locks_himself_out() {
    let keys = ConditionKeys::at(NOON);
    let keeps = |policy: &Policy, principal: &Principal| {
        policy.lets_change_policy(&Request { principal, action: "kms:CreateKey", resource: ARN, keys: &keys })
    };
    let ada = Principal::user("ada");
    assert!(keeps(&Policy::default_for_api(), &Principal::Root));
    assert!(!keeps(&Policy::default_for_api(), &ada));
    for (statements, root, user) in [
        (json!([statement(json!({"Action": "kms:Decrypt"}))]), false, false),
        (json!([statement(json!({"Action": "kms:Put*"}))]), true, true),
        (json!([statement(json!({"Principal": {"AWS": "arn:aws:iam::000000000000:user/ada"}}))]), false, true),
        (
            json!([statement(json!({})), statement(json!({"Effect": "Deny", "Action": "kms:PutKeyPolicy"}))]),
            false,
            false,
        ),
        (json!([statement(json!({"Condition": {"StringEquals": {"kms:ViaService": "kmsfs.local"}}}))]), false, false),
    ] {
        let policy = policy(statements.clone());
        assert_eq!((keeps(&policy, &Principal::Root), keeps(&policy, &ada)), (root, user), "{statements}");
    }
}
