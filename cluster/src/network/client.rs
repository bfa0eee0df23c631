//! Asking other members.

mod former;
mod link;
mod relay;

use super::{CONNECT, GREETING_MAX, HANDSHAKE, Hello, Kind, NetError, read_frame, write_frame};
use crate::identity::{Identity, Peer};
use crate::profile::{Greeting, Profile};
use crate::recovery::GivenUp;
use crate::state::{ClusterState, NodeState};
use crate::tls;
use crate::types::{PROTOCOL, TypeConfig};
use link::{Link, exchange};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use rustls::pki_types::ServerName;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Which of the connections to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    Log,
    Heartbeat,
    Vote,
    Snapshot,
    Call,
    /// What may take long: a part of an image.
    Bulk,
}

type Slot = Arc<tokio::sync::Mutex<Link<Box<TlsStream<TcpStream>>>>>;

/// Connections to the other members.
#[derive(Debug)]
pub struct Peers {
    identity: Identity,
    me: Hello,
    /// With which timings Raft runs here.
    patience: Profile,
    state: watch::Receiver<Arc<ClusterState>>,
    /// Bounded: members × lanes.
    slots: Mutex<HashMap<(u64, Lane), Slot>>,
    /// Keys and addresses of members that this node's state does not know yet, learned from other members.
    relayed: Mutex<BTreeMap<u64, Peer>>,
    /// When it asked about a key last.
    asked: Mutex<Option<Instant>>,
    /// A member that is of a later generation: this node was given up.
    newer: Mutex<Option<GivenUp>>,
}

