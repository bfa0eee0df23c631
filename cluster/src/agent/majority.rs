//! While no master is heard: who answers, and what an operator is told.

use super::member::Member;
use super::messages::{ALIVE, Alive, Ask, VERSION};
use super::{Agent, locked};
use crate::network::NetError;
use crate::raft_node::NodeError;
use crate::state::ClusterState;
use crate::types::boot_ms;
use elpis_watch::NodeId;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pace of asking, and how long a master is not heard before that begins: an election is over by then.
const PACE: Duration = Duration::from_secs(1);
const QUIET_MS: i64 = 3_000;
/// After so long the status names the command that gives the missing up.
const HINT_MS: i64 = 120_000;

/// Most voters do not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MajorityLine {
    /// In words.
    pub text: String,
    /// Names of the voters that do not answer.
    pub missing: Vec<String>,
    /// Since when no master is heard, Unix milliseconds; at least since the node agent started.
    pub since: i64,
    /// The node that could go on, and the command for it; empty during the first two minutes, or when none could.
    pub on: String,
    pub command: String,
}

/// The last look.
#[derive(Clone, Debug)]
pub(super) struct Look {
    silent_from: i64,
    answers: BTreeMap<NodeId, Alive>,
}

/// What can be seen from one node.
pub(super) struct Around<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) voters: &'a [NodeId],
    pub(super) me: NodeId,
    /// Who answered, this node among them.
    pub(super) answers: &'a BTreeMap<NodeId, Alive>,
}

impl Around<'_> {
    pub(super) fn name(&self, node: NodeId) -> String {
        self.state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone())
    }

    fn names(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        nodes.into_iter().map(|node| self.name(node)).collect()
    }

    /// A node that hears a master, and that master.
    pub(super) fn master(&self) -> Option<(NodeId, NodeId)> {
        self.answers.iter().find_map(|(node, alive)| Some((*node, alive.master?)))
    }

    /// So many voters are needed, and so many answer.
    pub(super) fn quorum(&self) -> (usize, usize) {
        let answer = self.voters.iter().filter(|voter| self.answers.contains_key(voter)).count();
        (self.voters.len() / 2 + 1, answer)
    }

    /// Members that do not answer, and those beside this node that do.
    pub(super) fn others(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let others = self.state.members().map(|(id, _)| id).filter(|id| *id != self.me);
        others.partition(|id| !self.answers.contains_key(id))
    }

    /// Whether a node has a copy of the database to go on with, or needs none.
    pub(super) fn has_copy(&self, node: NodeId) -> bool {
        let Some(group) = &self.state.group else { return true };
        group.members.contains_key(&node) && self.answers.get(&node).is_some_and(|alive| !alive.broken)
    }

    /// Who of those that answer could go on: the one with the most of the database, this one before others.
    fn best(&self) -> Option<NodeId> {
        let fit = self.answers.iter().filter(|(node, _)| self.has_copy(**node));
        let rank = fit.map(|(node, alive)| (alive.position, *node == self.me, std::cmp::Reverse(*node)));
        rank.max().map(|(_, _, node)| node.0)
    }
}

/// PURE: what an operator is told; `None` = a majority answers, or somebody hears a master.
pub(super) fn line(around: &Around<'_>, since: i64, now_ms: i64) -> Option<MajorityLine> {
    let (needed, answer) = around.quorum();
    if answer >= needed || around.master().is_some() || around.voters.is_empty() {
        return None;
    }
    let away = around.voters.iter().copied().filter(|voter| !around.answers.contains_key(voter));
    let missing = around.names(away);
    let verb = if answer == 1 { "answers" } else { "answer" };
    let mut text = format!(
        "no majority: {answer} of {} voters {verb}, {needed} are needed; {} not. Nothing happens by itself: \
         start them, or mend the network",
        around.voters.len(),
        if missing.len() == 1 {
            format!("{} does", missing[0])
        } else {
            format!("{} do", missing.join(", "))
        },
    );
    let best = around.best();
    if best.is_none() {
        text.push_str("; none of those that answer has a copy of the database to go on with");
    }
    let best = best.filter(|_| now_ms - since >= HINT_MS).map(|best| around.name(best));
    let command = best.as_ref().map(|best| format!("elpis cluster recover --survivors {best}"));
    Some(MajorityLine {
        text,
        missing,
        since,
        on: best.unwrap_or_default(),
        command: command.unwrap_or_default(),
    })
}

/// The same from the last look.
pub(super) fn line_of(member: &Member) -> Option<MajorityLine> {
    let look = locked(&member.look).clone()?;
    let (state, view) = (member.state(), member.node.raft_view());
    let around = Around { state: &state, voters: &view.voters, me: member.id(), answers: &look.answers };
    let now_ms = member.cluster_now_ms();
    line(&around, now_ms - (boot_ms() - look.silent_from), now_ms)
}

