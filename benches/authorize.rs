//! What a decision costs: an allowed Decrypt under the mount policy, under a policy of 20 statements of which the last allows,
//! and by the last of 20 grants; each with the making of its condition keys, as a request does it.
//!
//! `cargo bench -p kmsfs-bench --bench authorize`.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kmsfs::kms::authorize::authorize;
use kmsfs::kms::grant::{Constraint, Grant};
use kmsfs::kms::policy::{ConditionKeys, Key, Policy, Request};
use kmsfs::kms::{EncryptionContext, KeyId, Principal, root_arn};
use serde_json::{Value, json};

const ARN: &str = "arn:aws:kms:local:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const VOLUME: &str = "6f1f6b1e-6d0c-4c55-9d53-0f3a6f3f8f10";

fn context() -> EncryptionContext {
    EncryptionContext::new([("kmsfs:volume", VOLUME), ("kmsfs:kind", "file-gcm"), ("team", "blue")])
        .expect("a short context")
}

/// Statements for users 1 to 20, each bound to a volume, a service and the user's name.
fn twenty_statements() -> Policy {
    let statement = |number: usize| {
        json!({
            "Sid": format!("user {number}"),
            "Effect": "Allow",
            "Principal": {"AWS": [format!("arn:aws:iam::000000000000:user/u{number}"), "arn:aws:iam::000000000000:user/ada"]},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
            "Resource": "*",
            "Condition": {
                "StringEquals": {"kms:ViaService": "kmsfs.local", "kms:EncryptionContext:team": if number == 20 { "blue" } else { "red" }},
                "StringLike": {"kms:EncryptionContext:kmsfs:kind": "file-*"},
            },
        })
    };
    let statements: Vec<Value> = (1..=20).map(statement).collect();
    let document = json!({"Version": "2012-10-17", "Statement": statements});
    Policy::parse(&document.to_string()).expect("a policy")
}

/// Twenty grants of which the last is for this user and context.
fn twenty_grants() -> Vec<Grant> {
    let grant = |number: usize| Grant {
        id: format!("{number:064x}"),
        key: KeyId("k".to_owned()),
        name: None,
        grantee: Principal::user("ada").arn(),
        retiring: None,
        issuer: root_arn(),
        operations: vec!["Decrypt".to_owned(), "DescribeKey".to_owned()],
        constraint: Some(Constraint::Subset(BTreeMap::from([(
            "team".to_owned(),
            if number == 20 { "blue" } else { "red" }.to_owned(),
        )]))),
        created: 1,
        expires: Some(u64::MAX),
        parent: None,
    };
    (1..=20).map(grant).collect()
}

fn decisions(c: &mut Criterion) {
    let ada = Principal::user("ada");
    let context = context();
    let grants = twenty_grants();
    let cases = [
        ("mount policy", Policy::mount_default(), &[][..]),
        ("20 statements", twenty_statements(), &[][..]),
        ("20 grants", Policy::default_for_api(), &grants[..]),
    ];
    let mut group = c.benchmark_group("authorize");
    for (name, policy, grants) in &cases {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let keys = ConditionKeys::at(1_772_366_400).context(&context).with(Key::ViaService, "kmsfs.local");
                let request = Request { principal: black_box(&ada), action: "kms:Decrypt", resource: ARN, keys: &keys };
                assert!(authorize(policy, *grants, &request).allowed);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
