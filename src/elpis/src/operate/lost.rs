//! `elpis database adopt`, `elpis cluster recover`: an operator gives nodes up that never come back.

use super::status;
use crate::cli::{Adopt, Recover, Scope};
use crate::find::Cluster;
use crate::output;
use anyhow::{Result, bail, ensure};
use elpis_watch::Method;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Read};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longest line that is read as a confirmation.
const TYPED: u64 = 4096;
/// So long the node agent may take to start again as the only node.
const STARTS: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn adopt(cluster: &Cluster, scope: &Scope, adopt: Adopt) -> Result<()> {
    let mut body = json!({ "node": adopt.node, "without": adopt.without });
    let path = "/v1/database/adopt";
    let choice = cluster.node(Method::POST, path, Some(&body)).await?;
    if !scope.json {
        output::print(&format!(
            "{}\n{}",
            output::cell(&choice, "text"),
            status::positions(&choice["positions"])
        ));
    }
    body["confirm"] = Value::String(match adopt.confirm {
        Some(name) => name,
        None => typed(&format!(
            "type the name of the lost primary ({}) to go on: ",
            output::cell(&choice, "primary")
        ))?,
    });
    let done = cluster.node(Method::POST, path, Some(&body)).await?;
    if scope.json {
        output::json(&done);
    } else {
        let node = output::cell(&done, "node");
        output::line(&format!("{node} becomes the database's primary; `elpis cluster status` shows when"));
    }
    Ok(())
}

pub(super) async fn recover(cluster: &Cluster, scope: &Scope, recover: Recover) -> Result<()> {
    let mut body = json!({ "survivors": recover.survivors });
    let path = "/v1/cluster/recover";
    let choice = cluster.node(Method::POST, path, Some(&body)).await?;
    let gone: Vec<&str> = choice["gone"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !scope.json {
        output::print(&format!(
            "{}\n{}These nodes must be powered off, and must never start again with the disks they have: {}\n",
            output::cell(&choice, "text"),
            status::positions(&choice["positions"]),
            output::safe(&gone.join(","))
        ));
    }
    body["confirm"] = match recover.confirm {
        Some(names) => json!(names),
        None => {
            let names = typed("type their names, with commas, to state that they are powered off: ")?;
            json!(names.split(',').map(str::trim).collect::<Vec<_>>())
        }
    };
    let done = cluster.node(Method::POST, path, Some(&body)).await?;
    let generation = done["generation"].as_u64().unwrap_or(0);
    leads(cluster, generation).await?;
    if scope.json {
        output::json(&done);
    } else {
        let node = output::cell(&done, "node");
        output::line(&format!(
            "{node} is the only node of generation {generation}; `elpis cluster status` says when the database is open; \
             let others in with: elpis cluster add-node"
        ));
    }
    Ok(())
}

/// Waits until the node has started as the only one.
async fn leads(cluster: &Cluster, generation: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        let seen = cluster.node(Method::GET, "/v1/status", None).await;
        if let Ok(seen) = &seen
            && seen["generation"].as_u64() == Some(generation)
            && seen["master"].is_string()
        {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < STARTS,
            "the order is written, but the node does not lead after {} s: see whether its node agent was started again, \
             and its log",
            STARTS.as_secs()
        );
        sleep(LOOK).await;
    }
}

/// What a person types; a script gives it as an option.
fn typed(question: &str) -> Result<String> {
    let mut input = std::io::stdin().lock();
    ensure!(
        std::io::stdin().is_terminal(),
        "nothing was changed: confirm with --confirm and the names, or type them in a terminal"
    );
    output::print(question);
    let mut line = String::new();
    if input.by_ref().take(TYPED).read_line(&mut line)? == 0 {
        bail!("nothing was changed");
    }
    Ok(line.trim().to_owned())
}
