//! The KMS by hand: every verb of the command line that is an operation of AWS KMS, through files and standard input.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Home {
    dir: TempDir,
}

fn program() -> PathBuf {
    std::env::var_os("KMSFS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_kmsfs").into()).into()
}

impl Home {
    /// A keystore with the key alias/kmsfs/default.
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        fs::write(home.at("keyfile"), [b'k'; 64]).expect("write");
        fs::set_permissions(home.at("keyfile"), fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::create_dir(home.at("vault")).expect("mkdir");
        let vault = home.at("vault").display().to_string();
        home.ok(&["init", &vault]);
        home
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(program())
            .args(arguments)
            .args(["--keyfile", &self.path("keyfile")])
            .env("KMSFS_KEYSTORE", self.at("keystore"))
            .env("XDG_DATA_HOME", self.at("data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kmsfs starts");
        // A command that does not read may have ended already.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        child.wait_with_output().expect("kmsfs ends")
    }

    #[track_caller]
    fn ok_with(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let outcome = self.run(arguments, input);
        assert!(outcome.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&outcome.stderr));
        outcome.stdout
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.ok_with(arguments, b"")).expect("text")
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("JSON")
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let outcome = self.run(arguments, b"");
        let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert_eq!(outcome.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains("Next: "), "{text}");
        text
    }
}

const KEY: &str = "alias/kmsfs/default";

#[test]
fn bytes_go_through_pipes_and_files() {
    let home = Home::new();
    let secret = b"a secret\0with zeros\n".as_slice();
    let sealed = home.ok_with(&["encrypt", KEY, "--context", "team=blue"], secret);
    assert!(sealed.len() > secret.len() && sealed != secret);
    assert_eq!(home.ok_with(&["decrypt", "--context", "team=blue"], &sealed), secret);
    fs::write(home.at("sealed"), &sealed).expect("write");
    let (sealed, plain, moved) = (home.path("sealed"), home.path("plain"), home.path("moved"));
    home.ok(&["decrypt", "--in", &sealed, "--out", &plain, "--context", "team=blue"]);
    assert_eq!(fs::read(&plain).expect("read"), secret);
    assert_eq!(fs::metadata(&plain).expect("stat").permissions().mode() & 0o777, 0o600);
    home.refused(&["decrypt", "--in", &sealed, "--out", &plain, "--context", "team=blue"], 2);
    let said = home.refused(&["decrypt", "--in", &sealed, "--context", "team=red"], 8);
    assert!(said.contains("InvalidCiphertextException") && said.contains("wrong encryption context"), "{said}");
    let arguments = ["re-encrypt", KEY, "--in", &sealed, "--out", &moved];
    home.ok(&[&arguments[..], &["--source-context", "team=blue", "--destination-context", "team=red"]].concat());
    assert_eq!(home.ok_with(&["decrypt", "--in", &moved, "--context", "team=red"], b""), secret);
    let answer = home.json(&["decrypt", "--in", &moved, "--context", "team=red", "--json"]);
    let members: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["EncryptionAlgorithm", "KeyId", "KeyMaterialId", "Plaintext"]);
    let long = vec![1; 4097];
    let outcome = home.run(&["encrypt", KEY], &long);
    assert_eq!(outcome.status.code(), Some(2));
    assert_eq!(home.ok_with(&["generate-random", "16"], b"").len(), 16);
}

