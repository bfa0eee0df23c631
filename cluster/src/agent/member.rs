//! What a node agent has once its node belongs to a cluster.

use super::{AgentConfig, accounts, locked};
use crate::database::Seen;
use crate::identity::Identity;
use crate::key::ClusterKey;
use crate::lease::{Grant, Holder, LeaseTimings};
use crate::profile::{Kept, Shown};
use crate::raft_node::RaftNode;
use crate::state::ClusterState;
use crate::types::{boot_ms, unix_ms};
use bytes::Bytes;
use elpis_watch::log::LogOrder;
use elpis_watch::{Lease, NodeId, Role, Traffic, VERSION};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

/// A difference of cluster time below this is the network's, not a clock's.
const CLOCK_SLACK_MS: i64 = 25;
/// A lease that is longer by less is not told: about the pace of renewals.
const LONGER_MS: i64 = 150;

/// Raft, this node's lease, and what is made from both for the servers.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: RaftNode,
    /// Uuid of the cluster, and its generation.
    pub(super) cluster: String,
    pub(super) generation: u64,
    holder: Mutex<Holder>,
    /// Cluster time = `CLOCK_BOOTTIME` + this; `None` before the first answer of a leader.
    offset_ms: Mutex<Option<i64>>,
    /// The lease as the servers hear of it.
    pub(super) lease: watch::Sender<Lease>,
    /// Index that must be applied here before a lease counts; `None` until a leader has named it.
    caught_up_at: Mutex<Option<u64>>,
    /// Something is there that the leader should hear at once.
    pub(super) renew_now: Notify,
    /// The lease may have changed.
    pub(super) republish: Notify,
    maps: Mutex<BTreeMap<Role, (u64, Bytes)>>,
    pub(super) key: Option<ClusterKey>,
    /// Address at which the servers of this node reach the database that the nodes run.
    pub(super) gate_url: String,
    /// Why database accounts are not made, while this node leads; empty = they are.
    pub(super) accounts_error: Mutex<String>,
    /// Where the copies of the database stood when the master heard of each last.
    positions: Mutex<BTreeMap<NodeId, Seen>>,
    /// Term of the last renewal.
    renewed_in: AtomicU64,
    /// When this began.
    pub(super) began_boot_ms: i64,
    /// Who answers, while there is no master.
    pub(super) look: Mutex<Option<super::majority::Look>>,
    pub(super) desk: super::database::Desk,
    pub(super) leading: super::lead::Leading,
    /// What its `node.json` says of the profile.
    kept: Mutex<Option<Kept>>,
}

impl Member {
    pub(super) fn new(node: RaftNode, config: &AgentConfig, identity: &Identity) -> Member {
        let place = identity.place.as_ref();
        let patience = node.patience();
        Member {
            cluster: place.map(|place| place.cluster.clone()).unwrap_or_default(),
            generation: place.map_or(0, |place| place.generation),
            holder: Mutex::new(Holder::new(LeaseTimings::of(patience))),
            offset_ms: Mutex::default(),
            lease: watch::Sender::new(Lease::default()),
            caught_up_at: Mutex::default(),
            renew_now: Notify::new(),
            republish: Notify::new(),
            maps: Mutex::default(),
            key: identity.cluster_key.clone(),
            gate_url: accounts::socket_url(&config.raft.data_dir.join("run/gate/db.sock")),
            accounts_error: Mutex::default(),
            positions: Mutex::default(),
            renewed_in: AtomicU64::new(0),
            began_boot_ms: boot_ms(),
            look: Mutex::default(),
            desk: super::database::Desk::default(),
            leading: super::lead::Leading::new(patience),
            kept: Mutex::new(place.and_then(|place| place.profile)),
            node,
        }
    }

    /// What is kept of the profile.
    pub(super) fn kept(&self) -> Option<Kept> {
        *locked(&self.kept)
    }

    pub(super) fn keeps(&self, next: Kept) {
        *locked(&self.kept) = Some(next);
        self.renew_now.notify_one();
    }

    /// With which profile this node runs, and what it has kept.
    pub(super) fn shown(&self) -> Shown {
        let step = self.kept().map_or(0, |kept| kept.step);
        Shown { patience: self.node.patience(), step }
    }

    /// A copy stood there; what was seen later counts.
    pub(super) fn seen(&self, node: NodeId, seen: Seen) {
        let mut positions = locked(&self.positions);
        if positions.get(&node).is_none_or(|before| before.at_ms <= seen.at_ms) {
            positions.insert(node, seen);
        }
    }

    /// Where the members' copies stood.
    pub(super) fn positions(&self, state: &ClusterState) -> BTreeMap<NodeId, Seen> {
        let mut positions = locked(&self.positions);
        positions.retain(|node, _| state.nodes.contains_key(node));
        positions.clone()
    }

    pub(super) fn id(&self) -> NodeId {
        self.node.id()
    }

