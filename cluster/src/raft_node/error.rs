//! What can go wrong with this node's Raft.

use crate::identity::IdentityError;
use crate::network::NetError;
use crate::state::Refused;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(
        "this node belongs to no cluster; make one with `elpis cluster init` or join one with `elpis join`"
    )]
    NoCluster,
    #[error("this node belongs to the cluster {0}; empty its data folder before it makes or joins another")]
    HasCluster(String),
    #[error("cannot listen on {address}: {source}; free the port or choose another")]
    Port { address: String, source: std::io::Error },
    #[error("{0}")]
    Refused(#[source] Refused),
    #[error("no leader took it; the cluster has lost its majority or elects just now: try again")]
    NoLeader,
    #[error("it may or may not have been written: {0}; look at the state before trying again")]
    OutcomeUnknown(String),
    #[error("Raft: {0}")]
    Raft(String),
    #[error("the node refused the call: {0}")]
    Handler(String),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("key or randomness: {0}")]
    Key(#[from] rcgen::Error),
    #[error("disk: {0}; a node whose Raft log fails must be removed and joined again")]
    Disk(#[from] std::io::Error),
}

impl NodeError {
    pub(crate) fn raft(error: impl std::fmt::Display) -> Self {
        NodeError::Raft(error.to_string())
    }
}
