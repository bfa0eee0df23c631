//! The watch client: registers a server process at its node agent, follows the orders, reports back.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::http::{EXCHANGE, exchange, open};
use crate::types::{Frame, Hello, Map, Released, Report, Role, Traffic, TrafficDone, VERSION, Welcome};
use crate::{Gate, LinkError, Progress};

/// Longest line of the watch stream.
const MAX_FRAME: usize = 1 << 20;
/// A stream this long without a line is dead: lines come with every renewal.
const STREAM_SILENCE: Duration = Duration::from_secs(3);
/// Pause before the next try to reach the node agent.
const RETRY: Duration = Duration::from_millis(100);
/// How long [`Link::connect`] waits for a node agent that is just starting.
const FIRST_CONTACT: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Connection of a server process with its node agent. Cheap to clone; the last clone's drop ends it.
///
/// It never gives up: when the node agent restarts the process registers again with the incarnation it has. The
/// [`Gate`] closes by itself meanwhile.
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    role: Role,
    welcome: Welcome,
    gate: Gate,
    progress: Progress,
    map: watch::Sender<Arc<Map>>,
    traffic: watch::Sender<Option<Traffic>>,
    /// Acknowledgements not yet taken by the node agent: shard -> epoch of the move. At most one a shard.
    released: Mutex<BTreeMap<u16, u64>>,
    released_more: Notify,
    superseded: CancellationToken,
    stop: CancellationToken,
}

impl Link {
    /// Registers this process and returns when the first map is there. Waits up to 30 s for a node agent that starts.
    pub async fn connect(socket: &Path, role: Role) -> Result<Link, LinkError> {
        let begin = Instant::now();
        loop {
            let error = match Self::try_connect(socket, role).await {
                Ok(link) => return Ok(link),
                Err(e @ (LinkError::Superseded(_) | LinkError::Malformed(_))) => return Err(e),
                Err(e) => e,
            };
            if begin.elapsed() > FIRST_CONTACT {
                return Err(error);
            }
            tracing::debug!(role = role.as_str(), %error, "node agent not ready yet");
            sleep(RETRY).await;
        }
    }

