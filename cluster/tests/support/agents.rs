//! Node agents in this process, and three of them as one cluster.
#![allow(dead_code)] // not every test uses all of it

#[path = "nodes.rs"]
mod nodes;

use elpis_cluster::agent::accounts::Maker;
use elpis_cluster::agent::update::Machine;
use elpis_cluster::agent::{AgentConfig, AgentError, Status, run};
use elpis_watch::{Method, Role, SHARDS, request};
use nodes::config;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A node agent in this process.
pub(crate) struct Node {
    pub(crate) config: AgentConfig,
    stop: CancellationToken,
    running: JoinHandle<Result<(), AgentError>>,
}

impl Node {
    pub(crate) fn new(folder: &Path, name: &str, roles: &[Role]) -> Node {
        Self::with(folder, name, roles, Maker::new(|_| async { Ok(()) }))
    }

    /// On a machine that the cluster may update.
    pub(crate) fn of(folder: &Path, name: &str, accounts: Maker, machine: Option<Arc<dyn Machine>>) -> Node {
        let config = AgentConfig { machine, ..Self::config(folder, name, &[], accounts) };
        Self::start(config)
    }

    pub(crate) fn with(folder: &Path, name: &str, roles: &[Role], accounts: Maker) -> Node {
        Self::start(Self::config(folder, name, roles, accounts))
    }

    fn config(folder: &Path, name: &str, roles: &[Role], accounts: Maker) -> AgentConfig {
        AgentConfig {
            database: None,
            raft: config(folder, name),
            machine: None,
            measured: false,
            socket: folder.join(name).join("run/node.sock"),
            roles: roles.to_vec(),
            users: BTreeMap::new(),
            accounts,
        }
    }

    pub(crate) fn start(config: AgentConfig) -> Node {
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config.clone(), stop.clone()));
        Node { config, stop, running }
    }

    /// Ends it; the configuration starts it again.
    pub(crate) async fn end(self) -> AgentConfig {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.config
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.config.socket.clone()
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        let body = (!body.is_null()).then_some(body);
        request(&self.config.socket, method, path, body.as_ref()).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        request(&self.config.socket, Method::GET, "/v1/status", None::<&()>).await.ok()
    }

    /// Waits until the status shows it, with a deadline.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
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

/// Joins the nodes to the first one, as an operator would.
pub(crate) async fn three(folder: &Path) -> Vec<Node> {
    let nodes = ["n1", "n2", "n3"].iter().map(|name| Node::new(folder, name, &[])).collect();
    joined(nodes).await
}

/// The same for nodes that are there.
pub(crate) async fn joined(nodes: Vec<Node>) -> Vec<Node> {
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
