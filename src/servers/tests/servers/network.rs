//! A TCP check from schedule to ledger, through handovers and a fence.

use crate::fake::{NodeAgent, number, until};
use elpis_monitor::{Agent, Check, Module, ModuleId, ModuleType};
use elpis_servers::{Ended, network};
use elpis_store::testdb::TestDb;
use elpis_store::{Store, Writer};
use tokio_util::sync::CancellationToken;

const EXECUTIONS: &str = "SELECT COALESCE(SUM(executions), 0) FROM trun_ledger";

fn operator() -> Writer {
    Writer { name: "n5/console".into(), session: 1, incarnation: 1 }
}

/// An agent on loopback with one TCP check.
async fn tcp_check(store: &Store, port: u16, interval_s: u32) -> (Agent, ModuleId) {
    store.register(&operator()).await.unwrap();
    let agent =
        Agent { name: "web".into(), address: "127.0.0.1".into(), interval_s: 300, ..Agent::default() };
    let mut module =
        Module::with_defaults(agent.id, "port", ModuleType::from_name("remote_tcp_proc").unwrap());
    module.interval_s = interval_s;
    module.check = Some(Check { port, ..Check::default() });
    let created = store.create_agent(&operator(), &agent, &[]).await.unwrap();
    let made = store.create_modules(&operator(), created.agent.id, &[module], 0).await.unwrap();
    (created.agent, made[0].id)
}

fn start(agent: &NodeAgent) -> (tokio::task::JoinHandle<Ended>, CancellationToken) {
    let stop = CancellationToken::new();
    let config = network::NetworkConfig::new(agent.socket.clone());
    let token = stop.clone();
    (tokio::spawn(async move { network::run(config, token).await.unwrap() }), stop)
}

/// With a slot each second there are never more executions than seconds between the first and the last slot.
async fn assert_no_slot_twice(db: &TestDb) {
    let seconds = "SELECT MAX(last_slot) - MIN(first_slot) + 1 FROM trun_ledger WHERE executions > 0";
    assert!(number(db, EXECUTIONS).await <= number(db, seconds).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_runs_once_a_slot_through_handovers_and_a_raised_session() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (agent, module) = tcp_check(&store, listener.local_addr().unwrap().port(), 1).await;
    let node = NodeAgent::start(&db);
    let (server, stop) = start(&node);

    // Rows, state, contact, ledger.
    until("three executions", async || number(&db, EXECUTIONS).await >= 3).await;
    let rows =
        db.rows(&format!("SELECT data FROM tagent_data WHERE id_agent_module={module}")).await.unwrap();
    assert_eq!(rows, ["1"]);
    let status = format!(
        "SELECT status, running_by, last_slot = last_execution_try, utimestamp >= last_slot FROM tagent_status \
         WHERE id_agent_module={module}"
    );
    assert_eq!(db.rows(&status).await.unwrap(), ["0|n5|1|1"]);
    assert_eq!(number(&db, "SELECT last_contact > 0 FROM tagent").await, 1);
    until("a heartbeat that says stored", async || {
        node.beats.lock().unwrap().iter().any(|beat| beat.stored_ms > 0 && beat.stored_revision >= 10)
    })
    .await;

    // Away and back: nothing runs meanwhile, the next epoch goes on after the last slot.
    let shard = agent.shard().number();
    node.take_away(shard).await;
    let before = number(&db, EXECUTIONS).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(number(&db, EXECUTIONS).await, before);
    node.give_back(shard);
    until("executions in the new epoch", async || number(&db, EXECUTIONS).await >= before + 2).await;

    // Somebody took over: the fence is raised before this process knows.
    store.raise(&[("n5/network-server".into(), 2)]).await.unwrap();
    let before = number(&db, EXECUTIONS).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(number(&db, EXECUTIONS).await, before);
    node.change(|map, lease| {
        lease.session = 2;
        for owner in &mut map.shards {
            owner.epoch += 1;
        }
    });
    until("executions in the new session", async || {
        number(&db, "SELECT COALESCE(SUM(executions), 0) FROM trun_ledger WHERE session = 2").await >= 2
    })
    .await;

    // The target goes: an event, and the state is critical.
    drop(listener);
    until("the critical event", async || {
        number(&db, "SELECT COUNT(*) FROM tevent WHERE event_type='going_up_critical'").await == 1
    })
    .await;
    until("the counter", async || number(&db, "SELECT critical_count FROM tagent_count").await == 1).await;

    stop.cancel();
    assert_eq!(server.await.unwrap(), Ended::Stopped);
    assert_no_slot_twice(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_s_wish_is_done_within_two_seconds() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = NodeAgent::start(&db);
    let (server, stop) = start(&node);
    until("the fence row", async || number(&db, "SELECT COUNT(*) FROM cluster_fence").await > 0).await;

    // Made while the server runs: its first slot is overdue.
    let (agent, module) = tcp_check(&store, port, 86_400).await;
    until("the first execution", async || number(&db, EXECUTIONS).await == 1).await;

    let change = format!(
        "INSERT INTO tchange (shard, kind, id, utimestamp) VALUES ({}, 1, {}, UNIX_TIMESTAMP())",
        agent.shard().number(),
        agent.id
    );
    db.execute(&format!("UPDATE tagent_module SET flag=1 WHERE id_agent_module={module}")).await.unwrap();
    let asked = std::time::Instant::now();
    db.execute(&change).await.unwrap();
    until("the forced execution", async || number(&db, EXECUTIONS).await == 2).await;
    assert!(asked.elapsed() < std::time::Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(number(&db, "SELECT flag FROM tagent_module").await, 0);

    // A disabled check does not run, forced or not.
    db.execute("UPDATE tagent_module SET flag=1, disabled=1").await.unwrap();
    db.execute(&change).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert_eq!(number(&db, EXECUTIONS).await, 2);
    stop.cancel();
    assert_eq!(server.await.unwrap(), Ended::Stopped);
}
