//! Times on the command line and in tables.

use jiff::Timestamp;

/// Unix seconds from "1764064800", "2026-11-25T10:00:00Z" or an age ("90s", "10m", "2h", "7d").
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, Timestamp::now().as_second())
}

fn parse_at(text: &str, now: i64) -> Result<i64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_second());
    }
    span(text)
        .and_then(|age| now.checked_sub(age))
        .ok_or_else(|| format!("not a time: {text}; Unix seconds, 2026-11-25T10:00:00Z, or an age like 10m"))
}

/// Seconds of a length of time: "90s", "10m", "2h", "7d".
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    span(text)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .ok_or_else(|| format!("not a length of time: {text}; e.g. 30s, 10m, 2h"))
}

fn span(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    text[..text.len() - 1].parse::<i64>().ok()?.checked_mul(unit)
}

/// Unix seconds as UTC; 0 and less: "never".
pub(crate) fn show(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) if seconds > 0 => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        _ => "never".to_owned(),
    }
}

/// Unix milliseconds as UTC.
pub(crate) fn show_ms(ms: i64) -> String {
    show(ms.div_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        assert_eq!(parse_at("17", 0), Ok(17));
        assert_eq!(parse_at("1970-01-01T00:01:00Z", 0), Ok(60));
        assert_eq!(parse_at("10m", 1_000), Ok(400));
        for wrong in ["", "m", "ten", "9223372036854775807d", "-9223372036854775808d", "é"] {
            assert!(parse_at(wrong, 0).is_err(), "{wrong}");
        }
        assert_eq!((seconds("10m"), seconds("1d")), (Ok(600), Ok(86_400)));
        assert!(seconds("-1s").is_err() && seconds("15").is_err() && seconds("").is_err());
        assert_eq!(show(0), "never");
        assert_eq!(show(86_400), "1970-01-02 00:00:00");
    }
}
