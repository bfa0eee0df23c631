//! The timing profile: election and lease timings that a whole cluster has agreed on, and how it changes while it works.
//!
//! PURE. A node has two of the three profiles at a time, and the safety of leases rests on one rule between them:
//!
//! * its **patience**, with which its Raft was started: for `election_max` it elects nobody in the place of a leader that
//!   it heard, and as a new leader it waits for lease and `election_max` of this profile before it declares anybody dead;
//! * the **claim**, by which leases count: what a grant is worth, and for how long the acknowledgement of a quorum lets a
//!   leader act. A leader takes it from the replicated state, and never one longer than its own patience.
//!
//! **No claim that counts is longer than the patience of any member.** Then it does not matter who leads, who votes and who
//! grants: a voter that acknowledged a leader elects another one only when what the leader claimed of that acknowledgement
//! is over, so all that an old leader granted was granted before its successor's election, and the successor waits at
//! least as long as it was worth. A longer patience than needed costs time, never safety.
//!
//! So a change has two halves, and [`Agreed`] says how far it is:
//!
//! | | first | then, when | |
//! |---|---|---|---|
//! | slower | [`Change::Wanted`]: patience grows | all members, and all of Raft's, have shown that they run with it | [`Change::Claim`] |
//! | quicker | [`Change::Wanted`]: the claim shrinks at once | the longest lease of before is over by the leader's clock, which begins anew with every leader | [`Change::Patience`] |
//!
//! A leader claims only after it has applied the first entry of its term, and with that all that was agreed on before: one
//! that was away cannot claim by old words, so a step to a quicker profile waits for nobody. A step to a slower one waits
//! for every member: one that is away may come back as impatient as it left. Who joins in between is a member from its
//! admission on, and gets its patience from a state that holds that entry.
//!
//! Raft takes other timings only at its start, so a node agent whose patience changes is started anew: it writes the new
//! one into `node.json` first ([`Kept`]), and ends when the leader gives it its turn, one after the other. What is kept
//! bears the number of the step that it comes from, and only a later step changes it: a node that starts with an old state
//! does not take an old, shorter patience again that it has already shown to be longer.

pub mod margins;

use crate::planted;
use crate::types::Timings;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Which timings; the later, the slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// One site, machines that do not stall.
    Lan,
    /// Machines that stall.
    Safe,
    /// Two sites, or machines that stall much.
    Metro,
}

impl Profile {
    /// From the quickest on.
    pub const ALL: [Profile; 3] = [Profile::Lan, Profile::Safe, Profile::Metro];

    /// As people and scripts write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Lan => "lan",
            Profile::Safe => "safe",
            Profile::Metro => "metro",
        }
    }

    /// How Raft is started.
    #[must_use]
    pub const fn timings(self) -> Timings {
        match self {
            Profile::Lan => Timings::LAN,
            Profile::Safe => Timings::SAFE,
            Profile::Metro => Timings::METRO,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Profile, String> {
        let known = Profile::ALL.into_iter().find(|profile| profile.name() == text);
        known.ok_or_else(|| "there are the profiles lan, safe and metro".to_owned())
    }
}

/// What the cluster has agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// What was ordered last, and what the other two come to.
    pub wanted: Profile,
    /// By which leases count.
    pub claim: Profile,
    /// With which nodes are to run; never quicker than the claim.
    pub patience: Profile,
    /// Grows with every change. 0 = nothing was agreed on: each node runs as it was started, and claims no more.
    pub step: u64,
}

impl Default for Agreed {
    fn default() -> Self {
        Agreed { wanted: Profile::Metro, claim: Profile::Metro, patience: Profile::Metro, step: 0 }
    }
}

/// A change of it, as an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The cluster is made with it.
    Formed(Profile),
    /// Somebody wants another one.
    Wanted(Profile),
    /// Leases count by the one that is wanted: these have shown patience for it at this step.
    Claim { step: u64, heard: BTreeSet<NodeId> },
    /// Nodes need no more patience than for the one that is wanted: no longer lease runs.
    Patience { step: u64 },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Formed(profile) => write!(f, "the cluster begins with profile {profile}"),
            Change::Wanted(profile) => write!(f, "profile {profile} is wanted"),
            Change::Claim { step, .. } => write!(f, "leases count by the wanted profile (step {step})"),
            Change::Patience { step } => {
                write!(f, "nodes need patience for the wanted profile only (step {step})")
            }
        }
    }
}

