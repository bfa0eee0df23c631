//! What the cluster has agreed on about the group.

use crate::planted;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How commits are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By the primary alone: nothing can be promoted without a loss.
    Single,
    /// By the primary and one of the ack set, but it is not proved that one of them holds what was acknowledged before:
    /// so nobody can be promoted yet.
    Waiting,
    /// By the primary and one of the ack set, who hold all between them.
    Sync,
}

impl Mode {
    /// Its word in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Single => "single",
            Mode::Waiting => "waiting",
            Mode::Sync => "sync",
        }
    }
}

/// A node with a copy of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its rows were compared since it last led: it may acknowledge again. Of a new group's primary: its copy was made.
    pub verified: bool,
}

/// The group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Grows with every promotion.
    pub epoch: u64,
    pub primary: NodeId,
    pub mode: Mode,
    /// Who may acknowledge a commit. Every one of them counts at a promotion, so it shrinks only by proof.
    pub ack_set: BTreeSet<NodeId>,
    pub members: BTreeMap<NodeId, Member>,
    /// Sequence number at which the primary began this epoch.
    pub base_seq: u64,
    /// The primary is being replaced; the epoch that follows has begun on the nodes.
    pub failing_over: bool,
    /// Who should be the next primary, when several may.
    #[serde(default)]
    pub prefer: Option<NodeId>,
    /// Changes of the primary, oldest first, as the masters saw them.
    #[serde(default)]
    pub moved: Vec<Moved>,
    /// Who is made primary though it may lack acknowledged rows: an operator's order, for this failover alone.
    #[serde(default)]
    pub adopting: Option<NodeId>,
}

/// Most changes of the primary that are kept.
const MAX_MOVED: usize = 32;

/// A change of the primary. Milliseconds count from the moment when the master began it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The one that began.
    pub epoch: u64,
    pub from: NodeId,
    pub to: NodeId,
    /// Cluster time, Unix milliseconds.
    pub at_ms: i64,
    /// Until the new primary was agreed on, and until it took statements.
    pub promoted_ms: i64,
    pub opened_ms: i64,
    pub reason: String,
}

/// One change of the group. Each names the epoch it was planned in: a late one is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The nodes run the database themselves from now on; this one makes its first copy.
    Formed { primary: NodeId },
    /// The node, which acknowledges nothing, has no copy any more.
    Left { node: NodeId },
    /// A node has a copy and follows.
    Joined { node: NodeId },
    /// Its rows are the primary's.
    Verified { epoch: u64, node: NodeId },
    /// From now on it may acknowledge: first this entry, then its switch.
    Grow { epoch: u64, node: NodeId },
    /// It acknowledges no more, and what it alone had acknowledged is held by another one.
    Shrink { epoch: u64, node: NodeId },
    /// The primary is to wait at each commit from now on.
    Waits { epoch: u64 },
    /// The primary waits at each commit, and one was acknowledged since it does: the ack set holds all.
    Sync { epoch: u64 },
    /// The primary waits for nobody any more: nobody may acknowledge.
    Single { epoch: u64 },
    /// The primary is to be replaced, by `prefer` when it holds all. `epoch` is the new one.
    FailoverStart {
        epoch: u64,
        #[serde(default)]
        prefer: Option<NodeId>,
    },
    /// The new epoch begins with this primary, at this position. The point of no return.
    Promoted { epoch: u64, primary: NodeId, base_seq: u64 },
    /// A line of the history.
    Moved(Moved),
    /// An operator's order: the primary and the others that are named are gone for good, this node's copy goes on
    /// without what it lacks. `epoch` is the new one; a failover that waits for them becomes this one.
    Adopt { epoch: u64, node: NodeId, without: BTreeSet<NodeId> },
}

/// Why an entry changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    #[error("it was planned in another epoch of the database; plan again")]
    OtherEpoch,
    #[error("the node is no member of the database group, or not one that may do this")]
    NotFit,
    #[error("a failover is under way")]
    FailingOver,
}

