//! What the node agent says of the cluster; works without the database.

use elpis_watch::{LinkError, Method};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// An answer this young is given again: many pages, one question.
const FRESH: Duration = Duration::from_millis(300);
/// A page does not wait longer for the node agent.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /v1/status`, as far as pages show it. Fields that are missing are empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) state: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cluster: String,
    pub(crate) generation: u64,
    /// The node that answered.
    pub(crate) node: Option<u64>,
    pub(crate) master: Option<String>,
    pub(crate) term: u64,
    pub(crate) can_lose: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) reason: String,
    pub(crate) majority: Option<Majority>,
    pub(crate) profile: Option<Profile>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) shards: Shards,
    #[serde(deserialize_with = "or_default")]
    pub(crate) database: Database,
    pub(crate) jobs: BTreeMap<String, String>,
    /// Virtual addresses, and who is to hold them.
    pub(crate) addresses: BTreeMap<String, String>,
    pub(crate) moves: u64,
    pub(crate) update: Option<Update>,
    pub(crate) failovers: Vec<Failover>,
    pub(crate) warnings: Vec<String>,
    pub(crate) events: Vec<Event>,
}

/// How quickly a silent node is given up.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Profile {
    pub(crate) wanted: String,
    /// By which leases count.
    pub(crate) claim: String,
    pub(crate) settled: bool,
    /// What a change under way waits for.
    pub(crate) waits: String,
    /// The one that the measured margins fit; empty = not known.
    pub(crate) fits: String,
}

/// Most voters do not answer; `since` in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Majority {
    pub(crate) text: String,
    pub(crate) since: i64,
    pub(crate) on: String,
    pub(crate) command: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) state: String,
    pub(crate) voter: bool,
    pub(crate) session: u64,
    pub(crate) shards: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) lease_ms_left: i64,
    pub(crate) services: BTreeMap<String, String>,
    pub(crate) unfit: String,
    /// Version that it runs, and that of the image that it holds.
    pub(crate) program: String,
    pub(crate) image: String,
    pub(crate) database: Option<Copy>,
    pub(crate) disk: Option<Disk>,
}

/// The last rollout of a newer version; `state`: `going`, `done` or `stopped`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Update {
    pub(crate) version: String,
    pub(crate) state: String,
    pub(crate) why: Option<String>,
    pub(crate) begun_ms: i64,
    pub(crate) nodes: Vec<UpdateNode>,
}

/// A node's turn.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct UpdateNode {
    pub(crate) name: String,
    pub(crate) from: String,
    pub(crate) text: String,
}

/// The disk of a node's copy of the database; bytes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Disk {
    pub(crate) room: String,
    pub(crate) free_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) reserve_wanted_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Shards {
    pub(crate) total: u64,
    pub(crate) owned: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Database {
    pub(crate) mode: String,
    pub(crate) epoch: u64,
    pub(crate) ready: bool,
    /// Where the nodes run it.
    pub(crate) primary: Option<String>,
    pub(crate) ack_set: Vec<String>,
    pub(crate) failing_over: bool,
    pub(crate) waits: Option<Waits>,
    pub(crate) moved: Vec<Moved>,
}

/// Nobody leads the database, and somebody is waited for; `since` and `heard` in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Waits {
    pub(crate) text: String,
    pub(crate) since: i64,
    pub(crate) positions: Vec<Position>,
    pub(crate) command: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Position {
    pub(crate) node: String,
    pub(crate) lives: bool,
    pub(crate) position: Option<u64>,
    pub(crate) heard: i64,
}

/// A change of the database's primary; milliseconds since the master began it, `at` in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Moved {
    pub(crate) epoch: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) at: i64,
    pub(crate) promoted_ms: i64,
    pub(crate) opened_ms: i64,
    pub(crate) reason: String,
}

/// A node's copy of the database.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Copy {
    pub(crate) main: String,
    pub(crate) lag_ms: Option<u64>,
    pub(crate) in_s: bool,
    pub(crate) works: bool,
}

/// Times in milliseconds from the last sign of life of the node; `at` in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Failover {
    pub(crate) node: String,
    pub(crate) at: i64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) detected_ms: i64,
    pub(crate) reassigned_ms: Option<i64>,
    pub(crate) first_result_ms: Option<i64>,
    pub(crate) moved: u64,
    pub(crate) missed: Option<u64>,
    pub(crate) recorded_twice: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Event {
    pub(crate) at_ms: i64,
    pub(crate) role: String,
    pub(crate) kind: String,
    pub(crate) text: String,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Asks the node agent, at most some times a second.
pub(crate) struct NodeStatus {
    /// The node agent's.
    pub(crate) socket: PathBuf,
    last: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl NodeStatus {
    pub(crate) fn new(socket: PathBuf) -> NodeStatus {
        NodeStatus { socket, last: Mutex::new(None) }
    }

    /// The status, at most 300 ms old.
    pub(crate) async fn get(&self) -> Result<Arc<Status>, LinkError> {
        let mut last = self.last.lock().await;
        if let Some((at, status)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(status.clone());
        }
        let asked = elpis_watch::request(&self.socket, Method::GET, "/v1/status", None::<&()>);
        let status = tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| LinkError::Timeout { what: "its status".into(), seconds: PATIENCE.as_secs() })?;
        let status: Arc<Status> = Arc::new(status?);
        *last = Some((Instant::now(), status.clone()));
        Ok(status)
    }
}
