//! The state of a cluster that goes on with one of its nodes, because the majority is lost for good.

use super::{ClusterState, Command, Hold, NodeState, Refused};
use crate::database::{Entry, Group, Mode};
use elpis_watch::NodeId;

/// Epochs, sessions and terms grow by so much: the lost majority may have raised them after this node heard of them last,
/// and no number of theirs may come again.
pub const JUMP: u64 = 1 << 20;
/// The same for the index of the log, and so for ids of nodes.
pub const INDEX_JUMP: u64 = 1 << 32;

impl ClusterState {
    /// The state with which node `me` goes on alone, as if written by the entry at `index`: a new generation, all other
    /// nodes removed, no open join codes. Of a database that the nodes run its copy is the one that counts.
    ///
    /// # Errors
    /// When it is no member, or the nodes run the database and it has no copy.
    pub fn recovered(&self, me: NodeId, index: u64, audit: &Command) -> Result<ClusterState, Refused> {
        let mut next = self.clone();
        next.member(me)?;
        if let Some(group) = &self.group {
            next.group = Some(group.recovered(me).map_err(Refused::Database)?);
        }
        next.generation += 1;
        next.revision = index;
        next.joins.clear();
        for (id, node) in &mut next.nodes {
            node.session += JUMP;
            (node.draining, node.hold, node.up_index) = (false, Hold::default(), 0);
            // Down, not up: the next leader declares it live, as it does after every start.
            node.state = if *id == me { NodeState::Down } else { NodeState::Removed };
            if *id != me {
                // Written down as made, so that they are dropped.
                next.accounts.entry(*id).or_insert(0);
            }
        }
        // Their passwords are those of the generation: they are made anew.
        next.accounts.remove(&me);
        for shard in next.shards.iter_mut() {
            shard.named += JUMP;
            (shard.epoch, shard.to) = (shard.named, None);
        }
        for job in next.jobs.values_mut() {
            job.epoch += JUMP;
        }
        next.apply(index, audit)?;
        Ok(next)
    }

    /// A number above every incarnation that a process of an earlier node of the same name can have had; 0 = there was
    /// none. Fence rows bear names, and a node that joins again, empty, counts from the beginning.
    #[must_use]
    pub fn incarnation_base(&self, me: NodeId) -> u64 {
        let named = |id: &NodeId| self.nodes.get(id).map(|node| node.name.as_str());
        let before = self.nodes.keys().any(|id| *id < me && named(id) == named(&me));
        if before { me.saturating_mul(JUMP) } else { 0 }
    }

    /// Session in which a new node of this name begins: above those of all that had the name before.
    pub(super) fn first_session(&self, name: &str) -> u64 {
        let before = self.nodes.values().filter(|node| node.name == name).map(|node| node.session);
        before.max().unwrap_or(0) + 1
    }
}

impl Group {
    /// The group of one copy, that of `me`: it leads at once when it led before, else it is made primary by the failover
    /// that is under way in this state, as by an operator's order to adopt it.
    fn recovered(&self, me: NodeId) -> Result<Group, crate::database::Refused> {
        let member = self.members.get(&me).ok_or(crate::database::Refused::NotFit)?;
        let mut next = Group::new(self.primary);
        (next.epoch, next.base_seq) = (self.epoch + JUMP, self.base_seq);
        next.mode = Mode::Single;
        next.members = [(me, *member)].into();
        next.moved.clone_from(&self.moved);
        if self.primary != me {
            let without = [self.primary].into();
            next.apply(&Entry::Adopt { epoch: next.epoch + 1, node: me, without })?;
        }
        Ok(next)
    }
}

