//! Proposals of a leader that hold only while it leads.

use super::propose::PROPOSE;
use super::{NodeError, RaftNode};
use crate::state::{Applied, Command};
use crate::types::Proposal;
use openraft::errors::ClientWriteError;
use openraft::impls::{ProgressResponder, leader_id_adv::LeaderId};

impl RaftNode {
    /// Writes a command only if this node still leads `term` when it is written: what a leader concluded from what it
    /// granted and heard must never be forwarded to the next leader, which may have granted meanwhile.
    ///
    /// # Errors
    /// [`NodeError::NoLeader`] when it was not written; [`NodeError::OutcomeUnknown`] when it may have been.
    pub async fn propose_in_term(&self, term: u64, command: Command) -> Result<Applied, NodeError> {
        let leader = LeaderId { term, node_id: self.inner.id };
        let (responder, answer) = ProgressResponder::complete_only();
        let writing = async {
            let write = self.inner.raft.write(Proposal(command)).with_leader(leader).responder(responder);
            write.await.map_err(NodeError::raft)?;
            answer.await.map_err(|_| NodeError::OutcomeUnknown("Raft stopped".to_owned()))
        };
        let written = tokio::time::timeout(PROPOSE, writing).await.map_err(|_| {
            NodeError::OutcomeUnknown(format!("no majority confirmed it within {} s", PROPOSE.as_secs()))
        })??;
        match written {
            Ok(written) => match written.data.0 {
                Some(outcome) => outcome.map_err(NodeError::Refused),
                None => Ok(Applied::Unchanged),
            },
            Err(ClientWriteError::ForwardToLeader(_)) => Err(NodeError::NoLeader),
            Err(error) => Err(NodeError::raft(error)),
        }
    }
}
