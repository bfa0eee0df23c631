//! `GET /v1/status`, `/healthz`, `/metrics`: what any live node can say, without the database.

mod disk;
mod update;

pub use disk::DiskLine;
pub use update::{UpdateLine, UpdateNode};

use super::member::Member;
use super::messages::{Ask, Knowledge, STATUS, VERSION};
use super::sock::No;
use super::{
    Agent, MajorityLine, MarginsLine, ProfileLine, WaitLine, accounts, adopt, lead, locked, majority, timing,
};
use crate::database::Moved;
use crate::raft_node::RaftView;
use crate::state::{ClusterState, MANAGED, NodeState};
use crate::types::boot_ms;
use elpis_watch::{ADDRESS_JOB, NodeId, SHARDS};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// A follower waits so long for what the master knows.
const PATIENCE: Duration = Duration::from_millis(400);
/// What TLS to the database costs today.
const TLS: &str = "the database is reached over TLS, where this version waits 40 ms at each connect and each long statement (sqlx 0.9.0 sets no TCP_NODELAY), so that writing is slower by half or more; a unix socket, or ssl-mode=disabled on a link that nobody else can read, has no such wait";

/// The status. Scripts rely on this shape: fields are only added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    /// `no-cluster`, `joining`, `member` or `given-up`: the cluster went on without this node.
    pub state: String,
    /// Name of the cluster.
    pub cluster: Option<String>,
    pub uuid: Option<String>,
    pub generation: u64,
    /// Id of the node that answers.
    pub node: Option<NodeId>,
    /// Name of the master.
    pub master: Option<String>,
    pub term: u64,
    /// So many nodes may die now without an end of the work, and why not more.
    pub can_lose: usize,
    pub reason: String,
    /// Most voters do not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority: Option<MajorityLine>,
    pub nodes: Vec<NodeLine>,
    /// How quickly a silent node is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileLine>,
    pub shards: Shards,
    /// Grows with every change of who owns what.
    pub revision: u64,
    pub database: Option<DatabaseLine>,
    pub jobs: BTreeMap<String, String>,
    /// Virtual addresses, and the nodes that are to hold them; empty = none yet.
    #[serde(default)]
    pub addresses: BTreeMap<String, String>,
    /// Planned moves under way.
    pub moves: usize,
    /// The last rollout of a newer version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateLine>,
    /// Newest first.
    pub failovers: Vec<Failed>,
    pub warnings: Vec<String>,
    /// Of the node that answers, newest first.
    pub events: Vec<EventLine>,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeLine {
    pub id: NodeId,
    pub name: String,
    pub address: String,
    /// `joining`, `up`, `draining` or `down`.
    pub state: String,
    pub voter: bool,
    pub session: u64,
    pub shards: usize,
    /// 0 = none, or unknown without a master.
    pub lease_ms_left: i64,
    pub services: BTreeMap<String, String>,
    /// Why it should own no shards; empty = it is fit.
    pub unfit: String,
    /// Its wall clock minus cluster time.
    pub skew_ms: i64,
    /// Version that it runs.
    pub program: String,
    /// Version of the image that it holds for an update; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Its copy of the database, where the nodes run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<CopyLine>,
    /// The disk of that copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskLine>,
    /// The profile that it runs with, and what its machine leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<MarginsLine>,
}

/// A change of the database's primary; times in milliseconds since the master began it, `at` in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedLine {
    pub epoch: u64,
    pub from: String,
    pub to: String,
    pub at: i64,
    pub promoted_ms: i64,
    pub opened_ms: i64,
    pub reason: String,
}

/// A node's copy of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyLine {
    /// `primary`, `replica`, `joining` (it has no copy yet, or one that is not verified) or `none`.
    pub main: String,
    /// Age of the last transaction that it applied, while there are more; `None` = not known.
    pub lag_ms: Option<u64>,
    /// It may acknowledge, and counts at a failover.
    pub in_s: bool,
    /// It acknowledges now. Of the primary: its gate is open.
    pub works: bool,
    /// Sequence number of its last transaction.
    pub position: u64,
}

/// Shards: how many there are, and how many are owned by a node that holds a live lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    pub total: usize,
    pub owned: usize,
}