    async fn try_connect(socket: &Path, role: Role) -> Result<Link, LinkError> {
        let welcome = hello(socket, role, None).await?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            socket: socket.to_path_buf(),
            role,
            welcome,
            gate: Gate::default(),
            progress: Progress::default(),
            map: watch::Sender::new(Arc::new(Map::default())),
            traffic: watch::Sender::default(),
            released: Mutex::new(BTreeMap::new()),
            released_more: Notify::new(),
            superseded: CancellationToken::new(),
            stop: stop.clone(),
        });
        let (first, seen) = oneshot::channel();
        let guard = stop.clone().drop_guard();
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow(shared.clone(), first)));
        tokio::spawn(stop.clone().run_until_cancelled_owned(beat(shared.clone())));
        tokio::spawn(stop.run_until_cancelled_owned(send_released(shared.clone())));
        match timeout(FIRST_CONTACT, seen).await {
            Ok(Ok(())) => Ok(Link { shared, _end: Arc::new(guard) }),
            Ok(Err(_)) => Err(LinkError::Superseded("the node agent ended the watch at once".into())),
            Err(_) => Err(LinkError::Timeout {
                what: "the first map of the watch stream".into(),
                seconds: FIRST_CONTACT.as_secs(),
            }),
        }
    }

    /// Who we are: cluster, node, incarnation.
    pub fn welcome(&self) -> &Welcome {
        &self.shared.welcome
    }

    /// The role this process registered as.
    pub fn role(&self) -> Role {
        self.shared.role
    }

    /// The map, always the newest.
    pub fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.shared.map.subscribe()
    }

    /// What the database gate lets through; `None` before the first order.
    pub fn traffic(&self) -> watch::Receiver<Option<Traffic>> {
        self.shared.traffic.subscribe()
    }

    /// Tells that an order of [`traffic`](Self::traffic) is obeyed.
    pub async fn traffic_done(&self, number: u64, replication_port: u16) -> Result<(), LinkError> {
        let incarnation = self.shared.welcome.incarnation;
        let done = TrafficDone { version: VERSION, incarnation, number, replication_port };
        exchange::<Value>(&self.shared.socket, Method::POST, "/v1/traffic", Some(&done), EXCHANGE).await?;
        Ok(())
    }

    /// The right to act: ask it right before each probe packet and each COMMIT.
    pub fn gate(&self) -> Gate {
        self.shared.gate.clone()
    }

    /// Cluster time in Unix milliseconds.
    pub fn cluster_now_ms(&self) -> i64 {
        self.shared.gate.cluster_now_ms()
    }

    /// Shards (with their epochs) that this node owns and is not about to give away.
    pub fn owned(&self, map: &Map) -> Vec<(u16, u64)> {
        map.owned(self.shared.welcome.node)
    }

    /// Shards to stop, flush and acknowledge with [`released`](Self::released), with the epochs of their moves.
    pub fn releasing(&self, map: &Map) -> Vec<(u16, u64)> {
        map.releasing(self.shared.welcome.node)
    }

    /// What this server says of itself with each heartbeat.
    pub fn progress(&self) -> Progress {
        self.shared.progress.clone()
    }

    /// Acknowledges that these shards are stopped, flushed and forgotten for these moves; repeated until answered.
    pub fn released(&self, shards: &[(u16, u64)]) {
        let mut pending = self.shared.released.lock().unwrap_or_else(PoisonError::into_inner);
        for &(shard, epoch) in shards {
            let held = pending.entry(shard).or_insert(epoch);
            *held = epoch.max(*held);
        }
        drop(pending);
        self.shared.released_more.notify_one();
    }

    /// Tells the node agent something that an operator should see.
    pub async fn report_event(&self, kind: &str, text: &str) -> Result<(), LinkError> {
        let report = Report {
            version: VERSION,
            role: self.shared.role,
            incarnation: self.shared.welcome.incarnation,
            kind: kind.chars().take(64).collect(),
            text: text.chars().take(1000).collect(),
        };
        exchange::<Value>(&self.shared.socket, Method::POST, "/v1/event", Some(&report), EXCHANGE).await?;
        Ok(())
    }

    /// Resolves when the node agent wants this process no more (another one has its role, or the node became
    /// another): the process must exit. The gate is closed by then.
    pub async fn superseded(&self) {
        self.shared.superseded.cancelled().await;
    }
}

async fn hello(socket: &Path, role: Role, incarnation: Option<u64>) -> Result<Welcome, LinkError> {
    let hello = Hello { version: VERSION, role, pid: std::process::id(), incarnation };
    let welcome: Welcome = exchange(socket, Method::POST, "/v1/hello", Some(&hello), EXCHANGE).await?;
    if welcome.version != VERSION {
        return Err(LinkError::Malformed(format!(
            "the node agent speaks version {}, this program version {VERSION}",
            welcome.version
        )));
    }
    Ok(welcome)
}

/// Keeps the watch stream open for ever.
async fn follow(shared: Arc<Shared>, first: oneshot::Sender<()>) {
    let mut first = Some(first);
    let mut again = false;
    loop {
        match follow_once(&shared, &mut first, again).await {
            Err(LinkError::Superseded(why)) => {
                tracing::error!(role = shared.role.as_str(), %why, "this process is not wanted any more");
                shared.gate.close();
                shared.superseded.cancel();
                return;
            }
            Err(error) => tracing::warn!(role = shared.role.as_str(), %error, "watch stream lost"),
            Ok(()) => tracing::info!(role = shared.role.as_str(), "watch stream ended"),
        }
        again = true;
        sleep(RETRY).await;
    }
}

