//! What the leader agrees on next, and what it asks of every supervisor.

mod disk;
mod isolated;
#[cfg(test)]
mod world;

use super::group::{Entry, Group, Mode};
use super::pace::Pace;
use super::room::Room;
use super::supervise::{Local, Memory};
use crate::planted;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A member of the ack set that does not acknowledge for so long leaves it.
const SHRINK_MS: i64 = 5_000;
/// Before a primary whose ackers are all gone goes on alone; with one acker there is nothing better to wait for.
const ALONE_MS: i64 = 10_000;
const ALONE_OF_TWO_MS: i64 = 5_000;
/// A primary whose disk is nearly full goes elsewhere after so long in its epoch: no two such moves follow at once.
const GIVE_AWAY_MS: i64 = 10_000;
/// The write probe of a primary fails for so long before it is replaced.
const PROBE_MS: i64 = 2_000;
/// Nobody gets to a primary whose node is heard for so long before it is replaced: longer than a replica needs to come
/// back by itself.
const ISOLATED_MS: i64 = 3_000;
/// A primary that does not open its gate for so long is replaced.
const OPEN_MS: i64 = 5_000;
/// A replica that is behind by no more is near enough to acknowledge.
const NEAR_MS: i64 = 1_000;
/// One that is behind by more leaves the ack set: a failover would wait for it.
const FAR_MS: i64 = 5_000;
/// By order, the next primary may receive for so long what the present one has.
const HAND_OVER_MS: i64 = 1_500;
/// A node that lives and does not say that its server has ended holds a failover up for so long, and no longer.
const CLOSED_MS: i64 = 8_000;
/// An heir whose server is down is started after so long without the primary: it may be chosen by an operator then.
const ABSENT_MS: i64 = 120_000;
/// So long all heirs are waited for before a primary that answers becomes its own heir.
const FREEZE_MS: i64 = 3_000;

/// What a supervisor is to bring about. Orders are repeated; a supervisor obeys the newest it has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Nothing.
    #[default]
    Hold,
    /// Be the primary of this epoch; `sync` = wait for acknowledgements. Let none of `blocked` replicate, and prove that
    /// the others hold what one of them had acknowledged. `install`: the first copy may be made here. `slow_ms`: pause of a writer
    /// at each statement, for the sake of replicas that are behind.
    Lead { epoch: u64, sync: bool, blocked: BTreeSet<NodeId>, install: bool, slow_ms: u32 },
    /// Replicate from the primary. `verify`: find out whether the rows are the same.
    Follow { primary: NodeId, acks: bool, reach: Option<Reach>, verify: bool },
    /// Be the primary no more, by order: take no statements, write nothing, and let replicas receive the rest.
    Yield,
    /// Receive nothing more, and keep all that was received.
    Freeze { epoch: u64 },
    /// Apply all up to here, then leave the source.
    Detach { epoch: u64, upto: u64 },
    /// End the server at once, without an orderly end.
    Kill,
    /// Throw the copy away and take a new one from the primary.
    Rebuild { primary: NodeId },
}

/// A position that the primary had after a replica had connected to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Instance of the replica's server, and how often it had begun to follow.
    pub instance: u64,
    pub follows: u64,
    pub seq: u64,
}

/// What a supervisor tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The newest round of orders it had obeyed when it looked.
    pub echo: u64,
    pub local: Local,
    /// Of the instance that runs; another one's says nothing.
    pub memory: Memory,
}

/// What comes of a look at everything.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of this look; orders carry it.
    pub round: u64,
    pub orders: BTreeMap<NodeId, Order>,
    pub entry: Option<Entry>,
    /// Why, when the entry begins a failover.
    pub why: &'static str,
}

/// Whether the heir that is wanted still lacks what a primary has that gives its place away by order.
fn hands_over(group: &Group, current: &BTreeMap<NodeId, &Report>) -> bool {
    let Some(heir) = group.prefer.filter(|heir| group.heirs().contains(heir)) else { return false };
    match (current.get(&group.primary), current.get(&heir)) {
        (Some(head), Some(heir)) => {
            let writes = !head.local.read_only || head.memory.leading.is_some();
            let lacks = heir.local.received() < head.local.binlog_seq;
            head.local.up && heir.local.connected && (writes || lacks)
        }
        _ => true,
    }
}

