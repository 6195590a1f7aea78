//! Tables of what grants allow, what new ones must be like, and what tokens are worth.

use super::*;
use crate::crypto::Secret;
use crate::kms::authorize::{Reason, authorize, authorize_create_grant, authorize_retire_grant};
use crate::kms::policy::{ConditionKeys, Policy, Request};
use crate::kms::root_arn;
use crate::kms::service::Code;

const ARN: &str = "arn:aws:kms:local:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const NOW: u64 = 1000;

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn equals(all: &[(&str, &str)]) -> Option<Constraint> {
    Some(Constraint::Equals(pairs(all)))
}

fn subset(some: &[(&str, &str)]) -> Option<Constraint> {
    Some(Constraint::Subset(pairs(some)))
}

fn texts(operations: &[&str]) -> Vec<String> {
    operations.iter().map(|&operation| operation.to_owned()).collect()
}

/// A grant for ada.
fn grant(operations: &[&str], constraint: Option<Constraint>) -> Grant {
    Grant {
        id: "ab".repeat(32),
        key: KeyId("k".to_owned()),
        name: None,
        grantee: Principal::user("ada").arn(),
        retiring: Some(Principal::user("carol").arn()),
        issuer: root_arn(),
        operations: texts(operations),
        constraint,
        created: 1,
        expires: None,
        parent: None,
    }
}

fn mismatch(grant: &Grant, who: &str, action: &str, context: &[(&str, &str)]) -> Option<Mismatch> {
    let context = EncryptionContext::new(context.iter().copied()).unwrap();
    let keys = ConditionKeys::at(NOW).context(&context);
    grant.mismatch(&Request { principal: &Principal::user(who), action, resource: ARN, keys: &keys })
}

#[test]
fn a_grant_is_for_its_grantee_and_operations() {
    let grant = grant(&["Decrypt", "ReEncryptFrom", "CreateGrant"], None);
    assert_eq!(mismatch(&grant, "ada", "kms:Decrypt", &[]), None);
    assert_eq!(mismatch(&grant, "ada", "kms:ReEncryptFrom", &[("a", "b")]), None);
    assert_eq!(mismatch(&grant, "ada", "kms:ReEncryptTo", &[]), Some(Mismatch::Operation));
    assert_eq!(mismatch(&grant, "ada", "kms:decrypt", &[]), Some(Mismatch::Operation));
    assert_eq!(mismatch(&grant, "ada", "s3:Decrypt", &[]), Some(Mismatch::Operation));
    assert_eq!(
        mismatch(&grant, "ada", "kms:CreateGrant", &[]),
        Some(Mismatch::Operation),
        "that is decided with the child"
    );
    assert_eq!(mismatch(&grant, "bob", "kms:Decrypt", &[]), Some(Mismatch::Grantee));
    assert_eq!(mismatch(&grant, "Ada", "kms:Decrypt", &[]), Some(Mismatch::Grantee));
}

#[test]
fn constraints_are_exact_and_case_sensitive_and_only_for_what_has_a_context() {
    for (constraint, context, fits) in [
        (equals(&[("a", "1")]), &[("a", "1")][..], true),
        (equals(&[("a", "1")]), &[("a", "1"), ("b", "2")], false),
        (equals(&[("a", "1"), ("b", "2")]), &[("a", "1")], false),
        (equals(&[("a", "1")]), &[], false),
        (equals(&[("a", "1")]), &[("A", "1")], false),
        (equals(&[("a", "x")]), &[("a", "X")], false),
        (subset(&[("a", "1")]), &[("a", "1"), ("b", "2")], true),
        (subset(&[("a", "1")]), &[("a", "1")], true),
        (subset(&[("a", "1")]), &[("b", "2")], false),
        (subset(&[("a", "1")]), &[("a", "2")], false),
        (subset(&[("a", "1")]), &[("A", "1")], false),
        (subset(&[("a", "1"), ("b", "2")]), &[("a", "1")], false),
        (subset(&[("a", "bc")]), &[("ab", "c")], false),
    ] {
        let grant = grant(&["Decrypt", "GenerateDataKeyPair", "DescribeKey"], constraint.clone());
        let expected = (!fits).then_some(Mismatch::Context);
        assert_eq!(mismatch(&grant, "ada", "kms:Decrypt", context), expected, "{constraint:?} {context:?}");
        assert_eq!(mismatch(&grant, "ada", "kms:GenerateDataKeyPair", context), expected, "{constraint:?} {context:?}");
        assert_eq!(mismatch(&grant, "ada", "kms:DescribeKey", &[]), None);
    }
    let grant = grant(&["Decrypt"], subset(&[("a", "1")]));
    let keys = ConditionKeys::at(NOW);
    let request = Request { principal: &Principal::user("ada"), action: "kms:Decrypt", resource: ARN, keys: &keys };
    assert_eq!(grant.mismatch(&request), Some(Mismatch::Context), "no context is the empty one");
}

