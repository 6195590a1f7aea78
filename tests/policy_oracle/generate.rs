//! Random policies and requests over a small vocabulary, so that they meet each other often.

use std::net::IpAddr;

use kmsfs::kms::Principal;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use crate::Asked;

/// What the values of an operator are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Text in any case.
    Folded,
    /// Text with wildcards.
    Pattern,
    Number,
    Date,
    Address,
    Flag,
    Arn,
    Presence,
}

/// Every operator that kmsfs knows.
pub const OPERATORS: &[(&str, Kind)] = &[
    ("StringEquals", Kind::Text),
    ("StringNotEquals", Kind::Text),
    ("StringEqualsIgnoreCase", Kind::Folded),
    ("StringNotEqualsIgnoreCase", Kind::Folded),
    ("StringLike", Kind::Pattern),
    ("StringNotLike", Kind::Pattern),
    ("NumericEquals", Kind::Number),
    ("NumericNotEquals", Kind::Number),
    ("NumericLessThan", Kind::Number),
    ("NumericLessThanEquals", Kind::Number),
    ("NumericGreaterThan", Kind::Number),
    ("NumericGreaterThanEquals", Kind::Number),
    ("DateEquals", Kind::Date),
    ("DateNotEquals", Kind::Date),
    ("DateLessThan", Kind::Date),
    ("DateLessThanEquals", Kind::Date),
    ("DateGreaterThan", Kind::Date),
    ("DateGreaterThanEquals", Kind::Date),
    ("IpAddress", Kind::Address),
    ("NotIpAddress", Kind::Address),
    ("Bool", Kind::Flag),
    ("ArnEquals", Kind::Arn),
    ("ArnNotEquals", Kind::Arn),
    ("ArnLike", Kind::Arn),
    ("ArnNotLike", Kind::Arn),
    ("Null", Kind::Presence),
];

const USERS: &[&str] = &["ada", "bob", "ada*"];
const SINGLE: &[&str] = &[
    "kms:EncryptionContext:team",
    "KMS:encryptioncontext:Team",
    "kms:EncryptionContext:user",
    "kms:ViaService",
    "kms:RequestAlias",
    "kms:CallerAccount",
    "aws:username",
    "aws:PrincipalArn",
    "aws:PrincipalTag/group/staff",
    "aws:ResourceTag/team",
];
const SEVERAL: &[&str] = &["kms:EncryptionContextKeys", "kms:GrantOperations"];

/// Keys whose requests have values of this kind, or none.
fn keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Text | Kind::Folded | Kind::Pattern => SINGLE,
        Kind::Number => &["kms:RotationPeriodInDays", "aws:EpochTime", "kms:EncryptionContext:number"],
        Kind::Date => &["aws:CurrentTime", "kms:EncryptionContext:date"],
        Kind::Address => &["aws:SourceIp"],
        Kind::Flag => &["aws:PrincipalTag/group/staff", "kms:EncryptionContext:flag", "kms:ReEncryptOnSameKey"],
        Kind::Arn => &["aws:PrincipalArn", "kms:EncryptionContext:arn"],
        Kind::Presence => {
            &["kms:EncryptionContext:team", "kms:EncryptionContextKeys", "aws:username", "kms:ViaService"]
        }
    }
}

fn wanted(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Folded => {
            &["BLUE", "Red", "b*", "ADA", "bob", "True", "KMSFS.local", "ALIAS/a", "x.y", "${aws:username, 'ada'}"]
        }
        // `${*}` in the other two is a listed difference.
        Kind::Pattern => &[
            "b*",
            "?ed",
            "*",
            "ada${*}",
            "${aws:username, 'x'}*",
            "kmsfs.*",
            "alias/?",
            "*crypt",
            "x.?",
            "t*m",
            "a*d*a*",
            "blue",
        ],
        Kind::Text => &[
            "blue",
            "red",
            "Blue",
            "b*",
            "?ed",
            "*",
            "ada",
            "bob",
            "true",
            "000000000000",
            "kmsfs.local",
            "kmsfs.*",
            "alias/a",
            "alias/?",
            "arn:aws:iam::000000000000:*",
            "x.y",
            "x+y",
            "",
            "${aws:username, 'ada'}",
            "u-${kms:CallerAccount, 'none'}",
            "team",
            "user",
            "Decrypt",
            "*crypt",
        ],
        Kind::Number => &["90", "365", "-1", "90.5", "1772366400", "1772366399.5", "0"],
        Kind::Date => {
            &["2026-03-01", "2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00", "2026-03-02T00:00:00Z", "2025-12-31"]
        }
        Kind::Address => {
            &["10.0.0.0/8", "10.1.0.0/16", "127.0.0.0/8", "::/0", "2001:db8::/32", "::1/128", "192.0.2.128/25"]
        }
        Kind::Flag | Kind::Presence => &["true", "false", "True"],
        Kind::Arn => &[
            "arn:aws:iam::000000000000:user/ada",
            "arn:aws:iam::000000000000:user/*",
            "arn:aws:iam::*:root",
            "arn:aws:iam::000000000000:user/?ob",
            "arn:*:*:*:*:*",
            "arn:aws:iam::000000000000:user/${aws:username, 'nobody'}",
            "arn:aws:s3:::bucket/*",
        ],
    }
}

