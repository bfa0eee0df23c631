//! The newcomer's side of a join.

use super::code::{Role, Tie, derive, exporter};
use super::wire::{Admitted, Proof, Request, STEP, Welcome, receive, send};
use super::{JoinError, Progress, Step};
use crate::identity::{Identity, Place, spki_pin};
use crate::key::ClusterKey;
use crate::raft_node::{Config, NodeError, RaftNode};
use crate::types::{PROTOCOL, monotonic_ms, unix_ms};
use crate::{tls, words};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Time for the checks and the admission on the other side.
const CHECKS: Duration = Duration::from_secs(20);
/// Time until the leader has brought the state: it lets the last change of the members settle first.
const FOLLOW: Duration = Duration::from_secs(60);
/// Connections answered at a time while the member dials back.
const DIALS: usize = 16;

/// Measures the steps and tells each begin and end.
struct Steps<'a, F: Fn(Progress)> {
    tell: &'a F,
    now: Option<(Step, i64)>,
}

impl<F: Fn(Progress)> Steps<'_, F> {
    fn begin(&mut self, step: Step) {
        self.end();
        self.now = Some((step, monotonic_ms()));
        (self.tell)(Progress { step, ms: None });
    }

    fn end(&mut self) {
        if let Some((step, since)) = self.now.take() {
            (self.tell)(Progress { step, ms: u64::try_from(monotonic_ms() - since).ok() });
        }
    }
}

