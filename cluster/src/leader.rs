//! What the leader decides: who is up, whose lease is over, who owns what, which moves begin, end or are given up.
//!
//! PURE: [`Leader::renewal`] and [`Leader::tick`] take the time, Raft's view and the replicated state, and return a
//! grant or one command to propose. The shell keeps at most one such command in flight.

mod time;
mod timing;

use crate::lease::{Grant, Granter, LeaseTimings, Renewal, Standing, VERSION};
use crate::plan::Knowledge;
use crate::profile::{Profile, Shown};
use crate::raft_node::RaftView;
use crate::state::{ClusterState, Command, Failover, NodeState};
use elpis_watch::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use time::ClusterTime;

/// Singleton jobs.
pub const JOBS: &[&str] = &["purge"];
/// Moves under way at once.
const MOVES: usize = 256;
/// Moves of shards with a load that balance, a second, while checks run; and the fewest for which they begin: each begin
/// and end is another map, which every server of every node reads.
const BALANCE_PER_S: i64 = 64;
const AT_ONCE: i64 = 32;
/// A node is unfit for so long before its shards move.
const UNFIT_MS: i64 = 3_000;
/// A skew above [`SKEW`] lasts so long before it is evened out.
const SKEW_MS: i64 = 60_000;
const SKEW: f32 = 1.10;
/// Nodes tell a new leader all loads with their first renewals: it balances nothing before that.
const LOADS_MS: i64 = 5_000;
/// A move that its owner does not acknowledge for so long is given up.
const MOVE_MS: i64 = 10_000;
/// An owner that is unfit has so long: then its session is ended, as if it had died.
const UNFIT_MOVE_MS: i64 = 4_000;
/// With nothing new it is planned again so often: limits of time run out, too.
const CALM_MS: i64 = 400;
/// One moment, as a node sees it.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    pub boot_ms: i64,
    /// This machine's wall clock.
    pub unix_ms: i64,
    pub view: &'a RaftView,
    pub state: &'a ClusterState,
}

/// What the leader remembers of a node in its term.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Its wall clock against our boot clock.
    offset_ms: Option<i64>,
    unfit_since: Option<i64>,
    unfit: String,
    /// When it last could hold virtual addresses.
    kept_addresses: Option<i64>,
    stored: (i64, u64),
    /// With which profile it runs.
    shown: Option<Shown>,
}

/// The leader's memory; empty in every new term.
#[derive(Clone, Debug)]
pub struct Leader {
    me: NodeId,
    /// With which Raft runs here.
    patience: Profile,
    timings: LeaseTimings,
    granter: Granter,
    term: u64,
    nodes: BTreeMap<NodeId, Known>,
    loads: BTreeMap<u16, f32>,
    /// Acknowledged releases: shard -> epoch of the move.
    acks: BTreeMap<u16, u64>,
    /// When each move under way was first seen: shard -> (epoch, time).
    moves: BTreeMap<u16, (u64, i64)>,
    /// This node is unfit and does not release its shards: another one has to lead and end its session.
    must_yield: bool,
    skew_since: Option<i64>,
    balancing: bool,
    /// Balancing moves that may begin, in thousandths.
    budget: i64,
    ticked: Option<i64>,
    /// Applied index and time of the last plan that wanted nothing; `None` = something came since.
    calm: Option<(u64, i64)>,
    /// Kept across terms.
    time: ClusterTime,
    /// When the last grant that this node took was asked for; kept across terms.
    heard_boot_ms: Option<i64>,
    /// The step of the profile, and since when this leader knows of it.
    step: Option<(u64, i64)>,
    /// Who was told to start anew last, and when.
    turn: Option<(NodeId, i64)>,
}

impl Leader {
    /// Of this node.
    #[must_use]
    pub fn new(me: NodeId, patience: Profile) -> Leader {
        let timings = LeaseTimings::of(patience);
        Leader {
            me,
            patience,
            timings,
            granter: Granter::new(timings),
            term: 0,
            nodes: BTreeMap::new(),
            loads: BTreeMap::new(),
            acks: BTreeMap::new(),
            moves: BTreeMap::new(),
            must_yield: false,
            skew_since: None,
            balancing: false,
            budget: 0,
            ticked: None,
            calm: None,
            time: ClusterTime::default(),
            heard_boot_ms: None,
            step: None,
            turn: None,
        }
    }

    /// What this node has from the leader's grants while it does not lead: cluster time, on which a new leader goes on,
    /// and when it asked for the last of them.
    pub fn follow(&mut self, offset_ms: i64, heard_boot_ms: Option<i64>) {
        self.time.follow(offset_ms);
        self.heard_boot_ms = heard_boot_ms;
    }

