//! The status screen, 80 by 24: on the machine's own screen and on its serial port.

use crate::view::{Facts, Level, headline, lines};
use elpis_cluster::agent::Status;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// Size of the screen: a serial port does not tell its own.
pub const SIZE: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };

/// Most lines that one text gets.
const LINES: usize = 3;
/// Most lines between the state and the keys.
const FOOT: usize = 14;

/// What the lowest lines ask or offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foot {
    /// Words for the person in front of it: a question, or what an order gave.
    pub text: Vec<String>,
    /// Keys, in lines.
    pub keys: String,
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, facts: &Facts, status: Option<&Status>, foot: &Foot) {
    let width = usize::from(SIZE.width);
    let (level, text) = headline(facts, status);
    let name = facts.name.as_deref().unwrap_or("");
    let title = format!("Elpis {}", facts.version);
    let gap = width.saturating_sub(title.len() + name.len() + 2);
    let rule = "-".repeat(width - 2);
    let colour = match level {
        Level::Good => Color::Green,
        Level::Notice | Level::Starting => Color::Yellow,
        Level::Bad => Color::Red,
    };
    let mut shown = vec![
        Line::from(Span::styled(
            format!(" {title}{}{name}", " ".repeat(gap)),
            Style::new().add_modifier(Modifier::BOLD),
        )),
        Line::from(format!(" {rule}")),
        Line::from(Span::styled(format!("  {text}"), Style::new().fg(colour).add_modifier(Modifier::BOLD))),
        Line::default(),
    ];
    let mut before = "";
    for (label, value) in lines(facts, status) {
        let first = label != before;
        before = label;
        let label = if first { label } else { "" };
        for (value, label) in
            wrap(&value, width - 13).into_iter().zip(std::iter::once(label).chain(std::iter::repeat("")))
        {
            shown.push(Line::from(format!("  {label:<9} {value}")));
        }
    }
    let mut text: Vec<String> = foot.text.iter().flat_map(|line| wrap(line, width - 3)).collect();
    // The newest stand last.
    text.drain(..text.len().saturating_sub(FOOT));
    let below = text.len() + 1 + foot.keys.lines().count().max(1);
    let room = usize::from(SIZE.height).saturating_sub(below);
    shown.truncate(room);
    shown.resize(room, Line::default());
    shown.extend(text.into_iter().map(|line| Line::from(format!("  {line}"))));
    shown.push(Line::from(format!(" {rule}")));
    shown.extend(foot.keys.lines().map(|line| Line::from(format!("  {line}"))));
    frame.render_widget(Paragraph::new(shown), SIZE);
}

/// In lines of this width, a few at most, broken between words where there are some.
fn wrap(text: &str, width: usize) -> Vec<String> {
    // What others named may hold control characters: a terminal obeys them.
    let mut rest: Vec<char> = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mut lines = Vec::new();
    while rest.len() > width && lines.len() + 1 < LINES {
        let end = rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > 0).unwrap_or(width);
        lines.push(rest.drain(..end).collect());
        if rest.first() == Some(&' ') {
            rest.remove(0);
        }
    }
    lines.push(rest.into_iter().take(width).collect());
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn shown(facts: &Facts, foot: &Foot) -> String {
        let mut terminal = Terminal::new(TestBackend::new(SIZE.width, SIZE.height)).unwrap();
        terminal.draw(|frame| draw(frame, facts, None, foot)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_machine_without_a_network_says_so() {
        let facts = Facts { version: "0.1.0".into(), name: Some("kite-4412".into()), ..Facts::default() };
        let text = shown(&facts, &Foot { keys: "r restart".into(), ..Foot::default() });
        assert!(text.contains("Starting, step 1 of 6"), "{text}");
        assert!(text.contains("kite-4412") && text.contains("r restart"), "{text}");
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(wrap("abcdefghij klm", 4), ["abcd", "efgh", "ij k"], "the rest of too long a text goes");
        assert_eq!(wrap("a\u{1b}b", 7), ["a?b"]);
    }

    #[test]
    fn many_lines_and_strange_characters_leave_the_keys_where_they_are() {
        let problems = (0..40).map(|n| format!("problem {n} \u{1b}[2J{}", "x".repeat(200))).collect();
        let facts = Facts { address: Some("10.0.0.1".into()), live: true, problems, ..Facts::default() };
        let foot = Foot { text: vec!["type the six words".into()], keys: "Esc back".into() };
        let text = shown(&facts, &foot);
        assert!(text.contains("type the six words") && text.contains("Esc back"), "{text}");
        let log = (0..40).map(|n| format!("line {n}")).collect();
        let long = shown(&facts, &Foot { text: log, keys: "Esc back".into() });
        assert!(long.contains("Starting, step 2") && long.contains("line 39"), "{long}");
        assert!(long.contains("line 26") && !long.contains("line 25") && long.contains("Esc back"), "{long}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
