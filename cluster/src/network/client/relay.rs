//! Keys that this node does not know yet, learned from the members that it does know.

use super::{Lane, Peers};
use crate::identity::Peer;
use crate::network::Kind;
use crate::raft_node::{ASK, PIN, call_frame};
use crate::state::{MAX_NODES, NodeState};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Most members asked about a key, and the least time between two such questions.
const RELAYS: usize = 8;
const RELAY_PAUSE: Duration = Duration::from_millis(200);

impl Peers {
    /// Asks the members that this node knows who holds the key: one that was admitted while this node was away may lead
    /// by now. Each is trusted as far as its own key is; one that knows of a removal outweighs all others.
    pub(crate) async fn learn(self: &Arc<Self>, spki: &str) -> Option<u64> {
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            // Strangers must not make this node ask without end.
            if asked.is_some_and(|at| at.elapsed() < RELAY_PAUSE) {
                return None;
            }
            *asked = Some(Instant::now());
        }
        let mut known: Vec<u64> = {
            let state = self.state.borrow();
            let place = self.identity.place.as_ref()?;
            let at_join = place.peers.keys().copied().filter(|id| !state.nodes.contains_key(id));
            state.members().map(|(id, _)| id).chain(at_join).filter(|id| *id != self.me.node).collect()
        };
        known.truncate(RELAYS);
        let frame = call_frame(PIN, spki.as_bytes())?;
        let asking = known.iter().map(|id| self.ask(*id, Lane::Call, Kind::Call, &frame, ASK));
        let mut found = None;
        for answer in futures_util::future::join_all(asking).await.into_iter().flatten() {
            match serde_json::from_slice::<Option<(u64, String, NodeState)>>(&answer) {
                Ok(Some((_, _, NodeState::Removed))) => return None,
                Ok(Some((id, address, _))) => found = Some((id, address)),
                Ok(None) | Err(_) => {}
            }
        }
        let (id, address) = found?;
        if self.state.borrow().nodes.contains_key(&id) {
            return self.pinned(spki);
        }
        tracing::info!(
            node = id,
            "another member vouches for a node that was admitted while this one was away"
        );
        let mut relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        if relayed.len() >= MAX_NODES {
            relayed.clear();
        }
        relayed.insert(id, Peer { spki: spki.to_owned(), address });
        Some(id)
    }
}
