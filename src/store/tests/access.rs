//! Accounts of nodes and roles against a real MariaDB: what a role runs is allowed, nothing else is, and who
//! administers learns what is missing.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_monitor::*;
use elpis_store::testdb::{TestDb, role};
use elpis_store::*;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, SqlSafeStr};
use std::str::FromStr;
use std::sync::Arc;

const NOW: i64 = 1_795_000_000;
const DENIED: &str = "denied";

fn account(db: &TestDb, role: AccessRole) -> Account {
    let database = name(db);
    let word = format!("{role:?}").to_lowercase();
    // The tests of this file share a server.
    Account {
        user: format!("elpis-{database}-2-{word}"),
        role,
        password: Secret::new(format!("secret {word}")),
    }
}

fn name(db: &TestDb) -> String {
    let url = db.endpoint().url;
    url.split_once('?').unwrap().0.rsplit('/').next().unwrap().to_owned()
}

fn endpoint(db: &TestDb, account: &Account) -> Endpoint {
    Endpoint { user: account.user.clone(), password: account.password.clone(), ..db.endpoint() }
}

async fn connect(db: &TestDb, user: &str, password: &str) -> Result<MySqlConnection, sqlx::Error> {
    MySqlConnectOptions::from_str(&db.endpoint().url)
        .unwrap()
        .username(user)
        .password(password)
        .connect()
        .await
}

async fn made(role: AccessRole) -> (TestDb, Account) {
    let db = TestDb::fresh().await.unwrap();
    let account = account(&db, role);
    provide_access(&db.endpoint(), std::slice::from_ref(&account), &[]).await.unwrap();
    (db, account)
}

async fn store(db: &TestDb, account: &Account) -> Store {
    Store::connect(&endpoint(db, account), 4, Arc::new(|| Some(1))).await.unwrap()
}

fn writer(name: &str) -> Writer {
    Writer { name: name.to_owned(), session: 1, incarnation: 1 }
}

/// Which of these statements the server refuses to this account.
async fn refused(conn: &mut MySqlConnection, statements: &[(String, String)]) -> Vec<String> {
    let mut refused = Vec::new();
    for (name, sql) in statements {
        // Prepared anew each time, so that privileges are looked at each time.
        if let Err(error) = conn.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await {
            refused.push(format!("{name}: {error}"));
        }
    }
    refused
}

#[tokio::test]
async fn every_statement_of_a_role_is_allowed_and_none_of_its_privileges_is_idle() {
    for role_of in AccessRole::ALL {
        let (db, account) = made(role_of).await;
        let (statements, privileges) = role(role_of);
        let mut conn = connect(&db, &account.user, account.password.expose()).await.unwrap();
        assert_eq!(refused(&mut conn, &statements).await, Vec::<String>::new(), "{role_of:?}");
        let mut idle = Vec::new();
        for (table, privilege) in privileges {
            let (database, user) = (name(&db), &account.user);
            let change = |verb: &str, to: &str| {
                format!("{verb} {privilege} ON `{database}`.`{table}` {to} '{user}'@'localhost'")
            };
            db.execute(&change("REVOKE", "FROM")).await.unwrap();
            let mine: Vec<_> = statements.iter().filter(|(_, sql)| sql.contains(table)).cloned().collect();
            let mut conn = connect(&db, user, account.password.expose()).await.unwrap();
            if refused(&mut conn, &mine).await.is_empty() {
                idle.push((table, privilege));
            }
            conn.close().await.unwrap();
            db.execute(&change("GRANT", "TO")).await.unwrap();
        }
        // Partitions are no prepared statement: `the_purge_runs_under_the_data_server_s_account` needs them.
        let partitions = [("tagent_data", "ALTER"), ("tagent_data", "CREATE"), ("tagent_data", "DROP")];
        idle.retain(|privilege| !partitions.contains(privilege));
        assert_eq!(idle, [], "{role_of:?} has privileges that nothing needs");
    }
}

