//! Clusters to begin tests with.

use super::{Applied, ClusterState, Command};
use elpis_watch::NodeId;

/// The entry that admits node `nID`.
pub(crate) fn admit(id: NodeId) -> Command {
    Command::AdmitNode {
        uuid: format!("u{id}"),
        name: format!("n{id}"),
        spki: format!("k{id}"),
        address: format!("a{id}"),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        version: String::new(),
    }
}

/// So many admitted nodes, ids from 2, not up yet.
pub(crate) fn admitted(nodes: u64) -> ClusterState {
    let mut state = ClusterState::new();
    state.apply(1, &Command::InitCluster { uuid: "u".into(), name: "c".into() }).unwrap();
    for id in 2..2 + nodes {
        assert_eq!(state.apply(id, &admit(id)), Ok(Applied::Admitted(id)));
    }
    state
}

/// So many live nodes, ids from 2, without shards; indexes up to 199 are used.
pub(crate) fn live(nodes: u64) -> ClusterState {
    let mut state = admitted(nodes);
    for id in 2..2 + nodes {
        state.apply(100 + id, &Command::NodeUp { node: id, session: 1 }).unwrap();
    }
    state
}
