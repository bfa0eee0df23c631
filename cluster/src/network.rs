//! Frames between members over mutual TLS.
//!
//! A frame is a length (u32), a kind (u8) and a body. A connection carries one question at a time; heartbeats, log,
//! votes, snapshots, proposals and custom calls each have a connection of their own, so that none waits for another.

mod client;
mod server;

pub use client::{Client, Factory, Lane, Peers};
pub(crate) use server::parse;
pub use server::{Service, serve};

use crate::profile::Greeting;
use crate::types::PROTOCOL;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame: a snapshot and its head.
pub const FRAME_MAX: usize = crate::state_machine::SNAPSHOT_MAX + 64 * 1024;
/// Largest frame before the peer is known.
pub const GREETING_MAX: usize = 16 * 1024;
/// Time until a member takes a connection.
pub const CONNECT: Duration = Duration::from_secs(3);
/// Time for TLS and the greeting: a busy machine needs long for it, and would need longer if it had to begin anew.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the rest of a frame once its length is there.
pub const BODY: Duration = Duration::from_secs(10);

/// What a frame asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Answer = 0,
    Error = 1,
    Hello = 2,
    Append = 3,
    Vote = 4,
    PreVote = 5,
    Snapshot = 6,
    Transfer = 7,
    Propose = 8,
    Member = 9,
    Call = 10,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Answer,
        Kind::Error,
        Kind::Hello,
        Kind::Append,
        Kind::Vote,
        Kind::PreVote,
        Kind::Snapshot,
        Kind::Transfer,
        Kind::Propose,
        Kind::Member,
        Kind::Call,
    ];
}

/// Why a question to a member got no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("node {0} is not known here; wait until this node has caught up, or list the members")]
    Unknown(u64),
    #[error("node {node} at {address}: {why}")]
    Unreachable { node: u64, address: String, why: String },
    #[error("node {0} did not answer in time")]
    Timeout(u64),
    #[error("node {node} refused: {why}")]
    Refused { node: u64, why: String },
}

/// First frame of each side of a connection between members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) cluster: String,
    pub(crate) generation: u64,
    pub(crate) node: u64,
    pub(crate) boot_id: String,
    /// `None` = of a program that knows no profiles.
    #[serde(default)]
    pub(crate) profile: Option<Greeting>,
}

impl Hello {
    /// What does not fit, or nothing.
    pub(crate) fn misfit(&self, mine: &Hello) -> Option<String> {
        if self.protocol != mine.protocol {
            return Some(format!("protocol {} against {PROTOCOL}; update the older program", self.protocol));
        }
        if self.cluster != mine.cluster {
            return Some(format!(
                "cluster {} against {}; this is a node of another cluster",
                self.cluster, mine.cluster
            ));
        }
        if self.generation != mine.generation {
            let (late, early) = if self.generation > mine.generation { (self, mine) } else { (mine, self) };
            return Some(format!(
                "the cluster went on as generation {} without node {}, which is of generation {}: reset node {}, empty \
                 its data folder and join it again",
                late.generation, early.node, early.generation, early.node
            ));
        }
        match (&self.profile, &mine.profile) {
            (Some(its), Some(own)) => its.misfit(self.node, own, mine.node),
            (None, Some(own)) if own.step > 0 => Some(format!(
                "the program of node {} is too old to know the timings that the cluster agreed on; update it",
                self.node
            )),
            _ => None,
        }
    }

    /// Whether this is of a later generation of my cluster.
    pub(crate) fn is_later(&self, mine: &Hello) -> bool {
        (self.protocol, &self.cluster) == (mine.protocol, &mine.cluster) && self.generation > mine.generation
    }
}

pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    to: &mut W,
    kind: Kind,
    body: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(body.len() + 1).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(body.len() + 5);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(kind as u8);
    frame.extend_from_slice(body);
    to.write_all(&frame).await?;
    to.flush().await
}

/// Reads a frame; waits for its length without limit, since a member may have nothing to ask for hours.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    from: &mut R,
    max: usize,
) -> io::Result<(Kind, Vec<u8>)> {
    let length = from.read_u32().await? as usize;
    if length == 0 || length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes, at most {max} are taken"),
        ));
    }
    let mut body = vec![0; length];
    tokio::time::timeout(BODY, from.read_exact(&mut body)).await.map_err(io::Error::other)??;
    let number = body.remove(0);
    let kind = Kind::ALL
        .get(usize::from(number))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("unknown frame {number}")))?;
    Ok((*kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misfit_says_who_must_be_reset() {
        let hello = |cluster: &str, generation, node| Hello {
            protocol: PROTOCOL,
            cluster: cluster.to_owned(),
            generation,
            node,
            boot_id: String::new(),
            profile: None,
        };
        let (old, new) = (hello("c", 1, 2), hello("c", 2, 4));
        assert_eq!(old.misfit(&hello("c", 1, 3)), None);
        for why in [old.misfit(&new), new.misfit(&old)] {
            assert!(why.unwrap().contains("reset node 2, empty its data folder and join it again"));
        }
        assert!(new.is_later(&old) && !old.is_later(&new) && !old.is_later(&old));
        let stranger = hello("d", 3, 5);
        assert!(stranger.misfit(&old).unwrap().contains("another cluster") && !stranger.is_later(&old));
        assert!(Hello { protocol: 9, ..new }.misfit(&old).unwrap().contains("protocol 9"));
    }
}
