//! Creating and loading agents, and the view that must agree with what is loaded.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_monitor::*;
use elpis_store::testdb::TestDb;
use elpis_store::*;

fn writer() -> Writer {
    Writer { name: "n1/network-server".to_owned(), session: 1, incarnation: 1 }
}

fn agent(name: &str) -> Agent {
    Agent {
        name: name.into(),
        alias: name.into(),
        group: GroupId(10),
        interval_s: 300,
        last_contact: 5000,
        ..Agent::default()
    }
}

fn ping(name: &str) -> Module {
    let icmp = ModuleType::from_name("remote_icmp_proc").unwrap();
    let check = Check { target: "127.0.0.1".into(), ..Check::default() };
    Module { check: Some(check), interval_s: 10, ..Module::with_defaults(AgentId(0), name, icmp) }
}

fn full(name: &str) -> Module {
    let base = Module::with_defaults(AgentId(0), name, ModuleType::from_name("generic_data_inc").unwrap());
    Module {
        description: "d \u{1F600}".into(),
        extended_info: "x=1".into(),
        interval_s: 60,
        cron: "* 1-3 * * *".into(),
        min: -5,
        max: 7,
        post_process: 0.001,
        warning: Threshold {
            min: 1.5,
            max: 2.5,
            text: String::from("w").into(),
            inverse: true,
            percentage: false,
        },
        critical: Threshold {
            min: 3.5,
            max: 4.5,
            text: String::from("c").into(),
            inverse: false,
            percentage: true,
        },
        warning_time: 3,
        flip_flop: FlipFlop {
            limit: 1,
            each: true,
            normal: 2,
            warning: 3,
            critical: 4,
            keep_counters: true,
            timeout_s: 5,
            interval_s: 6,
        },
        history_data: false,
        quiet: true,
        ignore_unknown: true,
        disabled_events: vec!["going_unknown".into()],
        unit: "°C".into(),
        custom_id: "c1".into(),
        module_group: 3,
        critical_instructions: "ci".into(),
        warning_instructions: "wi".into(),
        unknown_instructions: "ui".into(),
        ..base
    }
}

#[tokio::test]
async fn what_is_created_is_loaded_and_creating_again_changes_nothing() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    store.register(&writer()).await.unwrap();
    let a = Agent { mode: AgentMode::AutoDisable, timezone_offset_h: -3, os: 9, ..agent("Büro-1") };
    let made = store.create_agent(&writer(), &a, &[full("one"), full("two"), ping("ping")]).await.unwrap();
    assert_eq!(made.agent, Agent { id: made.agent.id, ..a.clone() });
    assert_eq!(made.next_position, 3);
    let names: Vec<_> = made.modules.iter().map(|(m, _)| (m.name.as_str(), m.position)).collect();
    assert_eq!(names, [("one", 0), ("two", 1)]);
    let (one, state) = &made.modules[0];
    assert_eq!(*one, Module { id: one.id, agent: made.agent.id, ..full("one") });
    assert_eq!(*state, ModuleState::new(one));
    let again = store.create_agent(&writer(), &agent("Büro-1"), &[full("two"), full("three")]).await.unwrap();
    assert_eq!((again.agent.id, again.modules.len(), again.next_position), (made.agent.id, 3, 4));
    let more = store
        .create_modules(&writer(), made.agent.id, &[ping("p2"), full("one"), ping("p2")], 6000)
        .await
        .unwrap();
    assert_eq!(more.iter().map(|m| m.position).collect::<Vec<_>>(), [4, 0, 4]);
    // Names are case-sensitive.
    let other = store.create_agent(&writer(), &agent("BÜRO-1"), &[]).await.unwrap();
    assert_ne!(other.agent.id, made.agent.id);

    let shard = a.shard().number();
    let network = store.load_shards(&[shard, 0, 1], ServerKind::Network).await.unwrap();
    assert_eq!(network.len(), 1);
    let checks: Vec<_> =
        network[0].modules.iter().map(|(m, _)| (m.name.as_str(), m.check.clone().unwrap().target)).collect();
    assert_eq!(checks, [("ping", "127.0.0.1".to_owned()), ("p2", "127.0.0.1".to_owned())]);
    assert_eq!(store.load_agents(&[other.agent.id], ServerKind::Network).await.unwrap(), []);
    assert_eq!(
        db.rows("SELECT notinit_count FROM tagent_count ORDER BY id_agent").await.unwrap(),
        ["5", "0"]
    );
    assert_eq!(db.rows("SELECT COUNT(*) FROM tevent WHERE event_type='new_agent'").await.unwrap(), ["2"]);
    assert_eq!(
        db.rows("SELECT utimestamp, interval_s FROM trun_schedule").await.unwrap(),
        ["5000|10", "6000|10"]
    );
    let changes = store.changes_since(0).await.unwrap();
    assert!(changes.agents.contains(&(shard, made.agent.id)));
    let sql = "SELECT COUNT(*) FROM tagent WHERE shard = CONV(LEFT(MD5(name), 3), 16, 10)";
    assert_eq!(db.rows(sql).await.unwrap(), ["2"]);
    let long = store.create_agent(&writer(), &agent(&"x".repeat(256)), &[]).await;
    assert!(matches!(long, Err(CommitError::NotDone(StoreError::Invalid(_)))));
}

