//! The API as the command line uses it: over the local socket, with a real database.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may stop at the first surprise

#[path = "support/node.rs"]
mod node;

use node::{World, ask};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

async fn call(socket: &Path, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, text) = ask(socket, method, path, &body).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_added_listed_run_and_deleted() {
    let world = World::start().await;
    let socket = world.api();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let (status, added) =
        call(&socket, "POST", "/api/v1/checks", json!({"check": "ping 10.0.0.1", "interval_s": 10})).await;
    assert_eq!((status, &added["agent"], &added["name"]), (201, &json!("10.0.0.1"), &json!("ping 10.0.0.1")));
    // Again: what stands is returned.
    let (_, again) = call(&socket, "POST", "/api/v1/checks", json!({"check": "ping  10.0.0.1"})).await;
    assert_eq!(again["id"], added["id"]);
    let bulk = json!({"checks": [
        {"check": "tcp mail:25", "agent": "10.0.0.1", "interval_s": 30},
        {"check": "tcp mail:587", "agent": "10.0.0.1"},
        {"check": "snmp sw 1.3.6.1.2.1.1.3.0 s3cret"},
    ]});
    let (status, answer) = call(&socket, "POST", "/api/v1/checks/bulk", bulk).await;
    assert_eq!((status, answer), (200, json!({"added": 3})));

    let (_, checks) = call(&socket, "GET", "/api/v1/checks", Value::Null).await;
    let short: Vec<String> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {} {} {} {}", c["agent"], c["name"], c["target"], c["interval"], c["status"]))
        .collect();
    assert_eq!(
        short,
        [
            r#""10.0.0.1" "ping 10.0.0.1" "10.0.0.1" 10 "not_init""#,
            r#""10.0.0.1" "tcp mail:25" "mail:25" 30 "not_init""#,
            r#""10.0.0.1" "tcp mail:587" "mail:587" 300 "not_init""#,
            r#""sw" "snmp sw 1.3.6.1.2.1.1.3.0" "sw" 300 "not_init""#,
        ]
    );
    let (_, agents) = call(&socket, "GET", "/api/v1/agents", Value::Null).await;
    assert_eq!(agents.as_array().unwrap().len(), 2);
    let keys: Vec<&String> = agents[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["alias", "group", "id", "last_contact", "modules", "name", "status"]);
    assert_eq!((&agents[0]["name"], &agents[0]["modules"]), (&json!("10.0.0.1"), &json!(3)));
    let (_, modules) = call(&socket, "GET", "/api/v1/modules?agent=sw", Value::Null).await;
    let keys: Vec<&String> = modules[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["agent", "id", "name", "running_by", "status", "timestamp", "type", "value"]);
    let (_, events) = call(&socket, "GET", "/api/v1/events?limit=1", Value::Null).await;
    assert_eq!((events.as_array().unwrap().len(), &events[0]["type"]), (1, &json!("new_agent")));

    let id = added["id"].as_u64().unwrap();
    let (status, _) = call(&socket, "POST", &format!("/api/v1/modules/{id}/run"), json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(
        world.db.rows(&format!("SELECT flag FROM tagent_module WHERE id_agent_module={id}")).await.unwrap(),
        ["1"]
    );
    let (status, report) = call(&socket, "GET", "/api/v1/ledger", Value::Null).await;
    assert_eq!((status, &report["recorded_twice"]), (200, &json!(0)));
    assert_eq!(call(&socket, "DELETE", &format!("/api/v1/modules/{id}"), Value::Null).await.0, 200);
    assert_eq!(call(&socket, "DELETE", "/api/v1/agents/sw", Value::Null).await.0, 200);
    let (_, left) = call(&socket, "GET", "/api/v1/checks", Value::Null).await;
    assert_eq!(left.as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said_with_the_fix() {
    let world = World::start().await;
    let socket = world.api();
    for (method, path, body, status, part) in [
        ("POST", "/api/v1/checks", json!({"check": "pong a"}), 400, "no kind of check"),
        ("POST", "/api/v1/checks", json!({"chek": "ping a"}), 400, "unknown field"),
        (
            "POST",
            "/api/v1/checks/bulk",
            json!({"checks": [{"check": "ping a"}, {"check": "x"}]}),
            400,
            "check 2:",
        ),
        ("DELETE", "/api/v1/modules/999", Value::Null, 404, "no module"),
        ("DELETE", "/api/v1/modules/x", Value::Null, 400, "elpis module list"),
        ("DELETE", "/api/v1/agents/nobody", Value::Null, 404, "elpis agent list"),
        ("GET", "/api/v1/modules?agent=nobody", Value::Null, 404, "no agent"),
        ("GET", "/api/v1/ledger?from=5&to=4", Value::Null, 400, "before it begins"),
        ("GET", "/api/v2/x", Value::Null, 404, "nothing at this path"),
    ] {
        let (got, answer) = call(&socket, method, path, body).await;
        let said = answer["error"].as_str().unwrap();
        assert!(
            got == status && said.contains(part) && answer["version"] == 1,
            "{method} {path}: {got} {said}"
        );
    }
    // Nothing of a refused bulk request is there.
    assert_eq!(world.db.rows("SELECT COUNT(*) FROM tagent").await.unwrap(), ["0"]);

    // Without a lease: read-only, and said.
    *world.lease.lock().unwrap() = false;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let (status, answer) = call(&socket, "POST", "/api/v1/checks", json!({"check": "ping a"})).await;
        if status == 503 {
            assert!(answer["error"].as_str().unwrap().contains("no lease"), "{answer}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(call(&socket, "GET", "/api/v1/agents", Value::Null).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_asked_while_the_database_moves_is_answered_there() {
    let world = World::start().await;
    let socket = world.api();
    let seen = async |state: &str| {
        let waiting = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE state = '{state}' AND db = DATABASE()"
        );
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while world.db.rows(&waiting).await.unwrap() == ["0"] {
            assert!(tokio::time::Instant::now() < deadline, "nothing is in state {state:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let lock = async { world.db.execute("LOCK TABLES tagent WRITE; DO SLEEP(1.5)").await.unwrap() };
    let question = async {
        seen("User sleep").await;
        call(&socket, "GET", "/api/v1/agents", Value::Null).await
    };
    let turn = async {
        seen("Waiting for table metadata lock").await;
        world.move_database();
    };
    let ((), answer, ()) = tokio::join!(lock, question, turn);
    assert_eq!(answer, (200, json!([])));
}
