//! When the group waits for nodes that may never come back, and what an operator may choose instead.

use super::group::Group;
use super::plan::Report;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The last position that was heard of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Sequence number of the last transaction that it had received.
    pub seq: u64,
    /// When that was heard: cluster time, Unix milliseconds.
    pub at_ms: i64,
}

/// The group has no primary, and gets none by itself as long as some nodes are away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wait {
    /// The primary, and those without whom nobody knows who received most.
    pub on: BTreeSet<NodeId>,
    /// They live, and lost what they had received and not applied.
    pub restarted: BTreeSet<NodeId>,
    /// All members that do not live: what an operator gives up by a choice.
    pub without: BTreeSet<NodeId>,
    /// The copy that has most of those that are there.
    pub best: Option<NodeId>,
    /// An operator has chosen: this one is being made primary.
    pub adopting: Option<NodeId>,
}

/// Why a copy is not adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is no member, or it is the primary.
    NoMember(NodeId),
    /// It lives, so nothing has to be given up.
    Lives(NodeId),
    /// It does not live and is not named.
    NotNamed(NodeId),
    /// The next primary is found without a loss.
    NotNeeded,
    /// Its server does not run, or its copy is no good.
    NoCopy(NodeId),
    /// It lives, and nobody knows how much it has.
    Unknown(NodeId),
    /// It has received more.
    More(NodeId, u64),
}

impl Unfit {
    /// In words, with the names of nodes.
    #[must_use]
    pub fn words(self, name: impl Fn(NodeId) -> String) -> String {
        match self {
            Unfit::NoMember(node) => {
                format!("{} has no copy that could be adopted, or it is the primary", name(node))
            }
            Unfit::Lives(node) => format!(
                "the node {} lives: its copy comes back by itself; if it is lost for good, stop that node first",
                name(node)
            ),
            Unfit::NotNamed(node) => format!(
                "{} is away, too, and may have more: start it, or give it up by naming it with --without",
                name(node)
            ),
            Unfit::NotNeeded => "the next primary is found without giving anything up: wait".to_owned(),
            Unfit::NoCopy(node) => {
                format!("the database server of {} does not run, or its copy is no good", name(node))
            }
            Unfit::Unknown(node) => format!(
                "it is not known how much {} has received: its server does not run; wait, or stop that node and name it with --without",
                name(node)
            ),
            Unfit::More(node, seq) => {
                format!("{} has received more, up to {seq}: adopt that one", name(node))
            }
        }
    }
}

/// No rows are there: neither a copy nor one that is being made.
fn empty(report: &Report) -> bool {
    !report.local.up && report.local.broken
}

fn good(report: &Report) -> bool {
    report.local.up && !report.local.broken
}

/// Whether the group waits, and for whom. `reports` are those of live nodes.
#[must_use]
pub fn waits(group: &Group, live: &BTreeSet<NodeId>, reports: &BTreeMap<NodeId, Report>) -> Option<Wait> {
    let heirs = group.heirs();
    if live.contains(&group.primary) || (!group.failing_over && !heirs.is_empty()) {
        return None;
    }
    let lost = |node: &NodeId| {
        live.contains(node)
            && reports.get(node).is_some_and(|report| !report.local.up || !report.memory.whole)
    };
    let mut on: BTreeSet<NodeId> = heirs.iter().copied().filter(|node| !live.contains(node)).collect();
    let restarted: BTreeSet<NodeId> = heirs.iter().copied().filter(lost).collect();
    if !heirs.is_empty() && on.is_empty() && restarted.is_empty() && group.adopting.is_none() {
        return None;
    }
    on.insert(group.primary);
    let there = group.members.iter().filter(|(node, _)| **node != group.primary && live.contains(node));
    let rank = there.filter_map(|(node, member)| {
        let report = reports.get(node).filter(|report| good(report))?;
        Some((report.local.received(), member.verified, std::cmp::Reverse(*node)))
    });
    Some(Wait {
        on,
        restarted,
        without: group.members.keys().copied().filter(|node| !live.contains(node)).collect(),
        best: rank.max().map(|(_, _, node)| node.0),
        adopting: group.adopting,
    })
}

/// Whether this copy may be made primary without those nodes.
///
/// # Errors
/// Why not.
pub fn may_adopt(
    group: &Group,
    live: &BTreeSet<NodeId>,
    reports: &BTreeMap<NodeId, Report>,
    node: NodeId,
    without: &BTreeSet<NodeId>,
) -> Result<(), Unfit> {
    if !group.members.contains_key(&node) || node == group.primary {
        return Err(Unfit::NoMember(node));
    }
    if let Some(alive) = std::iter::once(&group.primary).chain(without).find(|node| live.contains(node)) {
        return Err(Unfit::Lives(*alive));
    }
    if waits(group, live, reports).is_none() {
        return Err(Unfit::NotNeeded);
    }
    if let Some(away) = group.members.keys().find(|node| !live.contains(node) && !without.contains(node)) {
        return Err(Unfit::NotNamed(*away));
    }
    let Some(chosen) = reports.get(&node).filter(|report| good(report)) else {
        return Err(Unfit::NoCopy(node));
    };
    for other in group.members.keys().filter(|other| **other != node && live.contains(other)) {
        match reports.get(other) {
            Some(report) if empty(report) => {}
            Some(report) if report.local.received() > chosen.local.received() => {
                return Err(Unfit::More(*other, report.local.received()));
            }
            Some(report) if report.local.up => {}
            _ => return Err(Unfit::Unknown(*other)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
