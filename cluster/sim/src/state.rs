//! The real state machine, watched entry by entry.

use crate::SimConfig;
use crate::world::world;
use elpis_cluster::state::ClusterState;
use elpis_cluster::state_machine::{Builder, StateMachine};
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use std::io;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

pub(crate) struct Checked {
    inner: StateMachine<SimConfig>,
    host: usize,
    state: watch::Receiver<Arc<ClusterState>>,
    changed: Arc<Notify>,
}

impl Checked {
    pub(crate) fn new(
        inner: StateMachine<SimConfig>,
        host: usize,
        state: watch::Receiver<Arc<ClusterState>>,
        changed: Arc<Notify>,
    ) -> Checked {
        Checked { inner, host, state, changed }
    }

    async fn applied(&mut self) -> io::Result<()> {
        if let (Some(last), _) = self.inner.applied_state().await? {
            let state = Arc::clone(&self.state.borrow());
            world(|w| w.applied(self.host, last.index, &state));
        }
        self.changed.notify_one();
        Ok(())
    }
}

impl RaftStateMachine<SimConfig> for Checked {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder<SimConfig>;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<SimConfig>>, StoredMembershipOf<SimConfig>), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<SimConfig>, io::Error>> + Unpin + Send,
    {
        let host = self.host;
        let watched = entries.inspect(|next| {
            if let Ok((entry, _)) = next {
                world(|w| w.entry(host, entry));
            }
        });
        self.inner.apply(watched).await?;
        self.applied().await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<SimConfig>,
        data: Vec<u8>,
    ) -> Result<(), io::Error> {
        self.inner.install_snapshot(meta, data).await?;
        world(|w| w.note(|| format!("host {} installs a snapshot", self.host)));
        self.applied().await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<SimConfig, Vec<u8>>>, io::Error> {
        self.inner.get_current_snapshot().await
    }
}
