//! The master's work: answers renewals, and turns what the pure [`Leader`] decides into log entries.

mod group;

use super::member::Member;
use super::messages::{
    ALIVE, Ask, IMAGE, Knowledge, LOG, MAX_RENEWAL, NodeKnowledge, POKE, RENEW, Renew, Renewed, STATUS,
    VERSION,
};
use super::{Agent, locked, logs, majority, update};
use crate::database::Seen as Position;
use crate::leader::{Leader, Now};
use crate::lease::Grant;
use crate::profile::Profile;
use crate::profile::margins::Margins;
use crate::raft_node::NodeError;
use crate::state::{Command, Failover};
use crate::types::{boot_ms, unix_ms};
use crate::update::{Order, Planner, Seen};
use elpis_watch::NodeId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::Notify;

const PACE: Duration = Duration::from_millis(50);
/// A clock this far off is worth a warning.
const SKEW_MS: i64 = 1000;
/// The first result after a failover is awaited for so long.
const AWAIT_MS: i64 = 60_000;
/// The pace of a rollout.
const ROLL_OUT_MS: i64 = 1000;
/// Pause between two tries to give the leadership away while draining.
const TRANSFER_MS: i64 = 5000;

/// What the master knows and does beside the pure [`Leader`].
#[derive(Debug)]
pub(super) struct Leading {
    leader: Mutex<Option<Leader>>,
    patience: Profile,
    /// Services and clock skew as the last renewals told them.
    heard: Mutex<BTreeMap<NodeId, Heard>>,
    /// Failovers whose first result is awaited: (node, at_ms) -> map revision under which it must be stored.
    awaited: Mutex<BTreeMap<(NodeId, i64), u64>>,
    /// One command of the leader in flight, one line of the timeline, one transfer.
    proposing: AtomicBool,
    telling: AtomicBool,
    transferred: AtomicI64,
    tick_now: Notify,
    group: group::Standing,
    updates: Mutex<Updates>,
    updating: AtomicBool,
}

/// What the master knows of versions, and its part of a rollout.
#[derive(Debug, Default)]
struct Updates {
    seen: BTreeMap<NodeId, Seen>,
    planner: Planner,
    orders: BTreeMap<NodeId, Order>,
    looked_boot_ms: i64,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    services: BTreeMap<String, String>,
    skew_ms: i64,
    margins: Option<Margins>,
}

impl Leading {
    pub(super) fn new(patience: Profile) -> Leading {
        Leading {
            leader: Mutex::default(),
            patience,
            heard: Mutex::default(),
            awaited: Mutex::default(),
            proposing: AtomicBool::new(false),
            telling: AtomicBool::new(false),
            transferred: AtomicI64::new(0),
            tick_now: Notify::new(),
            group: group::Standing::default(),
            updates: Mutex::default(),
            updating: AtomicBool::new(false),
        }
    }

    /// Asks or tells the pure leader.
    fn with<T>(&self, me: NodeId, work: impl FnOnce(&mut Leader) -> T) -> T {
        work(locked(&self.leader).get_or_insert_with(|| Leader::new(me, self.patience)))
    }
}

/// Answers the calls of other node agents, and this one's own.
pub(super) fn answer_calls(agent: &Arc<Agent>, member: &Arc<Member>) {
    // Weak: the node holds the handler, and the member holds the node.
    let (agent, member) = (Arc::downgrade(agent), Arc::downgrade(member));
    let node = member.upgrade().map(|member| member.node.clone());
    if let Some(node) = node {
        node.on_call(move |peer, kind, body| {
            let (agent, member) = (agent.clone(), member.clone());
            async move {
                if kind == IMAGE {
                    let agent = agent.upgrade().ok_or("this node agent stops")?;
                    return update::part(agent, body).await;
                }
                answer(&agent, &member, peer, &kind, &body)
            }
        });
    }
}

