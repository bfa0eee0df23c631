//! Nodes that belong to the cluster no more: those that were removed, and this one, when the cluster went on without it.

use super::Peers;
use crate::recovery::GivenUp;
use crate::state::{Node, NodeState};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

impl Peers {
    /// The member of a later generation that was met, if one was.
    pub(crate) fn newer(&self) -> Option<GivenUp> {
        self.newer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Greets all other members once, within a time: whether the cluster went on without this node.
    pub(crate) async fn greet_all(&self, within: Duration) {
        let all = self.others().into_iter().map(|node| self.connect(node));
        // Who does not answer says nothing.
        let _ = tokio::time::timeout(within, join_all(all)).await;
    }

    /// Everybody else who may be a member.
    pub(super) fn others(&self) -> BTreeSet<u64> {
        let known: BTreeSet<u64> = self.state.borrow().members().map(|(id, _)| id).collect();
        let at_join = self.identity.place.iter().flat_map(|place| place.peers.keys().copied());
        known.into_iter().chain(at_join).filter(|id| *id != self.me.node).collect()
    }

    /// The node with this key that was a member and is none any more.
    pub(crate) fn former(&self, spki: &str) -> Option<u64> {
        let state = self.state.borrow();
        let removed = |node: &Node| node.state == NodeState::Removed && node.spki == spki;
        state.nodes.iter().find(|(_, node)| removed(node)).map(|(id, _)| *id)
    }
}
