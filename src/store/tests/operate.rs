//! An operator's changes, reading, ledger and purge.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_monitor::*;
use elpis_store::testdb::TestDb;
use elpis_store::*;
use sqlx::Executor;

const NOW: i64 = 1_795_000_000;

fn writer(name: &str) -> Writer {
    Writer { name: name.to_owned(), session: 1, incarnation: 1 }
}

fn ping(target: &str) -> NewCheck {
    let icmp = ModuleType::from_name("remote_icmp_proc").unwrap();
    let check = Check { target: target.into(), ..Check::default() };
    let module =
        Module { check: Some(check), interval_s: 10, ..Module::with_defaults(AgentId(0), "ping", icmp) };
    NewCheck { agent: None, module }
}

async fn set_up() -> (TestDb, Store, Writer) {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    for name in ["n1/console", "n1/network-server", "n2/network-server", "job/purge"] {
        store.register(&writer(name)).await.unwrap();
    }
    (db, store, writer("n1/console"))
}

/// A change of state of one module, as its owner commits it.
async fn becomes(store: &Store, module: &Module, number: u64, from: Status, to: Status) {
    let state = ModuleState {
        status: to,
        data: "1.00000".into(),
        utimestamp: NOW,
        last_status_change: NOW,
        ..Default::default()
    };
    let mut batch = Batch::new(writer("n1/network-server"));
    batch.flush = Some(Flush { number, executions: Vec::new(), now: NOW });
    batch.states.push((module.id, module.agent, state));
    batch.counts.push((module.agent, Counts::change(from, to)));
    assert_eq!(store.commit(&batch).await.unwrap(), Committed::Done);
}

#[tokio::test]
async fn a_check_is_added_once_forced_and_deleted() {
    let (db, store, w) = set_up().await;
    let seq = store.last_change().await.unwrap();
    let added = store.add_check(&w, &ping("10.0.0.1"), NOW).await.unwrap();
    assert_eq!(store.add_check(&w, &ping("10.0.0.1"), NOW).await.unwrap(), added);
    let agent = store.agent("10.0.0.1", NOW).await.unwrap().unwrap();
    assert_eq!(
        (agent.agent.address.as_str(), agent.counts.not_init, agent.shown),
        ("10.0.0.1", 1, Shown::NotInit)
    );
    assert_eq!(store.agent(&agent.agent.id.to_string(), NOW).await.unwrap().unwrap(), agent);
    let changes = store.changes_since(seq).await.unwrap();
    assert_eq!(changes.agents, [(Shard::of_agent("10.0.0.1").number(), agent.agent.id)]);

    store.force_run(&w, added.id).await.unwrap();
    let loaded = store.load_agents(&[agent.agent.id], ServerKind::Network).await.unwrap();
    assert!(loaded[0].modules[0].0.check.as_ref().unwrap().forced);
    let mut batch = Batch::new(writer("n1/network-server"));
    batch.clear_forced.push(added.id);
    store.commit(&batch).await.unwrap();
    assert_eq!(db.rows("SELECT SUM(flag) FROM tagent_module").await.unwrap(), ["0"]);

    becomes(&store, &added, 1, Status::NotInit, Status::Critical).await;
    store.delete_module(&w, added.id, NOW + 60).await.unwrap();
    assert!(matches!(
        store.delete_module(&w, added.id, NOW).await,
        Err(CommitError::NotDone(StoreError::NotFound(_)))
    ));
    assert!(matches!(
        store.force_run(&w, added.id).await,
        Err(CommitError::NotDone(StoreError::NotFound(_)))
    ));
    assert_eq!(store.module(added.id).await.unwrap(), None);
    assert_eq!(store.load_agents(&[agent.agent.id], ServerKind::Network).await.unwrap(), []);
    assert_eq!(store.agent("10.0.0.1", NOW).await.unwrap().unwrap().counts, Counts::default());
    let schedule =
        db.rows("SELECT utimestamp-1795000000, interval_s FROM trun_schedule ORDER BY seq").await.unwrap();
    assert_eq!(schedule, ["0|10", "60|0"]);
    // Its name is free; positions are never used again.
    let again = store.add_check(&w, &ping("10.0.0.1"), NOW + 70).await.unwrap();
    assert_eq!((again.name.as_str(), again.position), ("ping", 1));

    // The old owner had not seen the deletion: its late change is put right by the purge.
    becomes(&store, &added, 2, Status::Critical, Status::Normal).await;
    let purge = writer("job/purge");
    let early = store.purge(&purge, NOW + 100).await.unwrap();
    assert_eq!(early.recounted, 0);
    let purged = store.purge(&purge, NOW + 200).await.unwrap();
    assert_eq!(purged.recounted, 1);
    let counts = store.agent("10.0.0.1", NOW).await.unwrap().unwrap().counts;
    assert_eq!(counts, Counts { not_init: 1, ..Counts::default() });

    store.delete_agent(&w, agent.agent.id, NOW + 80).await.unwrap();
    assert!(store.agent("10.0.0.1", NOW).await.unwrap().is_none());
    store.purge(&purge, NOW + 300).await.unwrap();
    for table in ["tagent", "tagent_module", "tmodule_state", "tagent_contact", "tagent_count"] {
        assert_eq!(db.rows(&format!("SELECT COUNT(*) FROM {table}")).await.unwrap(), ["0"], "{table}");
    }
}