    /// Cluster time in Unix milliseconds; before it is known, this node's own clock.
    #[must_use]
    pub fn cluster_now_ms(&self, now: &Now<'_>) -> i64 {
        self.time.at(now.boot_ms).unwrap_or(now.unix_ms)
    }

    /// What was granted, for status.
    #[must_use]
    pub fn granter(&self) -> &Granter {
        &self.granter
    }

    /// Why a node says it cannot work; empty = it can.
    #[must_use]
    pub fn unfit(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("", |known| known.unfit.as_str())
    }

    /// Cluster time and map revision of the node's last stored result.
    #[must_use]
    pub fn stored(&self, node: NodeId) -> (i64, u64) {
        self.nodes.get(&node).map_or((0, 0), |known| known.stored)
    }

    /// Whether this leader should give its leadership away: its servers neither work nor release their shards, and
    /// nobody ends the session of a leader.
    #[must_use]
    pub fn must_yield(&self) -> bool {
        self.must_yield
    }

    fn in_term(&mut self, now: &Now<'_>) {
        if self.term != now.view.term {
            let (time, heard_boot_ms) = (self.time, self.heard_boot_ms);
            let fresh = Leader::new(self.me, self.patience);
            *self = Leader { term: now.view.term, time, heard_boot_ms, ..fresh };
            self.granter.in_term(self.term);
        }
        self.granter.claims(LeaseTimings::of(now.state.profile.claims(self.patience)));
    }

    /// Takes what a node tells and answers with a grant, or with why not. The leader's own renewals come here too:
    /// what they tell counts, their lease does not.
    pub fn renewal(&mut self, from: NodeId, renewal: &Renewal, now: &Now<'_>) -> Grant {
        self.in_term(now);
        let granted = match now.state.nodes.get(&from) {
            None => Err("this node is not a member"),
            Some(node) if node.state == NodeState::Removed => Err("this node was removed from the cluster"),
            Some(node) => {
                let standing = Standing { live: node.live(), session: node.session, up_index: node.up_index };
                self.learn(from, renewal, now);
                let renewed = self.granter.renew(from, renewal, standing, now.view, now.boot_ms);
                match self.time.at(now.boot_ms) {
                    Some(_) => renewed,
                    None => Err("the clocks of most voters are not known yet"),
                }
            }
        };
        let cluster_now_ms = self.time.at(now.boot_ms).unwrap_or(0);
        let term = now.view.term;
        match granted {
            Ok(()) => Grant {
                version: VERSION,
                term,
                leader: self.me,
                session: renewal.session,
                lease_ms: self.granter.lease_ms(),
                cluster_now_ms,
                refused: String::new(),
            },
            Err(why) => Grant {
                version: VERSION,
                term,
                leader: self.me,
                session: 0,
                lease_ms: 0,
                cluster_now_ms,
                refused: why.to_owned(),
            },
        }
    }

    fn learn(&mut self, from: NodeId, renewal: &Renewal, now: &Now<'_>) {
        let known = self.nodes.entry(from).or_default();
        known.offset_ms = Some(renewal.unix_ms - now.boot_ms);
        known.shown = renewal.shown;
        known.stored = known.stored.max((renewal.stored_ms, renewal.stored_revision));
        // What is told of loads and releases is planned with at once; how long a node is unfit, with the clock.
        if !(renewal.unfit == known.unfit && renewal.loads.is_empty() && renewal.released.is_empty()) {
            self.calm = None;
        }
        known.unfit_since =
            if renewal.unfit.is_empty() { None } else { known.unfit_since.or(Some(now.boot_ms)) };
        known.unfit = renewal.unfit.chars().take(200).collect();
        if renewal.keeps_addresses {
            if known.kept_addresses.is_none() {
                self.calm = None;
            }
            known.kept_addresses = Some(now.boot_ms);
        }
        for (shard, load) in &renewal.loads {
            let owned = now.state.shards.get(usize::from(*shard)).is_some_and(|shard| shard.owner == from);
            if owned && load.is_finite() {
                self.loads.insert(*shard, load.max(0.0));
            }
        }
        for (shard, epoch) in &renewal.released {
            let Some(held) = now.state.shards.get(usize::from(*shard)) else { continue };
            // Only its owner may say so, and only for the move that is under way.
            if held.owner == from && held.to.is_some() && held.named == *epoch {
                self.acks.insert(*shard, *epoch);
            }
        }
    }

    fn keep_time(&mut self, now: &Now<'_>, passed_ms: i64) {
        let mine = now.unix_ms - now.boot_ms;
        let clock = |id: &NodeId| if *id == self.me { Some(mine) } else { self.nodes.get(id)?.offset_ms };
        let clocks = now.view.voters.iter().filter_map(clock).collect();
        self.time.keep(clocks, now.view.voters.len(), now.boot_ms, passed_ms);
    }

