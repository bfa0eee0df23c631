//! What must hold at every step.

use crate::SimConfig;
use crate::node;
use crate::rt::virtual_ms;
use crate::world::{HOSTS, World};
use elpis_cluster::state::{ClusterState, Command};
use elpis_watch::NodeId;
use openraft::EntryPayload;
use openraft::type_config::alias::EntryOf;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Shards as a set.
pub(crate) type ShardSet = [u64; 64];

/// A set of these shards.
pub(crate) fn shard_set(shards: impl Iterator<Item = u16>) -> ShardSet {
    let mut set = [0u64; 64];
    for shard in shards {
        set[usize::from(shard / 64) % 64] |= 1 << (shard % 64);
    }
    set
}

/// The right to act of one server, as it sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Right {
    pub(crate) node: NodeId,
    /// By its host's boot clock.
    pub(crate) until_boot_ms: i64,
    pub(crate) shards: ShardSet,
}

#[derive(Default)]
pub(crate) struct Check {
    log: Vec<EntryOf<SimConfig>>,
    /// Reference states after the last entries.
    states: VecDeque<(u64, Arc<ClusterState>)>,
    leaders: BTreeSet<(u64, NodeId)>,
    acked: BTreeMap<u64, u64>,
    /// Term and entry since which shards belong to the dead although somebody lives.
    orphans_since: Option<(u64, u64)>,
    /// Last epoch and node that acted on a shard.
    acts: BTreeMap<u16, (u64, NodeId)>,
    pub(crate) rights: [Option<Right>; HOSTS],
    pub(crate) acted: u64,
    pub(crate) moved: u64,
    pub(crate) deaths: u64,
    pub(crate) profiles: u64,
    pub(crate) anew: u64,
}

const KEPT: usize = 256;
/// Cluster time may be off by so much: clocks that agree differ by at most half of it.
const OFF_MS: i64 = 15_000;
/// After a majority with right clocks is back.
const UNSURE_MS: u64 = 20_000;
/// Clients write ten entries in a second; a leader looks twenty times.
const ORPHANED_ENTRIES: u64 = 20;

impl Check {
    pub(crate) fn last_index(&self) -> u64 {
        self.log.len() as u64
    }

    pub(crate) fn state_at(&self, index: u64) -> Option<&Arc<ClusterState>> {
        self.states.iter().rev().find(|(at, _)| *at == index).map(|(_, state)| state)
    }

    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }
}

impl World {
    /// A node applies an entry: the same as every other node, and by the invariants.
    pub(crate) fn entry(&mut self, host: usize, entry: &EntryOf<SimConfig>) {
        let index = entry.log_id.index;
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(known) = self.check.log.get(at) {
            if known != entry {
                let what =
                    format!("host {host} applies another entry at {index}: {entry:?} instead of {known:?}");
                self.violation(what);
            }
            return;
        }
        if at != self.check.log.len() {
            self.violation(format!("host {host} applies entry {index} after {}", self.check.log.len()));
            return;
        }
        self.note(|| format!("entry {index} of term {}: {}", entry.log_id.leader_id.term, entry.payload));
        self.check.log.push(entry.clone());
        let before = self.check.states.back().map(|(_, state)| Arc::clone(state)).unwrap_or_default();
        let mut after = before.clone();
        if let EntryPayload::Normal(proposal) = &entry.payload {
            let done = Arc::make_mut(&mut after).apply(index, &proposal.0);
            if !before.shards.shared(&after.shards) {
                for wrong in transition(&before, &after) {
                    self.violation(format!("entry {index} ({}): {wrong}", proposal.0));
                }
                self.check.moved += changed(&before, &after) as u64;
            }
            self.check.profiles += u64::from(before.profile != after.profile);
            self.check.deaths += u64::from(deaths(&proposal.0) && done.is_ok());
        }
        self.orphans(entry.log_id.leader_id.term, index, &after);
        self.check.states.push_back((index, after));
        if self.check.states.len() > KEPT {
            self.check.states.pop_front();
        }
    }

    /// The dead keep nothing. Not at once: a leader whose last command was late plans on the state before it.
    fn orphans(&mut self, term: u64, index: u64, state: &ClusterState) {
        let some = state.nodes.values().any(elpis_cluster::state::Node::live)
            && state.shards.iter().any(|shard| shard.owner != 0 && !state.live(shard.owner));
        let since = self.check.orphans_since.filter(|(of, _)| some && *of == term).unwrap_or((term, index));
        self.check.orphans_since = some.then_some(since);
        if some && index - since.1 == ORPHANED_ENTRIES {
            self.violation(format!("shards of the dead have no new owner since entry {}", since.1));
        }
    }

    /// A node has applied entries up to here, or a snapshot of them.
    pub(crate) fn applied(&mut self, host: usize, index: u64, state: &ClusterState) {
        if let Some(reference) = self.check.state_at(index)
            && **reference != *state
        {
            self.violation(format!("host {host} has another state after entry {index}"));
        }
    }

    /// openraft lets two lead one term, the later with the higher id, so this alone is no violation.
    pub(crate) fn leads(&mut self, node: NodeId, term: u64) {
        self.check.leaders.insert((term, node));
        self.note(|| format!("node {node} leads term {term}"));
    }

    /// A client's command was acknowledged at this index in this term.
    pub(crate) fn acknowledged(&mut self, index: u64, term: u64) {
        self.check.acked.insert(index, term);
    }