/// The leader's memory; empty in every new term.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    round: u64,
    /// Epoch of the last look, and its first round.
    epoch_since: (u64, u64),
    /// The first round in which an instance of a node's server was seen connected since it last began to follow.
    connected: BTreeMap<NodeId, ((u64, u64), u64)>,
    /// The first round in which a node was outside of the ack set.
    outside: BTreeMap<NodeId, u64>,
    /// The first round since which the primary is told to wait for acknowledgements.
    sync_since: Option<u64>,
    pace: Pace,
    /// Members that are being put out of the ack set, and those of them for whom that was proposed: these stay blocked
    /// until it is so, or an acknowledgement of theirs might come in between.
    away: BTreeSet<NodeId>,
    shrinking: BTreeSet<NodeId>,
    /// Epoch that was seen without a failover, until one orders a freeze.
    steady: Option<u64>,
    /// Since when something is so, and of what.
    since: BTreeMap<(NodeId, &'static str), i64>,
}

impl Planner {
    /// How long `is` has been so.
    fn lasting(&mut self, node: NodeId, what: &'static str, is: bool, now_ms: i64) -> i64 {
        if !is {
            self.since.remove(&(node, what));
            return -1;
        }
        now_ms - *self.since.entry((node, what)).or_insert(now_ms)
    }

    /// How far a node's copy is behind; `None` = not known.
    #[must_use]
    pub fn lag_ms(&self, report: &Report, now_ms: i64) -> Option<u64> {
        self.pace.lag_ms(report.local.applied_seq, now_ms).map(|lag| u64::try_from(lag).unwrap_or(0))
    }

    /// Looks at everything. `live` are the nodes with a session; all others have no copy to count on. `me` is the node
    /// that leads, `gone` says whether a node was removed from the cluster.
    pub fn plan(
        &mut self,
        group: &Group,
        live: &BTreeSet<NodeId>,
        reports: &BTreeMap<NodeId, Report>,
        me: NodeId,
        gone: impl Fn(NodeId) -> bool,
        now_ms: i64,
    ) -> Plan {
        self.round += 1;
        let epoch = group.epoch + u64::from(group.failing_over);
        if self.epoch_since.0 != epoch {
            self.epoch_since = (epoch, self.round);
            self.since.clear();
            self.sync_since = None;
            self.pace = Pace::default();
            (self.away, self.shrinking) = (BTreeSet::new(), BTreeSet::new());
        }
        // Only what was seen after an order of this epoch counts.
        let current: BTreeMap<NodeId, &Report> = reports
            .iter()
            .filter(|(node, report)| live.contains(node) && report.echo >= self.epoch_since.1)
            .map(|(node, report)| (*node, report))
            .collect();
        let mut plan = Plan { round: self.round, orders: BTreeMap::new(), entry: None, why: "" };
        if group.failing_over {
            self.fail_over(group, live, &current, me, now_ms, &mut plan);
        } else {
            self.lead(group, live, &current, now_ms, &mut plan);
            // Who has no copy yet gets one; who was removed needs none.
            let new = reports.keys().find(|node| live.contains(node) && !group.members.contains_key(node));
            let entry = new.map(|node| Entry::Joined { node: *node });
            plan.entry = plan.entry.or(entry);
            let bound = |node: &NodeId| *node == group.primary || group.ack_set.contains(node);
            let left = group.members.keys().find(|node| gone(**node) && !bound(node));
            plan.entry = plan.entry.or(left.map(|node| Entry::Left { node: *node }));
        }
        plan
    }

