//! What we ship of others: under licences that allow it, and the big ones once.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test program

use std::collections::BTreeMap;

/// Licences whose code may be part of a binary under GPL-3.0 terms.
const ALLOWED: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "CC0-1.0",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
    "GPL-2.0-or-later",
];

/// Two versions of one of these would cost minutes of compiling and megabytes of binary.
const ONCE: &[&str] = &[
    "aws-lc-sys",
    "axum",
    "clap",
    "h2",
    "http",
    "hyper",
    "nix",
    "openraft",
    "redb",
    "regex-automata",
    "rustls",
    "serde",
    "sqlx-core",
    "tokio",
    "tracing",
    "tracing-subscriber",
];

fn packages() -> Vec<serde_json::Value> {
    let answer = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// An SPDX expression: `AND` binds all, `OR` (or an old `/`) leaves the choice.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any(&words, &mut at)
}

fn any(words: &[&str], at: &mut usize) -> bool {
    let mut ok = all(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        ok |= all(words, at);
    }
    ok
}

fn all(words: &[&str], at: &mut usize) -> bool {
    let mut ok = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        ok &= one(words, at);
    }
    ok
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let ok = any(words, at);
        *at += 1;
        return ok;
    }
    if words.get(*at) == Some(&"WITH") {
        let whole = format!("{word} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
        return ALLOWED.contains(&whole.as_str());
    }
    ALLOWED.contains(&word)
}

#[test]
fn expressions_are_read_as_written() {
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(allowed("Apache-2.0/MIT"));
    assert!(allowed("LGPL-2.1-or-later OR MIT"));
    assert!(!allowed("MIT AND OpenSSL"));
    assert!(!allowed("GPL-2.0-only"));
    assert!(!allowed(""));
}

#[test]
fn every_licence_may_be_part_of_the_binary() {
    let bad: Vec<String> = packages()
        .iter()
        .filter(|package| !allowed(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(bad.is_empty(), "not allowed, choose another library: {bad:#?}");
}

#[test]
fn big_libraries_come_once() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap().to_owned();
        versions.entry(name).or_default().push(package["version"].to_string());
    }
    let twice: Vec<_> =
        ONCE.iter().filter(|name| versions.get(**name).is_some_and(|v| v.len() > 1)).collect();
    assert!(twice.is_empty(), "{twice:?}: bring their users to one version (cargo tree -d)");
}
