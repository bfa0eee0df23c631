//! All agents, and one.

use super::layout::{Live, View};
use super::words::value;
use super::{Oops, encoded, mark, when};
use crate::api;
use crate::app::App;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use elpis_monitor::GroupId;
use elpis_store::{AgentFilter, AgentRow, EventFilter, Group, ModuleFilter, ModuleRow};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

const PAGE: u32 = 100;
/// Modules of one agent shown.
const MODULES: u32 = 2_000;

#[derive(Deserialize, Default)]
pub(crate) struct Ask {
    q: Option<String>,
    group: Option<u32>,
    page: Option<u32>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Query(ask): Query<Ask>,
    view: View,
) -> Result<Response, Oops> {
    let store = app.db.store()?;
    let page = ask.page.unwrap_or(0).min(10_000);
    let filter = AgentFilter {
        search: ask.q.as_deref().unwrap_or("").trim().chars().take(200).collect(),
        group: ask.group.filter(|id| *id > 0).map(GroupId),
        limit: PAGE + 1,
        offset: page * PAGE,
    };
    let (rows, groups) = tokio::try_join!(store.agents(&filter, view.now), store.groups())?;
    Ok(view.show("Agents", "Agents", &Live::Refresh(5), &list_body(&view, &filter, page, &rows, &groups)))
}

fn list_body(view: &View, filter: &AgentFilter, page: u32, rows: &[AgentRow], groups: &[Group]) -> Markup {
    let more = rows.len() > PAGE as usize;
    let rows = &rows[..rows.len().min(PAGE as usize)];
    let group = filter.group.and_then(|id| groups.iter().find(|group| group.id == id));
    let way = |page: u32| {
        let group = filter.group.map_or(0, |id| id.0);
        format!("/agents?q={}&group={group}&page={page}", encoded(&filter.search))
    };
    html! {
        div.head {
            h1 { "Agents" @if let Some(group) = group { " in " (group.name) } }
            @if filter.group.is_some() { a href="/agents" { "all groups" } }
            form.tools.end method="get" action="/agents" role="search" {
                @if let Some(id) = filter.group { input type="hidden" name="group" value=(id); }
                input type="search" name="q" value=(filter.search) placeholder="Name or address" aria-label="Search agents";
                button.button { "Search" }
            }
        }
        section.panel {
            @if rows.is_empty() {
                @if filter.search.is_empty() && filter.group.is_none() && page == 0 {
                    div.empty { strong { "No agents yet" } "An agent appears with its first file, or with its first check: " code { "elpis check add \"ping 10.0.0.1\"" } }
                } @else { div.empty { strong { "No agent matches" } a href="/agents" { "Show all" } } }
            } @else {
                div.scroll { table {
                    thead { tr { th { "State" } th { "Agent" } th { "Address" } th { "Group" } th.num { "Modules" } th.num { "Critical" } th.num { "Warning" } th.num { "Unknown" } th.num { "Last contact" } } }
                    tbody { @for row in rows { tr {
                        td { (mark(row.shown.word())) }
                        td.name { a href={"/agents/" (row.agent.id)} title=(row.agent.name) { (row.agent.alias) } }
                        td.mono.nowrap { (super::short(&row.agent.address, 40)) }
                        td.nowrap { (row.group) }
                        td.num { (row.counts.total()) }
                        (count(row.counts.critical)) (count(row.counts.warning)) (count(row.counts.unknown))
                        td.num.muted { (when(view.now, row.agent.last_contact)) }
                    } } }
                } }
            }
            @if more || page > 0 {
                nav.pager aria-label="More agents" {
                    @if page > 0 { a.button href=(way(page - 1)) rel="prev" { "Before" } }
                    @if more { a.button href=(way(page + 1)) rel="next" { "More" } }
                }
            }
        }
    }
}

fn count(n: i64) -> Markup {
    html! { td.num { @if n == 0 { span.muted { "–" } } @else { strong { (n) } } } }
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    view: View,
) -> Result<Response, Oops> {
    let row = api::agent_by(&app, &key).await?;
    let store = app.db.store()?;
    let filter = ModuleFilter { agent: Some(row.agent.id), limit: MODULES, ..ModuleFilter::default() };
    let wanted = EventFilter { agent: Some(row.agent.id), limit: 10, ..EventFilter::default() };
    let (modules, events, systems) =
        tokio::try_join!(store.modules(&filter), store.events(&wanted), store.operating_systems())?;
    let system =
        systems.into_iter().find(|(id, _)| *id == row.agent.os).map_or_else(String::new, |(_, name)| name);
    let body = html! {
        nav.crumbs aria-label="Way" { a href="/agents" { "Agents" } }
        div.head { h1 { (row.agent.alias) } (mark(row.shown.word())) @if row.agent.disabled { span.muted { "disabled" } } }
        div.cols {
            section.panel { header { h2 { "Modules" } span.muted { (modules.len()) } } (module_table(view.now, &modules)) }
            div.stack {
                section.panel { header { h2 { "About" } } div.pad { (about(&row, &system, view.now)) } }
                section.panel {
                    header { h2 { "Latest events" } span.end { a href={"/events?agent=" (row.agent.id)} { "All" } } }
                    (super::events::brief(view.now, &events))
                }
            }
        }
    };
    Ok(view.show(&row.agent.alias, "Agents", &Live::Refresh(5), &body))
}

fn about(row: &AgentRow, system: &str, now: i64) -> Markup {
    let agent = &row.agent;
    html! {
        dl.facts {
            dt { "Name" } dd.mono { (agent.name) }
            dt { "Address" } dd.mono { @if agent.address.is_empty() { "–" } @else { (agent.address) } }
            dt { "Group" } dd { (row.group) }
            dt { "System" } dd { (system) " " (agent.os_version) }
            dt { "Interval" } dd { (agent.interval_s) " s" }
            dt { "Last contact" } dd { (when(now, agent.last_contact)) @if agent.last_contact > 0 { " ago" } }
            @if !agent.agent_version.is_empty() { dt { "Agent version" } dd { (agent.agent_version) } }
            @if !agent.comments.is_empty() { dt { "Comment" } dd { (super::short(&agent.comments, 500)) } }
        }
    }
}

/// Worst first, then by name.
fn module_table(now: i64, rows: &[ModuleRow]) -> Markup {
    let mut rows: Vec<&ModuleRow> = rows.iter().collect();
    rows.sort_by_key(|row| match row.state.status.word() {
        "critical" => 0,
        "warning" => 1,
        "unknown" => 2,
        _ => 3,
    });
    html! {
        @if rows.is_empty() { div.empty { strong { "No modules" } "They come with this agent's files, or as checks." } }
        @else { div.scroll { table {
            thead { tr { th { "State" } th { "Module" } th { "Kind" } th.num { "Value" } th.num { "Changed" } th.num { "Last seen" } th { "Run by" } } }
            tbody { @for row in rows { tr {
                td { (mark(row.state.status.word())) }
                td.name { a href={"/modules/" (row.module.id)} title=(row.module.name) { (row.module.name) } @if row.module.disabled { " " span.muted { "disabled" } } }
                td.nowrap.muted { (row.module.module_type.name()) }
                td.num.value title=(super::short(&row.state.data, 300)) { (value(&row.module, &row.state)) }
                td.num { (when(now, row.state.last_status_change)) }
                td.num.muted { (when(now, row.state.utimestamp)) }
                td.nowrap { (row.running_by) }
            } } }
        } } }
    }
}
