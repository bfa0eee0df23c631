//! The faults: what is done, and what must come of it beside [`World::judge`].

use crate::world::{HEALED, World};
use crate::writers::well;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use serde_json::Value;
use sqlx::Executor;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long a lock is held, and gates stand still.
const LOCKED: Duration = Duration::from_secs(3);

/// A fault of a cluster of three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL of the primary's server.
    Kill,
    /// SIGSTOP of it for so many seconds.
    Stop(u64),
    /// SIGTERM of it, by hand.
    Term,
    /// Every process of the primary's node at once, and back after a while.
    Host,
    /// Its node agent stands still while its server works: Raft is cut, SQL is not.
    Agent,
    /// Its gate stands still: nobody gets to it, and its acknowledgements do not come.
    Gate,
    /// Both servers that acknowledge.
    Ackers,
    /// An acknowledging server applies nothing any more.
    SqlThread,
    /// A lock lets an acknowledging server apply nothing, and the primary's server falls meanwhile.
    Lagging,
    /// The gates of both that acknowledge stand still: what the primary commits gets to nobody, while Raft works.
    AckPath,
    /// Somebody writes into a replica.
    Errant,
    /// The primary's node and one that acknowledges: no majority, and nothing may be promoted until one is back.
    HostAndAcker,
    /// No master for three seconds, the primary well.
    NoMaster,
    /// The primary's server again and again.
    CrashLoop,
    /// The primary's server, and the master's node agent so many milliseconds later.
    MasterToo(u64),
    /// All nodes at once, back in another order.
    PowerCut(usize),
    /// By order, to another node.
    Switchover,
}

impl Fault {
    /// All of them, each once.
    pub(crate) fn all() -> Vec<Fault> {
        let mut all = vec![Fault::Kill, Fault::Stop(6), Fault::Term, Fault::Host, Fault::Agent, Fault::Gate];
        all.extend([Fault::Ackers, Fault::SqlThread, Fault::Errant, Fault::HostAndAcker, Fault::NoMaster]);
        all.extend([
            Fault::Lagging,
            Fault::AckPath,
            Fault::CrashLoop,
            Fault::MasterToo(150),
            Fault::PowerCut(3),
            Fault::Switchover,
        ]);
        all
    }

