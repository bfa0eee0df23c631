//! The node agent: Raft, leases, the server processes of this node and their socket `node.sock`, in one process.
//!
//! The deciding parts are elsewhere and pure (`state`, `lease`, `plan`, `leader`); this is the shell with clocks, files,
//! sockets and tasks. What runs, all under one token:
//!
//! | task | pace | file |
//! |---|---|---|
//! | socket, a task a connection and a watch stream | | `agent/sock.rs` |
//! | renewal of this node's lease | 200 ms, at once for a release | `agent/renew.rs` |
//! | publication of the lease to the watch streams | 100 ms and at each change | `agent/renew.rs` |
//! | look after the server processes | 100 ms | `agent/keep.rs` |
//! | the master's work, while this node leads | 50 ms | `agent/lead.rs` |
//! | orders to the supervisor of this node's database | at each change | `agent/database.rs` |
//! | who answers, while there is no master | 1 s | `agent/majority.rs` |
//! | versions and images, where the cluster updates this machine | 1 s | `agent/update.rs` |
//! | stalls, disk and round trips are measured | 50 ms | `agent/timing.rs` |
//! | the agreed profile is kept | at each change | `agent/timing.rs` |
//! | database accounts, while this node leads | 1 s and at each change | `agent/accounts.rs` |

pub mod accounts;
mod adopt;
pub mod database;
mod forming;
mod incarnation;
mod keep;
mod lead;
mod logs;
mod majority;
mod member;
pub mod messages;
mod orders;
pub mod process;
mod recover;
pub mod registry;
mod renew;
mod sock;
mod status;
mod timing;
pub mod update;

pub use adopt::{PositionLine, WaitLine};
use forming::Joining;
pub use forming::{JoinStatus, Step};
pub use majority::MajorityLine;
pub use status::{
    CopyLine, DatabaseLine, DiskLine, EventLine, Failed, MovedLine, NodeLine, Shards, Status, UpdateLine,
    UpdateNode,
};
pub use timing::{MarginsLine, ProfileLine};

use crate::identity::{Identity, IdentityError};
use crate::profile::Profile;
use crate::profile::margins::Gauge;
use crate::raft_node::{self, NodeError, RaftNode};
use crate::recovery::{self, GivenUp, RecoveryError};
use crate::types::boot_ms;
use elpis_watch::Role;
use incarnation::Incarnations;
use member::Member;
use registry::Registry;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most lines of events kept for the status.
const MAX_EVENTS: usize = 100;

/// What a node agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Data folder, names and addresses, timings of the profile.
    pub raft: raft_node::Config,
    /// Where the servers of this node find it.
    pub socket: PathBuf,
    /// A cluster that it makes begins with the profile that fits what was measured, not with that of `raft`.
    pub measured: bool,
    /// Servers that should run here.
    pub roles: Vec<Role>,
    /// Whose processes they are, by user id; empty = they have no users of their own.
    pub users: BTreeMap<u32, Role>,
    /// Makes database accounts while this node leads.
    pub accounts: accounts::Maker,
    /// Runs this node's copy of the database, where the nodes run it; `None` = this node never has one.
    pub database: Option<database::Hand>,
    /// What the cluster may update here; `None` = nothing: the machine belongs to somebody else.
    pub machine: Option<Arc<dyn update::Machine>>,
}

/// Why the node agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("another node agent answers on {0}; stop it first, or choose another data folder")]
    SocketTaken(PathBuf),
    #[error("cannot use the socket {path}: {source}; check the folder's owner and rights")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("the incarnation counters cannot be read: {0}; restore incarnations.json in the data folder")]
    Incarnations(#[source] std::io::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(
        "given-up.json in the data folder cannot be read: {0}; if this node was reset and joined again, remove that file"
    )]
    Mark(#[source] std::io::Error),
    #[error("this node goes on alone, as generation {0}: the node agent ends now and is to be started again")]
    Recovers(u64),
    #[error("{0}; the node agent ends now, after the next start it says so in its status")]
    GivenUp(String),
    #[error(
        "this node runs with profile {0} from its next start on; the node agent ends now and is to be started again"
    )]
    OtherProfile(Profile),
    #[error("Raft stopped for good: {0}; remove this node from the cluster and join it again, empty")]
    RaftStopped(String),
}

