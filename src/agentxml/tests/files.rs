//! Every sample file parses or is refused as it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use elpis_agentxml::{AgentReport, Limits, XmlError, decode, parse};
use proptest::prelude::*;
use rstest::rstest;
use std::path::PathBuf;

/// Files that are no XML by our rules (a document type is never one).
const REFUSED: &[&str] = &["17-", "19-", "25-", "26-", "27-", "28-", "29-", "30-", "37-", "42-"];

fn read(bytes: &[u8]) -> Result<AgentReport, XmlError> {
    let limits = Limits::default();
    parse(&decode(bytes, &limits)?, &limits)
}

fn file(prefix: &str) -> Result<AgentReport, XmlError> {
    let (_, bytes) = files().into_iter().find(|(name, _)| name.starts_with(prefix)).unwrap();
    read(&bytes)
}

fn files() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), e.path()));
    named
        .filter(|(name, _)| name.ends_with(".data"))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn each_file_parses_or_is_refused() {
    let files = files();
    assert!(files.len() > 40);
    let mut wrong = Vec::new();
    for (name, bytes) in &files {
        let result = read(bytes);
        let refused = REFUSED.iter().any(|prefix| name.starts_with(prefix));
        if result.is_err() != refused {
            wrong.push(format!("{name}: {result:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[rstest]
#[case("29-")]
#[case("30-")]
fn a_document_type_is_refused_at_once(#[case] prefix: &str) {
    assert!(matches!(file(prefix), Err(XmlError::Doctype { .. })));
}

#[rstest]
#[case("17-", "nbsp")]
#[case("25-", "KLINGON")]
#[case("26-", "line")]
fn an_error_names_the_cause(#[case] prefix: &str, #[case] word: &str) {
    let error = file(prefix).unwrap_err().to_string();
    assert!(error.contains(word), "{error}");
}

#[test]
fn modules_written_as_attributes_are_understood() {
    let report = file("40-").unwrap();
    let names: Vec<_> = report.modules.iter().map(|m| (m.name.as_str(), m.items[0].value.as_str())).collect();
    assert_eq!(names, [("viaattr", "1"), ("second", "2")]);
}

#[test]
fn lists_keep_order_and_times() {
    let report = file("05-").unwrap();
    assert_eq!(report.agent_name(), Ok("s05"));
    let items: Vec<_> =
        report.modules[0].items.iter().map(|i| (i.value.as_str(), i.timestamp.as_deref())).collect();
    assert_eq!(items, [("1", Some("2026/11/20 09:00:00")), ("2", Some("2026/11/20 09:01:00")), ("3", None)]);
}

#[test]
fn text_around_a_comment_is_one_value_and_entities_are_resolved() {
    assert_eq!(file("61-").unwrap().modules[0].items[0].value, "12");
    let report = file("16-").unwrap();
    assert!(report.modules[0].name.contains("& b <c>"), "{report:?}");
}

#[test]
fn depth_and_size_are_limited() {
    let deep = format!("{}{}", "<a>".repeat(20), "</a>".repeat(20));
    assert!(matches!(read(deep.as_bytes()), Err(XmlError::Limit { what: "nested elements", .. })));
    assert!(matches!(read(&vec![b' '; (2 << 20) + 1]), Err(XmlError::TooLarge { .. })));
    let many = format!("<a>{}</a>", "<module><name>x</name></module>".repeat(5001));
    assert!(matches!(read(many.as_bytes()), Err(XmlError::Limit { what: "modules", .. })));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
    }

    #[test]
    fn broken_files_never_panic(which in 0usize..40, cut in 0usize..2000, put in any::<u8>()) {
        let (_, mut bytes) = files().swap_remove(which);
        if !bytes.is_empty() {
            let at = cut % bytes.len();
            bytes[at] = put;
            let _ = read(&bytes);
            bytes.truncate(at);
            let _ = read(&bytes);
        }
    }
}
