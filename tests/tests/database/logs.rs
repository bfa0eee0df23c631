//! Binary logs: which go, and which stay.

use crate::dev;
use crate::world::{HEALED, World};
use anyhow::{Context, Result};
use sqlx::{Executor, Row};
use std::time::{Duration, Instant};

/// Binary logs go when every copy has applied them, wait for a copy that is away, and one that has waited in vain is made
/// anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_logs_stay_for_as_long_as_a_copy_needs_them() {
    let _machine = crate::MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 3, None).unwrap();
    world.write(3).await.unwrap();
    world.healed().await.unwrap();
    let nodes = world.nodes().unwrap();
    let before = begin_new(&world, &nodes).await.unwrap();
    let purged = async {
        for (node, newest) in nodes.iter().zip(&before) {
            while binary_logs(&world, node).await.unwrap().first() < Some(newest) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    tokio::time::timeout(HEALED, purged).await.expect("binary logs that every copy has applied go");

    let away = world.ackers().await.unwrap().pop().unwrap();
    world.run(&["dev", "kill", &away]).unwrap();
    let stay: Vec<String> = nodes.iter().filter(|node| **node != away).cloned().collect();
    let first = binary_logs(&world, &stay[0]).await.unwrap()[0].clone();
    begin_new(&world, &stay).await.unwrap();
    // Two looks of each supervisor, ten seconds apart, in which nothing may go.
    tokio::time::sleep(Duration::from_secs(25)).await;
    for node in &stay {
        let logs = binary_logs(&world, node).await.unwrap();
        assert!(logs.len() > 3, "{node} purged what {away} needs: {logs:?}");
    }
    assert_eq!(binary_logs(&world, &stay[0]).await.unwrap()[0], first);

    // What the limit does after days is done by hand.
    let newest = begin_new(&world, &stay).await.unwrap();
    for (node, newest) in stay.iter().zip(&newest) {
        let purge = sqlx::AssertSqlSafe(format!("PURGE BINARY LOGS TO '{newest}'"));
        world.server(node).await.unwrap().execute(purge).await.unwrap();
    }
    world.run(&["dev", "start", &away]).unwrap();
    world.healed().await.unwrap();
    let log = std::fs::read_to_string(world.dir().join(&away).join("log/node.log")).unwrap();
    assert!(log.contains("Rebuild"), "{away} was not made anew");
    world.judge().await.unwrap();
}

/// Names of a server's binary logs, oldest first.
async fn binary_logs(world: &World, node: &str) -> Result<Vec<String>> {
    let mut server = world.server(node).await?;
    let rows = sqlx::raw_sql("SHOW BINARY LOGS").fetch_all(&mut server).await?;
    rows.iter().map(|row| Ok(row.try_get_unchecked(0)?)).collect()
}

/// Begins new ones, three on each node, with rows in between; the answer is the newest of each.
async fn begin_new(world: &World, nodes: &[String]) -> Result<Vec<String>> {
    for _ in 0..3 {
        for node in nodes {
            world.server(node).await?.execute("FLUSH LOCAL BINARY LOGS").await?;
        }
        world.written_again(Instant::now(), HEALED).await?;
    }
    let mut newest = Vec::new();
    for node in nodes {
        newest.push(binary_logs(world, node).await?.pop().context("no binary log")?);
    }
    Ok(newest)
}
