//! One session of the protocol, server side, without input or output: bytes and time go in, actions come out.
//!
//! The caller gives every read to [`Session::input`], carries out what [`Session::action`] yields, gives the outcome
//! of an action that asks for one to [`Session::answer`], and calls [`Session::expire`] at [`Session::deadline`].
//! The protocol is lock-step: while an answer is owed, the caller reads nothing.

mod command;
mod name;

pub use command::Command;
pub use name::{file_name, valid_name};

use md5::{Digest as _, Md5};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bounds of a session.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest file taken, bytes.
    pub size: u64,
    /// Longest silence of the peer.
    pub idle: Duration,
    /// Time for a whole command line.
    pub command: Duration,
    /// Time for a whole payload.
    pub transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            size: 2_000_000,
            // The original's one second times (three retries and the first try).
            idle: Duration::from_secs(4),
            command: Duration::from_secs(20),
            transfer: Duration::from_secs(300),
        }
    }
}

/// A command without its line feed is cut off above this; one that came whole may have twice as much.
const COMMAND_BYTES: usize = 1024;
/// Bytes that may wait while an answer is owed: what a peer sends ahead of its turn.
const AHEAD_BYTES: usize = 64 * 1024;

/// What the caller must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes.
    Write(Vec<u8>),
    /// May this file come? Answer [`Answer::Yes`] or [`Answer::Refused`].
    Offer {
        /// Its name, valid.
        name: String,
        /// Its size, within limits.
        size: u64,
    },
    /// Keep this file. Answer [`Answer::Yes`] when it is safe, or [`Answer::Refused`].
    Store {
        /// Its name, valid.
        name: String,
        /// All of it.
        content: Vec<u8>,
    },
    /// Fetch this file for the peer. Answer [`Answer::Content`] or [`Answer::Missing`].
    Fetch {
        /// Its name, valid.
        name: String,
    },
    /// Close the connection; why is for the log only.
    Close(Closed),
}

/// What came of an action.
#[derive(Debug)]
pub enum Answer {
    /// Done.
    Yes,
    /// Not done; the reason goes to the peer in brackets.
    Refused(&'static str),
    /// The file asked for.
    Content(Vec<u8>),
    /// No such file.
    Missing,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer said so.
    Quit,
    /// Silence, or too slow.
    TimeOut,
    /// Not a command, or one that is not served here.
    Unknown(String),
    /// Line too long.
    TooLong,
    /// No password or a wrong one.
    Denied,
    /// The caller answered what was not asked.
    Internal,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    password: Option<String>,
    state: State,
    buffer: Vec<u8>,
    actions: VecDeque<Action>,
    last_byte: Instant,
    since: Instant,
}

#[derive(Debug)]
enum State {
    /// The password must come first.
    Password,
    Command,
    /// An [`Action::Offer`] is out.
    Offering {
        name: String,
        size: u64,
    },
    Payload {
        name: String,
        size: u64,
    },
    /// An [`Action::Store`] is out.
    Storing,
    /// An [`Action::Fetch`] is out.
    Fetching,
    /// `RECV SIZE` is out; the peer says `RECV OK` or not.
    Announced {
        content: Vec<u8>,
    },
    Closed,
}

impl Session {
    /// A new session; with a password, the peer must give it first.
    pub fn new(limits: Limits, password: Option<&str>, now: Instant) -> Session {
        Session {
            limits,
            password: password.map(digest),
            state: if password.is_some() { State::Password } else { State::Command },
            buffer: Vec::new(),
            actions: VecDeque::new(),
            last_byte: now,
            since: now,
        }
    }

    /// Takes what one read gave.
    pub fn input(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() || matches!(self.state, State::Closed) {
            return;
        }
        self.last_byte = now;
        if self.buffer.len() + bytes.len() > self.room() {
            return self.close(Closed::TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        self.advance(now);
    }

    /// The next thing to do.
    pub fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// True when the peer's turn has come: read.
    pub fn wants_input(&self) -> bool {
        matches!(
            self.state,
            State::Password | State::Command | State::Payload { .. } | State::Announced { .. }
        )
    }

    /// Takes the outcome of an action.
    pub fn answer(&mut self, answer: Answer, now: Instant) {
        self.last_byte = now;
        self.since = now;
        match (std::mem::replace(&mut self.state, State::Command), answer) {
            (State::Closed, _) => self.state = State::Closed,
            (State::Offering { name, size }, Answer::Yes) => {
                self.state = State::Payload { name, size };
                self.write("SEND OK\n");
            }
            (State::Storing, Answer::Yes) => self.write("SEND OK\n"),
            (State::Offering { .. } | State::Storing, Answer::Refused(reason)) => {
                self.write(&format!("SEND ERR ({reason})\n"));
            }
            (State::Fetching, Answer::Content(content)) => {
                self.write(&format!("RECV SIZE {}\n", content.len()));
                self.state = State::Announced { content };
            }
            (State::Fetching, Answer::Missing) => self.write("RECV ERR (file does not exist)\n"),
            _ => return self.close(Closed::Internal),
        }
        self.advance(now);
    }

    /// When [`Session::expire`] is due; none while the caller owes an answer.
    pub fn deadline(&self) -> Option<Instant> {
        let whole = match self.state {
            State::Payload { .. } => self.limits.transfer,
            _ if self.wants_input() => self.limits.command,
            _ => return None,
        };
        Some((self.last_byte + self.limits.idle).min(self.since + whole))
    }

    /// Ends the session if its deadline has passed.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.close(Closed::TimeOut);
        }
    }

