//! Applies committed entries to the [`ClusterState`] in memory and tells who watches it; snapshots go into the log
//! store's file. After a restart the state is the last snapshot and the entries committed since.

use crate::log_store::LogStore;
use crate::state::ClusterState;
use crate::types::{Config, Outcome, TypeConfig};
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// Largest snapshot taken or made (ha.md 2.3).
pub const SNAPSHOT_MAX: usize = 16 * 1024 * 1024;

/// The state machine.
#[derive(Debug)]
pub struct StateMachine<C: Config = TypeConfig> {
    store: LogStore<C>,
    state: Arc<ClusterState>,
    applied: Option<LogIdOf<C>>,
    membership: StoredMembershipOf<C>,
    published: watch::Sender<Arc<ClusterState>>,
}

impl<C: Config> StateMachine<C> {
    /// Starts from the snapshot in the store.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub async fn open(store: LogStore<C>) -> io::Result<(Self, watch::Receiver<Arc<ClusterState>>)> {
        let (published, watching) = watch::channel(Arc::new(ClusterState::default()));
        let mut machine = StateMachine {
            store: store.clone(),
            state: Arc::default(),
            applied: None,
            membership: Default::default(),
            published,
        };
        if let Some((meta, data)) = store.get_snapshot().await? {
            machine.load(&meta, &data)?;
        }
        Ok((machine, watching))
    }

    fn load(&mut self, meta: &SnapshotMetaOf<C>, data: &[u8]) -> io::Result<()> {
        self.state = Arc::new(serde_json::from_slice(data).map_err(io::Error::other)?);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.published.send_replace(Arc::clone(&self.state));
    }
}

impl<C: Config> RaftStateMachine<C> for StateMachine<C> {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder<C>;

    async fn applied_state(&mut self) -> Result<(Option<LogIdOf<C>>, StoredMembershipOf<C>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        // Watchers see the state before the proposer hears of it: answers wait until the batch is published.
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id;
            let outcome = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(proposal) => {
                    Some(Arc::make_mut(&mut self.state).apply(id.index, &proposal.0))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembershipOf::<C>::new(Some(id), membership);
                    None
                }
            };
            self.applied = Some(id);
            if let Some(responder) = responder {
                answers.push((responder, Outcome(outcome)));
            }
        }
        self.publish();
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder {
            store: self.store.clone(),
            state: Arc::clone(&self.state),
            meta: SnapshotMetaOf::<C> { last_log_id: self.applied, last_membership: self.membership.clone() },
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<C>, data: Vec<u8>) -> Result<(), io::Error> {
        self.store.put_snapshot(meta, data.clone()).await?;
        self.load(meta, &data)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<C, Vec<u8>>>, io::Error> {
        Ok(self.store.get_snapshot().await?.map(|(meta, snapshot)| SnapshotOf::<C, _> { meta, snapshot }))
    }
}

/// Makes a snapshot of the state as it was when it was asked for.
#[derive(Debug)]
pub struct Builder<C: Config = TypeConfig> {
    store: LogStore<C>,
    state: Arc<ClusterState>,
    meta: SnapshotMetaOf<C>,
}

impl<C: Config> RaftSnapshotBuilder<C> for Builder<C> {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<C, Vec<u8>>, io::Error> {
        let state = Arc::clone(&self.state);
        let data = C::blocking(move || serde_json::to_vec(&*state).map_err(io::Error::other)).await?;
        if data.len() > SNAPSHOT_MAX {
            return Err(io::Error::other(format!(
                "the cluster state has {} bytes, more than {SNAPSHOT_MAX}",
                data.len()
            )));
        }
        self.store.put_snapshot(&self.meta, data.clone()).await?;
        Ok(SnapshotOf::<C, _> { meta: self.meta.clone(), snapshot: data })
    }
}
