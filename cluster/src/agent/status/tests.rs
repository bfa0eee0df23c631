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
fn accounts_and_the_cost_of_tls_are_told() {
    let (mut state, view, mut known) = cluster();
    let mut at = 300;
    let mut line = |state: &mut ClusterState, known: &Knowledge, url: &str| {
        at += 1;
        let (url, user, mode) = (url.to_owned(), String::new(), "endpoint".to_owned());
        let set = Command::SetDatabase { url, user, password: Default::default(), mode, ready: true };
        state.apply(at, &set).unwrap();
        let epoch = state.database.as_ref().map_or(0, |database| database.epoch);
        state.apply(at, &Command::AccountsMade { epoch, made: vec![2, 4], dropped: vec![] }).unwrap();
        let status = of_cluster(state, &view, Some(known), Status::default());
        (status.database.unwrap(), status.warnings)
    };
    let (database, warnings) = line(&mut state, &known, "mysql://localhost/x?socket=/s");
    assert_eq!((database.accounts.made, database.accounts.wanted, database.tls), (6, 9, false));
    assert_eq!(warnings, [""; 0]);
    known.accounts_error = "lacks CREATE USER".to_owned();
    let (database, warnings) = line(&mut state, &known, "mysql://h/x?ssl-mode=DISABLED");
    assert_eq!((database.accounts.error.as_str(), database.tls), ("lacks CREATE USER", false));
    assert_eq!(warnings, ["6 of 9 database accounts are made: lacks CREATE USER"]);
    for url in ["mysql://h/x", "mysql://h/x?ssl-mode=VERIFY_CA&ssl-ca=/ca"] {
        let (database, warnings) = line(&mut state, &known, url);
        assert!(database.tls && warnings[1].contains("40 ms"), "{warnings:?}");
    }
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
