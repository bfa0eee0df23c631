//! What keys mean on the status screen. PURE.

use crate::answers::Join;
use crate::screen::Foot;

/// Longest line that is taken.
const LINE: usize = 160;
const KEYS: &str = "a let in   j join   n network   i install   u update   v previous   d drain\n\
    w new password   l log   f factory reset   r restart   p power off";

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
    /// Typing the disk to install on.
    Install(String),
    /// Typing this machine's address.
    Network(String),
    /// Typing the machine's name, to lose what it holds.
    Reset(String),
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
    /// Says which disks there are.
    Disks,
    /// On the disk of this line; see [`crate::disk::choice_of`].
    Install(String),
    /// To the version of the medium in the drive.
    Update,
    /// To the version that ran before this one.
    Previous,
    /// The address of this line, or `dhcp`.
    Network(String),
    /// No work for this node any more, or again.
    Drain,
    /// Everything that the machine holds is lost, when the line is its name.
    Reset(String),
    /// A new password for the administrator, who lost it.
    Password,
    /// What went wrong lately.
    Log,
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
            (Asks::Nothing, Key::Char('l')) => (Asks::Nothing, Some(Deed::Log)),
            (Asks::Nothing, Key::Char('j')) => (Asks::Join(String::new()), Some(Deed::Clear)),
            (Asks::Nothing, Key::Char('i')) => (Asks::Install(String::new()), Some(Deed::Disks)),
            (Asks::Nothing, Key::Char('n')) => (Asks::Network(String::new()), Some(Deed::Clear)),
            (Asks::Nothing, Key::Char('f')) => (Asks::Reset(String::new()), Some(Deed::Clear)),
            (Asks::Nothing, Key::Char(key @ ('r' | 'p' | 'u' | 'v' | 'w' | 'd'))) => {
                (Asks::Confirm(key), Some(Deed::Clear))
            }
            (Asks::Nothing, _) => (Asks::Nothing, Some(Deed::Clear)),
            (Asks::Confirm('r'), Key::Char('r')) => (Asks::Nothing, Some(Deed::Restart)),
            (Asks::Confirm('p'), Key::Char('p')) => (Asks::Nothing, Some(Deed::PowerOff)),
            (Asks::Confirm('u'), Key::Char('u')) => (Asks::Nothing, Some(Deed::Update)),
            (Asks::Confirm('v'), Key::Char('v')) => (Asks::Nothing, Some(Deed::Previous)),
            (Asks::Confirm('d'), Key::Char('d')) => (Asks::Nothing, Some(Deed::Drain)),
            (Asks::Confirm('w'), Key::Char('w')) => (Asks::Nothing, Some(Deed::Password)),
            (Asks::Confirm(_), _) => (Asks::Nothing, None),
            (Asks::Join(_) | Asks::Install(_) | Asks::Network(_) | Asks::Reset(_), Key::Escape) => {
                (Asks::Nothing, Some(Deed::Clear))
            }
            (Asks::Join(typed), Key::Enter) => (Asks::Nothing, Some(Deed::Join(typed))),
            (Asks::Install(typed), Key::Enter) => (Asks::Nothing, Some(Deed::Install(typed))),
            (Asks::Network(typed), Key::Enter) => (Asks::Nothing, Some(Deed::Network(typed))),
            (Asks::Reset(typed), Key::Enter) => (Asks::Nothing, Some(Deed::Reset(typed))),
            (Asks::Reset(typed), key) => (Asks::Reset(edit(typed, key)), None),
            (Asks::Join(typed), key) => (Asks::Join(edit(typed, key)), None),
            (Asks::Install(typed), key) => (Asks::Install(edit(typed, key)), None),
            (Asks::Network(typed), key) => (Asks::Network(edit(typed, key)), None),
        }
    }

    /// The lowest lines of the screen; `said`: what the last order gave.
    #[must_use]
    pub fn foot(&self, said: &[String]) -> Foot {
        match self {
            Asks::Nothing => Foot { text: said.to_vec(), keys: KEYS.to_owned() },
            Asks::Join(typed) => Foot {
                text: vec![
                    "Address and six words, as `let in` (a) shows them on a member:".to_owned(),
                    format!("> {typed}_"),
                ],
                keys: "Enter join   Esc back".to_owned(),
            },
            Asks::Install(typed) => {
                let mut text = said.to_vec();
                text.push(
                    "Name of the disk to install on, `erase` behind it to lose what it holds:".to_owned(),
                );
                text.push(format!("> {typed}_"));
                Foot { text, keys: "Enter install   Esc back".to_owned() }
            }
            Asks::Network(typed) => Foot {
                text: vec![
                    "Address and bits of the network, and the gateway, as 10.0.0.1/24 10.0.0.254; or dhcp:"
                        .to_owned(),
                    format!("> {typed}_"),
                ],
                keys: "Enter set   Esc back".to_owned(),
            },
            Asks::Reset(typed) => Foot {
                text: vec![
                    "Everything that this machine holds is lost, but its name and address. Type its name:".to_owned(),
                    format!("> {typed}_"),
                ],
                keys: "Enter lose it   Esc back".to_owned(),
            },
            Asks::Confirm(key) => Foot {
                text: match key {
                    'd' => Some("All work of this node goes to the others; where it has none already, it takes work again."),
                    'v' => Some("The version that ran before this one is started by the next restart. What is stored stays."),
                    'w' => Some("The administrator gets a new password, and all who are signed in as admin are signed out."),
                    _ => None,
                }
                .map(str::to_owned)
                .into_iter()
                .chain([format!("Really? {key} again does it, any other key goes back.")])
                .collect(),
                keys: String::new(),
            },
        }
    }
}

