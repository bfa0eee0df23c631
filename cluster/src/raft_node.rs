//! This node's part in the Raft group: the face that the node agent works with.

mod asks;
mod error;
mod in_term;
mod keeper;
mod members;
mod propose;
mod service;
mod view;

pub(crate) use asks::{ASK, PIN, call_frame};
pub use error::NodeError;
pub use members::MemberChange;
pub use view::{Elected, RaftView};

use crate::identity::{Identity, Place};
use crate::log_store::LogStore;
use crate::network::{Factory, Kind, Lane, Peers, serve};
use crate::profile::{Change, Kept, Profile};
use crate::quiet::Quiet;
use crate::state::{Applied, ClusterState, Command};
use crate::state_machine::StateMachine;
use crate::types::{FIRST_NODE, Timings, TypeConfig, boot_ms, monotonic_ms};
use futures_util::future::BoxFuture;
use openraft::{BasicNode, Raft, SnapshotPolicy};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How long a custom call waits.
const CALL: Duration = Duration::from_millis(400);
/// How long a starting voter listens to greetings before it stands.
const GREET: Duration = Duration::from_millis(500);

/// What this node is started with.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub name: String,
    /// Cluster port.
    pub listen: SocketAddr,
    /// Address at which the other nodes reach it.
    pub advertise: String,
    pub spool_address: String,
    pub console_address: String,
    pub gate_address: String,
    /// With which timings a cluster that it makes begins; also those of a node whose place names none.
    pub profile: Profile,
}

/// Handler of custom calls: (peer, kind, body).
pub type CallHandler =
    Arc<dyn Fn(u64, String, Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

type TheRaft = Raft<TypeConfig, StateMachine>;

pub(crate) struct Inner {
    config: Config,
    id: u64,
    /// With which timings Raft was started here.
    patience: Profile,
    raft: TheRaft,
    peers: Arc<Peers>,
    store: LogStore,
    state: watch::Receiver<Arc<ClusterState>>,
    quiet: Quiet,
    sole: std::sync::atomic::AtomicBool,
    elected: Mutex<Option<view::Elected>>,
    transferring: AtomicU64,
    /// Difference of the clocks, and since when (monotonic): it changes only in suspend.
    suspend: Mutex<(i64, i64)>,
    handler: RwLock<Option<CallHandler>>,
    /// Live boot id by member, with the time of its last frame.
    boots: Mutex<BTreeMap<u64, (String, i64)>>,
    /// Membership changes, one at a time.
    changing: tokio::sync::Mutex<()>,
    /// `CLOCK_MONOTONIC` of the last change of the membership seen here, at first of the start.
    changed_at: AtomicI64,
    /// Machines that join through this node.
    pub(crate) door: crate::bootstrap::Door,
}

/// This node's Raft, its port and its connections. Clones share it; it stops with [`RaftNode::shutdown`] or when the
/// last clone goes.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    _stop: Arc<DropGuard>,
    token: CancellationToken,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RaftNode({})", self.inner.id)
    }
}

