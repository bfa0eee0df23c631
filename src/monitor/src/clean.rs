//! From delivered text to a value (semantics A.2, A.3).

use crate::{Kind, Module, ModuleState, Reading};

/// A value that may be judged, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cleaned {
    /// Text of the state row, and the number it stands for (`None` for text types).
    Value { text: String, number: Option<f64>, base: Option<(f64, i64)> },
    /// No value; the base may still move, and a reset counts as a sign of life.
    Discarded { reason: String, base: Option<(f64, i64)>, alive: bool },
}

/// The number in a delivered text: decimal, first comma as dot, blanks around it allowed; no hex, no words, no
/// infinity.
pub fn parse_number(raw: &str) -> Option<f64> {
    let text = raw.trim_matches([' ', '\t', '\n', '\r']).replacen(',', ".", 1);
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    let number = if decimal { text.parse::<f64>().ok() } else { None };
    number.filter(|n| n.is_finite())
}

/// A number as the state row holds it.
pub fn five_decimals(number: f64) -> String {
    if let Some(text) = plain_decimals(number) {
        return text;
    }
    let text = format!("{number:.5}");
    if text == "-0.00000" { "0.00000".to_owned() } else { text }
}

/// The same for a number that is clearly nearer to one of its two neighbours with five decimals, as whatever was sent
/// with at most five is: below 2^48 the product is off by less than 1/32.
fn plain_decimals(number: f64) -> Option<String> {
    const LIMIT: f64 = (1_u64 << 48) as f64;
    let scaled = number * 1e5;
    let rounded = scaled.round();
    if !(scaled.abs() < LIMIT && (scaled - rounded).abs() < 0.25) {
        return None;
    }
    let whole = rounded as i64; // within 2^48
    let sign = if whole < 0 { "-" } else { "" };
    let (before, after) = (whole.unsigned_abs() / 100_000, whole.unsigned_abs() % 100_000);
    Some(format!("{sign}{before}.{after:05}"))
}

fn log_severity(word: &str) -> f64 {
    match word.trim().to_ascii_lowercase().as_str() {
        "debug" => 20.0,
        "info" => 30.0,
        "warn" => 40.0,
        "error" => 50.0,
        "fatal" => 60.0,
        _ => 10.0,
    }
}

fn outside_limits(module: &Module, value: f64) -> bool {
    let (min, max) = (module.min as f64, module.max as f64);
    match (module.min, module.max) {
        (a, b) if a == b => false,
        (a, b) if b > a => value < min || value > max,
        (_, 0) => value < min,
        (0, _) => value > max,
        _ => false,
    }
}

fn quoted(raw: &str) -> String {
    let short: String = raw.chars().take(80).collect();
    format!("{short:?}")
}

/// Cleans one reading taken at `time`.
pub(crate) fn clean(module: &Module, state: &ModuleState, reading: &Reading, time: i64) -> Cleaned {
    let kind = module.module_type.kind();
    let refuse = |reason: String| Cleaned::Discarded { reason, base: None, alive: false };
    if kind == Kind::Text {
        return match reading.raw.is_empty() {
            true => refuse("an empty text is no value of a text module".to_owned()),
            false => Cleaned::Value { text: reading.raw.clone(), number: None, base: None },
        };
    }
    let number = match (kind, parse_number(&reading.raw)) {
        (_, Some(number)) => number,
        (Kind::Log, None) => log_severity(&reading.raw),
        (_, None) => {
            return refuse(format!("{} is not a number; send a plain decimal number", quoted(&reading.raw)));
        }
    };
    let (value, base) = match kind {
        Kind::Rate | Kind::Difference => match increment(kind, state.increment, number, time) {
            Ok(value) => (value, Some((number, time))),
            Err(discarded) => return discarded,
        },
        _ => (number, None),
    };
    let factor = if module.post_process == 0.0 { 1.0 } else { module.post_process };
    let value = value * factor;
    if !value.is_finite() || outside_limits(module, value) {
        let reason =
            format!("{value} is outside of {} to {}, the limits of the module", module.min, module.max);
        return Cleaned::Discarded { reason, base, alive: false };
    }
    let text = five_decimals(value);
    // What is stored is what is shown: both have five decimals.
    let number = text.parse().ok();
    Cleaned::Value { text, number, base }
}

fn increment(kind: Kind, base: Option<(f64, i64)>, number: f64, time: i64) -> Result<f64, Cleaned> {
    let keep = |reason: &str| Err(Cleaned::Discarded { reason: reason.to_owned(), base: None, alive: false });
    let Some((before, at)) = base else {
        let reason = String::new();
        return Err(Cleaned::Discarded { reason, base: Some((number, time)), alive: false });
    };
    if time < at {
        return keep("the counter's sample is older than the one before");
    }
    if number < before && (kind == Kind::Difference || time > at) {
        // Reset or wrap: nothing can be said about this step, but the source lives.
        return Err(Cleaned::Discarded { reason: String::new(), base: Some((number, time)), alive: true });
    }
    if time == at {
        return keep("two samples of a counter have the same time");
    }
    let step = number - before;
    Ok(if kind == Kind::Rate { step / (time - at) as f64 } else { step })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_to_five_decimals_says_what_the_long_one_says() {
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
        let mut short = 0;
        for round in 0..200_000_u64 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Any number, numbers with few decimals, and halves of the last decimal.
            let number = match round % 4 {
                0 => f64::from_bits(bits),
                1 => (bits >> 40) as f64 / 1e3,
                2 => -((bits >> 30) as f64) / 1e5,
                _ => (bits >> 40) as f64 / 2e5,
            };
            if let Some(text) = plain_decimals(number) {
                short += 1;
                let long = format!("{number:.5}");
                assert_eq!(text, if long == "-0.00000" { "0.00000" } else { &long }, "{number:e}");
            }
        }
        assert!(short > 100_000, "{short}");
    }
}
