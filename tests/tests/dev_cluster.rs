//! A whole cluster of real processes: three nodes come up, checks run, the master is killed, its shards get owners,
//! results go on, it comes back, all stop and start again; nothing was recorded twice, nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "support/dev.rs"]
mod dev;

use dev::{Dev, all_owned, node};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const CHECKS: u64 = 30;

/// Processes whose command line names the folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy().into_owned();
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&folder)).collect()
}

fn recorded(ledger: &Value) -> u64 {
    ledger["recorded"].as_u64().unwrap_or(0)
}

#[test]
fn the_master_dies_and_the_checks_go_on() {
    let dev = Dev::managed(&[]);
    let status = dev.json(&["cluster", "status"]);
    assert!(all_owned(&status), "{status}");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3, "{status}");

    let elsewhere = [
        "cluster",
        "database",
        "--on",
        "n1",
        "--database-url",
        "mysql://nowhere/x",
        "--password-file",
        "/dev/null",
    ];
    let (named, said) = dev.command(&elsewhere);
    assert!(!named && said.contains("run the database themselves"), "{said}");
    for (node, why) in [("n9", "there is no node n9"), ("n1", "is the primary already")] {
        let (moved, said) = dev.command(&["database", "switchover", node]);
        assert!(!moved && said.contains(why), "{said}");
    }

    let env = dev.run(&["dev", "env"]);
    let port = env.lines().find_map(|line| line.strip_prefix("ELPIS_SINK=127.0.0.1:")).unwrap().to_owned();
    for number in 0..CHECKS {
        let target = format!("127.1.0.{}", number + 1);
        let added = dev.json(&["check", "add", &format!("tcp {target}:{port}"), "--interval", "2"]);
        assert_eq!(added["agent"], target.as_str(), "{added}");
    }
    assert_eq!(dev.json(&["agent", "list"]).as_array().unwrap().len() as u64, CHECKS);
    // Without an end the ledger leaves out the newest 30 s.
    let ledger = ["ledger", "check", "--to", "0s"];
    dev.until("every check ran", Duration::from_secs(30), &ledger, |l| recorded(l) >= CHECKS);

    let master = dev.json(&["cluster", "status"])["master"].as_str().unwrap().to_owned();
    dev.run(&["dev", "kill", &master]);
    let took =
        dev.until("every shard has an owner", Duration::from_secs(10), &["cluster", "status"], |status| {
            all_owned(status) && status["master"] != master.as_str() && node(status, &master)["shards"] == 0
        });
    println!("{master} (master) killed: every shard owned after {took:?}");
    let before = recorded(&dev.json(&ledger));
    dev.until("results go on", Duration::from_secs(20), &ledger, |l| recorded(l) >= before + 2 * CHECKS);

    dev.run(&["dev", "start", &master]);
    dev.until("the node is back", Duration::from_secs(20), &["cluster", "status"], |status| {
        all_owned(status) && node(status, &master)["lease_ms_left"].as_i64().is_some_and(|left| left > 0)
    });
    let report = dev.json(&ledger);
    assert_eq!(report["recorded_twice"], 0, "{report}");

    dev.run(&["dev", "down"]);
    assert_eq!(processes_of(dev.dir()), Vec::<String>::new());
    dev.run(&["dev", "up", "--detach"]);
    let status = dev.json(&["cluster", "status"]);
    assert!(all_owned(&status), "{status}");
    dev.run(&["dev", "remove"]);
    assert_eq!(processes_of(dev.dir()), Vec::<String>::new());
    assert!(!dev.dir().exists());
}
