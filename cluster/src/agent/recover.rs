//! `cluster recover`: the majority is lost for good, and this node goes on alone by an operator's order.

use super::adopt::PositionLine;
use super::majority::{self, Around};
use super::member::Member;
use super::sock::No;
use super::{Agent, AgentError, status};
use crate::bootstrap;
use crate::database::Seen;
use crate::identity::Place;
use crate::recovery::Recovery;
use elpis_watch::NodeId;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The answer goes out before the node agent ends.
const ANSWER: Duration = Duration::from_millis(300);

/// `POST /v1/cluster/recover`: without `confirm` nothing is done.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    survivors: Vec<String>,
    /// Names of the nodes that are powered off for good.
    #[serde(default)]
    confirm: Option<Vec<String>>,
}

/// What is given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Choice {
    /// The node that goes on, and the generation that it makes.
    node: String,
    generation: u64,
    /// Nodes that do not answer: what must be typed.
    gone: Vec<String>,
    /// Nodes that answer: they end by themselves, and join again, empty.
    rejoin: Vec<String>,
    /// In words.
    text: String,
    /// Transactions that some copy is known to have had and this one has not; `None` = not known.
    may_lose: Option<u64>,
    positions: Vec<PositionLine>,
    done: bool,
}

/// PURE: why this node is not to go on alone, in words.
fn against(around: &Around<'_>, named: &[NodeId]) -> Result<(), String> {
    let me = around.name(around.me);
    let [survivor] = named else {
        return Err(
            "one node goes on alone: name one survivor, the one with most of the database; the other survivors join it \
             again, empty"
                .to_owned(),
        );
    };
    if let Some((node, master)) = around.master() {
        let (node, master) = (around.name(node), around.name(master));
        return Err(format!("there is a master: {node} hears {master}; nothing has to be given up"));
    }
    let (needed, answer) = around.quorum();
    if answer >= needed {
        return Err(format!(
            "{answer} of {} voters answer: that is a majority, which elects a master by itself; wait, and look at `elpis \
             cluster status`",
            around.voters.len()
        ));
    }
    if *survivor != around.me {
        return Err(format!("this is {me}: run it on {}", around.name(*survivor)));
    }
    if !around.has_copy(around.me) {
        return Err(format!(
            "{me} has no copy of the database to go on with; run it on a survivor that has one"
        ));
    }
    let position = |node: NodeId| around.answers.get(&node).and_then(|alive| alive.position);
    let (_, living) = around.others();
    for other in living.into_iter().filter(|_| around.state.group.is_some()) {
        let name = around.name(other);
        match (around.has_copy(other), position(around.me), position(other)) {
            (false, ..) => {}
            (true, Some(mine), Some(theirs)) if theirs <= mine => {}
            (true, Some(mine), Some(theirs)) => {
                return Err(format!(
                    "{name} has more of the database, {theirs} against {mine}: run it there"
                ));
            }
            (true, None, _) => {
                return Err(format!(
                    "the database server of {me} does not run, so nobody knows whether {name} has more: run it there, \
                     or stop the node agent of {name} first"
                ));
            }
            (true, Some(_), None) => {
                return Err(format!(
                    "it is not known how much of the database {name} has: its server does not run. Stop the node agent \
                     of {name} if {me} is to go on"
                ));
            }
        }
    }
    Ok(())
}