fn answer(
    agent: &Weak<Agent>,
    member: &Weak<Member>,
    peer: NodeId,
    kind: &str,
    body: &[u8],
) -> Result<Vec<u8>, String> {
    let (Some(agent), Some(member)) = (agent.upgrade(), member.upgrade()) else {
        return Err("this node agent stops".to_owned());
    };
    let odd = |error: serde_json::Error| format!("the call {kind} cannot be read: {error}");
    match kind {
        RENEW if body.len() > MAX_RENEWAL => Err(format!("a renewal of {} bytes is too long", body.len())),
        RENEW => {
            let renew = serde_json::from_slice(body).map_err(odd)?;
            serde_json::to_vec(&renewal(&agent, &member, peer, renew)).map_err(odd)
        }
        STATUS => {
            let _: Ask = serde_json::from_slice(body).map_err(odd)?;
            let knowledge = knowledge(&agent, &member).ok_or("this node does not lead")?;
            serde_json::to_vec(&knowledge).map_err(odd)
        }
        ALIVE => {
            let _: Ask = serde_json::from_slice(body).map_err(odd)?;
            serde_json::to_vec(&majority::here(&member)).map_err(odd)
        }
        POKE => {
            member.renew_now.notify_one();
            Ok(Vec::new())
        }
        LOG => {
            let ask = serde_json::from_slice(body).map_err(odd)?;
            serde_json::to_vec(&logs::here(&agent, &ask)?).map_err(odd)
        }
        other => Err(format!("unknown call {other}; update the older node")),
    }
}

fn renewal(agent: &Arc<Agent>, member: &Arc<Member>, peer: NodeId, renew: Renew) -> Renewed {
    let leading = &member.leading;
    let view = member.node.raft_view();
    if !view.is_leader || renew.renewal.version != crate::lease::VERSION {
        let refused = if view.is_leader {
            format!(
                "version {} against {}; update the older node",
                renew.renewal.version,
                crate::lease::VERSION
            )
        } else {
            "this node does not lead".to_owned()
        };
        let grant = Grant { version: crate::lease::VERSION, term: view.term, refused, ..Grant::default() };
        return Renewed { grant, applied_index: view.applied_index, ..Renewed::default() };
    }
    let state = member.state();
    let now = Now { boot_ms: boot_ms(), unix_ms: unix_ms(), view: &view, state: &state };
    let grant = leading.with(member.id(), |leader| leader.renewal(peer, &renew.renewal, &now));
    let services = renew.services.iter().take(16);
    let heard = Heard {
        services: services.map(|(role, state)| (short(role), short(state))).collect(),
        skew_ms: renew.renewal.unix_ms.saturating_sub(grant.cluster_now_ms),
        margins: renew.margins,
    };
    if state.nodes.contains_key(&peer) {
        locked(&leading.heard).insert(peer, heard);
    }
    let waits = |node: &crate::state::Node| !node.live();
    if !renew.renewal.released.is_empty() || state.nodes.get(&peer).is_some_and(waits) {
        leading.tick_now.notify_one();
    }
    let mut update = None;
    if grant.refused.is_empty() {
        let mut updates = locked(&leading.updates);
        match renew.update {
            Some(told) => drop(updates.seen.insert(peer, told)),
            // It started anew: what it said before says nothing.
            None => drop(updates.seen.remove(&peer)),
        }
        update = updates.orders.get(&peer).cloned();
    }
    let mut database = None;
    if let Some(told) = renew.database.filter(|_| grant.refused.is_empty()) {
        if told.report.local.up {
            let seen = Position { seq: told.report.local.received(), at_ms: grant.cluster_now_ms };
            member.seen(peer, seen);
        }
        leading.group.heard(view.term, peer, told);
        let moment = group::Now { boot_ms: now.boot_ms, cluster_ms: grant.cluster_now_ms };
        group::plan(agent, member, &view, &state, moment);
        database = leading.group.order(peer);
    }
    let anew =
        grant.refused.is_empty() && leading.with(member.id(), |leader| leader.turn(&now)) == Some(peer);
    let positions = member.positions(&state);
    Renewed { grant, applied_index: view.applied_index, database, positions, update, anew }
}

fn short(text: &str) -> String {
    text.chars().take(32).collect()
}

