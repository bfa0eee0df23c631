//! Lease arithmetic: until when a node may act, and when the leader may say that it may not any more.
//!
//! PURE: every time is a `CLOCK_BOOTTIME` millisecond of the machine that reads it; nothing here has a clock. The two
//! sides never compare their clocks, only durations: the holder counts from the moment it *sent* a renewal, the leader
//! from the moment it *answered*, and [`drift_ms`] covers what their clocks' rates may differ in between. So the
//! holder's deadline always passes first. How long a lease is, is the *claim*; how long is waited for its end, is the
//! *patience*: two profiles, see [`crate::profile`].

use crate::planted;
use crate::profile::{Profile, Shown};
use crate::raft_node::RaftView;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of [`Renewal`] and [`Grant`].
pub const VERSION: u16 = 1;

/// What a lease of `lease_ms` needs as a margin: 500 ppm of clock rates and 50 ms of rounding and scheduling.
#[must_use]
pub const fn drift_ms(lease_ms: i64) -> i64 {
    lease_ms / 2000 + 50
}

/// Durations of leases, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimings {
    /// What a grant is worth.
    pub lease_ms: i64,
    /// Longest election time-out of the Raft group.
    pub election_max_ms: i64,
    /// Pace of renewals.
    pub renew_ms: i64,
}

impl LeaseTimings {
    /// Those of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> LeaseTimings {
        let lease_ms = match profile {
            Profile::Lan => 1500,
            Profile::Safe => 2500,
            Profile::Metro => 4000,
        };
        let election_max_ms = i64::try_from(profile.timings().election_max_ms).unwrap_or(i64::MAX / 4);
        LeaseTimings { lease_ms, election_max_ms, renew_ms: 200 }
    }

    /// How long after its answer a grant is surely over.
    #[must_use]
    pub const fn expired_after_ms(&self) -> i64 {
        self.lease_ms + drift_ms(self.lease_ms)
    }

    /// How long after the election of its successor a leader's own lease is surely over.
    #[must_use]
    pub const fn predecessor_after_ms(&self) -> i64 {
        self.election_max_ms + drift_ms(self.election_max_ms)
    }

    /// How long a quorum's acknowledgement lets its leader act.
    #[must_use]
    pub const fn quorum_ms(&self) -> i64 {
        self.election_max_ms - drift_ms(self.election_max_ms)
    }
}

/// What a node asks the leader every [`LeaseTimings::renew_ms`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    pub version: u16,
    /// Session of the node by its own state.
    pub session: u64,
    /// Index of the last entry that the node has applied.
    pub applied_index: u64,
    /// Its wall clock, Unix milliseconds.
    pub unix_ms: i64,
    /// Empty = fit.
    pub unfit: String,
    /// Moves that its servers have all acknowledged: (shard, epoch of the move).
    pub released: Vec<(u16, u64)>,
    /// Checks a second by shard, where its servers told something new.
    pub loads: Vec<(u16, f32)>,
    /// Cluster time of its last stored result and the map revision it was stored under.
    pub stored_ms: i64,
    pub stored_revision: u64,
    /// Virtual addresses can be held there.
    #[serde(default)]
    pub keeps_addresses: bool,
    /// With which profile it runs; `None` = its program knows of none.
    #[serde(default)]
    pub shown: Option<Shown>,
}

/// The leader's answer: act until `lease_ms` after you asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub version: u16,
    pub term: u64,
    /// Who grants: with the term it says which leader, for a term may have two (the later one has the higher id).
    #[serde(default)]
    pub leader: NodeId,
    /// The session it is for.
    pub session: u64,
    /// 0 = no lease, the reason in `refused`.
    pub lease_ms: i64,
    /// Cluster time in Unix milliseconds at the answer.
    pub cluster_now_ms: i64,
    pub refused: String,
}

/// A node's own lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub session: u64,
    /// 0 = none.
    pub until_boot_ms: i64,
}

/// The side that acts.
#[derive(Clone, Debug)]
pub struct Holder {
    claim: LeaseTimings,
    /// Newest leader heard of: (term, node).
    leader: (u64, NodeId),
    held: Held,
    heard_boot_ms: Option<i64>,
}

impl Holder {
    /// Without a lease.
    #[must_use]
    pub fn new(claim: LeaseTimings) -> Holder {
        Holder { claim, leader: (0, 0), held: Held::default(), heard_boot_ms: None }
    }

