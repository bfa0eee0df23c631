//! What the cluster agrees on: which image, whose turn it is, and how far that node is. PURE.

use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest reason that is kept, in characters.
pub const MAX_WORDS: usize = 400;

/// An image that nodes are updated with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub version: String,
    /// SHA-256 of the whole file, hex.
    pub sha256: String,
    pub bytes: u64,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It may take the image, nothing else.
    Waits,
    /// It writes the image beside the version that runs.
    Writes,
    /// It gives its work away.
    Drains,
    /// It starts anew.
    Restarts,
    /// It has its work again, and shows that it works.
    Settles,
    Done,
}

impl Step {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Step::Waits => "waits",
            Step::Writes => "writes the image",
            Step::Drains => "gives its work away",
            Step::Restarts => "starts anew",
            Step::Settles => "works again, is watched",
            Step::Done => "done",
        }
    }
}

/// A node's turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub node: NodeId,
    /// The version that it ran before.
    pub from: String,
    /// It was drained before, and stays so.
    pub drained: bool,
    pub step: Step,
    /// Cluster time at which this step began, Unix milliseconds.
    pub since_ms: i64,
}

/// The last rollout: one that goes on, stopped, or is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub image: Image,
    /// The node that had the image first; the others take it from there.
    pub holder: NodeId,
    /// In order.
    pub turns: Vec<Turn>,
    /// A cluster that cannot lose a node pauses meanwhile, and somebody wanted that.
    pub with_pause: bool,
    /// Each node is watched for so long with its new version before the next one's turn.
    pub watch_ms: i64,
    /// Cluster time, Unix milliseconds.
    pub begun_ms: i64,
    /// When it stopped or was over.
    pub ended_ms: Option<i64>,
    /// Why it stopped; `None` at its end: all went well.
    pub stopped: Option<String>,
}

/// A change of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    Begin {
        image: Image,
        holder: NodeId,
        turns: Vec<Turn>,
        with_pause: bool,
        watch_ms: i64,
        at_ms: i64,
    },
    /// The node goes on to this step, from the one before.
    Go {
        node: NodeId,
        step: Step,
        at_ms: i64,
    },
    /// Everybody is done.
    End {
        at_ms: i64,
    },
    Stop {
        why: String,
        at_ms: i64,
    },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Begin { image, turns, .. } => {
                write!(f, "update of {} nodes to {}", turns.len(), image.version)
            }
            Entry::Go { node, step, .. } => write!(f, "update: node {node} {}", step.words()),
            Entry::End { .. } => f.write_str("update done"),
            Entry::Stop { why, .. } => write!(f, "update stopped: {why}"),
        }
    }
}

/// Why an entry is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("an update to {0} goes on: stop it first with `elpis update stop`")]
    GoesOn(String),
    #[error("no update goes on")]
    Nothing,
    #[error("no node is to be updated")]
    Nobody,
}