    pub(crate) fn name(self) -> String {
        match self {
            Fault::Stop(_) => "Stop".to_owned(),
            Fault::MasterToo(_) => "MasterToo".to_owned(),
            Fault::PowerCut(_) => "PowerCut".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// A primary was lost or moved: writing stops and goes on.
    pub(crate) fn moves(self) -> bool {
        use Fault::*;
        matches!(
            self,
            Kill | Stop(_) | Term | Host | Agent | Gate | Lagging | CrashLoop | MasterToo(_) | Switchover
        )
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From the fault to the next acknowledged row; of a switchover and a paused node agent, the longest time without one.
    pub(crate) written_ms: Option<u128>,
    /// From the fault to a primary with two that acknowledge.
    pub(crate) healed_ms: u128,
}

/// Does it, waits until all is well again, and judges.
pub(crate) async fn run(world: &World, fault: Fault) -> Result<Seen> {
    world.healed().await?;
    let primary = world.primary().await?;
    let epoch = world.status().await?["database"]["epoch"].as_u64().unwrap_or(0);
    let (begin, written) =
        strike(world, fault, &primary, epoch).await.with_context(|| format!("{fault:?}"))?;
    world.healed().await.with_context(|| format!("{fault:?}"))?;
    let healed_ms = begin.elapsed().as_millis();
    world.written_again(Instant::now(), HEALED).await?;
    world.judge().await.with_context(|| format!("after {fault:?}"))?;
    Ok(Seen { written_ms: written.map(|time| time.as_millis()), healed_ms })
}

async fn strike(
    world: &World,
    fault: Fault,
    primary: &str,
    epoch: u64,
) -> Result<(Instant, Option<Duration>)> {
    let limit = Duration::from_secs(40);
    let mut begin = Instant::now();
    match fault {
        Fault::Kill => world.signal(primary, "mariadbd", SIGKILL)?,
        Fault::Term => world.signal(primary, "mariadbd", SIGTERM)?,
        Fault::Stop(seconds) => {
            world.signal(primary, "mariadbd", SIGSTOP)?;
            let pid = world.pid(primary, "mariadbd")?;
            let written = world.written_again(begin, limit).await?;
            sleep(Duration::from_secs(seconds).saturating_sub(begin.elapsed())).await;
            // It is killed by its node agent long before; if not it wakes up now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), SIGCONT);
            return Ok((begin, Some(written)));
        }
        Fault::Host => {
            world.run(&["dev", "kill", primary])?;
            // What was written while the command started says nothing.
            begin = Instant::now();
            let written = world.written_again(begin, limit).await?;
            sleep(Duration::from_secs(1)).await;
            world.run(&["dev", "start", primary])?;
            return Ok((begin, Some(written)));
        }
        Fault::Agent => {
            world.signal(primary, "node", SIGSTOP)?;
            let moved = |status: &Value| status["database"]["epoch"].as_u64() > Some(epoch);
            let moved = world.until("a new epoch", limit, moved).await;
            let written = world.written_again(Instant::now(), limit).await;
            world.signal(primary, "node", SIGCONT)?;
            moved.and(written)?;
            // Its gate goes on for as long as the lease does.
            return Ok((begin, Some(world.writers.longest_pause(begin))));
        }
        Fault::Gate => {
            world.signal(primary, "db-gate", SIGSTOP)?;
        }
        Fault::Ackers => {
            for acker in world.ackers().await? {
                world.signal(&acker, "mariadbd", SIGKILL)?;
            }
            let written = world.written_again(begin, limit).await?;
            let after = world.status().await?["database"]["epoch"].as_u64();
            ensure!(after == Some(epoch), "the primary was replaced though it was well");
            return Ok((begin, Some(written)));
        }
        Fault::SqlThread => {
            let acker = world.ackers().await?.pop().context("nobody acknowledges")?;
            world.server(&acker).await?.execute("STOP SLAVE SQL_THREAD").await?;
        }
        Fault::Lagging => {
            let acker = world.ackers().await?.pop().context("nobody acknowledges")?;
            let mut lock = world.server(&acker).await?;
            lock.execute("FLUSH TABLES WITH READ LOCK").await?;
            sleep(Duration::from_secs(1)).await;
            begin = Instant::now();
            world.signal(primary, "mariadbd", SIGKILL)?;
            sleep(LOCKED).await;
            // Its supervisor may have ended the session.
            let _ = lock.execute("UNLOCK TABLES").await;
        }
        Fault::AckPath => {
            let ackers = world.ackers().await?;
            let gates: Vec<i32> =
                ackers.iter().map(|acker| world.pid(acker, "db-gate")).collect::<Result<_>>()?;
            for acker in &ackers {
                world.signal(acker, "db-gate", SIGSTOP)?;
            }
            sleep(LOCKED).await;
            for gate in gates {
                // One that hung for long was killed and started anew.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(gate), SIGCONT);
            }
            world.written_again(Instant::now(), limit).await?;
            return Ok((begin, Some(world.writers.longest_pause(begin))));
        }
        Fault::Errant => {
            let acker = world.ackers().await?.pop().context("nobody acknowledges")?;
            let row = "INSERT INTO elpis.fault_rows (id) VALUES (18446744073709551000)";
            world.server(&acker).await?.execute(row).await?;
            // A copy is made anew of the primary's.
            sleep(Duration::from_secs(1)).await;
            world.until("the astray copy is away", HEALED, |status| !well(status)).await?;
        }
        Fault::HostAndAcker => {
            let acker = world.ackers().await?.pop().context("nobody acknowledges")?;
            world.run(&["dev", "kill", primary])?;
            world.run(&["dev", "kill", &acker])?;
            sleep(Duration::from_secs(4)).await;
            begin = Instant::now();
            world.run(&["dev", "start", &acker])?;
            sleep(Duration::from_millis(500)).await;
            world.run(&["dev", "start", primary])?;
        }
        Fault::NoMaster => {
            let others: Vec<String> = world.nodes()?.into_iter().filter(|node| node != primary).collect();
            for node in &others {
                world.signal(node, "node", SIGSTOP)?;
            }
            let server = world.pid(primary, "mariadbd")?;
            sleep(Duration::from_secs(3)).await;
            for node in &others {
                world.signal(node, "node", SIGCONT)?;
            }
            ensure!(world.pid(primary, "mariadbd")? == server, "the primary was killed without a master");
            let after = world.until("a master", HEALED, |_| true).await?;
            ensure!(
                after["database"]["epoch"] == epoch,
                "somebody was promoted without a master: {}",
                after["database"]
            );
        }
        Fault::CrashLoop => {
            world.signal(primary, "mariadbd", SIGKILL)?;
            let written = world.written_again(begin, limit).await?;
            for _ in 0..3 {
                sleep(Duration::from_millis(700)).await;
                // It may not be back yet.
                let _ = world.signal(primary, "mariadbd", SIGKILL);
            }
            return Ok((begin, Some(written)));
        }
        Fault::MasterToo(after_ms) => {
            let status = world.status().await?;
            let master = status["master"].as_str().unwrap_or_default().to_owned();
            world.signal(primary, "mariadbd", SIGKILL)?;
            sleep(Duration::from_millis(after_ms)).await;
            world.signal(&master, "node", SIGKILL)?;
        }
        Fault::PowerCut(order) => {
            let mut nodes = world.nodes()?;
            for node in &nodes {
                world.run(&["dev", "kill", node])?;
            }
            let count = nodes.len();
            nodes.rotate_left(order % count);
            if order >= count {
                nodes.reverse();
            }
            let (last, first) = nodes.split_last().context("no nodes")?;
            for node in first {
                world.run(&["dev", "start", node])?;
                sleep(Duration::from_millis(300)).await;
            }
            sleep(Duration::from_secs(3)).await;
            begin = Instant::now();
            world.run(&["dev", "start", last])?;
            return Ok((begin, Some(world.written_again(begin, HEALED).await?)));
        }
        Fault::Switchover => {
            let to = world.ackers().await?.pop().context("nobody acknowledges")?;
            world.run(&["database", "switchover", &to])?;
            let moved = |status: &Value| {
                status["database"]["primary"] == to.as_str() && status["database"]["failing_over"] == false
            };
            world.until("the new primary is the one asked for", limit, moved).await?;
            world.written_again(Instant::now(), limit).await?;
            // The order comes first, the pause later.
            return Ok((begin, Some(world.writers.longest_pause(begin))));
        }
    }
    let written = if fault.moves() { Some(world.written_again(begin, limit).await?) } else { None };
    // A server that falls together with its node agent is started again in its epoch: nobody saw it fall.
    if fault.moves() && !matches!(fault, Fault::Gate | Fault::MasterToo(_)) {
        let moved = |status: &Value| status["database"]["epoch"].as_u64() > Some(epoch);
        world.until("a new epoch", limit, moved).await?;
    }
    Ok((begin, written))
}