#[tokio::test]
async fn thousands_of_checks_are_added_and_the_overview_shows_the_worst_first() {
    let (db, store, w) = set_up().await;
    let checks: Vec<_> = (0..1200)
        .map(|i| {
            let mut check = ping(&format!("10.1.0.{}", i % 40));
            check.module.name = format!("ping {i}");
            check
        })
        .collect();
    let added = store.add_checks(&w, &checks, NOW).await.unwrap();
    assert_eq!(
        added.iter().map(|m| m.name.clone()).collect::<Vec<_>>(),
        checks.iter().map(|c| c.module.name.clone()).collect::<Vec<_>>()
    );
    for (number, to) in
        [(3, Status::Unknown), (7, Status::Warning), (50, Status::Critical), (60, Status::Normal)]
    {
        becomes(&store, &added[number], number as u64, Status::NotInit, to).await;
    }
    let overview = store.overview(NOW + 10, 10).await.unwrap();
    let worst: Vec<_> = overview.problems.iter().map(|row| (row.module.id, row.state.status)).collect();
    assert_eq!(
        worst,
        [(added[50].id, Status::Critical), (added[7].id, Status::Warning), (added[3].id, Status::Unknown)]
    );
    assert_eq!(
        overview.modules,
        Counts { normal: 1, critical: 1, warning: 1, unknown: 1, not_init: 1196, fired: 0 }
    );
    assert_eq!(overview.agents[&Shown::Critical], 1);
    assert_eq!(
        (overview.groups.len(), overview.groups[0].agents, overview.groups[0].shown),
        (1, 40, Shown::Critical)
    );
    // Ten minutes later all are silent.
    let silent = store.overview(NOW + 601, 10).await.unwrap();
    assert_eq!(silent.agents, [(Shown::Unknown, 40)].into());

    let found =
        store.agents(&AgentFilter { search: "1.0.3".into(), ..AgentFilter::default() }, NOW).await.unwrap();
    assert_eq!(found.len(), 11);
    assert!(
        store
            .agents(&AgentFilter { search: "%".into(), ..AgentFilter::default() }, NOW)
            .await
            .unwrap()
            .is_empty()
    );
    let of = ModuleFilter { agent: Some(added[0].agent), limit: 5, ..ModuleFilter::default() };
    assert_eq!(store.modules(&of).await.unwrap().len(), 5);
    assert_eq!(
        store
            .modules(&ModuleFilter { kind: Some(ServerKind::Data), ..Default::default() })
            .await
            .unwrap()
            .len(),
        0
    );
    assert_eq!(store.groups().await.unwrap().len(), 8);
    assert!(store.operating_systems().await.unwrap().contains(&(9, "Windows".to_owned())));
    assert_eq!(db.rows("SELECT COUNT(*) FROM trun_schedule").await.unwrap(), ["1200"]);

    // An agent's new interval moves the slots of checks that follow it.
    let mut follows = ping("10.1.0.1");
    follows.module = Module { name: "follows".into(), interval_s: 0, ..follows.module };
    let follows = store.add_check(&w, &follows, NOW).await.unwrap();
    let mut batch = Batch::new(writer("n1/network-server"));
    for (interval_s, contact) in [(Some(120), 5), (None, 9)] {
        batch.agents.push(AgentSeen {
            agent: follows.agent,
            last_contact: NOW + contact,
            interval_s,
            agent_version: Some("v".into()),
            ..Default::default()
        });
    }
    batch.modules.push(ModuleSeen {
        module: follows.id,
        description: Some("text".into()),
        ..Default::default()
    });
    store.commit(&batch).await.unwrap();
    store.commit(&batch).await.unwrap();
    let sql = format!(
        "SELECT utimestamp-{NOW}, interval_s FROM trun_schedule WHERE id_agent_module={} ORDER BY seq",
        follows.id
    );
    assert_eq!(db.rows(&sql).await.unwrap(), ["0|300", "9|120"]);
    let agent = store.agent("10.1.0.1", NOW).await.unwrap().unwrap().agent;
    assert_eq!((agent.interval_s, agent.last_contact, agent.agent_version.as_str()), (120, NOW + 9, "v"));
    assert_eq!(store.module(follows.id).await.unwrap().unwrap().module.description, "text");
}