#[test]
fn a_grant_ends_at_its_second() {
    for (expires, expected) in [(NOW - 1, Some(Mismatch::Expired)), (NOW, Some(Mismatch::Expired)), (NOW + 1, None)] {
        let grant = Grant { expires: Some(expires), ..grant(&["Decrypt"], None) };
        assert_eq!(mismatch(&grant, "ada", "kms:Decrypt", &[]), expected);
    }
}

fn proposal<'a>(operations: &'a [String], constraint: Option<&'a Constraint>) -> Proposal<'a> {
    Proposal {
        grantee: "arn:aws:iam::000000000000:user/bob",
        retiring: None,
        operations,
        constraint,
        name: None,
        expires: None,
    }
}

#[test]
fn a_grant_passes_on_no_more_than_itself() {
    let (one, two) = (&[("a", "1")][..], &[("a", "1"), ("b", "2")][..]);
    let both = &["CreateGrant", "Decrypt"][..];
    for (held, outer, passed, inner, allowed) in [
        (both, None, &["Decrypt"][..], None, true),
        (both, None, &["Decrypt", "CreateGrant"], None, true),
        (both, None, &["Decrypt", "Encrypt"], None, false),
        (&["Decrypt"], None, &["Decrypt"], None, false),
        (both, None, &["Decrypt"], subset(one), true),
        (both, subset(one), &["Decrypt"], None, false),
        (both, subset(one), &["Decrypt"], subset(one), true),
        (both, subset(one), &["Decrypt"], subset(two), true),
        (both, subset(two), &["Decrypt"], subset(one), false),
        (both, subset(one), &["Decrypt"], equals(two), true),
        (both, subset(two), &["Decrypt"], equals(one), false),
        (both, equals(one), &["Decrypt"], equals(one), true),
        (both, equals(one), &["Decrypt"], equals(two), false),
        (both, equals(one), &["Decrypt"], subset(one), false),
        (both, equals(one), &["Decrypt"], subset(two), false),
        (both, subset(one), &["Decrypt"], subset(&[("a", "2")]), false),
    ] {
        let parent = grant(held, outer.clone());
        let operations = texts(passed);
        let keys = ConditionKeys::at(NOW);
        let ada = Principal::user("ada");
        let request = Request { principal: &ada, action: "kms:CreateGrant", resource: ARN, keys: &keys };
        let child = proposal(&operations, inner.as_ref());
        let policy = Policy::default_for_api();
        let decision = authorize_create_grant(&policy, [&parent], &request, &child);
        assert_eq!(decision.allowed, allowed, "{held:?} {outer:?} {passed:?} {inner:?}");
        let other = Principal::user("bob");
        assert!(!authorize_create_grant(&policy, [&parent], &Request { principal: &other, ..request }, &child).allowed);
        assert!(!authorize(&policy, [&parent], &request).allowed, "not without the child");
    }
}

#[test]
fn a_child_does_not_outlive_its_parent() {
    let parent = Grant { expires: Some(NOW + 10), ..grant(&["CreateGrant", "Decrypt"], None) };
    let operations = texts(&["Decrypt"]);
    let keys = ConditionKeys::at(NOW);
    let request = Request { principal: &Principal::user("ada"), action: "kms:CreateGrant", resource: ARN, keys: &keys };
    for (expires, expected) in [
        (None, Some(Mismatch::Wider)),
        (Some(NOW + 11), Some(Mismatch::Wider)),
        (Some(NOW + 10), None),
        (Some(NOW + 1), None),
    ] {
        assert_eq!(parent.mismatch_for_child(&request, &Proposal { expires, ..proposal(&operations, None) }), expected);
    }
    let late = ConditionKeys::at(NOW + 10);
    let request = Request { keys: &late, ..request };
    assert_eq!(parent.mismatch_for_child(&request, &proposal(&operations, None)), Some(Mismatch::Expired));
}