    /// The next command to propose, if any. Call it every 50 ms or so, and not while the last one is in flight.
    pub fn tick(&mut self, now: &Now<'_>) -> Option<Command> {
        self.in_term(now);
        if self.granter.may_grant(now.view, now.boot_ms).is_err() {
            (self.ticked, self.calm) = (None, None);
            return None;
        }
        let passed = self.ticked.replace(now.boot_ms).map_or(0, |last| (now.boot_ms - last).clamp(0, 1000));
        self.keep_time(now, passed);
        self.budget = (self.budget + passed * BALANCE_PER_S).min(BALANCE_PER_S * 1000);
        let now_ms = self.time.at(now.boot_ms)?;
        let mut commands = self.ups(now);
        commands.extend(self.deaths(now, now_ms));
        commands.extend(self.profile(now));
        // What these bring about is what is planned on.
        let mut next = None;
        if !commands.is_empty() {
            let mut state = now.state.clone();
            let index = now.view.applied_index + 1;
            commands.retain(|command| state.apply(index, command).is_ok());
            next = Some(state);
        }
        let recent = self
            .calm
            .is_some_and(|(index, at)| index == now.view.applied_index && now.boot_ms - at < CALM_MS);
        if commands.is_empty() && recent {
            return None;
        }
        let state = next.as_ref().unwrap_or(now.state);
        let unfit = self
            .nodes
            .iter()
            .filter(|(_, known)| known.unfit_since.is_some_and(|since| now.boot_ms - since >= UNFIT_MS));
        let keepers = self
            .nodes
            .iter()
            .filter(|(_, known)| known.kept_addresses.is_some_and(|at| now.boot_ms - at < UNFIT_MS));
        let know = Knowledge {
            now_ms,
            unfit: unfit.map(|(id, _)| *id).collect(),
            keepers: keepers.map(|(id, _)| *id).collect(),
            loads: std::mem::take(&mut self.loads),
        };
        let orphans = know.orphans(state);
        let moved = orphans.len();
        if !orphans.is_empty() {
            commands.push(Command::Assign { shards: orphans });
        }
        self.timeline(&mut commands, now);
        commands.extend(self.end_moves(now));
        commands.extend(know.jobs(state, &state.job_names(JOBS)));
        if moved == 0 {
            commands.extend(self.begin_moves(&know, now));
        }
        self.loads = know.loads;
        let calm = commands.is_empty() && self.moves.is_empty() && !self.balancing;
        self.calm = calm.then_some((now.view.applied_index, now.boot_ms));
        match commands.len() {
            0 | 1 => commands.pop(),
            _ => Some(Command::Batch(commands)),
        }
    }

    fn ups(&self, now: &Now<'_>) -> Vec<Command> {
        let asks = |id: NodeId| {
            id == self.me
                || self.granter.silent_ms(id, now.boot_ms).is_some_and(|ms| ms <= 2 * self.timings.renew_ms)
        };
        now.state
            .members()
            .filter(|(id, node)| !node.live() && asks(*id))
            .map(|(id, node)| Command::NodeUp { node: id, session: node.session })
            .collect()
    }

    fn deaths(&mut self, now: &Now<'_>, now_ms: i64) -> Vec<Command> {
        let mut over = Vec::new();
        for (id, node) in now.state.members() {
            if id == self.me || !node.live() {
                continue;
            }
            self.granter.live(id, node.session, now.boot_ms);
            if !self.granter.over(id, now.view, now.boot_ms) {
                continue;
            }
            let unfit = self.unfit(id);
            let reason = match self.granter.silent_ms(id, now.boot_ms) {
                // It asks, but is given nothing any more.
                Some(ms) if ms < self.timings.lease_ms && self.granter.is_ending(id, node.session) => {
                    format!("it did not release its shards: {unfit}")
                }
                Some(ms) => format!("no renewal for {ms} ms"),
                None => "no renewal since this leader was elected".to_owned(),
            };
            self.granter.ending(id, node.session);
            over.push(Command::LeaseOver { node: id, session: node.session, at_ms: now_ms, reason });
        }
        self.granter.looked();
        over
    }

    /// A line of the failover timeline for each death among the commands.
    fn timeline(&self, commands: &mut Vec<Command>, now: &Now<'_>) {
        let lines: Vec<Command> = commands
            .iter()
            .filter_map(|command| {
                let Command::LeaseOver { node, at_ms, reason, .. } = command else { return None };
                let since = self.granter.silent_ms(*node, now.boot_ms);
                // The leader before was last heard as the one that granted.
                let heard = self.heard_boot_ms.filter(|_| now.view.predecessor == Some(*node));
                let begin = heard.or(now.view.elected_at_boot_ms).unwrap_or(now.boot_ms);
                Some(Command::FailoverSeen(Failover {
                    node: *node,
                    name: now.state.nodes.get(node).map(|node| node.name.clone()).unwrap_or_default(),
                    at_ms: *at_ms,
                    detected_ms: since.unwrap_or(now.boot_ms - begin),
                    moved: u32::try_from(now.state.owned(*node)).unwrap_or(u32::MAX),
                    reason: reason.clone(),
                    ..Failover::default()
                }))
            })
            .collect();
        commands.extend(lines);
    }

