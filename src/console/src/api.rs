//! The API: JSON for the command line (on the local socket, without sign-in) and for programs (over TLS, signed in).

use crate::app::App;
use crate::parse_check;
use crate::refusal::Refused;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use elpis_monitor::{ModuleId, interval_of};
use elpis_store::{AgentFilter, AgentRow, EventFilter, ModuleFilter, ModuleRow, NewCheck, ServerKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// Checks of one bulk request.
const BULK: usize = 5_000;
/// Bytes of a request's body.
const BODY: usize = 4 << 20;
/// Most events of one answer.
const EVENTS: u32 = 10_000;
/// Slots younger than this may still be on their way into the ledger.
const ON_THE_WAY_S: i64 = 30;

pub(crate) type Answer = Result<Response, Refused>;

/// Routes of the API.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/agents", get(agents))
        .route("/api/v1/agents/{agent}", delete(delete_agent))
        .route("/api/v1/modules", get(modules))
        .route("/api/v1/modules/{id}", delete(delete_module))
        .route("/api/v1/modules/{id}/run", post(run_module))
        .route("/api/v1/events", get(events))
        .route("/api/v1/checks", get(checks).post(add_check))
        .route("/api/v1/checks/bulk", post(add_checks))
        .route("/api/v1/ledger", get(ledger))
        .route("/api/v1/cluster/{order}", post(crate::orders::by_api))
        .route("/api/v1/database", get(database))
        .merge(crate::update::api())
        .route("/api/v1/certificate", get(certificate))
        .layer(DefaultBodyLimit::max(BODY))
}

/// What is nowhere.
pub(crate) async fn unknown() -> Refused {
    Refused::missing("there is nothing at this path of the API; programs of different versions?")
}

fn json_text(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Body as JSON, with an error in our shape.
pub(crate) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| Refused::bad(format!("the request's body cannot be used: {e}")))
}

/// What a browser's warning is compared with.
async fn certificate(State(app): State<Arc<App>>) -> Response {
    json_text(&json!({ "node": app.link.welcome().name, "sha256": app.certificate }))
}

async fn agents(State(app): State<Arc<App>>) -> Answer {
    let rows = app.db.store()?.agents(&AgentFilter::default(), app.now()).await?;
    Ok(json_text(&rows.iter().map(agent_json).collect()))
}

fn agent_json(row: &AgentRow) -> Value {
    let agent = &row.agent;
    json!({
        "id": agent.id.0, "name": agent.name, "alias": agent.alias, "group": row.group, "status": row.shown.word(),
        "last_contact": agent.last_contact, "modules": row.counts.total(),
    })
}

#[derive(Deserialize)]
struct OfAgent {
    agent: Option<String>,
    limit: Option<u32>,
}

/// The agent that a query names, if it names one.
async fn named(app: &App, key: Option<&str>) -> Result<Option<AgentRow>, Refused> {
    let Some(key) = key else { return Ok(None) };
    Ok(Some(agent_by(app, key).await?))
}

/// By name or id.
pub(crate) async fn agent_by(app: &App, key: &str) -> Result<AgentRow, Refused> {
    app.db
        .store()?
        .agent(key, app.now())
        .await?
        .ok_or_else(|| Refused::missing(format!("there is no agent {key}; `elpis agent list` shows all")))
}

async fn modules(State(app): State<Arc<App>>, Query(query): Query<OfAgent>) -> Answer {
    let agent = named(&app, query.agent.as_deref()).await?.map(|row| row.agent.id);
    let rows = app.db.store()?.modules(&ModuleFilter { agent, ..ModuleFilter::default() }).await?;
    Ok(json_text(&rows.iter().map(module_json).collect()))
}

fn module_json(row: &ModuleRow) -> Value {
    json!({
        "id": row.module.id.0, "agent": row.agent, "name": row.module.name, "type": row.module.module_type.name(),
        "status": row.state.status.word(), "value": row.state.data, "timestamp": row.state.timestamp,
        "running_by": row.running_by,
    })
}

async fn events(State(app): State<Arc<App>>, Query(query): Query<OfAgent>) -> Answer {
    let agent = named(&app, query.agent.as_deref()).await?.map(|row| row.agent.id);
    let limit = query.limit.unwrap_or(100).clamp(1, EVENTS);
    let rows = app.db.store()?.events(&EventFilter { agent, limit, ..EventFilter::default() }).await?;
    let event = |row: &elpis_store::EventRow| {
        json!({
            "id": row.id, "timestamp": row.utimestamp, "type": row.event_type, "criticity": row.severity,
            "agent": row.agent_alias, "module": row.module_name, "status": row.status, "event": row.text,
        })
    };
    Ok(json_text(&rows.iter().map(event).collect()))
}

async fn checks(State(app): State<Arc<App>>) -> Answer {
    let store = app.db.store()?;
    let agents = store.agents(&AgentFilter::default(), app.now()).await?;
    let agents: std::collections::HashMap<_, _> =
        agents.into_iter().map(|row| (row.agent.id, row.agent)).collect();
    let filter = ModuleFilter { kind: Some(ServerKind::Network), ..ModuleFilter::default() };
    let rows = store.modules(&filter).await?;
    let check = |row: &ModuleRow| {
        let interval = agents
            .get(&row.module.agent)
            .map_or(row.module.interval_s, |agent| interval_of(agent, &row.module));
        json!({
            "id": row.module.id.0, "agent": row.agent, "name": row.module.name, "type": row.module.module_type.name(),
            "target": target(row), "interval": interval, "status": row.state.status.word(),
        })
    };
    Ok(json_text(&rows.iter().map(check).collect()))
}

