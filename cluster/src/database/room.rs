//! Room on a node's disk: how much is enough, and what the reserve file is for.
//!
//! PURE. A disk counts as short only when both the share and the bytes are small: a twentieth of a large disk is plenty,
//! and a few GiB of a small one are, too. A level is left at a somewhat higher mark than it is entered at, so that a disk
//! that stands at a mark is said once.

use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// (hundredths, bytes) below which room is low: time to act in working hours.
const LOW: (u64, u64) = (20, 10 * GIB);
/// Below which it is critical: hours at the pace of a busy cluster.
const CRITICAL: (u64, u64) = (5, 2 * GIB);
/// Below which it is as good as none: MariaDB makes files longer by up to 8 MiB at a time.
const FULL: u64 = 16 * MIB;
/// What is freed has to be worth a new try.
const NO_MORE_FULL: u64 = 4 * FULL;
/// Size of the reserve file: enough for a start, a roll back and the first minutes as a replica.
const RESERVE: u64 = 256 * MIB;
/// On a small disk it is a twentieth, but no less than a start needs.
const LEAST_RESERVE: u64 = 32 * MIB;

/// Room on a disk, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Room {
    #[default]
    Enough,
    Low,
    /// The primary goes elsewhere while another node has room.
    Critical,
    /// Writing fails now, or with the next piece.
    Full,
}

impl Room {
    /// Its word in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Room::Enough => "enough",
            Room::Low => "low",
            Room::Critical => "critical",
            Room::Full => "full",
        }
    }

    /// The level after this one, from bytes that are free and the size of the disk. A size of 0 says nothing.
    #[must_use]
    pub fn next(self, free: u64, total: u64) -> Room {
        if total == 0 {
            return self;
        }
        let below = |(hundredths, bytes): (u64, u64), in_it: bool| {
            // Left at a quarter more.
            let (hundredths, bytes) =
                if in_it { (hundredths * 5 / 4, bytes / 4 * 5) } else { (hundredths, bytes) };
            u128::from(free) * 100 < u128::from(total) * u128::from(hundredths) && free < bytes
        };
        if free < if self == Room::Full { NO_MORE_FULL } else { FULL } {
            Room::Full
        } else if below(CRITICAL, self >= Room::Critical) {
            Room::Critical
        } else if below(LOW, self >= Room::Low) {
            Room::Low
        } else {
            Room::Enough
        }
    }
}

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// What lies on it: `database`, `raft` or `spool`; one disk is named once, after the first of these.
    pub what: String,
    pub room: Room,
    /// Bytes.
    pub free: u64,
    pub total: u64,
}

impl Disk {
    /// What is wrong and what to do, where room is short. `node`: whose disk it is.
    #[must_use]
    pub fn words(&self, node: &str) -> String {
        let (free, total) = (size(self.free), size(self.total));
        let primary =
            if self.what == "database" { "; the database's primary goes to a node with room" } else { "" };
        let (is, then) = match self.room {
            Room::Enough => {
                return format!("the disk of {} of {node} has room: {free} of {total} are free", self.what);
            }
            Room::Low => ("is getting full", ""),
            Room::Critical => ("is nearly full", primary),
            Room::Full => ("is full, nothing can be written there", primary),
        };
        format!(
            "the disk of {} of {node} {is}: {free} of {total} are free{then}; remove what does not belong there, shorten \
             how long data is kept, or give it a larger disk",
            self.what
        )
    }
}

fn size(bytes: u64) -> String {
    if bytes >= GIB {
        format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}

/// The disks of a node, and what the database's supervisor keeps on its one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disks {
    /// The database's first.
    pub disks: Vec<Disk>,
    /// Bytes of the reserve file now, and what it should have.
    pub reserve: u64,
    pub reserve_wanted: u64,
    pub logs: Logs,
}

/// Binary logs of a node's server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logs {
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes from the position of each member to the end: what is kept for its sake.
    pub held: BTreeMap<NodeId, u64>,
}

