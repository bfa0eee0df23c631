//! What this node answers other members.

use super::Inner;
use crate::network::{Kind, Service};
use crate::types::{Proposal, TypeConfig, monotonic_ms};
use futures_util::future::BoxFuture;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use serde::{Serialize, de::DeserializeOwned};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A member that was silent for so long may come back with another boot id.
const BOOT_MS: i64 = 3000;

impl Service for Inner {
    fn pinned(&self, spki: &str) -> Option<u64> {
        self.peers.pinned(spki)
    }

    fn learn(self: Arc<Self>, spki: String) -> BoxFuture<'static, Option<u64>> {
        Box::pin(async move { self.peers.learn(&spki).await })
    }

    fn former(&self, spki: &str) -> Option<u64> {
        self.peers.former(spki)
    }

    fn turn_away(&self, hello: &[u8], former: u64) -> Result<Vec<u8>, String> {
        let me = self.peers.me();
        match crate::network::parse(hello) {
            Ok(hello) if me.is_later(&hello) => serde_json::to_vec(&me).map_err(|e| e.to_string()),
            _ => Err(format!(
                "node {former} was removed from the cluster; empty its data folder and join it again"
            )),
        }
    }

    fn greet(&self, hello: &[u8], peer: u64) -> Result<Vec<u8>, String> {
        let hello = crate::network::parse(hello)?;
        if hello.node != peer {
            return Err(format!(
                "this key belongs to node {peer}, not {}; do not copy data folders",
                hello.node
            ));
        }
        if let Some(why) = hello.misfit(&self.peers.me()) {
            return Err(why);
        }
        let now = monotonic_ms();
        let mut boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        match boots.get(&peer) {
            // Two machines with one identity: the one that was there first stays.
            Some((boot, seen)) if *boot != hello.boot_id && now - seen < BOOT_MS => {
                return Err(format!(
                    "node {peer} is alive on another machine; a copied machine must be wiped and joined"
                ));
            }
            _ => boots.insert(peer, (hello.boot_id, now)),
        };
        drop(boots);
        serde_json::to_vec(&self.peers.me()).map_err(|e| e.to_string())
    }

    fn answer(
        self: Arc<Self>,
        peer: u64,
        kind: Kind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        if let Some((_, seen)) = self.boots.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&peer) {
            *seen = monotonic_ms();
        }
        Box::pin(async move {
            match kind {
                Kind::Append => json(self.raft.append_entries(parse(&body)?).await),
                Kind::Vote | Kind::PreVote if self.silent() => {
                    Err("this voter started just now and keeps still for one election time".to_owned())
                }
                Kind::Vote => json(self.raft.vote(parse(&body)?).await),
                Kind::PreVote => json(self.raft.pre_vote(parse(&body)?).await),
                Kind::Transfer => json(self.raft.handle_transfer_leader(parse(&body)?).await),
                Kind::Snapshot => {
                    let (head, data) = split(&body).ok_or("a snapshot frame is too short")?;
                    let (vote, meta): (VoteOf<TypeConfig>, SnapshotMetaOf<TypeConfig>) = parse(head)?;
                    let snapshot = SnapshotOf::<TypeConfig, _> { meta, snapshot: data.to_vec() };
                    json(self.raft.install_full_snapshot(vote, snapshot).await)
                }
                Kind::Propose => {
                    let proposal: Proposal = parse(&body)?;
                    serde_json::to_vec(&self.propose_here(proposal).await).map_err(|e| e.to_string())
                }
                Kind::Member => {
                    let change = parse(&body)?;
                    serde_json::to_vec(&self.change_here(&change).await).map_err(|e| e.to_string())
                }
                Kind::Call => {
                    let (length, rest) = body.split_at_checked(2).ok_or("a call frame is too short")?;
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                    let (kind, body) = rest.split_at_checked(length).ok_or("a call frame is too short")?;
                    match self.own_call(kind, body) {
                        Some(answer) => answer,
                        None => {
                            self.handle(peer, String::from_utf8_lossy(kind).into_owned(), body.to_vec()).await
                        }
                    }
                }
                Kind::Answer | Kind::Error | Kind::Hello => Err("this is no question".to_owned()),
            }
        })
    }

    fn join(self: Arc<Self>, stream: TlsStream<TcpStream>, from: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(crate::bootstrap::serve(self, stream, from))
    }
}

impl Inner {
    /// Whether it must answer no vote yet.
    fn silent(&self) -> bool {
        self.quiet.silent(monotonic_ms(), self.sole.load(Ordering::SeqCst))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| format!("the frame cannot be read: {e}"))
}

fn json<T: Serialize, E: std::fmt::Display>(answer: Result<T, E>) -> Result<Vec<u8>, String> {
    serde_json::to_vec(&answer.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
}

fn split(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_at_checked(4)?;
    rest.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)
}
