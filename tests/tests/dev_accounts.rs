//! Database accounts of a whole cluster: every server of every node is connected as itself, a new master makes them
//! again and says what it lacks, a removed node's are gone, and the administration password is nowhere in the clear.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// The program next to this test; `cargo build --workspace` makes it.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("elpis");
    assert!(program.is_file(), "{} is not built: cargo build --workspace", program.display());
    program
}

/// A development cluster; ends with the test, however that ends.
struct Dev(tempfile::TempDir);

impl Dev {
    fn command(&self, arguments: &[&str]) -> (bool, String) {
        let done = Command::new(program()).args(arguments).arg("--dir").arg(self.0.path()).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success(), text + &String::from_utf8_lossy(&done.stderr))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let (good, text) = self.command(arguments);
        assert!(good, "elpis {}: {text}", arguments.join(" "));
        text
    }

    fn status(&self) -> Value {
        let (good, text) = self.command(&["cluster", "status", "--json"]);
        if good { serde_json::from_str(&text).unwrap() } else { Value::String(text) }
    }

    /// As the database's own administrator.
    fn sql(&self, sql: &str) -> BTreeSet<String> {
        let socket = self.0.path().join("mariadb/s");
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-N", "-B", "-e", sql]).arg("-S").arg(socket);
        let done = client.output().unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn until(&self, what: &str, good: impl Fn(&Value) -> bool) -> Duration {
        let begin = Instant::now();
        loop {
            let status = self.status();
            if good(&status) {
                return begin.elapsed();
            }
            assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.command(&["dev", "down"]);
    }
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
    let dev = Dev(tempfile::tempdir().unwrap());
    dev.run(&["dev", "up", "--detach"]);
    dev.until("all accounts are made", |status| made(status, 9));
    let status = dev.status();
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
    dev.until("nine accounts are connected, the administration's is not", |_| {
        let users = dev.sql(connected);
        !users.contains("elpis") && short(&users) == wanted
    });

    // Work goes on under them, and nobody else could read the password.
    let env = dev.run(&["dev", "env"]);
    let sink = env.lines().find_map(|line| line.strip_prefix("ELPIS_SINK=")).unwrap();
    dev.run(&["check", "add", &format!("tcp {sink}"), "--interval", "1"]);
    let stored = "SELECT 1 FROM elpis.trun_ledger LIMIT 1";
    dev.until("a result is stored", |_| !dev.sql(stored).is_empty());
    let password = std::fs::read_to_string(dev.0.path().join("db.password")).unwrap();
    for (name, _) in &nodes {
        let folder = dev.0.path().join(name);
        let log = std::fs::read(folder.join("raft.redb")).unwrap();
        let holds = |text: &str| log.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds("sealed1:") && !holds(password.trim()), "{name}");
        let mode = std::fs::metadata(folder.join("cluster.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // A new master makes everything once more, and says what it lacks.
    dev.sql("REVOKE CREATE USER ON *.* FROM 'elpis'@'localhost'");
    let master = status["master"].as_str().unwrap().to_owned();
    dev.run(&["dev", "kill", &master]);
    let took = dev.until("the new master says what it lacks", |status| {
        let error = status["database"]["accounts"]["error"].as_str().unwrap_or_default();
        error.contains("GRANT CREATE USER ON *.* TO 'elpis'@'localhost'")
    });
    println!("killed the master: the next one named what the administration account lacks after {took:?}");
    dev.sql("GRANT CREATE USER ON *.* TO 'elpis'@'localhost'");
    dev.until("nothing is lacking", |status| made(status, 9));
    dev.run(&["dev", "start", &master]);
    dev.until("the node is back", |status| status["can_lose"] == 1);

    // A removed node's accounts go, the others' stay.
    let gone = nodes.iter().find(|(name, _)| *name != master).unwrap();
    dev.run(&["node", "drain", &gone.0]);
    dev.until("it owns nothing", |status| {
        let all = status["nodes"].as_array().cloned().unwrap_or_default();
        all.iter().any(|node| node["name"] == gone.0.as_str() && node["shards"] == 0)
            && status["master"].is_string()
            && status["master"] != gone.0.as_str()
    });
    dev.run(&["node", "remove", &gone.0]);
    let took = dev.until("its accounts are gone", |status| {
        let left = short(&dev.sql("SELECT user FROM mysql.user WHERE user LIKE 'elpis-%'"));
        made(status, 6)
            && left
                == wanted.iter().filter(|name| !name.starts_with(&format!("{}-", gone.1))).cloned().collect()
    });
    println!("removed a node: its accounts were gone after {took:?}");
}
