//! Finds the cluster that a command means, and asks its nodes through their local sockets.

use crate::cli::Scope;
use crate::dev::layout::Layout;
use crate::dev::process::{self, Condition};
use anyhow::{Context, Result, bail, ensure};
use elpis_watch::{LinkError, Method};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Sockets of the node of this machine.
const SYSTEM: &str = "/run/elpis";
/// Development cluster of the working folder.
pub(crate) const HERE: &str = ".elpis-dev";
/// Time for a question; then the next node is asked.
const QUESTION: Duration = Duration::from_secs(3);
/// Time for an order: it may wait for a Raft commit or a database transaction.
const ORDER: Duration = Duration::from_secs(35);
/// How long an order waits for a master: an election takes a second or two, on a loaded machine more.
const ELECTION: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Which socket of a node.
#[derive(Clone, Copy)]
enum Door {
    Node,
    Api,
}

/// What came of asking every node once.
enum Asked {
    Answer(Value),
    /// Nothing was done; somebody answered that it cannot be done at the moment: an election goes on.
    NotNow(String),
    Nobody(String),
}

/// A node of this machine and how it is reached.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) node_socket: PathBuf,
    pub(crate) api_socket: PathBuf,
    /// Its data folder, where that is known.
    pub(crate) folder: Option<PathBuf>,
}

/// A cluster, and which of its nodes to ask.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Folder of a development cluster; `None` = the node of this machine.
    dev: Option<Layout>,
    on: Option<String>,
}

impl Cluster {
    /// By `--dir` or ELPIS_DEV_DIR; else the node of this machine; else the working folder's development cluster.
    pub(crate) fn find(scope: &Scope) -> Result<Cluster> {
        let dev = match &scope.dir {
            Some(dir) => Some(Layout::open(dir)?),
            None if Path::new(SYSTEM).join("node.sock").exists() => None,
            None if Path::new(HERE).join("ports.json").exists() => Some(Layout::open(Path::new(HERE))?),
            None => bail!(
                "no cluster found: no node runs on this machine ({SYSTEM}/node.sock is not there); for a development \
                 cluster name its folder with --dir or ELPIS_DEV_DIR"
            ),
        };
        if let (Some(on), Some(layout)) = (&scope.on, &dev) {
            let nodes = layout.ports()?.nodes;
            let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
            ensure!(
                names.contains(&on.as_str()),
                "there is no node {on} in {}: it has {}",
                layout.dir.display(),
                names.join(", ")
            );
        }
        ensure!(
            scope.on.is_none() || dev.is_some(),
            "--on chooses a node of a development cluster: add --dir"
        );
        Ok(Cluster { dev, on: scope.on.clone() })
    }

    /// The node of this machine, whether it runs yet or not.
    pub(crate) fn of_machine() -> Cluster {
        Cluster { dev: None, on: None }
    }

    /// A cluster in a folder that is known to be there.
    pub(crate) fn of(layout: Layout, on: Option<String>) -> Cluster {
        Cluster { dev: Some(layout), on }
    }

