//! What may be lost now while the rest goes on.

use super::super::Agent;
use super::super::member::Member;
use super::super::messages::Knowledge;
use super::ask_leader;
use super::database::copy;
use crate::raft_node::RaftView;
use crate::state::ClusterState;
use elpis_watch::NodeId;

/// PURE: how many nodes, whichever they are, may die now while the rest goes on working.
pub(in crate::agent) fn can_lose(
    state: &ClusterState,
    view: &RaftView,
    known: Option<&Knowledge>,
) -> (usize, String) {
    let Some(known) = known else {
        return (0, "no master: a majority of the voters does not answer, or an election goes on".to_owned());
    };
    let live = |id: &NodeId| known.nodes.get(id).is_some_and(|node| node.lease_ms_left > 0);
    let voters = view.voters.len();
    let up = view.voters.iter().filter(|id| live(id)).count();
    let majority = voters / 2 + 1;
    let spare = up.saturating_sub(majority);
    let working = |(id, node): &(NodeId, &crate::state::Node)| {
        live(id) && !node.draining && known.nodes.get(id).is_some_and(|node| node.unfit.is_empty())
    };
    let workers = state.members().filter(working).count();
    let can = spare.min(workers.saturating_sub(1));
    if let Some(why) = state.group.as_ref().and_then(|_| one_copy(state, known)).filter(|_| can > 0) {
        return (0, why);
    }
    let can = if state.group.is_some() { can.min(1) } else { can };
    let reason = if can == spare {
        format!("{up} of {voters} voters live, {majority} are needed")
    } else {
        let fit = if workers == 1 { "1 node" } else { &format!("{workers} nodes") };
        format!("only {fit} can work: the others drain or are unfit")
    };
    (can, reason)
}

/// Why the database would not survive the loss of whichever node, as the master knows it.
pub(in crate::agent) async fn one_copy_of(agent: &Agent, member: &Member) -> Option<String> {
    match ask_leader(agent, member, &member.node.raft_view()).await {
        Some(known) => one_copy(&member.state(), &known),
        None => Some("there is no master to ask".to_owned()),
    }
}

/// PURE: why the database would not survive the loss of whichever node; `None` = it would.
fn one_copy(state: &ClusterState, known: &Knowledge) -> Option<String> {
    let group = state.group.as_ref()?;
    let name = |id: &NodeId| state.nodes.get(id).map_or_else(|| id.to_string(), |node| node.name.clone());
    if group.failing_over {
        return Some(format!("the database's primary {} is being replaced", name(&group.primary)));
    }
    if group.heirs().is_empty() {
        return Some(format!("only {} is sure to hold the whole database", name(&group.primary)));
    }
    let works = |id: &NodeId| copy(state, known, *id).is_some_and(|copy| copy.works);
    let bad = std::iter::once(&group.primary).chain(&group.ack_set).find(|id| !works(id))?;
    Some(format!("the copy of the database on {} does not follow or does not answer", name(bad)))
}
