//! Small things that all pages say in the same way: states, times, values.

use elpis_monitor::{Module, ModuleState};
use maud::{Markup, html};

/// A state: shape, word and colour together.
pub(crate) fn mark(word: &str) -> Markup {
    let label = match word {
        "not_init" => "no data yet",
        "alert_fired" => "alert fired",
        other => other,
    };
    mark_as(word, label)
}

/// The shape and colour of a state with another word.
pub(crate) fn mark_as(state: &str, label: &str) -> Markup {
    html! {
        span class={"st " (state)} {
            svg viewBox="0 0 12 12" aria-hidden="true" {
                @match state {
                    "normal" => circle cx="6" cy="6" r="5" {},
                    "warning" => polygon points="6,.6 11.8,11.4 .2,11.4" {},
                    "critical" => polygon points="6,0 12,6 6,12 0,6" {},
                    "alert_fired" => polygon points="6,0 7.6,4.2 12,4.4 8.6,7.2 9.8,11.6 6,9.1 2.2,11.6 3.4,7.2 0,4.4 4.4,4.2" {},
                    "not_init" => circle class="dashed" cx="6" cy="6" r="4.6" {},
                    _ => rect class="hollow" x="1.4" y="1.4" width="9.2" height="9.2" rx="1" {},
                }
            }
            (label)
        }
    }
}

/// How long ago, in one or two units.
pub(crate) fn ago(now: i64, at: i64) -> String {
    if at <= 0 {
        return "never".to_owned();
    }
    let s = (now - at).max(0);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        86_400..864_000 => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

/// A time in UTC.
pub(crate) fn time_as(at: i64, format: &str) -> String {
    jiff::Timestamp::from_second(at).map_or_else(|_| "?".to_owned(), |time| time.strftime(format).to_string())
}

/// How long ago, with the time itself at hand.
pub(crate) fn when(now: i64, at: i64) -> Markup {
    if at <= 0 {
        return html! { span.muted { "never" } };
    }
    html! {
        time.nowrap datetime=(time_as(at, "%Y-%m-%dT%H:%M:%SZ")) title=(time_as(at, "%Y-%m-%d %H:%M:%S UTC")) {
            (ago(now, at))
        }
    }
}

/// A text that is at most so long.
pub(crate) fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A module's value as people read it.
pub(crate) fn value(module: &Module, state: &ModuleState) -> String {
    if state.data.is_empty() {
        return "–".to_owned();
    }
    let text = match state.data.parse::<f64>() {
        Ok(number) if !module.is_text() => crate::graph::number(number),
        _ => short(state.data.lines().next().unwrap_or(""), 120),
    };
    if module.unit.is_empty() { text } else { format!("{text} {}", short(&module.unit, 20)) }
}

/// Percent-encoding for one part of a path or query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_texts_are_short() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min"), (3660, "1 h 01 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(ago(1_000_000, 1_000_000 - seconds), text);
        }
        assert_eq!((ago(5, 0).as_str(), ago(5, 9).as_str()), ("never", "0 s"));
        assert_eq!((short("héllo", 2).as_str(), short("hé", 2).as_str()), ("hé…", "hé"));
        assert_eq!(encoded("/a b?é"), "%2Fa%20b%3F%C3%A9");
    }

    #[test]
    fn a_state_is_shape_word_and_colour() {
        let text = mark("critical").into_string();
        assert!(
            text.contains("class=\"st critical\"") && text.contains("polygon") && text.contains(">critical<")
        );
        assert!(mark("x\"<").into_string().contains("x&quot;&lt;"));
    }
}
