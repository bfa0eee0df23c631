//! A dead node's place is taken by a new machine.

use crate::dev;
use crate::survivor::{all_work, join_anew};
use crate::world::{HEALED, World};
use serde_json::Value;
use std::time::{Duration, Instant};

fn node(status: &Value, name: &str) -> Value {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|node| node["name"] == name).unwrap_or_default()
}

/// A node dies with its disk under writers. While it lived its place was refused; then a newcomer takes place, name and
/// vote, and the master never votes alone meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_takes_the_place_of_a_dead_node() {
    let _machine = crate::MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 3, None).unwrap();
    world.write(3).await.unwrap();
    world.healed().await.unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    let dead = world.ackers().await.unwrap().pop().unwrap();
    let before = node(&world.status().await.unwrap(), &dead);
    let error = world.run(&["node", "replace", &dead]).unwrap_err().to_string();
    assert!(error.contains(&format!("{dead} lives")), "{error}");
    assert!(world.run(&["node", "replace", "n9"]).unwrap_err().to_string().contains("no node n9"));

    world.run(&["dev", "kill", &dead]).unwrap();
    let down = |status: &Value| node(status, &dead)["state"] == "down" && status["master"].is_string();
    world.until("it is down", HEALED, down).await.unwrap();
    let begin = Instant::now();
    join_anew(&world, &dead, &["node", "replace", &dead]).await;
    let status = world
        .until("three nodes work", Duration::from_secs(180), |status| {
            // The dead one's vote goes when the newcomer has one.
            let reason = status["reason"].as_str().unwrap_or_default();
            assert!(!reason.contains("of 1 voters"), "{status}");
            all_work(status)
        })
        .await
        .unwrap();
    println!("replaced: all well after {:?}", begin.elapsed());
    let after = node(&status, &dead);
    assert!(after["id"].as_u64() > before["id"].as_u64(), "{before} {after}");
    assert!(after["session"].as_u64() > before["session"].as_u64(), "{before} {after}");
    world.judge().await.unwrap();
    let error = world.run(&["node", "replace", &dead]).unwrap_err().to_string();
    assert!(error.contains(&format!("{dead} lives")), "{error}");
}
