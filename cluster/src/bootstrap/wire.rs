//! What the two sides of a join say to each other: JSON in the frames of the cluster port, each bounded in size and
//! time.

use super::JoinError;
use crate::identity::Peer;
use crate::network::{GREETING_MAX, Kind, read_frame, write_frame};
use crate::profile::Kept;
use crate::state::Secret;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Time for each step of the talk.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// Most reasons of a refusal, and the longest one.
const REASONS: usize = 24;
const REASON: usize = 600;

/// First word of the member, to somebody unknown.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Salt of the key.
    pub(super) cluster: String,
}

/// Proof of knowing the words, hex. The joiner proves first: a stranger gets nothing to guess against.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Proof {
    pub(super) mac: String,
}

/// What the joiner wants to become.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) protocol: u16,
    pub(super) version: String,
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) address: String,
    pub(super) spool_address: String,
    pub(super) console_address: String,
    #[serde(default)]
    pub(super) gate_address: String,
    /// Its wall clock, Unix milliseconds.
    pub(super) wall_ms: i64,
    /// What is wrong on its side already: then it only asks for the other reasons.
    pub(super) reasons: Vec<String>,
    /// Its program knows timing profiles.
    #[serde(default)]
    pub(super) profiles: bool,
}

/// The place of the joiner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Admitted {
    pub(super) node: u64,
    pub(super) uuid: String,
    pub(super) cluster: String,
    pub(super) generation: u64,
    pub(super) peers: BTreeMap<u64, Peer>,
    /// The cluster key; empty in a cluster that has none.
    #[serde(default)]
    pub(super) cluster_key: Secret,
    /// With which timings it is to run, by a state that has it as a member.
    #[serde(default)]
    pub(super) profile: Option<Kept>,
}

pub(super) async fn send<S: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut S,
    what: &T,
) -> Result<(), JoinError> {
    frame(stream, Kind::Answer, what).await
}

/// Says no, with all reasons.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    reasons: &[String],
) -> Result<(), JoinError> {
    frame(stream, Kind::Error, &reasons).await
}

async fn frame<S: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut S,
    kind: Kind,
    what: &T,
) -> Result<(), JoinError> {
    let body = serde_json::to_vec(what).map_err(|e| JoinError::Talk(e.to_string()))?;
    let sent = tokio::time::timeout(STEP, write_frame(stream, kind, &body)).await;
    sent.map_err(|_| JoinError::Silent)?.map_err(|e| JoinError::Talk(e.to_string()))
}

/// Reads what is expected, or the refusal that came instead.
pub(super) async fn receive<S: AsyncRead + Unpin, T: DeserializeOwned>(
    stream: &mut S,
    within: Duration,
) -> Result<T, JoinError> {
    let read = tokio::time::timeout(within, read_frame(stream, GREETING_MAX)).await;
    let (kind, body) = read.map_err(|_| JoinError::Silent)?.map_err(|e| JoinError::Talk(e.to_string()))?;
    let odd = |e: serde_json::Error| JoinError::Talk(e.to_string());
    match kind {
        Kind::Answer => serde_json::from_slice(&body).map_err(odd),
        Kind::Error => Err(JoinError::Refused(plain(serde_json::from_slice(&body).map_err(odd)?))),
        _ => Err(JoinError::Talk("a frame of another protocol".to_owned())),
    }
}

/// Text of a peer as it may reach a terminal: bounded, without control characters.
pub(super) fn plain(reasons: Vec<String>) -> Vec<String> {
    let clean = |reason: String| reason.chars().filter(|c| !c.is_control()).take(REASON).collect();
    reasons.into_iter().take(REASONS).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bad_frames_are_errors_never_more() {
        let long = [&0x7fff_ffffu32.to_be_bytes()[..], b"x"].concat();
        let frames: [&[u8]; 7] = [
            b"",
            b"\0\0\0\0",
            b"\0\0\0\x01\0",
            b"\0\0\0\x01\xff",
            b"\0\0\0\x03\x01[]",
            b"\0\0\0\x03\x00{}",
            &long,
        ];
        for frame in frames {
            let mut stream = frame;
            assert!(receive::<_, Proof>(&mut stream, STEP).await.is_err(), "{frame:?}");
        }
    }

    #[test]
    fn a_refusal_cannot_write_to_the_terminal() {
        let plain = plain(vec!["a\u{1b}[2Jb\n".to_owned(), "x".repeat(5000)]);
        assert_eq!(plain[0], "a[2Jb");
        assert_eq!(plain[1].len(), REASON);
    }
}