/// What all tasks of the node agent share.
#[derive(Debug)]
struct Agent {
    config: AgentConfig,
    registry: Mutex<Registry>,
    member: RwLock<Option<Arc<Member>>>,
    /// Key and place; held while a cluster is made or joined, so that only one such work goes on.
    identity: Arc<tokio::sync::Mutex<Identity>>,
    join: Mutex<Joining>,
    events: Mutex<VecDeque<EventLine>>,
    logs: Mutex<logs::Logs>,
    /// Images for this machine.
    shelf: update::Shelf,
    gauge: Mutex<Gauge>,
    /// The cluster went on without this node, in words: then it is no member.
    given_up: Option<String>,
    /// Set once, when the node agent must end by itself.
    failed: Mutex<Option<AgentError>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs the node agent until the token is cancelled. A node without a cluster serves its socket and waits for
/// `init` or `join`.
///
/// # Errors
/// When the socket, the port or the disk cannot be used, or Raft stops for good.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    let mut identity = Identity::open(&config.raft.data_dir)?;
    let counters = Incarnations::open(&config.raft.data_dir).map_err(AgentError::Incarnations)?;
    let listener = sock::bind(&config.socket).await?;
    let recovered = recovery::roll_forward(&mut identity).await?;
    let given_up = match &identity.place {
        Some(place) => GivenUp::read(identity.folder(), place)
            .map_err(AgentError::Mark)?
            .map(|mark| mark.words(place.generation)),
        None => None,
    };
    let has_place = identity.place.is_some();
    let agent = Arc::new(Agent {
        registry: Mutex::new(Registry::new(&config.roles, counters, boot_ms())),
        member: RwLock::default(),
        identity: Arc::new(tokio::sync::Mutex::new(identity)),
        join: Mutex::default(),
        events: Mutex::default(),
        logs: Mutex::default(),
        shelf: update::Shelf::open(config.machine.clone(), &config.raft.data_dir),
        gauge: Mutex::default(),
        given_up,
        failed: Mutex::default(),
        tasks: TaskTracker::new(),
        stop: stop.child_token(),
        config,
    });
    if let Some(why) = &agent.given_up {
        tracing::error!(why, "this node is no member any more");
        agent.note(None, "cluster", why);
    } else if has_place {
        let identity = agent.identity.lock().await.clone();
        let node = RaftNode::start(agent.config.raft.clone(), identity.clone()).await?;
        agent.enter(node, &identity);
        if let Some(order) = recovered {
            agent.note(None, "cluster", &format!("generation {}: {}", order.generation, order.what));
        }
    } else {
        tracing::info!("this node belongs to no cluster; waiting for `elpis cluster init` or `elpis join`");
    }
    agent.tasks.spawn(sock::serve(Arc::clone(&agent), listener));
    agent.tasks.spawn(keep::run(Arc::clone(&agent)));
    agent.tasks.spawn(timing::measure(Arc::clone(&agent)));
    agent.stop.cancelled().await;
    agent.tasks.close();
    agent.tasks.wait().await;
    let member = agent.member.write().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(member) = member {
        member.node.shutdown().await;
    }
    // The socket file stays: removing it could take away that of a successor. A stale one is replaced at the start.
    match locked(&agent.failed).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl Agent {
    /// The membership, once there is one.
    fn member(&self) -> Option<Arc<Member>> {
        self.member.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why there is no membership.
    fn no_member(&self) -> sock::No {
        match &self.given_up {
            Some(why) => sock::No(hyper::StatusCode::SERVICE_UNAVAILABLE, why.clone()),
            None => sock::No::no_cluster(),
        }
    }

    /// Starts everything that needs a cluster.
    fn enter(self: &Arc<Self>, node: RaftNode, identity: &Identity) {
        let member = Arc::new(Member::new(node, &self.config, identity));
        lead::answer_calls(self, &member);
        *self.member.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&member));
        self.tasks.spawn(renew::run(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(renew::publish(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(accounts::run(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(database::run(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(majority::run(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(update::run(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(timing::keep(Arc::clone(self), Arc::clone(&member)));
        self.tasks.spawn(lead::run(Arc::clone(self), member));
    }

    /// Keeps a line for the status.
    fn note(&self, role: Option<Role>, kind: &str, text: &str) {
        let at_ms = match self.member() {
            Some(member) => member.cluster_now_ms(),
            None => crate::types::unix_ms(),
        };
        let role = role.map_or("node", Role::as_str);
        tracing::info!(role, kind, text, "event");
        let mut events = locked(&self.events);
        while events.len() >= MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(EventLine { at_ms, role: role.into(), kind: kind.into(), text: text.into() });
    }

    /// Ends the node agent with an error.
    fn fail(&self, error: AgentError) {
        tracing::error!(%error, "the node agent stops");
        locked(&self.failed).get_or_insert(error);
        self.stop.cancel();
    }
}

/// Ticks at this pace; late ones put the next ones off.
fn every(pace: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Locks; what a panicked holder left is as good as what was there before: no update here is half.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
