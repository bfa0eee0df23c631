//! What may be written into the Raft log.

use crate::database::{self, Entry};
use crate::profile::Change;
use crate::update;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of every encoded [`Command`] and of the snapshot of the state. New variants and fields are only appended.
pub const FORMAT: u16 = 1;

/// A string that must not reach a log or an error message.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One change of the replicated state. Applying one is a pure function of the state and the log index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// First entry of a cluster.
    InitCluster { uuid: String, name: String },
    /// Admits a node; its id is the index of this entry, so that no id is ever used twice.
    AdmitNode {
        uuid: String,
        name: String,
        /// SHA-256 of its public key (SPKI), hex.
        spki: String,
        /// Cluster port, `host:port`.
        address: String,
        spool_address: String,
        console_address: String,
        /// Version of its program.
        version: String,
        #[serde(default)]
        gate_address: String,
    },
    /// New addresses or version of a node; an empty string leaves what is there.
    UpdateNode {
        node: NodeId,
        address: String,
        spool_address: String,
        console_address: String,
        version: String,
        #[serde(default)]
        gate_address: String,
    },
    /// Declares the lease of this session of the node over: the session grows, the node is down.
    LeaseOver {
        node: NodeId,
        /// The session that ends; another one than the node's makes the entry stale, so it can be proposed again safely.
        session: u64,
        /// Cluster time in Unix milliseconds; hold-down counts with it.
        at_ms: i64,
        reason: String,
    },
    /// Declares the node live (again) in this session.
    NodeUp { node: NodeId, session: u64 },
    /// The node gives its shards and jobs away and gets no new ones.
    Drain { node: NodeId },
    /// Takes a drain back.
    Undrain { node: NodeId },
    /// Takes a node out for ever; only a down node, or one that owns nothing.
    Remove { node: NodeId },
    /// Gives shards without a living owner to nodes, with a new epoch at once.
    Assign { shards: Vec<(u16, NodeId)> },
    /// Starts planned moves: the owner is asked to release, the new epoch is reserved.
    Release { shards: Vec<(u16, NodeId)> },
    /// The old owners have released: the new ones own, with the reserved epochs.
    CompleteMoves { shards: Vec<(u16, u64)> },
    /// The moves end where they began, with a fresh epoch (a release is never taken back).
    AbortMoves { shards: Vec<(u16, u64)>, reason: String },
    /// Names the node that runs a singleton job.
    SetJob { name: String, node: NodeId },
    /// Names the database; its epoch grows unless only `ready` changes.
    SetDatabase { url: String, user: String, password: Secret, mode: String, ready: bool },
    /// Raises the revision of the cluster-wide settings.
    ConfigChanged,
    /// Opens a join code.
    OpenJoin { code: String, verifier: String, expires_ms: i64, tries: u32 },
    /// Uses one try of a join code, or the whole code.
    BurnJoin { code: String, whole: bool },
    /// Records a privileged operation.
    Audit { at_ms: i64, who: String, what: String },
    /// Inserts or completes an entry of the failover timeline, keyed by node and time.
    FailoverSeen(Failover),
    /// All of these or none, in order, in one entry. Batches do not nest.
    Batch(Vec<Command>),
    /// Database accounts of the first nodes are made for this epoch of the database; those of the others are dropped.
    AccountsMade { epoch: u64, made: Vec<NodeId>, dropped: Vec<NodeId> },
    /// A change of the database group that the nodes run.
    Database(Entry),
    /// Ties an open join code to the place of a node that does not live.
    CodeReplaces { code: String, node: NodeId },
    /// Takes a node out for ever because a newcomer takes its place; never one that lives.
    Replace { node: NodeId },
    /// Adds a virtual address, as `10.0.0.50`, or takes it away.
    Address { address: String, keep: bool },
    /// A change of the rollout of a newer image.
    Update(update::Entry),
    /// A change of the timing profile.
    Profile(Change),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::InitCluster { name, .. } => write!(f, "init cluster {name}"),
            Command::AdmitNode { name, address, .. } => write!(f, "admit node {name} at {address}"),
            Command::UpdateNode { node, .. } => write!(f, "update node {node}"),
            Command::LeaseOver { node, session, reason, .. } => {
                write!(f, "lease over of node {node} session {session}: {reason}")
            }
            Command::NodeUp { node, session } => write!(f, "node {node} up in session {session}"),
            Command::Drain { node } => write!(f, "drain node {node}"),
            Command::Undrain { node } => write!(f, "undrain node {node}"),
            Command::Remove { node } => write!(f, "remove node {node}"),
            Command::Assign { shards } => write!(f, "assign {} shards", shards.len()),
            Command::Release { shards } => write!(f, "release {} shards", shards.len()),
            Command::CompleteMoves { shards } => write!(f, "complete {} moves", shards.len()),
            Command::AbortMoves { shards, reason } => write!(f, "abort {} moves: {reason}", shards.len()),
            Command::SetJob { name, node } => write!(f, "job {name} to node {node}"),
            Command::SetDatabase { url, ready, .. } => write!(f, "database {url}, ready: {ready}"),
            Command::AccountsMade { epoch, made, dropped } => {
                write!(f, "database accounts of epoch {epoch} made for {made:?}, dropped for {dropped:?}")
            }
            Command::Database(entry) => write!(f, "database group: {entry:?}"),
            Command::CodeReplaces { code, node } => write!(f, "join code {code} replaces node {node}"),
            Command::Replace { node } => write!(f, "replace node {node}"),
            Command::Address { address, keep: true } => write!(f, "virtual address {address}"),
            Command::Address { address, keep: false } => write!(f, "no virtual address {address}"),
            Command::Update(entry) => entry.fmt(f),
            Command::Profile(change) => change.fmt(f),
            Command::ConfigChanged => f.write_str("settings changed"),
            Command::OpenJoin { code, .. } => write!(f, "open join code {code}"),
            Command::BurnJoin { code, .. } => write!(f, "burn join code {code}"),
            Command::Audit { who, what, .. } => write!(f, "audit: {who}: {what}"),
            Command::FailoverSeen(seen) => write!(f, "failover of node {} seen", seen.node),
            Command::Batch(commands) => {
                f.write_str("batch:")?;
                commands.iter().try_for_each(|command| write!(f, " [{command}]"))
            }
        }
    }
}

