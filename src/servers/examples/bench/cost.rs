//! The same spool through one database and through three that acknowledge, with and without the gate: what redundancy
//! costs in values a second. All nodes share this machine's processors and disk.

use crate::data::Bench;
use crate::files::MODULES;
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use elpis_store::testdb::TestDb;
use elpis_store::{Endpoint, Secret};
use elpis_watch::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Turns of each way, alternating: a machine's speed drifts.
const TURNS: usize = 3;
/// Until all copies acknowledge.
const WELL: Duration = Duration::from_secs(120);

/// A development cluster whose nodes run the database; it ends with the value.
struct Cluster<'a> {
    program: &'a Path,
    folder: tempfile::TempDir,
}

pub(crate) async fn run(program: &Path, files: u32, report: &mut Report) -> Result<()> {
    let one = Cluster::up(program, 1).await?;
    let alone = one.measure(files, &["n1"]).await?;
    drop(one);
    let three = Cluster::up(program, 3).await?;
    let primary = three.primary().await?;
    let other = ["n1", "n2", "n3"].into_iter().find(|node| **node != primary).context("no other node")?;
    let [direct, local, remote] = three.measure(files, &[&primary, other]).await?[..] else {
        anyhow::bail!("three ways were to be measured")
    };
    let [single, gate] = alone[..] else { anyhow::bail!("two ways were to be measured") };
    let less = |rate: f64, than: f64| 100.0 * (1.0 - rate / than);
    let mut row = |what: &str, bar: &str, rate: f64, than: f64, most: f64| {
        let cost = less(rate, than);
        report.row(what, bar, format!("{rate:.0} of {than:.0} values/s: {cost:.1} % less"), cost <= most);
    };
    row("one node, through its gate against straight to its database", "5 % less", gate, single, 5.0);
    row(
        "three nodes, through the gate of the primary's node against straight",
        "5 % less",
        local,
        direct,
        5.0,
    );
    row("three nodes, through another node's gate (TLS) against straight", "10 % less", remote, direct, 10.0);
    row("three nodes that acknowledge against one, both straight", "reported", direct, single, 100.0);
    Ok(())
}

impl Cluster<'_> {
    async fn up(program: &Path, nodes: u32) -> Result<Cluster<'_>> {
        let folder = tempfile::Builder::new().prefix("elpis-cost").tempdir()?;
        let cluster = Cluster { program, folder };
        cluster.dev(&["up", "--detach", "--nodes", &nodes.to_string()])?;
        let begin = Instant::now();
        let whole = |status: &Value| {
            let acks = status["database"]["ack_set"].as_array().map_or(0, Vec::len);
            acks + 1 == nodes as usize
        };
        while !whole(&cluster.status().await?) {
            ensure!(begin.elapsed() < WELL, "not every copy acknowledges after {} s", WELL.as_secs());
            sleep(Duration::from_millis(200)).await;
        }
        Ok(cluster)
    }

    /// Values a second straight to the primary, then through the gate of each of these nodes; medians.
    async fn measure(&self, files: u32, gates: &[&str]) -> Result<Vec<f64>> {
        let primary = self.primary().await?;
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let socket = self.node(&primary).join("database/gate/s");
        let db = TestDb::of("elpis", socket, &user);
        let password = std::fs::read_to_string(self.folder.path().join("db.password"))?;
        let mut ways = vec![("straight".to_owned(), db.endpoint())];
        for gate in gates {
            let socket = self.node(gate).join("run/gate/db.sock");
            let url = format!("mysql://localhost/elpis?socket={}", socket.display());
            let way = Endpoint {
                epoch: 1,
                url,
                user: "elpis-admin".into(),
                password: Secret::new(password.trim_end()),
            };
            ways.push((format!("gate of {gate}"), way));
        }
        let mut bench = Bench::open(self.program, db, ways[0].1.clone())?;
        bench.drain(1, MODULES, "agents and modules made").await?;
        let mut rates = vec![Vec::new(); ways.len()];
        for _ in 0..TURNS {
            for ((name, way), rates) in ways.iter().zip(&mut rates) {
                bench.go(way.clone());
                rates.push(bench.drain(files, MODULES, name).await?);
            }
        }
        for rates in &mut rates {
            rates.sort_by(f64::total_cmp);
        }
        Ok(rates.iter().map(|rates| rates[TURNS / 2]).collect())
    }

    async fn primary(&self) -> Result<String> {
        let status = self.status().await?;
        Ok(status["database"]["primary"].as_str().context("no primary")?.to_owned())
    }

    async fn status(&self) -> Result<Value> {
        let socket = self.node("n1").join("run/node.sock");
        Ok(elpis_watch::request(&socket, Method::GET, "/v1/status", None::<&()>).await?)
    }

    fn node(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dev(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(self.program);
        command.arg("dev").args(arguments).arg("--dir").arg(self.folder.path()).stdin(Stdio::null());
        let done = command.output().with_context(|| format!("cannot start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "elpis dev {} failed: {said}", arguments.join(" "));
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.dev(&["down"]) {
            eprintln!("{error:#}");
        }
    }
}