#[tokio::test]
async fn a_server_has_one_row_that_follows_it() {
    let (db, store, _) = set_up().await;
    let mut row = ServerRow {
        name: "n1".into(),
        kind: ServerKind::Network,
        address: "127.0.0.1".into(),
        status: 1,
        started: NOW,
        keepalive: NOW,
        version: "0.1".into(),
        threads: 4,
        queued: 9,
    };
    store.server_alive(&writer("n1/network-server"), &row).await.unwrap();
    row.keepalive += 15;
    row.status = 0;
    store.server_alive(&writer("n1/network-server"), &row).await.unwrap();
    assert_eq!(store.servers().await.unwrap(), [row]);
    assert_eq!(db.rows("SELECT server_type, status FROM tserver").await.unwrap(), ["1|0"]);
}

#[tokio::test]
async fn events_and_samples_are_read_as_written() {
    let (_db, store, w) = set_up().await;
    let added = store.add_check(&w, &ping("10.0.0.1"), NOW).await.unwrap();
    let event = |text: &str, validates_earlier| Event {
        agent: added.agent,
        module: added.id,
        group: GroupId(10),
        event_type: EventType::GoingUpCritical,
        severity: Severity::Critical,
        text: text.into(),
        utimestamp: NOW,
        validated: false,
        validates_earlier,
        data: "1".into(),
        status: Status::Critical,
    };
    let mut batch = Batch::new(writer("n1/network-server"));
    batch.flush = Some(Flush { number: 1, executions: Vec::new(), now: NOW });
    batch.events = vec![event("one", false), event("two", true), event("three", true)];
    for i in 0..50 {
        batch.rows.push(Row {
            module: added.id,
            utimestamp: NOW + i * 10,
            n: 0,
            value: Value::Number(i as f64),
        });
    }
    batch.rows.push(Row { module: added.id, utimestamp: NOW - 5, n: 0, value: Value::Number(f64::INFINITY) });
    batch.rows.push(Row { module: added.id, utimestamp: NOW, n: 0, value: Value::Text("ä".into()) });
    store.commit(&batch).await.unwrap();
    let events = store.events(&EventFilter { module: Some(added.id), ..Default::default() }).await.unwrap();
    let seen: Vec<_> = events.iter().map(|e| (e.text.as_str(), e.status)).collect();
    assert_eq!(seen, [("three", 0), ("two", 1), ("one", 1)]);
    assert_eq!((events[0].agent_alias.as_str(), events[0].module_name.as_str()), ("10.0.0.1", "ping"));
    let page =
        EventFilter { agent: Some(added.agent), before: Some(events[1].id), limit: 1, ..Default::default() };
    assert_eq!(store.events(&page).await.unwrap()[0].text, "one");
    assert_eq!(store.events(&EventFilter::default()).await.unwrap().len(), 4); // and the new agent

    let samples = store.samples(&added, NOW, NOW + 100, 100).await.unwrap();
    assert_eq!(samples.rows.len(), 10);
    assert_eq!(samples.before, Some((NOW - 5, Value::Number(f64::MAX))));
    assert_eq!((samples.after, samples.cut), (Some((NOW + 100, Value::Number(10.0))), false));
    let few = store.samples(&added, NOW, NOW + 100, 3).await.unwrap();
    assert_eq!((few.rows.len(), few.cut), (3, true));
    let text = Module { module_type: ModuleType::from_name("remote_tcp_string").unwrap(), ..added };
    assert_eq!(store.samples(&text, 0, NOW + 1, 9).await.unwrap().rows, [(NOW, Value::Text("ä".into()))]);
}

