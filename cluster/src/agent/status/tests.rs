use super::*;
use crate::agent::messages::NodeKnowledge;
use crate::state::Command;

fn cluster() -> (ClusterState, RaftView, Knowledge) {
    let mut state = crate::state::testing::live(3);
    let shards = (2..5u16).map(|id| (id, u64::from(id))).collect();
    state.apply(200, &Command::Assign { shards }).unwrap();
    let view = RaftView { term: 7, leader: Some(3), voters: vec![2, 3, 4], ..RaftView::default() };
    let node = |left| NodeKnowledge { lease_ms_left: left, ..NodeKnowledge::default() };
    let nodes = BTreeMap::from([(2, node(900)), (3, node(500)), (4, node(0))]);
    (state, view, Knowledge { leader: 3, nodes, ..Knowledge::default() })
}

#[test]
fn owned_counts_only_shards_under_a_live_lease() {
    let (state, view, mut known) = cluster();
    let status = of_cluster(&state, &view, Some(&known), Status::default());
    assert_eq!((status.master.as_deref(), status.shards), (Some("n3"), Shards { total: SHARDS, owned: 2 }));
    assert_eq!((status.can_lose, status.reason.as_str()), (0, "2 of 3 voters live, 2 are needed"));
    known.nodes.get_mut(&4).unwrap().lease_ms_left = 100;
    assert_eq!(of_cluster(&state, &view, Some(&known), Status::default()).can_lose, 1);
    for id in [2, 3] {
        known.nodes.get_mut(&id).unwrap().unfit = "disk".to_owned();
    }
    let status = of_cluster(&state, &view, Some(&known), Status::default());
    assert_eq!((status.can_lose, status.reason.contains("only 1 node")), (0, true), "{}", status.reason);
}

#[test]
fn without_a_master_nothing_is_owned() {
    let (state, view, _) = cluster();
    let status = of_cluster(&state, &view, None, Status::default());
    assert_eq!((status.master, status.shards.owned, status.can_lose), (None, 0, 0));
    assert_eq!(status.nodes.iter().map(|node| node.shards).sum::<usize>(), 3);
}

#[test]
fn the_shape_that_scripts_rely_on() {
    let (state, view, known) = cluster();
    let status = serde_json::to_value(of_cluster(&state, &view, Some(&known), Status::default())).unwrap();
    for field in [
        "cluster",
        "generation",
        "master",
        "term",
        "can_lose",
        "reason",
        "nodes",
        "shards",
        "database",
        "failovers",
    ] {
        assert!(status.get(field).is_some(), "{field}");
    }
    for field in ["id", "name", "address", "state", "voter", "session", "shards", "lease_ms_left", "services"]
    {
        assert!(status["nodes"][0].get(field).is_some(), "{field}");
    }
}
