//! Several writers at once, and a COMMIT whose answer is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_monitor::*;
use elpis_store::testdb::TestDb;
use elpis_store::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

fn writer(name: &str) -> Writer {
    Writer { name: name.to_owned(), session: 1, incarnation: 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_share_agents_in_any_order_never_deadlock() {
    const AGENTS: u32 = 30;
    const BATCHES: u64 = 60;
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    let console = writer("n1/console");
    store.register(&console).await.unwrap();
    let icmp = ModuleType::from_name("remote_icmp").unwrap();
    let check = |i: u32, name: &str| {
        let check = Check { target: format!("t{}", i % AGENTS), ..Check::default() };
        let module = Module { check: Some(check), ..Module::with_defaults(AgentId(0), name, icmp) };
        NewCheck { agent: None, module }
    };
    let first: Vec<_> = (0..AGENTS).map(|i| check(i, "first")).collect();
    store.add_checks(&console, &first, 1).await.unwrap();
    let before = deadlocks(&db).await;
    let mut tasks = Vec::new();
    for (w, kind) in [
        ("n1/data-server", ServerKind::Data),
        ("n2/network-server", ServerKind::Network),
        ("n3/network-server", ServerKind::Network),
    ] {
        let store = db.store().await.unwrap();
        let writer = writer(w);
        store.register(&writer).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let base = if kind == ServerKind::Data { 0 } else { 1000 * u32::from(w.as_bytes()[1]) };
            let mut random = u64::from(base) + 7;
            for number in 0..BATCHES {
                let mut batch = Batch::new(writer.clone());
                batch.flush = Some(Flush { number, executions: Vec::new(), now: 1000 });
                for _ in 0..60 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let agent = AgentId((random >> 33) as u32 % AGENTS + 1);
                    let module = ModuleId(base + agent.0);
                    batch.states.push((module, agent, ModuleState::default()));
                    batch.rows.push(Row {
                        module,
                        utimestamp: number as i64,
                        n: 0,
                        value: Value::Number(1.0),
                    });
                    batch.counts.push((agent, Counts::change(Status::NotInit, Status::Normal)));
                    batch.agents.push(AgentSeen { agent, last_contact: number as i64, ..Default::default() });
                    batch.contacts.push(Contact { agent, kind, utimestamp: 1, seen: Seen::default() });
                }
                assert_eq!(store.commit(&batch).await.unwrap(), Committed::Done);
            }
        }));
    }
    // An operator in between: creates and deletes modules of the same agents, one by one and many at once.
    for round in 0..15u32 {
        let many: Vec<_> = (0..20).map(|i| check(i * 7 + round, &format!("m{round}"))).collect();
        let added = store.add_checks(&console, &many, 1).await.unwrap();
        store.force_run(&console, added[1].id).await.unwrap();
        for module in &added[..4] {
            store.delete_module(&console, module.id, 2).await.unwrap();
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(deadlocks(&db).await, before);
    let total: i64 = db.rows("SELECT CAST(SUM(normal_count) AS SIGNED) FROM tagent_count").await.unwrap()[0]
        .parse()
        .unwrap();
    assert_eq!(total, 3 * 60 * BATCHES as i64);
}

async fn deadlocks(db: &TestDb) -> u64 {
    let row = db.rows("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'").await.unwrap().remove(0);
    row.rsplit('|').next().unwrap().parse().unwrap()
}

/// Passes bytes on; once armed, a COMMIT reaches the server and its answer never comes back.
async fn proxy(listener: UnixListener, to: PathBuf, armed: Arc<AtomicBool>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = UnixStream::connect(&to).await.unwrap();
        let armed = Arc::clone(&armed);
        tokio::spawn(async move {
            let (mut client_in, mut client_out) = client.into_split();
            let (mut server_in, mut server_out) = server.into_split();
            let lost = Arc::new(AtomicBool::new(false));
            let losing = Arc::clone(&lost);
            let back = tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(n @ 1..) = server_in.read(&mut bytes).await {
                    if losing.load(Ordering::SeqCst) || client_out.write_all(&bytes[..n]).await.is_err() {
                        break;
                    }
                }
            });
            let mut bytes = vec![0; 1 << 16];
            while let Ok(n @ 1..) = client_in.read(&mut bytes).await {
                let commit = bytes[..n].windows(6).any(|w| w == b"COMMIT");
                if commit && armed.swap(false, Ordering::SeqCst) {
                    lost.store(true, Ordering::SeqCst);
                }
                if server_out.write_all(&bytes[..n]).await.is_err() {
                    break;
                }
            }
            back.abort();
        });
    }
}

/// Servers hand all of these to other threads.
#[allow(dead_code)] // it only has to compile
fn futures_are_send(store: &'static Store, w: &'static Writer, b: &'static Batch, check: &'static NewCheck) {
    fn send(_: impl Future + Send) {}
    let agent: &'static Agent = Box::leak(Box::default());
    send(store.switch(Box::leak(Box::new(Endpoint {
        epoch: 1,
        url: String::new(),
        user: String::new(),
        password: Secret::new(""),
    }))));
    send(store.register(w));
    send(store.raise(&[]));
    send(store.load_shards(&[], ServerKind::Data));
    send(store.changes_since(1));
    send(store.known_reports(&[]));
    send(store.settings());
    send(store.commit(b));
    send(store.create_agent(w, agent, &[]));
    send(store.create_modules(w, AgentId(1), &[], 1));
    send(store.purge(w, 1));
    send(store.add_checks(w, std::slice::from_ref(check), 1));
    send(store.delete_module(w, ModuleId(1), 1));
    send(store.delete_agent(w, AgentId(1), 1));
    send(store.force_run(w, ModuleId(1)));
    send(store.ledger_check(1, 2));
    send(store.overview(1, 1));
    send(store.agent("", 1));
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_and_counts_once() {
    let db = TestDb::fresh().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let front = dir.path().join("s");
    let armed = Arc::new(AtomicBool::new(false));
    let mut endpoint = db.endpoint();
    let (base, socket) = endpoint.url.split_once("?socket=").unwrap();
    let task = tokio::spawn(proxy(UnixListener::bind(&front).unwrap(), socket.into(), Arc::clone(&armed)));
    endpoint.url = format!("{base}?socket={}", front.display());
    let store = Store::connect(&endpoint, 2, Arc::new(|| Some(1))).await.unwrap();
    store.register(&writer("n1/data-server")).await.unwrap();
    let mut batch = Batch::new(writer("n1/data-server"));
    batch.reports.push([9; 32]);
    batch.counts.push((AgentId(1), Counts { normal: 1, ..Counts::default() }));
    armed.store(true, Ordering::SeqCst);
    assert!(matches!(store.commit(&batch).await, Err(CommitError::Unknown(_))));
    assert_eq!(store.commit(&batch).await.unwrap(), Committed::AlreadyDone);
    assert_eq!(db.rows("SELECT normal_count FROM tagent_count").await.unwrap(), ["1"]);

    // Another epoch at the real address: everything goes there, and an older one is not followed back.
    let moved = Endpoint { epoch: 5, ..db.endpoint() };
    store.switch(&moved).await.unwrap();
    task.abort();
    store.ping().await.unwrap();
    store.switch(&Endpoint { epoch: 4, ..endpoint }).await.unwrap();
    assert_eq!(store.epoch(), 5);
    assert_eq!(store.commit(&batch).await.unwrap(), Committed::AlreadyDone);
}