#[test]
fn data_keys_and_key_pairs_come_with_their_wrapped_halves() {
    let home = Home::new();
    let (plain, wrapped) = (home.path("key"), home.path("wrapped"));
    home.ok(&["generate-data-key", KEY, "--bytes", "16", "--plaintext", &plain, "--out", &wrapped]);
    assert_eq!(home.ok_with(&["decrypt", "--in", &wrapped], b""), fs::read(&plain).expect("read"));
    let silent = home.ok_with(&["generate-data-key", KEY, "--without-plaintext"], b"");
    assert_eq!(home.ok_with(&["decrypt"], &silent).len(), 32);
    let (private, public, blob) = (home.path("private"), home.path("public"), home.path("blob"));
    let pair = ["generate-data-key-pair", KEY, "--spec", "ECC_NIST_P256", "--private", &private, "--public", &public];
    home.ok(&[&pair[..], &["--out", &blob]].concat());
    assert_eq!(home.ok_with(&["decrypt", "--in", &blob], b""), fs::read(&private).expect("read"));
    home.ok(&["key", "create", "--spec", "RSA_2048", "--alias", "alias/inbox"]);
    let der = home.ok_with(&["get-public-key", "alias/inbox"], b"");
    assert_eq!(der.len(), 294);
    let oaep = ["--algorithm", "RSAES_OAEP_SHA_256"];
    let sealed = home.ok_with(&[&["encrypt", "alias/inbox"], &oaep[..]].concat(), b"letter");
    assert_eq!(home.ok_with(&[&["decrypt", "--key", "alias/inbox"], &oaep[..]].concat(), &sealed), b"letter");
}

/// A key whose wrapped copy cannot be kept is not made, and no part of an answer stays without the others.
#[test]
fn keys_are_written_with_all_their_parts_or_not_at_all() {
    let home = Home::new();
    let (plain, taken) = (home.path("plain"), home.path("taken"));
    fs::write(home.at("taken"), "mine").expect("write");
    let data_key = ["generate-data-key", KEY, "--plaintext", &plain, "--out"];
    assert!(home.refused(&[&data_key[..], &[&taken]].concat(), 2).contains("exists"));
    assert!(!home.at("plain").exists());
    home.refused(&[&data_key[..], &["/nowhere/x"]].concat(), 1);
    assert!(!home.at("plain").exists());
    home.refused(&["generate-data-key", KEY, "--plaintext", &plain, "--out", &plain], 2);
    home.refused(&["generate-data-key", "alias/none", "--plaintext", &plain, "--out", &home.path("blob")], 8);
    assert!(!home.at("plain").exists() && !home.at("blob").exists());
    let pair = ["generate-data-key-pair", KEY, "--spec", "ECC_NIST_P256", "--private", &plain, "--public", &taken];
    home.refused(&[&pair[..], &["--out", &home.path("blob")]].concat(), 2);
    assert!(!home.at("plain").exists() && !home.at("blob").exists());
    assert_eq!(fs::read(home.at("taken")).expect("read"), b"mine");
    home.ok(&[&data_key[..], &[&home.path("blob")]].concat());
    assert_eq!(home.ok_with(&["decrypt", "--in", &home.path("blob")], b""), fs::read(&plain).expect("read"));
}

#[test]
fn json_is_printed_and_goes_into_no_file() {
    let home = Home::new();
    let file = home.path("file");
    for arguments in [
        &["encrypt", KEY, "--out", &file][..],
        &["generate-random", "16", "--out", &file],
        &["generate-data-key", KEY, "--plaintext", &file],
        &["generate-data-key", KEY, "--out", &file],
        &["generate-data-key-pair", KEY, "--spec", "ECC_NIST_P256", "--private", &file],
        &["generate-data-key-pair", KEY, "--spec", "ECC_NIST_P256", "--public", &file],
    ] {
        let refused = home.run(&[arguments, &["--json"]].concat(), b"");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("--json"), "{arguments:?}: {said}");
    }
    assert!(!home.at("file").exists());
    assert!(home.json(&["generate-data-key", KEY, "--json"])["Plaintext"].is_string());
}