/// What this node knows as the leader; `None` when it does not lead, or leads nobody: cut off from the majority it
/// would not notice its successor.
pub(super) fn knowledge(agent: &Agent, member: &Member) -> Option<Knowledge> {
    let view = member.node.raft_view();
    let state = member.state();
    let now = Now { boot_ms: boot_ms(), unix_ms: unix_ms(), view: &view, state: &state };
    let leads = |leader: &mut Leader| leader.granter().may_grant(&view, now.boot_ms).is_ok();
    if !view.is_leader || !member.leading.with(member.id(), leads) {
        return None;
    }
    let heard = locked(&member.leading.heard).clone();
    let mut warnings = Vec::new();
    let (cluster_now_ms, nodes) = member.leading.with(member.id(), |leader| {
        let holders = leader.holders(&now);
        let shown = leader.shown(&now);
        let mut nodes = BTreeMap::new();
        for (id, node) in state.members() {
            let heard = heard.get(&id).cloned().unwrap_or_default();
            if heard.skew_ms.abs() > SKEW_MS {
                let seconds = heard.skew_ms / 1000;
                warnings.push(format!(
                    "the clock of {} is {seconds} s off; cluster time is used instead, but set it right",
                    node.name
                ));
            }
            let left = leader.granter().left_ms(id, now.boot_ms).unwrap_or(0);
            let lease_ms_left = if holders.contains(&id) { left } else { 0 };
            let unfit = leader.unfit(id).to_owned();
            nodes.insert(
                id,
                NodeKnowledge {
                    lease_ms_left,
                    services: heard.services,
                    unfit,
                    skew_ms: heard.skew_ms,
                    shown: shown.get(&id).copied(),
                    margins: heard.margins,
                },
            );
        }
        (leader.cluster_now_ms(&now), nodes)
    });
    let mut nodes: BTreeMap<NodeId, NodeKnowledge> = nodes;
    if let Some(mine) = nodes.get_mut(&member.id()) {
        // Its own lease is its quorum's.
        mine.lease_ms_left = (member.publish().until_boot_ms - boot_ms()).max(0);
        mine.services = locked(&agent.registry).services(boot_ms());
    }
    Some(Knowledge {
        version: VERSION,
        term: view.term,
        leader: member.id(),
        cluster_now_ms,
        nodes,
        warnings,
        database: member.leading.group.reports(now.boot_ms),
        positions: member.positions(&state),
        wait: member.leading.group.waits(&state),
        accounts_error: locked(&member.accounts_error).clone(),
        updates: locked(&member.leading.updates).seen.clone(),
    })
}

/// Until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let mut ticks = super::every(PACE);
    loop {
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = member.leading.tick_now.notified() => {}
        }
        tick(&agent, &member);
    }
}

fn tick(agent: &Arc<Agent>, member: &Arc<Member>) {
    let leading = &member.leading;
    let view = member.node.raft_view();
    if !view.is_leader {
        if let Some(offset) = member.offset_ms() {
            leading.with(member.id(), |leader| leader.follow(offset, member.heard_boot_ms()));
        }
        locked(&leading.heard).clear();
        locked(&leading.awaited).clear();
        leading.group.forget();
        *locked(&leading.updates) = Updates::default();
        return;
    }
    let state = member.state();
    let now = Now { boot_ms: boot_ms(), unix_ms: unix_ms(), view: &view, state: &state };
    if !leading.proposing.load(Ordering::SeqCst) {
        let command = leading.with(member.id(), |leader| leader.tick(&now));
        if let Some(command) = command {
            leading.proposing.store(true, Ordering::SeqCst);
            propose(agent, member, view.term, command, |leading| &leading.proposing);
        }
    }
    if !leading.telling.load(Ordering::SeqCst)
        && let Some(line) = timeline(member, &now)
    {
        leading.telling.store(true, Ordering::SeqCst);
        propose(agent, member, view.term, Command::FailoverSeen(line), |leading| &leading.telling);
    }
    let (grants, cluster_ms) = leading.with(member.id(), |leader| {
        (leader.granter().may_grant(&view, now.boot_ms).is_ok(), leader.cluster_now_ms(&now))
    });
    if grants {
        group::plan(agent, member, &view, &state, group::Now { boot_ms: now.boot_ms, cluster_ms });
        roll_out(agent, member, &now);
    }
    transfer(agent, member, &now);
}

