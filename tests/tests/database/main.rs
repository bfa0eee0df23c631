//! The nodes run the database: every fault once, on a cluster of three under writers and checks, and one, two, three
//! nodes. `make faults-db` does the same many times and measures.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "../support/dev.rs"]
mod dev;
mod disk;
mod eio;
mod faults;
mod logs;
mod lost;
mod replace;
mod survivor;
mod world;
#[path = "../support/writers.rs"]
mod writers;

use faults::Fault;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use world::{HEALED, World};
use writers::well;

/// Five times the bar of a lost host.
const WRITTEN_MS: u128 = 17_500;

/// One cluster at a time: two make each other late.
static MACHINE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_loses_a_row() {
    let _machine = MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 3, None).unwrap();
    world.checks(60).await.unwrap();
    world.write(3).await.unwrap();
    let mut wrong = Vec::new();
    for fault in Fault::all() {
        let begin = Instant::now();
        match faults::run(&world, fault).await {
            Ok(seen) => {
                let written = seen.written_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
                println!("{:<14} written again {written:>9}, well {:>6} ms", fault.name(), seen.healed_ms);
                if seen.written_ms.is_some_and(|ms| ms > WRITTEN_MS) {
                    wrong.push(format!("{fault:?}: written again after {written}"));
                }
            }
            Err(error) => {
                println!("{:<14} {error:#}", fault.name());
                wrong.push(format!("{fault:?}, {} s: {error:#}", begin.elapsed().as_secs()));
                if world.healed().await.is_err() {
                    break;
                }
            }
        }
    }
    println!("{} rows acknowledged", world.writers.count());
    let ledger = world.json(&["ledger", "check", "--to", "0s"]).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(ledger["recorded_twice"], 0, "{ledger}");
    assert!(ledger["recorded"].as_u64() > Some(0), "{ledger}");
}

/// One node: nobody is waited for. Two: each commit is on both; when one dies the other goes on alone after a while.
/// Three: as everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_two_and_three_nodes() {
    let _machine = MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 1, None).unwrap();
    world.write(1).await.unwrap();
    let status = world.status().await.unwrap();
    assert_eq!((&status["database"]["mode"], &status["can_lose"]), (&"single".into(), &0.into()), "{status}");
    world.written_again(Instant::now(), Duration::from_secs(10)).await.unwrap();

    let begin = Instant::now();
    world.signal("n1", "mariadbd", nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = world.written_again(begin, Duration::from_secs(20)).await.unwrap();
    println!("the only server killed: written again after {again:?}");

    // It hangs for so long that it is replaced, by itself: whoever joins gets a copy that names its position.
    let epoch = status["database"]["epoch"].as_u64();
    world.signal("n1", "mariadbd", nix::sys::signal::Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let _ = world.signal("n1", "mariadbd", nix::sys::signal::Signal::SIGCONT);
    let moved = |status: &serde_json::Value| {
        status["database"]["epoch"].as_u64() > epoch && status["database"]["failing_over"] == false
    };
    world.until("it leads again, in a new epoch", HEALED, moved).await.unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();

    world.run(&["dev", "up", "--detach", "--nodes", "2"]).unwrap();
    let status = world.status().await.unwrap();
    assert_eq!(status["database"]["mode"], "sync", "{status}");
    assert_eq!(status["database"]["ack_set"], serde_json::json!(["n2"]), "{status}");
    let begin = Instant::now();
    world.run(&["dev", "kill", "n2"]).unwrap();
    let again = world.written_again(begin, Duration::from_secs(25)).await.unwrap();
    println!("the other one of two killed: written again after {again:?}");
    world.until("it goes on alone", HEALED, |status| status["database"]["mode"] == "single").await.unwrap();
    let epoch = world.status().await.unwrap()["database"]["epoch"].clone();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.status().await.unwrap()["database"]["epoch"], epoch, "it is well, alone");
    world.run(&["dev", "start", "n2"]).unwrap();
    world.until("it follows again", HEALED, |status| status["database"]["mode"] == "sync").await.unwrap();

    world.run(&["dev", "up", "--detach", "--nodes", "3"]).unwrap();
    let status = world.until("three copies", HEALED, well).await.unwrap();
    assert_eq!(status["can_lose"], 1, "{status}");
    world.judge().await.unwrap();
}

/// Five: two of the four others acknowledge. Two nodes are lost one after the other, the primary's first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_lose_two() {
    let _machine = MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 5, None).unwrap();
    world.write(5).await.unwrap();
    world.until("five copies", HEALED, |status| well(status) && copies(status) == 5).await.unwrap();
    let first = world.primary().await.unwrap();
    world.run(&["dev", "kill", &first]).unwrap();
    let begin = Instant::now();
    let again = world.written_again(begin, Duration::from_secs(25)).await.unwrap();
    println!("the primary's node of five killed: written again after {again:?}");
    world.until("well without it", HEALED, |status| well(status) && copies(status) == 4).await.unwrap();
    let second = world.primary().await.unwrap();
    assert_ne!(second, first);
    world.run(&["dev", "kill", &second]).unwrap();
    let begin = Instant::now();
    let again = world.written_again(begin, Duration::from_secs(25)).await.unwrap();
    println!("the next one's killed too: written again after {again:?}");
    for node in [&first, &second] {
        world.run(&["dev", "start", node]).unwrap();
    }
    world.until("five copies again", HEALED * 2, |status| well(status) && copies(status) == 5).await.unwrap();
    world.judge().await.unwrap();
}

/// Copies that lead or follow.
fn copies(status: &serde_json::Value) -> usize {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let works = |node: &&serde_json::Value| {
        node["state"] == "up" && matches!(node["database"]["main"].as_str(), Some("primary" | "replica"))
    };
    nodes.iter().filter(works).count()
}
