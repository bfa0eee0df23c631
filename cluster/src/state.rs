//! The replicated state: who is a member, in which session, who owns which shard with which epoch.
//!
//! PURE: [`ClusterState::apply`] uses nothing but its arguments, so every member computes the same state from the same
//! log. Invariants kept here: a shard has at most one owner; its epochs only grow; a shard leaves a *live* owner only
//! through a release that this owner acknowledged; a session only grows, and grows whenever a lease is declared over.

mod addresses;
mod apply;
mod command;
mod hold;
mod recovered;
mod shards;
#[cfg(test)]
pub(crate) mod testing;

pub use addresses::MAX_ADDRESSES;
pub use command::{Applied, Command, FORMAT, Failover, Refused, Secret};
pub use hold::{HOLD_FORGET_MS, HOLD_MAX_MS, HOLD_MIN_MS, Hold};
pub use recovered::{INDEX_JUMP, JUMP, audit as recovery_audit};
pub use shards::{Shard, Shards};

use crate::database::Group;
use crate::profile::Agreed;
use crate::update::Rollout;
use elpis_watch::{Database, Job, Map, Move, NodeId, Owner};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most nodes that are not removed.
pub const MAX_NODES: usize = 64;
/// Most lines of the audit and of the failover timeline.
pub const MAX_AUDIT: usize = 256;
pub const MAX_FAILOVERS: usize = 64;
/// Most open join codes.
pub const MAX_JOINS: usize = 16;
/// [`Database::mode`] of a database that the nodes run themselves.
pub const MANAGED: &str = "managed";
/// Longest string of a command.
pub const MAX_TEXT: usize = 4096;

/// Everything the cluster agrees on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterState {
    pub format: u16,
    /// Empty until [`Command::InitCluster`].
    pub uuid: String,
    pub name: String,
    /// Grows when the cluster goes on with one node, or is made again from a backup.
    pub generation: u64,
    /// Index of the last entry that changed what servers see.
    pub revision: u64,
    pub config_revision: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    pub shards: Shards,
    pub jobs: BTreeMap<String, Job>,
    /// Virtual addresses, as `10.0.0.50`: holding one is a job.
    #[serde(default)]
    pub addresses: BTreeSet<String>,
    /// The administration account; its password is sealed with the cluster key.
    pub database: Option<Database>,
    /// Nodes whose database accounts are made, and for which epoch of the database.
    #[serde(default)]
    pub accounts: BTreeMap<NodeId, u64>,
    /// The group of servers that the nodes run themselves; `None` = the database is elsewhere.
    #[serde(default)]
    pub group: Option<Group>,
    /// The last rollout of a newer image.
    #[serde(default)]
    pub rollout: Option<Rollout>,
    /// By which timings leases count and nodes run.
    #[serde(default)]
    pub profile: Agreed,
    pub joins: BTreeMap<String, JoinCode>,
    pub audit: Vec<AuditLine>,
    /// Oldest first.
    pub failovers: Vec<Failover>,
}

/// A member, or one that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub uuid: String,
    pub name: String,
    pub spki: String,
    pub address: String,
    pub spool_address: String,
    pub console_address: String,
    #[serde(default)]
    pub gate_address: String,
    pub version: String,
    pub state: NodeState,
    pub draining: bool,
    /// Grows with every lease that is declared over; starts at 1.
    pub session: u64,
    /// Index of the entry that made it live last: it gets a lease only when it has applied that entry itself, so that
    /// it cannot act on shards it lost while it was away.
    pub up_index: u64,
    pub hold: Hold,
}

impl Node {
    /// Up, draining or not.
    #[must_use]
    pub fn live(&self) -> bool {
        self.state == NodeState::Up
    }
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Admitted, not yet declared live.
    Joining,
    Up,
    /// Its lease was declared over.
    Down,
    /// Never comes back under this id.
    Removed,
}

/// A join code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCode {
    pub verifier: Secret,
    pub expires_ms: i64,
    /// Wrong tries left; 0 = used or burnt.
    pub tries: u32,
    /// Whoever joins with it takes the place and the name of this node.
    #[serde(default)]
    pub replaces: Option<NodeId>,
}

/// A privileged operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    pub index: u64,
    pub at_ms: i64,
    pub who: String,
    pub what: String,
}

impl Default for ClusterState {
    fn default() -> Self {
        ClusterState {
            format: FORMAT,
            uuid: String::new(),
            name: String::new(),
            generation: 1,
            revision: 0,
            config_revision: 0,
            nodes: BTreeMap::new(),
            shards: Shards::default(),
            jobs: BTreeMap::new(),
            addresses: BTreeSet::new(),
            database: None,
            accounts: BTreeMap::new(),
            group: None,
            rollout: None,
            profile: Agreed::default(),
            joins: BTreeMap::new(),
            audit: Vec::new(),
            failovers: Vec::new(),
        }
    }
}

impl ClusterState {
    /// A state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the node is a live member.
    #[must_use]
    pub fn live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(Node::live)
    }

    /// All live members.
    #[must_use]
    pub fn live_nodes(&self) -> BTreeSet<NodeId> {
        self.members().filter(|(_, node)| node.live()).map(|(id, _)| id).collect()
    }

    /// Members that are not removed.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.state != NodeState::Removed).map(|(id, node)| (*id, node))
    }

    /// How many shards the node owns.
    #[must_use]
    pub fn owned(&self, node: NodeId) -> usize {
        self.shards.iter().filter(|shard| shard.owner == node).count()
    }

    /// Moves under way.
    pub fn moves(&self) -> impl Iterator<Item = Move> + '_ {
        self.shards.iter().zip(0u16..).filter_map(|(shard, number)| {
            shard.to.map(|to| Move { shard: number, from: shard.owner, to, epoch: shard.named })
        })
    }

    /// Whether an entry with this command would change anything.
    #[must_use]
    pub fn changes(&self, command: &Command) -> bool {
        let mut next = self.clone();
        next.apply(self.revision, command).is_ok_and(|done| done != Applied::Unchanged)
    }

    /// A database that the nodes run moves with its primary.
    fn with_primary(&self, mut named: Database) -> Database {
        if let Some(group) = self.group.as_ref().filter(|_| named.mode == MANAGED) {
            (named.epoch, named.primary) = (group.epoch, group.primary);
        }
        named
    }

    /// What the servers of the nodes see. The database account is the administration's, its password sealed: a node
    /// agent puts the account of node and role in.
    #[must_use]
    pub fn map(&self) -> Map {
        Map {
            revision: self.revision,
            nodes: self
                .members()
                .map(|(id, node)| {
                    let seen = elpis_watch::Node {
                        name: node.name.clone(),
                        session: node.session,
                        live: node.live(),
                        spool_address: node.spool_address.clone(),
                        spki: node.spki.clone(),
                        gate_address: node.gate_address.clone(),
                    };
                    (id, seen)
                })
                .collect(),
            shards: self.shards.iter().map(|shard| Owner { node: shard.owner, epoch: shard.epoch }).collect(),
            moves: self.moves().collect(),
            database: self.database.clone().map(|named| self.with_primary(named)),
            jobs: self.jobs.clone(),
            config_revision: self.config_revision,
        }
    }
}
