//! PURE: a check as a person writes it, turned into a network module.
//!
//! ```text
//! ping HOST                                        reachable or not
//! latency HOST                                     round trip in ms
//! tcp HOST:PORT [send TEXT] [expect REGEX]         connects (and answers)
//! tcp-number, tcp-text HOST:PORT …                 the answer as value
//! udp HOST:PORT send TEXT [expect REGEX]           answers
//! udp-number, udp-text HOST:PORT …
//! snmp HOST[:PORT] OID [COMMUNITY] [v1|v2c]        number
//! snmp-rate, snmp-text, snmp-bool HOST OID …
//! ```
//! Text with blanks stands in double quotes; `\"` is a quote, `^M` ends a line, `|` separates exchanges.

use elpis_monitor::{AgentId, Check, Module, ModuleType};
use std::net::{IpAddr, Ipv6Addr};

/// Longest text of a check in bytes.
pub const LONGEST: usize = 2_000;
/// Longest interval in seconds: a week.
const LONGEST_INTERVAL: u32 = 7 * 86_400;

/// Why a text is no check; a sentence with what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(String);

fn no<T>(text: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError(text.into()))
}

/// The module that a text describes; `interval_s` 0 = the agent's. Its name is the text, blanks tidied, without the
/// community.
pub fn parse(text: &str, name: Option<&str>, interval_s: u32) -> Result<Module, CheckError> {
    if text.len() > LONGEST {
        return no(format!("the check is longer than {LONGEST} bytes"));
    }
    if interval_s > LONGEST_INTERVAL {
        return no(format!("the interval {interval_s} is longer than a week; give seconds"));
    }
    let words = words(text)?;
    let mut rest = words.iter().map(String::as_str);
    let kind = rest.next().unwrap_or("");
    let (family, flavour) = kind.split_once('-').unwrap_or((kind, ""));
    let type_name = match (family, flavour) {
        ("ping", "") => "remote_icmp_proc",
        ("latency", "") => "remote_icmp",
        ("tcp", "") => "remote_tcp_proc",
        ("tcp", "number") => "remote_tcp",
        ("tcp", "text") => "remote_tcp_string",
        ("tcp", "rate") => "remote_tcp_inc",
        ("udp", "") => "remote_udp_proc",
        ("udp", "number") => "remote_udp",
        ("udp", "text") => "remote_udp_string",
        ("snmp", "") => "remote_snmp",
        ("snmp", "rate") => "remote_snmp_inc",
        ("snmp", "text") => "remote_snmp_string",
        ("snmp", "bool") => "remote_snmp_proc",
        _ => {
            return no(format!(
                "{kind:?} is no kind of check; write ping HOST, latency HOST, tcp HOST:PORT, udp HOST:PORT send TEXT \
                 or snmp HOST OID"
            ));
        }
    };
    let Some(target) = rest.next() else { return no(format!("{kind} of what? write {kind} HOST…")) };
    let rest: Vec<&str> = rest.collect();
    let check = match family {
        "ping" | "latency" => icmp(kind, target, &rest)?,
        "snmp" => snmp(target, &rest)?,
        _ => exchange(family, kind, target, &rest)?,
    };
    let given = match family {
        // The community is a secret of a kind: it does not belong into a name.
        "snmp" => format!("{kind} {target} {}", check.oid),
        _ => words.join(" "),
    };
    let name = name.map_or(given.as_str(), str::trim);
    if name.is_empty() || name.chars().count() > 600 || name.chars().any(char::is_control) {
        return no("the name of a check has 1 to 600 characters and no line breaks");
    }
    let module_type = ModuleType::from_name(type_name).unwrap_or(ModuleType::GENERIC_DATA);
    let mut module = Module::with_defaults(AgentId(0), name, module_type);
    module.interval_s = interval_s;
    if type_name == "remote_icmp" {
        module.unit = "ms".to_owned();
    }
    module.check = Some(check);
    Ok(module)
}

fn icmp(kind: &str, target: &str, rest: &[&str]) -> Result<Check, CheckError> {
    if let Some(more) = rest.first() {
        return no(format!("{kind} takes a host and nothing else; {more:?} is too much"));
    }
    Ok(Check { target: host(target.trim_start_matches('[').trim_end_matches(']'))?, ..Check::default() })
}

fn exchange(family: &str, kind: &str, target: &str, rest: &[&str]) -> Result<Check, CheckError> {
    let (target, port) = host_port(target)?;
    let Some(port) = port else { return no(format!("{kind} needs a port: {kind} {target}:PORT")) };
    let mut check = Check { target, port, ..Check::default() };
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let field = match *word {
            "send" => &mut check.send,
            "expect" => &mut check.expect,
            other => return no(format!("{other:?} is not known here; write send TEXT or expect REGEX")),
        };
        let Some(text) = rest.next() else { return no(format!("{word} what? write {word} \"TEXT\"")) };
        if !field.is_empty() {
            return no(format!("{word} stands twice; separate exchanges with | inside one text"));
        }
        (*text).clone_into(field);
    }
    if family == "udp" && check.send.is_empty() {
        return no(format!(
            "{kind} needs something to send, or nobody answers: {kind} {}:{port} send TEXT",
            check.target
        ));
    }
    Ok(check)
}