/// Joins the cluster of the node at `address` (`host:port`, any member's cluster port) with the words of
/// [`super::add_node`], and starts this node's Raft. Done when this node has the replicated state and is listed in it.
///
/// After an error `identity.place` is set only when the node was admitted: then [`RaftNode::start`] goes on where this
/// ended. Without a place the same words may be tried again.
///
/// # Errors
/// When the words are not well-formed, nobody answers, the other side cannot prove the words, or it refuses: then with
/// all reasons.
pub async fn join(
    config: Config,
    identity: &mut Identity,
    address: &str,
    words: &str,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<RaftNode, JoinError> {
    let mut steps = Steps { tell: &progress, now: None };
    let bits = words::decode(words)?;
    let mut reasons = Vec::new();
    if let Some(place) = &identity.place {
        reasons.push(NodeError::HasCluster(place.cluster.clone()).to_string());
    }
    let listener = match TcpListener::bind(config.listen).await {
        Ok(listener) => Some(listener),
        Err(source) => {
            reasons.push(NodeError::Port { address: config.listen.to_string(), source }.to_string());
            None
        }
    };
    let talked = talk(&config, identity, address, bits, &reasons, &mut steps);
    let admitted = match &listener {
        Some(listener) => {
            let acceptor = TlsAcceptor::from(tls::server(identity).map_err(NodeError::from)?);
            tokio::select! {
                talked = talked => talked,
                never = answer_dials(listener, acceptor) => match never {},
            }
        }
        None => talked.await,
    };
    let admitted = match (admitted, listener) {
        (Ok(admitted), Some(listener)) if reasons.is_empty() => (admitted, listener),
        (Err(JoinError::Refused(theirs)), _) => {
            // They repeat ours unless they refused before they heard them.
            reasons.retain(|reason| !theirs.contains(reason));
            reasons.extend(theirs);
            return Err(JoinError::Refused(reasons));
        }
        (Err(error), _) if reasons.is_empty() => return Err(error),
        (other, _) => {
            reasons.extend(other.err().map(|error| error.to_string()));
            return Err(JoinError::Refused(reasons));
        }
    };
    let (admitted, listener) = admitted;

    steps.begin(Step::Start);
    if !admitted.cluster_key.0.is_empty() {
        let key = ClusterKey::read(&admitted.cluster_key.0);
        let key = key.ok_or_else(|| JoinError::Talk("it handed over no cluster key".to_owned()))?;
        identity.keep_cluster_key(key).map_err(NodeError::from)?;
    }
    let place = Place {
        version: 1,
        node: admitted.node,
        uuid: admitted.uuid,
        cluster: admitted.cluster,
        generation: admitted.generation,
        peers: admitted.peers,
        profile: admitted.profile,
    };
    let node = RaftNode::start_new(config, identity, place, listener).await?;
    steps.begin(Step::Follow);
    if tokio::time::timeout(FOLLOW, listed(&node)).await.is_err() {
        let id = node.id();
        node.shutdown().await;
        return Err(JoinError::NotListed(id));
    }
    steps.end();
    Ok(node)
}

/// Until the state lists this node, and so does the membership, and there is a leader.
async fn listed(node: &RaftNode) {
    let id = node.id();
    loop {
        let view = node.raft_view();
        let member = view.voters.contains(&id) || view.learners.contains(&id);
        if member && view.leader.is_some() && node.state().borrow().members().any(|(known, _)| known == id) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn talk<F: Fn(Progress)>(
    config: &Config,
    identity: &Identity,
    address: &str,
    bits: u64,
    reasons: &[String],
    steps: &mut Steps<'_, F>,
) -> Result<Admitted, JoinError> {
    steps.begin(Step::Connect);
    let mut stream = connect(identity, address).await?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(tls::ALPN_JOIN) {
        return Err(JoinError::Talk("it is not the cluster port of a node".to_owned()));
    }
    let exporter = exporter(connection)?;
    let spki = connection.peer_certificates().and_then(|chain| chain.first()).and_then(|c| spki_pin(c));
    let spki = spki.ok_or_else(|| JoinError::Talk("it showed no key".to_owned()))?;

    steps.begin(Step::Prove);
    let welcome: Welcome = receive(&mut stream, STEP).await?;
    if !(8..=64).contains(&welcome.cluster.len()) {
        return Err(JoinError::Talk("it names no cluster".to_owned()));
    }
    let key = derive(bits, &welcome.cluster).await?;
    let mine = Tie { role: Role::Joiner, exporter: &exporter, spki: &identity.spki };
    send(&mut stream, &Proof { mac: key.prove(&mine) }).await?;
    let proof: Proof = receive(&mut stream, STEP).await?;
    if !key.proven(&Tie { role: Role::Member, exporter: &exporter, spki: &spki }, &proof.mac) {
        return Err(JoinError::NotTheCluster);
    }

    steps.begin(Step::Check);
    let request = Request {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uuid: crate::identity::new_uuid().map_err(NodeError::from)?,
        name: config.name.clone(),
        address: config.advertise.clone(),
        spool_address: config.spool_address.clone(),
        console_address: config.console_address.clone(),
        gate_address: config.gate_address.clone(),
        wall_ms: unix_ms(),
        reasons: reasons.to_vec(),
        profiles: true,
    };
    send(&mut stream, &request).await?;
    let admitted: Admitted = receive(&mut stream, CHECKS).await?;
    if admitted.cluster != welcome.cluster {
        return Err(JoinError::Talk("it names two clusters".to_owned()));
    }
    Ok(admitted)
}

async fn connect(identity: &Identity, address: &str) -> Result<TlsStream<TcpStream>, JoinError> {
    let failed = |why: String| JoinError::Dial { address: address.chars().take(128).collect(), why };
    let config = tls::client(identity, None, tls::ALPN_JOIN).map_err(NodeError::from)?;
    let dial = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("elpis").map_err(std::io::Error::other)?;
        TlsConnector::from(config).connect(name, tcp).await
    };
    match tokio::time::timeout(STEP, dial).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", STEP.as_secs()))),
    }
}

/// Shows this node's key to whoever dials its cluster port, which is all that the member wants to see.
async fn answer_dials(listener: &TcpListener, acceptor: TlsAcceptor) -> std::convert::Infallible {
    let acceptor = Arc::new(acceptor);
    let mut dials = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while dials.try_join_next().is_some() {}
        if dials.len() >= DIALS {
            continue;
        }
        let acceptor = Arc::clone(&acceptor);
        dials.spawn(async move {
            let shown = async {
                let mut stream = acceptor.accept(tcp).await?;
                stream.read(&mut [0; 1]).await
            };
            let _ = tokio::time::timeout(crate::network::HANDSHAKE, shown).await;
        });
    }
}
