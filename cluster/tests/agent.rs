//! Node agents with real sockets and processes: one that makes a cluster, serves a server and kills a silent one; three
//! of which one dies.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside #[test]

use elpis_cluster::agent::accounts::{Maker, Order};
use elpis_cluster::agent::{AgentConfig, AgentError, Status, run};
use elpis_cluster::profile::Profile;
use elpis_cluster::raft_node::Config;
use elpis_watch::{Heartbeat, Hello, Link, Method, Role, SHARDS, VERSION, Welcome, request};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A node agent in this process.
struct Node {
    config: AgentConfig,
    stop: CancellationToken,
    running: JoinHandle<Result<(), AgentError>>,
}

impl Node {
    fn new(folder: &Path, name: &str, roles: &[Role]) -> Node {
        Self::with(folder, name, roles, Maker::new(|_| async { Ok(()) }))
    }

    fn with(folder: &Path, name: &str, roles: &[Role], accounts: Maker) -> Node {
        let listen = free_port();
        let config = AgentConfig {
            database: None,
            raft: Config {
                data_dir: folder.join(name),
                name: name.to_owned(),
                listen,
                advertise: listen.to_string(),
                spool_address: String::new(),
                gate_address: String::new(),
                console_address: String::new(),
                profile: Profile::Lan,
            },
            measured: false,
            socket: folder.join(name).join("run/node.sock"),
            roles: roles.to_vec(),
            accounts,
        };
        Self::start(config)
    }

    fn start(config: AgentConfig) -> Node {
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config.clone(), stop.clone()));
        Node { config, stop, running }
    }

    /// Ends it; the configuration starts it again.
    async fn end(self) -> AgentConfig {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.config
    }

    fn socket(&self) -> PathBuf {
        self.config.socket.clone()
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        let body = (!body.is_null()).then_some(body);
        request(&self.config.socket, method, path, body.as_ref()).await.map_err(|error| error.to_string())
    }

    async fn status(&self) -> Option<Status> {
        request(&self.config.socket, Method::GET, "/v1/status", None::<&()>).await.ok()
    }

    /// Waits until the status shows it, with a deadline.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < LIMIT {
            if let Some(status) = self.status().await {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within {LIMIT:?}: {what}; {last:#?}");
    }
}

struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Sleeper(Command::new("sleep").arg("600").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_serves_its_servers_and_kills_a_silent_one() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(folder.path(), "n1", &[Role::NetworkServer, Role::Console]);
    node.until("it answers without a cluster", |status| status.state == "no-cluster").await;
    let hello = Hello { version: VERSION, role: Role::Console, pid: std::process::id(), incarnation: None };
    let early = node.ask(Method::POST, "/v1/hello", json!(hello)).await.unwrap_err();
    assert!(early.contains("503"), "{early}");
    assert!(node.ask(Method::GET, "/healthz", Value::Null).await.unwrap_err().contains("503"));

    let database = json!({"url": "mysql://localhost/x", "user": "u", "password": "very secret"});
    let made =
        node.ask(Method::POST, "/v1/cluster/init", json!({"name": "c", "database": database})).await.unwrap();
    assert_eq!(made["node"], 2);
    let again = node.ask(Method::POST, "/v1/cluster/init", json!({"name": "d"})).await.unwrap_err();
    assert!(again.contains("belongs to the cluster"), "{again}");

    // A server comes: map, lease, shards.
    let link = Link::connect(&node.socket(), Role::NetworkServer).await.unwrap();
    assert_eq!((link.welcome().node, link.welcome().incarnation), (2, 1));
    let mut map = link.map();
    let limit = tokio::time::timeout(LIMIT, async {
        while link.owned(&map.borrow_and_update()).len() < SHARDS || link.gate().session_if_valid() != Some(1)
        {
            let _ = tokio::time::timeout(Duration::from_millis(50), map.changed()).await;
        }
    });
    limit.await.unwrap();
    let limit = tokio::time::timeout(
        LIMIT,
        map.wait_for(|map| map.database.as_ref().is_some_and(|database| database.ready)),
    );
    let database = limit.await.unwrap().unwrap().database.clone().unwrap();
    assert!(database.user.ends_with("-2-network") && database.password.len() == 64, "{database:?}");
    let wall = elpis_cluster::types::unix_ms();
    assert!((link.cluster_now_ms() - wall).abs() < 1000, "{} against {wall}", link.cluster_now_ms());

    // The lease is renewed: the gate stays open, far past its length.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(link.gate().session_if_valid(), Some(1), "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    link.report_event("test", "words").await.unwrap();
    let status = node
        .until("the status is whole", |status| {
            status.shards.owned == SHARDS && status.nodes[0].services["network-server"] == "up"
        })
        .await;
    assert_eq!((status.master.as_deref(), status.cluster.as_deref()), (Some("n1"), Some("c")));
    assert!(status.events.iter().any(|event| event.kind == "test" && event.text == "words"));
    assert_eq!(status.can_lose, 0);
    assert!(!serde_json::to_string(&status).unwrap().contains("very secret"));

    // A console that sends one heartbeat and falls silent is killed.
    let mut silent = Sleeper::new();
    let hello = Hello { pid: silent.0.id(), ..hello };
    let welcome = node.ask(Method::POST, "/v1/hello", json!(hello)).await.unwrap();
    let welcome: Welcome = serde_json::from_value(welcome).unwrap();
    let beat = Heartbeat {
        version: VERSION,
        role: Some(Role::Console),
        incarnation: welcome.incarnation,
        ..Heartbeat::default()
    };
    let began = Instant::now();
    node.ask(Method::POST, "/v1/heartbeat", json!(beat)).await.unwrap();
    while silent.0.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(4), "{took:?}");
    node.until("it is down", |status| status.nodes[0].services["console"] == "down").await;

    // The node agent comes back: the same process keeps its incarnation and its orders.
    let socket = node.socket();
    let config = node.end().await;
    let began = Instant::now();
    while link.gate().session_if_valid().is_some() {
        assert!(began.elapsed() < Duration::from_secs(2), "the gate outlives its lease");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let node = Node::start(config);
    while link.gate().session_if_valid().is_none() {
        assert!(began.elapsed() < LIMIT, "the gate does not open again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(link.welcome().incarnation, 1);
    node.until("it is up again", |status| status.nodes[0].services["network-server"] == "up").await;

    // A second node agent on the socket is refused; a second server supersedes the first.
    let twin = run(node.config.clone(), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(twin, AgentError::SocketTaken(_)), "{twin}");
    let second = Link::connect(&socket, Role::NetworkServer).await.unwrap();
    assert_eq!(second.welcome().incarnation, 2);
    tokio::time::timeout(LIMIT, link.superseded()).await.unwrap();
    assert_eq!(link.gate().session_if_valid(), None);
    drop((link, second));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_made_by_whoever_leads_and_a_failure_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let orders: Arc<Mutex<Vec<Order>>> = Arc::default();
    let broken = Arc::new(AtomicBool::new(true));
    let maker = Maker::new({
        let (orders, broken) = (Arc::clone(&orders), Arc::clone(&broken));
        move |order| {
            // Who only goes in makes nothing.
            let works = broken.load(Ordering::SeqCst) && !order.make.is_empty();
            let said = match (order.url.as_str(), works) {
                ("mysql://wrong/x", _) => Err("nobody answers there".to_owned()),
                (_, true) => Err("it lacks something".to_owned()),
                (_, false) => Ok(()),
            };
            if !order.make.is_empty() {
                orders.lock().unwrap().push(order);
            }
            async move { said }
        }
    });
    let node = Node::with(folder.path(), "n1", &[Role::Console, Role::TentacleServer], maker);
    node.until("it answers without a cluster", |status| status.state == "no-cluster").await;
    let database = json!({"url": "mysql://h/x", "user": "root", "password": "very secret"});
    let wrong = json!({"url": "mysql://wrong/x", "user": "root", "password": "very secret"});
    let init = json!({"name": "c", "database": wrong.clone()});
    let refused = node.ask(Method::POST, "/v1/cluster/init", init).await.unwrap_err();
    assert!(refused.contains("nobody answers there; nothing was changed"), "{refused}");
    assert_eq!(node.status().await.unwrap().state, "no-cluster");
    let init = json!({"name": "c", "database": database});
    node.ask(Method::POST, "/v1/cluster/init", init).await.unwrap();
    let status = node
        .until("the failure is told", |status| {
            status.database.as_ref().is_some_and(|database| database.accounts.error == "it lacks something")
        })
        .await;
    assert!(status.warnings.iter().any(|text| text.contains("0 of 3 database accounts are made")));
    let (console, tentacle) = (
        Link::connect(&node.socket(), Role::Console).await.unwrap(),
        Link::connect(&node.socket(), Role::TentacleServer).await.unwrap(),
    );
    let mut map = console.map();
    let first = map.wait_for(|map| map.database.is_some()).await.unwrap().database.clone().unwrap();
    assert!(!first.ready && first.password != "very secret" && first.user != "root");
    // The master knows it from the node's next heartbeat.
    node.until("the node is unfit by its accounts", |status| {
        status.nodes[0].unfit.contains("accounts are not made")
    })
    .await;

    broken.store(false, Ordering::SeqCst);
    let ready = map.wait_for(|map| map.database.as_ref().is_some_and(|database| database.ready));
    let ready = tokio::time::timeout(LIMIT, ready).await.unwrap().unwrap().database.clone().unwrap();
    node.until("all is well", |status| {
        let database = status.database.as_ref().unwrap();
        (database.accounts.made, database.accounts.error.as_str()) == (3, "")
    })
    .await;
    let last = orders.lock().unwrap().last().unwrap().clone();
    assert_eq!((last.url.as_str(), last.user.as_str()), ("mysql://h/x", "root"));
    assert_eq!(last.password.0, "very secret");
    assert!(!format!("{last:?}").contains("very secret") && last.drop.is_empty());
    let mine = last.make.iter().find(|account| account.role == Role::Console).unwrap();
    assert_eq!((&mine.user, &mine.password.0), (&ready.user, &ready.password));
    assert_eq!(last.make.len(), 3);
    let none = tentacle.map().borrow().database.clone().unwrap();
    assert_eq!((none.user.as_str(), none.password.as_str()), ("", ""));

    // What cannot be got into is not named.
    let refused = node.ask(Method::POST, "/v1/cluster/database", wrong).await.unwrap_err();
    assert!(refused.contains("nobody answers there; nothing was changed"), "{refused}");

    // Naming the same database again changes nothing; a restart leads anew, and makes sure.
    node.ask(Method::POST, "/v1/cluster/database", database).await.unwrap();
    assert_eq!(node.status().await.unwrap().database.unwrap().epoch, 1);
    let before = orders.lock().unwrap().len();
    let node = Node::start(node.end().await);
    node.until("it leads again", |status| status.master.is_some()).await;
    let began = Instant::now();
    while orders.lock().unwrap().len() == before {
        assert!(began.elapsed() < LIMIT, "the new master made nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(orders.lock().unwrap().last().unwrap().make, last.make);
    node.end().await;
}

/// Joins the nodes to the first one, as an operator would.
async fn three(folder: &Path) -> Vec<Node> {
    let nodes: Vec<Node> = ["n1", "n2", "n3"].iter().map(|name| Node::new(folder, name, &[])).collect();
    for node in &nodes {
        node.until("it answers", |status| status.state == "no-cluster").await;
    }
    let database = json!({"url": "mysql://localhost/x", "user": "u", "password": "p", "ready": false});
    let init = json!({"name": "c", "database": database});
    nodes[0].ask(Method::POST, "/v1/cluster/init", init).await.unwrap();
    nodes[0].until("the first one leads", |status| status.shards.owned == SHARDS).await;
    for node in &nodes[1..] {
        let words = nodes[0].ask(Method::POST, "/v1/cluster/add-node", json!({})).await.unwrap();
        let join = json!({"address": words["address"], "words": words["words"]});
        node.ask(Method::POST, "/v1/cluster/join", join).await.unwrap();
        let began = Instant::now();
        loop {
            let join = node.ask(Method::GET, "/v1/cluster/join", Value::Null).await.unwrap();
            assert_eq!(join["error"], "", "{join}");
            if join["done"] == true {
                assert!(join["steps"].as_array().unwrap().len() >= 4, "{join}");
                break;
            }
            assert!(began.elapsed() < LIMIT * 2, "{join}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for node in &nodes {
        node.until("three voters share the shards", |status| {
            status.nodes.len() == 3
                && status.nodes.iter().all(|node| node.voter && node.shards > 1200)
                && (status.shards.owned, status.moves, status.can_lose) == (SHARDS, 0, 1)
        })
        .await;
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_the_work_and_one_may_die() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = three(folder.path()).await;
    let master = nodes[0].status().await.unwrap().master.unwrap();

    // A follower dies: its shards move.
    let at = nodes.iter().position(|node| node.config.raft.name != master).unwrap();
    let dead = nodes.remove(at).end().await;
    let began = Instant::now();
    let status = nodes[0]
        .until("its shards moved", |status| {
            status.shards.owned == SHARDS
                && status.nodes.iter().any(|node| node.state == "down" && node.shards == 0)
        })
        .await;
    let took = began.elapsed();
    println!("a follower's shards moved in {took:?}: {:?}", status.failovers);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(status.can_lose, 0);

    // It comes back and gets work again.
    nodes.push(Node::start(dead));
    nodes[0]
        .until("it is back", |status| {
            status.can_lose == 1 && status.moves == 0 && status.nodes.iter().all(|node| node.shards > 1200)
        })
        .await;

    // The master dies.
    let at = nodes.iter().position(|node| node.config.raft.name == master).unwrap();
    let dead = nodes.remove(at).end().await;
    let began = Instant::now();
    let status = nodes[0]
        .until("the master's shards moved", |status| {
            status.shards.owned == SHARDS
                && status.nodes.iter().any(|node| node.name == master && node.shards == 0)
        })
        .await;
    let took = began.elapsed();
    println!("the master's shards moved in {took:?}: {:?}", status.failovers.first());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let status = nodes[0]
        .until("the timeline knows", |status| {
            status.failovers.first().is_some_and(|seen| seen.reassigned_ms.is_some())
        })
        .await;
    assert_eq!((status.failovers[0].node.as_str(), status.failovers.len()), (master.as_str(), 2));
    nodes.push(Node::start(dead));

    // A drain is two-phase and empties the node; then it may be removed.
    nodes[0]
        .until("all are back", |status| {
            status.can_lose == 1 && status.moves == 0 && status.nodes.iter().all(|node| node.shards > 1200)
        })
        .await;
    nodes[0].ask(Method::POST, "/v1/node/drain", json!({"node": "n3"})).await.unwrap();
    nodes[0]
        .until("it is empty", |status| {
            status.nodes.iter().any(|node| node.name == "n3" && node.state == "draining" && node.shards == 0)
                && (status.shards.owned, status.moves) == (SHARDS, 0)
        })
        .await;
    let key = |node: &Node| std::fs::read(node.config.raft.data_dir.join("cluster.key")).unwrap();
    assert!(nodes.iter().all(|node| key(node) == key(&nodes[0])), "all hold one cluster key");
    for node in nodes {
        node.end().await;
    }
}
