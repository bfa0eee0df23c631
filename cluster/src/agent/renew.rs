//! Renewal of this node's lease, and its publication.

use super::member::Member;
use super::messages::{RENEW, Renew, Renewed};
use super::{Agent, locked, timing};
use crate::lease::{Renewal, VERSION};
use crate::profile::margins::What;
use crate::raft_node::RaftView;
use crate::state::MAX_NODES;
use crate::types::{boot_ms, monotonic_ms, unix_ms};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const PACE: Duration = Duration::from_millis(200);
/// An answer that comes later is worth little, and a hung leader must not hold the next renewals back.
const PATIENCE: Duration = Duration::from_millis(400);
const IN_FLIGHT: usize = 3;
const PUBLISH: Duration = Duration::from_millis(100);

/// Renews until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut ticks = super::every(PACE);
    loop {
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = member.renew_now.notified() => {}
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (agent, member) = (Arc::clone(&agent), Arc::clone(&member));
        agent.tasks.clone().spawn(async move {
            once(&agent, &member).await;
            drop(place);
        });
    }
}

async fn once(agent: &Agent, member: &Member) {
    let view = member.node.raft_view();
    let Some(leader) = view.leader else { return };
    let renew = say(agent, member, &view);
    let Ok(body) = serde_json::to_vec(&renew) else { return };
    let sent = boot_ms();
    let Ok(called) = tokio::time::timeout(PATIENCE, member.node.call(leader, RENEW, body)).await else {
        tracing::debug!(leader, "no answer to a renewal in time");
        return;
    };
    match called.map(|body| serde_json::from_slice::<Renewed>(&body)) {
        Ok(Ok(answer)) if answer.grant.version == VERSION => {
            if answer.grant.term == view.term {
                locked(&agent.registry).loads_heard(&renew.renewal.loads);
            }
            if !answer.grant.refused.is_empty() {
                tracing::debug!(leader, why = answer.grant.refused, "no lease");
            }
            if answer.grant.refused.is_empty() {
                answer.positions.iter().take(MAX_NODES).for_each(|(node, seen)| member.seen(*node, *seen));
            }
            if leader != member.id() {
                let now = monotonic_ms();
                locked(&agent.gauge).add(now, What::Trip, boot_ms() - sent);
            }
            member.answered(sent, &answer.grant, answer.applied_index);
            if answer.anew {
                timing::start_anew(agent, member);
            }
            if let Some(order) = answer.database {
                member.desk.obey(answer.grant.term, &order);
            }
            if answer.grant.refused.is_empty() {
                agent.shelf.obey(answer.update);
            }
        }
        Ok(Ok(answer)) => {
            tracing::warn!(
                leader,
                version = answer.grant.version,
                "grant of another version; update the older node"
            );
        }
        Ok(Err(error)) => tracing::warn!(leader, %error, "the answer to a renewal cannot be read"),
        Err(error) => tracing::debug!(leader, %error, "renewal failed"),
    }
}

/// What this node says of itself.
fn say(agent: &Agent, member: &Member, view: &RaftView) -> Renew {
    let moves = member.moves_from_here();
    let session = member.state().nodes.get(&member.id()).map_or(0, |node| node.session);
    let mut registry = locked(&agent.registry);
    if member.is_new_term(view.term) {
        registry.all_loads_unheard();
    }
    let now = boot_ms();
    let (stored_ms, stored_revision) = registry.stored();
    Renew {
        renewal: Renewal {
            version: VERSION,
            session,
            applied_index: view.applied_index,
            unix_ms: unix_ms(),
            unfit: super::accounts::unfit(registry.unfit(now), member),
            released: registry.acknowledged(&moves),
            loads: registry.loads(),
            stored_ms,
            stored_revision,
            keeps_addresses: registry.keeps_addresses(now),
            shown: Some(member.shown()),
        },
        services: registry.services(now),
        database: member.desk.report(view.term),
        update: agent.shelf.seen(),
        margins: Some(timing::margins(agent)),
    }
}

/// Tells the watch streams of the lease, until the node agent stops.
pub(super) async fn publish(agent: Arc<Agent>, member: Arc<Member>) {
    let mut states = member.node.state();
    let mut ticks = super::every(PUBLISH);
    loop {
        member.publish();
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = member.republish.notified() => {}
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}
