//! Three real nodes on loopback: mTLS, redb on disk, openraft. What is committed survives a restart and the death of
//! the leader.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside #[test]

#[path = "support/nodes.rs"]
mod nodes;

use elpis_cluster::identity::{Identity, Peer, Place};
use elpis_cluster::raft_node::{Config, MemberChange, RaftNode};
use elpis_cluster::state::{Applied, Command};
use nodes::config;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `wanted` holds, with a deadline.
async fn until(what: &str, mut wanted: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    started.elapsed()
}

/// Admits one more node through `first` and starts it, as a joining node would.
async fn grow(first: &RaftNode, folder: &Path, name: &str) -> (RaftNode, Config) {
    start_admitted(first, config(folder, name)).await
}

async fn start_admitted(first: &RaftNode, config: Config) -> (RaftNode, Config) {
    let mut identity = Identity::open(&config.data_dir).unwrap();
    let uuid = elpis_cluster::identity::new_uuid().unwrap();
    let admit = Command::AdmitNode {
        uuid: uuid.clone(),
        name: config.name.clone(),
        spki: identity.spki.clone(),
        address: config.advertise.clone(),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        version: "0.1.0".to_owned(),
    };
    let Applied::Admitted(node) = first.propose(admit).await.unwrap() else { panic!("not admitted") };
    let state = first.state().borrow().clone();
    let peers: BTreeMap<u64, Peer> = state
        .nodes
        .iter()
        .map(|(id, n)| (*id, Peer { spki: n.spki.clone(), address: n.address.clone() }))
        .collect();
    identity
        .settle(Place {
            version: 1,
            node,
            uuid,
            cluster: state.uuid.clone(),
            generation: state.generation,
            peers,
            profile: None,
        })
        .unwrap();
    let started = RaftNode::start(config.clone(), identity).await.unwrap();
    first.change_members(MemberChange::AddLearner { node, address: config.advertise.clone() }).await.unwrap();
    (started, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_survives_the_leader_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first_config = config(folder.path(), "n1");
    let mut identity = Identity::open(&first_config.data_dir).unwrap();
    let first = RaftNode::init_cluster(first_config.clone(), &mut identity, "test").await.unwrap();
    let (second, _) = grow(&first, folder.path(), "n2").await;
    let (third, _) = grow(&first, folder.path(), "n3").await;
    first.change_members(MemberChange::Balance).await.unwrap();
    until("three voters everywhere", || {
        [&first, &second, &third].iter().all(|n| n.raft_view().voters.len() == 3)
    })
    .await;

    for node in [&second, &third] {
        first.propose(Command::NodeUp { node: node.id(), session: 1 }).await.unwrap();
    }
    // A follower's proposal reaches the leader.
    second.propose(Command::Assign { shards: vec![(7, second.id())] }).await.unwrap();
    let owner = |node: &RaftNode| node.state().borrow().map().shards[7].node;
    until("the assignment is everywhere", || {
        [&first, &second, &third].iter().all(|n| owner(n) == second.id())
    })
    .await;

    let dead = first.id();
    first.shutdown().await;
    drop(first);
    let took = until("a new leader", || {
        second.raft_view().leader.is_some_and(|l| l != dead)
            && third.raft_view().leader.is_some_and(|l| l != dead)
    })
    .await;
    assert!(took < Duration::from_secs(10), "a new leader took {took:?}");
    third.propose(Command::Assign { shards: vec![(8, third.id())] }).await.unwrap();

    // The old leader comes back from its disk and learns what it missed.
    let back =
        RaftNode::start(first_config.clone(), Identity::open(&first_config.data_dir).unwrap()).await.unwrap();
    until("the restarted node caught up", || {
        let map = back.state().borrow().map();
        map.shards[7].node == second.id() && map.shards[8].node == third.id()
    })
    .await;

    // Alone, a node promises nothing, and says so in bounded time.
    second.shutdown().await;
    third.shutdown().await;
    let alone = back.propose(Command::Assign { shards: vec![(9, second.id())] });
    assert!(tokio::time::timeout(LIMIT, alone).await.unwrap().is_err());
    back.shutdown().await;
}

/// Stands before a node: the first answer of each connection comes late, as from a machine that is slow at cryptography
/// or from far away.
async fn slow_at_first(to: std::net::SocketAddr, late: Duration) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(to).await?;
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                from_server.readable().await?;
                tokio::time::sleep(late).await;
                tokio::io::copy(&mut from_server, &mut to_client).await
            });
        }
    });
    address
}

/// Longer than any question waits: each one that gives up must not throw the handshake away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_finished_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let first_config = config(folder.path(), "n1");
    let mut identity = Identity::open(&first_config.data_dir).unwrap();
    let first = RaftNode::init_cluster(first_config, &mut identity, "test").await.unwrap();
    let mut slow = config(folder.path(), "n2");
    slow.advertise = slow_at_first(slow.listen, Duration::from_millis(1_500)).await;
    let (second, _) = start_admitted(&first, slow).await;
    second.on_call(|_, _, body| async move { Ok(body) });
    let (begin, mut given_up) = (Instant::now(), 0);
    while first.call(second.id(), "echo", b"x".to_vec()).await.is_err() {
        given_up += 1;
        assert!(begin.elapsed() < LIMIT, "no answer after {given_up} questions");
    }
    assert!(given_up > 0, "the handshake was not slow: this shows nothing");
    let state = |node: &RaftNode| node.state().borrow().nodes.len();
    until("the slow node follows", || state(&second) == state(&first)).await;
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_key_is_not_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let first_config = config(folder.path(), "n1");
    let mut identity = Identity::open(&first_config.data_dir).unwrap();
    let first = RaftNode::init_cluster(first_config.clone(), &mut identity, "test").await.unwrap();
    let state = first.state().borrow().clone();
    // A stranger who knows everything but holds a key that nobody pinned.
    let config = config(folder.path(), "stranger");
    let mut stranger = Identity::open(&config.data_dir).unwrap();
    let peers = BTreeMap::from([(
        first.id(),
        Peer { spki: state.nodes[&first.id()].spki.clone(), address: first_config.advertise.clone() },
    )]);
    let place = Place {
        version: 1,
        node: 9,
        uuid: "u".to_owned(),
        cluster: state.uuid.clone(),
        generation: state.generation,
        peers,
        profile: None,
    };
    stranger.settle(place).unwrap();
    let node = RaftNode::start(config, stranger).await.unwrap();
    first.on_call(|_, _, _| async { Ok(b"heard".to_vec()) });
    assert!(node.call(first.id(), "renew", Vec::new()).await.is_err());
    // The same call by an admitted node is answered: the refusal above is the pin's.
    let (admitted, _) = grow(&first, folder.path(), "n2").await;
    assert_eq!(admitted.call(first.id(), "renew", Vec::new()).await.unwrap(), b"heard");
    admitted.shutdown().await;
    node.shutdown().await;
    first.shutdown().await;
}