/// The entry of the audit, bounded as all are.
#[must_use]
pub fn audit(at_ms: i64, who: String, what: &str) -> Command {
    Command::Audit { at_ms, who, what: what.chars().take(1000).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{admit, live};
    use crate::state::{Applied, JoinCode, Secret};

    const INDEX: u64 = 500 + INDEX_JUMP;

    fn three() -> ClusterState {
        let mut state = live(3);
        let made = Command::AccountsMade { epoch: 1, made: vec![2, 4], dropped: vec![] };
        let database = Command::SetDatabase {
            url: String::new(),
            user: "a".into(),
            password: Secret::default(),
            mode: crate::state::MANAGED.into(),
            ready: true,
        };
        let entries = [
            Entry::Formed { primary: 2 },
            Entry::Joined { node: 3 },
            Entry::Verified { epoch: 1, node: 3 },
            Entry::Grow { epoch: 1, node: 3 },
            Entry::Waits { epoch: 1 },
            Entry::Sync { epoch: 1 },
        ];
        let first = [
            Command::Assign { shards: (0..4096).map(|shard| (shard, 2 + u64::from(shard % 3))).collect() },
            Command::Release { shards: vec![(1, 4)] },
            Command::SetJob { name: "purge".into(), node: 2 },
            Command::OpenJoin { code: "c".into(), verifier: "v".into(), expires_ms: 9, tries: 5 },
            Command::Drain { node: 4 },
            database,
            made,
        ];
        for (index, command) in (300u64..).zip(first.into_iter().chain(entries.map(Command::Database))) {
            state.apply(index, &command).unwrap();
        }
        state
    }

    fn said() -> Command {
        audit(7, "node 3".into(), "recover")
    }

    #[test]
    fn one_node_goes_on_and_nothing_of_the_others_fits_any_more() {
        let before = three();
        let after = before.recovered(3, INDEX, &said()).unwrap();
        assert_eq!((after.generation, &after.uuid, after.revision), (2, &before.uuid, INDEX));
        assert_eq!(after.members().map(|(id, _)| id).collect::<Vec<_>>(), [3]);
        assert_eq!(after.joins, [].into());
        for (id, node) in &after.nodes {
            assert!(node.session > before.nodes[id].session + 1000, "{node:?}");
            assert!(!node.draining && !node.live(), "{node:?}");
        }
        let shards = before.shards.iter().zip(after.shards.iter());
        assert!(shards.clone().all(|(old, new)| new.epoch > old.named + 1000 && new.named >= new.epoch));
        assert!(shards.clone().all(|(old, new)| new.owner == old.owner && new.to.is_none()));
        assert!(after.jobs["purge"].epoch > before.jobs["purge"].epoch + 1000);
        assert_eq!(after.accounts, [(2, 1), (4, 1)].into(), "theirs are dropped, its own made anew");
        assert_eq!(after.audit.last().unwrap().what, "recover");
        // It is declared live and gets all the work by the usual entries.
        let mut state = after.clone();
        let session = state.nodes[&3].session;
        state.apply(INDEX + 2, &Command::NodeUp { node: 3, session }).unwrap();
        let all = Command::Assign { shards: (0..4096).map(|shard| (shard, 3)).collect() };
        assert_eq!(state.apply(INDEX + 3, &all), Ok(Applied::Shards(4096 - 1365)));
        assert_eq!(state.owned(3), 4096);
        // Nothing of an earlier session or of a lost node is taken.
        let old = Command::LeaseOver { node: 3, session: 1, at_ms: 1, reason: String::new() };
        assert!(matches!(state.apply(INDEX + 4, &old), Err(Refused::StaleSession { .. })));
        let back = Command::NodeUp { node: 2, session: before.nodes[&2].session };
        assert_eq!(state.apply(INDEX + 5, &back), Err(Refused::Removed(2)));
    }

    #[test]
    fn the_database_goes_on_with_its_copy() {
        let before = three();
        // It acknowledged: it is adopted.
        let group = before.recovered(3, INDEX, &said()).unwrap().group.unwrap();
        assert_eq!((group.primary, group.adopting, group.failing_over), (2, Some(3), true));
        assert!(group.heirs().is_empty() && group.epoch > 1000, "{group:?}");
        assert_eq!(group.members.keys().copied().collect::<Vec<_>>(), [3]);
        let mut promoted = group.clone();
        promoted.apply(&Entry::Promoted { epoch: group.epoch + 1, primary: 3, base_seq: 7 }).unwrap();
        assert_eq!((promoted.primary, promoted.mode, promoted.adopting), (3, Mode::Single, None));
        assert!(promoted.members[&3].verified);
        // It led: it goes on, alone.
        let group = before.recovered(2, INDEX, &said()).unwrap().group.unwrap();
        assert_eq!((group.primary, group.adopting, group.failing_over), (2, None, false));
        assert_eq!((group.mode, group.ack_set.len()), (Mode::Single, 0));
        // It has none: it is not the one.
        assert!(matches!(before.recovered(4, INDEX, &said()), Err(Refused::Database(_))));
        assert_eq!(before.recovered(9, INDEX, &said()), Err(Refused::UnknownNode(9)));
        let mut outside = before;
        outside.group = None;
        assert_eq!(outside.recovered(4, INDEX, &said()).unwrap().group, None);
    }

    #[test]
    fn who_joins_again_under_its_name_is_above_what_it_was() {
        let mut state = three().recovered(3, INDEX, &said()).unwrap();
        let old = state.nodes[&2].session;
        let mut again = admit(2);
        if let Command::AdmitNode { uuid, spki, .. } = &mut again {
            (*uuid, *spki) = ("new".into(), "new".into());
        }
        state.apply(INDEX + 1, &again).unwrap();
        let new = &state.nodes[&(INDEX + 1)];
        assert!(new.name == "n2" && new.session > old, "{new:?}");
        assert!(state.incarnation_base(INDEX + 1) > 1 << 40);
        assert_eq!((state.incarnation_base(2), state.incarnation_base(3)), (0, 0));
        state.joins.insert(
            "x".into(),
            JoinCode { verifier: Secret::default(), expires_ms: 0, tries: 0, replaces: None },
        );
        let twice = state.recovered(3, 2 * INDEX, &said()).unwrap();
        assert_eq!((twice.generation, twice.members().count(), twice.joins.len()), (3, 1, 0));
    }
}
