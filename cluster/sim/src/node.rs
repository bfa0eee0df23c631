//! A node agent on a host: real Raft, log store, state machine, leases and leader; the shell around them is the
//! simulator's (pace and rules as in the node agent).

use crate::disk::SharedDisk;
use crate::net::{Factory, NetFail, call};
use crate::rt::{Rt, place, sleep_ms, sleep_us, spawn_at, spawn_local_at};
use crate::server::Server;
use crate::state::Checked;
use crate::world::{HOSTS, world};
use crate::{SimConfig, Timing};
use elpis_cluster::leader::{Leader, Now};
use elpis_cluster::lease::{Grant, Granter, Holder, LeaseTimings, Renewal, VERSION};
use elpis_cluster::log_store::LogStore;
use elpis_cluster::profile::{self, Profile, Shown};
use elpis_cluster::quiet::Quiet;
use elpis_cluster::raft_node::{Elected, RaftView, raft_config};
use elpis_cluster::state::{ClusterState, Command};
use elpis_cluster::state_machine::StateMachine;
use elpis_cluster::types::Proposal;
use elpis_watch::{Lease, NodeId};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::ClientWriteResponse;
use openraft::storage::RaftLogStorage;
use openraft::{AsyncRuntime, Raft, RaftLogReader, ServerState, SnapshotPolicy};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

const CALL: Duration = Duration::from_millis(400);
const PROPOSE: Duration = Duration::from_secs(5);
/// A leader does not give its leadership away so soon after its election.
const SETTLE_MS: i64 = 10_000;

type TheRaft = Raft<SimConfig, Checked>;

/// What a host keeps over restarts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) disk: SharedDisk,
    /// Counter of started servers.
    pub(crate) incarnation: u64,
    pub(crate) agent_place: u64,
    pub(crate) server_place: u64,
    pub(crate) up: bool,
    /// What its `node.json` says of the profile.
    pub(crate) kept: Option<profile::Kept>,
}

thread_local! {
    static HOSTS_KEPT: RefCell<[Host; HOSTS]> = RefCell::default();
    static RUNNING: RefCell<[Option<Arc<Node>>; HOSTS]> = RefCell::default();
}

/// Works on what a host keeps.
pub(crate) fn host<T>(host: usize, work: impl FnOnce(&mut Host) -> T) -> T {
    HOSTS_KEPT.with_borrow_mut(|hosts| work(&mut hosts[host]))
}

/// The node agent that runs on a host.
pub(crate) fn running(host: usize) -> Option<Arc<Node>> {
    RUNNING.with_borrow(|nodes| nodes.get(host).cloned().flatten())
}

/// Forgets all hosts.
pub(crate) fn forget_all() {
    drop(RUNNING.take());
    HOSTS_KEPT.set(Default::default());
}

pub(crate) struct Node {
    pub(crate) host: usize,
    pub(crate) id: NodeId,
    pub(crate) place: u64,
    pub(crate) raft: TheRaft,
    store: LogStore<SimConfig>,
    state: watch::Receiver<Arc<ClusterState>>,
    changed: Arc<Notify>,
    pub(crate) patience: Profile,
    timing: Timing,
    quiet: Quiet,
    sole: bool,
    kept: Mutex<Kept>,
}

struct Kept {
    holder: Holder,
    leader: Leader,
    elected: Option<Elected>,
    transferring: u64,
    caught_up_at: Option<u64>,
    offset_ms: Option<i64>,
    proposing: bool,
}

fn boot_ms() -> i64 {
    world(|w| w.boot_ms(w.host_of(place())))
}

/// Kills what runs on a host; the disk loses what was not synced when the machine goes as well.
pub(crate) fn crash(at: usize, machine: bool) {
    let (agent, server) = host(at, |host| {
        host.up = false;
        (host.agent_place, host.server_place)
    });
    let mut wakers = world(|w| {
        w.note(|| format!("host {at} stops"));
        let mut wakers = w.kill(agent);
        w.seats[at].clear();
        if machine {
            wakers.extend(w.kill(server));
            w.check.rights[at] = None;
        }
        wakers
    });
    // A killed process loses nothing that it had written; a machine does.
    let disk = host(at, |host| host.disk.clone());
    if machine {
        world(|w| disk.crash(&mut w.rng));
    } else {
        disk.close();
    }
    drop(RUNNING.with_borrow_mut(|nodes| nodes[at].take()));
    wakers.drain(..).for_each(std::task::Waker::wake);
}