    /// True when an order has to name its node: a development cluster has several on this machine.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.dev.is_some() && self.on.is_none()
    }

    /// Asks the first node agent that answers.
    pub(crate) async fn node(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.ask(Door::Node, method, path, body).await
    }

    /// Asks the API of the first node that answers.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.ask(Door::Api, method, path, body).await
    }

    /// An order waits while the nodes answer that there is no master; a question is answered as things are.
    async fn ask(&self, door: Door, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let begin = Instant::now();
        loop {
            let failures = match self.ask_each(door, &method, path, body).await? {
                Asked::Answer(answer) => return Ok(answer),
                Asked::NotNow(_) if method != Method::GET && begin.elapsed() < ELECTION => {
                    tokio::time::sleep(ASK_AGAIN).await;
                    continue;
                }
                Asked::NotNow(failures) | Asked::Nobody(failures) => failures,
            };
            match (&self.dev, door) {
                (Some(layout), _) => {
                    bail!(
                        "no node answers ({failures}); see `elpis dev status --dir {}`",
                        layout.dir.display()
                    )
                }
                (None, Door::Node) => {
                    bail!("the node agent does not answer ({failures}); see `systemctl status elpis-node`")
                }
                (None, Door::Api) => {
                    bail!("the console does not answer ({failures}); see `systemctl status elpis-console`")
                }
            }
        }
    }

    /// Asks one node after the other.
    async fn ask_each(&self, door: Door, method: &Method, path: &str, body: Option<&Value>) -> Result<Asked> {
        let mut failures = Vec::new();
        let mut not_now = false;
        for (name, socket) in self.sockets(door)? {
            let limit = if *method == Method::GET { QUESTION } else { ORDER };
            let asked = elpis_watch::request::<Value>(&socket, method.clone(), path, body);
            let failure = match tokio::time::timeout(limit, asked).await {
                Ok(Ok(answer)) => return Ok(Asked::Answer(answer)),
                Ok(Err(LinkError::Connect { source, .. })) => source.to_string(),
                Ok(Err(LinkError::Refused { status: 503, error })) => {
                    not_now = true;
                    error
                }
                Ok(Err(LinkError::Refused { error, .. } | LinkError::Superseded(error))) => bail!("{error}"),
                Ok(Err(e)) if *method == Method::GET => e.to_string(),
                Ok(Err(e)) => {
                    bail!("{name}: {e}; look whether the order was carried out before you repeat it")
                }
                Err(_) if *method == Method::GET => format!("no answer within {} s", limit.as_secs()),
                Err(_) => bail!(
                    "{name} did not answer within {} s; look whether the order was carried out before you repeat it",
                    limit.as_secs()
                ),
            };
            failures.push(format!("{name}: {failure}"));
        }
        let failures = failures.join("; ");
        Ok(if not_now { Asked::NotNow(failures) } else { Asked::Nobody(failures) })
    }

    /// Folder of the development cluster, if it is one.
    pub(crate) fn layout(&self) -> Option<&Layout> {
        self.dev.as_ref()
    }

    /// The nodes of this machine, whether they answer or not.
    pub(crate) fn places(&self) -> Result<Vec<Place>> {
        let Some(layout) = &self.dev else {
            let socket = |name: &str| Path::new(SYSTEM).join(name);
            let (node_socket, api_socket) = (socket("node.sock"), socket("api.sock"));
            return Ok(vec![Place { name: "this-node".into(), node_socket, api_socket, folder: None }]);
        };
        let place = |name: String| Place {
            node_socket: layout.node_socket(&name),
            api_socket: layout.api_socket(&name),
            folder: Some(layout.node(&name)),
            name,
        };
        Ok(layout.ports()?.nodes.into_iter().map(|node| place(node.name)).collect())
    }

    fn sockets(&self, door: Door) -> Result<Vec<(String, PathBuf)>> {
        let Some(layout) = &self.dev else {
            let name = match door {
                Door::Node => "node.sock",
                Door::Api => "api.sock",
            };
            return Ok(vec![(name.to_owned(), Path::new(SYSTEM).join(name))]);
        };
        let names = match &self.on {
            Some(node) => vec![node.clone()],
            None => layout
                .ports()
                .context("the development cluster is not whole")?
                .nodes
                .into_iter()
                .map(|n| n.name)
                .collect(),
        };
        let mut sockets = Vec::new();
        for name in names {
            let (process, socket) = match door {
                Door::Node => ("node", layout.node_socket(&name)),
                Door::Api => ("console", layout.api_socket(&name)),
            };
            // A paused process takes the connection and never answers.
            let found = process::find(&layout.pid_file(&name, process), &layout.node(&name));
            if self.on.is_some() || !matches!(found, Some(p) if p.condition == Condition::Paused) {
                sockets.push((name, socket));
            }
        }
        Ok(sockets)
    }
}