/// Looks at a rollout that goes on, every second.
fn roll_out(agent: &Arc<Agent>, member: &Arc<Member>, now: &Now<'_>) {
    let leading = &member.leading;
    if leading.updating.load(Ordering::SeqCst) {
        return;
    }
    let (mut planner, seen) = {
        let mut updates = locked(&leading.updates);
        if now.boot_ms - updates.looked_boot_ms < ROLL_OUT_MS {
            return;
        }
        updates.looked_boot_ms = now.boot_ms;
        updates.seen.retain(|id, _| now.state.nodes.contains_key(id));
        (updates.planner.clone(), updates.seen.clone())
    };
    let next = update::lead(agent, member, &mut planner, &seen).unwrap_or_default();
    {
        let mut updates = locked(&leading.updates);
        (updates.planner, updates.orders) = (planner, next.orders);
    }
    if let Some(command) = next.command {
        leading.updating.store(true, Ordering::SeqCst);
        propose(agent, member, now.view.term, command, |leading| &leading.updating);
    }
}

fn propose(
    agent: &Agent,
    member: &Arc<Member>,
    term: u64,
    command: Command,
    flag: fn(&Leading) -> &AtomicBool,
) {
    let member = Arc::clone(member);
    agent.tasks.spawn(async move {
        let what = command.to_string();
        match member.node.propose_in_term(term, command).await {
            Ok(_) => tracing::info!(term, what, "done"),
            Err(NodeError::NoLeader) => tracing::info!(term, what, "not written: another term"),
            Err(error) => tracing::warn!(term, what, %error, "not done"),
        }
        flag(&member.leading).store(false, Ordering::SeqCst);
        member.leading.tick_now.notify_one();
    });
}

/// The next line of the failover timeline that got more complete, if any.
fn timeline(member: &Member, now: &Now<'_>) -> Option<Failover> {
    let leading = &member.leading;
    let (cluster_now, stored) = leading.with(member.id(), |leader| {
        let live = now.state.members().filter(|(_, node)| node.live());
        let stored: Vec<(i64, u64)> = live.map(|(id, _)| leader.stored(id)).collect();
        (leader.cluster_now_ms(now), stored)
    });
    let mut awaited = locked(&leading.awaited);
    awaited.retain(|(_, at_ms), _| cluster_now - at_ms <= AWAIT_MS);
    for line in &now.state.failovers {
        let since_death = |at_ms: i64| at_ms.saturating_sub(line.at_ms).max(0) + line.detected_ms;
        if cluster_now - line.at_ms > AWAIT_MS || line.moved == 0 {
            continue;
        }
        if line.reassigned_ms.is_none() {
            if now.state.shards.iter().any(|shard| shard.owner == line.node && !now.state.live(shard.owner)) {
                continue;
            }
            awaited.insert((line.node, line.at_ms), now.state.revision);
            return Some(Failover { reassigned_ms: Some(since_death(cluster_now)), ..line.clone() });
        }
        if line.first_result_ms.is_none() {
            let from = *awaited.entry((line.node, line.at_ms)).or_insert(now.state.revision);
            let results = stored.iter().filter(|(at_ms, revision)| *revision >= from && *at_ms >= line.at_ms);
            if let Some(first) = results.map(|(at_ms, _)| *at_ms).min() {
                return Some(Failover { first_result_ms: Some(since_death(first)), ..line.clone() });
            }
        }
    }
    None
}

/// A leader gives its leadership away when it drains and owns nothing any more, or when its servers neither work nor
/// release their shards.
fn transfer(agent: &Agent, member: &Arc<Member>, now: &Now<'_>) {
    let me = member.id();
    let drains = now.state.nodes.get(&me).is_some_and(|node| node.draining);
    let owns = now.state.shards.iter().any(|shard| shard.owner == me || shard.to.is_some());
    let yields =
        (drains && !owns) || member.leading.with(me, |leader| leader.must_yield() || leader.hands_over(now));
    let tried = &member.leading.transferred;
    if !yields || now.view.transferring || now.boot_ms - tried.load(Ordering::SeqCst) < TRANSFER_MS {
        return;
    }
    let staying =
        |id: &NodeId| *id != me && now.state.nodes.get(id).is_some_and(|node| node.live() && !node.draining);
    let Some(to) = now.view.voters.iter().copied().find(staying) else { return };
    tried.store(now.boot_ms, Ordering::SeqCst);
    let member = Arc::clone(member);
    agent.tasks.spawn(async move {
        match member.node.transfer_leader(to).await {
            Ok(()) => tracing::info!(
                to,
                "this node drains, cannot work or has to start anew: leadership given away"
            ),
            Err(error) => tracing::info!(to, %error, "leadership not given away yet"),
        }
    });
}
