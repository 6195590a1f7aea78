//! Every rule of `architecture.rs` can fail: planted violations are found, lawful code passes.

use super::{MAX_LINES, Source, check};

/// Checks one planted file.
fn plant(path: &str, text: &str) -> Vec<String> {
    check(&[Source { path: path.into(), text: text.into() }])
}

#[track_caller]
fn finds(path: &str, text: &str, expected: &str) {
    let faults = plant(path, text);
    assert!(
        faults.len() == 1 && faults[0].starts_with(&format!("src/{path}:{expected}")),
        "expected one fault `{expected}`, found {faults:?}"
    );
}

#[track_caller]
fn accepts(path: &str, text: &str) {
    assert_eq!(plant(path, text), Vec::<String>::new());
}

#[test]
fn planted_arrows_are_found() {
    finds("content/page.rs", "\nuse crate::kms::KeyId;", "2: content must not use kms");
    finds("content/page.rs", "use super::super::kms;", "1: content must not use kms");
    finds("content/page.rs", "use crate::{crypto::Nonce, kms::KeyId};", "1: content must not use kms");
    finds("fuse/mod.rs", "//! x\nfn f(x: &crate::content::Durability) {}", "2: fuse must not use content");
    finds("names/mod.rs", "//! x\nmod a { fn f() { super::super::sys::now() } }", "2: names must not use sys");
    finds("kms/a/b.rs", "macro_rules! m { () => { $crate::fs::go() }; }", "1: kms must not use fs");
    finds("fs/a.rs", "fn f() { assert!(crate::fuse::up()); }", "1: fs must not use fuse");
    finds("main.rs", "fn main() { kmsfs::fs::run() }", "1: main.rs must not use fs");
    finds("fs/a.rs", "use crate::helpers::x;", "1: fs uses `helpers` of the crate root");
    finds("helpers/mod.rs", "//! x\n", "1: `helpers` is no room");
}

#[test]
fn planted_crates_are_found() {
    finds("fs/mod.rs", "//! x\nuse fuser::Errno;", "2: the crate fuser");
    finds("fs/a.rs", "fn f() -> i32 { libc::EIO }", "1: the crate libc");
    finds("fs/a.rs", "fn f() -> i32 { ::libc::EIO }", "1: the crate libc");
    finds("kms/policy.rs", "use {sled::Db, std::io};", "1: the crate sled");
    finds("kms/blob.rs", "use aes_gcm as gcm;", "1: the crate aes_gcm");
    finds("content/a.rs", "fn f() { log::warn!(\"x\") }", "1: the crate log");
    finds("fs/a.rs", "extern crate fuser;", "1: the crate fuser");
    finds("fs/a.rs", "#[derive(clap::Parser)] struct A;", "1: the crate clap");
}

#[test]
fn planted_unsafe_globs_and_texts_are_found() {
    finds("sys/a.rs", "fn f() { unsafe { g() } }", "1: unsafe outside");
    finds("sys/a.rs", "#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }", "2: unsafe outside");
    finds("sys/a.rs", "use std::io::*;", "1: glob import");
    finds("sys/a.rs", "use std::{fs, io::{self, *}};", "1: glob import");
    finds("sys/mod.rs", "fn f() {}\n", "1: a folder's mod.rs");
    finds("sys/a.rs", "// caf\u{e9}\n", "1: not ASCII");
    finds("sys/a.rs", "fn f() {\n", "1: cannot be read");
    finds("sys/a.rs", &"fn f() {}\n".repeat(MAX_LINES + 1), "1: 451 lines");
}

#[test]
fn lawful_code_is_accepted() {
    accepts(
        "fs/a.rs",
        "use crate::{content::{self, Page}, kms::Kms};\nuse super::table::Table;\nuse super::super::fs::b;",
    );
    accepts("fs/a.rs", "// use fuser::Errno;\n/* unsafe */ const S: &str = \"use crate::fuse::*; unsafe\";");
    accepts("fuse/mod.rs", "//! x\nuse fuser::Errno;\nuse crate::fs::EncryptedFs;\npub(crate) fn f() {}");
    accepts("kms/keystore/db.rs", "use sled::Db;");
    accepts(
        "fs/a.rs",
        "#[cfg(test)]\nmod tests { use super::*; use crate::fuse::X; use sled::Db; }\nfn f() -> u64 { 1 * 2 }",
    );
    accepts("kms/a.rs", "fn f() { audit::log::write(); Vec::<u8>::new(); x.log(); }");
    accepts("main.rs", "fn main() { kmsfs::cli::run() }");
    let long = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn t() {}\n".repeat(2 * MAX_LINES));
    accepts("fs/a.rs", &long);
}

#[test]
fn a_test_file_declared_elsewhere_is_known_as_one() {
    let declares = Source { path: "fs/mod.rs".into(), text: "//! x\n#[cfg(test)]\nmod tests;\n".into() };
    let body = Source { path: "fs/tests.rs".into(), text: "use super::*;\nuse crate::fuse::Adapter;\n".into() };
    assert_eq!(check(&[declares, body]), Vec::<String>::new());
}
