//! What holds for documents and requests of any kind.

use proptest::prelude::*;

use super::*;

/// Any JSON, biased towards the words of policies, so that parsing gets past its first line.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "Version",
        "2012-10-17",
        "Statement",
        "Effect",
        "Allow",
        "Deny",
        "Principal",
        "NotPrincipal",
        "AWS",
        "Service",
        "*",
        "arn:aws:iam::000000000000:root",
        "Action",
        "kms:*",
        "kms:Decrypt",
        "Resource",
        "Condition",
        "StringLike",
        "Null",
        "DateLessThan",
        "NumericEquals",
        "IpAddress",
        "ArnLike",
        "ForAllValues:StringEquals",
        "kms:EncryptionContext:k",
        "${aws:username}",
        "${",
        "true",
        "1",
        "10.0.0.0/8",
        "2026-01-01",
        "arn:*:*:*:*:*",
    ]);
    let text = prop_oneof![4 => word.prop_map(str::to_owned), 1 => any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_condition() -> impl Strategy<Value = Value> {
    let values =
        || prop::collection::vec(prop::sample::select(vec!["a", "b", "a*", "?", "ada", "${aws:username}", ""]), 1..3);
    let text = ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCaseIfExists"];
    let single = ["kms:EncryptionContext:k", "kms:EncryptionContext:l", "kms:ViaService", "aws:username"];
    prop_oneof![
        (prop::sample::select(text.to_vec()), prop::sample::select(single.to_vec()), values())
            .prop_map(|(operator, key, values)| json!({operator: {key: values}})),
        (prop::sample::select(vec!["ForAllValues:StringLike", "ForAnyValue:StringNotEquals"]), values())
            .prop_map(|(operator, values)| json!({operator: {"kms:EncryptionContextKeys": values}})),
        (prop::sample::select(single.to_vec()), any::<bool>()).prop_map(|(key, absent)| json!({"Null": {key: absent}})),
    ]
}

fn any_statement() -> impl Strategy<Value = Value> {
    let principal = prop::sample::select(vec![
        json!("*"),
        json!({"AWS": "arn:aws:iam::000000000000:root"}),
        json!({"AWS": "arn:aws:iam::000000000000:user/ada"}),
        json!({"AWS": ["arn:aws:iam::000000000000:user/bob", "000000000000"]}),
    ]);
    let action = prop::sample::select(vec![
        json!("kms:*"),
        json!("kms:De*"),
        json!(["kms:Encrypt", "kms:Decrypt"]),
        json!("kms:Enc*"),
    ]);
    (any::<bool>(), principal, any::<bool>(), action, any::<bool>(), prop::option::of(any_condition())).prop_map(
        |(denies, principal, but, action, not, condition)| {
            let mut statement = json!({"Effect": if denies { "Deny" } else { "Allow" }, "Resource": "*"});
            statement[if but { "NotPrincipal" } else { "Principal" }] = principal;
            statement[if not { "NotAction" } else { "Action" }] = action;
            if let Some(condition) = condition {
                statement["Condition"] = condition;
            }
            statement
        },
    )
}

fn any_request() -> impl Strategy<Value = (Principal, &'static str, EncryptionContext, Option<&'static str>)> {
    let principal = prop::sample::select(vec![
        Principal::Root,
        Principal::user("ada"),
        Principal::user("bob"),
        Principal::user("*"),
    ]);
    let pairs = prop::collection::vec(
        (prop::sample::select(vec!["k", "K", "l"]), prop::sample::select(vec!["a", "b", "ada", ""])),
        0..3,
    );
    (
        principal,
        prop::sample::select(vec!["kms:Decrypt", "kms:Encrypt", "kms:PutKeyPolicy"]),
        pairs.prop_map(|pairs| context(&pairs)),
        prop::option::of(Just("a")),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn parsing_never_panics(document in any_json(), statement in any_json(), text in any::<String>()) {
        let _ = Policy::parse(&text);
        let _ = parse(document.clone());
        let _ = parse(json!({"Statement": document}));
        let _ = parse(json!({"Version": "2012-10-17", "Statement": {
            "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": statement,
        }}));
    }

    #[test]
    fn order_does_not_matter_and_a_deny_always_wins(
        (statements, shuffled) in prop::collection::vec(any_statement(), 1..6)
            .prop_flat_map(|statements| (Just(statements.clone()), Just(statements).prop_shuffle())),
        (principal, action, context, via) in any_request(),
    ) {
        let keys = ConditionKeys::at(NOON).context(&context).with_some(Key::ViaService, via);
        let of = |statements: &[Value]| ask(&policy(Value::from(statements)), &principal, action, &keys);
        let kind = |verdict| match verdict { Verdict::Allowed(_) => 1, Verdict::Denied(_) => 2, Verdict::Silent => 0 };
        prop_assert_eq!(kind(of(&statements)), kind(of(&shuffled)));
        // Alone, each statement says yes, no or nothing; together the strongest word counts.
        let strongest = statements.iter().map(|statement| kind(of(std::slice::from_ref(statement)))).max().unwrap();
        prop_assert_eq!(kind(of(&statements)), strongest);
    }

    #[test]
    fn wildcards_match_as_a_plain_recursion_does(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
        fn slow(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern.split_first(), text.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) => slow(rest, text) || (!text.is_empty() && slow(pattern, &text[1..])),
                (Some((b'?', rest)), Some((_, tail))) => slow(rest, tail),
                (Some((want, rest)), Some((found, tail))) => want == found && slow(rest, tail),
                _ => false,
            }
        }
        prop_assert_eq!(super::super::pattern::Glob::wild(&pattern).matches(&text), slow(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn a_resource_matches_if_there_is_a_region_in_which_it_does(
        pattern in "(a:b:a:|\\*|a:\\*|[ab:*?]{0,3})[ab:*?]{0,4}(:b:a|\\*|[ab:*?]{0,3})",
    ) {
        let glob = super::super::pattern::Glob::wild(&pattern);
        let regions = (0..8).flat_map(|length| (0..1 << length).map(move |bits| (length, bits)));
        let named = |(length, bits): (u32, u32)| -> String {
            (0..length).map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' }).collect()
        };
        let some = regions.map(named).any(|region| glob.matches(&format!("a:b:a:{region}:b:a")));
        prop_assert_eq!(glob.matches_in_some_region("a:b:a:aa:b:a"), some, "{}", pattern);
    }
}
