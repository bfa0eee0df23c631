//! From a value to a raw state (semantics A.4).

use crate::{Kind, Module, Reading, Status, Threshold};

/// Words of a `<status>` tag that count, in any case.
pub fn status_from_word(word: &str) -> Option<Status> {
    match word.trim().to_ascii_uppercase().as_str() {
        "CRITICAL" => Some(Status::Critical),
        "WARNING" => Some(Status::Warning),
        "NORMAL" => Some(Status::Normal),
        _ => None,
    }
}

/// Raw state of a cleaned value. `previous` is the text of the state row before this sample.
pub(crate) fn judge(
    module: &Module,
    text: &str,
    number: Option<f64>,
    reading: &Reading,
    previous: &str,
) -> Status {
    if let Some(status @ (Status::Critical | Status::Warning | Status::Normal)) = reading.given_status {
        return status;
    }
    let kind = module.module_type.kind();
    let hit = |threshold: &Threshold, default: Option<(f64, f64)>| match number {
        Some(number) => in_range(threshold, default, number, previous.parse().unwrap_or(0.0)),
        None => matches_text(threshold, text),
    };
    let (critical, warning) = match kind {
        Kind::Boolean => (Some((0.0, 1.0)), None),
        Kind::Log => (Some((50.0, 61.0)), Some((40.0, 41.0))),
        _ => (None, None),
    };
    if hit(&module.critical, critical) {
        Status::Critical
    } else if hit(&module.warning, warning) {
        Status::Warning
    } else {
        Status::Normal
    }
}

fn matches_text(threshold: &Threshold, text: &str) -> bool {
    threshold.text.is_in(text).is_some_and(|found| found != threshold.inverse)
}

fn in_range(threshold: &Threshold, default: Option<(f64, f64)>, value: f64, previous: f64) -> bool {
    let (min, max) = (threshold.min, threshold.max);
    if threshold.percentage {
        return in_percentage(min, max, value, previous);
    }
    match default {
        Some((low, high)) if min == max => value >= low && value < high,
        _ if min == max => false,
        _ => match (threshold.inverse, max >= min) {
            (false, true) => value >= min && value < max,
            (false, false) => value >= min,
            (true, true) => value < min || value >= max,
            (true, false) => value < min,
        },
    }
}

fn in_percentage(min: f64, max: f64, value: f64, previous: f64) -> bool {
    if previous == 0.0 {
        return false;
    }
    let low = previous * (1.0 - min / 100.0);
    let high = previous * (1.0 + max / 100.0);
    match (min != 0.0, max != 0.0) {
        (true, true) => value < low || value >= high,
        (true, false) => value >= 0.0 && value < low,
        (false, true) => value >= high,
        (false, false) => false,
    }
}