/// The database as the cluster names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseLine {
    /// `endpoint` (outside the nodes); where the nodes run it `single` (one copy counts), `waiting` (more are there, but
    /// it is not proved yet that they hold all) or `sync` (every commit is on two nodes).
    pub mode: String,
    pub url: String,
    pub epoch: u64,
    /// Where the nodes run it: the node that leads, and those that acknowledge.
    #[serde(default)]
    pub primary: Option<String>,
    #[serde(default)]
    pub ack_set: Vec<String>,
    /// Its primary is being replaced.
    #[serde(default)]
    pub failing_over: bool,
    /// There is no primary, and somebody is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitLine>,
    /// Changes of the primary, newest first.
    #[serde(default)]
    pub moved: Vec<MovedLine>,
    pub ready: bool,
    /// Reached over TLS: see the warning.
    pub tls: bool,
    pub accounts: Accounts,
}

/// Database accounts of nodes and roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    pub made: usize,
    pub wanted: usize,
    /// Why the others are not made, and what to do; empty = nothing failed, or there is no master to ask.
    pub error: String,
}

/// A failover; times in milliseconds since the last sign of life of the node, `at` in Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub node: String,
    pub at: i64,
    pub detected_ms: i64,
    pub reassigned_ms: Option<i64>,
    pub first_result_ms: Option<i64>,
    pub moved: u32,
    pub missed: Option<u64>,
    pub recorded_twice: Option<u64>,
    pub reason: String,
}

/// Something that happened on the node that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// Cluster time, Unix milliseconds.
    pub at_ms: i64,
    /// A role, or `node`.
    pub role: String,
    pub kind: String,
    pub text: String,
}

/// The status as this node knows it; a follower asks the master first.
pub(super) async fn status(agent: &Agent) -> Status {
    let events = locked(&agent.events).iter().rev().cloned().collect();
    let base = Status { version: 1, events, ..Status::default() };
    if let Some(why) = &agent.given_up {
        let shards = Shards { total: SHARDS, owned: 0 };
        return Status { state: "given-up".to_owned(), reason: why.clone(), shards, ..base };
    }
    let Some(member) = agent.member() else {
        let joining = agent.identity.try_lock().is_err();
        let reason =
            if joining { "this node is joining a cluster" } else { "this node belongs to no cluster" };
        return Status {
            state: if joining { "joining" } else { "no-cluster" }.to_owned(),
            reason: reason.to_owned(),
            shards: Shards { total: SHARDS, owned: 0 },
            ..base
        };
    };
    let view = member.node.raft_view();
    let knowledge = ask_leader(agent, &member, &view).await;
    let mut status = of_cluster(&member.state(), &view, knowledge.as_ref(), base);
    status.node = Some(member.id());
    if knowledge.is_none()
        && let Some(line) = majority::line_of(&member)
    {
        status.reason.clone_from(&line.text);
        status.majority = Some(line);
    }
    if let Some(mine) = status.nodes.iter_mut().find(|node| node.id == member.id()) {
        let registry = locked(&agent.registry);
        mine.services = registry.services(boot_ms());
        mine.unfit = accounts::unfit(registry.unfit(boot_ms()), &member);
    }
    status
}

pub(super) async fn ask_leader(agent: &Agent, member: &Member, view: &RaftView) -> Option<Knowledge> {
    if view.is_leader {
        return lead::knowledge(agent, member);
    }
    let body = serde_json::to_vec(&Ask { version: VERSION }).ok()?;
    let asked = tokio::time::timeout(PATIENCE, member.node.call(view.leader?, STATUS, body)).await.ok()?;
    serde_json::from_slice(&asked.ok()?).ok()
}