/// `host`, or `host:port` where a port is part of it.
pub(crate) fn target(row: &ModuleRow) -> String {
    match &row.module.check {
        Some(check) if check.port == 0 => check.target.clone(),
        Some(check) if check.target.contains(':') => format!("[{}]:{}", check.target, check.port),
        Some(check) => format!("{}:{}", check.target, check.port),
        None => String::new(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckOrder {
    check: String,
    agent: Option<String>,
    name: Option<String>,
    interval_s: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkOrder {
    checks: Vec<CheckOrder>,
}

/// Checks as orders of the store; agents are named by name or id, each looked up once.
async fn orders(app: &App, orders: Vec<CheckOrder>) -> Result<Vec<NewCheck>, Refused> {
    let many = orders.len() > 1;
    let mut known = std::collections::HashMap::new();
    let mut checks = Vec::with_capacity(orders.len());
    for (number, order) in (1..).zip(orders) {
        let module = parse_check::parse(&order.check, order.name.as_deref(), order.interval_s.unwrap_or(0))
            .map_err(|e| {
            Refused::bad(if many { format!("check {number}: {e}") } else { e.to_string() })
        })?;
        let agent = match order.agent {
            None => None,
            Some(key) => {
                if !known.contains_key(&key) {
                    // A name that nobody has yet becomes an agent, as a bare target does.
                    let standing = app.db.store()?.agent(&key, app.now()).await?;
                    known.insert(key.clone(), standing.map_or_else(|| key.clone(), |row| row.agent.name));
                }
                known.get(&key).cloned()
            }
        };
        checks.push(NewCheck { agent, module });
    }
    Ok(checks)
}

async fn add_check(State(app): State<Arc<App>>, body: Bytes) -> Answer {
    let check = orders(&app, vec![read(&body)?]).await?;
    let added = add(&app, &check).await?;
    let module = added.first().ok_or_else(|| Refused::internal("the database added no check; try again"))?;
    let agent = app.db.store()?.agent(&module.agent.to_string(), app.now()).await?;
    let agent = agent.map_or_else(|| module.agent.to_string(), |row| row.agent.name);
    let answer = json!({ "id": module.id.0, "agent": agent, "name": module.name });
    Ok((StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], answer.to_string()).into_response())
}

async fn add_checks(State(app): State<Arc<App>>, body: Bytes) -> Answer {
    let order: BulkOrder = read(&body)?;
    if order.checks.len() > BULK {
        return Err(Refused::bad(format!("more than {BULK} checks in one request; split them")));
    }
    let checks = orders(&app, order.checks).await?;
    let added = if checks.is_empty() { 0 } else { add(&app, &checks).await?.len() };
    Ok(Json(json!({ "added": added })).into_response())
}

async fn add(app: &App, checks: &[NewCheck]) -> Result<Vec<elpis_monitor::Module>, Refused> {
    let now = app.now();
    app.db.write(|store, writer| async move { store.add_checks(&writer, checks, now).await }).await
}

async fn run_module(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let id = module_id(&id)?;
    run(&app, id).await?;
    Ok(Json(json!({ "run": id.0 })).into_response())
}

/// Has a check run at once.
pub(crate) async fn run(app: &App, id: ModuleId) -> Result<(), Refused> {
    app.db.write(|store, writer| async move { store.force_run(&writer, id).await }).await
}

async fn delete_module(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let (id, now) = (module_id(&id)?, app.now());
    app.db.remove(|store, writer| async move { store.delete_module(&writer, id, now).await }).await?;
    Ok(Json(json!({ "deleted": id.0 })).into_response())
}

async fn delete_agent(State(app): State<Arc<App>>, Path(key): Path<String>) -> Answer {
    let row = agent_by(&app, &key).await?;
    let (id, now) = (row.agent.id, app.now());
    app.db.remove(|store, writer| async move { store.delete_agent(&writer, id, now).await }).await?;
    Ok(Json(json!({ "deleted": row.agent.name })).into_response())
}

fn module_id(text: &str) -> Result<ModuleId, Refused> {
    text.parse()
        .map(ModuleId)
        .map_err(|_| Refused::bad(format!("{text:?} is no module id; `elpis module list` shows them")))
}

#[derive(Deserialize)]
struct Span {
    from: Option<i64>,
    to: Option<i64>,
}

async fn ledger(State(app): State<Arc<App>>, Query(span): Query<Span>) -> Answer {
    let store = app.db.store()?;
    let to = span.to.unwrap_or(app.now() - ON_THE_WAY_S);
    let from = match span.from {
        Some(from) => from,
        None => store.first_scheduled().await?.unwrap_or(to).min(to),
    };
    if from > to {
        return Err(Refused::bad(format!("the span ends ({to}) before it begins ({from})")));
    }
    let report = store.ledger_check(from, to).await?;
    Ok(Json(report).into_response())
}

/// What the database is; nothing of what it holds.
async fn database(State(app): State<Arc<App>>) -> Answer {
    Ok(Json(app.db.store()?.facts().await?).into_response())
}
