//! Checks against 256 loopback targets through a network server: results stored in a second.

use crate::fake::{NodeAgent, number};
use crate::process::Process;
use crate::report::Report;
use crate::snmp;
use anyhow::{Result, anyhow, ensure};
use elpis_monitor::{Agent, Check, Module, ModuleType};
use elpis_store::testdb::TestDb;
use elpis_store::{Store, Writer};
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::sleep;

pub(crate) const TARGETS: u32 = 256;
const WARM: Duration = Duration::from_secs(6);
const EXECUTIONS: &str = "SELECT COALESCE(SUM(executions), 0) FROM trun_ledger";

/// A kind of check, and how many of it are due in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    name: &'static str,
    module_type: &'static str,
    /// Modules of each target, one run a second each.
    each: u32,
    bar: u32,
}

const TCP: Kind = Kind { name: "TCP", module_type: "remote_tcp_proc", each: 48, bar: 5_000 };
const ICMP: Kind = Kind { name: "ICMP", module_type: "remote_icmp_proc", each: 96, bar: 10_000 };
const SNMP: Kind = Kind { name: "single SNMP gets", module_type: "remote_snmp", each: 28, bar: 3_000 };

pub(crate) async fn run(program: &Path, seconds: u64, report: &mut Report) -> Result<()> {
    for kind in [TCP, ICMP, SNMP] {
        let world = World::new(kind, 1).await?;
        let rate = world.measure(program, seconds, &[]).await?;
        report.row(
            format!("network server, {} results stored, {TARGETS} targets", kind.name),
            &format!("{} a second", kind.bar),
            format!("{rate:.0} of {} due a second", kind.each * TARGETS),
            rate >= f64::from(kind.bar),
        );
    }
    Ok(())
}

/// With and without the list of executions, in turns; more is due than can be stored.
pub(crate) async fn ledger(program: &Path, seconds: u64, report: &mut Report) -> Result<()> {
    let world = World::new(Kind { each: 300, ..ICMP }, 1).await?;
    let (mut with, mut without) = (0.0, 0.0);
    for _ in 0..3 {
        with += world.measure(program, seconds, &[]).await?;
        without += world.measure(program, seconds, &["--no-run-list".as_ref()]).await?;
    }
    let cost = 100.0 * (1.0 - with / without);
    report.row(
        "run ledger: fewer results stored than without its lists, ICMP, three turns each",
        "5 %",
        format!("{cost:.1} % ({:.0} and {:.0} a second)", with / 3.0, without / 3.0),
        cost <= 5.0,
    );
    Ok(())
}

/// Targets, and a database that knows checks of them.
pub(crate) struct World {
    pub(crate) db: TestDb,
    pub(crate) node: std::sync::Arc<NodeAgent>,
    kind: Kind,
    _targets: JoinSet<()>,
}

impl World {
    async fn new(kind: Kind, interval_s: u32) -> Result<World> {
        let mut targets = JoinSet::new();
        let port = match kind.module_type {
            "remote_tcp_proc" => listen(&mut targets).await?,
            "remote_snmp" => answer(&mut targets).await?,
            _ => 0,
        };
        World::with(kind, interval_s, port, targets).await
    }

    /// Modules that ping, run in this interval.
    pub(crate) async fn pings(each: u32, interval_s: u32) -> Result<World> {
        World::with(Kind { each, ..ICMP }, interval_s, 0, JoinSet::new()).await
    }

    async fn with(kind: Kind, interval_s: u32, port: u16, targets: JoinSet<()>) -> Result<World> {
        let db = TestDb::durable().await.map_err(|e| anyhow!(e))?;
        let store = db.store().await.map_err(|e| anyhow!(e))?;
        let begin = Instant::now();
        for target in 0..TARGETS {
            create(&store, kind, target, interval_s, port).await?;
        }
        println!("{} modules made in {:.0} s", kind.each * TARGETS, begin.elapsed().as_secs_f64());
        let node = NodeAgent::serve(db.endpoint());
        Ok(World { db, node, kind, _targets: targets })
    }

    pub(crate) fn start(&self, program: &Path, more: &[&OsStr]) -> Result<Process> {
        let mut arguments: Vec<&OsStr> =
            vec!["network-server".as_ref(), "--socket".as_ref(), self.node.socket.as_os_str()];
        arguments.extend(more);
        Process::start(program, &arguments)
    }

    async fn measure(&self, program: &Path, seconds: u64, more: &[&OsStr]) -> Result<f64> {
        let server = self.start(program, more)?;
        sleep(WARM).await;
        let (before, begin, cpu) = (number(&self.db, EXECUTIONS).await, Instant::now(), server.cpu_s());
        sleep(Duration::from_secs(seconds)).await;
        let (after, took) = (number(&self.db, EXECUTIONS).await, begin.elapsed().as_secs_f64());
        let results = (after - before) as f64;
        println!(
            "{}: {:.0} a second, {:.0} us of processor each, {:.0} MiB",
            self.kind.name,
            results / took,
            (server.cpu_s() - cpu) * 1e6 / results.max(1.0),
            server.mib("VmRSS")
        );
        let failed = "SELECT COUNT(*) FROM tmodule_state WHERE last_error<>''";
        ensure!(number(&self.db, failed).await == 0, "{} checks do not succeed", self.kind.name);
        Ok(results / took)
    }
}

async fn create(store: &Store, kind: Kind, target: u32, interval_s: u32, port: u16) -> Result<()> {
    let operator = Writer { name: "n5/console".into(), session: 1, incarnation: 1 };
    store.register(&operator).await?;
    let agent = Agent {
        name: format!("target-{target}"),
        address: address(target),
        interval_s: 300,
        ..Agent::default()
    };
    let agent = store.create_agent(&operator, &agent, &[]).await?.agent.id;
    let module_type = ModuleType::from_name(kind.module_type).ok_or_else(|| anyhow!("no such type"))?;
    let modules: Vec<Module> = (0..kind.each)
        .map(|number| {
            let mut module = Module::with_defaults(agent, &format!("check {number}"), module_type);
            module.interval_s = interval_s;
            let oid = format!("1.3.6.1.2.1.2.2.1.10.{number}");
            module.check = Some(Check { port, oid, community: "public".into(), ..Check::default() });
            module
        })
        .collect();
    store.create_modules(&operator, agent, &modules, 0).await?;
    Ok(())
}

fn address(target: u32) -> String {
    format!("127.1.{}.{}", target / 250, target % 250 + 1)
}

/// One listener for all addresses; a connection is enough.
async fn listen(targets: &mut JoinSet<()>) -> Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    targets.spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    Ok(port)
}

/// A socket for each address: answers come from where the question went.
async fn answer(targets: &mut JoinSet<()>) -> Result<u16> {
    let first = UdpSocket::bind((address(0), 0)).await?;
    let port = first.local_addr()?.port();
    let mut sockets = vec![first];
    for target in 1..TARGETS {
        sockets.push(UdpSocket::bind((address(target), port)).await?);
    }
    for socket in sockets {
        targets.spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
                if let Some(answer) = snmp::answer(&buffer[..size]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
    }
    Ok(port)
}
