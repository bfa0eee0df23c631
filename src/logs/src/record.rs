//! PURE: an entry of the journal, as `journalctl --output=json` writes it, becomes a record of syslog in its frame.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// Longest message in bytes: what log servers take without being told. A longer one is cut, and ends in `…`.
const MESSAGE_MOST: usize = 8000;
/// Of an entry that names none: informational, of a service.
const PRIORITY: u8 = 6;
const FACILITY: u8 = 3;

/// An entry that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where the journal goes on after it.
    pub(crate) cursor: String,
    /// The record with its length before it (RFC 5425, 4.3).
    pub(crate) frame: Vec<u8>,
}

/// Reads one line. `None` = it is no entry.
pub(crate) fn read(line: &str) -> Option<Record> {
    let Ok(Value::Object(entry)) = serde_json::from_str(line) else { return None };
    let cursor = entry.get("__CURSOR")?.as_str()?.to_owned();
    let micros = entry.get("__REALTIME_TIMESTAMP")?.as_str()?.parse().ok()?;
    let time = Timestamp::from_microsecond(micros).ok()?;
    let number = |name: &str, most: u8| field(&entry, name).parse().ok().filter(|n| *n <= most);
    let priority =
        number("SYSLOG_FACILITY", 23).unwrap_or(FACILITY) * 8 + number("PRIORITY", 7).unwrap_or(PRIORITY);
    let process = match field(&entry, "_PID") {
        none if none.is_empty() => field(&entry, "SYSLOG_PID"),
        process => process,
    };
    let record = format!(
        "<{priority}>1 {time:.6} {} {} {} - - \u{feff}{}",
        word(&field(&entry, "_HOSTNAME"), 255),
        word(&sender(&entry), 48),
        word(&process, 128),
        cut(&field(&entry, "MESSAGE").replace('\0', "\u{fffd}")),
    );
    Some(Record { cursor, frame: format!("{} {record}", record.len()).into_bytes() })
}

/// Services of Elpis are one program: their units tell them apart.
fn sender(entry: &Map<String, Value>) -> String {
    let unit = field(entry, "_SYSTEMD_UNIT");
    match unit.strip_suffix(".service") {
        Some(unit) if unit.starts_with("elpis-") => unit.to_owned(),
        _ => match field(entry, "SYSLOG_IDENTIFIER") {
            none if none.is_empty() => field(entry, "_COMM"),
            name => name,
        },
    }
}

/// The text of a field: bytes that are no text come as a list of numbers, a field that is there twice as a
/// list of either.
fn field(entry: &Map<String, Value>, name: &str) -> String {
    entry.get(name).map(text).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => match parts.first() {
            Some(first @ (Value::String(_) | Value::Array(_))) => text(first),
            _ => {
                let byte = |part: &Value| part.as_u64().and_then(|byte| u8::try_from(byte).ok());
                let bytes: Option<Vec<u8>> = parts.iter().map(byte).collect();
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            }
        },
        _ => String::new(),
    }
}

/// Printable ASCII without spaces, as the header's fields have to be.
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().take(most).map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

fn cut(text: &str) -> String {
    match text.len() <= MESSAGE_MOST {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(MESSAGE_MOST)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(line: &str) -> String {
        let text = String::from_utf8(read(line).unwrap().frame).unwrap();
        let (length, record) = text.split_once(' ').unwrap();
        assert_eq!(length, record.len().to_string());
        record.to_owned()
    }

    #[test]
    fn an_entry_becomes_a_record() {
        let line = r#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1795000000123456","PRIORITY":"4",
            "SYSLOG_FACILITY":"3","SYSLOG_IDENTIFIER":"elpis","_PID":"812","_HOSTNAME":"north","MESSAGE":"größer",
            "_SYSTEMD_UNIT":"elpis-data-server.service"}"#;
        assert_eq!(read(line).unwrap().cursor, "s=1;i=2");
        assert_eq!(
            framed(line),
            "<28>1 2026-11-18T11:06:40.123456Z north elpis-data-server 812 - - \u{feff}größer"
        );
        let kernel = r#"{"__CURSOR":"c","__REALTIME_TIMESTAMP":"0","PRIORITY":"2","SYSLOG_FACILITY":"0",
            "SYSLOG_IDENTIFIER":"kernel","MESSAGE":"it ends"}"#;
        assert_eq!(framed(kernel), "<2>1 1970-01-01T00:00:00.000000Z - kernel - - - \u{feff}it ends");
    }

    #[test]
    fn what_is_odd_does_no_harm() {
        let line = |rest: &str| format!(r#"{{"__CURSOR":"c","__REALTIME_TIMESTAMP":"0",{rest}}}"#);
        // Out of range, bytes, a field twice, none, spaces in a name, an end of a line, a null.
        let bytes = framed(&line(r#""PRIORITY":"9","SYSLOG_FACILITY":"x","MESSAGE":[104,255,105]"#));
        assert_eq!(bytes, "<30>1 1970-01-01T00:00:00.000000Z - - - - - \u{feff}h\u{fffd}i");
        assert!(framed(&line(r#""MESSAGE":["first","second"]"#)).ends_with("\u{feff}first"));
        assert!(framed(&line(r#""MESSAGE":[[104,255],"x"]"#)).ends_with("\u{feff}h\u{fffd}"));
        assert!(framed(&line(r#""MESSAGE":null"#)).ends_with("- \u{feff}"));
        assert!(
            framed(&line(r#""_COMM":"a b","MESSAGE":"a\nb\u0000c""#))
                .ends_with(" a_b - - - \u{feff}a\nb\u{fffd}c")
        );
        let long = framed(&line(&format!(r#""MESSAGE":"{}""#, "ä".repeat(5000))));
        assert!(long.ends_with("ä…") && long.len() < MESSAGE_MOST + 100);
        for bad in [
            "",
            "{}",
            "[]",
            "{\"__CURSOR\":\"c\"}",
            "-- No entries --",
            "{\"__CURSOR\":1,\"__REALTIME_TIMESTAMP\":\"0\"}",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
