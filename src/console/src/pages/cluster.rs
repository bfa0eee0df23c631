//! The cluster, live: nodes, leases, shards, moves, failovers with their measured milliseconds. Needs no database.

mod database;

use super::layout::{Live, View, can_lose};
use super::{mark_as, time_as, when};
use crate::app::App;
use crate::status::{Event, Failover, Node, Profile, Status};
use axum::extract::State;
use axum::response::Response;
use elpis_watch::LinkError;
use maud::{Markup, html};
use std::sync::Arc;

/// Failovers and events shown.
const NEWEST: usize = 12;

pub(crate) async fn show(State(app): State<Arc<App>>, view: View) -> Response {
    let status = app.node.get().await;
    let part = body(status.as_deref(), app.link.cluster_now_ms());
    view.show("Cluster", "Cluster", &Live::Stream("/live/cluster"), &part)
}

/// The live part of the page.
pub(crate) fn body(status: Result<&Status, &LinkError>, now_ms: i64) -> Markup {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            return html! {
                div.head { h1 { "The node agent does not answer" } }
                p.note.bad { (error) }
            };
        }
    };
    html! {
        div.head {
            h1 { "Cluster " (status.cluster) }
            span.sub { "generation " (status.generation) " · term " (status.term) }
            a.end.button href="/cluster/update" { "Update" }
            a.button href="/cluster/orders" { "Orders" }
        }
        @if status.state == "given-up" { p.note.bad { (status.reason) } }
        @if !status.warnings.is_empty() { ul.note { @for text in status.warnings.iter().take(8) { li { (text) } } } }
        (tell(status))
        div.stack {
            section.panel { header { h2 { "Nodes" } span.muted { "asked: " (asked(status)) } } (nodes(status)) }
            section.panel {
                header { h2 { "Failovers" } span.muted { "time since the last sign of life of the lost node" } }
                (failovers(&status.failovers, now_ms / 1000))
            }
            @if status.database.primary.is_some() {
                section.panel {
                    header { h2 { "The database's primary" } span.muted { "time since the master began to replace it" } }
                    (database::moves(status, now_ms / 1000))
                }
            }
            section.panel { header { h2 { "What this node noted" } } (events(&status.events, now_ms / 1000)) }
        }
    }
}

fn asked(status: &Status) -> &str {
    status
        .nodes
        .iter()
        .find(|node| Some(node.id) == status.node)
        .map_or("this node", |node| node.name.as_str())
}

fn tell(status: &Status) -> Markup {
    let state = match (status.master.is_none(), status.can_lose) {
        (true, _) => "critical",
        (_, 0) => "warning",
        _ => "normal",
    };
    let owned = if status.shards.owned < status.shards.total { "critical" } else { "normal" };
    html! {
        dl.tell {
            div { dt { "Survival" } dd { (mark_as(state, &can_lose(status.can_lose))) small { (status.reason) } } }
            div { dt { "Master" } dd { (status.master.as_deref().unwrap_or("none")) small { (master(status)) } } }
            div { dt { "Work" } dd {
                (mark_as(owned, &format!("{} of {}", status.shards.owned, status.shards.total)))
                small { "shards owned under a live lease" @if status.moves > 0 { ", " (status.moves) " moving" } }
            } }
            @if let Some(profile) = &status.profile {
                div { dt { "Profile" } dd { (profile.wanted) small { (timing(profile)) } } }
            }
            div { dt { "Database" } dd {
                @if let Some(primary) = &status.database.primary { (primary) " " }
                (database::tell(&status.database))
            } }
            @for (address, node) in &status.addresses {
                div { dt { "Address" } dd { (address) small { "virtual, given to " @if node.is_empty() { "nobody yet" } @else { (node) } } } }
            }
        }
    }
}

/// How far a change of the profile is, or what the machines would fit.
fn timing(profile: &Profile) -> String {
    if !profile.settled {
        return match profile.waits.as_str() {
            "" => format!("a change is on; leases count by {}", profile.claim),
            waits => format!("a change is on; leases count by {}; waits for {waits}", profile.claim),
        };
    }
    match profile.fits.as_str() {
        "" => String::new(),
        fits => format!("what the machines leave fits {fits}"),
    }
}