#[tokio::test]
async fn what_is_not_a_role_s_is_refused() {
    let forbidden = [
        (AccessRole::Data, "SELECT password FROM tuser"),
        (AccessRole::Data, "DELETE FROM tagent"),
        (AccessRole::Data, "DROP TABLE tevent"),
        (AccessRole::Network, "SELECT * FROM tgroup"),
        (AccessRole::Network, "INSERT INTO tagent (name) VALUES ('x')"),
        (AccessRole::Network, "DELETE FROM tagent_module"),
        (AccessRole::Network, "DELETE FROM cluster_fence"),
        (
            AccessRole::Console,
            "INSERT INTO tagent_data (id_agent_module, utimestamp, n, data) VALUES (1,1,0,1)",
        ),
        (AccessRole::Console, "UPDATE tgroup SET password=''"),
        (AccessRole::Console, "DELETE FROM tuser"),
        (AccessRole::Console, "SELECT User FROM mysql.user"),
        (AccessRole::Data, "CREATE USER 'x'@'%'"),
    ];
    for role_of in AccessRole::ALL {
        let (db, account) = made(role_of).await;
        let mut conn = connect(&db, &account.user, account.password.expose()).await.unwrap();
        for (_, sql) in forbidden.iter().filter(|(role, _)| *role == role_of) {
            let error = conn.execute(*sql).await.expect_err(sql).to_string();
            assert!(error.contains(DENIED), "{role_of:?}: {sql}: {error}");
        }
    }
}

fn numeric(agent: AgentId, module: ModuleId, status: Status, number: u64, who: &str) -> Batch {
    let mut batch = Batch::new(writer(who));
    batch.flush = Some(Flush { number, executions: vec![(module, NOW)], now: NOW });
    for (n, value) in [Value::Number(1.0), Value::Text("x".into())].into_iter().enumerate() {
        batch.rows.push(Row { module, utimestamp: NOW, n: n as u16, value });
    }
    batch.increments.push((module, 1.0, NOW));
    batch.states.push((module, agent, ModuleState { status, ..Default::default() }));
    batch.counts.push((agent, Counts::change(Status::NotInit, status)));
    batch.agents.push(AgentSeen { agent, last_contact: NOW, ..Default::default() });
    batch.clear_forced.push(module);
    batch.events.push(Event {
        agent,
        module,
        group: GroupId(10),
        event_type: EventType::NewAgent,
        severity: Severity::Normal,
        text: "t".into(),
        utimestamp: NOW,
        validated: false,
        validates_earlier: true,
        data: String::new(),
        status,
    });
    batch
}

fn ping(target: &str) -> NewCheck {
    let icmp = ModuleType::from_name("remote_icmp_proc").unwrap();
    let check = Check { target: target.into(), ..Check::default() };
    NewCheck {
        agent: None,
        module: Module { check: Some(check), ..Module::with_defaults(AgentId(0), "ping", icmp) },
    }
}