    fn fail_over(
        &mut self,
        group: &Group,
        live: &BTreeSet<NodeId>,
        current: &BTreeMap<NodeId, &Report>,
        me: NodeId,
        now_ms: i64,
        plan: &mut Plan,
    ) {
        let (epoch, primary, heirs) = (group.epoch + 1, group.primary, group.heirs());
        let stands = |node: &NodeId| {
            current.get(node).copied().filter(|report| {
                // One that applies nothing any more would never come to the end of what it has.
                let applies = report.local.sql || report.local.applied_seq >= report.local.received();
                report.local.up && report.memory.frozen == Some(epoch) && applies
            })
        };
        // One that has died since has lost what it had received.
        let whole = |report: &Report| report.memory.whole || planted::on("restarted-acker-counts");
        let is_frozen = |node: &NodeId| stands(node).is_some_and(whole);
        let frozen: BTreeSet<NodeId> = heirs.iter().copied().filter(is_frozen).collect();
        let enough = frozen == heirs || (planted::on("promotion-without-a-member") && !frozen.is_empty());
        let all = !heirs.is_empty() && enough;
        let waited = self.lasting(primary, "failing over", true, now_ms);
        // Never back from a freeze: a report of it may still be on its way. A leader that did not see this failover begin
        // does not know whether there was one.
        let began_here = self.steady == Some(group.epoch) || planted::on("back-from-a-freeze");
        let may_hand_over = began_here && waited < HAND_OVER_MS;
        if may_hand_over && hands_over(group, current) {
            // By order: it writes nothing more, and the one that is wanted receives the rest.
            plan.orders.insert(primary, Order::Yield);
            for node in &heirs {
                let order = Order::Follow { primary, acks: true, reach: None, verify: false };
                plan.orders.insert(*node, order);
            }
            return;
        }
        self.steady = None;
        let absent = self.lasting(primary, "is absent", !live.contains(&primary), now_ms);
        for node in heirs.iter().chain(&group.adopting) {
            let down = current.get(node).is_some_and(|report| !report.local.up && !report.local.broken);
            let starts = down && (absent >= ABSENT_MS || group.adopting == Some(*node));
            // As one that acknowledges: so it never counts as one that has lost nothing.
            let follow = Order::Follow { primary, acks: true, reach: None, verify: false };
            plan.orders.insert(*node, if starts { follow } else { Order::Freeze { epoch } });
        }
        plan.orders.insert(primary, if all { Order::Kill } else { Order::Hold });
        // By an operator's order, and only as long as neither the primary nor all of the others are back.
        let adopted = group.adopting.filter(|_| !all && !live.contains(&primary));
        if let Some(node) = adopted {
            if let Some(report) = stands(&node) {
                let upto = report.local.received();
                plan.orders.insert(node, Order::Detach { epoch, upto });
                if report.memory.detached == Some(epoch) && report.local.binlog_seq >= upto {
                    plan.entry = Some(Entry::Promoted { epoch, primary: node, base_seq: upto });
                }
            }
        } else if all {
            // The one that received most; a primary and a master on one node would die together.
            let rank = |node: &&NodeId| {
                let local = current.get(*node).map(|report| &report.local);
                let received = local.map_or(0, Local::received);
                let applied = local.map_or(0, |local| local.applied_seq);
                let wanted = Some(**node) == group.prefer;
                let room = local.map_or(Room::Enough, |local| local.room.max(Room::Low));
                (received, wanted, std::cmp::Reverse(room), applied, **node != me, std::cmp::Reverse(**node))
            };
            let Some((heir, report)) =
                frozen.iter().max_by_key(rank).and_then(|node| Some((*node, current.get(node)?)))
            else {
                return;
            };
            let upto = report.local.received();
            plan.orders.insert(heir, Order::Detach { epoch, upto });
            // Before another one opens, nobody reads the old rows at this one as if they were the newest.
            let ended = current.get(&primary).is_some_and(|old| !old.local.up);
            let closed = !live.contains(&primary) || ended || waited >= CLOSED_MS;
            if closed && report.memory.detached == Some(epoch) && report.local.binlog_seq == upto {
                plan.entry = Some(Entry::Promoted { epoch, primary: heir, base_seq: upto });
            }
        } else if let Some(report) = current.get(&primary)
            && (heirs.is_empty() || waited >= FREEZE_MS)
        {
            plan.entry = Some(Entry::Promoted { epoch, primary, base_seq: report.local.binlog_seq });
        }
    }

