//! `elpis database adopt`: an operator gives nodes up that never come back.

use super::status;
use crate::cli::{Adopt, Scope};
use crate::find::Cluster;
use crate::output;
use anyhow::{Result, bail, ensure};
use elpis_watch::Method;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Read};

/// Longest line that is read as a confirmation.
const TYPED: u64 = 4096;

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

/// What a person types; a script gives it as an option.
fn typed(question: &str) -> Result<String> {
    let mut input = std::io::stdin().lock();
    ensure!(
        std::io::stdin().is_terminal(),
        "nothing was changed: confirm with --confirm NAME, or type it in a terminal"
    );
    output::print(question);
    let mut line = String::new();
    if input.by_ref().take(TYPED).read_line(&mut line)? == 0 {
        bail!("nothing was changed");
    }
    Ok(line.trim().to_owned())
}