impl RaftNode {
    /// Starts from what is on disk. The node must belong to a cluster: see [`RaftNode::init_cluster`].
    ///
    /// # Errors
    /// When it belongs to none, or the port or the disk cannot be used.
    pub async fn start(config: Config, identity: Identity) -> Result<RaftNode, NodeError> {
        let place = identity.place.clone().ok_or(NodeError::NoCluster)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| NodeError::Port { address: config.listen.to_string(), source })?;
        Self::start_on(config, identity, place, listener).await
    }

    async fn start_on(
        config: Config,
        identity: Identity,
        place: Place,
        listener: TcpListener,
    ) -> Result<RaftNode, NodeError> {
        let store = LogStore::open(&config.data_dir.join("raft.redb")).await?;
        let (machine, state) = StateMachine::open(store.clone()).await?;
        let server_config = crate::tls::server(&identity)?;
        let mut identity = identity;
        identity.place = Some(place.clone());
        let patience = place.profile.map_or(config.profile, |kept| kept.patience);
        let peers = Arc::new(Peers::new(identity, state.clone(), patience));
        let raft_config = raft_config(&place.cluster, &patience.timings());
        let raft_config = Arc::new(raft_config.validate().map_err(NodeError::raft)?);
        let raft: TheRaft =
            Raft::build(place.node, raft_config, Factory(Arc::clone(&peers)), store.clone(), machine)
                .await
                .map_err(NodeError::raft)?;
        // A restarted voter has forgotten which leader it promised not to depose: it keeps still for election_max.
        raft.runtime_config().elect(false);
        raft.run();
        let voters: Vec<u64> = raft
            .with_raft_state(|state| state.membership_state.effective().membership().voter_ids().collect())
            .await
            .map_err(NodeError::raft)?;
        let sole = voters.is_empty() || voters == [place.node];
        let now = monotonic_ms();
        let quiet = Quiet::new(now, patience.timings().election_max_ms);
        let inner = Arc::new(Inner {
            id: place.node,
            patience,
            raft,
            peers,
            store,
            state,
            quiet,
            sole: sole.into(),
            elected: Mutex::default(),
            transferring: AtomicU64::new(0),
            suspend: Mutex::new((boot_ms() - now, i64::MIN)),
            handler: RwLock::default(),
            boots: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            changed_at: AtomicI64::new(now),
            door: crate::bootstrap::Door::default(),
            config,
        });
        let token = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(serve(listener, server_config, Arc::clone(&inner), tasks.clone(), token.clone()));
        tasks.spawn(view::watch_elections(Arc::clone(&inner), token.clone()));
        tasks.spawn(keeper::keep(Arc::clone(&inner), token.clone()));
        let wait = Duration::from_millis(quiet.stands_in_ms(now, sole));
        if wait.is_zero() {
            inner.raft.runtime_config().elect(true);
        } else {
            let (inner, token) = (Arc::clone(&inner), token.clone());
            tasks.spawn(async move {
                // Whether the cluster went on without it, before it stands.
                let greeted = async { tokio::join!(tokio::time::sleep(wait), inner.peers.greet_all(GREET)) };
                tokio::select! {
                    () = token.cancelled() => {}
                    _ = greeted => if inner.peers.newer().is_none() {
                        inner.raft.runtime_config().elect(true);
                    },
                }
            });
        }
        Ok(RaftNode { inner, tasks, _stop: Arc::new(token.clone().drop_guard()), token })
    }

    /// Makes a cluster of one node. Nothing is kept of a try that failed half-way: its node file is written last.
    ///
    /// # Errors
    /// When this node belongs to a cluster already, or the port or the disk cannot be used.
    pub async fn init_cluster(
        config: Config,
        identity: &mut Identity,
        cluster_name: &str,
    ) -> Result<RaftNode, NodeError> {
        if let Some(place) = &identity.place {
            return Err(NodeError::HasCluster(place.cluster.clone()));
        }
        let (cluster, uuid) = (crate::identity::new_uuid()?, crate::identity::new_uuid()?);
        // The first step of what is agreed on.
        let profile = Some(Kept { patience: config.profile, step: 1 });
        let place = Place {
            version: 1,
            node: FIRST_NODE,
            uuid,
            cluster,
            generation: 1,
            peers: BTreeMap::new(),
            profile,
        };
        remove_log(&config)?;
        identity.make_cluster_key()?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| NodeError::Port { address: config.listen.to_string(), source })?;
        let node = Self::start_on(config.clone(), identity.clone(), place.clone(), listener).await?;
        let first = BTreeMap::from([(FIRST_NODE, BasicNode::new(config.advertise.clone()))]);
        node.inner.raft.initialize(first).await.map_err(NodeError::raft)?;
        let begin = Command::Batch(vec![
            Command::InitCluster { uuid: place.cluster.clone(), name: cluster_name.to_owned() },
            Command::Profile(Change::Formed(config.profile)),
            node.admission(&place.uuid, &identity.spki),
        ]);
        match node.propose(begin).await? {
            Applied::Batch(done) if done.last() == Some(&Applied::Admitted(FIRST_NODE)) => {}
            odd => {
                return Err(NodeError::Raft(format!(
                    "the first entry gave {odd:?}; empty the data folder and try again"
                )));
            }
        }
        identity.settle(place)?;
        Ok(node)
    }

    /// Starts for the first time in a cluster that has admitted this node: the place is kept from here on.
    pub(crate) async fn start_new(
        config: Config,
        identity: &mut Identity,
        place: Place,
        listener: TcpListener,
    ) -> Result<RaftNode, NodeError> {
        remove_log(&config)?;
        identity.settle(place.clone())?;
        Self::start_on(config, identity.clone(), place, listener).await
    }

    fn admission(&self, uuid: &str, spki: &str) -> Command {
        let config = &self.inner.config;
        Command::AdmitNode {
            uuid: uuid.to_owned(),
            name: config.name.clone(),
            spki: spki.to_owned(),
            address: config.advertise.clone(),
            spool_address: config.spool_address.clone(),
            console_address: config.console_address.clone(),
            gate_address: config.gate_address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Id of this node.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// With which timings its Raft runs.
    #[must_use]
    pub fn patience(&self) -> Profile {
        self.inner.patience()
    }

    /// What it was started with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The replicated state, after each batch of applied entries.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.state.clone()
    }

    /// Raft as seen now.
    #[must_use]
    pub fn raft_view(&self) -> RaftView {
        self.inner.view()
    }

    /// A member of a later generation was met: the cluster went on without this node, which must end.
    #[must_use]
    pub fn given_up(&self) -> Option<crate::recovery::GivenUp> {
        self.inner.peers.newer()
    }

    /// Writes a command into the log, through the leader wherever it is, and waits until it is applied there.
    ///
    /// # Errors
    /// [`NodeError::Refused`] when the state refused it; [`NodeError::OutcomeUnknown`] when it may or may not have been
    /// written; others when it was not.
    pub async fn propose(&self, command: Command) -> Result<Applied, NodeError> {
        self.inner.propose(command).await
    }

    /// Asks another node's handler.
    ///
    /// # Errors
    /// When there is no answer within 400 ms, or the handler refuses.
    pub async fn call(&self, node: u64, kind: &str, body: Vec<u8>) -> Result<Vec<u8>, NodeError> {
        if node == self.inner.id {
            return self.inner.handle(node, kind.to_owned(), body).await.map_err(NodeError::Handler);
        }
        let frame =
            call_frame(kind, &body).ok_or_else(|| NodeError::Handler("the kind is too long".to_owned()))?;
        Ok(self.inner.peers.ask(node, Lane::Call, Kind::Call, &frame, CALL).await?)
    }

    /// As [`RaftNode::call`], on a connection of its own and with its own patience: for answers that take long.
    ///
    /// # Errors
    /// As [`RaftNode::call`].
    pub async fn fetch(
        &self,
        node: u64,
        kind: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, NodeError> {
        let frame =
            call_frame(kind, &body).ok_or_else(|| NodeError::Handler("the kind is too long".to_owned()))?;
        Ok(self.inner.peers.ask(node, Lane::Bulk, Kind::Call, &frame, patience).await?)
    }

    /// Sets the handler of calls from other nodes (and from this one to itself).
    pub fn on_call<F, Fut>(&self, handler: F)
    where
        F: Fn(u64, String, Vec<u8>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<u8>, String>> + Send + 'static,
    {
        let handler: CallHandler = Arc::new(move |peer, kind, body| Box::pin(handler(peer, kind, body)));
        *self.inner.handler.write().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    /// Changes the membership, through the leader.
    ///
    /// # Errors
    /// When there is no leader or it refuses.
    pub async fn change_members(&self, change: MemberChange) -> Result<(), NodeError> {
        self.inner.change_members(change).await
    }

    /// Gives the leadership to a follower; grants must have stopped before, [`RaftView::transferring`] says so from
    /// now on.
    ///
    /// # Errors
    /// When this node does not lead, leads for less than ten seconds, or the follower lags.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), NodeError> {
        self.inner.transfer_leader(to).await
    }

    /// Stops Raft, the port and all connections, and waits for them.
    pub async fn shutdown(&self) {
        self.token.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// How openraft is set for a group with these timings.
#[must_use]
pub fn raft_config(cluster: &str, timings: &Timings) -> openraft::Config {
    openraft::Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: timings.heartbeat_ms,
        election_timeout_min: timings.election_min_ms,
        election_timeout_max: timings.election_max_ms,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(1000),
        max_in_snapshot_log_to_keep: 500,
        install_snapshot_timeout: 10_000,
        ..openraft::Config::default()
    }
}

fn remove_log(config: &Config) -> Result<(), NodeError> {
    Ok(elpis_watch::durable::remove(&config.data_dir.join("raft.redb"))?)
}
