//! Messages between hosts, and openraft's network on them.

use crate::SimConfig;
use crate::node::{Node, running};
use crate::rt::{Rt, place, sleep_us, spawn_at};
use crate::world::world;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AsyncRuntime, BasicNode, RaftNetworkFactory, RaftNetworkV2};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Why there was no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NetFail {
    #[error("no answer in time")]
    Lost,
    #[error("nobody listens there")]
    Refused,
    #[error("{0}")]
    Said(String),
}

/// Asks another host. Question and answer travel by themselves: they arrive late, also when nobody waits any more.
pub(crate) async fn call<T, F, Fut>(to: usize, ttl: Duration, work: F) -> Result<T, NetFail>
where
    T: Send + 'static,
    F: FnOnce(Arc<Node>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, NetFail>> + Send + 'static,
{
    let from = world(|w| w.host_of(place()));
    let (tx, rx) = oneshot::channel();
    spawn_at(0, async move {
        let Some(there) = world(|w| w.send(from, to)) else { return };
        sleep_us(there).await;
        if world(|w| w.links[from][to].cut > 0) {
            return;
        }
        let answer = match running(to) {
            None => Err(NetFail::Refused),
            Some(node) => {
                let (done, answered) = oneshot::channel();
                spawn_at(node.place, async move {
                    drop(done.send(work(node).await));
                });
                answered.await.unwrap_or(Err(NetFail::Refused))
            }
        };
        let Some(back) = world(|w| w.send(to, from)) else { return };
        sleep_us(back).await;
        if world(|w| w.links[to][from].cut == 0) {
            drop(tx.send(answer));
        }
    });
    let answered = Rt::timeout(ttl, async move {
        match rx.await {
            Ok(answer) => answer,
            // Lost on the way: the asker does not know and waits.
            Err(_) => std::future::pending().await,
        }
    });
    answered.await.unwrap_or(Err(NetFail::Lost))
}

/// Makes openraft's clients.
#[derive(Debug)]
pub(crate) struct Factory;

/// One of them.
#[derive(Debug)]
pub(crate) struct Client {
    to: usize,
}

impl RaftNetworkFactory<SimConfig> for Factory {
    type Network = Client;
    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Client {
        Client { to: world(|w| w.hosts.get(&target).copied().unwrap_or(0)) }
    }
}

fn said(error: impl std::fmt::Display) -> NetFail {
    NetFail::Said(error.to_string())
}

fn rpc<T>(answer: Result<T, NetFail>) -> Result<T, RPCError<SimConfig>> {
    answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
}

impl RaftNetworkV2<SimConfig> for Client {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        ask: AppendEntriesRequest<SimConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<SimConfig>, RPCError<SimConfig>> {
        let answer = call(self.to, option.soft_ttl(), |node| async move {
            node.raft.append_entries(ask).await.map_err(said)
        });
        rpc(answer.await)
    }

    async fn vote(
        &mut self,
        ask: VoteRequest<SimConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimConfig>, RPCError<SimConfig>> {
        let answer = call(self.to, option.soft_ttl(), |node| async move {
            node.may_vote()?;
            let candidate = ask.vote.leader_id.node_id;
            let answer = node.raft.vote(ask).await.map_err(said)?;
            if answer.vote_granted {
                crate::faults::voted(node.host, candidate);
            }
            Ok(answer)
        });
        rpc(answer.await)
    }

    async fn pre_vote(
        &mut self,
        ask: VoteRequest<SimConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimConfig>, RPCError<SimConfig>> {
        let answer = call(self.to, option.soft_ttl(), |node| async move {
            node.may_vote()?;
            node.raft.pre_vote(ask).await.map_err(said)
        });
        rpc(answer.await)
    }

    async fn transfer_leader(
        &mut self,
        ask: TransferLeaderRequest<SimConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<SimConfig>, RPCError<SimConfig>> {
        let answer = call(self.to, option.soft_ttl(), |node| async move {
            node.raft.handle_transfer_leader(ask).await.map_err(said)
        });
        rpc(answer.await)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<SimConfig>,
        snapshot: SnapshotOf<SimConfig, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<SimConfig>, StreamingError<SimConfig>> {
        let ttl = option.hard_ttl().max(Duration::from_secs(10));
        let sending = call(self.to, ttl, move |node| async move {
            node.raft.install_full_snapshot(vote, snapshot).await.map_err(said)
        });
        match Rt::select2(cancel, sending).await {
            openraft::async_runtime::Select2::First(closed) => Err(StreamingError::Closed(closed)),
            openraft::async_runtime::Select2::Second(answer) => {
                answer.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }
}
