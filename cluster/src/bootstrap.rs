//! Forming a cluster: opening a join code, joining with its words, taking a node out.
//!
//! A join goes over TLS 1.3 between two machines that know nothing of each other but six words. Both derive a key K
//! from the words and prove `HMAC(K, role ‖ TLS exporter ‖ pin of the own key)`, the newcomer first, before anything
//! else is said: who sits between has another exporter, who replays has another connection, who guesses has five tries
//! for 60 random bits. Then the member checks everything and names all that is wrong at once, or writes one entry that
//! admits the newcomer's key and spends the code. The leader adds admitted nodes to Raft by itself.
//!
//! Invariants: one code admits one node; a node is admitted by the key that it showed in TLS; nothing is asked of a
//! peer, and nothing kept of it, before its proof.

mod checks;
mod code;
mod host;
mod joiner;
mod leave;
mod wire;

pub(crate) use host::{Door, serve};
pub use joiner::join;
pub use leave::{against_replacement, drain, find, remove, undrain};

use crate::raft_node::{NodeError, RaftNode};
use crate::state::Command;
use crate::words::{self, BadCode};

/// How long a code is open, in milliseconds of cluster time.
pub const OPEN_MS: i64 = 60 * 60 * 1000;
/// Wrong tries that burn a code.
pub const TRIES: u32 = 5;

/// What an operator carries to the new node.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinWords {
    /// Six words, separated by blanks. A secret.
    pub words: String,
    /// Cluster time, Unix milliseconds.
    pub expires_ms: i64,
    /// Cluster port of the node that was asked; that of any other member serves as well.
    pub address: String,
}

impl std::fmt::Debug for JoinWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinWords(.., {}, {})", self.expires_ms, self.address)
    }
}

/// A step of a join, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// TCP and TLS.
    Connect,
    /// Deriving the key and both proofs.
    Prove,
    /// The member checks and admits.
    Check,
    /// This node's Raft starts.
    Start,
    /// The leader brings the state.
    Follow,
}

impl Step {
    /// One word for people and scripts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Connect => "connect",
            Step::Prove => "prove",
            Step::Check => "check",
            Step::Start => "start",
            Step::Follow => "follow",
        }
    }
}

/// A step began (`ms` is `None`) or ended after so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub step: Step,
    pub ms: Option<u64>,
}

/// Why a node did not join or leave.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Words(#[from] BadCode),
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    #[error(
        "cannot reach {address}: {why}; give the cluster port of a running node as host:port, and open it in the firewall"
    )]
    Dial { address: String, why: String },
    #[error(
        "the other side cannot prove that it knows the words: it is not the cluster that gave them, or somebody sits between; check the address, and make a new code"
    )]
    NotTheCluster,
    #[error("the other side did not answer in time; look at its log, then try again")]
    Silent,
    #[error("the talk with the other side failed: {0}; check the address and that both run the same version")]
    Talk(String),
    #[error(
        "admitted as node {0}, but the leader has not brought the state yet; start this node again, it goes on by itself"
    )]
    NotListed(u64),
    #[error("{0}; try again")]
    Here(String),
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl JoinError {
    /// Every reason by itself.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        match self {
            JoinError::Refused(reasons) => reasons.clone(),
            other => vec![other.to_string()],
        }
    }
}

/// Opens a join code for the place of a node that does not live: whoever joins with its words takes that place and its
/// name, and the node is removed by the same entry.
///
/// # Errors
/// When the node lives (again), or no leader takes it.
pub async fn replace_node(node: &RaftNode, dead: u64) -> Result<JoinWords, JoinError> {
    open(node, Some(dead)).await
}

/// Opens a join code for one node, open for 60 minutes of cluster time and five wrong tries.
///
/// # Errors
/// When no leader takes it.
pub async fn add_node(node: &RaftNode) -> Result<JoinWords, JoinError> {
    open(node, None).await
}

async fn open(node: &RaftNode, replaces: Option<u64>) -> Result<JoinWords, JoinError> {
    let inner = node.inner();
    let bits = code::new_bits()?;
    let key = code::derive(bits, &inner.snapshot().uuid).await?;
    let name: String = crate::identity::new_uuid().map_err(NodeError::from)?.chars().take(8).collect();
    let now_ms = inner.cluster_time_ms().await;
    let expires_ms = now_ms.saturating_add(OPEN_MS);
    let place = replaces.map(|dead| format!(" for the place of node {dead}")).unwrap_or_default();
    let what = format!("join code {name} opened{place}");
    let tie = replaces.map(|node| Command::CodeReplaces { code: name.clone(), node });
    let open = Command::OpenJoin { code: name, verifier: key.verifier(), expires_ms, tries: TRIES };
    let audit = Command::Audit { at_ms: now_ms, who: format!("node {}", node.id()), what };
    node.propose(Command::Batch([open].into_iter().chain(tie).chain([audit]).collect())).await?;
    Ok(JoinWords { words: words::encode(bits), expires_ms, address: node.config().advertise.clone() })
}
