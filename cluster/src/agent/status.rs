//! `GET /v1/status`: what any live node can say, without the database.

mod database;
mod disk;
mod figures;
mod loss;
mod update;

pub use database::{CopyLine, DatabaseLine, MovedLine};
pub use disk::DiskLine;
pub(super) use figures::{health, metrics};
pub(super) use loss::{can_lose, one_copy_of};
pub use update::{UpdateLine, UpdateNode};

use super::member::Member;
use super::messages::{Ask, Knowledge, STATUS, VERSION};
use super::{Agent, MajorityLine, MarginsLine, ProfileLine, accounts, lead, locked, majority, timing};
use crate::raft_node::RaftView;
use crate::state::{ClusterState, NodeState};
use crate::types::boot_ms;
use elpis_watch::{ADDRESS_JOB, NodeId, SHARDS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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

/// Shards: how many there are, and how many are owned by a node that holds a live lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    pub total: usize,
    pub owned: usize,
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
                database: of_all.and_then(|known| database::copy(state, known, id)),
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
    let database = state.database.as_ref().map(|named| database::database(state, named, known));
    if let Some(database) = &database {
        let database::Accounts { made, wanted, error } = &database.accounts;
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

#[cfg(test)]
mod tests;
