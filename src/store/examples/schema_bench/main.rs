//! Layouts of the table of samples against each other: 5,000 agents, 100,000 modules, 30 million rows, a pool of 1 GiB.
//!
//! `cargo run --release -p elpis-store --example schema_bench [-- LAYOUT ..]`, as root, half an hour, 8 GB of disk
//! under `BENCH_DIR` (`/var/tmp`). Statements are the product's own: the layouts differ in keys and partitions only.
//! `ROWS_M=3` loads 3 million rows instead. Results: `docs/decisions/0007-layout-of-samples.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::large_futures)] // a tool for developers

mod server;

use elpis_monitor::{
    Agent, AgentId, Check, GroupId, Module, ModuleId, ModuleState, ModuleType, Shard, Value,
};
use elpis_store::*;
use server::Server;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use std::sync::Arc;
use std::time::{Duration, Instant};

const AGENTS: usize = 5_000;
const MODULES: usize = 20;
/// Days of samples, and the seconds between two of a busy module: one in ten is busy, the others store one a day.
const DAYS: i64 = 30;
const STEP: i64 = 960;
const DAY: i64 = 86_400;
/// 2026-11-25T00:00:00Z: the rows end here.
const NOW: i64 = 1_795_564_800;

const COLUMNS: &str = "id_agent_module INT UNSIGNED NOT NULL, utimestamp BIGINT NOT NULL, \
    n SMALLINT UNSIGNED NOT NULL DEFAULT 0, data DOUBLE NOT NULL";
const BY_MODULE: &str = "PRIMARY KEY (id_agent_module, utimestamp, n)";

/// Name, further column, keys, seconds of a partition (0 = none).
const LAYOUTS: &[(&str, &str, &str, i64)] = &[
    ("clustered-monthly", "", BY_MODULE, 30 * DAY),
    ("clustered-daily", "", BY_MODULE, DAY),
    ("clustered-weekly", "", BY_MODULE, 7 * DAY),
    (
        "auto-id-monthly",
        "id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, ",
        "PRIMARY KEY (id, utimestamp), UNIQUE KEY module (id_agent_module, utimestamp, n)",
        30 * DAY,
    ),
    (
        "time-first-monthly",
        "",
        "PRIMARY KEY (utimestamp, id_agent_module, n), KEY module (id_agent_module, utimestamp)",
        30 * DAY,
    ),
];

/// The modules as made: data modules first, then checks; with ids.
struct World {
    agents: Vec<(AgentId, ServerKind, Vec<ModuleId>)>,
}

fn writer(name: &str) -> Writer {
    Writer { name: name.to_owned(), session: 1, incarnation: 1 }
}

async fn connect(server: &Server) -> Store {
    Store::connect(&server.endpoint(), 8, Arc::new(|| Some(1))).await.unwrap()
}

async fn bare(server: &Server) -> MySqlConnection {
    let endpoint = server.endpoint();
    let options: MySqlConnectOptions = endpoint.url.parse().unwrap();
    options.username(&endpoint.user).connect().await.unwrap()
}

async fn say(conn: &mut MySqlConnection, sql: String) -> Duration {
    let begin = Instant::now();
    conn.execute(AssertSqlSafe(sql)).await.unwrap();
    begin.elapsed()
}

/// Every fifth agent has network checks, the others take files.
async fn make_world(store: &Store) -> World {
    let w = writer("n1/console");
    let mut agents = Vec::with_capacity(AGENTS);
    for number in 0..AGENTS {
        let kind = if number % 5 == 0 { ServerKind::Network } else { ServerKind::Data };
        let name = format!("agent-{number:05}");
        let agent = Agent {
            name: name.clone(),
            alias: name,
            group: GroupId(10),
            interval_s: 300,
            last_contact: NOW,
            ..Agent::default()
        };
        let type_name = if kind == ServerKind::Network { "remote_icmp" } else { "generic_data" };
        let module = |m: usize| {
            let of = ModuleType::from_name(type_name).unwrap();
            let base = Module::with_defaults(AgentId(0), &format!("module {m:02}"), of);
            let check = (kind == ServerKind::Network).then(|| Check {
                target: format!("10.0.{}.{}", number / 250, number % 250),
                ..Check::default()
            });
            Module { check, description: "what it measures, in some words".into(), ..base }
        };
        let modules: Vec<Module> = (0..MODULES).map(module).collect();
        let made = store.create_agent(&w, &agent, &modules).await.unwrap();
        let all = store.load_agents(&[made.agent.id], kind).await.unwrap();
        let ids = all[0].modules.iter().map(|(m, _)| m.id).collect();
        agents.push((made.agent.id, kind, ids));
    }
    World { agents }
}

