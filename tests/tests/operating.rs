//! What an operator needs on a bad day, on a real cluster: more in the logs for a while, without a restart; another timing
//! profile while all works.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "support/dev.rs"]
mod dev;

use dev::{Dev, all_owned};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);
const CHANGED: &str = "log level changed for a while";
const BACK: &str = "log level back to what it was";
const PROCESSES: [&str; 6] =
    ["node", "db-gate", "tentacle-server", "data-server", "network-server", "console"];

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn a_log_level_changes_while_all_runs_and_goes_back_by_itself() {
    let dev = Dev::up(&["--nodes", "2"]);
    let log = |node: &str, process: &str| dev.read(&format!("{node}/log/{process}.log"));
    let send = |number: u8, name: &str| {
        let file = dev.dir().join(name);
        std::fs::write(&file, "nothing of worth").unwrap();
        let server = dev.env(&format!("ELPIS_TENTACLE_{number}"));
        dev.run(&["tentacle-client", "send", "--server", &server, &file.display().to_string()]);
    };

    // One server of another node than the one that is asked.
    let order =
        ["node", "log-level", "n2", "debug", "--role", "tentacle-server", "--for", "1h", "--on", "n1"];
    let answer = dev.json(&order);
    assert_eq!(
        (&answer["node"], &answer["levels"][0]["directives"]),
        (&"n2".into(), &"debug".into()),
        "{answer}"
    );
    dev.wait("it has changed", SOON, || log("n2", "tentacle-server").contains(CHANGED));
    send(1, "one.txt");
    send(2, "two.txt");
    dev.wait("it says more", SOON, || log("n2", "tentacle-server").contains("DEBUG elpis_tentacle"));
    assert_eq!(count(&log("n1", "tentacle-server"), "DEBUG"), 0, "nobody asked n1");
    assert_eq!(count(&log("n2", "data-server"), CHANGED), 0, "nobody asked this one");

    // A process that is started again hears of it, too.
    let pid = dev.json(&["dev", "status"])["nodes"][1]["processes"]["tentacle-server"]["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    dev.wait("the new process", SOON, || count(&log("n2", "tentacle-server"), CHANGED) == 2);
    dev.run(&["node", "log-level", "n2", "default"]);
    dev.wait("it is as started", SOON, || log("n2", "tentacle-server").contains(BACK));

    // All of a node; nobody takes it back.
    dev.run(&["node", "log-level", "n1", "info,elpis_watch=trace", "--for", "2s"]);
    for process in PROCESSES {
        dev.wait(process, SOON, || log("n1", process).contains(CHANGED));
        dev.wait(process, SOON, || log("n1", process).contains(BACK));
    }
    let levels = dev.json(&["node", "log-level", "n1", "--on", "n2"])["levels"].clone();
    let names: Vec<&str> = levels.as_array().unwrap().iter().filter_map(|one| one["role"].as_str()).collect();
    assert_eq!(names, PROCESSES);
    assert!(levels.as_array().unwrap().iter().all(|one| one["directives"] == "default"), "{levels}");

    for (order, why) in [
        (["n1", "noisy"], "is no log directive"),
        (["n1", "elpis_probe"], "is no log directive"),
        (["n9", "debug"], "there is no node n9"),
    ] {
        let (good, text) = dev.command(&[&["node", "log-level"], &order[..]].concat());
        assert!(!good && text.contains(why), "{text}");
    }
    let status: Value = dev.json(&["cluster", "status"]);
    assert_eq!(status["shards"]["owned"], status["shards"]["total"], "{status}");
}

#[test]
fn the_timing_profile_changes_while_checks_run() {
    let dev = Dev::up(&[]);
    let port = dev.env("ELPIS_SINK").rsplit_once(':').unwrap().1.to_owned();
    for number in 1..=10 {
        dev.run(&["check", "add", &format!("tcp 127.1.0.{number}:{port}"), "--interval", "2"]);
    }
    let (named, said) = dev.command(&["cluster", "profile", "quick"]);
    assert!(!named && said.contains("lan, safe, metro"), "{said}");
    // To a slower one and to a quicker: every node agent starts anew, the work goes on.
    for (profile, lease_ms) in [("metro", 3_000..=4_000), ("lan", 1..=1_500)] {
        dev.run(&["cluster", "profile", profile]);
        let what = format!("all run with {profile}");
        let took = dev.until(&what, Duration::from_secs(120), &["cluster", "profile"], |seen| {
            let with = |node: &Value| node["timing"]["runs"] == profile;
            let settled = seen["profile"]["settled"] == true && seen["profile"]["claim"] == profile;
            settled && seen["nodes"].as_array().unwrap().iter().all(with)
        });
        println!("{profile} after {took:?}");
        dev.until("leases count by it", SOON, &["cluster", "status"], |status| {
            let lease =
                |node: &Value| node["lease_ms_left"].as_i64().is_some_and(|ms| lease_ms.contains(&ms));
            let master = |node: &Value| node["name"] == status["master"];
            let nodes = status["nodes"].as_array().unwrap();
            all_owned(status) && nodes.iter().filter(|node| !master(node)).all(lease)
        });
    }
    let report = dev.json(&["ledger", "check", "--to", "0s"]);
    assert_eq!(report["recorded_twice"], 0, "{report}");
}