#[tokio::test]
async fn the_ledger_finds_a_planted_gap_and_a_planted_double() {
    let (db, store, w) = set_up().await;
    let module = store.add_check(&w, &ping("10.0.0.1"), NOW).await.unwrap();
    let first = schedule::next_slot(module.id, 10, NOW + 10);
    let slots: Vec<i64> = (0..60).map(|i| first + i * 10).collect();
    // Slots 20 and 21 never ran; slot 40 is written by two nodes, the fence notwithstanding.
    for (number, chunk) in slots.chunks(10).enumerate() {
        let name = if number % 2 == 0 { "n1/network-server" } else { "n2/network-server" };
        let mut batch = Batch::new(writer(name));
        let ran = chunk.iter().filter(|s| **s != slots[20] && **s != slots[21]);
        let executions = ran.map(|s| (module.id, *s)).collect();
        batch.flush = Some(Flush { number: number as u64, executions, now: chunk[9] });
        store.commit(&batch).await.unwrap();
    }
    let (from, to) = (first, slots[59] + 1);
    let report = store.ledger_check(from, to).await.unwrap();
    assert_eq!((report.due, report.recorded, report.missed, report.recorded_twice), (60, 58, 2, 0));
    assert_eq!((report.longest_gap_ms, report.by_node["n1"], report.by_node["n2"]), (30_000, 28, 30));
    let mut double = Batch::new(writer("n2/network-server"));
    double.flush = Some(Flush { number: 99, executions: vec![(module.id, slots[40])], now: slots[41] });
    store.commit(&double).await.unwrap();
    assert_eq!(store.ledger_check(from, to).await.unwrap().recorded_twice, 1);
    db.execute("UPDATE trun_ledger SET packed=X'09FF' WHERE number=99").await.unwrap();
    assert!(matches!(store.ledger_check(from, to).await, Err(StoreError::Invalid(_))));
    // Without lists only counts are kept.
    store.set_ledger(false);
    double.flush = Some(Flush { number: 100, executions: vec![(module.id, slots[41])], now: slots[41] });
    store.commit(&double).await.unwrap();
    assert_eq!(
        db.rows("SELECT executions, LENGTH(packed) FROM trun_ledger WHERE number=100").await.unwrap(),
        ["1|0"]
    );
}