#[test]
fn policies_grants_tags_and_rotation_are_shown_and_changed() {
    let home = Home::new();
    assert_eq!(home.ok(&["policy", "list", KEY]), "default\n");
    let policy = home.ok(&["policy", "get", KEY]);
    assert!(policy.contains("Allow use through mounts"));
    let file = home.path("policy.json");
    fs::write(&file, policy.replace("Allow use through mounts", "Mounts")).expect("write");
    home.ok(&["policy", "put", KEY, &file]);
    assert!(home.ok(&["policy", "get", KEY]).contains("\"Mounts\""));
    fs::write(&file, "{}").expect("write");
    assert!(home.refused(&["policy", "put", KEY, &file], 2).contains("MalformedPolicyDocumentException"));

    let made = home.json(&[
        "grant",
        "create",
        KEY,
        "--grantee",
        "ada",
        "--operations",
        "Decrypt,DescribeKey",
        "--context-subset",
        "team=blue",
        "--expires",
        "2999-01-01T00:00:00Z",
        "--json",
    ]);
    let id = made["GrantId"].as_str().expect("an id");
    let listed = home.json(&["grant", "list", KEY, "--json"]);
    assert_eq!(listed["Grants"][0]["GranteePrincipal"], "arn:aws:iam::000000000000:user/ada");
    assert_eq!(listed["Grants"][0]["Constraints"], json!({ "EncryptionContextSubset": { "team": "blue" } }));
    assert!(home.ok(&["grant", "list", KEY]).contains("2999-01-01T00:00:00Z"));
    home.ok(&["grant", "revoke", KEY, id]);
    home.refused(&["grant", "revoke", KEY, id], 8);
    let token = home.json(&["grant", "create", KEY, "--grantee", "ada", "--operations", "Decrypt", "--json"]);
    home.ok(&["grant", "retire", "--token", token["GrantToken"].as_str().expect("a token")]);
    assert_eq!(home.json(&["grant", "list", KEY, "--json"])["Grants"], json!([]));

    let grantee = |user: &str| {
        let made = home.run(&["grant", "create", KEY, "--grantee", user, "--operations", "Decrypt", "--json"], b"");
        let id: Value = serde_json::from_slice(&made.stdout).expect("JSON");
        let listed = home.json(&["grant", "list", KEY, "--grantee", user, "--json"]);
        home.ok(&["grant", "revoke", KEY, id["GrantId"].as_str().expect("an id")]);
        let arn = listed["Grants"][0]["GranteePrincipal"].as_str().expect("an ARN").to_owned();
        (arn.replace("arn:aws:iam::000000000000:", ""), String::from_utf8_lossy(&made.stderr).contains("no user"))
    };
    assert_eq!(grantee("daemon"), ("user/daemon".into(), false));
    assert_eq!(grantee("no-such-user"), ("user/no-such-user".into(), true));
    assert_eq!(grantee("uid/54321"), ("user/uid/54321".into(), false));
    assert_eq!(grantee("arn:aws:iam::000000000000:user/eve"), ("user/eve".into(), false));
    assert_eq!(grantee("root"), ("root".into(), false));
    let keystore = home.at("keystore");
    std::os::unix::fs::chown(&keystore, Some(1), None).expect("chown");
    assert_eq!(grantee("daemon"), ("root".into(), false), "the owner");
    std::os::unix::fs::chown(&keystore, Some(0), None).expect("chown");

    home.ok(&["key", "tag", KEY, "team=blue", "use=test"]);
    home.ok(&["key", "untag", KEY, "use"]);
    assert_eq!(home.ok(&["key", "tags", KEY]), "team  blue\n");
    home.ok(&["key", "update-description", KEY, "for tests"]);
    assert!(home.ok(&["key", "describe", KEY]).contains("for tests"));
    home.ok(&["key", "enable-rotation", KEY, "--days", "90"]);
    assert_eq!(home.json(&["key", "rotation-status", KEY, "--json"])["RotationPeriodInDays"], 90);
    assert_eq!(home.json(&["key", "rotate", KEY, "--json"])["version"], 2);
    assert_eq!(home.json(&["key", "rotations", KEY, "--json"])["Rotations"][0]["RotationType"], "ON_DEMAND");
    home.ok(&["encrypt", KEY, "--out", &home.path("x"), "--in", &home.path("keyfile")]);
    assert_eq!(home.json(&["key", "last-usage", KEY, "--json"])["KeyLastUsage"]["Operation"], "Encrypt");
    home.ok(&["alias", "create", "alias/second", KEY]);
    let described = home.json(&["kms", "DescribeKey", r#"{"KeyId":"alias/second"}"#]);
    assert_eq!(described["KeyMetadata"]["Description"], "for tests");
    assert!(home.refused(&["kms", "Sign"], 8).contains("UnsupportedOperationException"));
    home.refused(&["kms", "DescribeKey", "["], 2);
    let mut audit = Command::new(program());
    audit.args(["audit", "list", "--operation", "TagResource"]).env("KMSFS_KEYSTORE", home.at("keystore"));
    let listed = audit.output().expect("kmsfs audit").stdout;
    assert!(String::from_utf8_lossy(&listed).contains("TagResource"));
}

#[test]
fn it_is_told_which_statement_or_grant_decides() {
    let home = Home::new();
    let ask = ["key", "explain", KEY, "--user", "daemon", "--context", "team=blue"];
    let said = home.ok(&ask);
    assert!(said.contains("DENIED") && said.contains("kms:ViaService wants kmsfs.local and it is absent"), "{said}");
    let said = home.ok(&[&ask[..], &["--via-mount"]].concat());
    assert!(said.contains("ALLOWED: statement 2 (Allow use through mounts)"), "{said}");
    let grant = ["grant", "create", KEY, "--grantee", "daemon", "--operations", "Decrypt", "--json"];
    let made = home.json(&[&grant[..], &["--context-subset", "team=blue"]].concat());
    let answer = home.json(&[&ask[..], &["--json"]].concat());
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["reason"], format!("grant {}", made["GrantId"].as_str().expect("an id")));
    assert_eq!(home.json(&["key", "explain", KEY, "--user", "daemon", "--json"])["allowed"], false);
    assert!(home.ok(&["key", "explain", KEY, "--action", "PutKeyPolicy"]).contains("ALLOWED: statement 1"));
    assert!(home.refused(&["key", "explain", KEY, "--action", "Decrpyt"], 2).contains("no action on a key"));
    assert!(home.refused(&["key", "explain", KEY, "--user", "no-such-user"], 2).contains("no-such-user"));
    // As mounts see them: by number who has no name, or who stands for several.
    for (user, principal) in [("uid/54321", "user/uid/54321"), ("nobody", "user/uid/65534"), ("uid/1", "user/daemon")] {
        assert!(home.ok(&["key", "explain", KEY, "--user", user]).contains(&format!(":{principal} kms:")), "{user}");
    }

    let file = home.path("policy.json");
    let deny = r#"{"Version":"2012-10-17","Statement":[{"Sid":"No","Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}"#;
    fs::write(&file, deny).expect("write");
    let simulate = ["policy", "simulate", &file, KEY, "--user", "daemon", "--context", "team=blue"];
    assert!(home.ok(&simulate).contains("DENIED: statement 1 (No)"));
    assert_eq!(home.json(&[&ask[..], &["--json"]].concat())["allowed"], true, "nothing was changed");
    fs::write(&file, "{").expect("write");
    home.refused(&simulate, 2);
}

#[test]
fn a_plaintext_is_not_taken_from_the_arguments() {
    let home = Home::new();
    let parameters = format!(r#"{{"KeyId": "{KEY}", "Plaintext": "c2VjcmV0"}}"#);
    let said = home.refused(&["kms", "Encrypt", &parameters], 2);
    assert!(said.contains("standard input") && !said.contains("c2VjcmV0"), "{said}");
    let made = home.ok_with(&["kms", "Encrypt", "-"], parameters.as_bytes());
    assert!(String::from_utf8(made).expect("text").contains("CiphertextBlob"));
}
