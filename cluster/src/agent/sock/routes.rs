//! Who is asked what.

use super::Peer;
use super::answer::{Body, No, json, refuse, text};
use crate::agent::member::Member;
use crate::agent::process::Process;
use crate::agent::{Agent, adopt, forming, locked, logs, orders, recover, status, timing, update};
use crate::types::boot_ms;
use elpis_watch::{Heartbeat, Hello, Released, Report, Role, TrafficDone, VERSION, Welcome};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Largest body: 4,096 acknowledgements fit well.
const MAX_BODY: usize = 256 * 1024;
/// Time for a body to arrive.
const BODY: Duration = Duration::from_secs(5);
/// Longest words of an event that are kept, in characters.
const MAX_TEXT: usize = 1000;

#[derive(Serialize)]
struct Nothing {}

/// Answers a request; a refusal is an answer too.
pub(super) async fn answer(agent: &Arc<Agent>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    Box::pin(route(agent, peer, request)).await.unwrap_or_else(refuse)
}

async fn route(agent: &Arc<Agent>, peer: Peer, request: Request<Incoming>) -> Result<Response<Body>, No> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    peer.standing.may(&head.method, path)?;
    match (&head.method, path) {
        (&Method::GET, "/v1/watch") => {
            let (role, incarnation) = watch_query(head.uri.query())?;
            peer.standing.speaks_for(role)?;
            super::watch::open(agent, member(agent)?, role, incarnation)
        }
        (&Method::POST, "/v1/heartbeat") => {
            let beat: Heartbeat = read(body).await?;
            speaks(beat.version)?;
            let role = beat.role.ok_or_else(|| No::bad("a heartbeat names its role"))?;
            peer.standing.speaks_for(role)?;
            locked(&agent.registry).beat(role, &beat, boot_ms())?;
            json(&Nothing {})
        }
        (&Method::POST, "/v1/hello") => {
            let hello: Hello = read(body).await?;
            speaks(hello.version)?;
            peer.standing.speaks_for(hello.role)?;
            json(&welcome(agent, peer, &hello)?)
        }
        (&Method::POST, "/v1/released") => {
            let released: Released = read(body).await?;
            speaks(released.version)?;
            peer.standing.speaks_for(released.role)?;
            let member = member(agent)?;
            locked(&agent.registry).released(&released)?;
            member.renew_now.notify_one();
            json(&Nothing {})
        }
        (&Method::POST, "/v1/traffic") => {
            let done: TrafficDone = read(body).await?;
            speaks(done.version)?;
            peer.standing.speaks_for(Role::DbGate)?;
            locked(&agent.registry).wanted(Role::DbGate, done.incarnation)?;
            member(agent)?.desk.gate_obeys(done);
            json(&Nothing {})
        }
        (&Method::POST, "/v1/event") => {
            let report: Report = read(body).await?;
            speaks(report.version)?;
            peer.standing.speaks_for(report.role)?;
            locked(&agent.registry).wanted(report.role, report.incarnation)?;
            let kind: String = report.kind.chars().take(64).collect();
            let words: String = report.text.chars().take(MAX_TEXT).collect();
            agent.note(Some(report.role), &kind, &words);
            json(&Nothing {})
        }
        (&Method::GET, "/v1/status") => json(&status::status(agent).await),
        (&Method::POST, "/v1/log") => json(&logs::order(agent, read(body).await?).await?),
        (&Method::GET, "/healthz") => Ok(text(status::health(agent)?)),
        (&Method::GET, "/metrics") => Ok(text(status::metrics(agent))),
        (&Method::POST, "/v1/cluster/init") => json(&forming::init(agent, read(body).await?).await?),
        (&Method::POST, "/v1/cluster/join") => {
            forming::join(agent, read(body).await?)?;
            json(&Nothing {})
        }
        (&Method::GET, "/v1/cluster/join") => json(&locked(&agent.join).status()),
        (&Method::POST, "/v1/cluster/add-node") => json(&orders::add_node(&*member(agent)?).await?),
        (&Method::POST, "/v1/cluster/recover") => {
            json(&recover::order(agent, &*member(agent)?, read(body).await?).await?)
        }
        (&Method::POST, "/v1/cluster/database") => {
            let (member, endpoint) = (member(agent)?, read(body).await?);
            orders::may_name(&member)?;
            orders::try_database(agent, &endpoint).await?;
            orders::set_database(&member, endpoint).await?;
            json(&Nothing {})
        }
        (&Method::POST, "/v1/cluster/address") => {
            orders::address(agent, &*member(agent)?, read(body).await?).await?;
            json(&Nothing {})
        }
        (&Method::POST, "/v1/cluster/profile") => {
            timing::order(agent, &*member(agent)?, read(body).await?).await?;
            json(&Nothing {})
        }
        (&Method::POST, "/v1/database/switchover") => {
            orders::switchover(agent, &*member(agent)?, read(body).await?).await?;
            json(&Nothing {})
        }
        (&Method::POST, "/v1/database/adopt") => {
            json(&adopt::order(agent, &*member(agent)?, read(body).await?).await?)
        }
        (&Method::PUT, "/v1/update/image") => json(&update::receive(agent, body).await?),
        (&Method::POST, "/v1/update/start") => {
            json(&update::start(agent, &*member(agent)?, read(body).await?).await?)
        }
        (&Method::POST, "/v1/update/stop") => {
            update::stop(&*member(agent)?).await?;
            json(&Nothing {})
        }
        (&Method::POST, "/v1/node/replace") => {
            json(&orders::replace(&*member(agent)?, read(body).await?).await?)
        }
        (&Method::POST, "/v1/node/drain" | "/v1/node/undrain" | "/v1/node/remove") => {
            let order = path.rsplit('/').next().unwrap_or_default();
            orders::node(&*member(agent)?, order, read(body).await?).await?;
            json(&Nothing {})
        }
        _ => Err(No(StatusCode::NOT_FOUND, format!("no {} {}", head.method, short(path)))),
    }
}

