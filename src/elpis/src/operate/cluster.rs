//! `elpis cluster …`, `elpis join`, `elpis node drain|undrain|remove`: through node.sock, without the database.

use super::{secret, status};
use crate::cli::{AddressOrder, Cluster as Asked, DatabaseArgs, Init, Join, LogLevel, NodeOrder, Scope};
use crate::find::Cluster;
use crate::output;
use anyhow::{Result, bail, ensure};
use elpis_watch::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A join that stands still this long has failed.
const JOIN: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn cluster(cluster: &Cluster, scope: &Scope, order: Asked) -> Result<()> {
    match order {
        Asked::Init(init) => self::init(cluster, scope, init).await,
        Asked::Database(to) => database(cluster, scope, &to).await,
        Asked::AddNode => add_node(cluster, scope).await,
        Asked::Address(order) => address(cluster, scope, order).await,
        Asked::Profile { profile } => self::profile(cluster, scope, profile).await,
        Asked::Recover(recover) => super::lost::recover(cluster, scope, recover).await,
        Asked::Status { watch: true } => status::watch(cluster, scope.json).await,
        Asked::Status { watch: false } => {
            let seen = cluster.node(Method::GET, "/v1/status", None).await?;
            if scope.json {
                output::json(&seen);
            } else {
                output::print(&status::text(&seen));
            }
            Ok(())
        }
    }
}

async fn init(cluster: &Cluster, scope: &Scope, init: Init) -> Result<()> {
    needs_node(cluster)?;
    let database = match init.database {
        Some(to) => named(&to)?,
        None => Value::Null,
    };
    let managed = if database.is_null() { json!({}) } else { Value::Null };
    let body = json!({ "name": init.name, "database": database, "managed": managed });
    let made = cluster.node(Method::POST, "/v1/cluster/init", Some(&body)).await?;
    said(
        scope,
        &made,
        &format!("the cluster {} has its first node; let others in with: elpis cluster add-node", init.name),
    );
    Ok(())
}

async fn address(cluster: &Cluster, scope: &Scope, order: AddressOrder) -> Result<()> {
    let (address, keep, text) = match order {
        AddressOrder::Add { address } => {
            (address, true, "is held by a node in a moment; `elpis cluster status` says by which")
        }
        AddressOrder::Remove { address } => (address, false, "is held by no node any more"),
    };
    let body = json!({ "address": address, "keep": keep });
    let done = cluster.node(Method::POST, "/v1/cluster/address", Some(&body)).await?;
    said(scope, &done, &format!("{address} {text}"));
    Ok(())
}

async fn profile(cluster: &Cluster, scope: &Scope, profile: Option<String>) -> Result<()> {
    let Some(profile) = profile else {
        let seen = cluster.node(Method::GET, "/v1/status", None).await?;
        if scope.json {
            let nodes = seen["nodes"].as_array().into_iter().flatten();
            let nodes: Vec<Value> =
                nodes.map(|node| json!({ "name": node["name"], "timing": node["timing"] })).collect();
            output::json(&json!({ "profile": seen["profile"], "nodes": nodes }));
        } else {
            output::print(&status::profile(&seen));
        }
        return Ok(());
    };
    let done =
        cluster.node(Method::POST, "/v1/cluster/profile", Some(&json!({ "profile": profile }))).await?;
    said(scope, &done, &format!("profile {profile} is ordered; `elpis cluster profile` says how far it is"));
    Ok(())
}

async fn database(cluster: &Cluster, scope: &Scope, to: &DatabaseArgs) -> Result<()> {
    let done = cluster.node(Method::POST, "/v1/cluster/database", Some(&named(to)?)).await?;
    said(scope, &done, "the database is named; `elpis cluster status` says when its accounts are made");
    Ok(())
}

fn named(to: &DatabaseArgs) -> Result<Value> {
    let password = secret::read(to.password_file.as_deref())?;
    Ok(json!({ "url": to.url, "user": to.user, "password": password }))
}

async fn add_node(cluster: &Cluster, scope: &Scope) -> Result<()> {
    let offer = cluster.node(Method::POST, "/v1/cluster/add-node", Some(&json!({}))).await?;
    said(scope, &offer, &invitation(&offer, "the words let one node in, and expire"));
    Ok(())
}

async fn replace(cluster: &Cluster, scope: &Scope, node: &str) -> Result<()> {
    let offer = cluster.node(Method::POST, "/v1/node/replace", Some(&json!({ "node": node }))).await?;
    let meaning = format!("who joins with these words takes the place and the name of {node}; they expire");
    said(scope, &offer, &invitation(&offer, &meaning));
    Ok(())
}