    fn room(&self) -> usize {
        match &self.state {
            State::Payload { size, .. } => {
                usize::try_from(*size).unwrap_or(usize::MAX).saturating_add(AHEAD_BYTES)
            }
            _ => AHEAD_BYTES,
        }
    }

    fn advance(&mut self, now: Instant) {
        match &self.state {
            State::Payload { size, .. } => {
                let size = usize::try_from(*size).unwrap_or(usize::MAX);
                if self.buffer.len() >= size {
                    self.payload_complete(size, now);
                }
            }
            State::Password | State::Command | State::Announced { .. } => {
                // The original looks at the last byte of all that came; so a line and more in one piece is no line.
                match (self.buffer.last(), self.buffer.len()) {
                    (None, _) => {}
                    (Some(b'\n'), ..=2048) => self.line_complete(now),
                    (Some(b'\n'), _) | (Some(_), COMMAND_BYTES..) => self.close(Closed::TooLong),
                    _ => {}
                }
            }
            State::Offering { .. } | State::Storing | State::Fetching | State::Closed => {}
        }
    }

    fn payload_complete(&mut self, size: usize, now: Instant) {
        let State::Payload { name, .. } = std::mem::replace(&mut self.state, State::Storing) else { return };
        let ahead = self.buffer.split_off(size);
        let content = std::mem::replace(&mut self.buffer, ahead);
        self.since = now;
        self.actions.push_back(Action::Store { name, content });
    }

    fn line_complete(&mut self, now: Instant) {
        let line = std::mem::take(&mut self.buffer);
        self.since = now;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        // One surplus line feed at the end is tolerated.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match std::mem::replace(&mut self.state, State::Command) {
            State::Password => self.password_given(line),
            State::Announced { content } => {
                if line == b"RECV OK" && !content.is_empty() {
                    self.actions.push_back(Action::Write(content));
                }
            }
            _ => self.command_given(line),
        }
    }

    fn password_given(&mut self, line: &[u8]) {
        let given = line.strip_prefix(b"PASS ").unwrap_or_default();
        let right = self.password.as_deref().unwrap_or_default().as_bytes();
        match aws_lc_rs::constant_time::verify_slices_are_equal(given, right) {
            Ok(()) => self.write("PASS OK\n"),
            Err(_) => self.close(Closed::Denied),
        }
    }

    fn command_given(&mut self, line: &[u8]) {
        match Command::parse(line) {
            Command::Send { name, size } => match file_name(name) {
                None => self.write("SEND ERR (invalid file name)\n"),
                Some(_) if size < 1 || size > self.limits.size => self.write("SEND ERR (file is too big)\n"),
                Some(name) => {
                    self.state = State::Offering { name: name.clone(), size };
                    self.actions.push_back(Action::Offer { name, size });
                }
            },
            Command::Recv { name } => match file_name(name) {
                None => self.write("RECV ERR (file has an invalid file name)\n"),
                Some(name) => {
                    self.state = State::Fetching;
                    self.actions.push_back(Action::Fetch { name });
                }
            },
            Command::Quit => self.close(Closed::Quit),
            Command::Pass
            | Command::ZSend
            | Command::ZRecv
            | Command::Ls
            | Command::Mv
            | Command::Unknown => {
                let text: String = String::from_utf8_lossy(line).chars().take(80).collect();
                self.close(Closed::Unknown(text.escape_debug().to_string()));
            }
        }
    }

    fn write(&mut self, text: &str) {
        self.actions.push_back(Action::Write(text.as_bytes().to_vec()));
    }

    fn close(&mut self, why: Closed) {
        self.state = State::Closed;
        self.buffer = Vec::new();
        self.actions.push_back(Action::Close(why));
    }
}

/// What `PASS` carries: the MD5 of the raw MD5 of the password, in hex. No nonce: only good inside TLS.
pub fn digest(password: &str) -> String {
    let twice = Md5::digest(Md5::digest(password.as_bytes()));
    twice.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
