//! Reads of a session that run beside the main loop: shards that come, agents that change.

use crate::base::Base;
use elpis_monitor::{AgentId, Settings};
use elpis_store::{LoadedAgent, ServerKind};
use elpis_watch::Map;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// Shards read with one query a table.
const SHARDS_A_READ: usize = 256;
/// Agents read again with one query a table.
const AGENTS_A_READ: usize = 500;
/// How often changes are looked for: a forced run has two seconds in all.
const CHANGES: Duration = Duration::from_millis(500);
/// How often settings are read again.
const SETTINGS_EVERY: u32 = 60;
const AGAIN: Duration = Duration::from_millis(200);

/// What was read.
#[derive(Debug)]
pub(crate) enum Read {
    /// State of these shards in these epochs, with all their agents.
    Shards { shards: Vec<(u16, u64)>, agents: Vec<LoadedAgent> },
    /// These agents as they are now; one that was asked for and is not there is gone.
    Agents { asked: Vec<AgentId>, agents: Vec<LoadedAgent> },
    /// Operators changed something of these agents.
    Changed(Vec<(u16, AgentId)>),
    /// Cluster-wide settings.
    Settings(Box<Settings>),
}

/// Starts reads; all of them end with the session.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) base: Arc<Base>,
    pub(crate) kind: ServerKind,
    pub(crate) out: mpsc::Sender<Read>,
    pub(crate) session: CancellationToken,
}

impl Reader {
    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(self.session.clone().run_until_cancelled_owned(work));
    }

    /// Raises the fence as this map says, then reads the shards.
    pub(crate) fn shards(&self, map: Arc<Map>, shards: Vec<(u16, u64)>) {
        let this = self.clone();
        self.spawn(async move {
            while let Err(error) = this.base.raise(&map).await {
                this.base.health.failed("fence", &error);
                sleep(AGAIN).await;
            }
            this.base.health.ok("fence");
            for part in shards.chunks(SHARDS_A_READ) {
                let numbers: Vec<u16> = part.iter().map(|(shard, _)| *shard).collect();
                let agents = loop {
                    match this.base.store.load_shards(&numbers, this.kind).await {
                        Ok(agents) => break agents,
                        Err(error) => this.base.health.failed("load", &error),
                    }
                    sleep(AGAIN).await;
                };
                this.base.health.ok("load");
                if this.out.send(Read::Shards { shards: part.to_vec(), agents }).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Reads these agents again.
    pub(crate) fn agents(&self, ids: Vec<AgentId>) {
        let this = self.clone();
        self.spawn(async move {
            for part in ids.chunks(AGENTS_A_READ) {
                let agents = loop {
                    match this.base.store.load_agents(part, this.kind).await {
                        Ok(agents) => break agents,
                        Err(error) => this.base.health.failed("reload", &error),
                    }
                    sleep(AGAIN).await;
                };
                this.base.health.ok("reload");
                if this.out.send(Read::Agents { asked: part.to_vec(), agents }).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Follows the operators' changes after `seq`, and the settings.
    pub(crate) fn follow(&self, mut seq: u64) {
        let this = self.clone();
        self.spawn(async move {
            let mut ticks = interval(CHANGES);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut round = 0u32;
            loop {
                ticks.tick().await;
                this.base.health.begin("changes");
                match this.base.store.changes_since(seq).await {
                    Ok(changes) => {
                        this.base.health.ok("changes");
                        seq = changes.last_seq.max(seq);
                        let agents: BTreeMap<AgentId, u16> =
                            changes.agents.into_iter().map(|(shard, agent)| (agent, shard)).collect();
                        let agents: Vec<(u16, AgentId)> =
                            agents.into_iter().map(|(agent, shard)| (shard, agent)).collect();
                        if !agents.is_empty() && this.out.send(Read::Changed(agents)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => this.base.health.failed("changes", &error),
                }
                round += 1;
                if round.is_multiple_of(SETTINGS_EVERY)
                    && let Ok(settings) = this.base.store.settings().await
                    && this.out.send(Read::Settings(Box::new(settings))).await.is_err()
                {
                    return;
                }
            }
        });
    }
}
