//! Taking shards from a node, and taking a node out.

use super::JoinError;
use crate::raft_node::{MemberChange, RaftNode, RaftView};
use crate::state::{ClusterState, Command, NodeState};

/// The member of this name or id; names win.
#[must_use]
pub fn find(state: &ClusterState, node: &str) -> Option<u64> {
    let by_name = state.members().find(|(_, known)| known.name == node).map(|(id, _)| id);
    by_name.or_else(|| node.parse().ok().filter(|id| state.members().any(|(known, _)| known == *id)))
}

/// The node gives its shards and jobs away.
///
/// # Errors
/// When it is no member, or no leader takes it.
pub async fn drain(node: &RaftNode, target: u64) -> Result<(), JoinError> {
    propose(node, Command::Drain { node: target }).await
}

/// The node gets shards and jobs again.
///
/// # Errors
/// When it is no member, or no leader takes it.
pub async fn undrain(node: &RaftNode, target: u64) -> Result<(), JoinError> {
    propose(node, Command::Undrain { node: target }).await
}

async fn propose(node: &RaftNode, command: Command) -> Result<(), JoinError> {
    let audit = Command::Audit {
        at_ms: node.inner().cluster_time_ms().await,
        who: format!("node {}", node.id()),
        what: command.to_string(),
    };
    node.propose(Command::Batch(vec![command, audit])).await?;
    Ok(())
}

/// Takes the node out for ever; its id never comes back. May be asked of any member, also of the node itself; may take
/// up to a minute.
///
/// # Errors
/// With all reasons at once when it must not go; others when no leader does it.
pub async fn remove(node: &RaftNode, target: u64) -> Result<(), JoinError> {
    node.inner().catch_up().await;
    let reasons = against(&node.state().borrow().clone(), &node.raft_view(), target);
    if !reasons.is_empty() {
        return Err(JoinError::Refused(reasons));
    }
    node.change_members(MemberChange::Remove { node: target }).await?;
    Ok(())
}

/// PURE: everything that stands against a newcomer in the place of the node.
#[must_use]
pub fn against_replacement(state: &ClusterState, view: &RaftView, target: u64) -> Vec<String> {
    let mut reasons: Vec<String> = super::checks::against_place(state, target).into_iter().collect();
    if view.leader.is_none() {
        reasons.push("the cluster has no leader now; start the nodes that are down".to_owned());
    }
    reasons
}

