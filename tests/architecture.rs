//! Enforces the architecture: which room may use which, which room may name which external crate,
//! where `unsafe` may stand, and how large a file may grow.
//!
//! Sources are read as token trees, so comments, strings and formatting hide and forge nothing.
//! Code under `#[cfg(test)]` may use any room and any crate; the other rules hold for it too.
//! `architecture/planted.rs` proves for each rule that a violation is found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

#[path = "architecture/planted.rs"]
mod planted;

/// Every room, and the rooms that it may use besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["fuse", "fs", "maintain", "content", "envelope", "names", "kms", "sys", "crypto"]),
    ("fuse", &["fs", "sys"]),
    ("maintain", &["fs", "content", "envelope", "names", "kms", "sys", "crypto"]),
    ("fs", &["content", "envelope", "names", "kms", "sys", "crypto"]),
    ("envelope", &["kms", "sys", "crypto"]),
    ("content", &["crypto"]),
    ("names", &["crypto"]),
    ("kms", &["crypto"]),
    ("crypto", &[]),
    ("sys", &[]),
];

/// External crates that are confined, and the path prefixes below src/ that may name them.
const CRATES: &[(&[&str], &[&str])] = &[
    (&["fuser"], &["fuse/"]),
    (&["sled"], &["kms/keystore.rs", "kms/keystore/"]),
    (
        &[
            "aes",
            "aes_gcm",
            "aes_siv",
            "polyval",
            "xts_mode",
            "aws_lc_rs",
            "aws_lc_sys",
            "hkdf",
            "hmac",
            "sha2",
            "argon2",
        ],
        &["crypto/"],
    ),
    (&["libc", "rustix", "nix"], &["sys/"]),
    (&["clap", "clap_complete", "clap_mangen", "rpassword", "indicatif", "sd_notify"], &["cli/", "main.rs"]),
    (&["log"], &["cli/", "fuse/", "fs/", "maintain/", "envelope/", "names/", "kms/", "sys/", "main.rs"]),
    (
        &[
            "tokio",
            "tokio_rustls",
            "hyper",
            "hyper_util",
            "http_body_util",
            "axum",
            "tower",
            "http",
            "rustls",
            "reqwest",
            "ureq",
        ],
        &["kms/api/"],
    ),
];

/// Files that may say `unsafe`, each with the reason. An entry whose file is gone is a fault.
const UNSAFE: &[(&str, &str)] = &[
    ("crypto/aws_xts.rs", "AWS-LC has the fastest XTS, and aws-lc-rs gives no safe access to it"),
    ("sys/allocator.rs", "mallopt(3) takes two numbers, and no crate wraps it"),
    ("sys/control.rs", "ioctl(2) takes a pointer, and no crate wraps a number of our own safely"),
    ("sys/push.rs", "sync_file_range(2) takes a descriptor and numbers, and no crate wraps it"),
];

/// The most lines of a file that are neither blank nor test code.
const MAX_LINES: usize = 450;

/// One source file: its path below src/ with forward slashes, and its text.
struct Source {
    path: String,
    text: String,
}

/// A file while it is being checked.
struct Checker<'a> {
    source: &'a Source,
    /// The module path of the file, extended by the inline modules around the current token.
    module: Vec<String>,
    /// Inside code that only tests compile.
    in_test: bool,
    test_lines: BTreeSet<usize>,
    faults: Vec<String>,
}