/// One line of the failover timeline; the milliseconds count from the last sign of life of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    pub node: NodeId,
    pub name: String,
    /// Cluster time (Unix ms) of the [`Command::LeaseOver`]; with `node` the key.
    pub at_ms: i64,
    /// Last renewal until the lease was declared over.
    pub detected_ms: i64,
    /// Until the new owners were committed.
    pub reassigned_ms: Option<i64>,
    /// Until the first result of a moved shard was stored.
    pub first_result_ms: Option<i64>,
    /// Shards that moved.
    pub moved: u32,
    /// Filled from the ledger, where known.
    pub missed: Option<u64>,
    pub recorded_twice: Option<u64>,
    pub reason: String,
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// It changed the state.
    Done,
    /// It was true already.
    Unchanged,
    /// A node was admitted, or was a member already, under this id.
    Admitted(NodeId),
    /// So many of the listed shards changed; the others did not fit the state any more.
    Shards(u32),
    /// One for each command of a batch.
    Batch(Vec<Applied>),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    #[error("the cluster {0} exists already; join it, or start this node on an empty data folder")]
    AlreadyInitialised(String),
    #[error("node {0} is not a member; list the members with `elpis cluster status`")]
    UnknownNode(NodeId),
    #[error(
        "node {0} was removed; a removed node joins again under a new id after its data folder is emptied"
    )]
    Removed(NodeId),
    #[error("the name {0} belongs to another node; choose another name or remove that node first")]
    NameTaken(String),
    #[error(
        "the key or the uuid of the node belongs to node {0}; every node makes its own, do not copy data folders"
    )]
    IdentityTaken(NodeId),
    #[error(
        "the entry is for session {given} of node {node}, which is in session {current}; it came too late"
    )]
    StaleSession { node: NodeId, given: u64, current: u64 },
    #[error("node {0} lives and owns shards or jobs; drain it first, then remove it")]
    StillOwns(NodeId),
    #[error("node {0} is not live; wait until it is up")]
    NotLive(NodeId),
    #[error("the cluster has {0} nodes, the most this version carries; remove one first")]
    TooManyNodes(usize),
    #[error("the database group: {0}")]
    Database(database::Refused),
    #[error(
        "no open join code {0}: it expired, was used or had too many wrong tries; make a new one with add-node"
    )]
    NoSuchCode(String),
    #[error("{0} is longer than the state may carry; shorten it")]
    TooLong(String),
    #[error("a batch cannot hold a batch")]
    NestedBatch,
    #[error("node {0} lives again; nothing has to be given up")]
    StillLives(NodeId),
    #[error("{0:?} is no virtual address: one of IPv4 that a machine may have is needed, as 10.0.0.50")]
    NoAddress(String),
    #[error("there are {0} virtual addresses, the most this version carries; remove one first")]
    TooManyAddresses(usize),
    #[error("{address} is the address of node {node} itself; a virtual one has to be free")]
    AddressOfNode { address: String, node: NodeId },
    #[error("there is no virtual address {0}; `elpis cluster status` lists them")]
    UnknownAddress(String),
    #[error(transparent)]
    Update(update::Refused),
}