/// PURE: the status from the replicated state and what the leader knows; `None` = there is no leader to ask.
fn of_cluster(state: &ClusterState, view: &RaftView, known: Option<&Knowledge>, base: Status) -> Status {
    let holds =
        |id: NodeId| known.and_then(|known| known.nodes.get(&id)).is_some_and(|node| node.lease_ms_left > 0);
    let of_all = known;
    let seen = |id: NodeId| of_all.and_then(|known| known.updates.get(&id));
    let nodes: Vec<NodeLine> = state
        .members()
        .map(|(id, node)| {
            let known = known.and_then(|known| known.nodes.get(&id)).cloned().unwrap_or_default();
            NodeLine {
                id,
                name: node.name.clone(),
                address: node.address.clone(),
                state: match node.state {
                    NodeState::Up if node.draining => "draining",
                    NodeState::Up => "up",
                    NodeState::Joining => "joining",
                    NodeState::Down | NodeState::Removed => "down",
                }
                .to_owned(),
                voter: view.voters.contains(&id),
                session: node.session,
                shards: state.owned(id),
                lease_ms_left: known.lease_ms_left,
                services: known.services,
                unfit: known.unfit,
                skew_ms: known.skew_ms,
                program: seen(id).map_or_else(|| node.version.clone(), |seen| seen.runs.clone()),
                image: seen(id).map(|seen| seen.version.clone()).unwrap_or_default(),
                database: of_all.and_then(|known| copy(state, known, id)),
                disk: of_all
                    .and_then(|known| known.database.get(&id))
                    .and_then(|known| disk::line(state, &known.disks)),
                timing: timing::of_node(known.shown, known.margins),
            }
        })
        .collect();
    let name = |id: NodeId| state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let (can_lose, reason) = can_lose(state, view, known);
    let mut warnings = known.map(|known| known.warnings.clone()).unwrap_or_default();
    warnings.extend(known.map(|known| disk::warnings(state, known)).unwrap_or_default());
    warnings.extend(known.map(|known| timing::warnings(state, known)).unwrap_or_default());
    let database = state.database.as_ref().map(|named| database(state, named, known));
    if let Some(database) = &database {
        let Accounts { made, wanted, error } = &database.accounts;
        if !error.is_empty() {
            warnings.push(format!("{made} of {wanted} database accounts are made: {error}"));
        }
        if database.tls {
            warnings.push(TLS.to_owned());
        }
    } else {
        warnings.push("no database is set; nothing is monitored: `elpis cluster database`".to_owned());
    }
    Status {
        state: if state.uuid.is_empty() { "joining" } else { "member" }.to_owned(),
        cluster: Some(state.name.clone()),
        uuid: Some(state.uuid.clone()),
        generation: state.generation,
        revision: state.revision,
        master: known.map(|known| name(known.leader)),
        term: view.term,
        can_lose,
        reason,
        profile: Some(timing::line(state, known)),
        shards: Shards {
            total: SHARDS,
            owned: state.shards.iter().filter(|shard| shard.owner != 0 && holds(shard.owner)).count(),
        },
        database,
        jobs: state.jobs.iter().map(|(job, at)| (job.clone(), name(at.node))).collect(),
        addresses: addresses(state, name),
        moves: state.moves().count(),
        update: update::line(state, of_all),
        failovers: state
            .failovers
            .iter()
            .rev()
            .map(|seen| Failed {
                node: seen.name.clone(),
                at: seen.at_ms,
                detected_ms: seen.detected_ms,
                reassigned_ms: seen.reassigned_ms,
                first_result_ms: seen.first_result_ms,
                moved: seen.moved,
                missed: seen.missed,
                recorded_twice: seen.recorded_twice,
                reason: seen.reason.clone(),
            })
            .collect(),
        nodes,
        warnings,
        ..base
    }
}

fn addresses(state: &ClusterState, name: impl Fn(NodeId) -> String) -> BTreeMap<String, String> {
    let holder = |address: &String| {
        state.jobs.get(&format!("{ADDRESS_JOB}{address}")).map_or_else(String::new, |job| name(job.node))
    };
    state.addresses.iter().map(|address| (address.clone(), holder(address))).collect()
}

