//! Small questions between the Raft parts of members, which no handler sees: clocks, keys, how far a node has applied.

use super::Inner;
use crate::identity::Identity;
use crate::network::{Kind, Lane};
use crate::state::ClusterState;
use crate::types::unix_ms;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Prefix of the kinds of these calls.
const PREFIX: &str = "raft/";
const CLOCK: &str = "raft/clock";
const APPLIED: &str = "raft/applied";
/// Asks who holds a key.
pub(crate) const PIN: &str = "raft/pin";
/// Time for an answer.
pub(crate) const ASK: Duration = Duration::from_millis(400);
/// Time to catch up with the leader.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The frame of a call.
pub(crate) fn call_frame(kind: &str, body: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(kind.len()).ok()?;
    Some([&length.to_be_bytes()[..], kind.as_bytes(), body].concat())
}

impl Inner {
    /// The answer to a question of this file; `None` when it is another's.
    pub(super) fn own_call(&self, kind: &[u8], body: &[u8]) -> Option<Result<Vec<u8>, String>> {
        let kind = std::str::from_utf8(kind).ok().filter(|kind| kind.starts_with(PREFIX))?;
        let answer = match kind {
            CLOCK => serde_json::to_vec(&unix_ms()),
            APPLIED => {
                let view = self.view();
                serde_json::to_vec(&view.is_leader.then_some(view.applied_index))
            }
            PIN => {
                let state = self.snapshot();
                let spki = String::from_utf8_lossy(body);
                let known = state.nodes.iter().find(|(_, node)| node.spki == spki);
                serde_json::to_vec(&known.map(|(id, node)| (*id, node.address.clone(), node.state)))
            }
            _ => return Some(Err(format!("{kind} is not known here; update the older program"))),
        };
        Some(answer.map_err(|e| e.to_string()))
    }

    async fn small_ask<T: serde::de::DeserializeOwned>(&self, node: u64, kind: &str) -> Option<T> {
        let frame = call_frame(kind, &[])?;
        let answer = self.peers.ask(node, Lane::Call, Kind::Call, &frame, ASK).await.ok()?;
        serde_json::from_slice(&answer).ok()
    }

    /// What most voters' clocks agree on, Unix milliseconds: the median of those that answer at once.
    pub(crate) async fn cluster_time_ms(&self) -> i64 {
        let voters = self.view().voters;
        let others = voters.iter().filter(|id| **id != self.id);
        let asked = join_all(others.map(|id| self.small_ask::<i64>(*id, CLOCK))).await;
        let mut clocks: Vec<i64> = asked.into_iter().flatten().collect();
        if voters.contains(&self.id) || clocks.is_empty() {
            clocks.push(unix_ms());
        }
        clocks.sort_unstable();
        clocks[(clocks.len() - 1) / 2]
    }

    /// Waits, within bounds, until this node has applied what the leader has; whether there is a leader.
    pub(crate) async fn catch_up(&self) -> bool {
        let until = tokio::time::Instant::now() + CATCH_UP;
        let mut wanted = None;
        while tokio::time::Instant::now() < until {
            let view = self.view();
            if view.is_leader {
                return true;
            }
            if wanted.is_none()
                && let Some(leader) = view.leader
            {
                wanted = self.small_ask::<Option<u64>>(leader, APPLIED).await.flatten();
            }
            if wanted.is_some_and(|index| view.applied_index >= index) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wanted.is_some()
    }

    pub(crate) fn snapshot(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.peers.identity()
    }

    pub(crate) fn spki(&self) -> &str {
        &self.peers.identity().spki
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.view().leader
    }
}