/// PURE: what is given up, in figures and words.
fn choice(around: &Around<'_>, known: &BTreeMap<NodeId, Seen>, generation: u64) -> Choice {
    let name = |node: &NodeId| around.name(*node);
    let (gone, rejoin) = around.others();
    let names = |nodes: &[NodeId]| nodes.iter().map(name).collect::<Vec<_>>();
    let (me, gone_names, rejoin_names) = (around.name(around.me), names(&gone), names(&rejoin));
    let mut positions = Vec::new();
    let (mut most, mut mine) = (None, None);
    for node in around.state.group.iter().flat_map(|group| group.members.keys()) {
        let answer = around.answers.get(node);
        let now = answer.and_then(|alive| alive.position);
        let seen = known.get(node);
        let position = now.or(seen.map(|seen| seen.seq));
        if *node == around.me {
            mine = now;
        }
        most = most.max(position);
        positions.push(PositionLine {
            node: name(node),
            lives: answer.is_some(),
            position,
            heard: seen.map_or(0, |seen| seen.at_ms),
        });
    }
    let mut text = format!("{me} goes on alone, as generation {generation} of the cluster");
    let may_lose = match (around.state.group.as_ref(), mine, most) {
        (None, ..) => Some(0),
        (Some(_), Some(mine), Some(most)) => {
            text.push_str(&match most.saturating_sub(mine) {
                0 => format!(
                    "; its database has {mine} transactions, as many as any copy was heard to have: what was written after \
                     that elsewhere is lost"
                ),
                less => format!(
                    "; its database has {mine} transactions, {less} less than the most that was heard of: these are lost, \
                     and what was written after that elsewhere"
                ),
            });
            Some(most.saturating_sub(mine))
        }
        _ => {
            text.push_str("; how much of the database it lacks is not known: its server does not run");
            None
        }
    };
    let leads = around.state.group.as_ref().is_some_and(|group| group.primary == around.me);
    if leads {
        text.push_str(&format!("; {me} was the database's primary when it heard of a master last"));
    }
    if !gone_names.is_empty() {
        text.push_str(&format!("; given up for ever: {}", gone_names.join(", ")));
    }
    if !rejoin_names.is_empty() {
        text.push_str(&format!("; to be reset and joined again: {}", rejoin_names.join(", ")));
    }
    Choice {
        node: me,
        generation,
        gone: gone_names,
        rejoin: rejoin_names,
        text,
        may_lose,
        positions,
        done: false,
    }
}

/// PURE: whether exactly the nodes that are gone were typed.
fn confirmed(gone: &[String], typed: &[String]) -> bool {
    let set = |names: &[String]| names.iter().map(|name| name.trim().to_owned()).collect::<BTreeSet<_>>();
    set(gone) == set(typed)
}

/// Says what would be given up; with the names of the lost nodes typed it is done, and the node agent ends.
pub(super) async fn order(agent: &Arc<Agent>, member: &Member, ask: Ask) -> Result<Choice, No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    let state = member.state();
    let find =
        |wanted: &String| bootstrap::find(&state, wanted).ok_or_else(|| super::orders::unknown(wanted));
    let named: Vec<NodeId> = ask.survivors.iter().map(find).collect::<Result<_, No>>()?;
    let view = member.node.raft_view();
    if let Some(known) = status::ask_leader(agent, member, &view).await {
        let master = state.nodes.get(&known.leader).map_or_else(String::new, |node| node.name.clone());
        return Err(no(format!("there is a master, {master}: nothing has to be given up")));
    }
    if state.group.is_some() && member.desk.told().is_none() {
        let why = "this node has not looked at its copy of the database yet; try again in a moment";
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
    }
    let answers = majority::ask_all(member).await;
    let around = Around { state: &state, voters: &view.voters, me: member.id(), answers: &answers };
    against(&around, &named).map_err(no)?;
    let mut choice = choice(&around, &member.positions(&state), member.generation + 1);
    let Some(typed) = ask.confirm else { return Ok(choice) };
    if !confirmed(&choice.gone, &typed) {
        return Err(no(format!(
            "to confirm that they are powered off and never start again with their disks, name exactly these nodes: {}; \
             nothing was changed",
            choice.gone.join(",")
        )));
    }
    let place = agent.identity.lock().await.place.clone().ok_or_else(No::no_cluster)?;
    commit(agent, &place, member.cluster_now_ms(), &choice)?;
    choice.done = true;
    Ok(choice)
}

