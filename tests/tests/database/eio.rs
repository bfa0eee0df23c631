//! A disk that refuses to keep what was written, by a preloaded library whose `fsync` fails.

use crate::dev;
use crate::world::{HEALED, World};
use crate::writers::well;
use elpis_watch::Method;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Starts in vain, a refused copy, a copy.
const PATIENCE: Duration = Duration::from_secs(180);

/// The primary's server ends itself at the first error, another node goes on without a lost row, and the node is set
/// aside with words until its disk takes what is written; then it gets a copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_keeps_nothing_loses_nothing() {
    let _machine = crate::MACHINE.lock().await;
    let scratch = tempfile::Builder::new().prefix("elpis-eio").tempdir().unwrap();
    let library = scratch.path().join("eio.so").display().to_string();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/eio.c");
    let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", &library];
    let built = Command::new("cc").args(flags).arg(source).output().expect("cc; `make setup` installs it");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let dir = scratch.path().join("c");
    let mut world = World::up_with(&dev::program(), 3, Some(dir), &[("LD_PRELOAD", &library)]).unwrap();
    world.write(3).await.unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    world.healed().await.unwrap();
    let node = world.primary().await.unwrap();
    let folder = world.dir().join(&node);
    let begin = Instant::now();
    std::fs::write(folder.join("database/eio"), "").unwrap();
    let moved = |status: &Value| {
        let database = &status["database"];
        database["primary"] != node.as_str() && database["moved"][0]["epoch"] == database["epoch"]
    };
    let status = world.until("another one leads", HEALED, moved).await.unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    let pause = world.writers.longest_pause(begin);
    println!("fsync fails: longest pause {pause:?}, {}", status["database"]["moved"][0]["reason"]);
    let log = std::fs::read_to_string(folder.join("log/mariadbd.log")).unwrap();
    assert!(
        log.contains("returned 5") || log.contains("Errcode: 5") || log.contains("EIO"),
        "it was the disk"
    );

    let said = async {
        loop {
            let socket = folder.join("run/node.sock");
            let asked = elpis_watch::request::<Value>(&socket, Method::GET, "/v1/status", None::<&()>).await;
            let events = asked.unwrap_or_default()["events"].as_array().cloned().unwrap_or_default();
            let texts = events.iter().filter_map(|event| event["text"].as_str());
            if texts.filter(|text| text.contains("does not take what is written there")).count() > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("nothing is said{}", world.logs()));
    println!("set aside with words after {:?}", begin.elapsed());
    // Nobody gives it the primary's place, and nothing waits for it.
    let status = world.status().await.unwrap();
    assert!(
        status["database"]["primary"] != node.as_str() && status["database"]["mode"] == "sync",
        "{status}"
    );

    std::fs::remove_file(folder.join("database/eio")).unwrap();
    world.until("it gets a copy", PATIENCE, well).await.unwrap();
    world.judge().await.unwrap();
}
