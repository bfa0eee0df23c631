//! The data server: turns spooled files of the shards it owns into committed samples, and runs the singleton jobs.
//!
//! Shards are divided among lanes. A lane is one sequence: files of a shard are read, judged and committed in
//! acceptance order, a batch of many files a transaction; while one batch is being written the next is prepared.

mod agents;
mod facts;
mod intake;
mod job;
mod lane;
mod scan;
mod suspects;
mod work;

use crate::base::{Base, Turn};
use crate::{Ended, ServerError, thread};
use elpis_store::Writer;
use elpis_tentacle::spool::{self, Spool};
use elpis_watch::Role;
pub use facts::{Facts, facts, module_of, readings};
use lane::Lane;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use suspects::Suspects;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Lanes = transactions at the same time.
const LANES: u16 = 2;
/// How often the session is looked at.
const WATCH: Duration = Duration::from_millis(50);
/// A lane that does not come round for this long is hung.
const STALL: Duration = Duration::from_secs(10);
/// How long a stop may take to write what is there.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What a data server is told at its start.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// `node.sock`.
    pub socket: PathBuf,
    /// The spool that the tentacle server of this node fills.
    pub spool: PathBuf,
}

/// Runs until it is told to stop or superseded.
pub async fn run(config: DataConfig, stop: CancellationToken) -> Result<Ended, ServerError> {
    thread::own("data-server", move || serve(config, stop)).await
}

async fn serve(config: DataConfig, stop: CancellationToken) -> Result<Ended, ServerError> {
    let spool = Spool::open(config.spool, spool::Limits::default())?;
    // Lanes with reading beside, and the jobs.
    let connections = u32::from(LANES) * 3 + 2;
    let base = match Base::start(&config.socket, Role::DataServer, connections, &stop).await? {
        Ok(base) => base,
        Err(ended) => return Ok(ended),
    };
    // Numbers of flushes go on over sessions: they are unique within the incarnation.
    let flushes = Arc::new(AtomicU64::new(0));
    // Outlives sessions: a refused batch ends one.
    let suspects = Arc::new(Suspects::default());
    loop {
        let writer = match base.enter(&stop).await {
            Ok(writer) => writer,
            Err(ended) => return Ok(ended),
        };
        let session = CancellationToken::new();
        let turn = session_of(&base, &spool, writer, &session, &flushes, &suspects, &stop).await;
        session.cancel();
        base.health.forget_all();
        match turn {
            Turn::Again => tracing::info!("the session is over; registering again"),
            Turn::End(ended) => return Ok(ended),
        }
    }
}

async fn session_of(
    base: &Arc<Base>,
    spool: &Spool,
    writer: Writer,
    session: &CancellationToken,
    flushes: &Arc<AtomicU64>,
    suspects: &Arc<Suspects>,
    stop: &CancellationToken,
) -> Turn {
    let Some((seq, settings)) = stop.run_until_cancelled(base.first_reads()).await else {
        return Turn::End(Ended::Stopped);
    };
    let stopping = CancellationToken::new();
    let mut lanes = JoinSet::new();
    let mut beats = Vec::new();
    for number in 0..LANES {
        let beat = Arc::new(AtomicU64::new(0));
        beats.push((beat.clone(), 0, Instant::now()));
        let lane = Lane::new(lane::Start {
            base: base.clone(),
            spool: spool.clone(),
            writer: writer.clone(),
            session: session.clone(),
            stopping: stopping.clone(),
            settings: settings.clone(),
            flushes: flushes.clone(),
            suspects: suspects.clone(),
            beat,
            number,
            lanes: LANES,
        });
        lane.follow(seq);
        lanes.spawn_local(lane.run());
    }
    tokio::task::spawn_local(session.clone().run_until_cancelled_owned(job::run(base.clone())));
    let progress = base.link.progress();
    progress.expect_bumps(STALL);
    let mut ticks = interval(WATCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut limit = None;
    loop {
        tokio::select! {
            () = base.link.superseded() => return Turn::End(Ended::Superseded),
            ended = lanes.join_next() => match ended {
                None => return Turn::End(Ended::Stopped),
                // A lane ends when it is told to stop, or when its state is void.
                Some(Ok(Turn::Again) | Err(_)) => return Turn::Again,
                Some(Ok(Turn::End(_))) => {}
            },
            () = stop.cancelled(), if limit.is_none() => {
                limit = Some(Instant::now() + STOP_LIMIT);
                stopping.cancel();
            }
            _ = ticks.tick() => {}
        }
        if base.link.gate().lease().session != writer.session
            || base.database_moved(&base.link.map().borrow())
        {
            return Turn::Again;
        }
        if limit.is_some_and(|limit| Instant::now() > limit) {
            return Turn::End(Ended::Stopped);
        }
        base.health.check();
        let now = Instant::now();
        for (beat, last, since) in &mut beats {
            let count = beat.load(Ordering::Relaxed);
            if count != *last {
                (*last, *since) = (count, now);
            }
        }
        if beats.iter().all(|(_, _, since)| now - *since < STALL) {
            progress.bump();
        }
    }
}