impl Checker<'_> {
    fn fault(&mut self, line: usize, what: &str) {
        self.faults.push(format!("src/{}:{line}: {what}", self.source.path));
    }

    /// Walks one level of token trees; groups are entered recursively.
    fn walk(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            if let Some((end, was_test)) = self.test_item(tokens, at) {
                self.walk_test_item(&tokens[at..end], was_test);
                at = end;
                continue;
            }
            match &tokens[at] {
                TokenTree::Ident(word) if *word == "use" => {
                    let end = (at..tokens.len()).find(|&i| punct(&tokens[i]) == Some(';')).unwrap_or(tokens.len());
                    self.use_tree(&tokens[at + 1..end], &[]);
                    at = end;
                }
                TokenTree::Ident(word) if *word == "mod" && is_inline_module(tokens, at) => {
                    let TokenTree::Group(body) = &tokens[at + 2] else { unreachable!("is_inline_module looked") };
                    self.module.push(tokens[at + 1].to_string());
                    self.walk_group(body);
                    self.module.pop();
                    at += 2;
                }
                TokenTree::Ident(word) => {
                    let line = word.span().start().line;
                    if *word == "unsafe" {
                        self.unsafe_word(line);
                    } else if *word == "extern" && is_word(tokens.get(at + 1), "crate") {
                        self.path(&path_from(tokens, at + 2), line);
                    } else if starts_path(tokens, at) {
                        let path: Vec<String> = path_from(tokens, at);
                        self.path(&path, line);
                        // `use` handles groups; elsewhere a path is plain words, so skip over them.
                        at += (path.len() - 1) * 3;
                    }
                }
                TokenTree::Group(group) => self.walk_group(group),
                _ => {}
            }
            at += 1;
        }
    }

    fn walk_group(&mut self, group: &Group) {
        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
        self.walk(&inner);
    }

    /// If a `#[cfg(test)]` item starts here: where it ends, and whether a test surrounded it already.
    fn test_item(&self, tokens: &[TokenTree], at: usize) -> Option<(usize, bool)> {
        (punct(&tokens[at]) == Some('#') && tokens.get(at + 1).is_some_and(is_cfg_test))
            .then(|| (item_end(tokens, at + 2), self.in_test))
    }

    fn walk_test_item(&mut self, item: &[TokenTree], was_test: bool) {
        self.in_test = true;
        let last = item.last().expect("an item has at least its attribute").span();
        self.test_lines.extend(item[0].span().start().line..=last.end().line);
        self.walk(&item[2..]);
        self.in_test = was_test;
    }

    fn unsafe_word(&mut self, line: usize) {
        if !UNSAFE.iter().any(|(file, _)| *file == self.source.path) {
            self.fault(line, "unsafe outside the allow-list of tests/architecture.rs");
        }
    }

    /// A `use` tree without its keyword and semicolon, below the segments that precede it.
    fn use_tree(&mut self, tree: &[TokenTree], before: &[String]) {
        for branch in tree.split(|token| punct(token) == Some(',')) {
            let mut segments = before.to_vec();
            let mut line = branch.first().map_or(0, |token| token.span().start().line);
            let mut closed = false;
            for token in branch {
                match token {
                    TokenTree::Ident(word) if *word == "as" => break,
                    TokenTree::Ident(word) => {
                        line = word.span().start().line;
                        segments.push(word.to_string());
                    }
                    TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                        self.use_tree(&inner, &segments);
                        closed = true;
                    }
                    TokenTree::Punct(mark) if mark.as_char() == '*' && !self.in_test => {
                        self.fault(mark.span().start().line, "glob import outside tests");
                    }
                    _ => {}
                }
            }
            if !closed && !segments.is_empty() {
                self.path(&segments, line);
            }
        }
    }

    /// Judges one path by where it starts.
    fn path(&mut self, path: &[String], line: usize) {
        if self.in_test {
            return;
        }
        if let Some(target) = self.room_of(path) {
            self.arrow(&target, line);
        } else if !matches!(path[0].as_str(), "crate" | "self" | "super" | "Self") {
            self.external(&path[0], line);
        }
    }

    /// The top-level module that a path leads to through `crate::` or by climbing with `super::`.
    fn room_of(&self, path: &[String]) -> Option<String> {
        let mut rest = path;
        let mut depth = match path[0].as_str() {
            "crate" => 0,
            "self" | "super" => self.module.len(),
            // main.rs is its own crate and sees the rooms through the library.
            "kmsfs" => 0,
            _ => return None,
        };
        if matches!(path[0].as_str(), "crate" | "self" | "kmsfs") {
            rest = &rest[1..];
        }
        while rest.first().is_some_and(|word| word == "super") {
            depth = depth.saturating_sub(1);
            rest = &rest[1..];
        }
        (depth == 0).then(|| rest.first().cloned()).flatten()
    }

    fn arrow(&mut self, target: &str, line: usize) {
        let home = room(&self.source.path);
        if !ARROWS.iter().any(|(name, _)| *name == target) {
            // An item of the crate root: only the rooms live there.
            self.fault(line, &format!("{home} uses `{target}` of the crate root, where only rooms may be"));
            return;
        }
        let allowed: &[&str] = match home.as_str() {
            "main.rs" => &["cli"],
            _ => ARROWS.iter().find(|(name, _)| *name == home).map_or(&[], |(_, allowed)| allowed),
        };
        if home != target && !allowed.contains(&target) {
            self.fault(line, &format!("{home} must not use {target} (it may use: {})", allowed.join(" ")));
        }
    }

    fn external(&mut self, name: &str, line: usize) {
        for (crates, homes) in CRATES {
            if crates.contains(&name) && !homes.iter().any(|home| self.source.path.starts_with(home)) {
                self.fault(line, &format!("the crate {name} may be named only in {}", homes.join(" ")));
            }
        }
    }
}

fn punct(token: &TokenTree) -> Option<char> {
    match token {
        TokenTree::Punct(mark) => Some(mark.as_char()),
        _ => None,
    }
}

fn is_word(token: Option<&TokenTree>, expected: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(word)) if *word == expected)
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at..at + 2), Some([a, b]) if punct(a) == Some(':') && punct(b) == Some(':'))
}

/// Whether the word at `at` is the first segment of a path of two or more.
fn starts_path(tokens: &[TokenTree], at: usize) -> bool {
    is_colons(tokens, at + 1) && (at < 2 || !is_colons(tokens, at - 2) || !is_segment(tokens, at.wrapping_sub(3)))
}

