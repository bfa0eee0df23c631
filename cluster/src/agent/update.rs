//! Images on this node: takes one from a person or from another node, and has the machine do what the master orders.
//! `crate::update` decides; the machine itself is the [`Machine`]'s.

mod shelf;

pub(super) use shelf::{Shelf, part, receive};

use super::member::Member;
use super::sock::No;
use super::{Agent, lead, locked, status};
use crate::state::Command;
use crate::update::{
    Act, Entry, Image, Next, Order, Planner, Refused, Rollout, Seen, Sight, WATCH_MS, against, is_newer,
    seconds, turns,
};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use shelf::{blocking, take};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What this machine can do with images; every call may block for a moment, `check` for some seconds.
pub trait Machine: Send + Sync + Debug {
    /// Looks whether a file is a whole image that is signed for this machine; its version.
    ///
    /// # Errors
    /// Why it is not taken, for people.
    fn check(&self, image: &Path) -> Result<String, String>;
    /// How it stands.
    fn look(&self) -> Look;
    /// Has it write the image beside the version that runs, or start anew; `id` comes back in [`Look::failed`].
    ///
    /// # Errors
    /// It could not be told.
    fn order(&self, act: Act, id: i64) -> Result<(), String>;
}

/// How a machine stands with its versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// See [`Seen`] for these.
    pub runs: String,
    pub kept: bool,
    pub written: String,
    pub doing: String,
    pub fell_back: String,
    pub refuses: String,
    /// The last work that was ordered and failed, by its id.
    pub failed: Option<(i64, String)>,
}

const PACE: Duration = Duration::from_secs(1);
/// An order to the machine that brought nothing about is given again.
const AGAIN: Duration = Duration::from_secs(120);
/// Longest time for which a node may be watched, in seconds.
const LONGEST_WATCH_S: u32 = 86_400;

/// Looks at the machine and does what the master wants, until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let Some(machine) = agent.shelf.machine.clone() else { return };
    let mut ticks = super::every(PACE);
    loop {
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let shown = Arc::clone(&machine);
        let (look, room) = tokio::join!(blocking(move || Ok(shown.look())), async { agent.shelf.room() },);
        let order = {
            let mut inner = locked(&agent.shelf.inner);
            match look {
                Ok(look) => inner.look = look,
                Err(error) => tracing::warn!(error, "this machine's versions cannot be looked at"),
            }
            inner.room_bytes = room;
            inner.order.clone()
        };
        match order {
            Some(order) => agent
                .stop
                .run_until_cancelled(obey(&agent, &member, &machine, &order))
                .await
                .unwrap_or_default(),
            None => purge(&agent, &member).await,
        }
    }
}

async fn obey(agent: &Agent, member: &Member, machine: &Arc<dyn Machine>, order: &Order) {
    let id = order.begun_ms;
    if order.act == Act::Take {
        let (held, failed) = {
            let inner = locked(&agent.shelf.inner);
            (inner.held.clone(), inner.failed.clone())
        };
        if held.as_ref() == Some(&order.image) || failed.is_some_and(|(of, _)| of == id) {
            return;
        }
        let taken = take(&agent.shelf, member, machine, order).await;
        match taken {
            Ok(()) => agent.note(None, "update", &format!("image {} taken", order.image.version)),
            Err(why) => {
                agent.note(None, "update", &format!("image {} not taken: {why}", order.image.version));
                locked(&agent.shelf.inner).failed = Some((id, why));
            }
        }
        return;
    }
    {
        let mut inner = locked(&agent.shelf.inner);
        if order.act == Act::Write && inner.held.as_ref() != Some(&order.image) {
            inner.failed = Some((id, "the image was replaced meanwhile: bring it again".to_owned()));
            return;
        }
        // An order may be older than what it wanted: the master hears of a start only after it.
        let (look, version) = (&inner.look, &order.image.version);
        if look.runs == *version || (look.written == *version) != (order.act == Act::Restart) {
            return;
        }
        let recently = |(of, act, at): &(i64, Act, Instant)| {
            *of == id && *act == order.act && (at.elapsed() < AGAIN || !inner.look.doing.is_empty())
        };
        if inner.told.as_ref().is_some_and(recently) {
            return;
        }
        inner.told = Some((id, order.act, Instant::now()));
    }
    let (version, act) = (&order.image.version, order.act);
    let words = if act == Act::Write { "is written beside the one that runs" } else { "is started" };
    agent.note(None, "update", &format!("version {version} {words}"));
    let told = Arc::clone(machine);
    if let Err(why) = blocking(move || told.order(act, id)).await {
        agent.note(None, "update", &format!("the machine was not told: {why}"));
        locked(&agent.shelf.inner).failed = Some((id, why));
    }
}