    /// A server works on a shard now.
    pub(crate) fn acts(&mut self, node: NodeId, shard: u16, epoch: u64) {
        self.check.acted += 1;
        let (last, who) = self.check.acts.get(&shard).copied().unwrap_or_default();
        if (epoch < last || (epoch == last && who != node)) && !self.clocks_stood() {
            self.violation(format!(
                "node {node} works on shard {shard} in epoch {epoch} after node {who} did in epoch {last}"
            ));
        }
        if epoch >= last {
            self.check.acts.insert(shard, (epoch, node));
        }
    }

    /// A server works by this time: right to the seconds as long as a majority of the voters has right clocks and runs.
    pub(crate) fn works_at(&mut self, node: NodeId, unix_ms: i64) {
        let off = unix_ms - self.unix_ms(0);
        if off.abs() > OFF_MS && virtual_ms() >= self.unsure_until_ms && !self.clocks_stood() {
            self.violation(format!("node {node} works by a time that is {off} ms off"));
        }
    }

    fn clocks_stood(&self) -> bool {
        virtual_ms() < self.frozen_until_ms
    }

    /// No two servers may have the right to act on one shard.
    pub(crate) fn scan(&mut self) {
        let unheard = |host: &&usize| self.wall_is_wrong(**host) || !node::host(**host, |host| host.up);
        if self.voters.iter().filter(unheard).count() * 2 >= self.voters.len() {
            self.unsure_until_ms = virtual_ms() + UNSURE_MS;
        }
        if self.clocks_stood() {
            return;
        }
        let live: Vec<&Right> = self.live_rights().collect();
        let mut wrong = Vec::new();
        for (at, a) in live.iter().enumerate() {
            for b in &live[at + 1..] {
                let both = a.shards.iter().zip(&b.shards).map(|(a, b)| (a & b).count_ones()).sum::<u32>();
                if both > 0 {
                    wrong.push(format!("nodes {} and {} may both act on {both} shards", a.node, b.node));
                }
            }
        }
        for one in wrong {
            self.violation(one);
        }
    }

    /// A leader claims by a profile for which a member has no patience.
    pub(crate) fn breaks_claim(&mut self, node: NodeId, claim: &str, least: &str) {
        if !self.clocks_stood() {
            self.violation(format!(
                "node {node} claims by {claim} while a member has the patience of {least}"
            ));
        }
    }

    /// Rights that are valid now by their hosts' clocks.
    fn live_rights(&self) -> impl Iterator<Item = &Right> {
        (1..HOSTS).filter_map(|host| {
            let right = self.check.rights[host].as_ref()?;
            (self.boot_ms(host) < right.until_boot_ms).then_some(right)
        })
    }

    /// Shards whose owner has the right to act.
    pub(crate) fn covered(&self) -> u32 {
        let mut all = [0u64; 64];
        for right in self.live_rights() {
            for (all, own) in all.iter_mut().zip(&right.shards) {
                *all |= own;
            }
        }
        all.iter().map(|part| part.count_ones()).sum()
    }

    /// Nothing that was acknowledged is missing from what was applied.
    pub(crate) fn nothing_lost(&mut self) {
        let lost: Vec<u64> = self
            .check
            .acked
            .iter()
            .filter(|(index, term)| {
                let at = usize::try_from(**index).unwrap_or(usize::MAX);
                self.check.log.get(at).is_none_or(|entry| entry.log_id.leader_id.term != **term)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in lost {
            self.violation(format!("the acknowledged entry {index} is lost"));
        }
    }
}

fn deaths(command: &Command) -> bool {
    match command {
        Command::LeaseOver { .. } => true,
        Command::Batch(commands) => commands.iter().any(deaths),
        _ => false,
    }
}

fn changed(before: &ClusterState, after: &ClusterState) -> usize {
    before.shards.iter().zip(after.shards.iter()).filter(|(a, b)| a.owner != b.owner && a.owner != 0).count()
}

/// I1 and I5: what one entry may change of the shards.
fn transition(before: &ClusterState, after: &ClusterState) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((old, new), shard) in before.shards.iter().zip(after.shards.iter()).zip(0u16..) {
        if old == new {
            continue;
        }
        if new.named < old.named || new.epoch < old.epoch || new.epoch > new.named {
            wrong.push(format!("shard {shard}: an epoch went back: {old:?} to {new:?}"));
        }
        let same = new.owner == old.owner;
        if !same && new.epoch <= old.epoch {
            wrong.push(format!("shard {shard}: a new owner without a new epoch: {old:?} to {new:?}"));
        }
        // In one entry a node may die and come back; then its session says so.
        let died = |id: NodeId| {
            !after.live(id)
                || !before.live(id)
                || before.nodes.get(&id).map(|node| node.session)
                    != after.nodes.get(&id).map(|node| node.session)
        };
        let completed = old.to == Some(new.owner) && new.epoch == old.named;
        if !same && !completed && !died(old.owner) {
            wrong.push(format!("shard {shard}: taken from a living owner: {old:?} to {new:?}"));
        }
        let taken_back = same && old.to.is_some() && new.to.is_none() && new.epoch == old.epoch;
        if taken_back && !died(old.owner) {
            wrong.push(format!("shard {shard}: a release was taken back: {old:?} to {new:?}"));
        }
    }
    wrong.truncate(3);
    wrong
}
