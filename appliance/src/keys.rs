//! What keys mean on the status screen. PURE.

use crate::answers::Join;
use crate::screen::Foot;

/// Longest line that is taken.
const LINE: usize = 160;
const KEYS: &str = "a let a node in   j join a cluster   r restart   p power off";

/// A key, as far as the screen knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Backspace,
    Escape,
}

/// What the person in front of it is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Asks {
    #[default]
    Nothing,
    /// Typing address and words of a cluster.
    Join(String),
    /// The key again confirms it.
    Confirm(char),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Words for a newcomer.
    LetIn,
    /// To the cluster of this line; see [`join_of`].
    Join(String),
    Restart,
    PowerOff,
    /// What the last order said is read.
    Clear,
}

impl Asks {
    /// The next state, and what the key orders.
    #[must_use]
    pub fn press(self, key: Key) -> (Asks, Option<Deed>) {
        match (self, key) {
            (Asks::Nothing, Key::Char('a')) => (Asks::Nothing, Some(Deed::LetIn)),
            (Asks::Nothing, Key::Char('j')) => (Asks::Join(String::new()), Some(Deed::Clear)),
            (Asks::Nothing, Key::Char(key @ ('r' | 'p'))) => (Asks::Confirm(key), Some(Deed::Clear)),
            (Asks::Nothing, _) => (Asks::Nothing, Some(Deed::Clear)),
            (Asks::Confirm('r'), Key::Char('r')) => (Asks::Nothing, Some(Deed::Restart)),
            (Asks::Confirm('p'), Key::Char('p')) => (Asks::Nothing, Some(Deed::PowerOff)),
            (Asks::Confirm(_), _) | (Asks::Join(_), Key::Escape) => (Asks::Nothing, None),
            (Asks::Join(typed), Key::Enter) => (Asks::Nothing, Some(Deed::Join(typed))),
            (Asks::Join(mut typed), Key::Char(c)) => {
                if typed.len() < LINE && !c.is_control() {
                    typed.push(c);
                }
                (Asks::Join(typed), None)
            }
            (Asks::Join(mut typed), Key::Backspace) => {
                typed.pop();
                (Asks::Join(typed), None)
            }
        }
    }

    /// The lowest lines of the screen; `said`: what the last order gave.
    #[must_use]
    pub fn foot(&self, said: &[String]) -> Foot {
        match self {
            Asks::Nothing => Foot { text: said.to_vec(), keys: KEYS.to_owned() },
            Asks::Join(typed) => Foot {
                text: vec![
                    "Address and six words, as `let a node in` shows them on a member:".to_owned(),
                    format!("> {typed}_"),
                ],
                keys: "Enter join   Esc back".to_owned(),
            },
            Asks::Confirm(key) => Foot {
                text: vec![format!("Really? {key} again does it, any other key goes back.")],
                keys: String::new(),
            },
        }
    }
}

/// `ADDRESS WORDS…`, and the node's own name behind them where it has agents to lose.
///
/// # Errors
/// What is missing, in words.
pub fn join_of(line: &str) -> Result<(Join, Option<String>), String> {
    let parts: Vec<&str> = line.split_whitespace().collect();
    let (Some((address, words)), 7..=8) = (parts.split_first(), parts.len()) else {
        return Err(format!(
            "an address and six words are needed, separated by spaces; {} words came",
            parts.len().saturating_sub(1)
        ));
    };
    let join = Join { address: (*address).to_owned(), words: words[..6].join(" ") };
    Ok((join, words.get(6).map(|name| (*name).to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> (Asks, Vec<Deed>) {
        let mut deeds = Vec::new();
        let mut asks = Asks::Nothing;
        for c in keys.chars() {
            let key = match c {
                '\n' => Key::Enter,
                '<' => Key::Backspace,
                '^' => Key::Escape,
                c => Key::Char(c),
            };
            let (next, deed) = asks.press(key);
            asks = next;
            deeds.extend(deed.filter(|deed| *deed != Deed::Clear));
        }
        (asks, deeds)
    }

    #[test]
    fn keys_do_what_the_screen_offers() {
        for (keys, deeds) in [
            ("a", vec![Deed::LetIn]),
            ("x", vec![]),
            ("rr", vec![Deed::Restart]),
            ("pp", vec![Deed::PowerOff]),
            ("rp", vec![]),
            ("rxr", vec![]),
            ("j10.0.0.1:7946 rapp<\n", vec![Deed::Join("10.0.0.1:7946 rap".into())]),
            ("jab^a", vec![Deed::LetIn]),
        ] {
            assert_eq!(typed(keys).1, deeds, "{keys:?}");
        }
        let (asks, _) = typed(&format!("j{}", "x".repeat(1_000)));
        assert_eq!(asks, Asks::Join("x".repeat(LINE)));
    }

    #[test]
    fn a_line_is_an_address_and_six_words() {
        let (join, confirm) = join_of(" 10.0.0.1:7946 a b c  d e f ").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            (join.address.as_str(), join.words.as_str(), confirm),
            ("10.0.0.1:7946", "a b c d e f", None)
        );
        let (_, confirm) = join_of("h:1 a b c d e f kite-1").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(confirm.as_deref(), Some("kite-1"));
        for line in ["", "h:1", "h:1 a b c d e", "h:1 a b c d e f g h"] {
            assert!(join_of(line).is_err_and(|why| why.contains("six words")), "{line:?}");
        }
    }
}
