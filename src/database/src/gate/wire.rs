//! The words between two gates, before the bytes they carry: version, what is asked for, epoch; one byte as answer.

use std::io::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 1;
const LENGTH: usize = 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The primary of this epoch.
    Statements { epoch: u64 },
    /// To replicate from this server.
    Replication,
    /// The files of this server.
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Welcome,
    Refused,
}

impl Ask {
    fn bytes(self) -> [u8; LENGTH] {
        let (kind, epoch) = match self {
            Ask::Statements { epoch } => (b'S', epoch),
            Ask::Replication => (b'R', 0),
            Ask::Copy => (b'C', 0),
        };
        let mut bytes = [0; LENGTH];
        (bytes[0], bytes[1]) = (VERSION, kind);
        bytes[2..].copy_from_slice(&epoch.to_be_bytes());
        bytes
    }

    fn read(bytes: [u8; LENGTH]) -> Option<Ask> {
        let mut epoch = [0; 8];
        epoch.copy_from_slice(&bytes[2..]);
        let epoch = u64::from_be_bytes(epoch);
        match (bytes[0], bytes[1]) {
            (VERSION, b'S') => Some(Ask::Statements { epoch }),
            (VERSION, b'R') => Some(Ask::Replication),
            (VERSION, b'C') => Some(Ask::Copy),
            _ => None,
        }
    }
}

pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), ask: Ask) -> Result<()> {
    to.write_all(&ask.bytes()).await?;
    to.flush().await
}

pub(super) async fn asked(from: &mut (impl AsyncRead + Unpin)) -> Result<Ask> {
    let mut bytes = [0; LENGTH];
    from.read_exact(&mut bytes).await?;
    let odd = || Error::new(ErrorKind::InvalidData, "a gate of another version asks, or no gate");
    Ask::read(bytes).ok_or_else(odd)
}

pub(super) async fn reply(to: &mut (impl AsyncWrite + Unpin), answer: Answer) -> Result<()> {
    to.write_all(&[u8::from(answer == Answer::Refused)]).await?;
    to.flush().await
}

pub(super) async fn answer(from: &mut (impl AsyncRead + Unpin)) -> Result<Answer> {
    let mut byte = [0];
    from.read_exact(&mut byte).await?;
    Ok(if byte == [0] { Answer::Welcome } else { Answer::Refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_others_are_refused() {
        for ask in [Ask::Statements { epoch: 7 }, Ask::Replication, Ask::Copy] {
            assert_eq!(Ask::read(ask.bytes()), Some(ask));
        }
        let mut bytes = Ask::Copy.bytes();
        bytes[0] = 2;
        assert_eq!(Ask::read(bytes), None, "another version");
        assert_eq!(Ask::read([1, b'x', 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
