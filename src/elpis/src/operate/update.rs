//! `elpis update …`: a newer version for all nodes, through node.sock.

use super::cluster::said;
use crate::cli::{Scope, Update};
use crate::find::Cluster;
use crate::output;
use anyhow::{Context, Result, bail};
use elpis_watch::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// For all of an image.
const UPLOAD: Duration = Duration::from_secs(3600);

pub(super) async fn order(cluster: &Cluster, scope: &Scope, order: Option<Update>) -> Result<()> {
    match order {
        None => status(cluster, scope).await,
        Some(Update::Take { image }) => take(cluster, scope, &image).await,
        Some(Update::Plan { with_pause }) => {
            let body = json!({ "dry": true, "with_pause": with_pause });
            let plan = cluster.node(Method::POST, "/v1/update/start", Some(&body)).await?;
            said(scope, &plan, &plan_text(&plan));
            Ok(())
        }
        Some(Update::Start { with_pause, watch }) => {
            let body = json!({ "with_pause": with_pause, "watch_s": watch });
            let plan = cluster.node(Method::POST, "/v1/update/start", Some(&body)).await?;
            said(scope, &plan, &format!("{}\nbegun; `elpis update` says how far it is", plan_text(&plan)));
            Ok(())
        }
        Some(Update::Stop) => {
            let done = cluster.node(Method::POST, "/v1/update/stop", Some(&json!({}))).await?;
            said(
                scope,
                &done,
                "stopped: nodes that are done keep the new version, the others the old one; one that had written the new \
                 version already starts it with its next restart, on trial",
            );
            Ok(())
        }
    }
}

async fn status(cluster: &Cluster, scope: &Scope) -> Result<()> {
    let seen = cluster.node(Method::GET, "/v1/status", None).await?;
    let nodes = seen["nodes"].as_array().cloned().unwrap_or_default();
    if scope.json {
        let version = |node: &Value| json!({ "name": node["name"], "program": node["program"], "image": node["image"] });
        output::json(
            &json!({ "update": seen["update"], "nodes": nodes.iter().map(version).collect::<Vec<_>>() }),
        );
        return Ok(());
    }
    output::print(&text(&seen));
    Ok(())
}

/// PURE: how far it is, for people.
fn text(seen: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for node in seen["nodes"].as_array().into_iter().flatten() {
        let image = word(&node["image"]);
        let image = if image.is_empty() { image } else { format!(", has the image of {image}") };
        text.push_str(&format!("{:<16} {}{image}\n", word(&node["name"]), word(&node["program"])));
    }
    let update = &seen["update"];
    if update.is_null() {
        return text + "there was no update yet\n";
    }
    text.push_str(&format!("update to {}: {}\n", word(&update["version"]), word(&update["state"])));
    if let Some(why) = update["why"].as_str() {
        text.push_str(&format!("  {why}\n"));
    }
    for node in update["nodes"].as_array().into_iter().flatten() {
        let (name, from, now) = (word(&node["name"]), word(&node["from"]), word(&node["text"]));
        text.push_str(&format!("  {name:<16} from {from}: {now}\n"));
    }
    text
}

/// PURE: what would be done.
fn plan_text(plan: &Value) -> String {
    let list = |name: &str| -> Vec<String> {
        let all = plan[name].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (version, minutes) =
        (plan["version"].as_str().unwrap_or("?"), plan["seconds"].as_u64().unwrap_or(0) / 60);
    let mut text = format!("version {version}: {}, about {minutes} minutes", list("nodes").join(", "));
    for reason in list("against") {
        text.push_str(&format!("\nnot now: {reason}"));
    }
    text
}

async fn take(cluster: &Cluster, scope: &Scope, image: &str) -> Result<()> {
    let mut why = None;
    let far = ["http://", "https://"].iter().any(|scheme| image.starts_with(scheme));
    for place in cluster.places()? {
        let (socket, path) = (&place.node_socket, "/v1/update/image");
        let done = if far {
            let body = elpis_console::fetch(image).await.map_err(anyhow::Error::msg)?;
            elpis_watch::upload::<Value, _>(socket, path, body, UPLOAD).await
        } else {
            let file = tokio::fs::File::open(image).await;
            let file = file.with_context(|| format!("cannot read {image}"))?;
            elpis_watch::upload::<Value, _>(socket, path, elpis_watch::file_body(file), UPLOAD).await
        };
        match done {
            Ok(taken) => {
                let version = taken["version"].as_str().unwrap_or("?");
                said(scope, &taken, &format!("version {version} is on this node; next: elpis update start"));
                return Ok(());
            }
            // The next node may be there.
            Err(error @ elpis_watch::LinkError::Connect { .. }) => why = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match why {
        Some(why) => Err(why.into()),
        None => bail!("there is no node on this machine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_how_far_it_is_and_what_would_be_done() {
        let seen = json!({
            "nodes": [{ "name": "n1", "program": "1", "image": "2" }, { "name": "n2", "program": "2" }],
            "update": { "version": "2", "state": "stopped", "why": "no space",
                "nodes": [{ "name": "n1", "from": "1", "text": "waits" }] },
        });
        let shown = text(&seen);
        for part in [
            "n1               1, has the image of 2\n",
            "n2               2\n",
            "update to 2: stopped\n  no space\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(text(&json!({})).contains("no update yet"));
        let plan =
            json!({ "version": "2", "nodes": ["n2", "n1"], "seconds": 360, "against": ["n2 is down"] });
        assert_eq!(plan_text(&plan), "version 2: n2, n1, about 6 minutes\nnot now: n2 is down");
    }
}