#[test]
fn policies_and_grants_add_up_and_a_deny_beats_both() {
    let deny = r#"{"Version":"2012-10-17","Statement":[
        {"Sid":"owner","Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"kms:*","Resource":"*"},
        {"Effect":"Deny","Principal":"*","Action":["kms:Decrypt","kms:RetireGrant"],"Resource":"*",
         "Condition":{"StringEquals":{"kms:ViaService":"kmsfs.local"}}}]}"#;
    let policy = Policy::parse(deny).unwrap();
    let grants = [grant(&["Encrypt"], None), Grant { id: "cd".repeat(32), ..grant(&["Decrypt"], None) }];
    let (plain, via) =
        (ConditionKeys::at(NOW), ConditionKeys::at(NOW).with(crate::kms::policy::Key::ViaService, "kmsfs.local"));
    let (root, ada, bob) = (Principal::Root, Principal::user("ada"), Principal::user("bob"));
    let ask = |principal: &Principal, keys: &ConditionKeys<'_>| {
        let decision = authorize(&policy, &grants, &Request { principal, action: "kms:Decrypt", resource: ARN, keys });
        (decision.allowed, decision.reason.to_string())
    };
    assert_eq!(ask(&root, &plain), (true, "statement 1 (owner)".to_owned()));
    assert_eq!(ask(&ada, &plain), (true, format!("grant {}", "cd".repeat(32))));
    assert_eq!(ask(&bob, &plain), (false, "no statement and no grant allows it".to_owned()));
    assert_eq!(ask(&ada, &via), (false, "statement 2".to_owned()));
    assert_eq!(ask(&root, &via), (false, "statement 2".to_owned()));
}

#[test]
fn who_may_retire_a_grant() {
    let own = grant(&["Decrypt"], None);
    let retirable = grant(&["Decrypt", "RetireGrant"], None);
    let generous =
        Policy::parse(r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}}"#).unwrap();
    let denying = Policy::parse(
        r#"{"Statement":{"Sid":"keep","Effect":"Deny","Principal":"*","Action":"kms:RetireGrant","Resource":"*"}}"#,
    )
    .unwrap();
    let keys = ConditionKeys::at(NOW);
    for (principal, grant, may) in [
        (Principal::Root, &own, true),
        (Principal::user("carol"), &own, true),
        (Principal::user("ada"), &own, false),
        (Principal::user("ada"), &retirable, true),
        (Principal::user("bob"), &retirable, false),
    ] {
        let request = Request { principal: &principal, action: "kms:RetireGrant", resource: ARN, keys: &keys };
        assert_eq!(
            authorize_retire_grant(&generous, grant, &request).allowed,
            may,
            "{principal:?}: a policy allows no retiring"
        );
        let denied = authorize_retire_grant(&denying, grant, &request);
        assert_eq!((denied.allowed, denied.reason), (false, Reason::Statement { number: 1, sid: Some("keep") }));
    }
}

#[test]
fn new_grants_keep_to_the_limits() {
    let check = |change: &dyn Fn(&mut Proposal<'_>), spec: &str| {
        let operations = texts(&["Decrypt"]);
        let mut proposal = proposal(&operations, None);
        change(&mut proposal);
        check_proposal(&proposal, spec, NOW).map_err(|error| error.code)
    };
    let symmetric = "SYMMETRIC_DEFAULT";
    assert_eq!(check(&|_| (), symmetric), Ok(()));
    for (name, fits) in [("a:/_-9", true), ("", false), ("a b", false), ("\u{e9}", false)] {
        assert_eq!(check(&|p| p.name = Some(name), symmetric).is_ok(), fits, "{name}");
    }
    let (longest, longer) = ("n".repeat(256), "n".repeat(257));
    for (name, fits) in [(&longest, true), (&longer, false)] {
        let operations = texts(&["Decrypt"]);
        let named = Proposal { name: Some(name), ..proposal(&operations, None) };
        assert_eq!(check_proposal(&named, symmetric, NOW).is_ok(), fits);
    }
    for arn in [
        "ada",
        "*",
        "000000000000",
        "arn:aws:iam::000000000000:group/x",
        "arn:aws:iam::000000000000:user/*",
        "ses.amazonaws.com",
    ] {
        assert_eq!(check(&|p| p.grantee = arn, symmetric), Err(Code::InvalidArn), "{arn}");
        assert_eq!(check(&|p| p.retiring = Some(arn), symmetric), Err(Code::InvalidArn), "{arn}");
    }
    assert_eq!(check(&|p| p.grantee = "arn:aws:iam::000000000000:root", symmetric), Ok(()));
    assert_eq!(check(&|p| p.operations = &[], symmetric), Err(Code::Validation));
    for (expires, expected) in [(NOW, Err(Code::Validation)), (NOW + 1, Ok(()))] {
        assert_eq!(check(&|p| p.expires = Some(expires), symmetric), expected);
    }
}

