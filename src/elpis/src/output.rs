//! What goes to the terminal: text, tables, JSON.

use serde_json::Value;
use std::io::{IsTerminal, Write};

/// Prints to standard output. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// True when a person sees the output as it comes.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Prints one line.
pub(crate) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &Value) {
    line(&format!("{value:#}"));
}

/// A table with aligned columns; the last column is not padded. Without rows: `nothing`.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], nothing: &str) -> String {
    if rows.is_empty() {
        return format!("{nothing}\n");
    }
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|h| h.to_uppercase()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A field of a JSON object as text for a table; missing and null are "-". Control characters are shown escaped:
/// names come from agents and must not steer the terminal.
pub(crate) fn cell(row: &Value, field: &str) -> String {
    let text = match &row[field] {
        Value::Null => return "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    safe(&text)
}

/// Text without control characters.
pub(crate) fn safe(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_terminal_is_safe() {
        let rows = vec![vec!["1".into(), "web".into()], vec!["20".into(), safe("a\u{1b}[2J")]];
        assert_eq!(table(&["id", "name"], &rows, "none"), "ID  NAME\n1   web\n20  a\\u{1b}[2J\n");
        assert_eq!(table(&["id"], &[], "none"), "none\n");
    }
}
