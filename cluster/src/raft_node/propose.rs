//! Proposals, written here or carried to the leader.

use super::{Inner, NodeError};
use crate::network::{Kind, NetError};
use crate::state::{Applied, Command};
use crate::types::{Outcome, Proposal};
use openraft::errors::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;
use std::time::Duration;

/// How long a proposal looks for a leader that takes it.
pub(super) const PROPOSE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Forwarded {
    Done(Outcome),
    NotLeader(Option<u64>),
    Failed(String),
}

impl Inner {
    pub(crate) async fn propose(&self, command: Command) -> Result<Applied, NodeError> {
        let until = tokio::time::Instant::now() + PROPOSE;
        let proposal = Proposal(command);
        let body = serde_json::to_vec(&proposal).map_err(|e| NodeError::Raft(e.to_string()))?;
        let mut hint = None;
        loop {
            let answer = match hint.take().filter(|leader| *leader != self.id) {
                None => self.propose_here(proposal.clone()).await,
                Some(leader) => match self.peers.ask_once(leader, Kind::Propose, &body, PROPOSE).await {
                    Ok(answer) => serde_json::from_slice(&answer)
                        .map_err(|e| NodeError::OutcomeUnknown(e.to_string()))?,
                    // The connection was never made: nothing was sent.
                    Err(error @ (NetError::Unknown(_) | NetError::Refused { .. })) => {
                        tracing::debug!(%error, "the leader did not take a proposal");
                        Forwarded::NotLeader(None)
                    }
                    Err(NetError::Unreachable { address, .. }) if !address.is_empty() => {
                        Forwarded::NotLeader(None)
                    }
                    Err(error) => return Err(NodeError::OutcomeUnknown(error.to_string())),
                },
            };
            match answer {
                Forwarded::Done(Outcome(Some(outcome))) => return outcome.map_err(NodeError::Refused),
                Forwarded::Done(Outcome(None)) => return Ok(Applied::Unchanged),
                Forwarded::Failed(why) => return Err(NodeError::OutcomeUnknown(why)),
                Forwarded::NotLeader(Some(leader)) if leader != self.id => hint = Some(leader),
                Forwarded::NotLeader(_) => {}
            }
            if tokio::time::Instant::now() >= until {
                return Err(NodeError::NoLeader);
            }
            if hint.is_none() {
                // Nothing tells when a leader appears on another node; this is the pace of asking again.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub(super) async fn propose_here(&self, proposal: Proposal) -> Forwarded {
        // A leader that has lost its majority would keep the caller until it comes back.
        let Ok(written) = tokio::time::timeout(PROPOSE, self.raft.client_write(proposal)).await else {
            return Forwarded::Failed(format!("no majority confirmed it within {} s", PROPOSE.as_secs()));
        };
        match written {
            Ok(written) => Forwarded::Done(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Forwarded::NotLeader(to.leader_id)
            }
            Err(error) => Forwarded::Failed(error.to_string()),
        }
    }

    pub(super) async fn handle(&self, peer: u64, kind: String, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let handler = self.handler.read().unwrap_or_else(PoisonError::into_inner).clone();
        match handler {
            Some(handler) => handler(peer, kind, body).await,
            None => Err("this node does not take calls yet".to_owned()),
        }
    }
}
