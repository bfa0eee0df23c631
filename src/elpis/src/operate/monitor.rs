//! Agents, modules, checks, events, the ledger: through the API's local socket.

use super::{secret, time};
use crate::cli::{Agent, Check, CheckAdd, Event, Ledger, Module, Scope, User};
use crate::find::Cluster;
use crate::output::{self, cell};
use anyhow::{Context, Result, ensure};
use elpis_watch::Method;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// Longest file of checks.
const LONGEST: u64 = 4 << 20;
/// Checks a request.
const BULK: usize = 5_000;

pub(super) async fn agent(cluster: &Cluster, scope: &Scope, order: Agent) -> Result<()> {
    match order {
        Agent::List => {
            let agents = cluster.api(Method::GET, "/api/v1/agents", None).await?;
            list(
                scope,
                &agents,
                &["id", "name", "alias", "group", "status", "modules", "last_contact"],
                "no agents yet",
            );
        }
        Agent::Show { agent } => {
            let agents = cluster.api(Method::GET, "/api/v1/agents", None).await?;
            let id = agent.parse::<u64>().ok();
            let named =
                |one: &&Value| one["name"] == agent.as_str() || (id.is_some() && one["id"].as_u64() == id);
            let all = agents.as_array().context("the API sent no list; use programs of one version")?;
            let one = all
                .iter()
                .find(named)
                .with_context(|| format!("there is no agent {agent}; `elpis agent list` shows all"))?;
            let path = format!("/api/v1/modules?agent={}", encoded(one["name"].as_str().unwrap_or(&agent)));
            let modules = cluster.api(Method::GET, &path, None).await?;
            show_agent(scope, one, &modules);
        }
        Agent::Delete { agent } => {
            cluster.api(Method::DELETE, &format!("/api/v1/agents/{}", encoded(&agent)), None).await?;
            done(scope, &json!({ "deleted": agent }), &format!("agent {agent} deleted"));
        }
    }
    Ok(())
}

fn show_agent(scope: &Scope, agent: &Value, modules: &Value) {
    if scope.json {
        let mut agent = agent.clone();
        agent["modules"] = modules.clone();
        output::json(&agent);
        return;
    }
    let contact = time::show(agent["last_contact"].as_i64().unwrap_or(0));
    output::line(&format!("{} ({})", cell(agent, "name"), cell(agent, "alias")));
    output::line(&format!(
        "group {}, status {}, last contact {contact}\n",
        cell(agent, "group"),
        cell(agent, "status")
    ));
    list(scope, modules, &["id", "name", "type", "status", "value", "timestamp", "running_by"], "no modules");
}

pub(super) async fn module(cluster: &Cluster, scope: &Scope, order: Module) -> Result<()> {
    match order {
        Module::List { agent } => {
            let path = agent.map_or_else(String::new, |agent| format!("?agent={}", encoded(&agent)));
            let modules = cluster.api(Method::GET, &format!("/api/v1/modules{path}"), None).await?;
            let head = ["id", "agent", "name", "type", "status", "value", "timestamp", "running_by"];
            list(scope, &modules, &head, "no modules yet");
        }
        Module::Run { id } => {
            cluster.api(Method::POST, &format!("/api/v1/modules/{id}/run"), Some(&json!({}))).await?;
            done(scope, &json!({ "run": id }), &format!("module {id} runs now"));
        }
        Module::Delete { id } => {
            cluster.api(Method::DELETE, &format!("/api/v1/modules/{id}"), None).await?;
            done(scope, &json!({ "deleted": id }), &format!("module {id} deleted"));
        }
    }
    Ok(())
}

pub(super) async fn check(cluster: &Cluster, scope: &Scope, order: Check) -> Result<()> {
    match order {
        Check::List => {
            let checks = cluster.api(Method::GET, "/api/v1/checks", None).await?;
            list(
                scope,
                &checks,
                &["id", "agent", "name", "type", "target", "interval", "status"],
                "no checks yet",
            );
        }
        Check::Add(CheckAdd { from: Some(file), agent, interval, .. }) => {
            let checks: Vec<Value> =
                lines(&file)?.iter().map(|check| body(check, agent.as_deref(), None, interval)).collect();
            let added = add_all(cluster, checks).await?;
            done(scope, &json!({ "added": added }), &format!("{added} checks added"));
        }
        Check::Add(CheckAdd { check, agent, name, interval, .. }) => {
            let check = check.unwrap_or_default();
            let body = body(&check, agent.as_deref(), name.as_deref(), interval);
            let added = cluster.api(Method::POST, "/api/v1/checks", Some(&body)).await?;
            let text = format!(
                "check {} ({}) added to agent {}",
                cell(&added, "id"),
                cell(&added, "name"),
                cell(&added, "agent")
            );
            done(scope, &added, &text);
        }
    }
    Ok(())
}

/// Adds many checks; returns how many were added.
pub(crate) async fn add_all(cluster: &Cluster, checks: Vec<Value>) -> Result<u64> {
    let mut added = 0;
    for part in checks.chunks(BULK) {
        let answer =
            cluster.api(Method::POST, "/api/v1/checks/bulk", Some(&json!({ "checks": part }))).await?;
        added += answer["added"].as_u64().unwrap_or(0);
    }
    Ok(added)
}