/// PURE: the database, and how many of its accounts are there.
fn database(state: &ClusterState, named: &elpis_watch::Database, known: Option<&Knowledge>) -> DatabaseLine {
    let made = state.members().filter(|(id, _)| state.accounts.get(id) == Some(&named.epoch)).count();
    let (_, query) = named.url.split_once('?').unwrap_or_default();
    let told = |what: &str| query.split('&').any(|one| one.to_ascii_lowercase().starts_with(what));
    let name = |id: &NodeId| state.nodes.get(id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let group = state.group.as_ref().filter(|_| named.mode == MANAGED);
    let line = |moved: &Moved| MovedLine {
        epoch: moved.epoch,
        from: name(&moved.from),
        to: name(&moved.to),
        at: moved.at_ms,
        promoted_ms: moved.promoted_ms,
        opened_ms: moved.opened_ms,
        reason: moved.reason.clone(),
    };
    DatabaseLine {
        mode: group.map_or_else(|| named.mode.clone(), |group| group.mode.as_str().to_owned()),
        url: named.url.clone(),
        epoch: group.map_or(named.epoch, |group| group.epoch),
        primary: group.map(|group| name(&group.primary)),
        ack_set: group.map(|group| group.ack_set.iter().map(name).collect()).unwrap_or_default(),
        failing_over: group.is_some_and(|group| group.failing_over),
        waits: known.and_then(|known| adopt::line(state, known)),
        moved: group.map(|group| group.moved.iter().rev().map(line).collect()).unwrap_or_default(),
        ready: named.ready,
        tls: named.mode != MANAGED
            && !(told("socket=") || told("ssl-mode=disabled") || told("sslmode=disabled")),
        accounts: Accounts {
            made: made * accounts::ROLES.len(),
            wanted: state.members().count() * accounts::ROLES.len(),
            error: known.map(|known| known.accounts_error.clone()).unwrap_or_default(),
        },
    }
}

/// PURE: a node's copy of the database; `None` = the database is elsewhere.
fn copy(state: &ClusterState, known: &Knowledge, id: NodeId) -> Option<CopyLine> {
    let group = state.group.as_ref()?;
    let known = known.database.get(&id);
    let report = known.map(|known| &known.report);
    let local = report.map(|report| report.local.clone()).unwrap_or_default();
    let primary = group.primary == id;
    let main = match group.members.get(&id) {
        _ if primary => "primary",
        Some(member) if member.verified => "replica",
        Some(_) => "joining",
        None => "none",
    };
    let leads = report.is_some_and(|report| report.memory.leading == Some(group.epoch));
    let acknowledges = local.up && local.connected && local.sql && local.acks && !local.broken;
    Some(CopyLine {
        main: main.to_owned(),
        lag_ms: if primary { Some(0) } else { known.and_then(|known| known.lag_ms) },
        in_s: group.ack_set.contains(&id),
        works: if primary { leads && local.writes } else { acknowledges },
        position: local.received(),
    })
}

/// PURE: how many nodes, whichever they are, may die now while the rest goes on working.
pub(super) fn can_lose(state: &ClusterState, view: &RaftView, known: Option<&Knowledge>) -> (usize, String) {
    let Some(known) = known else {
        return (0, "no master: a majority of the voters does not answer, or an election goes on".to_owned());
    };
    let live = |id: &NodeId| known.nodes.get(id).is_some_and(|node| node.lease_ms_left > 0);
    let voters = view.voters.len();
    let up = view.voters.iter().filter(|id| live(id)).count();
    let majority = voters / 2 + 1;
    let spare = up.saturating_sub(majority);
    let working = |(id, node): &(NodeId, &crate::state::Node)| {
        live(id) && !node.draining && known.nodes.get(id).is_some_and(|node| node.unfit.is_empty())
    };
    let workers = state.members().filter(working).count();
    let can = spare.min(workers.saturating_sub(1));
    if let Some(why) = state.group.as_ref().and_then(|_| one_copy(state, known)).filter(|_| can > 0) {
        return (0, why);
    }
    let can = if state.group.is_some() { can.min(1) } else { can };
    let reason = if can == spare {
        format!("{up} of {voters} voters live, {majority} are needed")
    } else {
        let fit = if workers == 1 { "1 node" } else { &format!("{workers} nodes") };
        format!("only {fit} can work: the others drain or are unfit")
    };
    (can, reason)
}

/// Why the database would not survive the loss of whichever node, as the master knows it.
pub(super) async fn one_copy_of(agent: &Agent, member: &Member) -> Option<String> {
    match ask_leader(agent, member, &member.node.raft_view()).await {
        Some(known) => one_copy(&member.state(), &known),
        None => Some("there is no master to ask".to_owned()),
    }
}

/// PURE: why the database would not survive the loss of whichever node; `None` = it would.
fn one_copy(state: &ClusterState, known: &Knowledge) -> Option<String> {
    let group = state.group.as_ref()?;
    let name = |id: &NodeId| state.nodes.get(id).map_or_else(|| id.to_string(), |node| node.name.clone());
    if group.failing_over {
        return Some(format!("the database's primary {} is being replaced", name(&group.primary)));
    }
    if group.heirs().is_empty() {
        return Some(format!("only {} is sure to hold the whole database", name(&group.primary)));
    }
    let works = |id: &NodeId| copy(state, known, *id).is_some_and(|copy| copy.works);
    let bad = std::iter::once(&group.primary).chain(&group.ack_set).find(|id| !works(id))?;
    Some(format!("the copy of the database on {} does not follow or does not answer", name(bad)))
}

/// `GET /healthz`: this node is a member and knows a master.
pub(super) fn health(agent: &Agent) -> Result<String, No> {
    let sick = |why: &str| No(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    let member = agent.member().ok_or_else(|| agent.no_member())?;
    let view = member.node.raft_view();
    if let Some(why) = &view.failed {
        return Err(sick(&format!("Raft stopped: {why}")));
    }
    if view.leader.is_none() {
        return Err(sick("no master"));
    }
    if member.publish().until_boot_ms <= boot_ms() {
        return Err(sick("this node holds no lease"));
    }
    Ok("ok\n".to_owned())
}

/// `GET /metrics`: the text format of collectors. Without a call to other nodes: a collector asks every node.
pub(super) fn metrics(agent: &Agent) -> String {
    let mut text = String::new();
    let mut line = |name: &str, labels: &str, value: i64| {
        let _ = writeln!(text, "elpis_node_{name}{labels} {value}");
    };
    {
        let registry = locked(&agent.registry);
        for (role, state) in registry.services(boot_ms()) {
            line("service_up", &format!("{{service=\"{role}\"}}"), i64::from(state == "up"));
        }
        for (role, incarnation) in registry.incarnations() {
            let labels = format!("{{service=\"{}\"}}", role.as_str());
            line("service_incarnation", &labels, i64::try_from(incarnation).unwrap_or(i64::MAX));
        }
    }
    let Some(member) = agent.member() else {
        line("member", "", 0);
        return text;
    };
    let (view, state) = (member.node.raft_view(), member.state());
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    line("member", "", 1);
    line("leads", "", i64::from(view.is_leader));
    line("term", "", number(view.term));
    line("applied_index", "", number(view.applied_index));
    line("lease_ms_left", "", (member.publish().until_boot_ms - boot_ms()).max(0));
    line("session", "", number(state.nodes.get(&member.id()).map_or(0, |node| node.session)));
    line("shards_owned", "", i64::try_from(state.owned(member.id())).unwrap_or(i64::MAX));
    let margins = timing::margins(agent);
    for (what, ms) in [
        ("stall_max", Some(margins.stall_max_ms)),
        ("stall_p999", Some(margins.stall_p999_ms)),
        ("sync_p99", margins.sync_p99_ms),
        ("greet_p90", margins.greet_p90_ms),
        ("trip_p99", margins.trip_p99_ms),
    ] {
        if let Some(ms) = ms {
            line(&format!("margin_{what}_ms"), "", i64::from(ms));
        }
    }
    for (part, profile) in
        [("wanted", state.profile.wanted), ("claim", state.profile.claim), ("runs", member.node.patience())]
    {
        line("profile", &format!("{{part=\"{part}\",profile=\"{profile}\"}}"), 1);
    }
    if let Some(update) = update::line(&state, None) {
        line("update", &format!("{{version=\"{}\",state=\"{}\"}}", update.version, update.state), 1);
    }
    line("moves", "", i64::try_from(state.moves().count()).unwrap_or(i64::MAX));
    if let Some(told) = member.desk.told() {
        for (name, labels, value) in disk::figures(&state, &told.disks) {
            line(name, &labels, value);
        }
        let (local, memory) = (told.report.local, told.report.memory);
        line("database_up", "", i64::from(local.up));
        line("database_leads", "", i64::from(memory.leading.is_some()));
        line("database_acknowledges", "", i64::from(local.acks && local.connected));
        line("database_position", "", number(local.received()));
        line(
            "database_applied",
            "",
            number(local.applied_seq.max(if local.source.is_none() { local.binlog_seq } else { 0 })),
        );
    }
    line("watch_streams", "", i64::try_from(member.lease.receiver_count()).unwrap_or(i64::MAX));
    text
}

#[cfg(test)]
mod tests;
