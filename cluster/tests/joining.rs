//! Joining by words on loopback: real TLS, real Raft, nodes in one process.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests stand outside #[test]

#[path = "support/nodes.rs"]
mod nodes;

use elpis_cluster::bootstrap::{JoinError, Progress, add_node, drain, join, remove};
use elpis_cluster::identity::Identity;
use elpis_cluster::raft_node::{Config, RaftNode};
use elpis_cluster::state::{Command, NodeState};
use elpis_cluster::tls;
use elpis_cluster::words;
use nodes::{config, free_port};
use rustls::pki_types::ServerName;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const LIMIT: Duration = Duration::from_secs(40);

async fn until(what: &str, mut wanted: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    started.elapsed()
}

async fn first(folder: &TempDir) -> RaftNode {
    let config = config(folder.path(), "n1");
    let mut identity = Identity::open(&config.data_dir).unwrap();
    RaftNode::init_cluster(config, &mut identity, "test").await.unwrap()
}

async fn enter(config: Config, address: &str, words: &str) -> Result<RaftNode, JoinError> {
    let mut identity = Identity::open(&config.data_dir).unwrap();
    join(config, &mut identity, address, words, |_| {}).await
}

/// Words that are well-formed, and wrong.
fn wrong(words: &str) -> String {
    words::encode(words::decode(words).unwrap() ^ 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_by_words_and_one_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let n1 = first(&folder).await;
    let code = add_node(&n1).await.unwrap();
    let told: Mutex<Vec<Progress>> = Mutex::default();
    let started = Instant::now();
    let second = config(folder.path(), "n2");
    let mut identity = Identity::open(&second.data_dir).unwrap();
    let n2 = join(second, &mut identity, &code.address, &code.words, |progress| {
        told.lock().unwrap().push(progress);
    })
    .await
    .unwrap();
    println!("second node joined in {:?}", started.elapsed());
    assert_eq!(identity.place.as_ref().map(|place| place.node), Some(n2.id()));
    let told = told.into_inner().unwrap();
    let ended: Vec<&str> = told.iter().filter(|p| p.ms.is_some()).map(|p| p.step.name()).collect();
    assert_eq!(ended, ["connect", "prove", "check", "start", "follow"]);
    println!("{told:?}");

    // The third one right after, through the second, which is not the leader.
    let code = add_node(&n2).await.unwrap();
    let started = Instant::now();
    let n3 = enter(config(folder.path(), "n3"), &code.address, &code.words).await.unwrap();
    println!("third node joined in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(20));
    let nodes = [&n1, &n2, &n3];
    let took = until("three voters", || nodes.iter().all(|n| n.raft_view().voters.len() == 3)).await;
    println!("three voters after {took:?}");
    let audit = n1.state().borrow().audit.iter().map(|line| line.what.clone()).collect::<Vec<_>>();
    assert_eq!(audit.iter().filter(|what| what.contains("admitted")).count(), 2, "{audit:?}");

    // The leader is taken out, asked of another node: leadership, vote and membership go over.
    assert!(n1.raft_view().is_leader);
    for node in nodes {
        n2.propose(Command::NodeUp { node: node.id(), session: 1 }).await.unwrap();
    }
    let error = remove(&n2, n1.id()).await.unwrap_err();
    assert!(error.to_string().contains("not drained"), "{error}");
    drain(&n2, n1.id()).await.unwrap();
    let started = Instant::now();
    remove(&n2, n1.id()).await.unwrap();
    println!("the leader was taken out in {:?}", started.elapsed());
    until("it is gone everywhere", || {
        [&n2, &n3].iter().all(|n| {
            let view = n.raft_view();
            n.state().borrow().nodes[&n1.id()].state == NodeState::Removed
                && view.leader.is_some_and(|leader| leader != n1.id())
                && !view.voters.contains(&n1.id())
                && !view.learners.contains(&n1.id())
                && view.voters.len() == 1
        })
    })
    .await;
    n3.propose(Command::ConfigChanged).await.unwrap();
    assert!(n1.call(n2.id(), "x", Vec::new()).await.is_err(), "a removed node is let in");
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_words_burn_the_code_and_a_used_one_admits_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let n1 = first(&folder).await;
    let code = add_node(&n1).await.unwrap();
    let stranger = config(folder.path(), "n2");
    for left in (0..5).rev() {
        let error = enter(stranger.clone(), &code.address, &wrong(&code.words)).await.unwrap_err();
        assert!(error.to_string().contains("words are wrong"), "{error}");
        assert_eq!(error.to_string().contains("burnt"), left == 0, "{error}");
        assert_eq!(n1.state().borrow().joins.values().next().unwrap().tries, left);
    }
    let error = enter(stranger.clone(), &code.address, &code.words).await.unwrap_err();
    assert!(error.to_string().contains("five wrong tries"), "{error}");
    let audit = n1.state().borrow().audit.clone();
    assert_eq!(audit.iter().filter(|line| line.what.contains("wrong words")).count(), 5);
    assert!(audit.iter().any(|line| line.what.contains("n2 refused")));

    let code = add_node(&n1).await.unwrap();
    let n2 = enter(stranger, &code.address, &code.words).await.unwrap();
    // The same words again, by another machine.
    let error = enter(config(folder.path(), "n3"), &code.address, &code.words).await.unwrap_err();
    assert!(error.to_string().contains("was used"), "{error}");
    assert_eq!(n1.state().borrow().members().count(), 2);
    n2.shutdown().await;
    n1.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_everything_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let n1 = first(&folder).await;
    let code = add_node(&n1).await.unwrap();
    // An expired code, as the state would hold it in an hour.
    let (name, old) = n1.state().borrow().joins.iter().next().map(|(n, j)| (n.clone(), j.clone())).unwrap();
    let expired = Command::OpenJoin { code: name, verifier: old.verifier.0, expires_ms: 1, tries: 5 };
    n1.propose(expired).await.unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = Config {
        name: "n1".to_owned(),
        listen: taken.local_addr().unwrap(),
        advertise: free_port().to_string(),
        spool_address: n1.config().advertise.clone(),
        gate_address: String::new(),
        ..config(folder.path(), "bad")
    };
    let mut identity = Identity::open(&bad.data_dir).unwrap();
    let error = join(bad, &mut identity, &code.address, &code.words, |_| {}).await.unwrap_err();
    let reasons = error.reasons();
    for wanted in
        ["cannot listen", "expired", "name n1", "belongs to node 2", "cannot reach the cluster port"]
    {
        assert!(reasons.iter().any(|reason| reason.contains(wanted)), "{wanted} is not in {reasons:?}");
    }
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    assert!(identity.place.is_none());
    assert_eq!(n1.state().borrow().members().count(), 1);

    // A port that answers with another key is not the newcomer's.
    let code = add_node(&n1).await.unwrap();
    let bad = Config { advertise: n1.config().advertise.clone(), ..config(folder.path(), "bad") };
    let error = enter(bad, &code.address, &code.words).await.unwrap_err();
    assert!(error.to_string().contains("cannot reach the cluster port"), "{error}");
    assert!(error.to_string().contains("belongs to another machine"), "{error}");

    // A node that belongs to a cluster already; the words stay good for another one.
    let error = join(
        config(folder.path(), "n5"),
        &mut Identity::open(&n1.config().data_dir).unwrap(),
        &code.address,
        &code.words,
        |_| {},
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("belongs to the cluster"), "{error}");
    let n2 = enter(config(folder.path(), "n2"), &code.address, &code.words).await.unwrap();
    n2.shutdown().await;
    n1.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sits_between_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let n1 = first(&folder).await;
    let code = add_node(&n1).await.unwrap();
    let between = Identity::open(&folder.path().join("between")).unwrap();
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay_address = relay.local_addr().unwrap().to_string();
    let target = code.address.clone();
    let relaying = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls::server(&between).unwrap());
        let connector = TlsConnector::from(tls::client(&between, None, tls::ALPN_JOIN).unwrap());
        let (tcp, _) = relay.accept().await.unwrap();
        let mut left = acceptor.accept(tcp).await.unwrap();
        let tcp = tokio::net::TcpStream::connect(target).await.unwrap();
        let mut right = connector.connect(ServerName::try_from("elpis").unwrap(), tcp).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut left, &mut right).await;
    });
    let error = enter(config(folder.path(), "n2"), &relay_address, &code.words).await.unwrap_err();
    assert!(error.to_string().contains("words are wrong"), "{error}");
    assert_eq!(n1.state().borrow().members().count(), 1);
    assert_eq!(n1.state().borrow().joins.values().next().unwrap().tries, 4, "it counts as a wrong try");
    relaying.await.unwrap();

    // A cluster that does not know the words cannot play the member either.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = first(&elsewhere).await;
    let error = enter(config(folder.path(), "n3"), &other.config().advertise, &code.words).await.unwrap_err();
    assert!(error.to_string().contains("is open"), "{error}");
    // The same words without anybody between are good.
    let n2 = enter(config(folder.path(), "n2"), &code.address, &code.words).await.unwrap();
    for node in [other, n2, n1] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_join_protocol_ends_in_bounded_time() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let n1 = first(&folder).await;
    add_node(&n1).await.unwrap();
    let noise = Identity::open(&folder.path().join("noise")).unwrap();
    let connector = TlsConnector::from(tls::client(&noise, None, tls::ALPN_JOIN).unwrap());
    let bodies: [&[u8]; 5] =
        [b"", b"\xff\xff\xff\xff", b"\0\0\0\x02\0{", b"\0\0\0\x0b\0{\"mac\":\"\"}", b"\0\0\x40\x01\0"];
    for body in bodies {
        let tcp = tokio::net::TcpStream::connect(&n1.config().advertise).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from("elpis").unwrap(), tcp).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{body:?} is served without end");
        assert!(answer.len() < 1024, "{} bytes for {body:?}", answer.len());
    }
    assert!(n1.raft_view().is_leader && n1.raft_view().failed.is_none());
    n1.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_the_answer_asks_again_and_the_places_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let n1 = first(&folder).await;
    let code = add_node(&n1).await.unwrap();
    let second = config(folder.path(), "n2");
    let mut identity = Identity::open(&second.data_dir).unwrap();
    // Admitted, and then the connection broke.
    let name = n1.state().borrow().joins.keys().next().unwrap().clone();
    let admit = Command::AdmitNode {
        uuid: "first try".to_owned(),
        name: "n2".to_owned(),
        spki: identity.spki.clone(),
        address: second.advertise.clone(),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        version: String::new(),
    };
    let burn = Command::BurnJoin { code: name, whole: true };
    n1.propose(Command::Batch(vec![burn, admit])).await.unwrap();

    // Eight strangers say nothing; a ninth is told so at once.
    let noise = Identity::open(&folder.path().join("noise")).unwrap();
    let connector = TlsConnector::from(tls::client(&noise, None, tls::ALPN_JOIN).unwrap());
    let mut silent = Vec::new();
    for _ in 0..8 {
        let tcp = tokio::net::TcpStream::connect(&code.address).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from("elpis").unwrap(), tcp).await.unwrap();
        // The first word of the member: this one has its place.
        tokio::io::AsyncReadExt::read_u32(&mut stream).await.unwrap();
        silent.push(stream);
    }
    let error = join(second.clone(), &mut identity, &code.address, &code.words, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("too many nodes join"), "{error}");
    drop(silent);

    let started = Instant::now();
    let n2 = loop {
        // As the node agent does it: in a task of its own.
        let (config, address, words) = (second.clone(), code.address.clone(), code.words.clone());
        let mut identity = identity.clone();
        let joining =
            tokio::spawn(async move { join(config, &mut identity, &address, &words, |_| {}).await });
        match joining.await.unwrap() {
            Ok(node) => break node,
            Err(error) => {
                assert!(error.to_string().contains("too many") && started.elapsed() < LIMIT, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let state = n1.state().borrow().clone();
    assert_eq!(state.members().count(), 2);
    assert_eq!(state.nodes[&n2.id()].uuid, "first try");
    n2.shutdown().await;
    n1.shutdown().await;
}