/// What to type on the new node.
fn invitation(offer: &Value, meaning: &str) -> String {
    format!("on the new node type:\n\n  elpis join {}\n\n{meaning}", address_and_words(offer))
}

/// What a newcomer has to be told of an offer, in one line.
pub(crate) fn address_and_words(offer: &Value) -> String {
    let words = match &offer["words"] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    format!("{} {words}", offer["address"].as_str().unwrap_or_default())
}

pub(super) async fn join(cluster: &Cluster, scope: &Scope, join: Join) -> Result<()> {
    needs_node(cluster)?;
    let body = json!({ "address": join.address, "words": join.words.join(" ") });
    cluster.node(Method::POST, "/v1/cluster/join", Some(&body)).await?;
    let quiet = scope.json;
    follow_join(cluster, |name, seconds| {
        if !quiet {
            output::line(&format!("{seconds:6.1} s  {name}"));
        }
    })
    .await?;
    said(scope, &json!({ "joined": true }), "this node is a member");
    Ok(())
}

/// Waits until the node's join is done; tells each step (name, seconds) once.
pub(crate) async fn follow_join(cluster: &Cluster, mut step: impl FnMut(&str, f64)) -> Result<()> {
    let begin = Instant::now();
    let mut told = 0;
    loop {
        match cluster.node(Method::GET, "/v1/cluster/join", None).await {
            Ok(progress) => {
                let steps = progress["steps"].as_array().cloned().unwrap_or_default();
                for one in steps.iter().skip(told) {
                    step(&output::cell(one, "name"), one["seconds"].as_f64().unwrap_or(0.0));
                }
                told = told.max(steps.len());
                if let Some(error) = progress["error"].as_str().filter(|text| !text.is_empty()) {
                    bail!("{error}");
                }
                if progress["done"] == true {
                    return Ok(());
                }
            }
            Err(e) if begin.elapsed() > JOIN => return Err(e),
            Err(_) => {}
        }
        ensure!(begin.elapsed() < JOIN, "the join is not done after {} s", JOIN.as_secs());
        sleep(LOOK).await;
    }
}

pub(super) async fn node(cluster: &Cluster, scope: &Scope, order: NodeOrder) -> Result<()> {
    let (path, node, text) = match order {
        NodeOrder::Drain { node } => ("drain", node, "gives its work away"),
        NodeOrder::Undrain { node } => ("undrain", node, "takes work again"),
        NodeOrder::Remove { node } => ("remove", node, "is out of the cluster"),
        NodeOrder::Replace { node } => return replace(cluster, scope, &node).await,
        NodeOrder::LogLevel(order) => return log_level(cluster, scope, order).await,
    };
    let path = format!("/v1/node/{path}");
    let done = cluster.node(Method::POST, &path, Some(&json!({ "node": node }))).await?;
    said(scope, &done, &format!("{node} {text}"));
    Ok(())
}

/// Orders it; the change itself shows in the status.
pub(super) async fn switchover(cluster: &Cluster, scope: &Scope, node: &str) -> Result<()> {
    let done = cluster.node(Method::POST, "/v1/database/switchover", Some(&json!({ "node": node }))).await?;
    said(scope, &done, &format!("{node} becomes the database's primary; `elpis cluster status` shows when"));
    Ok(())
}

async fn log_level(cluster: &Cluster, scope: &Scope, order: LogLevel) -> Result<()> {
    if let Some(level) = order.level.as_deref().filter(|level| *level != "default") {
        elpis_watch::log::check(level).map_err(anyhow::Error::msg)?;
    }
    let body =
        json!({ "node": order.node, "role": order.role, "directives": order.level, "for_s": order.time });
    let answer = cluster.node(Method::POST, "/v1/log", Some(&body)).await?;
    let rows: Vec<Vec<String>> = answer["levels"].as_array().into_iter().flatten().map(log_row).collect();
    said(scope, &answer, output::table(&["process", "level", "back in"], &rows, "no process").trim_end());
    Ok(())
}

fn log_row(level: &Value) -> Vec<String> {
    let left = level["ms_left"].as_u64().unwrap_or(0).div_ceil(1000);
    let back = match left {
        0 => "-".to_owned(),
        1..120 => format!("{left} s"),
        _ => format!("{} min", left.div_ceil(60)),
    };
    vec![output::cell(level, "role"), output::cell(level, "directives"), back]
}

fn needs_node(cluster: &Cluster) -> Result<()> {
    ensure!(!cluster.is_ambiguous(), "which node? A development cluster has several: add --on NODE");
    Ok(())
}

pub(super) fn said(scope: &Scope, answer: &Value, text: &str) {
    if scope.json {
        output::json(answer);
    } else {
        output::line(text);
    }
}
