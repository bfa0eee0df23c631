//! What the supervisor of a node does next with its server.

use super::plan::{Order, Reach};
use super::room::Room;
use crate::planted;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the server shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Local {
    /// The process runs.
    pub up: bool,
    /// It answered when it was looked at last: the rest is not what it was some time ago.
    pub answers: bool,
    /// Starts of the process.
    pub instance: u64,
    /// The write probe is answered, or waits for an acknowledgement alone.
    pub writes: bool,
    pub read_only: bool,
    pub semi_master: bool,
    pub source: Option<NodeId>,
    /// The thread is on, connected or not.
    pub io: bool,
    pub sql: bool,
    /// The source sends to it.
    pub connected: bool,
    /// It acknowledges, or would when connected.
    pub acks: bool,
    /// Replication stopped by itself: its rows are not the primary's. While the server is down: there is no copy, or one
    /// with which it does not start as a replica.
    pub broken: bool,
    /// Its rows were compared with the primary's and are the same.
    pub same: bool,
    /// Of the disk on which it lies.
    pub room: Room,
    /// Received, applied, and last in the binary log.
    pub io_seq: u64,
    pub applied_seq: u64,
    pub binlog_seq: u64,
}

impl Local {
    /// The last transaction that is here, applied or not.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.io_seq.max(self.binlog_seq)
    }
}

/// What a supervisor remembers while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Instance of the server that the rest is of.
    pub instance: u64,
    /// Everything it has ever acknowledged is here: not so after a restart, until it has received as much again.
    pub whole: bool,
    /// How often it began to follow, and so lost what it had received and not applied.
    pub follows: u64,
    /// Epoch of the failover for which it receives nothing more.
    pub frozen: Option<u64>,
    /// Epoch of the failover for which it has left its source.
    pub detached: Option<u64>,
    /// Epoch in which it leads and its gate is open.
    pub leading: Option<u64>,
    /// Epoch for which the fence was written and acknowledged.
    pub fenced: Option<u64>,
    /// Nodes that are kept away and whose acknowledgements others hold.
    pub dropped: BTreeSet<NodeId>,
    /// Nodes that are kept away now; `None` = not known.
    pub blocked: Option<BTreeSet<NodeId>>,
    /// A row was acknowledged since the server waits for acknowledgements.
    pub synced: bool,
}

/// One thing to do; when it is done the supervisor looks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the first copy of the group.
    Install,
    /// Start the server; `master` = with what nobody acknowledged.
    Start {
        master: bool,
    },
    /// SIGKILL.
    Kill,
    /// `STOP SLAVE IO_THREAD`, the way to the source made to reject first.
    StopIo,
    /// `STOP SLAVE; RESET SLAVE ALL`.
    Leave,
    /// `CHANGE MASTER TO …; START SLAVE`, acknowledging or not, under a `server_id` that no transaction was ever written
    /// under. A server without a source may have led: it takes `gtid_slave_pos` from its binary log.
    Follow {
        primary: NodeId,
        acks: bool,
    },
    /// `START SLAVE SQL_THREAD`, while the other one runs.
    StartSql,
    /// `STOP SLAVE IO_THREAD; SET GLOBAL rpl_semi_sync_slave_enabled; START SLAVE IO_THREAD`.
    SetAcks {
        on: bool,
    },
    SetSemiMaster {
        on: bool,
    },
    /// Rows of the fence, under the epoch as `server_id`, by an account that `read_only` does not stop; done when they are acknowledged. Asked for again
    /// while they are not: what a replica had received before it began to acknowledge is acknowledged only with the next
    /// transaction.
    WriteFence {
        epoch: u64,
    },
    /// `SET GLOBAL read_only=0`, the gate opened.
    Open {
        epoch: u64,
    },
    /// The gate closed, then `SET GLOBAL read_only=1`; when it is done the server leads no more.
    Close,
    /// Keep these nodes' replication away and end what they have open.
    Block {
        nodes: BTreeSet<NodeId>,
    },
    /// A changing row; its acknowledgement comes from those that are not blocked.
    Heartbeat {
        without: BTreeSet<NodeId>,
    },
    /// A new copy from the primary.
    Rebuild {
        primary: NodeId,
    },
}

