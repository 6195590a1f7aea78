//! Compares the evaluation of key policies with that of an independent program, iam-simulate, over thousands of random policies
//! and requests, always the same ones.
//!
//! Where the two are known to differ, and AWS's documentation is with kmsfs or silent, random policies leave it out and
//! [`listed`] pins it down: so the list can neither grow unseen nor grow stale.
//!
//! Needs node and, in the folder that `KMSFS_POLICY_ORACLE` names, what package-lock.json lists; `scripts/test` sees to both.
//! `KMSFS_ORACLE_POLICIES` (default 6000) is how many policies, each with [`REQUESTS`] requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use kmsfs::kms::policy::{ConditionKeys, Key, Policy, Request, Verdict};
use kmsfs::kms::{ACCOUNT, EncryptionContext, Principal};
use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

mod generate;

const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// 2026-03-01T12:00:00Z.
const NOON: u64 = 1_772_366_400;
const REQUESTS: usize = 4;

/// A request, in full.
#[derive(Debug, Clone)]
struct Asked {
    principal: Principal,
    action: &'static str,
    context: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    source: Option<IpAddr>,
    via: Option<&'static str>,
    alias: Option<&'static str>,
    days: Option<u32>,
    operations: Vec<&'static str>,
}

impl Asked {
    fn plain(principal: Principal) -> Self {
        Self {
            principal,
            action: "kms:Decrypt",
            context: BTreeMap::new(),
            tags: BTreeMap::new(),
            source: None,
            via: None,
            alias: None,
            days: None,
            operations: Vec::new(),
        }
    }

    /// What kmsfs answers, in the oracle's words.
    fn ours(&self, policy: &Policy) -> &'static str {
        let context = EncryptionContext::new(self.context.clone()).expect("a context");
        let mut keys = ConditionKeys::at(NOON)
            .context(&context)
            .resource_tags(&self.tags)
            .with_some(Key::ViaService, self.via)
            .with_some(Key::RequestAlias, self.alias)
            .with_some(Key::RotationPeriodInDays, self.days.map(|days| days.to_string()))
            .with_many(Key::GrantOperations, self.operations.iter().copied());
        if let Some(source) = self.source {
            keys = keys.source_ip(source);
        }
        let request = Request { principal: &self.principal, action: self.action, resource: ARN, keys: &keys };
        match policy.evaluate(&request) {
            Verdict::Allowed(_) => "Allowed",
            Verdict::Denied(_) => "ExplicitlyDenied",
            Verdict::Silent => "ImplicitlyDenied",
        }
    }

    /// The same request for the oracle, which has to be told every condition key.
    fn line(&self, policy: &Value) -> Value {
        let mut keys = Map::new();
        let mut put = |name: &str, value: Value| keys.insert(name.to_owned(), value);
        put("aws:CurrentTime", json!("2026-03-01T12:00:00Z"));
        put("aws:EpochTime", json!(NOON.to_string()));
        if !matches!(self.principal, Principal::Service(_)) {
            put("aws:PrincipalArn", json!(self.principal.arn()));
            put("aws:PrincipalAccount", json!(ACCOUNT));
            put("kms:CallerAccount", json!(ACCOUNT));
        }
        if let Principal::User { name, groups } = &self.principal {
            put("aws:username", json!(name));
            for group in groups {
                put(&format!("aws:PrincipalTag/group/{group}"), json!("true"));
            }
        }
        for (key, value) in &self.context {
            put(&format!("kms:EncryptionContext:{key}"), json!(value));
        }
        if !self.context.is_empty() {
            put("kms:EncryptionContextKeys", self.context.keys().map(String::as_str).collect());
        }
        for (key, value) in &self.tags {
            put(&format!("aws:ResourceTag/{key}"), json!(value));
        }
        if !self.operations.is_empty() {
            put("kms:GrantOperations", json!(self.operations));
        }
        let single = [
            ("aws:SourceIp", self.source.map(|source| source.to_string())),
            ("kms:ViaService", self.via.map(str::to_owned)),
            ("kms:RequestAlias", self.alias.map(str::to_owned)),
            ("kms:RotationPeriodInDays", self.days.map(|days| days.to_string())),
        ];
        for (name, value) in single {
            if let Some(value) = value {
                put(name, json!(value));
            }
        }
        json!({
            "policy": policy,
            "principal": self.principal.arn(),
            "root": self.principal == Principal::Root,
            "action": self.action,
            "resource": ARN,
            "account": ACCOUNT,
            "context": keys,
        })
    }
}

/// The oracle's answers to these lines.
fn oracle(lines: &[Value]) -> Vec<String> {
    let modules = std::env::var("KMSFS_POLICY_ORACLE").expect("KMSFS_POLICY_ORACLE names a folder with node_modules");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let questions = folder.path().join("questions");
    let mut file = BufWriter::new(File::create(&questions).expect("create"));
    for line in lines {
        writeln!(file, "{line}").expect("write");
    }
    file.into_inner().expect("write");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy_oracle/oracle.cjs");
    let output = Command::new("node")
        .arg(script)
        .env("NODE_PATH", Path::new(&modules).join("node_modules"))
        .stdin(File::open(&questions).expect("open"))
        .stderr(Stdio::inherit())
        .output()
        .expect("node is there");
    assert!(output.status.success(), "{}", output.status);
    let answers: Vec<String> = String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), lines.len());
    answers
}