/// An image that this node runs already, and that nobody else needs, takes room only.
async fn purge(agent: &Agent, member: &Member) {
    let state = member.state();
    let over = state.rollout.as_ref().filter(|rollout| !rollout.goes_on() && rollout.stopped.is_none());
    let Some(over) = over.map(|rollout| &rollout.image) else { return };
    agent.shelf.purge(over).await;
}

/// Body of `POST /v1/update/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Start {
    with_pause: bool,
    /// Seconds for which each node is watched; without: 60.
    watch_s: Option<u32>,
    /// Only say what would be done.
    dry: bool,
}

/// What would be done, or is.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    version: String,
    /// Names, in order.
    nodes: Vec<String>,
    /// About so long.
    seconds: u64,
    /// What stands against it.
    against: Vec<String>,
    begun: bool,
}

/// Begins a rollout of the newest version that a node holds, or says what stands against it.
pub(super) async fn start(agent: &Agent, member: &Member, order: Start) -> Result<Plan, No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    if order.watch_s.is_some_and(|seconds| !(1..=LONGEST_WATCH_S).contains(&seconds)) {
        return Err(No::bad(format!("a node is watched for 1 to {LONGEST_WATCH_S} seconds")));
    }
    let view = member.node.raft_view();
    let Some(known) = status::ask_leader(agent, member, &view).await else {
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, "there is no master to ask".to_owned()));
    };
    let state = member.state();
    if let Some(going) = state.rollout.as_ref().filter(|rollout| rollout.goes_on() && !order.dry) {
        return Err(no(Refused::GoesOn(going.image.version.clone()).to_string()));
    }
    let held = |id: u64| {
        let seen = if id == member.id() { agent.shelf.seen() } else { known.updates.get(&id).cloned() };
        seen.filter(|seen| !seen.holds.is_empty())
            .map(|seen| (id, Image { version: seen.version, sha256: seen.holds, bytes: seen.bytes }))
    };
    // One that did not work may still lie on this node: the newest counts; of the same ones, that which was brought here.
    let own = held(member.id()).into_iter();
    let found = own
        .chain(state.members().filter_map(|(id, _)| held(id)))
        .reduce(|best, next| if is_newer(&next.1.version, &best.1.version) { next } else { best });
    let Some((holder, image)) = found else {
        return Err(no("no node has an image: bring one first (`elpis update take FILE`)".to_owned()));
    };
    let (can_lose, reason) = status::can_lose(&state, &view, Some(&known));
    let sight = Sight {
        state: &state,
        seen: &known.updates,
        me: known.leader,
        can_lose,
        reason: &reason,
        now_ms: known.cluster_now_ms,
    };
    let name = |id: u64| state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let watch_ms = order.watch_s.map_or(WATCH_MS, |seconds| i64::from(seconds) * 1_000);
    let turns = turns(&sight, &image);
    let mut plan = Plan {
        version: image.version.clone(),
        nodes: turns.iter().map(|turn| name(turn.node)).collect(),
        seconds: seconds(turns.len(), watch_ms),
        against: against(&sight, &image, order.with_pause),
        begun: false,
    };
    if order.dry {
        return Ok(plan);
    }
    if !plan.against.is_empty() {
        return Err(no(plan.against.join("; ")));
    }
    let begin = Entry::Begin {
        image,
        holder,
        turns,
        with_pause: order.with_pause,
        watch_ms,
        at_ms: known.cluster_now_ms,
    };
    member.node.propose(Command::Update(begin)).await?;
    super::orders::audit(member, &format!("update to {}", plan.version)).await;
    plan.begun = true;
    Ok(plan)
}

/// Stops the rollout that goes on; the node in turn gets its work back.
pub(super) async fn stop(member: &Member) -> Result<(), No> {
    let state = member.state();
    let turn = state.rollout.as_ref().and_then(Rollout::current);
    let sight = Sight {
        state: &state,
        seen: &BTreeMap::new(),
        me: member.id(),
        can_lose: 0,
        reason: "",
        now_ms: member.cluster_now_ms(),
    };
    let stop = crate::update::stop(&sight, turn, "somebody stopped it".to_owned());
    member.node.propose(stop).await?;
    super::orders::audit(member, "update stopped").await;
    Ok(())
}

/// The master's look at a rollout.
pub(super) fn lead(
    agent: &Agent,
    member: &Member,
    planner: &mut Planner,
    seen: &BTreeMap<u64, Seen>,
) -> Option<Next> {
    let (state, view) = (member.state(), member.node.raft_view());
    state.rollout.as_ref().filter(|rollout| rollout.goes_on())?;
    let known = lead::knowledge(agent, member)?;
    let (can_lose, reason) = status::can_lose(&state, &view, Some(&known));
    let sight = Sight {
        state: &state,
        seen,
        me: member.id(),
        can_lose,
        reason: &reason,
        now_ms: known.cluster_now_ms,
    };
    Some(planner.next(&sight))
}
