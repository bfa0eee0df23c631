//! The member's side of a join: proof first, then all checks, then one entry that admits and spends the code.

use super::checks::{Found, admitted_before, reasons};
use super::code::{Key, Role, Tie, exporter};
use super::wire::{Admitted, Proof, Request, STEP, Welcome, receive, refuse, send};
use super::{JoinError, TRIES};
use crate::identity::{Peer, spki_pin};
use crate::key::ClusterKey;
use crate::network::GREETING_MAX;
use crate::profile::{Agreed, Kept, Profile};
use crate::raft_node::{Inner, NodeError};
use crate::state::{ClusterState, Command, JoinCode, Secret};
use crate::tls;
use crate::types::monotonic_ms;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;

/// Most joins at once.
const AT_ONCE: usize = 8;
/// Time for dialling the newcomer back.
const DIAL: Duration = Duration::from_secs(4);
/// While no code is open, wrong tries are written down at most this often.
const AUDIT_MS: i64 = 10_000;

/// Who is being served, and the order of tries.
#[derive(Debug)]
pub(crate) struct Door {
    places: Semaphore,
    /// Tries are judged one after another, so that none is judged while an earlier one is still being counted. Inside:
    /// when a try without an open code was written down last.
    tries: Mutex<i64>,
}

impl Default for Door {
    fn default() -> Self {
        Door { places: Semaphore::new(AT_ONCE), tries: Mutex::new(i64::MIN / 2) }
    }
}

