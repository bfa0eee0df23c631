//! Passwords come from files or standard input: a command line is seen by every user of the machine.

use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Read};
use std::path::Path;

const LONGEST: u64 = 4_096;

/// Reads a password; `None` or "-" = standard input. One line end at the end is not part of it.
pub(crate) fn read(file: Option<&Path>) -> Result<String> {
    let mut text = String::new();
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let open = std::fs::File::open(path);
            let open = open.with_context(|| format!("cannot read the password file {}", path.display()))?;
            open.take(LONGEST + 1).read_to_string(&mut text)?;
        }
        None => {
            let input = std::io::stdin();
            if input.is_terminal() {
                bail!("the password is read from a file (--password-file FILE) or piped to standard input");
            }
            input.take(LONGEST + 1).read_to_string(&mut text).context("cannot read the password")?;
        }
    }
    if text.len() as u64 > LONGEST {
        bail!("that is no password: more than {LONGEST} bytes");
    }
    Ok(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned())
}
