//! The network server: runs the checks of the shards it owns and stores what they found, once a slot.
//!
//! One loop owns schedule, states and open batches; probes, reads and commits run beside it and report back through
//! bounded channels. A session is one life of that loop: when it ends, everything in memory is dropped.

mod engine;
mod intake;
mod lanes;
pub mod planner;
mod probes;

use crate::base::{Base, Turn};
use crate::{Ended, ServerError, thread};
use elpis_watch::Role;
use engine::Engine;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What a network server is told at its start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// `node.sock`.
    pub socket: PathBuf,
    /// Time limits, tries and bounds of probes.
    pub limits: elpis_probe::Limits,
    /// Probes begun and not yet taken in.
    pub in_flight: usize,
    /// Transactions at the same time; agents are divided among them.
    pub writers: usize,
    /// Whether the run ledger lists every execution.
    pub ledger: bool,
}

impl NetworkConfig {
    /// Usual bounds.
    pub fn new(socket: PathBuf) -> NetworkConfig {
        NetworkConfig {
            socket,
            limits: elpis_probe::Limits::default(),
            in_flight: 8192,
            writers: 2,
            ledger: true,
        }
    }
}

/// Runs until it is told to stop or superseded.
pub async fn run(config: NetworkConfig, stop: CancellationToken) -> Result<Ended, ServerError> {
    // Probes run on the caller's runtime.
    let probes = tokio::runtime::Handle::current();
    thread::own("network-server", move || serve(config, probes, stop)).await
}

async fn serve(config: NetworkConfig, probes: Handle, stop: CancellationToken) -> Result<Ended, ServerError> {
    let writers = config.writers.clamp(1, 8);
    // Writers, and three for loading, changes and the fence.
    let connections = u32::try_from(writers).unwrap_or(1) + 3;
    let base = match Base::start(&config.socket, Role::NetworkServer, connections, &stop).await? {
        Ok(base) => base,
        Err(ended) => return Ok(ended),
    };
    base.store.set_ledger(config.ledger);
    // Numbers of flushes go on over sessions: they are unique within the incarnation.
    let mut flushes = 0;
    loop {
        let writer = match base.enter(&stop).await {
            Ok(writer) => writer,
            Err(ended) => return Ok(ended),
        };
        let session = CancellationToken::new();
        let guard = session.clone().drop_guard();
        let turn = session_of(&base, &config, &probes, writer, session, &mut flushes, &stop).await;
        drop(guard);
        base.health.forget_all();
        match turn {
            Turn::Again => tracing::info!("the session is over; registering again"),
            Turn::End(ended) => return Ok(ended),
        }
    }
}

async fn session_of(
    base: &Arc<Base>,
    config: &NetworkConfig,
    probes: &Handle,
    writer: elpis_store::Writer,
    session: CancellationToken,
    flushes: &mut u64,
    stop: &CancellationToken,
) -> Turn {
    tokio::select! {
        () = base.link.superseded() => Turn::End(Ended::Superseded),
        turn = async {
            let start = base.first_reads();
            let Some((seq, settings)) = stop.run_until_cancelled(start).await else {
                return Turn::End(Ended::Stopped);
            };
            let mut engine = Engine::new(base.clone(), config, probes.clone(), writer, session, settings);
            engine.follow(seq);
            engine.run(stop, flushes).await
        } => turn,
    }
}