impl Group {
    /// The primary's copy is there: of a new group the first has to be made, and its administration account soon follows.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.members.get(&self.primary).is_some_and(|member| member.verified)
    }

    /// A group of one, whose copy is still to be made.
    #[must_use]
    pub fn new(primary: NodeId) -> Group {
        Group {
            epoch: 1,
            primary,
            mode: Mode::Single,
            ack_set: BTreeSet::new(),
            members: BTreeMap::from([(primary, Member::default())]),
            base_seq: 0,
            failing_over: false,
            prefer: None,
            moved: Vec::new(),
            adopting: None,
        }
    }

    /// Who may be made primary when the present one is gone: everybody who might hold an acknowledged row alone.
    /// Empty unless [`Mode::Sync`]: else only the primary itself is sure to hold all.
    #[must_use]
    pub fn heirs(&self) -> BTreeSet<NodeId> {
        if self.mode == Mode::Sync { self.ack_set.clone() } else { BTreeSet::new() }
    }

    /// Applies an entry, or says why it does not fit (any more).
    ///
    /// # Errors
    /// The entry was planned on another state.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Refused> {
        let member = |node: &NodeId| self.members.get(node).copied().ok_or(Refused::NotFit);
        match entry {
            Entry::Moved(moved) => {
                self.moved.retain(|old| old.epoch != moved.epoch);
                self.moved.push(moved.clone());
                self.moved.drain(..self.moved.len().saturating_sub(MAX_MOVED));
            }
            Entry::Joined { node } => {
                self.members.entry(*node).or_default();
            }
            Entry::Formed { .. } => return Err(Refused::NotFit),
            Entry::Left { node } => {
                let bound = *node == self.primary || self.ack_set.contains(node) || self.failing_over;
                if bound || self.members.remove(node).is_none() {
                    return Err(Refused::NotFit);
                }
            }
            Entry::FailoverStart { epoch, prefer } => {
                if *epoch != self.epoch + 1 {
                    return Err(Refused::OtherEpoch);
                }
                (self.failing_over, self.prefer) = (true, *prefer);
            }
            Entry::Promoted { epoch, primary, base_seq } => {
                if !self.failing_over || *epoch != self.epoch + 1 {
                    return Err(Refused::OtherEpoch);
                }
                let adopted = *primary != self.primary && self.adopting == Some(*primary);
                if *primary != self.primary && !adopted && !self.heirs().contains(primary) {
                    return Err(Refused::NotFit);
                }
                if adopted {
                    // Its copy is what counts from now on, and each of the others may have rows that it lacks.
                    self.members.values_mut().for_each(|member| member.verified = false);
                    self.members.insert(*primary, Member { verified: true });
                    self.ack_set.clear();
                    self.mode = Mode::Single;
                } else if *primary != self.primary {
                    // Whatever it has beyond the base nobody acknowledged: it proves itself again.
                    self.members.insert(self.primary, Member { verified: false });
                    self.ack_set.remove(primary);
                    // It may be the only one that holds the last of them.
                    self.mode = match self.ack_set.is_empty() {
                        true => Mode::Single,
                        false if planted::on("heirs-before-proof") => Mode::Sync,
                        false => Mode::Waiting,
                    };
                }
                (self.epoch, self.primary, self.base_seq) = (*epoch, *primary, *base_seq);
                (self.failing_over, self.prefer, self.adopting) = (false, None, None);
            }
            Entry::Adopt { epoch, node, without } => {
                if *epoch != self.epoch + 1 {
                    return Err(Refused::OtherEpoch);
                }
                member(node)?;
                if !without.contains(&self.primary) || without.contains(node) {
                    return Err(Refused::NotFit);
                }
                (self.failing_over, self.adopting) = (true, Some(*node));
            }
            Entry::Verified { epoch, node } => {
                self.steady(*epoch)?;
                member(node)?;
                self.members.insert(*node, Member { verified: true });
            }
            Entry::Grow { epoch, node } => {
                self.steady(*epoch)?;
                if !member(node)?.verified || *node == self.primary {
                    return Err(Refused::NotFit);
                }
                self.ack_set.insert(*node);
            }
            Entry::Shrink { epoch, node } => {
                self.steady(*epoch)?;
                // The last one goes by `Single` alone.
                if self.ack_set.len() < 2 || !self.ack_set.remove(node) {
                    return Err(Refused::NotFit);
                }
            }
            Entry::Waits { epoch } => {
                self.steady(*epoch)?;
                if self.ack_set.is_empty() || self.mode != Mode::Single {
                    return Err(Refused::NotFit);
                }
                self.mode = Mode::Waiting;
            }
            Entry::Sync { epoch } => {
                self.steady(*epoch)?;
                // One that was planned before the primary ceased to wait comes too late.
                if self.ack_set.is_empty() || self.mode == Mode::Single {
                    return Err(Refused::NotFit);
                }
                self.mode = Mode::Sync;
            }
            Entry::Single { epoch } => {
                self.steady(*epoch)?;
                self.mode = Mode::Single;
                self.ack_set.clear();
            }
        }
        Ok(())
    }

    fn steady(&self, epoch: u64) -> Result<(), Refused> {
        if epoch != self.epoch {
            return Err(Refused::OtherEpoch);
        }
        // During a failover the ack set is what it was when it began.
        if self.failing_over { Err(Refused::FailingOver) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Group {
        let mut group = Group::new(2);
        group.apply(&Entry::Verified { epoch: 1, node: 2 }).unwrap();
        for node in [3, 4] {
            group.apply(&Entry::Joined { node }).unwrap();
            assert_eq!(group.apply(&Entry::Grow { epoch: 1, node }), Err(Refused::NotFit), "not verified");
            group.apply(&Entry::Verified { epoch: 1, node }).unwrap();
            group.apply(&Entry::Grow { epoch: 1, node }).unwrap();
        }
        assert!(group.heirs().is_empty(), "the primary does not wait for them yet");
        assert_eq!(group.apply(&Entry::Sync { epoch: 1 }), Err(Refused::NotFit), "it does not wait yet");
        group.apply(&Entry::Waits { epoch: 1 }).unwrap();
        assert!(group.heirs().is_empty(), "nothing was acknowledged yet");
        group.apply(&Entry::Sync { epoch: 1 }).unwrap();
        group
    }

    #[test]
    fn an_heir_takes_over_and_the_old_primary_proves_itself_again() {
        let mut group = three();
        group.apply(&Entry::FailoverStart { epoch: 2, prefer: None }).unwrap();
        assert_eq!(group.apply(&Entry::Shrink { epoch: 1, node: 4 }), Err(Refused::FailingOver));
        group.apply(&Entry::Promoted { epoch: 2, primary: 3, base_seq: 7 }).unwrap();
        assert_eq!((group.epoch, group.primary, group.base_seq), (2, 3, 7));
        assert_eq!((group.mode, &group.ack_set), (Mode::Waiting, &BTreeSet::from([4])));
        assert!(group.heirs().is_empty(), "node 4 may lack what node 3 alone had received");
        assert_eq!(group.apply(&Entry::Grow { epoch: 2, node: 2 }), Err(Refused::NotFit));
        // The same again, by a leader that does not know.
        let late = Entry::Promoted { epoch: 2, primary: 4, base_seq: 7 };
        assert_eq!(group.apply(&late), Err(Refused::OtherEpoch));
    }

    #[test]
    fn who_holds_nothing_alone_may_leave() {
        let mut group = three();
        let leave = |group: &mut Group, node| group.apply(&Entry::Left { node });
        assert_eq!(leave(&mut group, 4), Err(Refused::NotFit), "it acknowledges");
        assert_eq!(leave(&mut group, 2), Err(Refused::NotFit), "the primary");
        group.apply(&Entry::Shrink { epoch: 1, node: 4 }).unwrap();
        assert_eq!(leave(&mut group, 4), Ok(()));
        assert_eq!(leave(&mut group, 4), Err(Refused::NotFit), "no member any more");
    }

    #[test]
    fn a_group_of_one_has_no_heir_but_its_primary() {
        let mut group = three();
        group.apply(&Entry::Shrink { epoch: 1, node: 4 }).unwrap();
        assert_eq!(group.apply(&Entry::Shrink { epoch: 1, node: 3 }), Err(Refused::NotFit));
        group.apply(&Entry::Single { epoch: 1 }).unwrap();
        group.apply(&Entry::FailoverStart { epoch: 2, prefer: None }).unwrap();
        let stranger = Entry::Promoted { epoch: 2, primary: 3, base_seq: 7 };
        assert_eq!(group.apply(&stranger), Err(Refused::NotFit));
        group.apply(&Entry::Promoted { epoch: 2, primary: 2, base_seq: 7 }).unwrap();
        assert_eq!(group.mode, Mode::Single);
    }

    #[test]
    fn a_copy_is_adopted_only_by_order_and_only_once() {
        let adopt = |epoch, node, without: &[NodeId]| Entry::Adopt {
            epoch,
            node,
            without: without.iter().copied().collect(),
        };
        let mut group = three();
        group.apply(&Entry::Shrink { epoch: 1, node: 4 }).unwrap();
        group.apply(&Entry::Single { epoch: 1 }).unwrap();
        for (entry, why) in [
            (adopt(1, 3, &[2]), Refused::OtherEpoch),
            (adopt(3, 3, &[2]), Refused::OtherEpoch),
            (adopt(2, 3, &[4]), Refused::NotFit),
            (adopt(2, 3, &[2, 3]), Refused::NotFit),
            (adopt(2, 9, &[2]), Refused::NotFit),
        ] {
            assert_eq!(group.apply(&entry), Err(why), "{entry:?}");
        }
        group.apply(&adopt(2, 4, &[2])).unwrap();
        // Another choice, before the point of no return.
        group.apply(&adopt(2, 3, &[2, 4])).unwrap();
        let promoted = |primary| Entry::Promoted { epoch: 2, primary, base_seq: 7 };
        assert_eq!(group.clone().apply(&promoted(4)), Err(Refused::NotFit), "it was chosen before");
        let mut back = group.clone();
        back.apply(&promoted(2)).unwrap();
        assert_eq!((back.primary, back.adopting), (2, None), "the old one came back in time");
        group.apply(&promoted(3)).unwrap();
        assert_eq!((group.mode, group.ack_set.len(), group.adopting), (Mode::Single, 0, None));
        let verified: Vec<NodeId> =
            group.members.iter().filter(|(_, member)| member.verified).map(|(node, _)| *node).collect();
        assert_eq!(verified, [3], "all others prove themselves again");
        assert_eq!(group.apply(&adopt(2, 4, &[3])), Err(Refused::OtherEpoch), "it came late");
    }

    #[test]
    fn an_adopted_one_of_the_ack_set_waits_for_nobody() {
        let mut group = three();
        group.apply(&Entry::FailoverStart { epoch: 2, prefer: None }).unwrap();
        group.apply(&Entry::Adopt { epoch: 2, node: 3, without: BTreeSet::from([2, 4]) }).unwrap();
        group.apply(&Entry::Promoted { epoch: 2, primary: 3, base_seq: 7 }).unwrap();
        assert_eq!((group.mode, group.ack_set.len()), (Mode::Single, 0));
    }

    #[test]
    fn a_group_of_an_earlier_version_is_read() {
        let text = r#"{"epoch":3,"primary":2,"mode":"single","ack_set":[],"members":{"2":{"verified":true}},
            "base_seq":7,"failing_over":false}"#;
        let group: Group = serde_json::from_str(text).unwrap();
        assert_eq!((group.epoch, group.adopting), (3, None));
    }

    #[test]
    fn the_last_of_the_ack_set_becomes_primary_alone() {
        let mut group = three();
        group.apply(&Entry::Shrink { epoch: 1, node: 4 }).unwrap();
        group.apply(&Entry::FailoverStart { epoch: 2, prefer: None }).unwrap();
        group.apply(&Entry::Promoted { epoch: 2, primary: 3, base_seq: 7 }).unwrap();
        assert_eq!((group.mode, group.ack_set.len()), (Mode::Single, 0));
    }
}