    /// The replicated state now.
    pub(super) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.node.state().borrow())
    }

    /// Cluster time in Unix milliseconds; before a leader has told it, this node's own clock.
    pub(super) fn cluster_now_ms(&self) -> i64 {
        match *locked(&self.offset_ms) {
            Some(offset) => boot_ms().saturating_add(offset),
            None => unix_ms(),
        }
    }

    /// Cluster time minus `CLOCK_BOOTTIME`, once a leader has told it.
    pub(super) fn offset_ms(&self) -> Option<i64> {
        *locked(&self.offset_ms)
    }

    /// When the leader was last heard to grant (`CLOCK_BOOTTIME`).
    pub(super) fn heard_boot_ms(&self) -> Option<i64> {
        locked(&self.holder).heard_boot_ms()
    }

    /// Planned moves away from this node, as (shard, epoch).
    pub(super) fn moves_from_here(&self) -> Vec<(u16, u64)> {
        let me = self.id();
        self.state().moves().filter(|one| one.from == me).map(|one| (one.shard, one.epoch)).collect()
    }

    /// Whether this is the first renewal of a term: its leader has heard nothing of this node yet.
    pub(super) fn is_new_term(&self, term: u64) -> bool {
        self.renewed_in.swap(term, Ordering::SeqCst) != term
    }

    /// Takes the answer to a renewal that was sent at `sent` (`CLOCK_BOOTTIME`).
    pub(super) fn answered(&self, sent: i64, grant: &Grant, leader_applied: u64) {
        let view = self.node.raft_view();
        if grant.term < view.term {
            return;
        }
        if grant.cluster_now_ms > 0 {
            // The answer was made somewhere between sending and now.
            let offset = grant.cluster_now_ms.saturating_sub(sent + (boot_ms() - sent) / 2);
            let mut held = locked(&self.offset_ms);
            if held.is_none_or(|held| (held - offset).abs() > CLOCK_SLACK_MS) {
                *held = Some(offset);
            }
        }
        // A node agent that was restarted may lag behind moves that its servers had acknowledged before: it must not
        // tell a fresh server that it owns what it gave away.
        if grant.lease_ms > 0 {
            locked(&self.caught_up_at).get_or_insert(leader_applied);
        }
        locked(&self.holder).granted(sent, grant, &view);
        self.republish.notify_one();
    }

    /// The lease now; tells the watch streams when it changed.
    pub(super) fn publish(&self) -> Lease {
        let view = self.node.raft_view();
        let state = self.state();
        let standing = state.nodes.get(&self.id());
        let session = standing.filter(|node| node.live()).map(|node| node.session);
        let claim = state.profile.claims(self.node.patience());
        let mut held = {
            let mut holder = locked(&self.holder);
            holder.claims(LeaseTimings::of(claim));
            holder.lease(&view, session)
        };
        let caught_up =
            view.is_leader || locked(&self.caught_up_at).is_some_and(|at| view.applied_index >= at);
        let offset_ms = self.offset_ms();
        // Nor does anything run before the time is known.
        if !caught_up || offset_ms.is_none() {
            held.until_boot_ms = 0;
        }
        let lease = Lease {
            session: standing.map_or(0, |node| node.session),
            until_boot_ms: if session == Some(held.session) { held.until_boot_ms } else { 0 },
            cluster_offset_ms: offset_ms.unwrap_or(0),
            term: view.term,
            master: view.leader,
        };
        self.lease.send_if_modified(|old| {
            let news = is_news(old, &lease);
            if news {
                *old = lease;
            }
            news
        });
        lease
    }

    /// The map as JSON for the servers of this role, and its revision; made once a revision. Each sees its own database
    /// account only, the Tentacle server none.
    pub(super) fn map(&self, role: Role) -> (u64, Bytes) {
        let state = self.state();
        let mut maps = locked(&self.maps);
        if let Some((revision, made)) = maps.get(&role)
            && *revision == state.revision
        {
            return (*revision, made.clone());
        }
        let mut map = state.map();
        if let Some(database) = &mut map.database {
            accounts::give(database, &state, self, role);
        }
        let made = Bytes::from(serde_json::to_vec(&map).unwrap_or_default());
        maps.insert(role, (state.revision, made.clone()));
        (state.revision, made)
    }

    /// A line of the watch stream.
    pub(super) fn line(
        lease: Lease,
        map: Option<&[u8]>,
        log: Option<LogOrder>,
        traffic: Option<Traffic>,
    ) -> Bytes {
        let frame = elpis_watch::Frame { version: VERSION, lease, map: None, log, traffic };
        let mut line = serde_json::to_vec(&frame).unwrap_or_default();
        if let Some(map) = map {
            line.pop();
            line.reserve(map.len() + 16);
            line.extend_from_slice(b",\"map\":");
            line.extend_from_slice(map);
            line.push(b'}');
        }
        line.push(b'\n');
        line.into()
    }
}

/// PURE: whether servers are told. A master that needs nobody's consent has a longer lease at every look: a shorter one
/// that they know of does no harm.
fn is_news(told: &Lease, lease: &Lease) -> bool {
    let longer_ms = lease.until_boot_ms - told.until_boot_ms;
    let same = Lease { until_boot_ms: told.until_boot_ms, ..*lease } == *told;
    !same || !(0..LONGER_MS).contains(&longer_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_hardly_longer_is_no_news() {
        let told =
            Lease { session: 1, until_boot_ms: 10_000, cluster_offset_ms: 5, term: 2, master: Some(1) };
        for (until_boot_ms, news) in
            [(10_000, false), (10_011, false), (10_000 + LONGER_MS, true), (9_999, true), (0, true)]
        {
            assert_eq!(is_news(&told, &Lease { until_boot_ms, ..told }), news, "{until_boot_ms}");
        }
        assert!(
            is_news(&told, &Lease { session: 2, ..told }) && is_news(&told, &Lease { master: None, ..told })
        );
    }

    #[test]
    fn a_line_is_a_frame_and_stays_small_at_its_largest() {
        let mut state = ClusterState::default();
        for (shard, number) in state.shards.iter_mut().zip(0u64..) {
            (shard.owner, shard.epoch, shard.named) = (9_999_999, 9_999_999, 9_999_999 + number);
            shard.to = Some(9_999_998);
        }
        let map = state.map();
        let line = Member::line(Lease::default(), Some(&serde_json::to_vec(&map).unwrap()), None, None);
        assert!(line.len() < 1 << 20, "{} bytes", line.len());
        let frame: elpis_watch::Frame = serde_json::from_slice(&line).unwrap();
        assert_eq!(frame.map, Some(map));
    }
}
