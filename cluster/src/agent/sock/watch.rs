//! A watch stream: a line at each change of lease or map, and at least every second.

use super::answer::{Body, No};
use crate::agent::member::Member;
use crate::agent::{Agent, locked};
use bytes::Bytes;
use elpis_watch::Role;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Without any change a line goes out all the same.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// Lines less than this apart go out as one.
const COALESCE: Duration = Duration::from_millis(10);
/// A reader that takes no line for so long is dropped.
const SLOW: Duration = Duration::from_secs(2);

struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Opens the stream of a registered process.
pub(super) fn open(
    agent: &Arc<Agent>,
    member: Arc<Member>,
    role: Role,
    incarnation: u64,
) -> Result<Response<Body>, No> {
    locked(&agent.registry).wanted(role, incarnation)?;
    let (lines, body) = mpsc::channel(1);
    let agent = Arc::clone(agent);
    agent.tasks.clone().spawn(async move {
        let stop = agent.stop.clone();
        stop.run_until_cancelled(feed(agent, member, role, incarnation, lines)).await;
    });
    Ok(Response::new(Lines(body).boxed()))
}

async fn feed(
    agent: Arc<Agent>,
    member: Arc<Member>,
    role: Role,
    incarnation: u64,
    lines: mpsc::Sender<Bytes>,
) {
    let mut leases = member.lease.subscribe();
    let mut states = member.node.state();
    let gate = role == Role::DbGate;
    let mut traffic = member.desk.traffic.subscribe();
    let mut told = None;
    loop {
        let began = Instant::now();
        if locked(&agent.registry).wanted(role, incarnation).is_err() {
            return;
        }
        states.borrow_and_update();
        // The map is taken first: a lease that is newer than the map only knows more of the time.
        let (revision, map) = member.map(role);
        let map = (told != Some(revision)).then_some(map);
        member.publish();
        let lease = *leases.borrow_and_update();
        let order = traffic.borrow_and_update().clone().filter(|_| gate);
        let log = locked(&agent.logs).of(Some(role));
        match timeout(SLOW, lines.send(Member::line(lease, map.as_deref(), log, order))).await {
            Ok(Ok(())) => told = Some(revision),
            Ok(Err(_)) => return,
            Err(_) => {
                agent.note(Some(role), "slow", "it does not read its orders; its watch stream is closed");
                return;
            }
        }
        tokio::select! {
            () = lines.closed() => return,
            () = tokio::time::sleep(SIGN_OF_LIFE) => {}
            changed = leases.changed() => if changed.is_err() { return },
            changed = states.changed() => if changed.is_err() { return },
            changed = traffic.changed(), if gate => if changed.is_err() { return },
        }
        if !gate {
            tokio::time::sleep_until(began + COALESCE).await;
        }
    }
}