async fn make_table(conn: &mut MySqlConnection, (_, column, keys, span): (&str, &str, &str, i64)) {
    say(conn, "DROP TABLE IF EXISTS tagent_data".to_owned()).await;
    let mut parts = String::new();
    let mut end = NOW - DAYS * DAY;
    while span > 0 && end < NOW + 2 * span {
        end += span;
        parts.push_str(&format!("PARTITION p{end} VALUES LESS THAN ({end}), "));
    }
    let by = if span > 0 {
        format!(" PARTITION BY RANGE (utimestamp) ({parts}PARTITION pmax VALUES LESS THAN MAXVALUE)")
    } else {
        String::new()
    };
    say(conn, format!("CREATE TABLE tagent_data ({column}{COLUMNS}, {keys}) ENGINE=InnoDB{by}")).await;
}

/// Rows in the order in which they come to be, 1,000 a transaction, two connections. Returns rows and time.
async fn load(server: &Server, world: &World, rows: u64) -> (u64, Duration) {
    let modules: Vec<ModuleId> = world.agents.iter().flat_map(|a| a.2.iter().copied()).collect();
    let begin = Instant::now();
    let (send, receive) = tokio::sync::mpsc::channel::<String>(8);
    let receive = Arc::new(tokio::sync::Mutex::new(receive));
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let (receive, mut conn) = (Arc::clone(&receive), bare(server).await);
        tasks.push(tokio::spawn(async move {
            loop {
                let next = receive.lock().await.recv().await;
                let Some(sql) = next else { return };
                conn.execute(AssertSqlSafe(sql)).await.unwrap();
            }
        }));
    }
    let steps = DAYS * DAY / STEP;
    let a_day = DAY / STEP;
    let (mut made, mut batch, mut count) = (0u64, String::new(), 0);
    'all: for step in 0..steps {
        let time = NOW - DAYS * DAY + step * STEP;
        for (number, module) in modules.iter().enumerate() {
            let rare = (step + i64::try_from(number).unwrap()) % a_day != 0;
            if number % 10 != 0 && rare {
                continue;
            }
            let comma = if batch.is_empty() {
                "INSERT INTO tagent_data (id_agent_module, utimestamp, n, data) VALUES "
            } else {
                ","
            };
            batch.push_str(&format!("{comma}({module},{time},0,{}.5)", step % 97));
            (made, count) = (made + 1, count + 1);
            if count == 1_000 {
                batch.push_str(" ON DUPLICATE KEY UPDATE data=VALUES(data)");
                send.send(std::mem::take(&mut batch)).await.unwrap();
                count = 0;
                if made >= rows {
                    break 'all;
                }
            }
        }
    }
    if !batch.is_empty() {
        send.send(batch).await.unwrap();
    }
    drop(send);
    for task in tasks {
        task.await.unwrap();
    }
    (made, begin.elapsed())
}

/// Reports of 50 agents a batch through [`Store::commit`], two connections; of each agent `changed` modules have changed.
/// Values a second, and commit times at p50 and p99.
async fn insert(
    store: &Store,
    world: &Arc<World>,
    changed: usize,
    run: i64,
    lasts: Duration,
) -> (f64, Duration, Duration) {
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for half in 0..2usize {
        let (store, world) = (store.clone(), Arc::clone(world));
        tasks.push(tokio::spawn(async move {
            let ours: Vec<_> =
                world.agents.iter().filter(|a| a.1 == ServerKind::Data).skip(half).step_by(2).collect();
            let w = writer(if half == 0 { "n1/data-server" } else { "n2/data-server" });
            let (mut values, mut times) = (0usize, Vec::new());
            for round in 0.. {
                // One instant a round, as the agents' clocks go on; another second for every run.
                let at = NOW + run * 7 + round * 300;
                for (number, agents) in ours.chunks(50).enumerate() {
                    if begin.elapsed() > lasts {
                        return (values, times);
                    }
                    let batch = reports(&w, agents, changed, at, u64::try_from(number).unwrap());
                    let start = Instant::now();
                    assert_eq!(store.commit(&batch).await.unwrap(), Committed::Done);
                    times.push(start.elapsed());
                    values += agents.len() * MODULES;
                }
            }
            (values, times)
        }));
    }
    let (mut values, mut times) = (0, Vec::new());
    for task in tasks {
        let (v, t) = task.await.unwrap();
        values += v;
        times.extend(t);
    }
    let seconds = begin.elapsed().as_secs_f64();
    times.sort();
    (values as f64 / seconds, times[times.len() / 2], times[times.len() * 99 / 100])
}

