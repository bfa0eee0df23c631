//! A regular expression of a threshold: compiled at its first use, then kept.

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Bytes that a compiled expression may take. The engine is linear in the text; this bounds what building one costs.
const SIZE: usize = 1 << 20;

/// The expression as written; empty = off. One that cannot be compiled matches nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern {
    text: String,
    #[serde(skip)]
    compiled: OnceLock<Option<Box<Regex>>>,
}

impl Pattern {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is found in the text; `None` = it is off or no expression.
    pub fn is_in(&self, text: &str) -> Option<bool> {
        if self.text.is_empty() {
            return None;
        }
        let build = || RegexBuilder::new(&self.text).size_limit(SIZE).build().ok().map(Box::new);
        self.compiled.get_or_init(build).as_ref().map(|pattern| pattern.is_match(text))
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Pattern {
        Pattern { text, compiled: OnceLock::new() }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_or_no_expression_matches_nothing() {
        let found = |pattern: &str, text: &str| Pattern::from(pattern.to_owned()).is_in(text);
        assert_eq!((found("", "a"), found("(", "a"), found("a{1000000}", "a")), (None, None, None));
        assert_eq!((found("^a+$", "aaa"), found("^a+$", "ab")), (Some(true), Some(false)));
    }

    #[test]
    fn a_copy_is_equal_whether_it_was_used_or_not() {
        let used = Pattern::from("x".to_owned());
        let fresh = used.clone();
        assert_eq!(used.is_in("x"), Some(true));
        assert_eq!(used, fresh);
        assert_eq!(serde_json::to_string(&used).unwrap(), "\"x\"");
    }
}