    /// Ends the moves that were acknowledged, gives up those that wait for too long. An unfit owner that does not
    /// release (a server of it is gone for good) gets no more grants: its shards move when its lease is over.
    fn end_moves(&mut self, now: &Now<'_>) -> Vec<Command> {
        let mut seen = BTreeMap::new();
        let (mut done, mut stuck) = (Vec::new(), Vec::new());
        self.must_yield = false;
        for going in now.state.moves() {
            let since = match self.moves.get(&going.shard) {
                Some((epoch, since)) if *epoch == going.epoch => *since,
                _ => now.boot_ms,
            };
            seen.insert(going.shard, (going.epoch, since));
            if self.acks.get(&going.shard) == Some(&going.epoch) {
                done.push((going.shard, going.epoch));
            } else if !self.unfit(going.from).is_empty() && now.boot_ms - since > UNFIT_MOVE_MS {
                match now.state.nodes.get(&going.from) {
                    _ if going.from == self.me => self.must_yield = true,
                    Some(node) => self.granter.ending(going.from, node.session),
                    None => {}
                }
            } else if now.boot_ms - since > MOVE_MS {
                stuck.push((going.shard, going.epoch));
            }
        }
        self.acks.retain(|shard, epoch| seen.get(shard).is_some_and(|(going, _)| going == epoch));
        self.moves = seen;
        let mut commands = Vec::new();
        if !done.is_empty() {
            commands.push(Command::CompleteMoves { shards: done });
        }
        if !stuck.is_empty() {
            let reason = format!("not released within {} s", MOVE_MS / 1000);
            commands.push(Command::AbortMoves { shards: stuck, reason });
        }
        commands
    }

    fn begin_moves(&mut self, know: &Knowledge, now: &Now<'_>) -> Option<Command> {
        let room = MOVES.saturating_sub(self.moves.len());
        let leaving = know.leaving(now.state, room);
        if !leaving.is_empty() {
            return Some(Command::Release { shards: leaving });
        }
        // Without a database nothing runs, and a move costs nothing; nor does it while the first leader of all, which
        // has heard whatever was told, has heard of no load.
        let first = now.view.term <= 1;
        let idle = now.state.database.as_ref().is_none_or(|database| !database.ready)
            || (first && know.loads.is_empty());
        let known = first || now.view.elected_at_boot_ms.is_some_and(|at| now.boot_ms - at >= LOADS_MS);
        if !self.moves.is_empty() || !(idle || known) {
            return None;
        }
        let (skew, newcomer) = know.skew(now.state);
        self.skew_since = if skew > SKEW { self.skew_since.or(Some(now.boot_ms)) } else { None };
        let lasting = self.skew_since.is_some_and(|since| now.boot_ms - since >= SKEW_MS);
        self.balancing = (self.balancing || newcomer || lasting) && skew > 1.0;
        if !self.balancing {
            return None;
        }
        // Not planned at every tick, either: a plan looks at all shards.
        if !idle && self.budget < AT_ONCE * 1000 {
            return None;
        }
        let mut moves = know.balance(now.state, 4096);
        if moves.is_empty() {
            self.balancing = false;
            return None;
        }
        if !idle {
            let mut left = self.budget / 1000;
            // Nobody waits for a shard that nothing is measured on.
            let loaded = |shard: &u16| know.loads.get(shard).is_some_and(|load| *load > 0.0);
            moves.retain(|(shard, _)| {
                let free = !loaded(shard);
                left -= i64::from(!free);
                free || left >= 0
            });
            moves.truncate(room);
            let moved = moves.iter().filter(|(shard, _)| loaded(shard)).count();
            self.budget -= i64::try_from(moved).unwrap_or(0) * 1000;
        }
        (!moves.is_empty()).then_some(Command::Release { shards: moves })
    }

    /// Nodes whose lease still runs by this leader's grants.
    #[must_use]
    pub fn holders(&self, now: &Now<'_>) -> BTreeSet<NodeId> {
        let mut holders: BTreeSet<NodeId> = now
            .state
            .members()
            .filter(|(id, _)| self.granter.left_ms(*id, now.boot_ms).is_some_and(|left| left > 0))
            .map(|(id, _)| id)
            .collect();
        if self.granter.may_grant(now.view, now.boot_ms).is_ok() {
            holders.insert(self.me);
        }
        holders
    }
}

#[cfg(test)]
mod tests;