/// Size of the reserve file on a disk of this size; 0 = none where there is no place for one.
#[must_use]
pub fn reserve_bytes(total: u64) -> u64 {
    if total < 8 * LEAST_RESERVE { 0 } else { (total / 20).clamp(LEAST_RESERVE, RESERVE) }
}

/// What to do with the reserve file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Remove it: its bytes are needed now.
    Free,
    /// Make it, or make it longer.
    Make,
}

/// `kept` and `wanted` are its bytes; `leads`: this node's server runs as the primary. Such a one would only write the
/// reserve full, too: it is for the server that has to start, roll back and follow.
#[must_use]
pub fn reserve(disk: &Disk, kept: u64, wanted: u64, leads: bool) -> Option<Reserve> {
    if disk.room == Room::Full {
        return (kept > 0 && !leads).then_some(Reserve::Free);
    }
    // The disk stays out of the critical level with it.
    let left = disk.free.saturating_sub(wanted.saturating_sub(kept));
    let fits = disk.room < Room::Critical && Room::Critical.next(left, disk.total) < Room::Critical;
    (kept < wanted && fits).then_some(Reserve::Make)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Room::*;

    #[test]
    fn both_share_and_bytes_are_small_where_room_is_short() {
        // (before, free MiB, total MiB, after)
        let table = [
            (Enough, 11 << 10, 250 << 10, Enough),
            (Enough, 9 << 10, 250 << 10, Low),
            (Low, 11 << 10, 250 << 10, Low),
            (Low, 13 << 10, 250 << 10, Enough),
            (Enough, 9 << 10, 40 << 10, Enough),
            (Enough, 7 << 10, 40 << 10, Low),
            (Enough, 3 << 10, 250 << 10, Low),
            (Enough, 1 << 10, 250 << 10, Critical),
            (Critical, 2_400, 250 << 10, Critical),
            (Critical, 2_600, 250 << 10, Low),
            (Enough, 1 << 10, 4 << 10, Enough),
            (Enough, 60, 1 << 10, Low),
            (Enough, 40, 1 << 10, Critical),
            (Critical, 60, 1 << 10, Critical),
            (Critical, 70, 1 << 10, Low),
            (Critical, 15, 1 << 10, Full),
            (Enough, 15, 20, Full),
            (Full, 40, 1 << 10, Full),
            (Full, 65, 4 << 10, Critical),
            (Full, 3 << 10, 4 << 10, Enough),
        ];
        for (before, free, total, after) in table {
            let next = before.next(free * MIB, total * MIB);
            assert_eq!(next, after, "{before:?} with {free} MiB of {total} MiB");
        }
        assert_eq!(Low.next(0, 0), Low, "nothing is known");
        assert_eq!(Enough.next(u64::MAX, u64::MAX), Enough);
        assert_eq!(Enough.next(0, u64::MAX), Full);
    }

    #[test]
    fn the_reserve_is_for_a_start_and_comes_back_when_there_is_room() {
        assert_eq!([200, 400, 2_000, 250_000].map(|mib| reserve_bytes(mib * MIB) / MIB), [0, 32, 100, 256]);
        let disk = |room, free: u64| Disk { room, free: free * MIB, total: 1_024 * MIB, ..Disk::default() };
        // (disk, kept MiB, leads, what)
        let table = [
            (disk(Enough, 500), 0, false, Some(Reserve::Make)),
            (disk(Enough, 500), 0, true, Some(Reserve::Make)),
            (disk(Enough, 500), 20, true, Some(Reserve::Make)),
            (disk(Enough, 500), 51, true, None),
            (disk(Low, 110), 0, false, None),
            (disk(Low, 120), 0, false, Some(Reserve::Make)),
            (disk(Critical, 50), 0, false, None),
            (disk(Critical, 50), 51, false, None),
            (disk(Full, 5), 51, true, None),
            (disk(Full, 5), 51, false, Some(Reserve::Free)),
            (disk(Full, 5), 0, false, None),
        ];
        for (disk, kept, leads, what) in table {
            assert_eq!(reserve(&disk, kept * MIB, 51 * MIB, leads), what, "{disk:?} {kept} {leads}");
        }
    }
}
