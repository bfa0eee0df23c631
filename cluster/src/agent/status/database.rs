//! The database in the status: who leads it, which copies there are, who has an account.

use super::super::messages::Knowledge;
use super::super::{WaitLine, accounts, adopt};
use crate::database::Moved;
use crate::state::{ClusterState, MANAGED};
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};

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

/// PURE: the database, and how many of its accounts are there.
pub(super) fn database(
    state: &ClusterState,
    named: &elpis_watch::Database,
    known: Option<&Knowledge>,
) -> DatabaseLine {
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
pub(super) fn copy(state: &ClusterState, known: &Knowledge, id: NodeId) -> Option<CopyLine> {
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