#[tokio::test]
async fn the_view_and_the_loader_agree_after_stored_unchanged_and_failed_samples() {
    let db = TestDb::fresh().await.unwrap();
    let store = db.store().await.unwrap();
    store.register(&writer()).await.unwrap();
    let made = store.create_agent(&writer(), &agent("a"), &[full("data"), ping("ping")]).await.unwrap();
    let loaded = store.load_agents(&[made.agent.id], ServerKind::Network).await.unwrap().remove(0);
    let (module, mut state) = loaded.modules[0].clone();
    let mut seen = loaded.seen.clone();
    let settings = store.settings().await.unwrap();
    assert_eq!(settings, Settings::default());
    for (slot, raw) in [(1000, Some("1")), (1010, Some("1")), (1020, None), (1030, None), (1040, Some("0"))] {
        let ctx = Context { now: slot + 2, local_offset_s: 0, mute: false, settings: &settings };
        let outcome = match raw {
            Some(raw) => {
                let reading = Reading { time: slot, raw: raw.into(), given_status: None };
                process(&loaded.agent, &module, &state, &reading, &ctx)
            }
            None => process_error(&loaded.agent, &module, &state, slot, "no answer", &ctx),
        };
        state = outcome.state;
        seen.record(module.position, true, &state);
        let mut batch = Batch::new(writer());
        batch.flush = Some(Flush { number: slot as u64, executions: vec![(module.id, slot)], now: slot + 2 });
        batch.contacts.push(Contact {
            agent: made.agent.id,
            kind: ServerKind::Network,
            utimestamp: slot + 2,
            seen: seen.clone(),
        });
        if outcome.state_row_changed {
            batch.states.push((module.id, made.agent.id, state.clone()));
        }
        assert_eq!(store.commit(&batch).await.unwrap(), Committed::Done);
        let again = store.load_agents(&[made.agent.id], ServerKind::Network).await.unwrap().remove(0);
        assert_eq!(again.modules[0].1, state, "slot {slot}");
        let sql = format!(
            "SELECT data, status, utimestamp, COALESCE(UNIX_TIMESTAMP(timestamp), 0), last_execution_try, last_slot, \
             running_by, UNIX_TIMESTAMP(last_try) FROM tagent_status WHERE id_agent_module={}",
            module.id
        );
        let expected = format!(
            "{}|{}|{}|{}|{}|{}|n1|{}",
            state.data,
            state.status as u8,
            state.utimestamp,
            state.timestamp,
            state.last_execution_try,
            state.last_slot,
            state.last_try
        );
        assert_eq!(db.rows(&sql).await.unwrap(), [expected], "slot {slot}");
    }
}
