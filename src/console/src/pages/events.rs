//! What happened, newest first.

use super::layout::{Live, View};
use super::{Oops, mark_as, time_as, when};
use crate::api;
use crate::app::App;
use axum::extract::{Query, State};
use axum::response::Response;
use elpis_store::{EventFilter, EventRow};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

const PAGE: u32 = 100;

#[derive(Deserialize)]
pub(crate) struct Ask {
    agent: Option<String>,
    before: Option<u64>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Query(ask): Query<Ask>,
    view: View,
) -> Result<Response, Oops> {
    let agent = match ask.agent.as_deref().filter(|key| !key.is_empty()) {
        Some(key) => Some(api::agent_by(&app, key).await?.agent),
        None => None,
    };
    let filter = EventFilter {
        agent: agent.as_ref().map(|agent| agent.id),
        before: ask.before,
        limit: PAGE + 1,
        ..EventFilter::default()
    };
    let rows = app.db.store()?.events(&filter).await?;
    let more = rows.len() > PAGE as usize;
    let rows = &rows[..rows.len().min(PAGE as usize)];
    let older = rows.last().filter(|_| more).map(|last| {
        let agent = agent.as_ref().map_or_else(String::new, |agent| format!("&agent={}", agent.id));
        format!("/events?before={}{agent}", last.id)
    });
    let body = html! {
        div.head {
            h1 { "Events" @if let Some(agent) = &agent { " of " (agent.alias) } }
            @if agent.is_some() { a href="/events" { "of all agents" } }
            @if ask.before.is_some() { a.end href="/events" { "Newest" } }
        }
        section.panel {
            @if rows.is_empty() { div.empty { strong { "No events" } "Changes of state, new agents and bad files are recorded here." } }
            @else { (table(view.now, rows)) }
            @if let Some(older) = older { nav.pager aria-label="More events" { a.button href=(older) rel="next" { "Older" } } }
        }
    };
    // A page of the past does not move.
    let live = Live::Refresh(if ask.before.is_some() { 0 } else { 5 });
    Ok(view.show("Events", "Events", &live, &body))
}

/// Shape and colour of a severity.
fn severity(row: &EventRow) -> Markup {
    match row.severity {
        4 | 6 => mark_as("critical", "critical"),
        3 => mark_as("warning", "warning"),
        2 => mark_as("normal", "normal"),
        5 => mark_as("unknown", "minor"),
        _ => mark_as("not_init", "notice"),
    }
}

fn table(now: i64, rows: &[EventRow]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "Severity" } th { "Event" } th { "Agent" } th { "Module" } th { "Time (UTC)" } th.num { "Ago" } th { "" } } }
            tbody { @for row in rows { tr {
                td { (severity(row)) }
                td.text { (super::short(&row.text, 400)) }
                td.name { @if row.agent.0 > 0 && !row.agent_alias.is_empty() { a href={"/agents/" (row.agent)} { (row.agent_alias) } } }
                td.name { @if row.module.0 > 0 && !row.module_name.is_empty() { a href={"/modules/" (row.module)} title=(row.module_name) { (row.module_name) } } }
                td.nowrap { (time_as(row.utimestamp, "%Y-%m-%d %H:%M:%S")) }
                td.num.muted { (when(now, row.utimestamp)) }
                td.nowrap.muted { @match row.status { 1 => "validated", 2 => "in process", _ => "" } }
            } } }
        } }
    }
}

/// A few events beside something else.
pub(crate) fn brief(now: i64, rows: &[EventRow]) -> Markup {
    html! {
        @if rows.is_empty() { div.empty { "None." } }
        @else { table { tbody { @for row in rows { tr {
            td { (severity(row)) div { (super::short(&row.text, 160)) } }
            td.num.muted { (when(now, row.utimestamp)) }
        } } } } }
    }
}