/// The next thing to do for this order, if any.
#[must_use]
pub fn supervise(order: &Order, local: &Local, memory: &mut Memory) -> Option<Action> {
    if memory.instance != local.instance {
        // Another process: what was received and not applied is gone.
        *memory = Memory { instance: local.instance, ..Memory::default() };
    }
    match order {
        Order::Hold => None,
        Order::Yield => {
            let writes = local.up && (!local.read_only || memory.leading.is_some());
            writes.then_some(Action::Close)
        }
        Order::Kill => local.up.then_some(Action::Kill),
        Order::Freeze { epoch } => freeze(*epoch, local, memory),
        Order::Detach { epoch, upto } => {
            if let Some(action) = freeze(*epoch, local, memory) {
                return Some(action);
            }
            if !local.up || memory.frozen != Some(*epoch) || local.binlog_seq < *upto {
                return None;
            }
            if local.source.is_some() {
                return Some(Action::Leave);
            }
            memory.detached = Some(*epoch);
            None
        }
        Order::Lead { install: true, .. } if !local.up && local.broken => Some(Action::Install),
        Order::Lead { .. } if !local.up && local.broken => None,
        Order::Lead { epoch, sync, blocked, .. } => lead(*epoch, *sync, blocked, local, memory),
        Order::Follow { primary, acks, reach, .. } => follow(*primary, *acks, *reach, local, memory),
        Order::Rebuild { primary } if local.broken => Some(Action::Rebuild { primary: *primary }),
        Order::Rebuild { primary } => follow(*primary, false, None, local, memory),
    }
}

fn freeze(epoch: u64, local: &Local, memory: &mut Memory) -> Option<Action> {
    // A server that is down, or was restarted, cannot say what it had acknowledged.
    if !local.up || memory.frozen == Some(epoch) {
        return None;
    }
    if local.io {
        // With both threads off what was received is lost at the next start: it has to apply while it still receives.
        let stands = local.source.is_some() && !local.sql && !local.broken;
        return Some(if stands { Action::StartSql } else { Action::StopIo });
    }
    memory.frozen = Some(epoch);
    None
}

fn lead(
    epoch: u64,
    sync: bool,
    blocked: &BTreeSet<NodeId>,
    local: &Local,
    memory: &mut Memory,
) -> Option<Action> {
    if !local.up {
        // Its binary log has everything that was ever acknowledged: nothing of it is cut off.
        return (memory.fenced != Some(epoch)).then_some(Action::Start { master: true });
    }
    if local.source.is_some() {
        return Some(Action::Leave);
    }
    if memory.blocked.as_ref() != Some(blocked) {
        memory.dropped.retain(|node| blocked.contains(node));
        memory.blocked = Some(blocked.clone());
        return Some(Action::Block { nodes: blocked.clone() });
    }
    if local.semi_master != sync {
        // What is acknowledged because nobody waits any more proves nothing.
        (memory.synced, memory.dropped) = (false, BTreeSet::new());
        return Some(Action::SetSemiMaster { on: sync });
    }
    if memory.fenced != Some(epoch) && !planted::on("gate-before-fence") {
        return Some(Action::WriteFence { epoch });
    }
    if memory.leading != Some(epoch) {
        return Some(Action::Open { epoch });
    }
    if sync && (memory.dropped != *blocked || !memory.synced) {
        return Some(Action::Heartbeat { without: blocked.clone() });
    }
    None
}

fn follow(
    primary: NodeId,
    acks: bool,
    reach: Option<Reach>,
    local: &Local,
    memory: &mut Memory,
) -> Option<Action> {
    if !local.up {
        return (!local.broken).then_some(Action::Start { master: false });
    }
    // It led, or was about to: what nobody acknowledged is cut off by a start in the other role, and by nothing else.
    if local.semi_master || !local.read_only {
        return Some(Action::Kill);
    }
    if local.broken {
        return None;
    }
    (memory.frozen, memory.detached) = (None, None);
    if local.source != Some(primary) || !(local.io || local.sql) {
        // With both threads off, what was received and not applied is lost.
        (memory.whole, memory.follows) = (false, memory.follows + 1);
        return Some(Action::Follow { primary, acks });
    }
    if !local.sql {
        return Some(Action::StartSql);
    }
    if !local.io || local.acks != acks {
        return Some(Action::SetAcks { on: acks });
    }
    // Outside of the ack set nothing depends on it; inside, it has caught up with what it may have said before.
    let here = |reach: Reach| (reach.instance, reach.follows) == (local.instance, memory.follows);
    memory.whole |= !acks || reach.is_some_and(|reach| here(reach) && local.io_seq >= reach.seq);
    None
}
