//! The database group waits for nodes that may never come back: what is said of it, and the operator's choice.

use super::member::Member;
use super::messages::Knowledge;
use super::sock::No;
use super::{Agent, orders, status};
use crate::bootstrap;
use crate::database::{Entry, Group, Seen, Wait, may_adopt};
use crate::state::{ClusterState, Command};
use elpis_watch::NodeId;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// After so long the status names the command that gives the missing up.
const HINT_MS: i64 = 120_000;

/// The group has no primary and waits for somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitLine {
    /// In words.
    pub text: String,
    /// Names of those that are waited for.
    pub nodes: Vec<String>,
    /// Since when, Unix milliseconds; 0 = not known.
    pub since: i64,
    /// Where each copy stood when it was heard of last.
    pub positions: Vec<PositionLine>,
    /// Lets the others go on without them; empty during the first two minutes.
    pub command: String,
}

/// The last known position of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionLine {
    pub node: String,
    /// The node lives.
    pub lives: bool,
    /// `None` = not known.
    pub position: Option<u64>,
    /// When that was heard, Unix milliseconds; 0 = never.
    pub heard: i64,
}

/// `POST /v1/database/adopt`: without `confirm` nothing is done.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    node: String,
    without: Vec<String>,
    /// Name of the lost primary.
    #[serde(default)]
    confirm: Option<String>,
}

/// What is given up.
#[derive(Debug, Serialize)]
pub(super) struct Choice {
    node: String,
    /// The lost primary.
    primary: String,
    /// In words.
    text: String,
    /// Transactions that the lost primary had and this copy has not; `None` = not known.
    may_lose: Option<u64>,
    positions: Vec<PositionLine>,
    done: bool,
}

fn name(state: &ClusterState, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone())
}

/// PURE: the positions of all copies, the primary's first.
fn positions(state: &ClusterState, group: &Group, known: &Knowledge) -> Vec<PositionLine> {
    let mut nodes: Vec<NodeId> = group.members.keys().copied().collect();
    nodes.sort_by_key(|node| (*node != group.primary, *node));
    let line = |node: NodeId| {
        let seen = known.positions.get(&node);
        PositionLine {
            node: name(state, node),
            lives: state.live(node),
            position: seen.map(|seen| seen.seq),
            heard: seen.map_or(0, |seen| seen.at_ms),
        }
    };
    nodes.into_iter().map(line).collect()
}

/// PURE: what is waited for, in words; `None` = the group has a primary or makes one.
pub(super) fn line(state: &ClusterState, known: &Knowledge) -> Option<WaitLine> {
    let (group, wait) = (state.group.as_ref()?, known.wait.as_ref()?);
    let name = |node: &NodeId| name(state, *node);
    let names = |nodes: &BTreeSet<NodeId>| nodes.iter().map(name).collect::<Vec<_>>();
    let nodes = names(&wait.on);
    let died = state.failovers.iter().filter(|seen| wait.on.contains(&seen.node)).map(|seen| seen.at_ms);
    let since = died.max().unwrap_or(0);
    let mut text = match wait.adopting {
        Some(node) => format!("by order {} becomes the primary without {}", name(&node), nodes.join(", ")),
        None => format!(
            "there is no primary: {} must come back, nobody else is sure to hold every row",
            nodes.join(", ")
        ),
    };
    if !wait.restarted.is_empty() {
        let theirs = names(&wait.restarted).join(", ");
        text.push_str(&format!("; {theirs} was restarted and lost what it had received and not applied"));
    }
    let command = match wait.best.filter(|_| known.cluster_now_ms - since >= HINT_MS) {
        Some(best) => {
            format!("elpis database adopt {} --without {}", name(&best), names(&wait.without).join(","))
        }
        None => String::new(),
    };
    Some(WaitLine { text, nodes, since, positions: positions(state, group, known), command })
}

/// PURE: what this choice gives up.
fn choice(state: &ClusterState, known: &Knowledge, group: &Group, wait: &Wait, node: NodeId) -> Choice {
    let (chosen, primary) = (name(state, node), name(state, group.primary));
    let seen = |node| known.positions.get(&node).copied();
    let has = known.database.get(&node).map(|known| known.report.local.received());
    let had: Option<Seen> = seen(group.primary);
    let may_lose = had.zip(has).map(|(had, has)| had.seq.saturating_sub(has));
    let mut text = match (had, has) {
        (Some(had), Some(has)) => format!(
            "{primary} had {} transactions when it was heard of last, {chosen} has {has}: {} are lost, and what {primary} wrote after that",
            had.seq,
            had.seq.saturating_sub(has)
        ),
        _ => format!(
            "it is not known how many transactions {primary} had; what {chosen} lacks of them is lost"
        ),
    };
    if !group.members.get(&node).is_some_and(|member| member.verified) {
        text.push_str(&format!("; the rows of {chosen} were not compared since it led"));
    }
    if !wait.restarted.is_empty() {
        let theirs: Vec<String> = wait.restarted.iter().map(|node| name(state, *node)).collect();
        text.push_str(&format!("; {} lost rows by a restart", theirs.join(", ")));
    }
    Choice { node: chosen, primary, text, may_lose, positions: positions(state, group, known), done: false }
}