fn reports(
    w: &Writer,
    agents: &[&(AgentId, ServerKind, Vec<ModuleId>)],
    changed: usize,
    at: i64,
    number: u64,
) -> Batch {
    let mut batch = Batch::new(w.clone());
    for (agent, kind, modules) in agents {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&at.to_be_bytes());
        key[8..16].copy_from_slice(&number.to_be_bytes());
        key[16..20].copy_from_slice(&agent.0.to_be_bytes());
        key[20] = u8::try_from(changed).unwrap();
        batch.reports.push(key);
        let mut seen = Seen::default();
        for (position, module) in modules.iter().enumerate() {
            seen.set(u16::try_from(position).unwrap(), at + 1, at);
            // Others in each round, as in life.
            if (position + usize::try_from(at / 300).unwrap()) % MODULES < changed {
                batch.rows.push(Row {
                    module: *module,
                    utimestamp: at,
                    n: 0,
                    value: Value::Number(at as f64 / 3.0),
                });
                let state = ModuleState {
                    data: format!("{}.25", at % 1000),
                    utimestamp: at + 1,
                    timestamp: at,
                    ..ModuleState::default()
                };
                batch.states.push((*module, *agent, state));
            }
        }
        batch.contacts.push(Contact { agent: *agent, kind: *kind, utimestamp: at + 1, seen });
        batch.agents.push(AgentSeen { agent: *agent, last_contact: at + 1, ..AgentSeen::default() });
    }
    batch
}

/// p50 and p95 of something asked of many modules.
async fn each<F: Future<Output = usize>>(what: &str, items: impl Iterator<Item = F>) {
    let (mut times, mut rows) = (Vec::new(), 0);
    for item in items {
        let begin = Instant::now();
        rows += item.await;
        times.push(begin.elapsed());
    }
    times.sort();
    let (p50, p95) = (times[times.len() / 2], times[times.len() * 95 / 100]);
    println!("  {what:<44} p50 {p50:>10.2?}  p95 {p95:>10.2?}  rows {}", rows / times.len());
}

async fn reads(server: &mut Server, world: &World) {
    for temperature in ["cold", "warm"] {
        if temperature == "cold" {
            server.restart();
        }
        let store = connect(server).await;
        let store = &store;
        // The first read of a restarted server opens tables.
        store.settings().await.unwrap();
        let busy: Vec<Module> = world
            .agents
            .iter()
            .step_by(123)
            .take(40)
            .map(|(agent, _, modules)| {
                let base = Module::with_defaults(*agent, "m", ModuleType::from_name("generic_data").unwrap());
                Module { id: modules[0], ..base }
            })
            .collect();
        for (what, days) in [("graph of a day", 1), ("graph of 30 days", 30)] {
            let graph = |m: Module| async move {
                store.samples(&m, NOW - days * DAY, NOW, 50_000).await.unwrap().rows.len()
            };
            each(&format!("{temperature}: {what}"), busy.iter().cloned().map(graph)).await;
        }
        let third: Vec<u16> = (0..4096).filter(|s| s % 3 == 0).collect();
        for (what, kind) in [("data", ServerKind::Data), ("network", ServerKind::Network)] {
            let shards = &third;
            let take = async move {
                store.load_shards(shards, kind).await.unwrap().iter().map(|a| a.modules.len()).sum()
            };
            each(&format!("{temperature}: takeover of a third, {what} modules"), std::iter::once(take)).await;
        }
        let often = || 0..10;
        each(
            &format!("{temperature}: overview"),
            often().map(|_| async { store.overview(NOW, 50).await.unwrap().problems.len() }),
        )
        .await;
        let page = |n: u32| AgentFilter { limit: 100, offset: n * 100, ..AgentFilter::default() };
        each(
            &format!("{temperature}: agents, pages of 100"),
            (0..10).map(|n| async move { store.agents(&page(n * 5), NOW).await.unwrap().len() }),
        )
        .await;
        let filter =
            |agent: AgentId| ModuleFilter { agent: Some(agent), limit: 2_000, ..ModuleFilter::default() };
        each(
            &format!("{temperature}: modules of an agent"),
            world
                .agents
                .iter()
                .step_by(500)
                .map(|a| async move { store.modules(&filter(a.0)).await.unwrap().len() }),
        )
        .await;
        each(
            &format!("{temperature}: events, 100"),
            often().map(|_| async { store.events(&EventFilter::default()).await.unwrap().len() }),
        )
        .await;
    }
}

