//! A third node joins a cluster of two that holds much data, under 16 writers: how long the copy takes, and what the
//! writers feel of it.

use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Writers are watched so long before the join.
const BEFORE: Duration = Duration::from_secs(30);
/// Rows of the filling: 64 KiB each, so many a statement.
const ROWS: u64 = 1024;
/// Bytes a second that a copy takes at most, as the node agent is told by default.
const LIMIT_MIB_S: u64 = 30;

pub(crate) async fn run(program: &Path, mib: u64, folder: Option<PathBuf>) -> Result<()> {
    let mut world = World::up(program, 1, folder)?;
    let patience = Duration::from_secs(120 + mib / 5);
    fill(&world, mib).await?;
    let within = patience.as_secs().to_string();
    world.run(&["dev", "up", "--detach", "--within", &within, "--nodes", "2"])?;
    let acks = |count: usize| {
        move |status: &Value| status["database"]["ack_set"].as_array().is_some_and(|set| set.len() == count)
    };
    let begin = Instant::now();
    world.until("the second node acknowledges", patience, acks(1)).await?;
    println!("second node: {:.0} s without writers", begin.elapsed().as_secs_f64());
    world.write(2).await?;
    world.written_again(Instant::now(), patience).await?;
    let begin = Instant::now();
    sleep(BEFORE).await;
    let before = world.writers.answers(begin, Instant::now());
    let begin = Instant::now();
    tokio::task::block_in_place(|| {
        world.run(&["dev", "up", "--detach", "--within", &within, "--nodes", "3"])
    })?;
    world.until("the third node acknowledges", patience, acks(2)).await?;
    let (took, during) = (begin.elapsed(), world.writers.answers(begin, Instant::now()));
    ensure!(!before.is_empty() && !during.is_empty(), "no row was acknowledged");
    println!("before: {}", spread(&before));
    println!("join:   {}", spread(&during));
    let (p95, was) = (at(&during, 95), at(&before, 95));
    println!(
        "third node with {mib} MiB: acknowledges after {:.0} s, {:.0} MiB/s of {LIMIT_MIB_S} allowed ({:.0} s); write p95 {:.1} x",
        took.as_secs_f64(),
        mib as f64 / took.as_secs_f64(),
        mib as f64 / LIMIT_MIB_S as f64,
        p95 / was
    );
    println!(
        "longest time without an acknowledged row: {} ms",
        world.writers.longest_pause(begin).as_millis()
    );
    if p95 > 2.0 * was {
        bail!("writers felt it: p95 {p95:.1} ms, before {was:.1} ms");
    }
    Ok(())
}

/// So much into a table of its own, past the binary log: copies bring it, replication does not.
async fn fill(world: &World, mib: u64) -> Result<()> {
    let begin = Instant::now();
    let mut server = world.server("n1").await?;
    server.execute("USE elpis").await?;
    server.execute("SET SESSION sql_log_bin = 0").await?;
    server
        .execute("CREATE TABLE elpis.fault_filling (id BIGINT PRIMARY KEY, bytes MEDIUMBLOB) ENGINE=InnoDB")
        .await?;
    let each = ROWS * 64 / 1024;
    for turn in 0..mib.div_ceil(each) {
        let insert = format!(
            "INSERT INTO elpis.fault_filling SELECT seq + {}, REPEAT(RANDOM_BYTES(1024), 64) FROM seq_1_to_{ROWS}",
            turn * ROWS
        );
        server.execute(AssertSqlSafe(insert)).await.context("filling")?;
    }
    server.close().await?;
    println!("{mib} MiB written in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The answer time at a percentage, ms.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn spread(sorted: &[f64]) -> String {
    let of = |percent| at(sorted, percent);
    format!("{} rows; answers p50 {:.1}, p95 {:.1}, max {:.0} ms", sorted.len(), of(50), of(95), of(100))
}
