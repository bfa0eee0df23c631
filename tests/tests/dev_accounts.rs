//! Database accounts of a whole cluster: every server of every node is connected as itself, a new master makes them
//! again and says what it lacks, a removed node's are gone, and the administration password is nowhere in the clear.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "support/dev.rs"]
mod dev;

use dev::Dev;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// As the database's own administrator.
fn sql(dev: &Dev, sql: &str) -> BTreeSet<String> {
    let socket = dev.dir().join("mariadb/s");
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-N", "-B", "-e", sql]).arg("-S").arg(socket);
    let done = client.output().unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Waits until the status is so.
fn until(dev: &Dev, what: &str, good: impl Fn(&Value) -> bool) -> Duration {
    dev.until(what, LIMIT, &["cluster", "status"], good)
}

fn made(status: &Value, count: u64) -> bool {
    let accounts = &status["database"]["accounts"];
    accounts["made"] == count && accounts["wanted"] == count && accounts["error"] == ""
}

/// Names without the cluster's part: `2-data`.
fn short(accounts: &BTreeSet<String>) -> BTreeSet<String> {
    accounts.iter().map(|name| name.splitn(3, '-').nth(2).unwrap().to_owned()).collect()
}

#[test]
fn every_server_is_connected_as_itself() {
    let dev = Dev::up(&[]);
    until(&dev, "all accounts are made", |status| made(status, 9));
    let status = dev.json(&["cluster", "status"]);
    let nodes: Vec<(String, u64)> = status["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["name"].as_str().unwrap().to_owned(), node["id"].as_u64().unwrap()))
        .collect();
    let wanted: BTreeSet<String> = nodes
        .iter()
        .flat_map(|(_, id)| ["data", "network", "console"].map(|role| format!("{id}-{role}")))
        .collect();
    let connected = "SELECT DISTINCT user FROM information_schema.processlist WHERE user LIKE 'elpis%'";
    until(&dev, "nine accounts are connected, the administration's is not", |_| {
        let users = sql(&dev, connected);
        !users.contains("elpis") && short(&users) == wanted
    });

    // Work goes on under them, and nobody else could read the password.
    let sink = dev.env("ELPIS_SINK");
    dev.run(&["check", "add", &format!("tcp {sink}"), "--interval", "1"]);
    let stored = "SELECT 1 FROM elpis.trun_ledger LIMIT 1";
    until(&dev, "a result is stored", |_| !sql(&dev, stored).is_empty());
    let password = std::fs::read_to_string(dev.dir().join("db.password")).unwrap();
    for (name, _) in &nodes {
        let folder = dev.dir().join(name);
        let log = std::fs::read(folder.join("raft.redb")).unwrap();
        let holds = |text: &str| log.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds("sealed1:") && !holds(password.trim()), "{name}");
        let mode = std::fs::metadata(folder.join("cluster.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // An address or a password that does not work would stop every node.
    let file = dev.dir().join("db.password");
    let wrong = dev.dir().join("wrong.password");
    std::fs::write(&wrong, "wrong").unwrap();
    let url = status["database"]["url"].as_str().unwrap();
    for (url, file) in [("bogus", &file), ("http://x/y", &file), (url, &wrong)] {
        let named = ["cluster", "database", "--database-url", url, "--password-file"];
        let (good, text) = dev.command(&[&named[..], &[file.to_str().unwrap()]].concat());
        assert!(!good && text.contains("nothing was changed"), "{url}: {text}");
    }
    assert_eq!(dev.json(&["cluster", "status"])["database"], status["database"]);
    dev.run(&["cluster", "database", "--database-url", url, "--password-file", file.to_str().unwrap()]);

    // A new master makes everything once more, and says what it lacks.
    sql(&dev, "REVOKE CREATE USER ON *.* FROM 'elpis'@'localhost'");
    let master = status["master"].as_str().unwrap().to_owned();
    dev.run(&["dev", "kill", &master]);
    let took = until(&dev, "the new master says what it lacks", |status| {
        let error = status["database"]["accounts"]["error"].as_str().unwrap_or_default();
        error.contains("GRANT CREATE USER ON *.* TO 'elpis'@'localhost'")
    });
    println!("killed the master: the next one named what the administration account lacks after {took:?}");
    sql(&dev, "GRANT CREATE USER ON *.* TO 'elpis'@'localhost'");
    until(&dev, "nothing is lacking", |status| made(status, 9));
    dev.run(&["dev", "start", &master]);
    until(&dev, "the node is back", |status| status["can_lose"] == 1);

    // A removed node's accounts go, the others' stay.
    let gone = nodes.iter().find(|(name, _)| *name != master).unwrap();
    dev.run(&["node", "drain", &gone.0]);
    until(&dev, "it owns nothing", |status| {
        let all = status["nodes"].as_array().cloned().unwrap_or_default();
        all.iter().any(|node| node["name"] == gone.0.as_str() && node["shards"] == 0)
            && status["master"].is_string()
            && status["master"] != gone.0.as_str()
    });
    dev.run(&["node", "remove", &gone.0]);
    let took = until(&dev, "its accounts are gone", |status| {
        let left = short(&sql(&dev, "SELECT user FROM mysql.user WHERE user LIKE 'elpis-%'"));
        made(status, 6)
            && left
                == wanted.iter().filter(|name| !name.starts_with(&format!("{}-", gone.1))).cloned().collect()
    });
    println!("removed a node: its accounts were gone after {took:?}");
}