/// One line of a Condition block: operator, key, values.
fn line(denies: bool) -> BoxedStrategy<(String, &'static str, Value)> {
    let single = select(OPERATORS).prop_flat_map(|(operator, kind)| {
        (any::<bool>(), select(keys(kind)), values(kind)).prop_map(move |(if_exists, key, values)| {
            let suffix = if if_exists && kind != Kind::Presence { "IfExists" } else { "" };
            (format!("{operator}{suffix}"), key, values)
        })
    });
    let texts: Vec<(&'static str, Kind)> = OPERATORS
        .iter()
        .copied()
        .filter(|(_, kind)| matches!(kind, Kind::Text | Kind::Folded | Kind::Pattern))
        .collect();
    let on = |operators: Vec<(&'static str, Kind)>, keys: &'static [&'static str]| {
        select(operators).prop_flat_map(move |(operator, kind)| (Just(operator), select(keys), values(kind)))
    };
    let sets = (select(vec!["ForAllValues", "ForAnyValue"]), on(texts.clone(), SEVERAL))
        .prop_map(|(set, (operator, key, values))| (format!("{set}:{operator}"), key, values));
    // On a key of one value a set operator is unusual but has a meaning. Over a context it may not be ForAllValues.
    let set_of_one =
        on(texts.clone(), SINGLE).prop_map(|(operator, key, values)| (format!("ForAnyValue:{operator}"), key, values));
    // Without a set operator a key of several values never matches; a Deny with that is refused. Negated it is a listed
    // difference.
    let plain = texts.into_iter().filter(|(name, _)| !name.contains("Not")).collect();
    let no_set = on(plain, SEVERAL).prop_map(|(operator, key, values)| (operator.to_owned(), key, values));
    if denies {
        prop_oneof![6 => single, 3 => sets, 1 => set_of_one].boxed()
    } else {
        prop_oneof![6 => single, 3 => sets, 1 => set_of_one, 1 => no_set].boxed()
    }
}

fn values(kind: Kind) -> impl Strategy<Value = Value> {
    let all = wanted(kind);
    prop_oneof![
        select(all).prop_map(Value::from),
        subsequence(all, 1..=all.len().min(4)).prop_map(|values| json!(values)),
    ]
}

fn conditions(denies: bool) -> impl Strategy<Value = Value> {
    vec(line(denies), 0..3).prop_map(|lines| {
        let mut block = Map::new();
        for (operator, key, values) in lines {
            block.entry(operator).or_insert_with(|| json!({}))[key] = values;
        }
        Value::Object(block)
    })
}

fn principals(denies: bool, excepting: bool) -> impl Strategy<Value = Value> {
    let account: &[&str] = &["000000000000", "arn:aws:iam::000000000000:root"];
    let others: &[&str] = &[
        "arn:aws:iam::000000000000:user/ada",
        "arn:aws:iam::000000000000:user/bob",
        "arn:aws:iam::111122223333:user/ada",
        "111122223333",
    ];
    // To except the account from a Deny is a listed difference.
    let names = if denies && excepting { others.to_vec() } else { [account, others].concat() };
    let most = names.len();
    prop_oneof![
        2 => Just(json!("*")),
        1 => Just(json!({"AWS": "*"})),
        5 => subsequence(names, 1..=most.min(3)).prop_map(|names| json!({"AWS": names})),
        1 => Just(json!({"Service": "ses.amazonaws.com"})),
        1 => Just(json!({"Service": ["ses.amazonaws.com", "s3.amazonaws.com"], "AWS": "arn:aws:iam::000000000000:user/bob"})),
    ]
}

fn statement() -> impl Strategy<Value = Value> {
    let shape =
        (any::<bool>(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.2), proptest::bool::weighted(0.1));
    shape.prop_flat_map(|(denies, not_principal, not_action, not_resource)| {
        let actions: &[&str] = &[
            "kms:*",
            "*",
            "kms:Decrypt",
            "kms:decrypt",
            "kms:*crypt",
            "kms:GenerateDataKey*",
            "kms:Put?eyPolicy",
            "s3:Get*",
            "kms:Encrypt",
        ];
        let resources: &[&str] = &[
            "*",
            crate::ARN,
            "arn:aws:kms:*:000000000000:key/*",
            "arn:aws:kms:us-east-?:000000000000:key/1234abcd*",
            "arn:aws:kms:us-east-1:111122223333:key/*",
            "arn:aws:s3:::bucket",
        ];
        let resources = if not_resource { resources[4..].to_vec() } else { resources.to_vec() };
        let most = resources.len();
        (
            principals(denies, not_principal),
            subsequence(actions, 1..3),
            prop_oneof![2 => Just(vec![resources[0]]), 1 => subsequence(resources, 1..=most.min(2))],
            conditions(denies),
        )
            .prop_map(move |(principal, action, resource, condition)| {
                let mut statement = json!({"Effect": if denies { "Deny" } else { "Allow" }, "Condition": condition});
                statement[if not_principal { "NotPrincipal" } else { "Principal" }] = principal;
                statement[if not_action { "NotAction" } else { "Action" }] = json!(action);
                statement[if not_resource { "NotResource" } else { "Resource" }] = json!(resource);
                statement
            })
    })
}

/// A document of one to five statements.
pub fn policy() -> impl Strategy<Value = Value> {
    vec(statement(), 1..6).prop_map(|statements| json!({"Version": "2012-10-17", "Statement": statements}))
}

fn principal() -> impl Strategy<Value = Principal> {
    let user = (select(USERS), subsequence(vec!["staff", "wheel"], 0..=2)).prop_map(|(name, groups)| Principal::User {
        name: name.to_owned(),
        groups: groups.into_iter().map(str::to_owned).collect(),
    });
    prop_oneof![
        2 => Just(Principal::Root),
        6 => user,
        1 => Just(Principal::Service("ses.amazonaws.com".to_owned())),
    ]
}

/// A request about the key of the oracle's world.
pub fn request() -> impl Strategy<Value = Asked> {
    let pair = select(vec![
        ("team", "blue"),
        ("team", "red"),
        ("team", "x.y"),
        ("user", "ada"),
        ("user", "ada*"),
        ("number", "90"),
        ("number", "-1.0"),
        ("date", "2026-03-01"),
        ("date", "2026-03-01T12:00:00.000Z"),
        ("flag", "true"),
        ("flag", "FALSE"),
        ("arn", "arn:aws:s3:::bucket/a:b"),
        ("arn", "arn:aws:iam::111122223333:root"),
    ]);
    let source = select(vec!["10.1.2.3", "127.0.0.1", "192.0.2.200", "2001:db8::5", "::1"])
        .prop_map(|address| address.parse::<IpAddr>().expect("an address"));
    let tags = btree_map(Just("team".to_owned()), select(vec!["blue", "red"]).prop_map(str::to_owned), 0..2);
    let action = select(vec!["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:PutKeyPolicy"]);
    let operations = subsequence(vec!["Decrypt", "Encrypt", "CreateGrant"], 0..=3);
    (
        (principal(), action, vec(pair, 0..4), tags),
        option::of(source),
        option::of(select(vec!["kmsfs.local", "s3.us-east-1.amazonaws.com"])),
        option::of(select(vec!["alias/a", "alias/b"])),
        option::of(select(vec![90, 365])),
        operations,
    )
        .prop_map(|((principal, action, pairs, tags), source, via, alias, days, operations)| Asked {
            principal,
            action,
            context: pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            tags,
            source,
            via,
            alias,
            days,
            operations,
        })
}