/// What is to be said of the master, or of there being none.
fn master(status: &Status) -> String {
    let Some(line) = &status.majority else {
        let says = match status.master {
            Some(_) => "gives out leases and work",
            None => "an election is on, or most nodes are gone",
        };
        return says.to_owned();
    };
    let since = time_as(line.since / 1000, "%Y-%m-%d %H:%M:%S");
    let mut text = format!("{}; no master heard since {since}", line.text);
    if !line.command.is_empty() {
        text.push_str(&format!("; if they are lost for good, on {}: {}", line.on, line.command));
    }
    text
}

fn state(node: &Node) -> Markup {
    match node.state.as_str() {
        "up" => mark_as("normal", "up"),
        "draining" => mark_as("warning", "draining"),
        "joining" => mark_as("not_init", "joining"),
        "down" => mark_as("critical", "down"),
        other => mark_as("unknown", other),
    }
}

fn nodes(status: &Status) -> Markup {
    if status.nodes.is_empty() {
        return html! { div.empty { strong { "No nodes yet" } "This node is in no cluster: " code { "elpis cluster init" } " makes one, " code { "elpis join" } " enters one." } };
    }
    let managed = status.database.primary.is_some();
    html! {
        div.scroll { table {
            thead { tr { th { "State" } th { "Node" } th { "Part" } th { "Lease" } th { "Shards" } @if managed { th { "Database" } th { "Disk" } } th { "Servers" } th.num { "Session" } th { "Address" } } }
            tbody { @for node in &status.nodes { tr data-node=(node.name) {
                td { (state(node)) }
                td.name { strong { (node.name) } " " span.muted { "id " (node.id) } }
                td.nowrap { @if status.master.as_deref() == Some(&node.name) { strong { "master" } } @else if node.voter { "voter" } @else { "learner" } }
                td.nowrap { (lease(node)) }
                td.nowrap { (meter(node.shards, status.shards.total)) (node.shards) }
                @if managed { td.nowrap { (database::copy(node)) } td.nowrap { (database::disk(node)) } }
                td { (services(node)) @if !node.unfit.is_empty() { div.stale { "unfit: " (node.unfit) } } }
                td.num { (node.session) }
                td.mono.nowrap { (node.address) }
            } } }
        } }
    }
}

/// In tenths of a second: a number that changes with each look says nothing.
fn lease(node: &Node) -> Markup {
    match node.lease_ms_left {
        ms if ms > 0 => mark_as("normal", "held"),
        _ if node.state == "up" || node.state == "draining" => mark_as("critical", "none"),
        _ => html! { span.muted { "none" } },
    }
}

