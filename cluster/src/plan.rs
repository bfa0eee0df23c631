//! Who should own which shard: sticky, least-loaded, with bounds.
//!
//! PURE: a plan is computed from the replicated state and what the leader knows of loads and fitness; it is a *diff*,
//! so a plan made on an older state does no harm (every entry is checked again when it is applied).

use crate::state::{ClusterState, Command, NodeState, Shard};
use elpis_watch::{ADDRESS_JOB, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Load of a shard without checks: so that empty shards are spread by count.
const BASE: f32 = 0.01;
/// Balanced: the fullest node has at most this share of the mean.
const CALM: f32 = 1.05;

/// What the leader knows beside the replicated state.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Cluster time, Unix milliseconds (hold-down counts with it).
    pub now_ms: i64,
    /// Checks a second by shard.
    pub loads: BTreeMap<u16, f32>,
    /// Nodes that said for long enough that they cannot work.
    pub unfit: BTreeSet<NodeId>,
    /// Nodes that can hold virtual addresses.
    pub keepers: BTreeSet<NodeId>,
}

impl Knowledge {
    fn weight(&self, shard: u16) -> f32 {
        BASE + self.loads.get(&shard).copied().unwrap_or(0.0).max(0.0)
    }

    /// Nodes that may get shards, best class first available: fit and welcome; at least not draining; at least live.
    fn targets(&self, state: &ClusterState) -> Vec<NodeId> {
        let class = |test: &dyn Fn(NodeId, &crate::state::Node) -> bool| -> Vec<NodeId> {
            state.members().filter(|(id, node)| node.live() && test(*id, node)).map(|(id, _)| id).collect()
        };
        let welcome =
            class(&|id, node| !node.draining && !node.hold.holds(self.now_ms) && !self.unfit.contains(&id));
        if !welcome.is_empty() {
            return welcome;
        }
        let staying = class(&|_, node| !node.draining);
        if staying.is_empty() { class(&|_, _| true) } else { staying }
    }

    /// Load of each node by the shards it owns or will own.
    fn node_loads(&self, state: &ClusterState, nodes: &[NodeId]) -> BTreeMap<NodeId, f32> {
        let mut loads = vec![0.0; nodes.len()];
        for (shard, number) in state.shards.iter().zip(0u16..) {
            if let Some(load) = place(nodes, shard.to.unwrap_or(shard.owner)).and_then(|at| loads.get_mut(at))
            {
                *load += self.weight(number);
            }
        }
        nodes.iter().copied().zip(loads).collect()
    }

    /// How uneven it is: load of the fullest target by the mean of all targets, and whether one has less than half of
    /// the mean (a node that just came).
    #[must_use]
    pub fn skew(&self, state: &ClusterState) -> (f32, bool) {
        let targets = self.targets(state);
        let loads = self.node_loads(state, &targets);
        let total: f32 = loads.values().sum();
        #[allow(clippy::cast_precision_loss)] // at most 64 nodes
        let mean = total / targets.len().max(1) as f32;
        if mean <= 0.0 {
            return (1.0, false);
        }
        let most = loads.values().copied().fold(0.0, f32::max);
        let least = loads.values().copied().fold(f32::INFINITY, f32::min);
        (most / mean, least < mean / 2.0)
    }

    /// Owners for the shards that have none that lives.
    #[must_use]
    pub fn orphans(&self, state: &ClusterState) -> Vec<(u16, NodeId)> {
        let live: Vec<NodeId> =
            state.nodes.iter().filter(|(_, node)| node.live()).map(|(id, _)| *id).collect();
        let mut orphans: Vec<u16> = (0u16..)
            .zip(state.shards.iter())
            .filter(|(_, shard)| place(&live, shard.owner).is_none())
            .map(|(number, _)| number)
            .collect();
        if orphans.is_empty() {
            return Vec::new();
        }
        let targets = self.targets(state);
        let mut loads = self.node_loads(state, &targets);
        orphans.sort_by(|a, b| self.weight(*b).total_cmp(&self.weight(*a)).then(a.cmp(b)));
        orphans.into_iter().filter_map(|shard| Some((shard, self.take(shard, &mut loads)?))).collect()
    }

    /// Gives the shard to the emptiest node, ties by a hash so that every leader decides alike.
    fn take(&self, shard: u16, loads: &mut BTreeMap<NodeId, f32>) -> Option<NodeId> {
        let (node, load) = loads
            .iter_mut()
            .min_by(|a, b| a.1.total_cmp(b.1).then_with(|| mix(shard, *a.0).cmp(&mix(shard, *b.0))))?;
        *load += self.weight(shard);
        Some(*node)
    }

