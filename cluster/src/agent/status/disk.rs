//! The nodes' disks in the status: lines, warnings, figures.

use super::super::messages::Knowledge;
use crate::database::{Disk, Disks, Room};
use crate::state::ClusterState;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The disk of a node's database, and others of the node beside it; bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskLine {
    /// `database`, `raft` or `spool`; what lies on the same disk is not named again.
    pub what: String,
    /// `enough`, `low`, `critical` or `full`.
    pub room: String,
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Of the reserve file now, and what it should have. Less: it was needed, and is made again when there is room.
    pub reserve_bytes: u64,
    pub reserve_wanted_bytes: u64,
    /// Binary logs of the database, and how much of them is kept for which member.
    pub binlog_bytes: u64,
    pub binlog_held_bytes: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<DiskLine>,
}

/// PURE: a node's disks; `None` = nothing was told of them.
pub(super) fn line(state: &ClusterState, disks: &Disks) -> Option<DiskLine> {
    let (first, others) = disks.disks.split_first()?;
    let plain = |disk: &Disk| DiskLine {
        what: disk.what.clone(),
        room: disk.room.as_str().to_owned(),
        free_bytes: disk.free,
        total_bytes: disk.total,
        ..DiskLine::default()
    };
    let name = |id: &NodeId| state.nodes.get(id).map_or_else(|| id.to_string(), |node| node.name.clone());
    Some(DiskLine {
        reserve_bytes: disks.reserve,
        reserve_wanted_bytes: disks.reserve_wanted,
        binlog_bytes: disks.logs.bytes,
        binlog_held_bytes: disks.logs.held.iter().map(|(node, bytes)| (name(node), *bytes)).collect(),
        others: others.iter().map(plain).collect(),
        ..plain(first)
    })
}

/// PURE: what an operator should know of the disks of all nodes.
pub(super) fn warnings(state: &ClusterState, known: &Knowledge) -> Vec<String> {
    let mut warnings = Vec::new();
    for (id, node) in state.members() {
        let Some(known) = known.database.get(&id) else { continue };
        let short = known.disks.disks.iter().filter(|disk| disk.room != Room::Enough);
        warnings.extend(short.map(|disk| disk.words(&node.name)));
        let Disks { reserve, reserve_wanted, .. } = known.disks;
        if reserve == 0 && reserve_wanted > 0 && known.report.local.room >= Room::Critical {
            warnings.push(format!(
                "the reserve file on the database's disk of {} is gone; it is made again when there is room",
                node.name
            ));
        }
    }
    warnings
}

/// Figures of this node: name, labels, value.
pub(super) fn figures(state: &ClusterState, disks: &Disks) -> Vec<(&'static str, String, i64)> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut figures = Vec::new();
    for disk in &disks.disks {
        let labels = format!("{{disk=\"{}\"}}", disk.what);
        figures.push(("disk_free_bytes", labels.clone(), number(disk.free)));
        figures.push(("disk_bytes", labels.clone(), number(disk.total)));
        figures.push(("disk_short", labels, disk.room as i64));
    }
    if disks.disks.is_empty() {
        return figures;
    }
    figures.push(("database_reserve_bytes", String::new(), number(disks.reserve)));
    figures.push(("database_binlog_bytes", String::new(), number(disks.logs.bytes)));
    for (node, held) in &disks.logs.held {
        let name = state.nodes.get(node).map_or_else(|| node.to_string(), |node| node.name.clone());
        figures.push(("database_binlog_held_bytes", format!("{{member=\"{name}\"}}"), number(*held)));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::messages::GroupKnowledge;
    use crate::database::Logs;

    #[test]
    fn a_short_disk_is_said_with_what_to_do() {
        let state = crate::state::testing::live(3);
        let disk = |what: &str, room, free| Disk { what: what.to_owned(), room, free, total: 40 << 30 };
        let mut held = GroupKnowledge::default();
        held.disks.disks = vec![disk("database", Room::Critical, 1 << 30), disk("raft", Room::Low, 7 << 30)];
        held.disks.reserve_wanted = 256 << 20;
        held.disks.logs = Logs { bytes: 9, held: BTreeMap::from([(3, 5)]) };
        held.report.local.room = Room::Critical;
        let known = Knowledge {
            database: BTreeMap::from([(2, held.clone()), (3, GroupKnowledge::default())]),
            ..Knowledge::default()
        };
        let said = warnings(&state, &known);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("n2") && said[0].contains("1.0 GiB of 40.0 GiB"), "{}", said[0]);
        assert!(
            said[0].contains("give it a larger disk")
                && said[1].contains("raft")
                && said[2].contains("reserve"),
            "{said:?}"
        );
        let line = line(&state, &held.disks).unwrap();
        assert_eq!((line.room.as_str(), line.others[0].room.as_str()), ("critical", "low"));
        assert_eq!(line.binlog_held_bytes, BTreeMap::from([("n3".to_owned(), 5)]));
        let figures = figures(&state, &held.disks);
        let of = |name: &str| figures.iter().find(|one| one.0 == name).map(|one| (one.1.as_str(), one.2));
        assert_eq!(of("disk_free_bytes"), Some(("{disk=\"database\"}", 1 << 30)));
        assert_eq!(of("database_binlog_held_bytes"), Some(("{member=\"n3\"}", 5)));
        assert_eq!(super::line(&state, &Disks::default()), None);
    }
}