fn member(agent: &Agent) -> Result<Arc<Member>, No> {
    agent.member().ok_or_else(|| agent.no_member())
}

fn welcome(agent: &Agent, peer: Peer, hello: &Hello) -> Result<Welcome, No> {
    let member = member(agent)?;
    // A process may name another one only when it could kill it anyway.
    let trusted = peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw();
    if !trusted && peer.pid != Some(hello.pid) {
        let why = format!("process {} speaks from another process", hello.pid);
        return Err(No(StatusCode::FORBIDDEN, why));
    }
    let process = Process::find(hello.pid)
        .ok_or_else(|| No::bad(format!("there is no process {} in this process space", hello.pid)))?;
    let incarnation = {
        let mut registry = locked(&agent.registry);
        registry.above(member.state().incarnation_base(member.id()));
        registry.hello(hello, process, boot_ms())?
    };
    if hello.incarnation.is_none() {
        agent.note(Some(hello.role), "started", &format!("process {}, incarnation {incarnation}", hello.pid));
    }
    let state = member.state();
    Ok(Welcome {
        version: VERSION,
        cluster: member.cluster.clone(),
        generation: member.generation,
        node: member.id(),
        name: state
            .nodes
            .get(&member.id())
            .map_or_else(|| agent.config.raft.name.clone(), |node| node.name.clone()),
        incarnation,
    })
}

fn speaks(version: u32) -> Result<(), No> {
    if version == VERSION {
        return Ok(());
    }
    let why = format!(
        "you speak version {version}, this node agent version {VERSION}; use programs of one version"
    );
    Err(No(StatusCode::CONFLICT, why))
}

fn watch_query(query: Option<&str>) -> Result<(Role, u64), No> {
    let (mut role, mut incarnation) = (None, None);
    for (key, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
        match key {
            "role" => role = Role::ALL.into_iter().find(|role| role.as_str() == value),
            "incarnation" => incarnation = value.parse().ok(),
            _ => {}
        }
    }
    role.zip(incarnation).ok_or_else(|| No::bad("a watch names role and incarnation"))
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, No> {
    let whole = tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect());
    let bytes = match whole.await {
        Ok(Ok(bytes)) => bytes.to_bytes(),
        Ok(Err(error)) => {
            return Err(No(StatusCode::PAYLOAD_TOO_LARGE, format!("the body cannot be taken: {error}")));
        }
        Err(_) => return Err(No(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())),
    };
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|error| No::bad(format!("the body cannot be read: {error}")))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
