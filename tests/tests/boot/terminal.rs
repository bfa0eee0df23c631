//! What a terminal shows.

/// The last lines that are not empty.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// PURE: what a terminal of 80 by 24 shows after these bytes: text, line ends, and the sequences that move and clear.
pub(crate) fn shown(text: &str) -> String {
    const ROWS: usize = 24;
    const COLUMNS: usize = 80;
    let mut rows = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut column) = (0, 0);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() != Some('[') {
                    continue;
                }
                let mut numbers = String::new();
                let Some(last) = rest.by_ref().find(|c| {
                    numbers.push(*c);
                    c.is_ascii_alphabetic()
                }) else {
                    break;
                };
                let number = |at: usize| {
                    let part = numbers.trim_end_matches(char::is_alphabetic).split(';').nth(at);
                    part.and_then(|part| part.parse::<usize>().ok()).unwrap_or(1)
                };
                match last {
                    'H' => (row, column) = (number(0).clamp(1, ROWS) - 1, number(1).clamp(1, COLUMNS) - 1),
                    'J' => rows.iter_mut().for_each(|row| row.fill(' ')),
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' if row + 1 < ROWS => row += 1,
            '\n' => {
                rows.remove(0);
                rows.push(vec![' '; COLUMNS]);
            }
            c if !c.is_control() => {
                rows[row][column] = c;
                column = (column + 1).min(COLUMNS - 1);
            }
            _ => {}
        }
    }
    let lines: Vec<String> =
        rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect();
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn a_terminal_shows_what_was_drawn_last() {
    let text = "loading\r\n\u{1b}[2J\u{1b}[1;2HElpis\u{1b}[3;3H\u{1b}[1;32mStarting\u{1b}[0m\u{1b}[3;3HWorking \u{1b}[3;11Hwell";
    assert_eq!(shown(text), " Elpis\n\n  Working well");
}
