//! Plain types of `node.sock`. Every body carries [`VERSION`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::log::LogOrder;

/// Version of every body on `node.sock`; a peer with another one is refused with both numbers named.
pub const VERSION: u32 = 1;

/// Number of shards: the first 12 bits of MD5(agent name).
pub const SHARDS: usize = 4096;

/// Id of a node: the Raft log index of the entry that admitted it; never used again.
pub type NodeId = u64;

/// What a server process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes agents' files and keeps the spool.
    TentacleServer,
    /// Turns spooled files into samples; runs the singleton jobs.
    DataServer,
    /// Runs network checks.
    NetworkServer,
    /// Web pages and the API.
    Console,
    /// The way of all others to the database's primary.
    DbGate,
    /// Holds virtual addresses.
    AddressKeeper,
}

impl Role {
    /// All roles, in start order.
    pub const ALL: [Role; 6] = [
        Role::DbGate,
        Role::TentacleServer,
        Role::DataServer,
        Role::NetworkServer,
        Role::Console,
        Role::AddressKeeper,
    ];
    /// Name as on the command line, in fence rows and in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::TentacleServer => "tentacle-server",
            Role::DataServer => "data-server",
            Role::NetworkServer => "network-server",
            Role::Console => "console",
            Role::DbGate => "db-gate",
            Role::AddressKeeper => "address-keeper",
        }
    }
}

/// `POST /v1/hello`: a process registers; the answer is its [`Welcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub role: Role,
    pub pid: u32,
    /// Set when the process registers again after its node agent restarted: it keeps its incarnation.
    pub incarnation: Option<u64>,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub version: u32,
    pub cluster: String,
    pub generation: u64,
    pub node: NodeId,
    pub name: String,
    /// Counter kept on the node's disk, raised at each start of a process.
    pub incarnation: u64,
}

/// One line of `GET /v1/watch?role=R&incarnation=I` (newline-delimited JSON). The first line carries the map;
/// later ones only when it changed. A line comes at each lease renewal and at each change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub version: u32,
    pub lease: Lease,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Map>,
    /// What an operator wants of the process's log, while that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogOrder>,
    /// For the database gate alone; `None` = as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// What the database gate of a node lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Grows with every change; [`TrafficDone`] names it.
    pub number: u64,
    /// Epoch of the database in which this node's own server takes statements; `None` = it takes none.
    pub serve: Option<u64>,
    /// The node from which this node's server may replicate; `None` = from none: what is open is cut.
    pub source: Option<NodeId>,
    /// Nodes that may not replicate from this node's server; what they have open is cut.
    pub refuse: std::collections::BTreeSet<NodeId>,
    /// Pause before each statement that this node's server takes, milliseconds: replicas are behind.
    #[serde(default)]
    pub slow_ms: u32,
}

/// `POST /v1/traffic`: the gate lets through what this order says, and nothing else any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficDone {
    pub version: u32,
    pub incarnation: u64,
    pub number: u64,
    /// Port on the loopback at which this node's server reaches the source.
    pub replication_port: u16,
}

/// The right to act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Session of this node; a write with another one is refused by the fence.
    pub session: u64,
    /// `CLOCK_BOOTTIME` in milliseconds until which probes may leave and transactions may commit; 0 = no lease.
    pub until_boot_ms: i64,
    /// Cluster time in Unix milliseconds = `CLOCK_BOOTTIME` milliseconds + this.
    pub cluster_offset_ms: i64,
    /// Raft term and master as this node knows them.
    pub term: u64,
    pub master: Option<NodeId>,
}

/// Who is there, who owns what, where the database is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Map {
    /// Grows with every change (the Raft index it was made from).
    pub revision: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    /// Owner and epoch of each of the [`SHARDS`]; owner 0 = none.
    pub shards: Vec<Owner>,
    /// Planned moves under way.
    pub moves: Vec<Move>,
    pub database: Option<Database>,
    /// Singleton jobs by name.
    pub jobs: BTreeMap<String, Job>,
    /// Raised by every change of cluster-wide settings.
    pub config_revision: u64,
}