fn meter(n: u64, of: u64) -> Markup {
    let wide = n as f64 / of.max(1) as f64 * 100.0;
    html! { svg.share.meter viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" { rect.own x="0" y="0" width=(format!("{wide:.1}")) height="8" {} } }
}

fn services(node: &Node) -> Markup {
    let up = node.services.values().filter(|state| *state == "up").count();
    html! {
        @if node.services.is_empty() { span.muted { "not known" } }
        @else if up == node.services.len() { (mark_as("normal", &format!("all {up} up"))) }
        @else { div.services { @for (name, state) in &node.services {
            @let mark = match state.as_str() { "up" => "normal", "starting" => "not_init", "hung" => "warning", _ => "critical" };
            (mark_as(mark, &format!("{name} {state}")))
        } } }
    }
}

fn failovers(list: &[Failover], now: i64) -> Markup {
    if list.is_empty() {
        return html! { div.empty { strong { "No failover since this cluster began" } "When a node is lost, its course stands here in milliseconds." } };
    }
    let longest = list.iter().take(NEWEST).filter_map(end_ms).max().unwrap_or(0).max(3000);
    html! { ol.timeline { @for one in list.iter().take(NEWEST) { li data-lost=(one.node) {
        div.what {
            strong { (one.node) " lost" }
            span.muted { (when(now, one.at / 1000)) " ago, at " (time_as(one.at / 1000, "%Y-%m-%d %H:%M:%S")) }
            span { (one.moved) " shards moved" }
            @if let Some(n) = one.missed { span { (n) " slots missed" } }
            @if let Some(n) = one.recorded_twice { @if n > 0 { (mark_as("critical", &format!("{n} recorded twice"))) } @else { span { "0 recorded twice" } } }
            @if !one.reason.is_empty() { span.muted { (one.reason) } }
        }
        (course(one, longest))
    } } } }
}

fn end_ms(one: &Failover) -> Option<i64> {
    one.first_result_ms.or(one.reassigned_ms).or(Some(one.detected_ms))
}

/// Silence, decision, first result on one rail; all rails of the page have one scale.
fn course(one: &Failover, longest: i64) -> Markup {
    let x = |ms: i64| 6.0 + (ms.clamp(0, longest) as f64 / longest as f64 * 940.0).round();
    let stops: Vec<(i64, &str)> = [
        (Some(one.detected_ms), "detected"),
        (one.reassigned_ms, "reassigned"),
        (one.first_result_ms, "first result"),
    ]
    .into_iter()
    .filter_map(|(ms, what)| Some((ms?, what)))
    .collect();
    let say: Vec<String> = stops.iter().map(|(ms, what)| format!("{what} {ms} ms")).collect();
    let starts = std::iter::once(0).chain(stops.iter().map(|stop| stop.0));
    // Labels of stops that lie close together stand one after another.
    let mut free = 0.0_f64;
    let labels: Vec<f64> = stops
        .iter()
        .map(|(ms, what)| {
            let wide = 6.2 * (what.len() + ms.to_string().len() + 5) as f64;
            let at = (x(*ms) - wide / 2.0).clamp(free, (960.0 - wide).max(free));
            free = at + wide + 10.0;
            at
        })
        .collect();
    html! {
        svg viewBox="0 0 960 44" preserveAspectRatio="xMinYMid meet" role="img" aria-label=(say.join(", ")) {
            line.rail x1="6" x2="946" y1="14" y2="14" {}
            @for ((start, (end, _)), kind) in starts.zip(&stops).zip(["gone", "move", "wait"]) {
                line class=(kind) x1=(x(start)) x2=(x(*end)) y1="14" y2="14" {}
            }
            circle.dot cx="6" cy="14" r="4" {}
            @for ((ms, what), at) in stops.iter().zip(&labels) {
                circle.dot cx=(x(*ms)) cy="14" r="4" {}
                text x=(at) y="36" { (what) " " tspan.ms { (ms) " ms" } }
            }
        }
    }
}

fn events(list: &[Event], now: i64) -> Markup {
    if list.is_empty() {
        return html! { div.empty { "Nothing out of the ordinary." } };
    }
    html! { div.scroll { table { tbody { @for event in list.iter().take(NEWEST) { tr {
        td.nowrap.muted { (when(now, event.at_ms / 1000)) }
        td.nowrap { (event.role) }
        td.nowrap { (event.kind) }
        td.text { (super::short(&event.text, 400)) }
    } } } } } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Majority;

    #[test]
    fn a_lost_majority_is_said_with_the_way_out() {
        let mut status = Status { state: "member".into(), ..Status::default() };
        let said = |status: &Status| body(Ok(status), 0).into_string();
        assert!(said(&status).contains("an election is on"));
        status.majority = Some(Majority {
            text: "no majority: n<1> does not answer".into(),
            since: 1_000,
            on: "n2".into(),
            command: "elpis cluster recover --survivors n2".into(),
        });
        let page = said(&status);
        for words in ["n&lt;1&gt; does not answer", "on n2: elpis cluster recover --survivors n2"] {
            assert!(page.contains(words), "{words}: {page}");
        }
        status.state = "given-up".into();
        status.reason = "the cluster went on without this node".into();
        assert!(said(&status).contains("went on without this node"));
    }
}