#[tokio::test]
async fn the_work_of_each_role_runs_under_its_account() {
    let db = TestDb::fresh().await.unwrap();
    let all = AccessRole::ALL.map(|role| account(&db, role));
    provide_access(&db.endpoint(), &all, &[]).await.unwrap();
    let [data, network, console] = [&all[0], &all[1], &all[2]];

    let (s, w) = (store(&db, console).await, writer("n1/console"));
    s.register(&w).await.unwrap();
    let user =
        User { name: "admin".into(), full_name: String::new(), password: Secret::new("p"), is_admin: true };
    s.create_first_user(&w, &user, NOW).await.unwrap();
    let session =
        Session { token: [7; 32], user: "admin".into(), created: NOW, expires: NOW + 9, address: "x".into() };
    s.open_session(&w, &session, &Secret::new("p")).await.unwrap();
    assert!(s.session(&[7; 32], NOW).await.unwrap().is_some());
    let other = Session { token: [8; 32], ..session };
    s.open_session(&w, &other, &Secret::new("p")).await.unwrap();
    s.set_password(&w, "admin", &Secret::new("q"), Some(&[7; 32])).await.unwrap();
    assert_eq!(s.user("admin").await.unwrap().unwrap().password.expose(), "q");
    let there = (s.session(&[7; 32], NOW).await.unwrap(), s.session(&[8; 32], NOW).await.unwrap());
    assert!(there.0.is_some() && there.1.is_none(), "all but one have ended: {there:?}");
    let old = s.open_session(&w, &Session { token: [9; 32], ..other.clone() }, &Secret::new("p")).await;
    assert!(matches!(old, Err(CommitError::NotDone(StoreError::NotFound(_)))), "{old:?}");
    let nobody = s.set_password(&w, "nobody", &Secret::new("q"), None).await;
    assert!(matches!(nobody, Err(CommitError::NotDone(StoreError::NotFound(_)))), "{nobody:?}");
    s.close_session(&w, &[7; 32]).await.unwrap();
    let checks: Vec<_> = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ping).into();
    let added = s.add_checks(&w, &checks, NOW).await.unwrap();
    s.force_run(&w, added[0].id).await.unwrap();

    let (n, nw) = (store(&db, network).await, writer("n1/network-server"));
    n.register(&nw).await.unwrap();
    n.raise(&[("n9/network-server".into(), 3)]).await.unwrap();
    n.settings().await.unwrap();
    n.changes_since(n.last_change().await.unwrap()).await.unwrap();
    n.load_agents(&[added[0].agent], ServerKind::Network).await.unwrap();
    for (number, module) in (1..).zip(&added) {
        let mut batch = numeric(module.agent, module.id, Status::Normal, number, &nw.name);
        let (agent, kind) = (module.agent, ServerKind::Network);
        batch.contacts.push(Contact { agent, kind, utimestamp: NOW, seen: Seen::default() });
        assert_eq!(n.commit(&batch).await.unwrap(), Committed::Done);
    }

    s.delete_module(&w, added[1].id, NOW).await.unwrap();
    s.delete_agent(&w, added[2].agent, NOW).await.unwrap();
    assert_eq!(s.ledger_check(NOW - 9, NOW + 9).await.unwrap().recorded_twice, 0);
    s.overview(NOW, 10).await.unwrap();
    s.events(&EventFilter::default()).await.unwrap();
    s.operating_systems().await.unwrap();

    let (d, dw) = (store(&db, data).await, writer("n1/data-server"));
    d.register(&dw).await.unwrap();
    d.groups().await.unwrap();
    let string = ModuleType::from_name("generic_data").unwrap();
    let agent = Agent { name: "a".into(), alias: "a".into(), group: GroupId(10), ..Agent::default() };
    let module = Module::with_defaults(AgentId(0), "m", string);
    let loaded = d.create_agent(&dw, &agent, &[module]).await.unwrap();
    let (id, module) = (loaded.agent.id, loaded.modules[0].0.id);
    let mut batch = numeric(id, module, Status::Normal, 1, &dw.name);
    batch.reports.push([1; 32]);
    batch.agents[0].interval_s = Some(60);
    batch.modules.push(ModuleSeen { module, description: Some("d".into()), ..Default::default() });
    assert_eq!(d.commit(&batch).await.unwrap(), Committed::Done);
    d.known_reports(&[[1; 32]]).await.unwrap();
    d.next_ordinals(&[(module, NOW)]).await.unwrap();
}

#[tokio::test]
async fn the_purge_runs_under_the_data_server_s_account() {
    let (db, account) = made(AccessRole::Data).await;
    let store = store(&db, &account).await;
    let job = Writer { name: "job/purge".into(), session: 1, incarnation: 0 };
    store.register(&job).await.unwrap();
    // A year on: months are made ahead, and all those of today are dropped.
    store.purge(&job, NOW).await.unwrap();
    let purged = store.purge(&job, NOW + 365 * 86_400).await.unwrap();
    assert!(purged.months >= 3, "{purged:?}");
}

