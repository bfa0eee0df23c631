//! What a server has to do when the map changes: load, drain, forget, acknowledge. Pure.

use std::collections::BTreeMap;

/// Where a shard stands in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its state is being read for this epoch.
    Loading(u64),
    /// It is worked on in this epoch.
    Held(u64),
    /// Nothing new is begun; what was begun is being written. `ack` = epoch of the planned move, if it is one.
    Draining { epoch: u64, ack: Option<u64> },
}

/// Orders that follow from a new map, in the order in which to obey them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Drop at once, results too: another session or another node has it.
    pub forget: Vec<u16>,
    /// Begin nothing more, write what was begun, then call [`Shards::drained`].
    pub drain: Vec<u16>,
    /// Acknowledge now: nothing of it is held. (shard, epoch of the move)
    pub ack: Vec<(u16, u64)>,
    /// Read its state, then call [`Shards::loaded`]. (shard, epoch)
    pub load: Vec<(u16, u64)>,
}

/// Shards of this process, in one session.
///
/// A release is sticky: a shard that was given away in epoch `e` is never worked on again in epoch `e`.
#[derive(Clone, Debug, Default)]
pub struct Shards {
    phases: BTreeMap<u16, Phase>,
    /// Epochs that were given away.
    given: BTreeMap<u16, u64>,
}

impl Shards {
    /// Compares with the map: what the node owns, and what it has to give away (with the epochs of the moves).
    pub fn obey(&mut self, owned: &[(u16, u64)], releasing: &[(u16, u64)]) -> Orders {
        let mut orders = Orders::default();
        let owned: BTreeMap<u16, u64> = owned.iter().copied().collect();
        let releasing: BTreeMap<u16, u64> = releasing.iter().copied().collect();
        let known: Vec<u16> = self.phases.keys().copied().collect();
        for shard in known {
            self.compare(shard, owned.get(&shard).copied(), releasing.get(&shard).copied(), &mut orders);
        }
        for (&shard, &epoch) in &releasing {
            if !self.phases.contains_key(&shard) {
                orders.ack.push((shard, epoch));
            }
        }
        self.given.retain(|shard, epoch| match owned.get(shard) {
            Some(now) => now == epoch,
            None => releasing.contains_key(shard),
        });
        for (&shard, &epoch) in &owned {
            if !self.phases.contains_key(&shard) && self.given.get(&shard) != Some(&epoch) {
                self.phases.insert(shard, Phase::Loading(epoch));
                orders.load.push((shard, epoch));
            }
        }
        orders
    }

    fn compare(&mut self, shard: u16, owned: Option<u64>, releasing: Option<u64>, orders: &mut Orders) {
        let Some(phase) = self.phases.get_mut(&shard) else { return };
        match (*phase, owned, releasing) {
            (Phase::Loading(epoch) | Phase::Held(epoch), Some(now), _) if epoch == now => {}
            (Phase::Loading(_), Some(_), _) => {
                self.phases.remove(&shard);
            }
            (Phase::Held(epoch), Some(_), _) => {
                *phase = Phase::Draining { epoch, ack: None };
                orders.drain.push(shard);
            }
            (Phase::Draining { .. }, Some(_), _) => {}
            (Phase::Loading(epoch), None, Some(_)) => {
                self.phases.remove(&shard);
                self.given.insert(shard, epoch);
            }
            (Phase::Held(epoch), None, Some(to)) => {
                *phase = Phase::Draining { epoch, ack: Some(to) };
                orders.drain.push(shard);
            }
            (Phase::Draining { epoch, .. }, None, Some(to)) => {
                *phase = Phase::Draining { epoch, ack: Some(to) };
            }
            (Phase::Loading(_), None, None) => {
                self.phases.remove(&shard);
            }
            (_, None, None) => {
                self.phases.remove(&shard);
                orders.forget.push(shard);
            }
        }
    }

    /// Its state is there. `false` = not wanted any more (or not in this epoch): drop it.
    pub fn loaded(&mut self, shard: u16, epoch: u64) -> bool {
        match self.phases.get_mut(&shard) {
            Some(phase @ Phase::Loading(_)) if *phase == Phase::Loading(epoch) => {
                *phase = Phase::Held(epoch);
                true
            }
            _ => false,
        }
    }

    /// Everything of it is written: forgets it and says what to acknowledge. Call [`obey`](Self::obey) afterwards:
    /// the shard may have come back meanwhile.
    pub fn drained(&mut self, shard: u16) -> Option<(u16, u64)> {
        let Some(Phase::Draining { epoch, ack }) = self.phases.get(&shard).copied() else { return None };
        self.phases.remove(&shard);
        let ack = ack?;
        self.given.insert(shard, epoch);
        Some((shard, ack))
    }