    /// By what its own lease counts from now on, while this node leads.
    pub fn claims(&mut self, claim: LeaseTimings) {
        self.claim = claim;
    }

    /// Takes a grant that answers a renewal sent at `sent_boot_ms`. False = not taken: of an older term, or while this
    /// node leads (then only its quorum counts).
    pub fn granted(&mut self, sent_boot_ms: i64, grant: &Grant, view: &RaftView) -> bool {
        let leader = (grant.term, grant.leader);
        let newest = self.leader.max((view.term, view.leader.unwrap_or(0)));
        if grant.lease_ms <= 0 || leader < newest || view.is_leader {
            return false;
        }
        self.heard_boot_ms = self.heard_boot_ms.max(Some(sent_boot_ms));
        let until = sent_boot_ms.saturating_add(grant.lease_ms - drift_ms(grant.lease_ms));
        // Answers may overtake each other: within a term and session the later deadline stands.
        if leader == self.leader && grant.session == self.held.session && until < self.held.until_boot_ms {
            return true;
        }
        self.leader = leader;
        self.held = Held { session: grant.session, until_boot_ms: until };
        true
    }

    /// When the newest grant that it took was asked for: the last sign of life of its leader.
    #[must_use]
    pub fn heard_boot_ms(&self) -> Option<i64> {
        self.heard_boot_ms
    }

    /// The lease now. `session` is the node's session by its own applied state, `None` when it is not live there.
    ///
    /// While this node leads, its lease is what its quorum acknowledged, *instead of* what an earlier leader granted:
    /// a successor waits only for the former.
    pub fn lease(&mut self, view: &RaftView, session: Option<u64>) -> Held {
        if view.failed.is_some() {
            self.held = Held::default();
        } else if view.is_leader {
            let acked = view.last_quorum_acked_boot_ms.filter(|_| view.first_entry_applied);
            let until = acked.map_or(0, |at| at + self.claim.quorum_ms());
            let kept = if planted::on("earlier-grant-kept") { self.held.until_boot_ms } else { 0 };
            self.leader = self.leader.max((view.term, view.leader.unwrap_or(0)));
            self.held = Held { session: session.unwrap_or(0), until_boot_ms: until.max(kept) };
        }
        match session {
            Some(session) if session == self.held.session => self.held,
            _ => Held::default(),
        }
    }
}

/// What the leader knows of another node, in its own clock.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Its last renewal of this term, granted or not.
    seen: Option<i64>,
    /// When the last grant of this term was answered.
    granted: Option<i64>,
    /// Session in which it is live, and since when this leader knows.
    up: Option<(u64, i64)>,
    /// It came up while this leader led.
    new: bool,
}

/// The side that grants, in one term of one leader.
#[derive(Clone, Debug)]
pub struct Granter {
    /// What it grants.
    claim: LeaseTimings,
    /// How long it waits for the end of what anybody may have granted.
    patience: LeaseTimings,
    term: u64,
    peers: BTreeMap<NodeId, Peer>,
    /// Sessions whose end this leader has proposed: nothing is granted in them again, applied or not.
    ending: BTreeSet<(NodeId, u64)>,
    /// Whoever was live when the leader was elected is known.
    looked: bool,
}

/// A node as [`Granter`] has to know it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub live: bool,
    pub session: u64,
    pub up_index: u64,
}

impl Granter {
    /// Knows nothing.
    #[must_use]
    pub fn new(patience: LeaseTimings) -> Granter {
        Granter {
            claim: patience,
            patience,
            term: 0,
            peers: BTreeMap::new(),
            ending: BTreeSet::new(),
            looked: false,
        }
    }

    /// What it grants from now on; never more than it would wait for.
    pub fn claims(&mut self, claim: LeaseTimings) {
        self.claim = claim;
    }

    /// What a grant is worth.
    #[must_use]
    pub fn lease_ms(&self) -> i64 {
        self.claim.lease_ms
    }

    /// Forgets what was of another term.
    pub fn in_term(&mut self, term: u64) {
        if self.term != term {
            *self = Granter { term, claim: self.claim, ..Granter::new(self.patience) };
        }
    }

