//! What the master orders while a rollout goes on, and what stands against one. PURE.

use super::rollout::{Entry, Image, Rollout, Step, Turn};
use crate::database;
use crate::state::{ClusterState, Command, Node};
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const MINUTE_MS: i64 = 60_000;
/// A node is watched for so long, unless somebody wants another time: the cluster has to be well without a break.
pub const WATCH_MS: i64 = MINUTE_MS;
/// All nodes have so long to take the image.
const TAKE_MS: i64 = 30 * MINUTE_MS;
/// The first turn waits so much longer for a cluster that can lose a node.
const CALM_MS: i64 = 15 * MINUTE_MS;
const WRITE_MS: i64 = 20 * MINUTE_MS;
const DRAIN_MS: i64 = 10 * MINUTE_MS;
/// Three starts that hang until their trial is over, and the old version again.
const RESTART_MS: i64 = 60 * MINUTE_MS;
const SETTLE_MS: i64 = 15 * MINUTE_MS;
/// The primary is moved again when it came back for so long.
const SWITCH_MS: i64 = 30_000;
/// Room on the disk beside the image.
const ROOM: u64 = 64 << 20;
/// What a turn takes, about: writing, two starts of services, and the time in which it is watched.
const TURN_S: u64 = 120;

/// What a node tells of its versions, with its renewals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The version that runs.
    pub runs: String,
    /// That has shown that it works.
    pub kept: bool,
    /// SHA-256 of the image that it holds, whole and signed; empty = none.
    pub holds: String,
    /// The version of that image.
    pub version: String,
    pub bytes: u64,
    /// The version that the next start runs.
    pub written: String,
    /// What it does with an image now, for people.
    pub doing: String,
    /// Why it could not do what was ordered last; empty = it could, or goes on.
    pub failed: String,
    /// A newer version that did not work: this start runs the older one again.
    pub fell_back: String,
    /// Why this machine cannot be updated; empty = it can.
    pub refuses: String,
    /// Free where images are kept.
    pub room_bytes: u64,
}

/// What a node is to do with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    Take,
    Write,
    Restart,
}

/// An order to a node. It is repeated until it is obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub image: Image,
    /// The node that it takes the image from.
    pub holder: NodeId,
    pub act: Act,
    /// Which rollout: what failed in an older one says nothing.
    pub begun_ms: i64,
}

/// One moment, as the master sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub state: &'a ClusterState,
    pub seen: &'a BTreeMap<NodeId, Seen>,
    /// The master itself.
    pub me: NodeId,
    /// So many nodes may be lost, and why not more.
    pub can_lose: usize,
    pub reason: &'a str,
    /// Cluster time, Unix milliseconds.
    pub now_ms: i64,
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    pub orders: BTreeMap<NodeId, Order>,
    pub command: Option<Command>,
}

/// Who would be updated, in order: followers first, the database's primary after them, the master last.
#[must_use]
pub fn turns(sight: &Sight<'_>, image: &Image) -> Vec<Turn> {
    let primary = sight.state.group.as_ref().map(|group| group.primary);
    let mut turns: Vec<Turn> = sight
        .state
        .members()
        .filter_map(|(node, member)| {
            let from = sight.seen.get(&node).map(|seen| seen.runs.clone()).unwrap_or_default();
            (from != image.version).then_some(Turn {
                node,
                from,
                drained: member.draining,
                step: Step::Waits,
                since_ms: sight.now_ms,
            })
        })
        .collect();
    turns.sort_by_key(|turn| (turn.node == sight.me, Some(turn.node) == primary, turn.node));
    turns
}

/// About how long these turns take, in seconds.
#[must_use]
pub fn seconds(turns: usize, watch_ms: i64) -> u64 {
    let turn = TURN_S + u64::try_from(watch_ms / 1_000).unwrap_or(0);
    turn.saturating_mul(u64::try_from(turns).unwrap_or(u64::MAX))
}