impl Agreed {
    /// Whether all of a change is done.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.claim == self.wanted && self.patience == self.wanted
    }

    /// Applies an entry; `members` are those of the state. A step that came too late changes nothing.
    pub(crate) fn apply(&mut self, change: &Change, members: &BTreeSet<NodeId>) -> bool {
        let before = *self;
        let wanted = self.wanted;
        match change {
            Change::Formed(profile) if self.step == 0 && members.is_empty() => {
                (self.wanted, self.claim, self.patience) = (*profile, *profile, *profile);
                self.step = 1;
            }
            Change::Wanted(profile) => {
                if self.step == 0 {
                    // Who runs with what is not known: nobody claims more than the least before all have shown it.
                    self.claim = Profile::Lan;
                }
                self.wanted = *profile;
                self.patience = self.patience.max(*profile);
                self.claim = self.claim.min(*profile);
            }
            Change::Claim { step, heard }
                if *step == self.step && self.claim < wanted && members.is_subset(heard) =>
            {
                self.claim = wanted.min(self.patience);
            }
            Change::Patience { step } if *step == self.step => {
                self.patience = self.patience.min(wanted).max(self.claim);
            }
            _ => {}
        }
        if *self == before {
            return false;
        }
        self.step = before.step + 1;
        true
    }

    /// What a node whose Raft runs with `mine` claims.
    #[must_use]
    pub fn claims(&self, mine: Profile) -> Profile {
        self.claim.min(mine)
    }
}

/// What a node keeps on disk, and runs with from its next start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub patience: Profile,
    /// Step of [`Agreed`] that it comes from.
    pub step: u64,
}

impl Kept {
    /// What is to be kept after the state says `agreed`; `None` = nothing new.
    #[must_use]
    pub fn after(kept: Option<Kept>, agreed: &Agreed) -> Option<Kept> {
        let next = Kept { patience: agreed.patience, step: agreed.step };
        (agreed.step > kept.map_or(0, |kept| kept.step)).then_some(next)
    }
}

/// What a node shows of itself with its renewals: with which patience it runs, and up to which step it has kept all.
pub type Shown = Kept;

/// The next half of a change, if its time has come: `shown` by the members, `raft` are Raft's, `passed_ms` since this
/// leader first saw this step.
#[must_use]
pub fn next(
    agreed: &Agreed,
    shown: &BTreeMap<NodeId, Shown>,
    members: &BTreeSet<NodeId>,
    raft: &BTreeSet<NodeId>,
    passed_ms: i64,
) -> Option<Change> {
    let step = agreed.step;
    if agreed.claim < agreed.wanted {
        let is_patient = |id: &&NodeId| {
            shown.get(*id).is_some_and(|shown| shown.step == step && shown.patience >= agreed.wanted)
        };
        let heard: BTreeSet<NodeId> = members.union(raft).filter(is_patient).copied().collect();
        let all = members.is_subset(&heard) && raft.is_subset(&heard);
        let heard = if planted::on("claim-before-all") { members.clone() } else { heard };
        return (all || planted::on("claim-before-all")).then_some(Change::Claim { step, heard });
    }
    let longest = crate::lease::LeaseTimings::of(agreed.patience);
    let over = passed_ms > longest.expired_after_ms().max(longest.predecessor_after_ms());
    let due = agreed.wanted < agreed.patience && (over || planted::on("impatient-at-once"));
    due.then_some(Change::Patience { step })
}

/// Members that have kept what is agreed on but do not run with it yet: each has to be started anew.
#[must_use]
pub fn waiting(agreed: &Agreed, shown: &BTreeMap<NodeId, Shown>) -> BTreeSet<NodeId> {
    let waits = |shown: &Shown| shown.step == agreed.step && shown.patience != agreed.patience;
    shown.iter().filter(|(_, shown)| waits(shown)).map(|(id, _)| *id).collect()
}

/// What two nodes tell each other when they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// With which its Raft runs.
    pub patience: Profile,
    /// What it would claim, and by which step of what was agreed on: the later one knows better.
    pub claim: Profile,
    pub step: u64,
}

impl Greeting {
    /// Of a node that runs with this patience and has applied this.
    #[must_use]
    pub fn new(patience: Profile, agreed: &Agreed) -> Greeting {
        Greeting { patience, claim: agreed.claims(patience), step: agreed.step }
    }

    /// Why the two must not work together, or nothing: a claim of one is longer than the patience of the other. It cannot
    /// be where data folders are whole.
    #[must_use]
    pub fn misfit(&self, node: NodeId, other: &Greeting, its: NodeId) -> Option<String> {
        let sides = [(self, other, its), (other, self, node)];
        let (by, _, hasty) = sides.into_iter().find(|(by, waits, _)| {
            // What one says that was away does not count any more.
            by.step >= waits.step && by.claim > waits.patience
        })?;
        Some(format!(
            "node {hasty} runs with quicker timings than the leases of the cluster need (profile {}): its data folder is \
             older than what was agreed on, or --profile was changed by hand; reset node {hasty}, empty its data folder \
             and join it again",
            by.claim
        ))
    }
}

#[cfg(test)]
mod tests;
