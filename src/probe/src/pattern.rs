//! What to send and what to expect: `|` separates exchanges, `^M` is CR LF.

use crate::Failure;
use elpis_monitor::{Check, Kind};
use regex::bytes::{Regex, RegexBuilder};

/// One exchange: what to send, what must come back.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) send: Vec<u8>,
    pub(crate) expect: Option<Regex>,
}

/// The exchanges of a check; at least one.
pub(crate) fn exchanges(check: &Check) -> Result<Vec<Exchange>, Failure> {
    let sends: Vec<String> = check.send.split('|').map(|s| s.replace("^M", "\r\n")).collect();
    let expects: Vec<String> = check.expect.split('|').map(|e| e.replace("^M", "\r\n")).collect();
    let count = sends.len().max(expects.len()).max(1);
    (0..count)
        .map(|i| {
            let send = sends.get(i).map(|s| s.as_bytes().to_vec()).unwrap_or_default();
            let expect = expects.get(i).filter(|e| !e.is_empty()).map(|e| compile(e)).transpose()?;
            Ok(Exchange { send, expect })
        })
        .collect()
}

fn compile(text: &str) -> Result<Regex, Failure> {
    RegexBuilder::new(text)
        .case_insensitive(true)
        .size_limit(1 << 20)
        .unicode(false)
        .build()
        .or_else(|_| {
            // Patterns with characters beyond ASCII need the Unicode mode.
            RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build()
        })
        .map_err(|error| {
            Failure::failed(format!(
                "the expected text is not a regular expression: {error}; correct it in the module"
            ))
        })
}

/// The value of a numeric check: the whole answer as a decimal number, or the first integer of an answer that has
/// neither letters nor signs that could make the number another one.
pub(crate) fn number(answer: &[u8]) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(answer);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    if text.is_empty() {
        return Err(Failure::failed("the answer is empty where a number is needed"));
    }
    let plain = text.replace(',', ".");
    let digits = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    let decimal = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && digits.bytes().filter(|b| *b == b'.').count() <= 1;
    if decimal {
        return Ok(plain.trim_start_matches('+').to_owned());
    }
    let unclear = text.chars().any(|c| c.is_alphabetic() || ".,-/\\()[]".contains(c));
    let first = text.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    match first {
        Some(number) if !unclear => Ok(number.to_owned()),
        _ => Err(Failure::failed(format!(
            "the answer is not a number: {:?}",
            text.chars().take(60).collect::<String>()
        ))),
    }
}

/// What an answer is worth for a type that stores it.
pub(crate) fn value(answer: &[u8], kind: Kind) -> Result<String, Failure> {
    match kind {
        Kind::Text => Ok(String::from_utf8_lossy(answer).into_owned()),
        _ => number(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("42", Some("42"))]
    #[case(" 42\r\n", Some("42"))]
    #[case("-3.5\n", Some("-3.5"))]
    #[case("3,5", Some("3.5"))]
    #[case("* 17 *", Some("17"))]
    #[case("load 17", None)]
    #[case("1/2", None)]
    #[case("", None)]
    #[case("1.2.3", None)]
    fn a_number_is_taken_only_where_it_is_clear(#[case] answer: &str, #[case] wanted: Option<&str>) {
        assert_eq!(number(answer.as_bytes()).ok().as_deref(), wanted);
    }

    #[test]
    fn pairs_and_line_ends() {
        let check = Check { send: "HELO x^M|QUIT^M".into(), expect: "^250|^221".into(), ..Check::default() };
        let all = exchanges(&check).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].send, b"HELO x\r\n");
        assert!(all[0].expect.as_ref().unwrap().is_match(b"250 hello"));
        assert!(exchanges(&Check { expect: "(".into(), ..Check::default() }).is_err());
    }
}