    /// Work on this shard may begin.
    pub fn is_held(&self, shard: u16) -> bool {
        matches!(self.phases.get(&shard), Some(Phase::Held(_)))
    }

    /// The epoch in which a shard is worked on or drained.
    pub fn epoch(&self, shard: u16) -> Option<u64> {
        match self.phases.get(&shard) {
            Some(Phase::Held(epoch) | Phase::Draining { epoch, .. }) => Some(*epoch),
            _ => None,
        }
    }

    /// Its state is being read.
    pub fn is_loading_shard(&self, shard: u16) -> bool {
        matches!(self.phases.get(&shard), Some(Phase::Loading(_)))
    }

    /// Shards that are worked on, with their epochs.
    pub fn held(&self) -> impl Iterator<Item = (u16, u64)> {
        self.phases.iter().filter_map(|(shard, phase)| match phase {
            Phase::Held(epoch) => Some((*shard, *epoch)),
            _ => None,
        })
    }

    /// Some shard's state is still being read.
    pub fn is_loading(&self) -> bool {
        self.phases.values().any(|phase| matches!(phase, Phase::Loading(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(forget: &[u16], drain: &[u16], ack: &[(u16, u64)], load: &[(u16, u64)]) -> Orders {
        Orders { forget: forget.into(), drain: drain.into(), ack: ack.into(), load: load.into() }
    }

    #[test]
    fn a_shard_comes_is_moved_and_comes_back() {
        let mut shards = Shards::default();
        assert_eq!(shards.obey(&[(7, 1)], &[]), orders(&[], &[], &[], &[(7, 1)]));
        assert!(shards.is_loading() && !shards.is_held(7));
        assert_eq!(shards.obey(&[(7, 1)], &[]), Orders::default());
        assert!(!shards.loaded(7, 2) && shards.loaded(7, 1) && shards.is_held(7));
        // A planned move to epoch 2.
        assert_eq!(shards.obey(&[], &[(7, 2)]), orders(&[], &[7], &[], &[]));
        assert!(!shards.is_held(7));
        assert_eq!(shards.obey(&[], &[(7, 2)]), Orders::default());
        assert_eq!(shards.drained(7), Some((7, 2)));
        // Asked again: acknowledged again. The move that vanishes does not give epoch 1 back.
        assert_eq!(shards.obey(&[], &[(7, 2)]), orders(&[], &[], &[(7, 2)], &[]));
        assert_eq!(shards.obey(&[(7, 1)], &[]), Orders::default());
        // The new owner died: ours again, with its own epoch.
        assert_eq!(shards.obey(&[(7, 3)], &[]), orders(&[], &[], &[], &[(7, 3)]));
    }

    #[test]
    fn what_is_lost_is_forgotten_and_what_is_not_loaded_is_given_away_at_once() {
        let mut shards = Shards::default();
        shards.obey(&[(1, 1), (2, 1), (3, 1)], &[]);
        shards.loaded(1, 1);
        assert_eq!(shards.obey(&[(3, 1)], &[(2, 4)]), orders(&[1], &[], &[(2, 4)], &[]));
        assert!(!shards.loaded(1, 1) && !shards.loaded(2, 1) && shards.loaded(3, 1));
        assert_eq!(shards.obey(&[(2, 1), (3, 1)], &[]), Orders::default());
    }

    #[test]
    fn a_new_epoch_of_a_held_shard_is_drained_and_read_again() {
        let mut shards = Shards::default();
        shards.obey(&[(5, 1)], &[]);
        shards.loaded(5, 1);
        assert_eq!(shards.obey(&[(5, 3)], &[]), orders(&[], &[5], &[], &[]));
        assert_eq!(shards.drained(5), None);
        assert_eq!(shards.obey(&[(5, 3)], &[]), orders(&[], &[], &[], &[(5, 3)]));
        // A new epoch while it is read: read again.
        assert_eq!(shards.obey(&[(5, 4)], &[]), orders(&[], &[], &[], &[(5, 4)]));
        assert!(!shards.loaded(5, 3) && shards.loaded(5, 4));
        // A move that vanishes while draining stays sticky.
        shards.obey(&[], &[(5, 5)]);
        assert_eq!(shards.obey(&[(5, 4)], &[]), Orders::default());
        assert_eq!(shards.drained(5), Some((5, 5)));
        assert_eq!(shards.obey(&[(5, 4)], &[]), Orders::default());
    }
}