#[tokio::test]
async fn the_purge_drops_what_is_old_and_keeps_months_ahead() {
    let (db, store, w) = set_up().await;
    let clock: i64 = db.rows("SELECT UNIX_TIMESTAMP()").await.unwrap()[0].parse().unwrap();
    let module = store.add_check(&w, &ping("10.0.0.1"), clock).await.unwrap();
    let partitions = "SELECT COUNT(*) FROM information_schema.partitions WHERE table_schema=DATABASE() AND table_name='tagent_data'";
    assert_eq!(db.rows(partitions).await.unwrap(), ["4"]);
    let mut batch = Batch::new(writer("n1/network-server"));
    batch.flush = Some(Flush { number: 1, executions: Vec::new(), now: clock - 8 * 86_400 });
    for age in [1, 100 * 86_400] {
        batch.rows.push(Row { module: module.id, utimestamp: clock - age, n: 0, value: Value::Number(1.0) });
        batch.rows.push(Row {
            module: module.id,
            utimestamp: clock - age,
            n: 0,
            value: Value::Text("x".into()),
        });
    }
    store.commit(&batch).await.unwrap();
    let purge = writer("job/purge");
    // Half a year on: new months are made, the old ones go whole.
    let later = clock + 180 * 86_400;
    let purged = store.purge(&purge, clock).await.unwrap();
    assert_eq!((purged.rows["tagent_data_string"], purged.rows["trun_ledger"], purged.months), (1, 1, 0));
    // How many months that is depends on the day; samples are kept for 45 days.
    let old = format!(
        "{partitions} AND CAST(NULLIF(partition_description, 'MAXVALUE') AS SIGNED) <= {}",
        later - 45 * 86_400
    );
    let old: u32 = db.rows(&old).await.unwrap()[0].parse().unwrap();
    assert!(old >= 2, "half a year has months that are older: {old}");
    let purged = store.purge(&purge, later).await.unwrap();
    assert_eq!(purged.months, old);
    assert_eq!(db.rows("SELECT COUNT(*) FROM tagent_data").await.unwrap(), ["0"]);
    assert_eq!(store.purge(&purge, later).await.unwrap().months, 0);
    let stale = Writer { incarnation: 0, ..purge };
    assert!(matches!(store.purge(&stale, later).await, Err(CommitError::Fenced)));
}

/// MariaDB's thread of statistics holds its tables while months are made and dropped: the samples must not go with it.
#[tokio::test]
async fn months_wait_for_what_holds_the_tables_of_statistics() {
    let (db, store, w) = set_up().await;
    let clock: i64 = db.rows("SELECT UNIX_TIMESTAMP()").await.unwrap()[0].parse().unwrap();
    let module = store.add_check(&w, &ping("10.0.0.1"), clock).await.unwrap();
    let mut batch = Batch::new(writer("n1/network-server"));
    batch.rows.push(Row { module: module.id, utimestamp: clock, n: 0, value: Value::Number(1.0) });
    store.commit(&batch).await.unwrap();
    let mut holder = db.connection().await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    holder.fetch_all("SELECT * FROM mysql.innodb_table_stats LOCK IN SHARE MODE").await.unwrap();
    let purge = {
        let store = store.clone();
        tokio::spawn(async move { store.purge(&writer("job/purge"), clock + 31 * 86_400).await.unwrap() })
    };
    let waits = "SELECT COUNT(*) FROM information_schema.processlist WHERE db=DATABASE() AND info LIKE 'ALTER TABLE tagent_data %'";
    while db.rows(waits).await.unwrap() == ["0"] {
        assert!(!purge.is_finished(), "the purge did not wait");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    holder.execute("COMMIT").await.unwrap();
    purge.await.unwrap();
    assert_eq!(db.rows("SELECT COUNT(*) FROM tagent_data").await.unwrap(), ["1"]);
    // A reader that stays is not waited for.
    holder.execute("BEGIN").await.unwrap();
    holder.fetch_all("SELECT * FROM tagent_data LIMIT 1").await.unwrap();
    assert_eq!(store.purge(&writer("job/purge"), clock + 90 * 86_400).await.unwrap().months, 0);
    holder.execute("COMMIT").await.unwrap();
    assert!(store.purge(&writer("job/purge"), clock + 90 * 86_400).await.unwrap().months > 0);
    assert_eq!(db.rows("SELECT COUNT(*) FROM tagent_data").await.unwrap(), ["0"]);
}
