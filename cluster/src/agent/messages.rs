//! What node agents tell each other over [`RaftNode::call`](crate::raft_node::RaftNode::call), as JSON: kind `renew`
//! ([`Renew`] → [`Renewed`]), kind `status` ([`Ask`] → [`Knowledge`]), kind `log` ([`LogAsk`] → [`LogLevels`]),
//! kind `alive` ([`Ask`] → [`Alive`]), kind `image` ([`ImageAsk`] → bytes).

use crate::database::{Applied, Disks, Order, Report, Seen, Wait};
use crate::lease::{Grant, Renewal};
use crate::profile::Shown;
use crate::profile::margins::Margins;
use crate::update;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of these messages. Fields are only added, with defaults.
pub const VERSION: u16 = 1;
/// Kind of the call that renews a lease.
pub const RENEW: &str = "renew";
/// Kind of the call that asks the leader what it knows of the nodes.
pub const STATUS: &str = "status";

/// Kind of the call by which the master asks for a renewal at once: it has a new order.
pub const POKE: &str = "poke";
/// Kind of the call that orders or asks what a node logs.
pub const LOG: &str = "log";

/// Kind of the call that asks for a part of an image.
pub const IMAGE: &str = "image";

/// Kind of the call that asks any node, without a master, how it stands.
pub const ALIVE: &str = "alive";

/// Most acknowledgements of releases in one renewal; the rest goes with the next.
pub const MAX_RELEASED: usize = 4096;
/// Most loads in one renewal.
pub const MAX_LOADS: usize = 512;
/// Largest renewal that is read.
pub const MAX_RENEWAL: usize = 256 * 1024;

/// A renewal and what only the status shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Renew {
    pub renewal: Renewal,
    /// State of the node's services by role: `up`, `starting`, `hung` or `down`.
    #[serde(default)]
    pub services: BTreeMap<String, String>,
    /// Of the node's database server, where the nodes run the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<GroupReport>,
    /// Its versions, where the cluster updates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<update::Seen>,
    /// What the machine leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margins: Option<Margins>,
}

/// What the supervisor of a node's database server tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    pub report: Report,
    #[serde(default)]
    pub disks: Disks,
}

/// A node's copy as the master knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupKnowledge {
    pub report: Report,
    pub disks: Disks,
    /// Age of the oldest transaction that it has not applied; `None` = not known.
    pub lag_ms: Option<u64>,
}

/// What it is to bring about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupOrder {
    pub round: u64,
    pub order: Order,
    /// How far the members have applied; `None` = the master is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// Answer to [`Renew`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Renewed {
    pub grant: Grant,
    /// Last entry applied at the leader: a node agent that has just started must have applied it, too, before it acts.
    pub applied_index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<GroupOrder>,
    /// Where the copies of the database stood when the master heard of each last: every node remembers it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub positions: BTreeMap<NodeId, Seen>,
    /// What it is to do with an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<update::Order>,
    /// It is this node's turn to start anew, for another profile.
    #[serde(default)]
    pub anew: bool,
}

/// Order to a node's log, or without directives the question how it stands. Also the body of `POST /v1/log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogAsk {
    /// Name or id of the node; `None` = the one that is asked.
    pub node: Option<String>,
    /// A role, or `node` for the node agent; `None` = all of the node.
    pub role: Option<String>,
    /// `None` = nothing is ordered; `default` = back to what the process was started with.
    pub directives: Option<String>,
    /// Seconds after which the process returns to what it was started with.
    pub for_s: Option<u64>,
}

/// Answer to [`LogAsk`]: the processes of the node, and what each is told to log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevels {
    pub node: String,
    pub levels: Vec<LogLevel>,
}

/// What a process is told to log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// A role, or `node`.
    pub role: String,
    /// `default` = what it was started with.
    pub directives: String,
    pub ms_left: u64,
}

/// Question for a part of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAsk {
    pub sha256: String,
    /// Where it begins, in bytes.
    pub at: u64,
}

/// Question for [`Knowledge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub version: u16,
}

/// What a node says while nobody leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alive {
    pub version: u16,
    /// The master that it hears, if it hears one.
    pub master: Option<NodeId>,
    /// The last transaction in its copy of the database; `None` = its server does not run, or it has no copy.
    pub position: Option<u64>,
    /// It has no copy, or one that is no good.
    pub broken: bool,
}

/// What the leader knows that is not in the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Knowledge {
    pub version: u16,
    pub term: u64,
    pub leader: NodeId,
    pub cluster_now_ms: i64,
    pub nodes: BTreeMap<NodeId, NodeKnowledge>,
    /// Things an operator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What the supervisors of the database servers told, where the nodes run the database.
    #[serde(default)]
    pub database: BTreeMap<NodeId, GroupKnowledge>,
    /// Where the copies stood when each was heard of last.
    #[serde(default)]
    pub positions: BTreeMap<NodeId, Seen>,
    /// The group has no primary and waits for somebody.
    #[serde(default)]
    pub wait: Option<Wait>,
    /// Why database accounts are not made; empty = they are.
    #[serde(default)]
    pub accounts_error: String,
    /// Versions of the nodes that the cluster updates.
    #[serde(default)]
    pub updates: BTreeMap<NodeId, update::Seen>,
}

/// A node as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeKnowledge {
    /// What it has left of its lease at most, by the leader's reckoning; 0 = none.
    pub lease_ms_left: i64,
    pub services: BTreeMap<String, String>,
    /// Why it is unfit; empty = fit.
    #[serde(default)]
    pub unfit: String,
    /// Its wall clock minus cluster time.
    #[serde(default)]
    pub skew_ms: i64,
    /// With which profile it runs, and what its machine leaves.
    #[serde(default)]
    pub shown: Option<Shown>,
    #[serde(default)]
    pub margins: Option<Margins>,
}
