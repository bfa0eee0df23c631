//! Who leads: after a kill, after a hand-over, and when the leader was admitted while a node was away.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside #[test]

#[path = "support/nodes.rs"]
mod nodes;

use elpis_cluster::bootstrap::{add_node, join};
use elpis_cluster::identity::Identity;
use elpis_cluster::raft_node::{Config, MemberChange, RaftNode};
use elpis_cluster::state::Command;
use nodes::config;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const LIMIT: Duration = Duration::from_secs(60);
/// From the kill to a new leader that every survivor knows: twice election_max and some for a busy machine.
const NEW_LEADER: Duration = Duration::from_secs(2);

/// A node with a runtime of its own, so that it can be dropped without a farewell.
struct Own {
    runtime: Option<Runtime>,
    node: RaftNode,
    config: Config,
}

impl Own {
    fn run(config: Config, start: impl AsyncFnOnce(Config) -> RaftNode) -> Own {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let node = runtime.block_on(start(config.clone()));
        Own { runtime: Some(runtime), node, config }
    }

    /// Ends all its tasks and connections at once, as a killed process does.
    fn kill(mut self) -> Config {
        let runtime = self.runtime.take().unwrap();
        let config = self.config.clone();
        runtime.shutdown_timeout(Duration::from_secs(1));
        config
    }
}

fn until(what: &str, mut wanted: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    started.elapsed()
}

fn found(folder: &Path) -> Own {
    Own::run(config(folder, "n1"), async |config| {
        let mut identity = Identity::open(&config.data_dir).unwrap();
        RaftNode::init_cluster(config, &mut identity, "test").await.unwrap()
    })
}

fn enter(folder: &Path, name: &str, through: &Own, ask: &Runtime) -> Own {
    let code = ask.block_on(add_node(&through.node)).unwrap();
    Own::run(config(folder, name), async |config| {
        let mut identity = Identity::open(&config.data_dir).unwrap();
        join(config, &mut identity, &code.address, &code.words, |_| {}).await.unwrap()
    })
}

fn again(config: Config) -> Own {
    Own::run(config, async |config| {
        let identity = Identity::open(&config.data_dir).unwrap();
        RaftNode::start(config, identity).await.unwrap()
    })
}

#[test]
fn a_killed_leader_is_replaced_and_a_later_member_may_lead() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ask = Runtime::new().unwrap();
    let n1 = found(folder);
    let n2 = enter(folder, "n2", &n1, &ask);
    let n3 = enter(folder, "n3", &n1, &ask);
    until("three voters", || [&n1, &n2, &n3].iter().all(|n| n.node.raft_view().voters.len() == 3));
    for node in [&n1, &n2, &n3] {
        ask.block_on(n1.node.propose(Command::NodeUp { node: node.node.id(), session: 1 })).unwrap();
    }

    let dead = n1.node.id();
    let killed = Instant::now();
    let first_config = n1.kill();
    let led = |n: &Own| n.node.raft_view().leader.is_some_and(|leader| leader != dead);
    until("a new leader", || led(&n2) && led(&n3));
    let took = killed.elapsed();
    println!("new leader after {took:?}");
    assert!(took < NEW_LEADER, "{took:?}");
    let n1 = again(first_config);
    until("the killed node follows", || n1.node.raft_view().leader.is_some());

    // The third node is away, or leads: the other one is away. A fourth comes, votes and gets the leadership.
    let (leader, away) = if n2.node.raft_view().is_leader { (n2, n3) } else { (n3, n2) };
    let away_id = away.node.id();
    let away_config = away.kill();
    let over = Command::LeaseOver { node: away_id, session: 1, at_ms: 0, reason: "away".to_owned() };
    ask.block_on(leader.node.propose(over)).unwrap();
    let n4 = enter(folder, "n4", &leader, &ask);
    let later = n4.node.id();
    ask.block_on(leader.node.change_members(MemberChange::Balance)).unwrap();
    let voters = leader.node.raft_view().voters;
    assert!(voters.contains(&later) && !voters.contains(&away_id) && voters.len() == 3, "{voters:?}");

    assert!(ask.block_on(n1.node.transfer_leader(later)).is_err(), "a follower has nothing to give");
    let handed = Instant::now();
    until("it may hand over", || ask.block_on(leader.node.transfer_leader(later)).is_ok());
    assert!(leader.node.raft_view().transferring || !leader.node.raft_view().is_leader);
    until("the new member leads", || {
        [&n1, &leader, &n4].iter().all(|n| n.node.raft_view().leader == Some(later))
    });
    println!("handed over in {:?}", handed.elapsed());

    // It knows the fourth neither by its state nor from its join.
    let back = again(away_config);
    let took = until("the node that was away follows a leader it has never met", || {
        back.node.raft_view().leader == Some(later) && back.node.state().borrow().nodes.contains_key(&later)
    });
    println!("followed after {took:?}");
    ask.block_on(back.node.propose(Command::ConfigChanged)).unwrap();
    for own in [n1, leader, n4, back] {
        ask.block_on(own.node.shutdown());
        own.kill();
    }
}
