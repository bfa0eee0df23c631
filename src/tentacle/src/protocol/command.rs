//! The words of a command line.

/// A command line taken apart. What is known of the protocol but not served here has its own variant, for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `SEND <name> SIZE n`.
    Send {
        /// Name, unchecked.
        name: &'a [u8],
        /// Size; more digits than fit are the largest number.
        size: u64,
    },
    /// `RECV <name>`.
    Recv {
        /// Name, unchecked.
        name: &'a [u8],
    },
    /// `QUIT`.
    Quit,
    /// `PASS …` where none is expected.
    Pass,
    /// Compressed sending; not served.
    ZSend,
    /// Compressed receiving; not served.
    ZRecv,
    /// Listing; not served.
    Ls,
    /// Moving; not served.
    Mv,
    /// Anything else.
    Unknown,
}

impl<'a> Command<'a> {
    /// Takes a line apart, without its line feed. Upper case, one blank where one belongs, nothing after the end.
    pub fn parse(line: &'a [u8]) -> Command<'a> {
        if line == b"QUIT" {
            return Command::Quit;
        }
        if line.contains(&b'\n') {
            return Command::Unknown;
        }
        if let Some(rest) = line.strip_prefix(b"SEND <") {
            return send(rest).unwrap_or(Command::Unknown);
        }
        if let Some(name) = line.strip_prefix(b"RECV <").and_then(|rest| rest.strip_suffix(b">")) {
            return Command::Recv { name };
        }
        match line {
            [b'P', b'A', b'S', b'S', b' ', ..] => Command::Pass,
            [b'Z', b'S', b'E', b'N', b'D', b' ', ..] => Command::ZSend,
            [b'Z', b'R', b'E', b'C', b'V', b' ', ..] => Command::ZRecv,
            [b'L', b'S', b' ', ..] => Command::Ls,
            [b'M', b'V', b' ', ..] => Command::Mv,
            _ => Command::Unknown,
        }
    }
}

fn send(rest: &[u8]) -> Option<Command<'_>> {
    const MIDDLE: &[u8] = b"> SIZE ";
    let at = rest.windows(MIDDLE.len()).rposition(|part| part == MIDDLE)?;
    let digits = &rest[at + MIDDLE.len()..];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size =
        digits.iter().fold(0u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Command::Send { name: &rest[..at], size })
}