impl Peers {
    pub(crate) fn new(
        identity: Identity,
        state: watch::Receiver<Arc<ClusterState>>,
        patience: Profile,
    ) -> Self {
        let me = match &identity.place {
            Some(place) => Hello {
                protocol: PROTOCOL,
                cluster: place.cluster.clone(),
                generation: place.generation,
                node: place.node,
                boot_id: identity.boot_id.clone(),
                profile: None,
            },
            None => Hello {
                protocol: PROTOCOL,
                cluster: String::new(),
                generation: 0,
                node: 0,
                boot_id: String::new(),
                profile: None,
            },
        };
        Peers {
            identity,
            me,
            patience,
            state,
            slots: Mutex::default(),
            relayed: Mutex::default(),
            asked: Mutex::default(),
            newer: Mutex::default(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How this node greets now.
    pub(crate) fn me(&self) -> Hello {
        let profile = Some(Greeting::new(self.patience, &self.state.borrow().profile));
        Hello { profile, ..self.me.clone() }
    }

    /// The member with this key. What was learned at the join stands in for every node that the state does not know
    /// yet: a joiner that is still reading old entries must let a leader in that was admitted by a later one.
    pub(crate) fn pinned(&self, spki: &str) -> Option<u64> {
        let state = self.state.borrow();
        if let Some((id, _)) = state.members().find(|(_, node)| node.spki == spki) {
            return Some(id);
        }
        let fits = |(id, peer): &(&u64, &Peer)| peer.spki == spki && !state.nodes.contains_key(id);
        let mut peers = self.identity.place.as_ref()?.peers.iter();
        if let Some((id, _)) = peers.find(fits) {
            return Some(*id);
        }
        let relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        relayed.iter().find(fits).map(|(id, _)| *id)
    }

    /// Pin and address of a member. What was learned at the join stands in while the state does not know it yet.
    fn find(&self, node: u64) -> Option<(String, String)> {
        let state = self.state.borrow();
        match state.nodes.get(&node) {
            Some(known) if known.state == NodeState::Removed => None,
            Some(known) => Some((known.spki.clone(), known.address.clone())),
            None => {
                let relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
                let at_join = self.identity.place.as_ref()?.peers.get(&node);
                let peer = at_join.or_else(|| relayed.get(&node))?;
                Some((peer.spki.clone(), peer.address.clone()))
            }
        }
    }

    async fn connect(&self, node: u64) -> Result<TlsStream<TcpStream>, NetError> {
        let (pin, address) = self.find(node).ok_or(NetError::Unknown(node))?;
        let unreachable = |why: String| NetError::Unreachable { node, address: address.clone(), why };
        let config = tls::client(&self.identity, Some(&pin), tls::ALPN_PEER)
            .map_err(|e| unreachable(e.to_string()))?;
        let me = self.me();
        let greet = async {
            let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(&address)).await??;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("elpis").map_err(std::io::Error::other)?;
            let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
            write_frame(&mut stream, Kind::Hello, &serde_json::to_vec(&me).map_err(std::io::Error::other)?)
                .await?;
            let answer = read_frame(&mut stream, GREETING_MAX).await?;
            Ok::<_, std::io::Error>((stream, answer))
        };
        let greeted = tokio::time::timeout(HANDSHAKE, greet).await.map_err(|_| NetError::Timeout(node))?;
        match greeted.map_err(|e| unreachable(e.to_string()))? {
            (stream, (Kind::Hello, body)) => {
                let hello: Hello = serde_json::from_slice(&body).map_err(|e| unreachable(e.to_string()))?;
                if hello.node != node {
                    return Err(unreachable(format!("node {} answers there", hello.node)));
                }
                if hello.is_later(&me) {
                    let mark = GivenUp::new(hello.cluster.clone(), hello.generation, node);
                    self.newer.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(mark);
                }
                match hello.misfit(&me) {
                    Some(why) => Err(NetError::Refused { node, why }),
                    None => Ok(stream),
                }
            }
            (_, (_, body)) => {
                Err(NetError::Refused { node, why: String::from_utf8_lossy(&body).into_owned() })
            }
        }
    }

    /// Asks a member and waits at most `ttl` for the answer.
    ///
    /// # Errors
    /// When there is none, or it is a refusal.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        node: u64,
        lane: Lane,
        kind: Kind,
        body: &[u8],
        ttl: Duration,
    ) -> Result<Vec<u8>, NetError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry((node, lane)).or_default())
        };
        let asking = async {
            let make = || {
                let peers = Arc::clone(self);
                async move { peers.connect(node).await.map(Box::new) }
            };
            slot.lock().await.ask(node, kind, body, late(ttl), make).await
        };
        let (kind, body) = tokio::time::timeout(ttl, asking).await.map_err(|_| NetError::Timeout(node))??;
        answer(node, kind, body)
    }

    /// Asks once over a connection of its own: for proposals, which must not be sent twice behind the caller's back.
    pub(crate) async fn ask_once(
        &self,
        node: u64,
        kind: Kind,
        body: &[u8],
        ttl: Duration,
    ) -> Result<Vec<u8>, NetError> {
        let asking = async {
            // Nothing was sent yet: another one may lead before this one continues.
            let made = tokio::time::timeout(CONNECT, self.connect(node)).await;
            let mut stream = made.unwrap_or_else(|_| {
                let address = self.find(node).map(|(_, address)| address).unwrap_or_default();
                Err(NetError::Unreachable { node, address, why: "no greeting in time".to_owned() })
            })?;
            exchange(&mut stream, kind, body).await.map_err(|e| NetError::Unreachable {
                node,
                address: String::new(),
                why: e.to_string(),
            })
        };
        let (kind, body) = tokio::time::timeout(ttl, asking).await.map_err(|_| NetError::Timeout(node))??;
        answer(node, kind, body)
    }
}

/// PURE: how much longer than the question's own time its answer is worth waiting for. Beyond, the connection is lost, most
/// likely; at a pace of tenths of a second that must be seen before an election is due.
fn late(ttl: Duration) -> Duration {
    (ttl * 8).clamp(Duration::from_millis(500), Duration::from_secs(3))
}

fn answer(node: u64, kind: Kind, body: Vec<u8>) -> Result<Vec<u8>, NetError> {
    match kind {
        Kind::Answer => Ok(body),
        _ => Err(NetError::Refused { node, why: String::from_utf8_lossy(&body).into_owned() }),
    }
}