/// Since when no master is heard (`CLOCK_BOOTTIME`); now, when one is.
fn silent_from(member: &Member) -> i64 {
    let view = member.node.raft_view();
    let heard = if view.is_leader { view.last_quorum_acked_boot_ms } else { None };
    heard.max(member.heard_boot_ms()).unwrap_or(0).max(member.began_boot_ms)
}

/// How this node stands.
pub(super) fn here(member: &Member) -> Alive {
    let told = member.desk.told().map(|told| told.report.local);
    let good = told.as_ref().filter(|local| local.up && !local.broken);
    let heard = boot_ms() - silent_from(member) < QUIET_MS && silent_from(member) > member.began_boot_ms;
    Alive {
        version: VERSION,
        master: member.node.raft_view().leader.filter(|_| heard),
        position: good.map(|local| local.received()),
        broken: told.is_some_and(|local| local.broken),
    }
}

/// Asks every member how it stands; this node's own answer is among them.
pub(super) async fn ask_all(member: &Member) -> BTreeMap<NodeId, Alive> {
    let body = serde_json::to_vec(&Ask { version: VERSION }).unwrap_or_default();
    let state = member.state();
    let others = state.members().map(|(id, _)| id).filter(|id| *id != member.id());
    let asked = others.map(|id| {
        let body = body.clone();
        async move {
            let alive = match member.node.call(id, ALIVE, body).await {
                Ok(answer) => serde_json::from_slice(&answer).unwrap_or_default(),
                // It is there, whatever it says.
                Err(NodeError::Net(NetError::Refused { .. }) | NodeError::Handler(_)) => Alive::default(),
                Err(_) => return None,
            };
            Some((id, alive))
        }
    });
    let mut answers: BTreeMap<NodeId, Alive> = join_all(asked).await.into_iter().flatten().collect();
    answers.insert(member.id(), here(member));
    answers
}

/// Until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let mut ticks = super::every(PACE);
    let mut said = false;
    loop {
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let silent_from = silent_from(&member);
        if boot_ms() - silent_from < QUIET_MS {
            *locked(&member.look) = None;
            said = false;
            continue;
        }
        let answers = tokio::select! {
            () = agent.stop.cancelled() => return,
            answers = ask_all(&member) => answers,
        };
        *locked(&member.look) = Some(Look { silent_from, answers });
        if let Some(line) = line_of(&member).filter(|_| !said) {
            agent.note(None, "cluster", &line.text);
            said = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Entry;
    use crate::state::Command;

    fn alive(position: Option<u64>) -> Alive {
        Alive { version: VERSION, position, ..Alive::default() }
    }

    #[test]
    fn what_is_missing_is_said_and_the_command_after_two_minutes() {
        let mut state = crate::state::testing::live(5);
        let voters = [2, 3, 4, 5, 6];
        let said = |state: &ClusterState, answers: &[(NodeId, Alive)], now_ms| {
            let answers = answers.iter().copied().collect();
            line(&Around { state, voters: &voters, me: 3, answers: &answers }, 1_000, now_ms)
        };
        let three = [(2, alive(None)), (3, alive(None)), (4, alive(None))];
        assert_eq!(said(&state, &three, 500_000), None, "a majority answers");
        let hears = [(3, alive(None)), (4, Alive { master: Some(6), ..alive(None) })];
        assert_eq!(said(&state, &hears, 500_000), None, "one of them hears a master");
        let two = [(3, alive(None)), (4, alive(None))];
        let early = said(&state, &two, 120_000).unwrap();
        assert_eq!(
            (early.missing.join(","), early.since, early.command.as_str()),
            ("n2,n5,n6".into(), 1_000, "")
        );
        assert!(
            early.text.contains("2 of 5 voters answer, 3 are needed; n2, n5, n6 do not."),
            "{}",
            early.text
        );
        let late = said(&state, &two, 121_000).unwrap();
        assert_eq!((late.on.as_str(), late.command.as_str()), ("n3", "elpis cluster recover --survivors n3"));

        // The nodes run the database: the copy with most goes on.
        for entry in [Entry::Formed { primary: 2 }, Entry::Joined { node: 3 }, Entry::Joined { node: 4 }] {
            state.apply(300, &Command::Database(entry)).unwrap();
        }
        let on = |answers: &[(NodeId, Alive)]| said(&state, answers, 500_000).unwrap().on;
        assert_eq!(on(&[(3, alive(Some(7))), (4, alive(Some(9)))]), "n4");
        assert_eq!(on(&[(3, alive(Some(9))), (4, alive(Some(9)))]), "n3", "this one of two equal ones");
        assert_eq!(on(&[(3, alive(None)), (5, alive(None))]), "n3", "its server is started then");
        let broken = Alive { broken: true, ..alive(None) };
        let none = said(&state, &[(3, broken), (5, alive(None))], 500_000).unwrap();
        assert!(none.command.is_empty() && none.text.contains("none of those that answer"), "{}", none.text);
    }
}