fn body(check: &str, agent: Option<&str>, name: Option<&str>, interval: Option<u32>) -> Value {
    let mut body = json!({ "check": check });
    for (field, value) in [
        ("agent", agent.map(Value::from)),
        ("name", name.map(Value::from)),
        ("interval_s", interval.map(Value::from)),
    ] {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    body
}

/// Lines with a check; empty ones and those with # are left out.
fn lines(file: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(LONGEST + 1).read_to_string(&mut text)?;
    } else {
        let open = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        open.take(LONGEST + 1).read_to_string(&mut text)?;
    }
    ensure!(text.len() as u64 <= LONGEST, "more than {LONGEST} bytes of checks; split the file");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

pub(super) async fn event(cluster: &Cluster, scope: &Scope, order: Event) -> Result<()> {
    let Event::List { agent, limit } = order;
    let agent = agent.map_or_else(String::new, |agent| format!("&agent={}", encoded(&agent)));
    let events = cluster.api(Method::GET, &format!("/api/v1/events?limit={limit}{agent}"), None).await?;
    list(scope, &events, &["id", "timestamp", "type", "criticity", "agent", "event"], "no events yet");
    Ok(())
}

pub(super) async fn user(cluster: &Cluster, scope: &Scope, order: User) -> Result<()> {
    let User::ResetPassword { name, password_file } = order;
    let given = password_file.map(|file| secret::read(Some(&file))).transpose()?;
    let body = given.map_or_else(|| json!({}), |password| json!({ "password": password }));
    let path = format!("/api/v1/users/{}/password", encoded(&name));
    let said = cluster.api(Method::POST, &path, Some(&body)).await?;
    let password = said["password"].as_str().unwrap_or("of that file");
    done(scope, &said, &format!("user {name} has the password {password}; all sessions have ended"));
    Ok(())
}

/// Exit code 1 when a slot was recorded twice: that must never be.
pub(super) async fn ledger(cluster: &Cluster, scope: &Scope, order: Ledger) -> Result<ExitCode> {
    let Ledger::Check { from, to } = order;
    let report = ledger_report(cluster, from, to).await?;
    if scope.json {
        output::json(&report);
    } else {
        output::print(&ledger_text(&report));
    }
    let twice =
        report["recorded_twice"].as_u64().context("the API sent no ledger; use programs of one version")?;
    Ok(if twice == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The ledger between two times (Unix seconds); without: since the cluster started, until now.
pub(crate) async fn ledger_report(cluster: &Cluster, from: Option<i64>, to: Option<i64>) -> Result<Value> {
    let parts = [("from", from), ("to", to)];
    let query: Vec<String> = parts.iter().filter_map(|(name, t)| t.map(|t| format!("{name}={t}"))).collect();
    cluster.api(Method::GET, &format!("/api/v1/ledger?{}", query.join("&")), None).await
}

fn ledger_text(report: &Value) -> String {
    let time = |field: &str| time::show(report[field].as_i64().unwrap_or(0));
    let mut text = format!("{} to {} (UTC)\n", time("from"), time("to"));
    for field in ["due", "recorded", "missed", "recorded_twice", "longest_gap_ms"] {
        text.push_str(&format!("  {:<15} {}\n", field.replace('_', " "), cell(report, field)));
    }
    for (node, count) in report["by_node"].as_object().into_iter().flatten() {
        text.push_str(&format!("  by {:<12} {}\n", output::safe(node), output::safe(&count.to_string())));
    }
    text
}

fn list(scope: &Scope, answer: &Value, fields: &[&str], nothing: &str) {
    if scope.json {
        output::json(answer);
        return;
    }
    let rows: Vec<Vec<String>> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| fields.iter().map(|field| field_text(row, field)).collect())
        .collect();
    let head: Vec<String> = fields.iter().map(|field| field.replace('_', " ")).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    output::print(&output::table(&head, &rows, nothing));
}

fn field_text(row: &Value, field: &str) -> String {
    match (&row[field], field) {
        (Value::Number(n), "last_contact" | "timestamp") => time::show(n.as_i64().unwrap_or(0)),
        _ => cell(row, field),
    }
}

fn done(scope: &Scope, answer: &Value, text: &str) {
    if scope.json {
        output::json(answer);
    } else {
        output::line(&output::safe(text));
    }
}

/// Percent-encoding for one part of a path or query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_part_of_the_path() {
        assert_eq!(encoded("a b/é?"), "a%20b%2F%C3%A9%3F");
    }

    #[test]
    fn only_what_was_given_is_sent() {
        assert_eq!(body("tcp a:1", None, None, None), json!({ "check": "tcp a:1" }));
        let full = json!({ "check": "ping a", "agent": "b", "name": "c", "interval_s": 5 });
        assert_eq!(body("ping a", Some("b"), Some("c"), Some(5)), full);
    }
}