fn is_segment(tokens: &[TokenTree], at: usize) -> bool {
    match tokens.get(at) {
        Some(TokenTree::Ident(_)) => true,
        // `Vec::<u8>::new`: what follows generic arguments continues the path.
        Some(token) => punct(token) == Some('>'),
        None => false,
    }
}

/// The words of the path that starts at `at`.
fn path_from(tokens: &[TokenTree], mut at: usize) -> Vec<String> {
    let mut path = Vec::new();
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        path.push(word.to_string());
        if !is_colons(tokens, at + 1) {
            break;
        }
        at += 3;
    }
    path
}

fn is_inline_module(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at + 2), Some(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace)
}

/// `[cfg(test)]` or `[cfg(all(test, ...))]`.
fn is_cfg_test(token: &TokenTree) -> bool {
    let text: String = token.to_string().split_whitespace().collect();
    text.starts_with("[cfg(test)") || text.starts_with("[cfg(all(test,")
}

/// The index after the item that starts at `at`: after its first `;` or braces, past further attributes.
fn item_end(tokens: &[TokenTree], at: usize) -> usize {
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token {
            TokenTree::Punct(mark) if matches!(mark.as_char(), ';' | ',') => return index + 1,
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => {
                // A braced `use` tree ends at its semicolon.
                let is_use = tokens[at..index].iter().any(|t| matches!(t, TokenTree::Ident(word) if *word == "use"));
                if !is_use {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The room that a path below src/ belongs to; `main.rs` and `lib.rs` stand for themselves.
fn room(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    match first {
        "main.rs" | "lib.rs" => first.to_string(),
        _ => first.trim_end_matches(".rs").to_string(),
    }
}

/// `fs/open/mod.rs` is `[fs, open]`; `lib.rs` and `main.rs` are the root.
fn module_path(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_string).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Module paths that some file declares with `#[cfg(test)] mod name;`.
fn test_modules(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for source in sources {
        let Ok(stream) = source.text.parse::<TokenStream>() else { continue };
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        for at in 0..tokens.len() {
            if punct(&tokens[at]) == Some('#') && tokens.get(at + 1).is_some_and(is_cfg_test) {
                let item = &tokens[at + 2..item_end(&tokens, at + 2)];
                let keyword = item.iter().position(|t| matches!(t, TokenTree::Ident(word) if *word == "mod"));
                if let Some(name) = keyword.and_then(|index| item.get(index + 1)) {
                    let mut path = module_path(&source.path);
                    path.push(name.to_string());
                    found.insert(path);
                }
            }
        }
    }
    found
}

fn check_file(source: &Source, is_test: bool) -> Vec<String> {
    let mut checker = Checker {
        source,
        module: module_path(&source.path),
        in_test: is_test,
        test_lines: BTreeSet::new(),
        faults: Vec::new(),
    };
    for (index, line) in source.text.lines().enumerate() {
        if !line.is_ascii() {
            checker.fault(index + 1, "not ASCII");
        }
    }
    if !is_test && source.path.ends_with("mod.rs") && !source.text.starts_with("//!") {
        checker.fault(1, "a folder's mod.rs opens with a //! text: purpose, what it refuses to know, invariants");
    }
    match source.text.parse::<TokenStream>() {
        Ok(stream) => checker.walk(&stream.into_iter().collect::<Vec<_>>()),
        Err(error) => checker.fault(error.span().start().line, "cannot be read as Rust tokens"),
    }
    let code = source.text.lines().enumerate();
    let code = code.filter(|(index, line)| !line.trim().is_empty() && !checker.test_lines.contains(&(index + 1)));
    let code = code.count();
    if !is_test && code > MAX_LINES {
        checker.fault(1, &format!("{code} lines that are neither blank nor test code; the limit is {MAX_LINES}"));
    }
    checker.faults
}

fn check(sources: &[Source]) -> Vec<String> {
    let tests = test_modules(sources);
    let is_test = |path: &str| {
        let module = module_path(path);
        (1..=module.len()).any(|depth| tests.contains(&module[..depth]))
    };
    let mut faults: Vec<String> = sources.iter().flat_map(|s| check_file(s, is_test(&s.path))).collect();
    for source in sources {
        let home = room(&source.path);
        if !matches!(home.as_str(), "lib.rs" | "main.rs") && !ARROWS.iter().any(|(name, _)| *name == home) {
            faults.push(format!("src/{}:1: `{home}` is no room of the table in tests/architecture.rs", source.path));
        }
    }
    faults
}

fn collect(folder: &Path, root: &Path, into: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("src is readable").map(|entry| entry.expect("src is readable").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, root, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("ASCII names").to_string();
            into.push(Source { path: name, text: fs::read_to_string(&path).expect("a source is readable UTF-8") });
        }
    }
}

#[test]
fn the_sources_keep_to_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    let mut faults = check(&sources);
    for (file, reason) in UNSAFE {
        if !sources.iter().any(|source| source.path == *file && !reason.is_empty()) {
            faults.push(format!("tests/architecture.rs: the allow-list for unsafe names {file}, which is not there"));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}\n", faults.len(), faults.join("\n"));
}
