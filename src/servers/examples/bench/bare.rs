//! The statements of a batch alone: same tables, columns, fence and transport, no files and no rules.

use anyhow::{Result, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use elpis_monitor::{AgentId, ModuleId, ModuleState, Status, Value};
use elpis_store::testdb::TestDb;
use elpis_store::{AgentSeen, Batch, Contact, Row, Seen, ServerKind, Store, Writer};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNECTIONS: [usize; 3] = [1, 2, 4];
const ROWS: [usize; 3] = [500, 1000, 2000];
const EACH: Duration = Duration::from_secs(4);

type Modules = Vec<(AgentId, Vec<ModuleId>)>;

/// Best values a second of all combinations.
pub(crate) async fn best(db: &TestDb) -> Result<f64> {
    let rows = db.rows("SELECT id_agent, id_agent_module FROM tagent_module ORDER BY 1, 2").await;
    let mut agents: Modules = Vec::new();
    for row in rows.map_err(|e| anyhow!(e))? {
        let (agent, module) = row.split_once('|').unwrap();
        let (agent, module) = (AgentId(agent.parse()?), ModuleId(module.parse()?));
        match agents.last_mut() {
            Some((last, modules)) if *last == agent => modules.push(module),
            _ => agents.push((agent, vec![module])),
        }
    }
    let store = db.store().await.map_err(|e| anyhow!(e))?;
    let writer = Writer { name: "bench/bare".into(), session: 1, incarnation: 1 };
    store.register(&writer).await?;
    let mut best = 0.0f64;
    for (turn, connections) in CONNECTIONS.into_iter().enumerate() {
        for rows in ROWS {
            let run = i64::try_from(turn * 10_000 + rows)?;
            let rate = measure(&store, &writer, &agents, connections, rows, run).await?;
            println!("bare statements, {connections} connections of {rows} rows: {rate:.0} values/s");
            best = best.max(rate);
        }
    }
    Ok(best)
}

async fn measure(
    store: &Store,
    writer: &Writer,
    agents: &Modules,
    connections: usize,
    rows: usize,
    run: i64,
) -> Result<f64> {
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for part in agents.chunks(agents.len().div_ceil(connections)) {
        let (store, writer, part) = (store.clone(), writer.clone(), Arc::new(part.to_vec()));
        tasks.push(tokio::spawn(async move {
            let (mut written, mut at, mut pass) = (0, 0, 0);
            while begin.elapsed() < EACH {
                let mut batch = Batch::new(writer.clone());
                while batch.rows.len() < rows {
                    let (agent, modules) = &part[at];
                    // Seconds that no earlier run used, on top of what the files brought.
                    add(&mut batch, *agent, modules, 1_900_000_000 + run * 1_000 + pass);
                    (at, pass) = if at + 1 == part.len() { (0, pass + 1) } else { (at + 1, pass) };
                }
                store.commit(&batch).await?;
                written += batch.rows.len();
            }
            Ok::<usize, elpis_store::CommitError>(written)
        }));
    }
    let mut written = 0;
    for task in tasks {
        written += task.await??;
    }
    Ok(written as f64 / begin.elapsed().as_secs_f64())
}

/// What one file of an agent makes.
fn add(batch: &mut Batch, agent: AgentId, modules: &[ModuleId], time: i64) {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, format!("{agent} {time}").as_bytes()).as_ref());
    batch.reports.push(key);
    let mut seen = Seen::default();
    for (position, module) in modules.iter().enumerate() {
        let value = time as f64 + position as f64;
        batch.rows.push(Row { module: *module, utimestamp: time, n: 0, value: Value::Number(value) });
        let state = ModuleState {
            data: format!("{value:.5}"),
            status: Status::Normal,
            known_status: Status::Normal,
            utimestamp: time,
            timestamp: time,
            last_execution_try: time,
            last_try: time,
            current_interval: 60,
            ..ModuleState::default()
        };
        seen.record(u16::try_from(position).unwrap(), false, &state);
        batch.states.push((*module, agent, state));
    }
    batch.contacts.push(Contact { agent, kind: ServerKind::Data, utimestamp: time, seen });
    batch.agents.push(AgentSeen {
        agent,
        last_contact: time,
        last_remote_contact: time,
        ..AgentSeen::default()
    });
}