impl Rollout {
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.ended_ms.is_none()
    }

    /// Whose turn it is.
    #[must_use]
    pub fn current(&self) -> Option<&Turn> {
        self.turns.iter().find(|turn| turn.step != Step::Done)
    }

    /// When the last step of any node began.
    #[must_use]
    pub fn moved_ms(&self) -> i64 {
        self.turns.iter().map(|turn| turn.since_ms).max().unwrap_or(self.begun_ms)
    }

    /// Applies an entry; `Ok(false)` = it changes nothing, for it is stale or was applied before.
    ///
    /// # Errors
    /// It does not fit at all.
    pub fn apply(rollout: &mut Option<Rollout>, entry: &Entry) -> Result<bool, Refused> {
        let going = rollout.as_mut().filter(|rollout| rollout.goes_on());
        match (entry, going) {
            (Entry::Begin { .. }, Some(going)) => Err(Refused::GoesOn(going.image.version.clone())),
            (Entry::Begin { turns, .. }, None) if turns.is_empty() => Err(Refused::Nobody),
            (Entry::Begin { image, holder, turns, with_pause, watch_ms, at_ms }, None) => {
                let waits = |turn: &Turn| Turn { step: Step::Waits, since_ms: *at_ms, ..turn.clone() };
                *rollout = Some(Rollout {
                    image: image.clone(),
                    holder: *holder,
                    turns: turns.iter().map(waits).collect(),
                    with_pause: *with_pause,
                    watch_ms: *watch_ms,
                    begun_ms: *at_ms,
                    ended_ms: None,
                    stopped: None,
                });
                Ok(true)
            }
            (_, None) => Err(Refused::Nothing),
            (Entry::Go { node, step, at_ms }, Some(going)) => {
                let turn = going.turns.iter_mut().find(|turn| turn.step != Step::Done);
                // One step after the other, and only of the node in turn.
                let Some(turn) = turn.filter(|turn| turn.node == *node && turn.step as u8 + 1 == *step as u8)
                else {
                    return Ok(false);
                };
                (turn.step, turn.since_ms) = (*step, *at_ms);
                Ok(true)
            }
            (Entry::End { at_ms }, Some(going)) if going.current().is_none() => {
                going.ended_ms = Some(*at_ms);
                Ok(true)
            }
            (Entry::End { .. }, Some(_)) => Ok(false),
            (Entry::Stop { why, at_ms }, Some(going)) => {
                going.ended_ms = Some(*at_ms);
                going.stopped = Some(why.chars().take(MAX_WORDS).collect());
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(nodes: &[NodeId]) -> Entry {
        let turn = |node: &NodeId| Turn {
            node: *node,
            from: "1".into(),
            drained: false,
            step: Step::Done,
            since_ms: 0,
        };
        let image = Image { version: "2".into(), sha256: "ab".into(), bytes: 9 };
        Entry::Begin {
            image,
            holder: 2,
            turns: nodes.iter().map(turn).collect(),
            with_pause: false,
            watch_ms: 9,
            at_ms: 5,
        }
    }

    #[test]
    fn one_node_after_the_other_and_one_step_after_the_other() {
        let mut rollout = None;
        assert_eq!(Rollout::apply(&mut rollout, &begin(&[])), Err(Refused::Nobody));
        assert_eq!(Rollout::apply(&mut rollout, &begin(&[3, 2])), Ok(true));
        assert_eq!(Rollout::apply(&mut rollout, &begin(&[3])), Err(Refused::GoesOn("2".into())));
        let go = |rollout: &mut _, node, step| Rollout::apply(rollout, &Entry::Go { node, step, at_ms: 7 });
        assert_eq!(go(&mut rollout, 2, Step::Writes), Ok(false), "not its turn");
        assert_eq!(go(&mut rollout, 3, Step::Drains), Ok(false), "a step is left out");
        for node in [3, 2] {
            assert_eq!(Rollout::apply(&mut rollout, &Entry::End { at_ms: 8 }), Ok(false));
            for step in [Step::Writes, Step::Drains, Step::Restarts, Step::Settles, Step::Done] {
                assert_eq!(go(&mut rollout, node, step), Ok(true), "{node} {step:?}");
                assert_eq!(go(&mut rollout, node, step), Ok(false), "a second time");
            }
        }
        assert_eq!(Rollout::apply(&mut rollout, &Entry::End { at_ms: 8 }), Ok(true));
        assert_eq!(go(&mut rollout, 2, Step::Done), Err(Refused::Nothing));
        assert!(rollout.unwrap().stopped.is_none());
    }

    #[test]
    fn what_stopped_is_over_and_another_may_begin() {
        let mut rollout = None;
        let stop = Entry::Stop { why: "x".repeat(1_000), at_ms: 6 };
        assert_eq!(Rollout::apply(&mut rollout, &stop), Err(Refused::Nothing));
        Rollout::apply(&mut rollout, &begin(&[2])).unwrap();
        assert_eq!(Rollout::apply(&mut rollout, &stop), Ok(true));
        let stopped = rollout.clone().unwrap();
        assert_eq!((stopped.ended_ms, stopped.stopped.unwrap().len()), (Some(6), MAX_WORDS));
        assert_eq!(Rollout::apply(&mut rollout, &begin(&[2])), Ok(true));
    }
}
