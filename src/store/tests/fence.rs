//! Fence and commit against a real MariaDB.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_monitor::{AgentId, Counts, ModuleId, ModuleState, Value};
use elpis_store::testdb::TestDb;
use elpis_store::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn writer(session: u64, incarnation: u64) -> Writer {
    Writer { name: "n1/data-server".to_owned(), session, incarnation }
}

fn batch(writer: Writer, key: u8) -> Batch {
    let module = ModuleId(u32::from(key));
    let state =
        ModuleState { data: format!("{key}.00000"), utimestamp: 1000, timestamp: 990, ..Default::default() };
    let mut seen = Seen::default();
    seen.record(0, false, &state);
    Batch {
        reports: vec![[key; 32]],
        rows: vec![Row { module, utimestamp: 990, n: 0, value: Value::Number(f64::from(key)) }],
        increments: vec![(module, 5.0, 990)],
        states: vec![(module, AgentId(1), state)],
        contacts: vec![Contact { agent: AgentId(1), kind: ServerKind::Data, utimestamp: 1000, seen }],
        counts: vec![(AgentId(1), Counts { normal: 1, not_init: -1, ..Default::default() })],
        agents: vec![AgentSeen { agent: AgentId(1), last_contact: 1000, ..Default::default() }],
        ..Batch::new(writer)
    }
}

async fn count(db: &TestDb, table: &str) -> String {
    db.rows(&format!("SELECT COUNT(*) FROM {table}")).await.unwrap().remove(0)
}

#[tokio::test]
async fn stale_sessions_and_processes_write_nothing() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store_with(Arc::new(|| Some(2))).await.unwrap();
    assert!(matches!(store.commit(&batch(writer(2, 7), 1)).await, Err(CommitError::Fenced)));
    store.register(&writer(2, 7)).await.unwrap();
    assert_eq!(store.commit(&batch(writer(2, 7), 1)).await.unwrap(), Committed::Done);
    assert!(matches!(store.commit(&batch(writer(1, 7), 2)).await, Err(CommitError::Fenced)));
    assert!(matches!(store.commit(&batch(writer(2, 6), 2)).await, Err(CommitError::Fenced)));
    // A restarted process registers; the old one is out, and cannot come back.
    store.register(&writer(2, 8)).await.unwrap();
    assert!(matches!(store.commit(&batch(writer(2, 7), 2)).await, Err(CommitError::Fenced)));
    assert!(matches!(store.register(&writer(2, 7)).await, Err(StoreError::Superseded(_))));
    // A takeover raises the session.
    store.raise(&[("n1/data-server".to_owned(), 3), ("n9/network-server".to_owned(), 3)]).await.unwrap();
    assert!(matches!(store.commit(&batch(writer(2, 8), 2)).await, Err(CommitError::Fenced)));
    assert!(matches!(store.register(&writer(2, 8)).await, Err(StoreError::Superseded(_))));
    assert_eq!(count(&db, "treport_done").await, "1");
}

#[tokio::test]
async fn without_a_lease_nothing_is_committed() {
    let db = TestDb::fresh().await.unwrap();
    let session = Arc::new(AtomicU64::new(1));
    let held = Arc::clone(&session);
    let gate: Gate = Arc::new(move || Some(held.load(Ordering::SeqCst)).filter(|s| *s != 0));
    let store = db.store_with(gate).await.unwrap();
    store.register(&writer(1, 1)).await.unwrap();
    session.store(0, Ordering::SeqCst);
    assert!(matches!(store.commit(&batch(writer(1, 1), 1)).await, Err(CommitError::NoLease)));
    session.store(2, Ordering::SeqCst);
    assert!(matches!(store.commit(&batch(writer(1, 1), 1)).await, Err(CommitError::Fenced)));
    for table in ["treport_done", "tagent_data", "tmodule_state", "tagent_contact", "tagent_count"] {
        assert_eq!(count(&db, table).await, "0", "{table}");
    }
}

#[tokio::test]
async fn a_batch_counts_once_by_report_and_by_flush() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    store.register(&writer(1, 1)).await.unwrap();
    let one = batch(writer(1, 1), 1);
    assert_eq!(store.commit(&one).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(&one).await.unwrap(), Committed::AlreadyDone);
    let known = store.known_reports(&[[1; 32], [2; 32]]).await.unwrap();
    assert_eq!(known, [[1; 32]].into());
    // Half known: computed from states that are gone.
    let half = Batch { reports: vec![[1; 32], [2; 32]], ..batch(writer(1, 1), 2) };
    assert!(matches!(store.commit(&half).await, Err(CommitError::NotDone(StoreError::PartlyKnown))));
    let flush = Batch {
        reports: Vec::new(),
        flush: Some(Flush { number: 4, executions: vec![(ModuleId(3), 960)], now: 1000 }),
        ..batch(writer(1, 1), 3)
    };
    assert_eq!(store.commit(&flush).await.unwrap(), Committed::Done);
    assert_eq!(store.commit(&flush).await.unwrap(), Committed::AlreadyDone);
    assert_eq!(db.rows("SELECT normal_count, notinit_count FROM tagent_count").await.unwrap(), ["2|-2"]);
    assert_eq!(db.rows("SELECT id_agent_module, data FROM tagent_data").await.unwrap(), ["1|1", "3|3"]);
    let unkeyed = Batch { reports: Vec::new(), ..batch(writer(1, 1), 5) };
    assert!(matches!(store.commit(&unkeyed).await, Err(CommitError::NotDone(StoreError::Invalid(_)))));
}

#[tokio::test]
async fn a_takeover_waits_for_a_transaction_in_flight_and_then_shuts_it_out() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    store.register(&writer(1, 1)).await.unwrap();
    // A client that stops between its fence and its COMMIT, with the settings of our connections.
    use sqlx::Executor;
    let mut stopped = db.connection().await.unwrap();
    for sql in [
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION idle_transaction_timeout=1",
        "START TRANSACTION",
        "SELECT 1 FROM cluster_fence WHERE writer='n1/data-server' AND session=1 AND incarnation=1 LOCK IN SHARE MODE",
        "INSERT INTO treport_done VALUES (REPEAT('x', 32), 1)",
    ] {
        stopped.execute(sql).await.unwrap();
    }
    let start = Instant::now();
    store.raise(&[("n1/data-server".to_owned(), 2)]).await.unwrap();
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(300) && waited < Duration::from_secs(4), "{waited:?}");
    assert!(stopped.execute("COMMIT").await.is_err());
    assert_eq!(count(&db, "treport_done").await, "0");
    assert!(matches!(store.commit(&batch(writer(1, 1), 1)).await, Err(CommitError::Fenced)));
}