impl Map {
    /// Virtual addresses that `node` is to hold, as `10.0.0.50`.
    pub fn addresses(&self, node: NodeId) -> impl Iterator<Item = &str> {
        let held = self.jobs.iter().filter(move |(_, job)| job.node == node);
        held.filter_map(|(name, _)| name.strip_prefix(ADDRESS_JOB))
    }

    /// Shards (with their epochs) that `node` owns and is not giving away.
    pub fn owned(&self, node: NodeId) -> Vec<(u16, u64)> {
        let leaving: std::collections::BTreeSet<u16> =
            self.moves.iter().filter(|m| m.from == node).map(|m| m.shard).collect();
        (0u16..)
            .zip(&self.shards)
            .filter(|(shard, owner)| owner.node == node && node != 0 && !leaving.contains(shard))
            .map(|(shard, owner)| (shard, owner.epoch))
            .collect()
    }

    /// Shards that `node` has to stop, flush and acknowledge, with the epochs of their moves.
    pub fn releasing(&self, node: NodeId) -> Vec<(u16, u64)> {
        self.moves.iter().filter(|m| m.from == node).map(|m| (m.shard, m.epoch)).collect()
    }
}

/// A node as its peers' servers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub session: u64,
    /// Not declared dead, not removed.
    pub live: bool,
    /// Address (`host:port`) of its spool port (mTLS, between nodes); empty = none.
    pub spool_address: String,
    /// SHA-256 of its public key (SPKI), hex: the pin of every connection to it.
    pub spki: String,
    /// Address (`host:port`) of its database gate (mTLS, between nodes); empty = none.
    #[serde(default)]
    pub gate_address: String,
}

/// Owner of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub node: NodeId,
    pub epoch: u64,
}

/// A planned move: `from` stops, flushes and acknowledges; then `to` owns the shard with `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub shard: u16,
    pub from: NodeId,
    pub to: NodeId,
    /// The epoch that `to` will own; an acknowledgement names it.
    pub epoch: u64,
}

/// Where the database is and how to get in.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Database {
    /// Pools close all connections when this moves.
    pub epoch: u64,
    /// `mysql://…` without credentials, `?socket=/path` for a unix socket.
    pub url: String,
    /// Account of this node and role.
    pub user: String,
    pub password: String,
    /// `endpoint` (one database outside the nodes) or `managed` (the nodes run it).
    pub mode: String,
    /// True once the schema is there and the accounts are made.
    pub ready: bool,
    /// The node whose server is the primary; 0 in mode `endpoint`.
    #[serde(default)]
    pub primary: NodeId,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("epoch", &self.epoch)
            .field("url", &self.url)
            .field("user", &self.user)
            .field("mode", &self.mode)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// Before the address, in the name of the job to hold it: `address/10.0.0.50`.
pub const ADDRESS_JOB: &str = "address/";

/// A singleton job: the data server of `node` runs it, under fence row `job/<name>` with `epoch` as its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub node: NodeId,
    pub epoch: u64,
}

/// `POST /v1/heartbeat`, every 500 ms: two seconds without one and the node agent kills the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub version: u32,
    pub role: Option<Role>,
    pub incarnation: u64,
    /// Must grow while there is work: a loop that stands still shows here.
    pub progress: u64,
    /// Empty = fit; else what is wrong (database path, spool disk). Three seconds of it move the node's shards away.
    pub unfit: String,
    /// Cluster time in Unix milliseconds of the last transaction that stored results, 0 = none yet, with the epoch's
    /// map revision it was stored under: the failover timeline is measured with it.
    pub stored_ms: i64,
    pub stored_revision: u64,
    /// Load of owned shards (checks a second), largest first, at most 256 entries; sent every 30 s, else empty.
    #[serde(default)]
    pub load: Vec<(u16, f32)>,
}

/// `POST /v1/released`: this server has stopped, flushed and forgotten these shards for these epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Released {
    pub version: u32,
    pub role: Role,
    pub incarnation: u64,
    /// (shard, epoch of the move).
    pub shards: Vec<(u16, u64)>,
}

/// `POST /v1/event`: something that an operator should see (logged by the node agent, shown in its status).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub role: Role,
    pub incarnation: u64,
    pub kind: String,
    pub text: String,
}

/// Body of every refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    pub version: u32,
    /// What happened, why, and what to do now.
    pub error: String,
}