#[tokio::test]
async fn making_twice_changes_nothing_and_dropping_twice_is_one() {
    let (db, account) = made(AccessRole::Console).await;
    let mut conn = connect(&db, &account.user, account.password.expose()).await.unwrap();
    let grants = format!("SHOW GRANTS FOR '{}'@'localhost'", account.user);
    let granted = async || {
        let mut rows = db.rows(&grants).await.unwrap();
        rows.sort_unstable(); // the server lists them in no order
        rows
    };
    let before = granted().await;
    let again = [account.clone()];
    let admin = db.endpoint();
    let (one, two) = tokio::join!(provide_access(&admin, &again, &[]), provide_access(&admin, &again, &[]));
    one.unwrap();
    two.unwrap();
    assert_eq!(granted().await, before);
    conn.execute("SELECT COUNT(*) FROM tuser").await.unwrap();
    assert!(connect(&db, &account.user, "another").await.is_err());

    // Another password: standing connections go on, new ones need it.
    let other = Account { password: Secret::new("another"), ..account.clone() };
    provide_access(&admin, &[other], &[]).await.unwrap();
    conn.execute("SELECT COUNT(*) FROM tuser").await.unwrap();
    connect(&db, &account.user, "another").await.unwrap();

    for _ in 0..2 {
        provide_access(&admin, &[], std::slice::from_ref(&account.user)).await.unwrap();
    }
    assert!(connect(&db, &account.user, "another").await.is_err());
}

#[tokio::test]
async fn what_the_administration_account_lacks_is_named_with_its_remedy() {
    let db = TestDb::fresh().await.unwrap();
    let database = name(&db);
    let user = format!("op_{database}");
    let admin = Endpoint { user: user.clone(), password: Secret::new("p'w"), ..db.endpoint() };
    let wanted = [account(&db, AccessRole::Network)];
    let said = async || provide_access(&admin, &wanted, &[]).await.unwrap_err().to_string();
    let denied = said().await;
    assert!(denied.contains("refuses the administration account") && !denied.contains("p'w"), "{denied}");

    db.execute(&format!("CREATE USER '{user}'@'localhost' IDENTIFIED BY 'p''w'")).await.unwrap();
    let none = said().await;
    assert!(none.contains("GRANT ALL PRIVILEGES ON"), "{none}");
    db.execute(&format!("GRANT ALL ON `{database}`.* TO '{user}'@'localhost'")).await.unwrap();
    let create = said().await;
    let mend = format!("GRANT CREATE USER ON *.* TO '{user}'@'localhost';");
    assert!(create.contains("lacks CREATE USER") && create.contains(&mend), "{create}");

    db.execute(&mend).await.unwrap();
    let grant = said().await;
    let (_, mend) = grant.split_once("administrator: ").expect(&grant);
    assert!(mend.ends_with("WITH GRANT OPTION;"), "{grant}");
    db.execute(mend).await.unwrap();
    provide_access(&admin, &wanted, &[]).await.unwrap();

    let empty = TestDb::empty().await.unwrap();
    let error = provide_access(&empty.endpoint(), &wanted, &[]).await.unwrap_err().to_string();
    assert!(error.contains("elpis database migrate"), "{error}");
}

#[tokio::test]
async fn a_name_that_needs_quoting_is_no_name() {
    let db = TestDb::empty().await.unwrap();
    migrate(&db.endpoint()).await.unwrap();
    for bad in ["", "a'b", "a b", &"x".repeat(33)] {
        assert!(provide_access(&db.endpoint(), &[], &[bad.to_owned()]).await.is_err(), "{bad:?}");
    }
}
