//! `GET /healthz` and `/metrics`: what collectors and load balancers ask a node for.

use super::super::sock::No;
use super::super::{Agent, locked, timing};
use super::{disk, update};
use crate::types::boot_ms;
use hyper::StatusCode;
use std::fmt::Write;

/// `GET /healthz`: this node is a member and knows a master.
pub(in crate::agent) fn health(agent: &Agent) -> Result<String, No> {
    let sick = |why: &str| No(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    let member = agent.member().ok_or_else(|| agent.no_member())?;
    let view = member.node.raft_view();
    if let Some(why) = &view.failed {
        return Err(sick(&format!("Raft stopped: {why}")));
    }
    if view.leader.is_none() {
        return Err(sick("no master"));
    }
    if member.publish().until_boot_ms <= boot_ms() {
        return Err(sick("this node holds no lease"));
    }
    Ok("ok\n".to_owned())
}

/// `GET /metrics`: the text format of collectors. Without a call to other nodes: a collector asks every node.
pub(in crate::agent) fn metrics(agent: &Agent) -> String {
    let mut text = String::new();
    let mut line = |name: &str, labels: &str, value: i64| {
        let _ = writeln!(text, "elpis_node_{name}{labels} {value}");
    };
    {
        let registry = locked(&agent.registry);
        for (role, state) in registry.services(boot_ms()) {
            line("service_up", &format!("{{service=\"{role}\"}}"), i64::from(state == "up"));
        }
        for (role, incarnation) in registry.incarnations() {
            let labels = format!("{{service=\"{}\"}}", role.as_str());
            line("service_incarnation", &labels, i64::try_from(incarnation).unwrap_or(i64::MAX));
        }
    }
    let Some(member) = agent.member() else {
        line("member", "", 0);
        return text;
    };
    let (view, state) = (member.node.raft_view(), member.state());
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    line("member", "", 1);
    line("leads", "", i64::from(view.is_leader));
    line("term", "", number(view.term));
    line("applied_index", "", number(view.applied_index));
    line("lease_ms_left", "", (member.publish().until_boot_ms - boot_ms()).max(0));
    line("session", "", number(state.nodes.get(&member.id()).map_or(0, |node| node.session)));
    line("shards_owned", "", i64::try_from(state.owned(member.id())).unwrap_or(i64::MAX));
    let margins = timing::margins(agent);
    for (what, ms) in [
        ("stall_max", Some(margins.stall_max_ms)),
        ("stall_p999", Some(margins.stall_p999_ms)),
        ("sync_p99", margins.sync_p99_ms),
        ("greet_p90", margins.greet_p90_ms),
        ("trip_p99", margins.trip_p99_ms),
    ] {
        if let Some(ms) = ms {
            line(&format!("margin_{what}_ms"), "", i64::from(ms));
        }
    }
    for (part, profile) in
        [("wanted", state.profile.wanted), ("claim", state.profile.claim), ("runs", member.node.patience())]
    {
        line("profile", &format!("{{part=\"{part}\",profile=\"{profile}\"}}"), 1);
    }
    if let Some(update) = update::line(&state, None) {
        line("update", &format!("{{version=\"{}\",state=\"{}\"}}", update.version, update.state), 1);
    }
    line("moves", "", i64::try_from(state.moves().count()).unwrap_or(i64::MAX));
    if let Some(told) = member.desk.told() {
        for (name, labels, value) in disk::figures(&state, &told.disks) {
            line(name, &labels, value);
        }
        let (local, memory) = (told.report.local, told.report.memory);
        line("database_up", "", i64::from(local.up));
        line("database_leads", "", i64::from(memory.leading.is_some()));
        line("database_acknowledges", "", i64::from(local.acks && local.connected));
        line("database_position", "", number(local.received()));
        line(
            "database_applied",
            "",
            number(local.applied_seq.max(if local.source.is_none() { local.binlog_seq } else { 0 })),
        );
    }
    line("watch_streams", "", i64::try_from(member.lease.receiver_count()).unwrap_or(i64::MAX));
    text
}