async fn follow_once(
    shared: &Shared,
    first: &mut Option<oneshot::Sender<()>>,
    again: bool,
) -> Result<(), LinkError> {
    let mine = &shared.welcome;
    if again {
        let now = hello(&shared.socket, shared.role, Some(mine.incarnation)).await?;
        if (now.node, now.incarnation, &now.cluster) != (mine.node, mine.incarnation, &mine.cluster) {
            return Err(LinkError::Superseded(format!(
                "the node agent is now node {} of cluster {}, incarnation {}",
                now.node, now.cluster, now.incarnation
            )));
        }
    }
    let path = format!("/v1/watch?role={}&incarnation={}", shared.role.as_str(), mine.incarnation);
    let mut body = open(&shared.socket, &path).await?.into_body();
    let mut buffer = BytesMut::new();
    loop {
        let Ok(part) = timeout(STREAM_SILENCE, body.frame()).await else {
            return Err(LinkError::Timeout {
                what: "the watch stream".into(),
                seconds: STREAM_SILENCE.as_secs(),
            });
        };
        let Some(part) = part else { return Ok(()) };
        let part = part.map_err(|e| LinkError::Broken(e.to_string()))?;
        let Ok(data) = part.into_data() else { continue };
        let searched = buffer.len();
        buffer.extend_from_slice(&data);
        let mut from = searched;
        while let Some(end) = buffer[from..].iter().position(|b| *b == b'\n').map(|at| from + at) {
            let line = buffer.split_to(end);
            buffer.advance(1);
            from = 0;
            take_line(shared, &line, first)?;
        }
        if buffer.len() > MAX_FRAME {
            return Err(LinkError::Malformed(format!(
                "a line of the watch stream is over {MAX_FRAME} bytes"
            )));
        }
    }
}

fn take_line(shared: &Shared, line: &[u8], first: &mut Option<oneshot::Sender<()>>) -> Result<(), LinkError> {
    if line.is_empty() {
        return Ok(());
    }
    let frame: Frame = serde_json::from_slice(line).map_err(|e| LinkError::Malformed(e.to_string()))?;
    if frame.version != VERSION {
        return Err(LinkError::Malformed(format!("frame of version {}, expected {VERSION}", frame.version)));
    }
    // Lease first: whoever wakes up by the map finds the gate as the map's frame told it.
    shared.gate.set(frame.lease);
    crate::log::want(frame.log);
    if let Some(traffic) = frame.traffic {
        shared.traffic.send_if_modified(|held| {
            let new = held.as_ref() != Some(&traffic);
            *held = Some(traffic);
            new
        });
    }
    if let Some(map) = frame.map {
        // A restarted node agent may know less for a moment; what was seen stays seen.
        if map.revision >= shared.map.borrow().revision {
            shared.map.send_replace(Arc::new(map));
        }
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
    }
    Ok(())
}

async fn beat(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(beat) = shared.progress.beat(shared.role, shared.welcome.incarnation) else {
            tracing::error!(role = shared.role.as_str(), "the main loop stands still; no heartbeat");
            continue;
        };
        let sent =
            exchange::<Value>(&shared.socket, Method::POST, "/v1/heartbeat", Some(&beat), EXCHANGE).await;
        if let Err(error) = sent {
            tracing::debug!(role = shared.role.as_str(), %error, "heartbeat not taken");
            if !beat.load.is_empty() {
                shared.progress.load(beat.load);
            }
        }
    }
}

async fn send_released(shared: Arc<Shared>) {
    loop {
        let shards: Vec<(u16, u64)> = {
            let pending = shared.released.lock().unwrap_or_else(PoisonError::into_inner);
            pending.iter().map(|(s, e)| (*s, *e)).collect()
        };
        if shards.is_empty() {
            shared.released_more.notified().await;
            continue;
        }
        let body = Released {
            version: VERSION,
            role: shared.role,
            incarnation: shared.welcome.incarnation,
            shards: shards.clone(),
        };
        match exchange::<Value>(&shared.socket, Method::POST, "/v1/released", Some(&body), EXCHANGE).await {
            Ok(_) => {
                let mut pending = shared.released.lock().unwrap_or_else(PoisonError::into_inner);
                for (shard, epoch) in shards {
                    if pending.get(&shard) == Some(&epoch) {
                        pending.remove(&shard);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(role = shared.role.as_str(), %error, "release not taken; sending it again");
                sleep(RETRY).await;
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