fn snmp(target: &str, rest: &[&str]) -> Result<Check, CheckError> {
    let (target, port) = host_port(target)?;
    let Some((oid, rest)) = rest.split_first() else {
        return no(format!("which object? write snmp {target} 1.3.6.1…"));
    };
    let digits = oid.trim_start_matches('.');
    let number = |part: &str| !part.is_empty() && part.parse::<u32>().is_ok();
    if digits.split('.').count() < 2 || digits.len() > 250 || !digits.split('.').all(number) {
        return no(format!("{oid:?} is no numeric SNMP object; write it as 1.3.6.1…"));
    }
    let mut check = Check {
        target,
        port: port.unwrap_or(0),
        oid: digits.to_owned(),
        send: "2c".to_owned(),
        community: "public".to_owned(),
        ..Check::default()
    };
    let mut named = false;
    for word in rest {
        match *word {
            "v1" | "1" => "1".clone_into(&mut check.send),
            "v2c" | "2c" => "2c".clone_into(&mut check.send),
            "v3" | "3" => return no("SNMP version 3 is not supported yet; write v1 or v2c"),
            community if !named && community.len() <= 255 => {
                named = true;
                community.clone_into(&mut check.community);
            }
            other => return no(format!("{other:?} is too much; write snmp HOST OID [COMMUNITY] [v1|v2c]")),
        }
    }
    Ok(check)
}

/// A name or an address, nothing else.
fn host(text: &str) -> Result<String, CheckError> {
    let name = text.len() <= 253
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    no(format!("{text:?} is no host name and no address"))
}

/// `host`, `host:port`, `[v6]:port`, or a bare v6 address.
fn host_port(text: &str) -> Result<(String, Option<u16>), CheckError> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    let (name, port) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((address, after)) => (address, after.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 => Some(number),
            _ => return no(format!("{port:?} is no port; take 1 to 65535")),
        },
    };
    Ok((host(name)?, port))
}

/// Words, with double quotes around what holds blanks.
fn words(text: &str) -> Result<Vec<String>, CheckError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => match letters.next() {
                Some('"') => word.get_or_insert_default().push('"'),
                Some(other) => word.get_or_insert_default().extend(['\\', other]),
                None => word.get_or_insert_default().push('\\'),
            },
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c if c.is_control() => return no("a check is one line; write ^M for the end of a line"),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return no("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text, None, 0) {
            Ok(m) => {
                let c = m.check.clone().unwrap();
                let port = c.port;
                format!(
                    "{} {} {port} {:?} {:?} {} {}",
                    m.module_type.name(),
                    c.target,
                    c.send,
                    c.expect,
                    c.oid,
                    c.community
                )
            }
            Err(e) => format!("no: {e}"),
        }
    }

    #[test]
    fn checks_as_people_write_them() {
        for (text, expected) in [
            ("ping 10.0.0.1", r#"remote_icmp_proc 10.0.0.1 0 "" ""  "#),
            ("  ping   ::1 ", r#"remote_icmp_proc ::1 0 "" ""  "#),
            ("latency host-1.example.org", r#"remote_icmp host-1.example.org 0 "" ""  "#),
            ("tcp mail:25", r#"remote_tcp_proc mail 25 "" ""  "#),
            ("tcp [::1]:25", r#"remote_tcp_proc ::1 25 "" ""  "#),
            (
                r#"tcp mail:25 send "HELO me^M" expect "^250 \"ok\" \d""#,
                r#"remote_tcp_proc mail 25 "HELO me^M" "^250 \"ok\" \\d"  "#,
            ),
            ("tcp-number db:9000 send q", r#"remote_tcp db 9000 "q" ""  "#),
            ("udp dns:53 send x expect y", r#"remote_udp_proc dns 53 "x" "y"  "#),
            (
                "snmp 10.0.0.9 .1.3.6.1.2.1.1.3.0",
                r#"remote_snmp 10.0.0.9 0 "2c" "" 1.3.6.1.2.1.1.3.0 public"#,
            ),
            ("snmp-text sw:1161 1.3.6 s3cret v1", r#"remote_snmp_string sw 1161 "1" "" 1.3.6 s3cret"#),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_check_is_refused_with_the_fix() {
        for (text, part) in [
            ("", "no kind of check"),
            ("pong a", "no kind of check"),
            ("ping", "of what"),
            ("ping a b", "nothing else"),
            ("ping a;b", "no host name"),
            ("tcp mail", "needs a port"),
            ("tcp mail:0", "no port"),
            ("tcp mail:99999", "no port"),
            ("tcp mail:25 say hello", "not known here"),
            ("tcp mail:25 send", "send what"),
            ("tcp mail:25 send a send b", "stands twice"),
            ("tcp mail:25 send \"a", "not closed"),
            ("udp dns:53", "something to send"),
            ("snmp sw", "which object"),
            ("snmp sw sysUpTime", "no numeric"),
            ("snmp sw 1.3.6 public v3", "version 3"),
            ("ping a\nping b", "nothing else"),
        ] {
            let said = shown(text);
            assert!(said.starts_with("no: ") && said.contains(part), "{text:?}: {said}");
        }
    }

    #[test]
    fn names_are_the_tidy_text_without_the_community() {
        assert_eq!(parse(" tcp  mail:25", None, 60).unwrap().name, "tcp mail:25");
        assert_eq!(parse("snmp sw 1.3.6 s3cret", None, 0).unwrap().name, "snmp sw 1.3.6");
        assert_eq!(parse("ping a", Some("Alive"), 10).unwrap().name, "Alive");
        assert!(parse("ping a", Some(" "), 10).is_err());
        assert!(parse("ping a", None, u32::MAX).is_err());
    }
}