#[test]
fn operations_must_suit_the_key() {
    let check = |operation: &str, spec: &str| check_proposal(&proposal(&texts(&[operation]), None), spec, NOW).is_ok();
    for operation in OPERATIONS {
        let (symmetric, rsa) = match *operation {
            "Encrypt" | "Decrypt" | "ReEncryptFrom" | "ReEncryptTo" | "CreateGrant" | "RetireGrant" | "DescribeKey" => {
                (true, true)
            }
            "GetPublicKey" => (false, true),
            other => (other.starts_with("GenerateDataKey"), false),
        };
        assert_eq!(check(operation, "SYMMETRIC_DEFAULT"), symmetric, "{operation}");
        assert_eq!(check(operation, "RSA_2048"), rsa, "{operation}");
    }
    assert!(!check("decrypt", "SYMMETRIC_DEFAULT"));
    assert!(!check("PutKeyPolicy", "SYMMETRIC_DEFAULT"));
}

#[test]
fn constraints_of_new_grants_are_bounded() {
    let check = |constraint: &Constraint, spec: &str| {
        check_proposal(&proposal(&texts(&["Decrypt"]), Some(constraint)), spec, NOW).map_err(|error| error.code)
    };
    let many = |count: usize| Constraint::Subset((0..count).map(|n| (format!("k{n}"), String::new())).collect());
    assert_eq!(check(&many(8), "SYMMETRIC_DEFAULT"), Ok(()));
    assert_eq!(check(&many(9), "SYMMETRIC_DEFAULT"), Err(Code::Validation));
    assert_eq!(check(&many(0), "SYMMETRIC_DEFAULT"), Err(Code::Validation));
    assert_eq!(check(&many(1), "RSA_4096"), Err(Code::Validation));
    let long = |length: usize| Constraint::Equals(BTreeMap::from([("key".to_owned(), "\u{e9}".repeat(length - 3))]));
    assert_eq!(check(&long(384), "SYMMETRIC_DEFAULT"), Ok(()));
    assert_eq!(check(&long(385), "SYMMETRIC_DEFAULT"), Err(Code::Validation));
    let empty_key = Constraint::Equals(BTreeMap::from([(String::new(), "x".to_owned())]));
    assert_eq!(check(&empty_key, "SYMMETRIC_DEFAULT"), Err(Code::Validation));
}

#[test]
fn tokens_name_their_grant_and_cannot_be_made_up() {
    let tokens = TokenKey::derive(&Secret::random());
    let id = "0123456789abcdef".repeat(4);
    let token = tokens.issue(&id);
    assert_eq!(tokens.open(&token).as_deref(), Ok(id.as_str()));
    let second = tokens.issue(&id);
    assert_ne!(token, second, "each answer of CreateGrant has its own");
    assert_eq!(tokens.open(&second).as_deref(), Ok(id.as_str()));
    let refused = |token: &str| assert_eq!(tokens.open(token).unwrap_err().code, Code::InvalidGrantToken, "{token}");
    for garbage in
        ["", "x", "AQ", &token[1..], &format!("{token}A"), &"A".repeat(token.len()), &"A".repeat(8192), "\u{e9}"]
    {
        refused(garbage);
    }
    assert!(TokenKey::derive(&Secret::random()).open(&token).is_err(), "of another keystore");
    let bytes = data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut forged = bytes.clone();
            forged[at] ^= 1 << bit;
            refused(&data_encoding::BASE64URL_NOPAD.encode(&forged));
        }
    }
}

#[test]
fn tokens_of_another_key_are_refused_and_those_of_gone_grants_give_nothing() {
    let tokens = TokenKey::derive(&Secret::random());
    let live = grant(&["Decrypt"], None);
    let issued = vec![tokens.issue(&live.id), tokens.issue(&"00".repeat(32))];
    let find = |id: &str| Some(&live).filter(|grant| grant.id == id);
    assert_eq!(tokens.check(&issued, &live.key, find), Ok(()));
    let other = KeyId("other".to_owned());
    assert_eq!(tokens.check(&issued, &other, find).unwrap_err().code, Code::InvalidGrantToken);
    assert_eq!(tokens.check(&issued[1..], &other, find), Ok(()));
    assert_eq!(tokens.check(&["x".to_owned()], &live.key, find).unwrap_err().code, Code::InvalidGrantToken);
}
