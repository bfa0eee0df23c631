//! Secrets that must not leave the machine, and their removal from what does.
//!
//! No file that holds secrets is ever added; this is for the line of a log that should not be there.

use std::fs::File;
use std::io::Read;
use std::path::Path;

const REMOVED: &str = "[removed]";
/// Shorter words would be found everywhere.
const SHORTEST: usize = 6;
/// Longest file of secrets read.
const LONGEST: u64 = 64 << 10;
/// Folders in folders looked at.
const DEPTH: usize = 3;

/// What is known to be secret.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    secrets: Vec<String>,
}

impl Redactor {
    /// With the secrets of a development cluster's folder: passwords, tokens, keys, accounts.
    pub(super) fn of_folder(folder: &Path) -> Redactor {
        let mut secrets = Vec::new();
        collect(folder, DEPTH, &mut secrets);
        secrets.retain(|secret| secret.len() >= SHORTEST);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Redactor { secrets }
    }

    /// The text without secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = without_passwords(&without_keys(text));
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REMOVED);
            }
        }
        text
    }
}

fn collect(folder: &Path, depth: usize, secrets: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() && depth > 0 && path.file_name().is_some_and(|name| name != "data") {
            collect(&path, depth - 1, secrets);
        }
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        if !kind.is_file() || !matches!(end, "password" | "token" | "key" | "sql") {
            continue;
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
        if read.is_err() {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes);
        match end {
            "sql" => secrets
                .extend(text.split(" BY '").skip(1).filter_map(|s| Some(s.split_once('\'')?.0.to_owned()))),
            "key" => {
                secrets.extend(text.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
            }
            _ => secrets.push(text.trim().to_owned()),
        }
    }
}

/// PURE: private keys in PEM form.
fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const KEY: &str = "PRIVATE KEY-----";
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(at);
        let head = block.split('\n').next().unwrap_or_default();
        out.push_str(before);
        if !head.contains(KEY) {
            out.push_str(BEGIN);
            rest = &block[BEGIN.len()..];
            continue;
        }
        out.push_str(REMOVED);
        // A key that is cut off ends with the text.
        rest = block
            .split_once("-----END ")
            .and_then(|(_, end)| end.split_once(KEY))
            .map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// PURE: passwords in addresses, `scheme://user:password@host`.
fn without_passwords(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || "/\"'<>?".contains(c)).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => out.push_str(&format!("{user}:{REMOVED}@{host}")),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_in_the_folder_is_secret_in_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("n1");
        std::fs::create_dir(&node).unwrap();
        std::fs::write(dir.path().join("db.password"), "hunter2hunter2\n").unwrap();
        std::fs::write(node.join("metrics.token"), "0123456789abcdef").unwrap();
        std::fs::write(node.join("x.key"), "-----BEGIN K-----\nAAAABBBBCCCC\nDDDDEEEE\n-----END K-----\n")
            .unwrap();
        std::fs::write(dir.path().join("a.sql"), "ALTER USER 'e' IDENTIFIED BY 'pass of sql';").unwrap();
        let redactor = Redactor::of_folder(dir.path());
        let log = "a hunter2hunter2 b 0123456789abcdef c DDDDEEEE d pass of sql e n1";
        assert_eq!(redactor.clean(log), "a [removed] b [removed] c [removed] d [removed] e n1");
    }

    #[test]
    fn keys_and_passwords_in_addresses_go_unknown_as_they_are() {
        let clean = |text: &str| Redactor::default().clean(text);
        let key = "a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb";
        assert_eq!(clean(key), "a\n[removed]\nb");
        assert_eq!(clean("x -----BEGIN PRIVATE KEY-----\nMHc"), "x [removed]");
        let public = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(clean(public), public);
        assert_eq!(clean("mysql://e:p@ss@h:3306/x?y"), "mysql://e:[removed]@h:3306/x?y");
        let plain = "https://127.0.0.1:8443/ and a:b@c and mysql://localhost/x?socket=/s";
        assert_eq!(clean(plain), plain);
    }
}
