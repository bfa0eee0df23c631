//! Which names a file may have.

/// Longest name in bytes: `.reason` is added to it in the spool, and a file system takes 255.
const NAME_BYTES: usize = 240;

/// A valid name as text, `None` when it is none. Names are bytes to the peers: what is not UTF-8 is read as Latin-1.
pub fn file_name(bytes: &[u8]) -> Option<String> {
    let name = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    };
    valid_name(&name).then_some(name)
}

/// The original's fifteen forbidden characters, and what no file may sensibly be called: nothing, `.`, `..`, control
/// characters, blanks at the ends, a bar at the end (shells and old readers give it a meaning).
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES
        && name != "."
        && name != ".."
        && !name.contains(|c: char| r"?[]/\=+<>:;',*~".contains(c) || c.is_control())
        && !name.starts_with(' ')
        && !name.ends_with([' ', '|'])
}