/// What it takes to be rid of the oldest day, or, where that is the unit, of the oldest partition.
async fn purge(server: &Server, (name, _, _, span): (&str, &str, &str, i64)) {
    let mut conn = bare(server).await;
    let first = NOW - DAYS * DAY;
    if span <= 7 * DAY {
        let took = say(&mut conn, format!("ALTER TABLE tagent_data DROP PARTITION p{}", first + span)).await;
        println!("  purge: partition of {} days dropped           {took:.2?}", span / DAY);
    } else {
        let took = say(&mut conn, format!("DELETE FROM tagent_data WHERE utimestamp<{}", first + DAY)).await;
        println!("  purge: a day by DELETE, one statement         {took:.2?} ({name})");
        let took = say(&mut conn, format!("ALTER TABLE tagent_data DROP PARTITION p{}", first + span)).await;
        println!("  purge: partition of {} days dropped          {took:.2?}", span / DAY);
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let rows = std::env::var("ROWS_M").ok().and_then(|m| m.parse::<u64>().ok()).unwrap_or(30) * 1_000_000;
    let place = std::env::var("BENCH_DIR").unwrap_or_else(|_| "/var/tmp".to_owned());
    let mut server = Server::start(&place);
    migrate(&server.endpoint()).await.unwrap();
    let store = connect(&server).await;
    for name in ["n1/console", "n1/data-server", "n2/data-server"] {
        store.register(&writer(name)).await.unwrap();
    }
    let begin = Instant::now();
    let world = Arc::new(make_world(&store).await);
    let owned: std::collections::BTreeSet<u16> =
        (0..AGENTS).map(|n| Shard::of_agent(&format!("agent-{n:05}")).number()).collect();
    println!(
        "{AGENTS} agents, {} modules in {} shards made in {:.1?}",
        AGENTS * MODULES,
        owned.len(),
        begin.elapsed()
    );
    for table in ["tagent", "tagent_module", "tmodule_state", "tevent"] {
        println!("  {table:<16} {:>5} MiB", server.table_mib(table));
    }
    for layout in LAYOUTS.iter().filter(|l| asked.is_empty() || asked.iter().any(|a| a == l.0)) {
        println!("{}", layout.0);
        let mut conn = bare(&server).await;
        make_table(&mut conn, *layout).await;
        let before = server.cpu_us();
        let (made, took) = load(&server, &world, rows).await;
        let (rate, cpu) = (made as f64 / took.as_secs_f64(), (server.cpu_us() - before) / made as f64);
        println!("  load: {made} rows in {took:.1?}, {rate:.0} rows/s, {cpu:.1} us of CPU a row");
        let mib = server.table_mib("tagent_data");
        println!("  on disk: {mib} MiB, {:.1} bytes a row", (mib << 20) as f64 / made as f64);
        for (run, changed, seconds) in [(1, 2, 30), (2, MODULES, 60)] {
            let store = connect(&server).await;
            let before = server.cpu_us();
            let (rate, p50, p99) = insert(&store, &world, changed, run, Duration::from_secs(seconds)).await;
            let cpu = (server.cpu_us() - before) / (rate * seconds as f64);
            let share = changed * 100 / MODULES;
            println!(
                "  insert, {share:>3} % changed: {rate:.0} values/s, {cpu:.1} us a value, commit p50 {p50:.1?} p99 {p99:.1?}"
            );
        }
        reads(&mut server, &world).await;
        purge(&server, *layout).await;
        let mut conn = bare(&server).await;
        for sql in [
            "DROP TABLE tagent_data",
            "DELETE FROM treport_done",
            "FLUSH BINARY LOGS",
            "PURGE BINARY LOGS BEFORE NOW()",
        ] {
            say(&mut conn, sql.to_owned()).await;
        }
    }
}