/// Starts the node agent of a host, and its server when that is not alive.
pub(crate) fn start(at: usize, timing: Timing) {
    let (id, server_place) = host(at, |host| (host.id, host.server_place));
    let agent = world(|w| w.process(at));
    host(at, |host| (host.agent_place, host.up) = (agent, true));
    spawn_local_at(agent, async move {
        if let Err(error) = Node::open(at, id, agent, timing).await {
            let alive = world(|w| w.alive(agent));
            if alive && host(at, |host| host.agent_place) == agent {
                // A disk that failed while starting is a crash that is under way; anything else is a violation.
                sleep_ms(50).await;
                world(|w| w.violation(format!("host {at} does not start: {error}")));
            }
        }
    });
    if !world(|w| w.alive(server_place)) {
        Server::start(at);
    }
}

impl Node {
    async fn open(at: usize, id: NodeId, place: u64, timing: Timing) -> std::io::Result<()> {
        let backend = host(at, |host| host.disk.open(at, place));
        let mut store = LogStore::<SimConfig>::open_backend(backend).await?;
        // After the cluster was made no node here is ever alone.
        let sole = store.get_log_state().await?.last_log_id.is_none() && store.read_vote().await?.is_none();
        let (machine, state) = StateMachine::open(store.clone()).await?;
        let changed = Arc::new(Notify::new());
        let machine = Checked::new(machine, at, state.clone(), Arc::clone(&changed));
        let patience = host(at, |host| host.kept).map_or(timing.profile, |kept| kept.patience);
        let config = openraft::Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_after),
            max_in_snapshot_log_to_keep: 10,
            ..raft_config("sim", &patience.timings())
        };
        let config = Arc::new(config.validate().map_err(std::io::Error::other)?);
        let raft = TheRaft::build(id, config, Factory, store.clone(), machine)
            .await
            .map_err(std::io::Error::other)?;
        raft.runtime_config().elect(false);
        raft.run();
        let quiet = Quiet::new(boot_ms(), patience.timings().election_max_ms);
        let kept = Kept {
            holder: Holder::new(LeaseTimings::of(patience)),
            leader: Leader::new(id, patience),
            elected: None,
            transferring: 0,
            caught_up_at: None,
            offset_ms: None,
            proposing: false,
        };
        let node = Arc::new(Node {
            host: at,
            id,
            place,
            raft,
            store,
            state,
            changed,
            patience,
            timing,
            quiet,
            sole,
            kept: Mutex::new(kept),
        });
        RUNNING.with_borrow_mut(|nodes| nodes[at] = Some(Arc::clone(&node)));
        world(|w| w.note(|| format!("host {at} runs as node {id}")));
        let wait = quiet.stands_in_ms(boot_ms(), sole);
        let standing = Arc::clone(&node);
        spawn_at(place, async move {
            sleep_ms(wait).await;
            standing.raft.runtime_config().elect(true);
        });
        spawn_at(place, Arc::clone(&node).watch_elections());
        spawn_at(place, Arc::clone(&node).renew());
        spawn_at(place, Arc::clone(&node).publish());
        spawn_at(place, node.lead());
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }

    /// By the clock of its host.
    fn boot_ms(&self) -> i64 {
        world(|w| w.boot_ms(self.host))
    }

    /// Raft as seen now; ask from its own tasks, ages are of its clock.
    pub(crate) fn view(&self) -> RaftView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let kept = self.kept();
        let boot = self.boot_ms();
        let time_of = |age: Duration| Some(boot - i64::try_from(age.as_millis()).ok()? - 1);
        RaftView::of(&metrics, kept.elected, kept.transferring, boot, time_of)
    }

    /// (term, leads, leader, last applied) from outside.
    pub(crate) fn hint(&self) -> (u64, bool, Option<NodeId>, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        (metrics.current_term, metrics.state == ServerState::Leader, metrics.current_leader, applied)
    }

    pub(crate) fn may_vote(&self) -> Result<(), NetFail> {
        if self.quiet.silent(self.boot_ms(), self.sole) {
            return Err(NetFail::Said("this voter started just now".to_owned()));
        }
        Ok(())
    }

    async fn watch_elections(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let (state, term) = {
                let seen = metrics.borrow_watched();
                (seen.state, seen.vote.leader_id.term)
            };
            let known = self.kept().elected.is_some_and(|elected| elected.term == term);
            if state == ServerState::Leader && !known {
                let at_boot_ms = boot_ms();
                world(|w| w.leads(self.id, term));
                if let Ok(predecessor) = self.store.leader_before(term, self.id).await {
                    self.kept().elected = Some(Elected { term, at_boot_ms, predecessor });
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    async fn renew(self: Arc<Self>) {
        loop {
            let node = Arc::clone(&self);
            spawn_at(self.place, async move { node.renew_once().await });
            sleep_ms(200).await;
        }
    }

    async fn renew_once(&self) {
        let view = self.view();
        let Some(leader) = view.leader else { return };
        let state = self.state();
        let released = world(|w| {
            let acked = &w.seats[self.host];
            let mine = state.moves().filter(|one| one.from == self.id);
            let mine = mine.filter(|one| acked.get(&one.shard).is_some_and(|epoch| *epoch >= one.epoch));
            mine.map(|one| (one.shard, one.epoch)).collect()
        });
        let step = host(self.host, |host| host.kept).map_or(0, |kept| kept.step);
        let renewal = Renewal {
            version: VERSION,
            session: state.nodes.get(&self.id).map_or(0, |node| node.session),
            applied_index: view.applied_index,
            unix_ms: world(|w| w.unix_ms(self.host)),
            released,
            shown: Some(Shown { patience: self.patience, step }),
            ..Renewal::default()
        };
        let (me, to) = (self.id, world(|w| w.hosts.get(&leader).copied().unwrap_or(0)));
        let sent = boot_ms();
        let answer = call(to, CALL, move |node| async move { Ok(node.renewal(me, &renewal)) }).await;
        let Ok((grant, leader_applied, anew)) = answer else { return };
        let view = self.view();
        if grant.term < view.term {
            return;
        }
        self.start_anew(anew);
        let mut kept = self.kept();
        if grant.cluster_now_ms > 0 {
            let offset = grant.cluster_now_ms - (sent + (boot_ms() - sent) / 2);
            if kept.offset_ms.is_none_or(|held| (held - offset).abs() > 25) {
                kept.offset_ms = Some(offset);
            }
            if !view.is_leader {
                let heard = kept.holder.heard_boot_ms();
                kept.leader.follow(offset, heard);
            }
        }
        if grant.lease_ms > 0 {
            kept.caught_up_at.get_or_insert(leader_applied);
        }
        kept.holder.granted(sent, &grant, &view);
        drop(kept);
        self.changed.notify_one();
    }

    /// Its turn came, for another profile.
    fn start_anew(&self, anew: bool) {
        let kept = host(self.host, |host| host.kept);
        if !anew || kept.is_none_or(|kept| kept.patience == self.patience) || world(|w| w.calm) {
            return;
        }
        let (at, agent, timing) = (self.host, self.place, self.timing);
        spawn_at(0, async move {
            if host(at, |host| !host.up || host.agent_place != agent) {
                return;
            }
            world(|w| w.check.anew += 1);
            crash(at, false);
            sleep_ms(300).await;
            if !host(at, |host| host.up) {
                start(at, timing);
            }
        });
    }

    /// No leader that may grant claims more than any member is patient for, by what it runs with and would start with.
    fn check_claim(&self, view: &RaftView, state: &ClusterState) {
        let claim = state.profile.claims(self.patience);
        let mut granter = Granter::new(LeaseTimings::of(self.patience));
        granter.claims(LeaseTimings::of(claim));
        if granter.may_grant(view, self.boot_ms()).is_err() {
            return;
        }
        let kept = (1..HOSTS).filter_map(|at| host(at, |host| host.kept)).map(|kept| kept.patience);
        let runs = (1..HOSTS).filter_map(running).map(|node| node.patience);
        let least = kept.chain(runs).min();
        if least.is_some_and(|least| claim > least) {
            let id = self.id;
            world(|w| w.breaks_claim(id, claim.name(), least.map_or("none", Profile::name)));
        }
    }

    fn renewal(&self, from: NodeId, renewal: &Renewal) -> (Grant, u64, bool) {
        let view = self.view();
        if !view.is_leader {
            let grant = Grant { version: VERSION, term: view.term, ..Grant::default() };
            return (grant, view.applied_index, false);
        }
        let state = self.state();
        let (boot_ms, unix_ms) = (self.boot_ms(), world(|w| w.unix_ms(self.host)));
        let now = Now { boot_ms, unix_ms, view: &view, state: &state };
        let leader = &mut self.kept().leader;
        let grant = leader.renewal(from, renewal, &now);
        let anew = grant.refused.is_empty() && leader.turn(&now) == Some(from);
        (grant, view.applied_index, anew)
    }

    /// Tells the server of the lease and of the map.
    async fn publish(self: Arc<Self>) {
        loop {
            let view = self.view();
            let state = self.state();
            let standing = state.nodes.get(&self.id);
            let session = standing.filter(|node| node.live()).map(|node| node.session);
            host(self.host, |host| host.kept = profile::Kept::after(host.kept, &state.profile).or(host.kept));
            let lease = {
                let mut kept = self.kept();
                kept.holder.claims(LeaseTimings::of(state.profile.claims(self.patience)));
                let mut held = kept.holder.lease(&view, session);
                let behind = !view.is_leader && kept.caught_up_at.is_none_or(|at| view.applied_index < at);
                if behind || kept.offset_ms.is_none() {
                    held.until_boot_ms = 0;
                }
                Lease {
                    session: standing.map_or(0, |node| node.session),
                    until_boot_ms: if session == Some(held.session) { held.until_boot_ms } else { 0 },
                    cluster_offset_ms: kept.offset_ms.unwrap_or(0),
                    term: view.term,
                    master: view.leader,
                }
            };
            Server::frame(self.host, lease, state);
            let _ = Rt::timeout(Duration::from_millis(100), self.changed.notified()).await;
            // Not more often than a frame takes.
            sleep_us(1000).await;
        }
    }

    async fn lead(self: Arc<Self>) {
        loop {
            sleep_ms(50).await;
            if !self.hint().1 || self.kept().proposing {
                continue;
            }
            let view = self.view();
            let state = self.state();
            let (boot_ms, unix_ms) = (boot_ms(), world(|w| w.unix_ms(self.host)));
            let now = Now { boot_ms, unix_ms, view: &view, state: &state };
            self.check_claim(&view, &state);
            let (command, hands_over) = {
                let leader = &mut self.kept().leader;
                (leader.tick(&now), leader.hands_over(&now))
            };
            if let Some(to) = view.voters.iter().find(|to| hands_over && **to != self.id && state.live(**to))
            {
                self.transfer(*to).await;
            }
            let Some(command) = command else { continue };
            self.kept().proposing = true;
            let node = Arc::clone(&self);
            spawn_at(self.place, async move {
                let _ = node.write(command).await;
                node.kept().proposing = false;
            });
        }
    }

    /// Writes a command, if this node leads.
    pub(crate) async fn write(&self, command: Command) -> Option<ClientWriteResponse<SimConfig>> {
        let written = Rt::timeout(PROPOSE, self.raft.client_write(Proposal(command))).await.ok()?.ok()?;
        world(|w| w.acknowledged(written.log_id.index, written.log_id.leader_id.term));
        Some(written)
    }

    /// Gives the leadership away, by the rules of the product.
    pub(crate) async fn transfer(&self, to: NodeId) -> bool {
        let view = self.view();
        let metrics = self.raft.metrics().borrow_watched().clone();
        let matched =
            metrics.replication.as_ref().and_then(|all| all.get(&to).cloned()).flatten().map(|id| id.index);
        let settled = view.elected_at_boot_ms.is_some_and(|at| boot_ms() - at >= SETTLE_MS);
        if !view.is_leader || !settled || !view.voters.contains(&to) || matched < metrics.last_log_index {
            return false;
        }
        self.kept().transferring = view.term;
        world(|w| w.note(|| format!("node {} gives term {} away to {to}", self.id, view.term)));
        self.raft.trigger().transfer_leader(to).await.is_ok()
    }

    pub(crate) fn lease_timings(&self) -> LeaseTimings {
        LeaseTimings::of(self.patience)
    }
}