/// Makes openraft's clients.
#[derive(Clone, Debug)]
pub struct Factory(pub(crate) Arc<Peers>);

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Client {
        Client { peers: Arc::clone(&self.0), target, lane: Lane::Log }
    }
    async fn new_heartbeat_client(&mut self, target: u64, _: &BasicNode) -> Client {
        Client { peers: Arc::clone(&self.0), target, lane: Lane::Heartbeat }
    }
    async fn new_snapshot_client(&mut self, target: u64, _: &BasicNode) -> Client {
        Client { peers: Arc::clone(&self.0), target, lane: Lane::Snapshot }
    }
}

/// One of openraft's clients.
#[derive(Debug)]
pub struct Client {
    peers: Arc<Peers>,
    target: u64,
    lane: Lane,
}

impl Client {
    async fn raw<A: DeserializeOwned>(
        &self,
        lane: Lane,
        kind: Kind,
        body: &[u8],
        ttl: Duration,
    ) -> Result<A, NetError> {
        let answer = self.peers.ask(self.target, lane, kind, body, ttl).await?;
        serde_json::from_slice(&answer)
            .map_err(|e| NetError::Refused { node: self.target, why: e.to_string() })
    }

    async fn rpc<Q: Serialize, A: DeserializeOwned>(
        &self,
        lane: Lane,
        kind: Kind,
        question: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = serde_json::to_vec(question).map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))?;
        // The last quarter is left for openraft, as it asks.
        self.raw(lane, kind, &body, option.soft_ttl())
            .await
            .map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(self.lane, Kind::Append, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(Lane::Vote, Kind::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(Lane::Vote, Kind::PreVote, &rpc, &option).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(Lane::Vote, Kind::Transfer, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |e: NetError| StreamingError::Unreachable(Unreachable::new(&e));
        let head = serde_json::to_vec(&(vote, &snapshot.meta))
            .map_err(|e| unreachable(NetError::Refused { node: self.target, why: e.to_string() }))?;
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let body = [&length.to_be_bytes()[..], &head, &snapshot.snapshot].concat();
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.raw(Lane::Snapshot, Kind::Snapshot, &body, option.hard_ttl().max(Duration::from_secs(10))) => {
                sent.map_err(unreachable)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Place;
    use crate::state::Command;

    fn admit(spki: &str) -> Command {
        Command::AdmitNode {
            uuid: format!("uuid of {spki}"),
            name: format!("node of {spki}"),
            spki: spki.to_owned(),
            address: String::new(),
            spool_address: String::new(),
            gate_address: String::new(),
            console_address: String::new(),
            version: "0".to_owned(),
        }
    }

    #[test]
    fn a_joiner_knows_a_later_leader_and_forgets_a_removed_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut identity = Identity::open(folder.path()).unwrap();
        let peer = |spki: &str| Peer { spki: spki.to_owned(), address: String::new() };
        let peers = BTreeMap::from([(2, peer("first")), (5, peer("later"))]);
        let place = Place {
            version: 1,
            node: 9,
            uuid: "u".into(),
            cluster: "c".into(),
            generation: 1,
            peers,
            profile: None,
        };
        identity.settle(place).unwrap();
        let mut state = ClusterState::default();
        state.apply(1, &Command::InitCluster { uuid: "c".into(), name: "c".into() }).unwrap();
        state.apply(2, &admit("first")).unwrap();
        let (sender, receiver) = watch::channel(Arc::new(state.clone()));
        let peers = Peers::new(identity, receiver, Profile::Lan);
        assert_eq!(peers.pinned("first"), Some(2));
        assert_eq!(peers.pinned("later"), Some(5), "admitted by an entry that is not applied here yet");
        assert_eq!(peers.pinned("stranger"), None);

        state.apply(5, &admit("later")).unwrap();
        state.apply(6, &Command::Remove { node: 5 }).unwrap();
        sender.send_replace(Arc::new(state));
        assert_eq!(peers.pinned("later"), None, "a removed node is not let in by an old list");
        assert_eq!((peers.former("later"), peers.former("first")), (Some(5), None));
        assert_eq!(peers.others(), [2, 5].into());
    }
}