/// The line after one more key.
fn edit(mut line: String, key: Key) -> String {
    match key {
        Key::Char(c) if line.len() < LINE && !c.is_control() => line.push(c),
        Key::Backspace => drop(line.pop()),
        _ => {}
    }
    line
}

/// PURE: `ADDRESS/BITS [GATEWAY]` or `dhcp`, as options of [`crate::answers::Answers`].
///
/// # Errors
/// What is wrong, in words.
pub fn network_of(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let options = match words[..] {
        ["dhcp"] => return Ok(String::new()),
        [address] => format!("elpis.address={address}"),
        [address, gateway] => format!("elpis.address={address} elpis.gateway={gateway}"),
        _ => return Err("an address is needed, as 10.0.0.1/24, a gateway behind it, or dhcp".to_owned()),
    };
    match crate::answers::Answers::parse(&options) {
        (answers, wrong) if wrong.is_empty() => Ok(answers.options()),
        (_, wrong) => Err(wrong.join("; ")),
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
            ("l", vec![Deed::Log]),
            ("rr", vec![Deed::Restart]),
            ("pp", vec![Deed::PowerOff]),
            ("uu", vec![Deed::Update]),
            ("vv", vec![Deed::Previous]),
            ("vu", vec![]),
            ("ww", vec![Deed::Password]),
            ("dd", vec![Deed::Drain]),
            ("fkite-4412\n", vec![Deed::Reset("kite-4412".into())]),
            ("fkite^", vec![]),
            ("rp", vec![]),
            ("rxr", vec![]),
            ("j10.0.0.1:7946 rapp<\n", vec![Deed::Join("10.0.0.1:7946 rap".into())]),
            ("jab^a", vec![Deed::LetIn]),
            ("ivda erase\n", vec![Deed::Disks, Deed::Install("vda erase".into())]),
            ("ivda^rr", vec![Deed::Disks, Deed::Restart]),
            ("ndhcp\n", vec![Deed::Network("dhcp".into())]),
        ] {
            assert_eq!(typed(keys).1, deeds, "{keys:?}");
        }
        assert!(KEYS.lines().all(|line| line.len() <= 78), "they do not fit");
        let (asks, _) = typed(&format!("j{}", "x".repeat(1_000)));
        assert_eq!(asks, Asks::Join("x".repeat(LINE)));
    }

    #[test]
    fn a_line_is_the_machines_address() {
        assert_eq!(
            network_of(" 10.0.0.1/24  10.0.0.254 ").as_deref(),
            Ok("elpis.address=10.0.0.1/24\nelpis.gateway=10.0.0.254\n")
        );
        assert_eq!(network_of("dhcp").as_deref(), Ok(""));
        for line in ["", "10.0.0.1", "10.0.0.1/24 here", "a b c", "elpis.name=x"] {
            assert!(network_of(line).is_err(), "{line}");
        }
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