/// All that stands against a rollout now; empty = nothing.
#[must_use]
pub fn against(sight: &Sight<'_>, image: &Image, with_pause: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(going) = sight.state.rollout.as_ref().filter(|rollout| rollout.goes_on()) {
        reasons.push(format!("an update to {} goes on", going.image.version));
    }
    for (id, node) in sight.state.members() {
        let name = &node.name;
        if !node.live() {
            reasons.push(format!("{name} is down: start it, or remove it from the cluster"));
            continue;
        }
        let Some(seen) = sight.seen.get(&id) else {
            reasons.push(format!("{name} does not say which version it runs: is it an appliance?"));
            continue;
        };
        // Also one that runs the image's version: while it is on trial it may start anew by itself beside another.
        if seen.refuses.is_empty() && !seen.kept {
            reasons.push(format!(
                "{name} runs {}, which has not shown yet that it works: wait some minutes",
                seen.runs
            ));
        }
        if seen.runs == image.version {
            continue;
        }
        if !seen.refuses.is_empty() {
            reasons.push(format!("{name}: {}", seen.refuses));
        }
        if seen.holds != image.sha256 && seen.room_bytes < image.bytes + ROOM {
            let (has, needs) = (seen.room_bytes >> 20, (image.bytes + ROOM) >> 20);
            reasons.push(format!("{name} has {has} MiB of room for the image, {needs} are needed"));
        }
    }
    if turns(sight, image).is_empty() {
        reasons.push(format!("all nodes run {} already", image.version));
    } else if sight.can_lose == 0 && !with_pause {
        reasons.push(format!(
            "the cluster cannot lose a node now ({}), so monitoring would pause while one starts anew; `--with-pause` \
             allows that",
            sight.reason
        ));
    }
    reasons
}

/// The master's memory of a rollout; empty in every new term.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    /// Since when the cluster has been well while a node is watched, or has not been.
    well_since: Option<i64>,
    unwell_since: Option<i64>,
    switched: Option<i64>,
}

impl Planner {
    /// Looks at everything. Call it every second or so.
    pub fn next(&mut self, sight: &Sight<'_>) -> Next {
        let Some(rollout) = sight.state.rollout.as_ref().filter(|rollout| rollout.goes_on()) else {
            *self = Planner::default();
            return Next::default();
        };
        let mut next = Next::default();
        let at_ms = sight.now_ms;
        let Some(turn) = rollout.current() else {
            next.command = Some(Command::Update(Entry::End { at_ms }));
            return next;
        };
        let done = self.turn(sight, rollout, turn, &mut next);
        next.command = match done {
            Err(why) => Some(stop(sight, Some(turn), why)),
            Ok(command) => command,
        };
        next
    }