#[test]
#[ignore = "needs node and iam-simulate: scripts/test"]
fn random_policies_are_judged_as_an_independent_program_judges_them() {
    let mut runner = TestRunner::deterministic();
    let policies = generate::policy();
    let requests = generate::request();
    let mut cases = Vec::new();
    let count = std::env::var("KMSFS_ORACLE_POLICIES").map_or(6000, |policies| policies.parse().expect("a number"));
    while cases.len() < count * REQUESTS {
        let document = policies.new_tree(&mut runner).expect("a value").current();
        let policy = Policy::parse(&document.to_string()).unwrap_or_else(|error| panic!("{error}: {document:#}"));
        for _ in 0..REQUESTS {
            cases.push((document.clone(), policy.clone(), requests.new_tree(&mut runner).expect("a value").current()));
        }
    }
    let lines: Vec<Value> = cases.iter().map(|(document, _, asked)| asked.line(document)).collect();
    let answers = oracle(&lines);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differences = Vec::new();
    for ((document, policy, asked), theirs) in cases.iter().zip(&answers) {
        let ours = asked.ours(policy);
        *seen.entry(ours).or_default() += 1;
        if ours != theirs {
            differences.push(format!("ours {ours}, theirs {theirs}\n{asked:?}\n{document:#}"));
        }
    }
    println!("{} requests: {seen:?}", cases.len());
    let shown = differences.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(differences.is_empty(), "{} of {} differ:\n{shown}", differences.len(), cases.len());
    // Random policies that nearly always say the same would compare nothing.
    for verdict in ["Allowed", "ExplicitlyDenied", "ImplicitlyDenied"] {
        assert!(seen.get(verdict).is_some_and(|count| *count > cases.len() / 10), "{verdict}: {seen:?}");
    }
    let operators: BTreeSet<&str> = generate::OPERATORS.iter().map(|(name, _)| *name).collect();
    let written: String = lines.iter().map(Value::to_string).collect();
    for operator in operators {
        assert!(written.contains(&format!("\"{operator}\"")), "{operator} was never generated");
    }
}

/// What kmsfs decides on purpose otherwise than the oracle: a name, a statement, a request, and both answers.
fn listed() -> Vec<(&'static str, Value, Asked, &'static str, &'static str)> {
    let root = || Asked::plain(Principal::Root);
    let ada = || Asked::plain(Principal::user("ada"));
    let with = |key: &str, value: &str, asked: Asked| Asked {
        context: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..asked
    };
    let allow = |condition: Value| json!({"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*", "Condition": condition});
    vec![
        (
            // IAM user guide, "Policy variables with no value": inverted operators do match.
            "a variable without a value equals nothing, so a negated operator passes",
            allow(json!({"StringNotEquals": {"kms:EncryptionContext:k": "${aws:username}"}})),
            with("k", "x", root()),
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            // IAM user guide, "...IfExists condition operators": absent is true.
            "IfExists holds for an absent key with ForAnyValue too",
            allow(json!({"ForAnyValue:StringEqualsIfExists": {"kms:GrantOperations": "Decrypt"}})),
            ada(),
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            "a variable may stand in any component of an ARN",
            allow(json!({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::${kms:CallerAccount}:user/ada"}})),
            ada(),
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            // IAM user guide, "NotPrincipal with Deny": whoever is not named himself is denied, though his account is.
            "to except the account from a Deny excepts its root alone",
            json!({"Effect": "Deny", "NotPrincipal": {"AWS": ACCOUNT}, "Action": "*", "Resource": "*"}),
            ada(),
            "ExplicitlyDenied",
            "ImplicitlyDenied",
        ),
        (
            // IAM user guide, "Date condition operators": both forms are dates; the oracle compares seconds with milliseconds.
            "seconds since 1970 and ISO dates are comparable",
            allow(json!({"DateLessThan": {"aws:CurrentTime": "1772366401"}})),
            ada(),
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            "an unknown condition key lets nothing pass",
            allow(json!({"StringNotEquals": {"kms:Nothing": "x"}})),
            ada(),
            "ImplicitlyDenied",
            "Allowed",
        ),
        (
            "a key of several values without a set operator lets nothing pass",
            allow(json!({"StringNotEquals": {"kms:GrantOperations": "Decrypt"}})),
            ada(),
            "ImplicitlyDenied",
            "Allowed",
        ),
        (
            "${*} is a star for operators without wildcards, too",
            allow(json!({"StringEquals": {"kms:EncryptionContext:k": "a${*}"}})),
            with("k", "a*", ada()),
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            "a number is a number as a whole",
            allow(json!({"NumericEquals": {"kms:EncryptionContext:k": "12"}})),
            with("k", "12abc", ada()),
            "ImplicitlyDenied",
            "Allowed",
        ),
        (
            "an IPv6 address is outside of every IPv4 address",
            allow(json!({"NotIpAddress": {"aws:SourceIp": "10.0.0.1"}})),
            Asked { source: Some("::1".parse().expect("an address")), ..ada() },
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            "a key is the same in all regions",
            json!({"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "arn:aws:kms:eu-west-1:000000000000:key/*"}),
            ada(),
            "Allowed",
            "ImplicitlyDenied",
        ),
        (
            "0.0.0.0/0 is every IPv4 address",
            allow(json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}})),
            Asked { source: Some("10.0.0.1".parse().expect("an address")), ..ada() },
            "Allowed",
            "ImplicitlyDenied",
        ),
    ]
}

#[test]
#[ignore = "needs node and iam-simulate: scripts/test"]
fn the_listed_differences_are_still_there() {
    let listed = listed();
    let document = |statement: &Value| json!({"Version": "2012-10-17", "Statement": [statement]});
    let lines: Vec<Value> = listed.iter().map(|(_, statement, asked, _, _)| asked.line(&document(statement))).collect();
    for ((name, statement, asked, ours, theirs), answer) in listed.iter().zip(oracle(&lines)) {
        let policy = Policy::parse(&document(statement).to_string()).expect("a policy");
        assert_eq!((asked.ours(&policy), answer.as_str()), (*ours, *theirs), "{name}");
    }
}