    /// Whether the leader may grant at `now`, and if not, why.
    ///
    /// # Errors
    /// When it does not lead, has not applied the first entry of its term, gives its leadership away, or its quorum
    /// has been silent for too long.
    pub fn may_grant(&self, view: &RaftView, now: i64) -> Result<(), &'static str> {
        if !view.is_leader {
            return Err("this node does not lead");
        }
        if !view.first_entry_applied {
            return Err("the new leader has not applied the first entry of its term yet");
        }
        if view.transferring && !planted::on("grant-in-transfer-term") {
            return Err("the leader gives its leadership away");
        }
        match view.last_quorum_acked_boot_ms {
            Some(acked) if now < acked + self.claim.quorum_ms() => Ok(()),
            _ => Err("the leader has not heard of a majority"),
        }
    }

    /// Answers a renewal of `node` at `now`.
    ///
    /// # Errors
    /// Why nothing is granted.
    pub fn renew(
        &mut self,
        node: NodeId,
        renewal: &Renewal,
        standing: Standing,
        view: &RaftView,
        now: i64,
    ) -> Result<(), &'static str> {
        self.in_term(view.term);
        self.may_grant(view, now)?;
        let peer = self.peers.entry(node).or_default();
        peer.seen = Some(now);
        if !standing.live {
            return Err("the node is not declared up yet");
        }
        if self.ending.contains(&(node, standing.session)) {
            return Err("the node's session is being ended");
        }
        if renewal.session != standing.session {
            return Err("the node has not applied its new session yet");
        }
        if renewal.applied_index < standing.up_index {
            return Err("the node has not caught up with the log yet");
        }
        peer.granted = Some(now);
        Ok(())
    }

    /// Milliseconds since the node's last renewal in this term.
    #[must_use]
    pub fn silent_ms(&self, node: NodeId, now: i64) -> Option<i64> {
        self.peers.get(&node).and_then(|peer| peer.seen).map(|seen| now - seen)
    }

    /// Milliseconds of lease that the node has left at most, by this leader's grants.
    #[must_use]
    pub fn left_ms(&self, node: NodeId, now: i64) -> Option<i64> {
        let granted = self.peers.get(&node).and_then(|peer| peer.granted)?;
        Some((granted + self.claim.lease_ms - now).max(0))
    }

    /// Whether a lease of this node cannot be running any more, and it does not ask for one: its session may end.
    #[must_use]
    pub fn over(&self, node: NodeId, view: &RaftView, now: i64) -> bool {
        let Some(elected) = view.elected_at_boot_ms.filter(|_| self.term == view.term) else {
            return false;
        };
        let peer = self.peers.get(&node).copied().unwrap_or_default();
        let missing = 2 * self.patience.renew_ms;
        let up = peer.up.map_or(elected, |(_, at)| at);
        let since_seen = now - peer.seen.unwrap_or(elected);
        if planted::on("no-lease-wait") && since_seen > missing {
            return true;
        }
        let wait = if view.predecessor == Some(node) {
            if planted::on("predecessor-one-renewal") {
                self.patience.renew_ms
            } else {
                self.patience.predecessor_after_ms()
            }
        } else {
            self.patience.expired_after_ms()
        };
        let over = match peer.granted {
            Some(granted) => now > granted + self.patience.expired_after_ms(),
            None => now > elected + wait,
        };
        // Who came up under this leader has the time of a lease to ask for its first: on a machine that does much else a
        // question takes longer than two renewals should. Who was live before the election had that time.
        let young = peer.new && now <= up + self.patience.expired_after_ms();
        let refused = peer.up.is_some_and(|(session, _)| self.ending.contains(&(node, session)));
        // A node that asks but cannot be granted one is catching up; for how long is bounded as well.
        over && (refused
            || (since_seen > missing && !young)
            || now > peer.granted.unwrap_or(elected).max(up) + 4 * self.patience.expired_after_ms())
    }

    /// The node is live in this session: its time to ask for a first grant counts from when this is first known.
    pub fn live(&mut self, node: NodeId, session: u64, now: i64) {
        let peer = self.peers.entry(node).or_default();
        if peer.up.is_none_or(|(known, _)| known != session) {
            (peer.up, peer.new) = (Some((session, now)), self.looked);
        }
    }

    /// Every node that is live has been named by [`live`](Granter::live): others come up under this leader.
    pub fn looked(&mut self) {
        self.looked = true;
    }

    /// From here on nothing is granted to this session of the node.
    pub fn ending(&mut self, node: NodeId, session: u64) {
        self.ending.insert((node, session));
    }

    /// Whether that was said of this session.
    #[must_use]
    pub fn is_ending(&self, node: NodeId, session: u64) -> bool {
        self.ending.contains(&(node, session))
    }
}

#[cfg(test)]
mod tests;