/// Says what would be given up; with the primary's name typed it is done.
pub(super) async fn order(agent: &Agent, member: &Member, ask: Ask) -> Result<Choice, No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    let state = member.state();
    let find = |wanted: &String| bootstrap::find(&state, wanted).ok_or_else(|| orders::unknown(wanted));
    let node = find(&ask.node)?;
    let without: BTreeSet<NodeId> = ask.without.iter().map(find).collect::<Result<_, No>>()?;
    let Some(group) = &state.group else {
        return Err(no("the nodes of this cluster run no database".to_owned()));
    };
    let known = status::ask_leader(agent, member, &member.node.raft_view()).await;
    let Some(known) = known else {
        let why = "there is no master: the majority of the nodes is away; start them first";
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
    };
    let reports = known.database.iter().map(|(node, known)| (*node, known.report.clone())).collect();
    may_adopt(group, &state.live_nodes(), &reports, node, &without)
        .map_err(|why| no(why.words(|node| name(&state, node))))?;
    let wait = known.wait.clone().unwrap_or_default();
    let mut choice = choice(&state, &known, group, &wait, node);
    let Some(typed) = ask.confirm else { return Ok(choice) };
    if typed != choice.primary {
        return Err(no(format!(
            "to confirm, type the name of the lost primary, {}; nothing was changed",
            choice.primary
        )));
    }
    let given_up: Vec<String> = without.iter().map(|node| name(&state, *node)).collect();
    let what = format!("database adopt {} without {}: {}", choice.node, given_up.join(", "), choice.text);
    let audit = Command::Audit {
        at_ms: member.cluster_now_ms(),
        who: format!("node {}", member.id()),
        what: what.chars().take(1000).collect(),
    };
    let entry = Entry::Adopt { epoch: group.epoch + 1, node, without };
    member.node.propose(Command::Batch(vec![Command::Database(entry), audit])).await?;
    agent.note(None, "database", &what);
    choice.done = true;
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_wait_is_said_and_the_way_out_after_two_minutes() {
        let mut state = crate::state::testing::live(3);
        for entry in [Entry::Formed { primary: 2 }, Entry::Joined { node: 3 }, Entry::Joined { node: 4 }] {
            state.apply(300, &Command::Database(entry)).unwrap();
        }
        let over = Command::LeaseOver { node: 2, session: 1, at_ms: 1_000, reason: String::new() };
        state.apply(301, &over).unwrap();
        let died = crate::state::Failover { node: 2, at_ms: 1_000, ..Default::default() };
        state.apply(302, &Command::FailoverSeen(died)).unwrap();
        let on = BTreeSet::from([2]);
        let wait = Wait { without: on.clone(), on, best: Some(4), ..Wait::default() };
        let positions =
            BTreeMap::from([(2, Seen { seq: 90, at_ms: 900 }), (4, Seen { seq: 70, at_ms: 950 })]);
        let mut known = Knowledge { positions, cluster_now_ms: 60_000, ..Knowledge::default() };
        assert_eq!(line(&state, &known), None);
        known.wait = Some(wait);
        let early = line(&state, &known).unwrap();
        assert_eq!(
            (early.since, early.nodes.as_slice(), early.command.as_str()),
            (1_000, &["n2".to_owned()][..], "")
        );
        assert!(early.text.contains("n2 must come back"), "{}", early.text);
        let seen: Vec<_> =
            early.positions.iter().map(|line| (line.node.as_str(), line.lives, line.position)).collect();
        assert_eq!(seen, [("n2", false, Some(90)), ("n3", true, None), ("n4", true, Some(70))]);
        known.cluster_now_ms = 121_000;
        assert_eq!(line(&state, &known).unwrap().command, "elpis database adopt n4 --without n2");
    }

    #[test]
    fn a_choice_is_refused_while_the_lost_live_again() {
        let mut state = crate::state::testing::live(3);
        for entry in [Entry::Formed { primary: 2 }, Entry::Joined { node: 3 }] {
            state.apply(300, &Command::Database(entry)).unwrap();
        }
        let adopt = Command::Database(Entry::Adopt { epoch: 2, node: 3, without: BTreeSet::from([2]) });
        assert_eq!(state.apply(301, &adopt), Err(crate::state::Refused::StillLives(2)));
        let over = Command::LeaseOver { node: 2, session: 1, at_ms: 1_000, reason: String::new() };
        state.apply(302, &over).unwrap();
        state.apply(303, &adopt).unwrap();
        assert_eq!(state.group.unwrap().adopting, Some(3));
    }
}