/// PURE: everything that stands against taking the node out.
fn against(state: &ClusterState, view: &RaftView, target: u64) -> Vec<String> {
    let Some(node) = state.nodes.get(&target) else {
        return vec![format!("node {target} is no member; list the members with `elpis cluster status`")];
    };
    if node.state == NodeState::Removed {
        return vec![format!("node {target} ({}) is removed already", node.name)];
    }
    let mut reasons = Vec::new();
    if view.leader.is_none() {
        reasons.push("the cluster has no leader now; start the nodes that are down".to_owned());
    }
    if state.members().count() == 1 {
        reasons.push(format!(
            "{} is the only node; to end the cluster, stop it and empty its data folder",
            node.name
        ));
    }
    if node.live() {
        if !node.draining {
            reasons.push(format!("{0} is up and not drained; run `elpis node drain {0}` first", node.name));
        }
        let owned = state.owned(target);
        if owned > 0 {
            reasons.push(format!(
                "{} owns {owned} shards; wait until the drain has moved them to other nodes",
                node.name
            ));
        }
        let jobs: Vec<&str> =
            state.jobs.iter().filter(|(_, job)| job.node == target).map(|(name, _)| name.as_str()).collect();
        if !jobs.is_empty() {
            reasons.push(format!(
                "{} runs {}; wait until the drain has moved it",
                node.name,
                jobs.join(", ")
            ));
        }
    }
    if state.moves().any(|step| step.to == target) {
        reasons.push(format!("shards are moving to {}; wait until they stand still", node.name));
    }
    if view.voters.contains(&target) && view.voters.len() > 1 {
        // A node that joined a moment ago is up before it is called so.
        let dead = |id: &u64| state.nodes.get(id).is_none_or(|node| node.state == NodeState::Down);
        let rest = view.voters.iter().filter(|id| **id != target && !dead(id)).count();
        if rest < view.voters.len() / 2 + 1 {
            let names: Vec<&str> = view
                .voters
                .iter()
                .filter(|id| **id != target && dead(id))
                .filter_map(|id| state.nodes.get(id).map(|node| node.name.as_str()))
                .collect();
            reasons.push(format!(
                "without {} the cluster would lose its majority, because {} is down; start it, or remove it first",
                node.name,
                names.join(", ")
            ));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (ClusterState, RaftView) {
        let state = crate::state::testing::live(3);
        let view = RaftView { leader: Some(2), voters: vec![2, 3, 4], ..RaftView::default() };
        (state, view)
    }

    #[test]
    fn a_node_is_found_by_name_and_id() {
        let (state, _) = three();
        assert_eq!((find(&state, "n3"), find(&state, "4"), find(&state, "5")), (Some(3), Some(4), None));
    }

    #[test]
    fn all_that_stands_against_a_removal_is_said_at_once() {
        let (mut state, view) = three();
        state.apply(20, &Command::Assign { shards: vec![(1, 3)] }).unwrap();
        let over = Command::LeaseOver { node: 4, session: 1, at_ms: 0, reason: String::new() };
        state.apply(21, &over).unwrap();
        let reasons = against(&state, &view, 3);
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(reasons[0].contains("not drained") && reasons[1].contains("owns 1 shards"));
        assert!(reasons[2].contains("n4 is down"), "{reasons:?}");
        assert_eq!(against(&state, &view, 4), Vec::<String>::new(), "the one that is down may go");
        assert_eq!(against(&state, &view, 9).len(), 1);
    }

    #[test]
    fn only_a_dead_node_is_replaced() {
        let (mut state, view) = three();
        assert!(against_replacement(&state, &view, 3)[0].contains("n3 lives"));
        let over = Command::LeaseOver { node: 3, session: 1, at_ms: 0, reason: String::new() };
        state.apply(21, &over).unwrap();
        assert_eq!(against_replacement(&state, &view, 3), Vec::<String>::new());
        let nobody = RaftView { leader: None, ..view };
        assert_eq!(against_replacement(&state, &nobody, 3).len(), 1);
        assert_eq!(against_replacement(&state, &nobody, 9).len(), 2);
        // The code is tied to it only while it is dead, and so is the entry that takes it out.
        let open = Command::OpenJoin { code: "c".into(), verifier: "v".into(), expires_ms: 9, tries: 5 };
        let tie = |code: &str| Command::CodeReplaces { code: code.into(), node: 3 };
        state.apply(22, &open).unwrap();
        assert!(state.apply(23, &tie("d")).is_err());
        state.apply(24, &tie("c")).unwrap();
        assert_eq!(state.joins["c"].replaces, Some(3));
        state.apply(25, &Command::NodeUp { node: 3, session: 2 }).unwrap();
        for command in [tie("c"), Command::Replace { node: 3 }] {
            assert_eq!(state.apply(26, &command), Err(crate::state::Refused::StillLives(3)));
        }
        let over = Command::LeaseOver { node: 3, session: 2, at_ms: 0, reason: String::new() };
        state.apply(27, &over).unwrap();
        let mut newcomer = crate::state::testing::admit(3);
        if let Command::AdmitNode { uuid, spki, .. } = &mut newcomer {
            (*uuid, *spki) = ("new".into(), "new".into());
        }
        state.apply(28, &Command::Batch(vec![Command::Replace { node: 3 }, newcomer])).unwrap();
        assert_eq!((state.nodes[&3].state, state.nodes[&28].name.as_str()), (NodeState::Removed, "n3"));
    }

    #[test]
    fn a_drained_node_may_go_and_the_last_one_not() {
        let (mut state, view) = three();
        state.apply(20, &Command::Drain { node: 3 }).unwrap();
        assert_eq!(against(&state, &view, 3), Vec::<String>::new());
        for id in [2, 4] {
            state.apply(30 + id, &Command::Remove { node: id }).unwrap();
        }
        let alone = RaftView { leader: Some(3), voters: vec![3], ..RaftView::default() };
        assert_eq!(against(&state, &alone, 3).len(), 1);
    }
}