    /// Moves away from nodes that drain or cannot work, at most `budget`.
    #[must_use]
    pub fn leaving(&self, state: &ClusterState, budget: usize) -> Vec<(u16, NodeId)> {
        let from: Vec<NodeId> = state
            .nodes
            .iter()
            .filter(|(id, node)| node.live() && (node.draining || self.unfit.contains(id)))
            .map(|(id, _)| *id)
            .collect();
        if from.is_empty() {
            return Vec::new();
        }
        let leaves = |shard: &Shard| shard.to.is_none() && place(&from, shard.owner).is_some();
        let shards = state.shards.iter().zip(0u16..).filter(|(shard, _)| leaves(shard));
        let shards: Vec<u16> = shards.map(|(_, number)| number).take(budget).collect();
        if shards.is_empty() {
            return Vec::new();
        }
        let targets: Vec<NodeId> = self.targets(state).into_iter().filter(|id| !from.contains(id)).collect();
        let mut loads = self.node_loads(state, &targets);
        shards.into_iter().filter_map(|shard| Some((shard, self.take(shard, &mut loads)?))).collect()
    }

    /// Moves that even the load out, at most `budget`: the shard that fits the gap best, from the fullest node to the
    /// emptiest, until nobody is more than 5 % above the mean or no move helps.
    #[must_use]
    pub fn balance(&self, state: &ClusterState, budget: usize) -> Vec<(u16, NodeId)> {
        let targets = self.targets(state);
        let mut loads = self.node_loads(state, &targets);
        #[allow(clippy::cast_precision_loss)] // at most 64 nodes
        let mean = loads.values().sum::<f32>() / targets.len().max(1) as f32;
        let mut shards: BTreeMap<NodeId, Vec<(u16, f32)>> = BTreeMap::new();
        for (shard, number) in state.shards.iter().zip(0u16..) {
            if shard.to.is_none() && loads.contains_key(&shard.owner) {
                shards.entry(shard.owner).or_default().push((number, self.weight(number)));
            }
        }
        for list in shards.values_mut() {
            // The largest last: that one is taken away most often.
            list.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        }
        let mut moves = Vec::new();
        while moves.len() < budget {
            let by_load = |a: &(&NodeId, &f32), b: &(&NodeId, &f32)| a.1.total_cmp(b.1).then(a.0.cmp(b.0));
            let (Some((&full, &most)), Some((&empty, &least))) =
                (loads.iter().max_by(by_load), loads.iter().min_by(by_load))
            else {
                break;
            };
            if most <= mean * CALM {
                break;
            }
            let Some(list) = shards.get_mut(&full) else { break };
            // The largest that fits half the gap, or the smallest above that, which turns the two round.
            let gap = most - least;
            let fitting = list.partition_point(|(_, weight)| *weight <= gap / 2.0);
            let fits = fitting.checked_sub(1);
            let above = Some(fitting).filter(|at| list.get(*at).is_some_and(|(_, weight)| *weight < gap));
            let after = |at: &usize| (most - list[*at].1).max(least + list[*at].1);
            let nearest = [fits, above].into_iter().flatten().min_by(|a, b| after(a).total_cmp(&after(b)));
            let Some(at) = nearest else { break };
            let (shard, weight) = list.remove(at);
            moves.push((shard, empty));
            loads.entry(full).and_modify(|load| *load -= weight);
            loads.entry(empty).and_modify(|load| *load += weight);
        }
        moves
    }

    /// Jobs whose node is gone, draining or unfit, with the node that should run them.
    #[must_use]
    pub fn jobs(&self, state: &ClusterState, names: &[String]) -> Vec<Command> {
        let all = self.targets(state);
        let keepers: Vec<NodeId> = all.iter().copied().filter(|id| self.keepers.contains(id)).collect();
        names
            .iter()
            .filter_map(|name| {
                // Where nobody can hold an address it stays where it is.
                let targets = if name.starts_with(ADDRESS_JOB) { &keepers } else { &all };
                if state.jobs.get(name).is_some_and(|job| targets.contains(&job.node)) {
                    return None;
                }
                let node = *targets.iter().min_by_key(|id| (job_count(state, **id), mix(0, **id)))?;
                Some(Command::SetJob { name: name.clone(), node })
            })
            .collect()
    }
}

fn job_count(state: &ClusterState, node: NodeId) -> usize {
    state.jobs.values().filter(|job| job.node == node).count()
}

/// Where a node is in a short list. Asked for every shard twenty times a second, so it looks at all of the list and
/// branches at none of it: a search by comparison is a wrong guess of the processor for most shards.
fn place(nodes: &[NodeId], node: NodeId) -> Option<usize> {
    let at =
        nodes.iter().enumerate().fold(usize::MAX, |found, (at, one)| if *one == node { at } else { found });
    (at != usize::MAX).then_some(at)
}

/// A hash without randomness (rendezvous).
fn mix(shard: u16, node: NodeId) -> u64 {
    let mut x = (u64::from(shard) << 32) ^ node.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Whether the node waits to be declared up.
#[must_use]
pub fn waits(state: &ClusterState, node: NodeId) -> bool {
    state.nodes.get(&node).is_some_and(|node| matches!(node.state, NodeState::Joining | NodeState::Down))
}

#[cfg(test)]
mod tests;
