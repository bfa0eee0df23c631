//! Files sent to all nodes while one of them is gone for good: none that was accepted may be missing, and what is stored
//! must be what an undisturbed cluster stores.

use crate::dev::{Dev, LOOK};
use crate::dump::{Dump, differences, dump};
use crate::report::Report;
use crate::sender::{Load, Sent, send_all};
use crate::tail::unix_ms;
use anyhow::{Context, Result, bail, ensure};
use sqlx::mysql::MySqlPool;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const AGENTS: u32 = 500;
/// Time to work off what was accepted.
const WORK: Duration = Duration::from_secs(120);

pub(crate) async fn run(
    program: &Path,
    files: u32,
    rounds: u32,
    seed: u64,
    report: &mut Report,
) -> Result<()> {
    let each = (files / AGENTS).max(1);
    let agents = files.div_ceil(each);
    // In the past, the last one a minute ago: nothing becomes unknown meanwhile.
    let from = unix_ms() / 1000 / 60 * 60 - 60 * i64::from(each);
    let load = Load { agents, each, from };
    let begin = Instant::now();
    let (undisturbed, sent, _) = round(program, load, None).await.context("the undisturbed round")?;
    println!(
        "undisturbed: {} files, {:?}, {:.1} s",
        sent.accepted,
        sent.longest,
        begin.elapsed().as_secs_f32()
    );
    let (mut lost, mut other, mut again, mut accepted) = (0usize, 0u32, 0u32, 0u64);
    let mut random = seed;
    for number in 1..=rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let node = 1 + (random >> 33) % 3;
        let after = u32::try_from((random >> 40) % u64::from(load.files())).unwrap_or(0);
        let begin = Instant::now();
        let (dump, sent, missing) = round(program, load, Some((node, after)))
            .await
            .with_context(|| format!("round {number}: n{node} gone after {after} files"))?;
        let differ = differences(&undisturbed, &dump);
        println!(
            "round {number}: n{node} gone after {after} files; {} accepted, {} tried again, slowest {:.1} s, {missing} missing, {} tables differ; {:.1} s",
            sent.accepted,
            sent.again,
            sent.longest.as_secs_f32(),
            differ.len(),
            begin.elapsed().as_secs_f32()
        );
        for text in &differ {
            println!("      {text}");
        }
        lost += missing;
        other += u32::from(!differ.is_empty());
        again += sent.again;
        accepted += u64::from(sent.accepted);
    }
    report.row(
        format!("{} files to all nodes, one gone for good at a random moment, {rounds} rounds: accepted files lost", load.files()),
        "0",
        format!("{lost} of {accepted} ({again} tries made again elsewhere)"),
        lost == 0,
    );
    report.row(
        "the same: rounds whose rows differ from the undisturbed run",
        "0",
        format!("{other} of {rounds}; {} s in all", begin.elapsed().as_secs()),
        other == 0,
    );
    Ok(())
}

/// One cluster, all files; returns its rows, what the senders saw, and how many accepted files are not recorded.
async fn round(program: &Path, load: Load, gone: Option<(u64, u32)>) -> Result<(Dump, Sent, usize)> {
    let dev = Dev::up(program, 3, false)?;
    let pool = dev.database().await?;
    let env = dev.env()?;
    let servers: Vec<SocketAddr> = (1..=3)
        .map(|node| Ok(env.get(&format!("ELPIS_TENTACLE_{node}")).context("no Tentacle address")?.parse()?))
        .collect::<Result<_>>()?;
    let progress = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&progress);
    let sending = tokio::task::spawn_blocking(move || send_all(load, &servers, &counted));
    if let Some((node, after)) = gone {
        while progress.load(Ordering::Relaxed) < after && !sending.is_finished() {
            sleep(Duration::from_millis(5)).await;
        }
        let name = format!("n{node}");
        dev.run(&["dev", "kill", &name])?;
        let folder = dev.dir().join(&name);
        // For good: what it had on its disk is gone as well.
        std::fs::remove_dir_all(folder.join("spool")).context("its spool")?;
    }
    let sent = sending.await??;
    ensure!(sent.accepted == load.files(), "{} of {} accepted", sent.accepted, load.files());
    let missing = worked_off(&pool, load.files()).await?;
    let rows = dump(&pool).await?;
    pool.close().await;
    Ok((rows, sent, missing))
}

/// Waits until every report is recorded; returns how many are not in the end.
async fn worked_off(pool: &MySqlPool, files: u32) -> Result<usize> {
    let begin = Instant::now();
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM treport_done").fetch_one(pool).await?;
        if count >= i64::from(files) {
            // A report too many would be one recorded under two keys.
            ensure!(count == i64::from(files), "{count} reports are recorded, {files} were sent");
            return Ok(0);
        }
        if count != last {
            (last, since) = (count, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(30) || begin.elapsed() > WORK {
            return Ok(usize::try_from(i64::from(files) - count)?);
        }
        if count < 0 {
            bail!("COUNT(*) is negative");
        }
        sleep(LOOK * 4).await;
    }
}