    /// One look at the node in turn: what is written down, or why it all stops.
    fn turn(
        &mut self,
        sight: &Sight<'_>,
        rollout: &Rollout,
        turn: &Turn,
        next: &mut Next,
    ) -> Result<Option<Command>, String> {
        let (id, version) = (turn.node, &rollout.image.version);
        let member = sight.state.members().find(|(member, _)| *member == id).map(|(_, node)| node);
        let node = member.ok_or_else(|| format!("node {id} is no member any more"))?;
        let name = &node.name;
        let seen = sight.seen.get(&id).cloned().unwrap_or_default();
        let well =
            sight.can_lose > 0 || (rollout.with_pause && sight.state.members().all(|(_, node)| node.live()));
        let (runs_new, at_ms) = (seen.runs == *version, sight.now_ms);
        let waited = at_ms - turn.since_ms;
        let in_time = |limit: i64, what: &str| match waited > limit {
            true => Err(format!("{name} {what} for {} minutes", limit / MINUTE_MS)),
            false => Ok(()),
        };
        let go = |step| Command::Update(Entry::Go { node: id, step, at_ms });
        let order = |act| Order {
            image: rollout.image.clone(),
            holder: rollout.holder,
            act,
            begun_ms: rollout.begun_ms,
        };
        match turn.step {
            Step::Waits => {
                if !self.taken(sight, rollout, next)? {
                    return Ok(None);
                }
                // This wait begins with the end of the turn before, or of taking.
                if !well && at_ms - rollout.moved_ms() > TAKE_MS + CALM_MS {
                    return Err(format!("the cluster cannot lose a node: {}", sight.reason));
                }
                Ok(well.then(|| go(Step::Writes)))
            }
            Step::Writes => {
                if runs_new || seen.written == *version {
                    // One that nobody can stand in for is not drained.
                    let helped = takers(sight.state, id).next().is_some();
                    let drain = helped && !node.draining;
                    let drain = drain.then_some(Command::Drain { node: id });
                    return Ok(Some(batch(drain.into_iter().chain([go(Step::Drains)]))));
                }
                if !seen.failed.is_empty() {
                    return Err(format!("{name} cannot write the image: {}", seen.failed));
                }
                in_time(WRITE_MS, "has been writing the image")?;
                next.orders.insert(id, order(Act::Write));
                Ok(None)
            }
            Step::Drains => {
                if let Some(why) = self.holds_still(sight, rollout, id) {
                    in_time(DRAIN_MS, &why)?;
                    return Ok(self.switch(sight, id));
                }
                // Much may have happened since its turn began, and the primary that was moved needs a second copy first.
                if !well {
                    in_time(
                        DRAIN_MS,
                        &format!("cannot start anew: the cluster cannot lose it ({})", sight.reason),
                    )?;
                    return Ok(None);
                }
                Ok(Some(go(Step::Restarts)))
            }
            Step::Restarts => {
                if node.live() && runs_new && seen.kept {
                    (self.well_since, self.unwell_since) = (None, None);
                    let undrain = (node.draining && !turn.drained).then_some(Command::Undrain { node: id });
                    return Ok(Some(batch(undrain.into_iter().chain([go(Step::Settles)]))));
                }
                if !runs_new && !seen.fell_back.is_empty() {
                    return Err(format!("{version} did not work on {name}, which runs {} again", seen.runs));
                }
                if !runs_new && !seen.failed.is_empty() {
                    return Err(format!("{name} cannot start anew: {}", seen.failed));
                }
                in_time(RESTART_MS, "has not come back with the new version")?;
                if well && node.live() && !runs_new && seen.written == *version {
                    next.orders.insert(id, order(Act::Restart));
                }
                Ok(None)
            }
            Step::Settles => {
                let back = node.live() && runs_new;
                let why = match back {
                    false => Some(format!("is not back with {version}")),
                    true if !well => Some(format!("works, but the cluster is not well ({})", sight.reason)),
                    true if !copied(sight.state, id) => {
                        Some("works, but its copy of the database is not back".to_owned())
                    }
                    true => None,
                };
                if let Some(why) = why {
                    self.well_since = None;
                    let since = *self.unwell_since.get_or_insert(at_ms);
                    return match at_ms - since > SETTLE_MS {
                        true => Err(format!("{name} {why} for {} minutes", SETTLE_MS / MINUTE_MS)),
                        false => Ok(None),
                    };
                }
                self.unwell_since = None;
                let since = *self.well_since.get_or_insert(at_ms);
                Ok((at_ms - since >= rollout.watch_ms).then(|| go(Step::Done)))
            }
            Step::Done => Ok(None),
        }
    }

    /// Whether everybody holds the image; nothing else begins before.
    fn taken(&self, sight: &Sight<'_>, rollout: &Rollout, next: &mut Next) -> Result<bool, String> {
        let mut missing = None;
        for turn in rollout.turns.iter().filter(|turn| turn.step == Step::Waits) {
            let name = name_of(sight.state, turn.node);
            let seen = sight.seen.get(&turn.node);
            if seen.is_some_and(|seen| seen.holds == rollout.image.sha256) {
                continue;
            }
            if let Some(seen) = seen.filter(|seen| !seen.failed.is_empty()) {
                return Err(format!("{name} cannot take the image: {}", seen.failed));
            }
            next.orders.insert(
                turn.node,
                Order {
                    image: rollout.image.clone(),
                    holder: rollout.holder,
                    act: Act::Take,
                    begun_ms: rollout.begun_ms,
                },
            );
            missing.get_or_insert(name);
        }
        // Of the beginning, or the end of the turn before.
        match missing {
            Some(name) if sight.now_ms - rollout.moved_ms() > TAKE_MS => {
                Err(format!("{name} has not taken the image for {} minutes", TAKE_MS / MINUTE_MS))
            }
            missing => Ok(missing.is_none()),
        }
    }