    /// A position that the primary had after a node was seen connected to it.
    fn reach(&mut self, node: NodeId, began: Option<(u64, u64)>, head: Option<&Report>) -> Option<Reach> {
        let Some(began) = began else {
            self.connected.remove(&node);
            return None;
        };
        let seen = self.connected.entry(node).or_insert((began, self.round));
        if seen.0 != began {
            *seen = (began, self.round);
        }
        let ((instance, follows), since) = *seen;
        let head = head.filter(|head| head.echo >= since)?;
        Some(Reach { instance, follows, seq: head.local.binlog_seq })
    }

    fn lead(
        &mut self,
        group: &Group,
        live: &BTreeSet<NodeId>,
        current: &BTreeMap<NodeId, &Report>,
        now_ms: i64,
        plan: &mut Plan,
    ) {
        let (epoch, primary) = (group.epoch, group.primary);
        self.steady = Some(epoch);
        let head = current.get(&primary).copied();
        if let Some(head) = head {
            self.pace.head(head.local.binlog_seq, now_ms);
        }
        let mut entries = Vec::new();
        let leads = |report: &Report| report.memory.leading == Some(epoch);
        let silent = head.is_some_and(|head| head.local.up && leads(head) && !head.local.writes);
        let silent = self.lasting(primary, "writes nothing", silent, now_ms) >= PROBE_MS;
        let closed = head.is_some_and(|head| !leads(head));
        let closed = self.lasting(primary, "does not open", closed, now_ms) >= OPEN_MS;
        let isolated = isolated::is(group, head, current);
        let isolated = self.lasting(primary, "nobody gets to it", isolated, now_ms) >= ISOLATED_MS;
        // Where all disks are full another primary would write no more than this one.
        let full = head.is_some_and(|head| head.local.room == Room::Full);
        let stuck = full && disk::roomier(group, current).next().is_none();
        // Without an heir it would be replaced by itself: all connections end, and it writes no sooner.
        let other = !group.heirs().is_empty() && !stuck;
        let (silent, closed) = (silent && other, closed && other);
        let roomier = head.filter(|head| leads(head)).and_then(|_| {
            let near = |seq| self.pace.lag_ms(seq, now_ms).is_some_and(|lag| lag <= NEAR_MS);
            disk::next_with_room(group, current, near)
        });
        let short = roomier.is_some();
        let short = self.lasting(primary, "is short of room", short, now_ms) >= GIVE_AWAY_MS;
        let dead = !live.contains(&primary) && !group.heirs().is_empty();
        // One that did not come up yet in this epoch is started by its supervisor.
        let fell = head.is_some_and(|head| !head.local.up && head.memory.fenced == Some(epoch));
        plan.why = match () {
            () if dead => "its node is dead",
            () if fell => "its server ended",
            () if silent && full => "its disk is full",
            () if silent => "it did not write",
            () if closed => "it did not open",
            () if isolated => "no other node gets to its database",
            () if short => "its disk is nearly full",
            () => "",
        };
        if !plan.why.is_empty() {
            // Who writes nothing cannot hand over.
            let prefer = roomier.filter(|_| short && !(dead || fell || silent || closed || isolated));
            entries.push(Entry::FailoverStart { epoch: epoch + 1, prefer });
        }
        let made = group.is_made();
        if !made && head.is_some_and(leads) {
            entries.push(Entry::Verified { epoch, node: primary });
        }
        let mut blocked = BTreeSet::new();
        let mut acknowledging = BTreeSet::new();
        let mut worst_ms = 0;
        let mut away = BTreeSet::new();
        for node in group.members.keys().copied().filter(|node| *node != primary) {
            let report = current.get(&node).copied();
            let local = report.map(|report| &report.local);
            let member = group.ack_set.contains(&node);
            let follows = local.filter(|local| local.up && local.connected && local.source == Some(primary));
            let began = report.filter(|_| follows.is_some());
            let began = began.map(|report| (report.local.instance, report.memory.follows));
            let reach = self.reach(node, began, head);
            let astray = local.is_some_and(|local| local.broken) && !member;
            let order = if astray && head.is_some_and(leads) {
                Order::Rebuild { primary }
            } else if astray {
                Order::Hold
            } else {
                let verify = group.members.get(&node).is_some_and(|member| !member.verified);
                Order::Follow { primary, acks: member, reach, verify }
            };
            plan.orders.insert(node, order);
            let good = follows.is_some_and(|local| local.sql && !local.broken);
            let lag_ms = local.and_then(|local| self.pace.lag_ms(local.applied_seq, now_ms));
            let near = lag_ms.is_some_and(|lag| lag <= NEAR_MS);
            if member {
                self.outside.remove(&node);
                let acks = good && report.is_some_and(|report| report.local.acks && report.memory.whole);
                if acks {
                    acknowledging.insert(node);
                    worst_ms = worst_ms.max(lag_ms.unwrap_or(0));
                }
                let far = lag_ms.is_some_and(|lag| lag > FAR_MS);
                if self.lasting(node, "acknowledges nothing", !acks, now_ms) >= SHRINK_MS || (acks && far) {
                    away.insert(node);
                }
            } else {
                let full = local.is_some_and(|local| local.room == Room::Full);
                if good && !full && group.ack_set.len() < 2 {
                    // Without a pause it might never catch up.
                    worst_ms = worst_ms.max(lag_ms.unwrap_or(FAR_MS));
                }
                // It begins anew when it comes back.
                self.lasting(node, "acknowledges nothing", false, now_ms);
                // Until it is known to acknowledge nothing it is kept away.
                let since = *self.outside.entry(node).or_insert(self.round);
                if report.is_none_or(|report| report.echo < since || report.local.acks) {
                    blocked.insert(node);
                }
                let verified = group.members.get(&node).is_some_and(|member| member.verified);
                if !verified && good && near && local.is_some_and(|local| local.same) {
                    entries.push(Entry::Verified { epoch, node });
                }
                // One at a time: two of three fit beside a primary.
                let room = if full { group.ack_set.is_empty() } else { group.ack_set.len() < 2 };
                if verified && good && near && room {
                    entries.push(Entry::Grow { epoch, node });
                }
            }
        }
        let alone = !group.ack_set.is_empty() && acknowledging.is_empty() && head.is_some();
        let patience = if group.members.len() <= 2 { ALONE_OF_TWO_MS } else { ALONE_MS };
        if self.lasting(primary, "nobody acknowledges", alone, now_ms) >= patience {
            entries.push(Entry::Single { epoch });
        }
        away.extend(self.away.iter().filter(|node| group.ack_set.contains(node)));
        self.shrinking.retain(|node| group.ack_set.contains(node));
        if acknowledging.is_subset(&away) {
            // Somebody slow is better than nobody.
            away.retain(|node| !acknowledging.contains(node));
        }
        if acknowledging.is_subset(&away) || group.ack_set.len() < 2 {
            away.clear();
        }
        self.away.clone_from(&away);
        away.extend(&self.shrinking);
        for node in away {
            blocked.insert(node);
            if head.is_some_and(|head| head.memory.dropped.contains(&node)) {
                entries.push(Entry::Shrink { epoch, node });
            }
        }
        let slow_ms = self.pace.slow_ms(worst_ms, now_ms);
        // Switched on and off by entries alone: what was planned before may be agreed on later.
        let sync = group.mode != Mode::Single;
        if !sync && !acknowledging.is_empty() {
            entries.push(Entry::Waits { epoch });
        }
        self.sync_since = if sync { self.sync_since.or(Some(self.round)) } else { None };
        let proved =
            head.zip(self.sync_since).is_some_and(|(head, since)| head.echo >= since && head.memory.synced);
        if group.mode == Mode::Waiting && !group.ack_set.is_empty() && proved {
            entries.push(Entry::Sync { epoch });
        }
        plan.orders.insert(primary, Order::Lead { epoch, sync, blocked, install: !made, slow_ms });
        plan.entry = entries.into_iter().next();
        if let Some(Entry::Shrink { node, .. }) = plan.entry {
            self.shrinking.insert(node);
        }
    }
}