/// Writes the order down, and ends the node agent: the next start carries it out.
fn commit(agent: &Arc<Agent>, place: &Place, at_ms: i64, choice: &Choice) -> Result<(), No> {
    let who = format!("node {}", place.node);
    let what = format!("cluster recover: {}; powered off as typed: {}", choice.text, choice.gone.join(", "));
    agent.note(None, "cluster", &what);
    let order = Recovery::of(place, at_ms, who, what);
    order
        .write(&agent.config.raft.data_dir)
        .map_err(|error| No(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let generation = order.generation;
    let agent = Arc::clone(agent);
    agent.tasks.clone().spawn(async move {
        tokio::time::sleep(ANSWER).await;
        agent.fail(AgentError::Recovers(generation));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::messages::Alive;
    use crate::database::Entry;
    use crate::state::{ClusterState, Command};

    const VOTERS: [NodeId; 5] = [2, 3, 4, 5, 6];

    fn managed() -> ClusterState {
        let mut state = crate::state::testing::live(5);
        for entry in [Entry::Formed { primary: 2 }, Entry::Joined { node: 3 }, Entry::Joined { node: 4 }] {
            state.apply(300, &Command::Database(entry)).unwrap();
        }
        state
    }

    fn at(position: u64) -> Alive {
        Alive { position: Some(position), ..Alive::default() }
    }

    #[test]
    fn it_is_refused_unless_the_majority_is_away_and_this_copy_is_the_best() {
        let (down, broken) = (Alive::default(), Alive { broken: true, ..Alive::default() });
        let hears = Alive { master: Some(6), ..at(9) };
        let state = managed();
        let refused = |named: &[NodeId], answers: &[(NodeId, Alive)]| {
            let answers = answers.iter().copied().collect();
            let around = Around { state: &state, voters: &VOTERS, me: 3, answers: &answers };
            against(&around, named).err().unwrap_or_default()
        };
        let mine = (3, at(9));
        for (named, answers, why) in [
            (&[3][..], &[mine][..], ""),
            (&[3], &[mine, (4, at(9))], ""),
            (&[3], &[mine, (4, broken)], ""),
            (&[3], &[mine, (5, down)], ""),
            (&[3], &[(3, down)], ""),
            (&[], &[mine], "name one survivor"),
            (&[3, 4], &[mine, (4, at(8))], "name one survivor"),
            (&[4], &[mine, (4, at(8))], "run it on n4"),
            (&[3], &[mine, (4, at(8)), (5, down)], "that is a majority"),
            (&[3], &[mine, (4, hears)], "n4 hears n6"),
            (&[3], &[(3, broken)], "has no copy"),
            (&[3], &[mine, (4, at(10))], "n4 has more of the database, 10 against 9"),
            (&[3], &[mine, (4, down)], "not known how much"),
            (&[3], &[(3, down), (4, at(1))], "does not run"),
        ] {
            let said = refused(named, answers);
            assert!(if why.is_empty() { said.is_empty() } else { said.contains(why) }, "{why:?}: {said:?}");
        }
    }

    #[test]
    fn what_is_given_up_is_counted_and_must_be_typed() {
        let state = managed();
        let answers = BTreeMap::from([(3, at(70)), (5, Alive::default())]);
        let around = Around { state: &state, voters: &VOTERS, me: 3, answers: &answers };
        let known = BTreeMap::from([(2, Seen { seq: 90, at_ms: 900 }), (3, Seen { seq: 60, at_ms: 900 })]);
        let choice = choice(&around, &known, 2);
        assert_eq!((choice.gone.join(","), choice.rejoin.join(",")), ("n2,n4,n6".into(), "n5".into()));
        assert_eq!((choice.may_lose, choice.done), (Some(20), false));
        assert!(choice.text.contains("has 70 transactions, 20 less"), "{}", choice.text);
        let seen: Vec<_> =
            choice.positions.iter().map(|line| (line.node.as_str(), line.lives, line.position)).collect();
        assert_eq!(seen, [("n2", false, Some(90)), ("n3", true, Some(70)), ("n4", false, None)]);
        for (typed, right) in [
            (&["n2", "n4", "n6"][..], true),
            (&["n6", " n4", "n2"], true),
            (&["n2", "n4"], false),
            (&["n2", "n4", "n6", "n5"], false),
            (&[], false),
        ] {
            let typed: Vec<String> = typed.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(confirmed(&choice.gone, &typed), right, "{typed:?}");
        }
    }
}