    /// What the node still has, in words; `None` = it may start anew.
    fn holds_still(&self, sight: &Sight<'_>, rollout: &Rollout, id: NodeId) -> Option<String> {
        let state = sight.state;
        takers(state, id).next()?;
        let leads = sight.me == id;
        let group = state.group.as_ref();
        let primary = group.is_some_and(|group| group.primary == id || group.failing_over);
        // Where nobody holds every commit the primary stays, and writing pauses with it.
        let stays =
            rollout.with_pause && group.is_some_and(|group| heir(state, id).is_none() && !group.failing_over);
        if state.shards.iter().any(|shard| shard.owner == id || shard.to == Some(id)) {
            return Some("has kept some of its shards".to_owned());
        }
        if state.jobs.values().any(|job| job.node == id) {
            return Some("has kept a job".to_owned());
        }
        if primary && !stays {
            return Some("has kept the database's primary".to_owned());
        }
        leads.then(|| "has stayed the master".to_owned())
    }

    /// Moves the primary away from the node, when it is there.
    fn switch(&mut self, sight: &Sight<'_>, id: NodeId) -> Option<Command> {
        let group = sight.state.group.as_ref()?;
        if group.primary != id || group.failing_over {
            return None;
        }
        // First the work, then the database.
        let busy = sight.state.shards.iter().any(|shard| shard.owner == id);
        if busy || self.switched.is_some_and(|at| sight.now_ms - at < SWITCH_MS) {
            return None;
        }
        let to = heir(sight.state, id)?;
        self.switched = Some(sight.now_ms);
        let entry = database::Entry::FailoverStart { epoch: group.epoch + 1, prefer: Some(to) };
        Some(Command::Database(entry))
    }
}

/// Ends a rollout that goes on, and gives the node in turn its work back.
#[must_use]
pub(crate) fn stop(sight: &Sight<'_>, turn: Option<&Turn>, why: String) -> Command {
    let undrain = turn.filter(|turn| turn.step > Step::Writes && !turn.drained);
    // One that was removed meanwhile has none to get.
    let drains = |turn: &&Turn| sight.state.members().any(|(id, node)| id == turn.node && node.draining);
    let undrain = undrain.filter(drains);
    let undrain = undrain.map(|turn| Command::Undrain { node: turn.node });
    let stop = Command::Update(Entry::Stop { why, at_ms: sight.now_ms });
    batch(undrain.into_iter().chain([stop]))
}

/// One command as itself: batches do not nest.
fn batch(commands: impl IntoIterator<Item = Command>) -> Command {
    let mut commands: Vec<Command> = commands.into_iter().collect();
    match commands.len() {
        1 => commands.remove(0),
        _ => Command::Batch(commands),
    }
}

/// Who could take the node's work.
fn takers(state: &ClusterState, id: NodeId) -> impl Iterator<Item = (NodeId, &Node)> {
    state.members().filter(move |(other, node)| *other != id && node.live() && !node.draining)
}

/// Whether the node's copy of the database counts again: the next one's may be needed.
fn copied(state: &ClusterState, id: NodeId) -> bool {
    state.group.as_ref().is_none_or(|group| {
        let counts = |node| group.primary == node || group.ack_set.contains(&node);
        // Beyond a primary and two others, nobody has to.
        counts(id) || group.ack_set.len() >= 2 || !group.members.contains_key(&id)
    })
}

/// Who could be the database's primary in its place.
fn heir(state: &ClusterState, id: NodeId) -> Option<NodeId> {
    let heirs: BTreeSet<NodeId> = state.group.as_ref()?.heirs().into_iter().collect();
    takers(state, id).map(|(other, _)| other).find(|other| heirs.contains(other))
}

fn name_of(state: &ClusterState, id: NodeId) -> String {
    state.nodes.get(&id).map_or_else(|| format!("node {id}"), |node| node.name.clone())
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