/// Serves one machine that asks to join.
pub(crate) async fn serve(inner: Arc<Inner>, mut stream: TlsStream<TcpStream>, from: SocketAddr) {
    let served = match inner.door.places.try_acquire() {
        Ok(_place) => talk(&inner, &mut stream, from).await,
        Err(_) => {
            Err(JoinError::Refused(vec!["too many nodes join just now; try again in a minute".to_owned()]))
        }
    };
    match &served {
        Ok(node) => tracing::info!(%from, node, "a node was admitted"),
        Err(JoinError::Refused(reasons)) => {
            tracing::warn!(%from, ?reasons, "a join was refused");
            if let Err(error) = refuse(&mut stream, reasons).await {
                tracing::debug!(%from, %error, "the refusal did not arrive");
            }
        }
        Err(error) => tracing::warn!(%from, %error, "a join ended half-way"),
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
}

async fn talk(
    inner: &Arc<Inner>,
    stream: &mut TlsStream<TcpStream>,
    from: SocketAddr,
) -> Result<u64, JoinError> {
    // A member that lags must not call a code wrong that the others know.
    let leader = inner.catch_up().await;
    let connection = stream.get_ref().1;
    let exporter = exporter(connection)?;
    let spki = connection.peer_certificates().and_then(|chain| chain.first()).and_then(|c| spki_pin(c));
    let spki = spki.ok_or_else(|| JoinError::Talk("it showed no key".to_owned()))?;
    send(stream, &Welcome { cluster: inner.snapshot().uuid.clone() }).await?;
    let proof: Proof = receive(stream, STEP).await?;
    let tie = Tie { role: Role::Joiner, exporter: &exporter, spki: &spki };
    let (code, key) = judge(inner, &tie, &proof.mac, from).await?;
    let mine = Tie { role: Role::Member, exporter: &exporter, spki: inner.spki() };
    send(stream, &Proof { mac: key.prove(&mine) }).await?;

    let request: Request = receive(stream, STEP).await?;
    let (now_ms, unreachable) =
        tokio::join!(inner.cluster_time_ms(), dial_back(inner, &request.address, &spki));
    let state = inner.snapshot();
    let lost = JoinCode { verifier: Default::default(), expires_ms: 0, tries: 0, replaces: None };
    let join = state.joins.get(&code).unwrap_or(&lost);
    let found = Found { request: &request, spki: &spki, code: join, now_ms, unreachable, leader };
    let reasons = reasons(&state, &found);
    let open = join.tries > 0 && now_ms < join.expires_ms;
    if !reasons.is_empty() {
        let what = format!("node {} refused: {}", clip(&request.name), reasons.join("; "));
        audit(inner, from, what, now_ms).await;
        return Err(JoinError::Refused(reasons));
    }
    if admitted_before(&state, &request, &spki).is_none() {
        let place = join.replaces.and_then(|dead| Some((dead, state.nodes.get(&dead)?.name.clone())));
        admit(inner, &code, &request, &spki, from, place).await?;
    } else if open && let Err(error) = inner.propose(Command::BurnJoin { code, whole: true }).await {
        tracing::warn!(%error, "a code stays open until it expires");
    }
    let state = inner.snapshot();
    let (node, uuid) = state
        .members()
        .find(|(_, node)| node.spki == spki)
        .map(|(id, node)| (id, node.uuid.clone()))
        .ok_or_else(|| JoinError::Refused(vec!["the node was removed again just now".to_owned()]))?;
    let admitted = Admitted {
        node,
        uuid,
        cluster: state.uuid.clone(),
        generation: state.generation,
        peers: peers(&state, node, inner.leader()),
        profile: Some(newcomers(&state.profile, inner.patience())),
        cluster_key: Secret(inner.identity().cluster_key.as_ref().map(ClusterKey::text).unwrap_or_default()),
    };
    send(stream, &admitted).await?;
    Ok(node)
}

/// What a newcomer runs with. Where nothing was agreed on, as its host does.
fn newcomers(agreed: &Agreed, host: Profile) -> Kept {
    let patience = if agreed.step == 0 { host } else { agreed.patience };
    Kept { patience, step: agreed.step }
}

/// Finds the code that was proven, or counts a wrong try against every open one: a guess is aimed at them all.
async fn judge(
    inner: &Arc<Inner>,
    tie: &Tie<'_>,
    proof: &str,
    from: SocketAddr,
) -> Result<(String, Key), JoinError> {
    let mut audited = inner.door.tries.lock().await;
    let state = inner.snapshot();
    let known = state.joins.iter().find_map(|(code, join)| {
        let key = Key::read(&join.verifier.0)?;
        key.proven(tie, proof).then(|| (code.clone(), key))
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let now_ms = inner.cluster_time_ms().await;
    let open = |state: &ClusterState| -> Vec<String> {
        let open = state.joins.iter().filter(|(_, join)| join.tries > 0 && now_ms < join.expires_ms);
        open.map(|(code, _)| code.clone()).collect()
    };
    let codes = open(&state);
    if codes.is_empty() {
        if monotonic_ms() - *audited >= AUDIT_MS {
            *audited = monotonic_ms();
            audit(inner, from, "a join was tried while no code is open".to_owned(), now_ms).await;
        }
        let why = "no join code with these words is open: it expired, was used, or had five wrong tries; make a new one with `elpis cluster add-node`";
        return Err(JoinError::Refused(vec![why.to_owned()]));
    }
    let mut batch: Vec<Command> =
        codes.iter().map(|code| Command::BurnJoin { code: code.clone(), whole: false }).collect();
    batch.push(Command::Audit {
        at_ms: now_ms,
        who: format!("join from {}", from.ip()),
        what: format!("wrong words; one of {TRIES} tries used"),
    });
    let counted = inner.propose(Command::Batch(batch)).await;
    drop(audited);
    let mut why =
        "the words are wrong; type the six words that `elpis cluster add-node` printed last".to_owned();
    match counted {
        Ok(_) => {
            inner.catch_up().await;
            let left = open(&inner.snapshot()).len();
            if left < codes.len() {
                why.push_str("; that was the fifth wrong try, so the code is burnt: make a new one");
            }
        }
        // Another member counted a try at the same moment, and it was the last one.
        Err(NodeError::Refused(_)) => {}
        // Not counted, so not judged either.
        Err(error) => why = format!("the cluster cannot judge the words now: {error}"),
    }
    Err(JoinError::Refused(vec![why]))
}

/// Admits the node and spends the code in one entry, so that no code admits two. The node whose place it takes is removed
/// by the same entry.
async fn admit(
    inner: &Arc<Inner>,
    code: &str,
    request: &Request,
    spki: &str,
    from: SocketAddr,
    place: Option<(u64, String)>,
) -> Result<(), JoinError> {
    let mut request = request.clone();
    let mut what = format!("node {} at {} admitted with code {code}", request.name, request.address);
    let mut batch = vec![Command::BurnJoin { code: code.to_owned(), whole: true }];
    if let Some((node, name)) = place {
        what.push_str(&format!(" in the place of node {node} ({name})"));
        batch.push(Command::Replace { node });
        request.name = name;
    }
    let at_ms = inner.cluster_time_ms().await;
    batch.extend([
        Command::AdmitNode {
            uuid: request.uuid,
            name: request.name,
            spki: spki.to_owned(),
            address: request.address,
            spool_address: request.spool_address,
            console_address: request.console_address,
            gate_address: request.gate_address,
            version: request.version,
        },
        Command::Audit { at_ms, who: format!("join from {}", from.ip()), what },
    ]);
    match inner.propose(Command::Batch(batch)).await {
        // The outcome may be known here in a moment; if it is not, the node asks again with the same words.
        Ok(_) | Err(NodeError::OutcomeUnknown(_)) => {}
        Err(NodeError::Refused(why)) => return Err(JoinError::Refused(vec![why.to_string()])),
        Err(error) => return Err(JoinError::Refused(vec![error.to_string()])),
    }
    let mut watching = inner.watch();
    let here = watching.wait_for(|state| state.members().any(|(_, node)| node.spki == spki));
    match tokio::time::timeout(STEP / 2, here).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(JoinError::Refused(vec![
            "nobody confirms whether the node was admitted; run the same join again".to_owned(),
        ])),
    }
}

/// Members for the newcomer's file, the leader first, as many as a frame carries.
fn peers(state: &ClusterState, newcomer: u64, leader: Option<u64>) -> BTreeMap<u64, Peer> {
    let mut all: Vec<_> = state.members().filter(|(id, _)| *id != newcomer).collect();
    all.sort_by_key(|(id, node)| (Some(*id) != leader, !node.live(), *id));
    let mut room = GREETING_MAX - 1024;
    let fitting = all.into_iter().map_while(|(id, node)| {
        room = room.checked_sub(node.spki.len() + 2 * node.address.len() + 64)?;
        Some((id, Peer { spki: node.spki.clone(), address: node.address.clone() }))
    });
    fitting.collect()
}

/// Whether the newcomer's cluster port answers with the newcomer's key; else why not.
async fn dial_back(inner: &Inner, address: &str, spki: &str) -> Option<String> {
    let dial = async {
        let config =
            tls::client(inner.identity(), Some(spki), tls::ALPN_JOIN).map_err(std::io::Error::other)?;
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("elpis").map_err(std::io::Error::other)?;
        let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
        stream.shutdown().await
    };
    let why = match tokio::time::timeout(DIAL, dial).await {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DIAL.as_secs()),
    };
    Some(format!(
        "node {} cannot reach the cluster port of the new node at {}: {why}; open the port, or give the right address with --advertise",
        inner.id(),
        clip(address)
    ))
}

async fn audit(inner: &Inner, from: SocketAddr, what: String, at_ms: i64) {
    let what = what.chars().take(1000).collect();
    let line = Command::Audit { at_ms, who: format!("join from {}", from.ip()), what };
    if let Err(error) = inner.propose(line).await {
        tracing::warn!(%error, "a join could not be written into the audit");
    }
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}
