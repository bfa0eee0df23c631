//! `elpis support-bundle`: one file with what somebody needs who was not there, and with no secret in it.
//!
//! It is made also when nodes, the database or the whole cluster are down: what does not answer is named in it.

mod archive;
mod machine;
mod nodes;
mod redact;

use crate::cli::{Scope, SupportBundle};
use crate::find::Cluster;
use crate::output;
use anyhow::{Context, Result};
use archive::{Archive, Done};
use jiff::Timestamp;
use redact::Redactor;
use serde_json::json;
use std::path::{Path, PathBuf};

const ABOUT: &str = "\
Support bundle of Elpis. Nothing in it is a password, a key or a token of the cluster: files that hold such are left out,
and where one of them turns up in a log it is replaced by [removed]. Names of machines, nodes and agents, addresses and
sizes are in it: look through it before you give it away.

machine/   kernel, processor, memory, disks, clock sources of this machine
cluster/   the run ledger; settings of a development cluster and its database server
nodes/     each node of this machine: status, metrics, log levels, database facts, processes, counts of its spool, logs
";

/// Makes the file and says what is in it.
pub(crate) async fn make(scope: &Scope, options: &SupportBundle) -> Result<()> {
    let (cluster, absent) = match Cluster::find(scope) {
        Ok(cluster) => (Some(cluster), None),
        Err(error) if scope.dir.is_some() => return Err(error),
        Err(error) => (None, Some(format!("the cluster: {error:#}"))),
    };
    let now = Timestamp::now();
    let name = format!("elpis-support-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let out = options.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let layout = cluster.as_ref().and_then(Cluster::layout);
    let redactor = layout.map_or_else(Redactor::default, |layout| Redactor::of_folder(&layout.dir));
    let mut archive = Archive::create(&out, &name, now.as_second(), redactor)?;
    let folders: Vec<PathBuf> = layout.map(|layout| layout.dir.clone()).into_iter().collect();
    archive.json("version.json", &version(now))?;
    machine::add(&mut archive, &folders)?;
    if let Some(cluster) = &cluster {
        nodes::add(&mut archive, cluster, u64::from(options.log_mib) << 20).await?;
    }
    if let Some(absent) = absent {
        archive.missing(absent);
    }
    let done = archive.finish(ABOUT).with_context(|| format!("cannot write {}", out.display()))?;
    if scope.json {
        output::json(&as_json(&out, &done));
    } else {
        output::print(&as_text(&out, &done));
    }
    Ok(())
}

fn version(now: Timestamp) -> serde_json::Value {
    json!({
        "program": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "architecture": std::env::consts::ARCH,
        "made": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "made_unix_s": now.as_second(),
    })
}

fn as_json(out: &Path, done: &Done) -> serde_json::Value {
    let files: Vec<_> =
        done.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect();
    json!({ "path": out, "bytes": done.bytes, "files": files, "missing": done.missing })
}

fn as_text(out: &Path, done: &Done) -> String {
    let rows: Vec<Vec<String>> =
        done.files.iter().map(|(name, bytes)| vec![bytes.to_string(), output::safe(name)]).collect();
    let mut text = output::table(&["bytes", "file"], &rows, "nothing");
    for what in &done.missing {
        text.push_str(&format!("not in it: {}\n", output::safe(what)));
    }
    text.push_str(&format!(
        "\n{} ({} bytes, {} files) is written. It holds no passwords, keys or tokens; names and addresses it does: \
         look through it before you give it away.\n",
        out.display(),
        done.bytes,
        done.files.len()
    ));
    text
}
