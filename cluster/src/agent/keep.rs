//! Looks after the server processes of this node, and after Raft itself.

use super::{Agent, AgentError, locked};
use crate::recovery::GivenUp;
use crate::types::boot_ms;
use std::sync::Arc;
use std::time::Duration;

const PACE: Duration = Duration::from_millis(100);

/// The cluster went on without this node: it ends, and the next start serves nothing. Without the mark it would be told
/// once more.
fn given_up(agent: &Agent, generation: u64, mark: &GivenUp) {
    if let Err(error) = mark.write(&agent.config.raft.data_dir) {
        tracing::warn!(%error, "that this node was given up cannot be kept");
    }
    agent.fail(AgentError::GivenUp(mark.words(generation)));
}

/// Until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>) {
    let mut ticks = super::every(PACE);
    let mut before = boot_ms();
    loop {
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let member = agent.member();
        let moves = member.as_ref().map(|member| member.moves_from_here()).unwrap_or_default();
        // When this process (and so perhaps the whole machine) stood still, heartbeats wait in the socket: whoever was
        // silent only because nobody listened gets the time to be heard.
        let now = boot_ms();
        let stood_still = now - before > 5 * i64::try_from(PACE.as_millis()).unwrap_or(i64::MAX / 8);
        before = now;
        if stood_still {
            locked(&agent.registry).pardon(now);
        }
        let (kill, happened) = locked(&agent.registry).tick(!moves.is_empty(), now);
        for process in kill {
            process.kill();
        }
        for event in happened {
            agent.note(Some(event.role), event.kind, &event.text);
        }
        if let Some(mark) = member.as_ref().and_then(|member| member.node.given_up()) {
            given_up(&agent, member.as_ref().map_or(0, |member| member.generation), &mark);
        }
        if let Some(why) = member.and_then(|member| member.node.raft_view().failed) {
            agent.fail(AgentError::RaftStopped(why));
        }
    }
}
