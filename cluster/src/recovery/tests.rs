//! The process dies between each step, and in the middle of making the new store.

use super::*;
use crate::profile::Profile;
use crate::raft_node::{Config, RaftNode};
use crate::state::{Command, NodeState};
use std::time::Duration;

fn config(folder: &Path) -> Config {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Config {
        data_dir: folder.to_owned(),
        name: "n1".into(),
        listen,
        advertise: listen.to_string(),
        spool_address: String::new(),
        console_address: String::new(),
        gate_address: String::new(),
        profile: Profile::Lan,
    }
}

/// A node with some entries in its log, stopped, and an order for it.
async fn stopped(config: &Config) -> Recovery {
    let mut identity = Identity::open(&config.data_dir).unwrap();
    let node = RaftNode::init_cluster(config.clone(), &mut identity, "c").await.unwrap();
    for number in 0..20 {
        let code = format!("code {number}");
        let open = Command::OpenJoin { code, verifier: "v".into(), expires_ms: number, tries: 5 };
        node.propose(open).await.unwrap();
    }
    node.shutdown().await;
    drop(node);
    released(&config.data_dir).await;
    let place = identity.place.unwrap();
    Recovery::of(&place, 7, "node 2".into(), "recover".into())
}

/// Until the last task of a node that was stopped in this process has let its store go.
async fn released(folder: &Path) {
    let free = async {
        while LogStore::<TypeConfig>::open(&folder.join("raft.redb")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
}

/// The node starts, leads and takes entries; its generation.
async fn starts(config: &Config) -> u64 {
    let identity = Identity::open(&config.data_dir).unwrap();
    let generation = identity.place.as_ref().unwrap().generation;
    let node = RaftNode::start(config.clone(), identity).await.unwrap();
    let written = tokio::time::timeout(Duration::from_secs(20), node.propose(Command::ConfigChanged)).await;
    written.unwrap().unwrap();
    let state = node.state().borrow().clone();
    assert_eq!(state.generation, generation, "both files say the same");
    assert_eq!(node.raft_view().voters, [2]);
    if generation == 1 {
        assert_eq!(state.joins.len(), 16);
    } else {
        assert!(state.joins.is_empty() && state.revision > INDEX_JUMP, "{}", state.revision);
        assert!(node.raft_view().applied_index > INDEX_JUMP && node.raft_view().term > JUMP);
        assert_eq!(state.audit.last().unwrap().what, "recover");
        assert_ne!(state.nodes[&2].state, NodeState::Removed);
    }
    node.shutdown().await;
    drop(node);
    released(&config.data_dir).await;
    generation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_any_step_it_is_old_or_new_and_never_half() {
    let steps = [Step::Made, Step::Placed, Step::Settled, Step::Done];
    for killed_after in 0..=steps.len() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let order = stopped(&config).await;
        let store = std::fs::read(folder.path().join("raft.redb")).unwrap();
        // Before the order is in its place nothing has happened: not even with what a crash left of it.
        std::fs::write(folder.path().join("recovery.new"), b"{").unwrap();
        let mut identity = Identity::open(folder.path()).unwrap();
        assert_eq!(roll_forward(&mut identity).await.unwrap(), None);
        order.write(folder.path()).unwrap();
        // Half of a new store, of a try before.
        std::fs::write(folder.path().join("raft.redb.recovered"), &store[..store.len() / 2]).unwrap();
        for expected in &steps[..killed_after] {
            // As after a kill: nothing is known but what is on disk.
            let mut identity = Identity::open(folder.path()).unwrap();
            assert_eq!(step(&mut identity).await.unwrap(), Some(*expected));
            assert!(folder.path().join("raft.redb").is_file(), "there is a store at every moment");
        }
        let mut identity = Identity::open(folder.path()).unwrap();
        let carried = roll_forward(&mut identity).await.unwrap();
        assert_eq!(carried, (killed_after < steps.len()).then(|| order.clone()), "after {killed_after}");
        assert_eq!(roll_forward(&mut identity).await.unwrap(), None, "once");
        let kept = folder.path().join("raft.redb.before-recovery-2");
        let (old, last, _) = read_all(&kept).await.unwrap();
        assert!(old.generation == 1 && last < INDEX_JUMP && old.joins.len() == 16, "the old store is kept");
        assert!(!folder.path().join("raft.redb.recovered").exists());
        assert_eq!(starts(&config).await, 2, "killed after {killed_after} steps");
        assert_eq!(starts(&config).await, 2, "and again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_does_not_fit_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let order = stopped(&config).await;
    let odd = [
        Recovery { cluster: "other".into(), ..order.clone() },
        Recovery { node: 3, ..order.clone() },
        Recovery { generation: 5, ..order.clone() },
        Recovery { version: 9, ..order.clone() },
    ];
    for order in odd {
        order.write(folder.path()).unwrap();
        let mut identity = Identity::open(folder.path()).unwrap();
        let error = roll_forward(&mut identity).await.unwrap_err();
        assert!(matches!(error, RecoveryError::Odd { .. }), "{error}");
    }
    for damaged in [b"{".to_vec(), vec![b' '; 70_000]] {
        std::fs::write(folder.path().join("recovery.json"), damaged).unwrap();
        let mut identity = Identity::open(folder.path()).unwrap();
        assert!(roll_forward(&mut identity).await.is_err());
    }
    std::fs::remove_file(folder.path().join("recovery.json")).unwrap();
    assert_eq!(starts(&config).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let order = stopped(&config).await;
    order.write(folder.path()).unwrap();
    let path = folder.path().join("raft.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(5000);
    std::fs::write(&path, &bytes).unwrap();
    let mut identity = Identity::open(folder.path()).unwrap();
    let error = roll_forward(&mut identity).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Store { .. }), "{error}");
    assert!(!folder.path().join("raft.redb.before-recovery-2").exists());
    assert_eq!(identity.place.unwrap().generation, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_recovery_goes_on_from_the_snapshot_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    stopped(&config).await.write(folder.path()).unwrap();
    for generation in [2, 3] {
        let mut identity = Identity::open(folder.path()).unwrap();
        assert!(roll_forward(&mut identity).await.unwrap().is_some());
        assert_eq!(starts(&config).await, generation);
        let place = identity.place.unwrap();
        Recovery::of(&place, 8, "node 2".into(), "recover".into()).write(folder.path()).unwrap();
    }
    let (first, before, _) = read_all(&folder.path().join("raft.redb.before-recovery-2")).await.unwrap();
    let (second, last, _) = read_all(&folder.path().join("raft.redb.before-recovery-3")).await.unwrap();
    assert_eq!((first.generation, second.generation), (1, 2));
    // What was written after the first one is there: the snapshot and the log behind it.
    assert!(last > before + INDEX_JUMP && second.config_revision == first.config_revision + 1);
}
