//! What is broken, worst first.

use super::layout::{Live, View, can_lose};
use super::words::value;
use super::{Oops, mark, mark_as, when};
use crate::app::App;
use axum::extract::State;
use axum::response::Response;
use elpis_monitor::{Counts, Shown};
use elpis_store::{GroupRow, ModuleRow, Overview};
use maud::{Markup, html};
use std::sync::Arc;

/// Problems shown at once.
const PROBLEMS: u32 = 50;

pub(crate) async fn show(State(app): State<Arc<App>>, view: View) -> Result<Response, Oops> {
    let overview = app.db.store()?.overview(view.now, PROBLEMS).await?;
    Ok(view.show("Overview", "Overview", &Live::Refresh(5), &body(&view, &overview)))
}

fn body(view: &View, overview: &Overview) -> Markup {
    let n = &overview.modules;
    html! {
        div.head { h1 { (headline(n)) } span.sub { (agents(overview)) } }
        (warnings(view))
        div.cols {
            div.stack {
                section.panel {
                    header { h2 { "Broken now, worst first" } @if !overview.problems.is_empty() { span.muted { (count_of(overview)) } } }
                    (problems(view.now, n, &overview.problems))
                }
            }
            div.stack {
                section.panel { header { h2 { "Survival" } span.end { a href="/cluster" { "Cluster" } } } div.pad { (survival(view)) } }
                section.panel { header { h2 { "Modules" } span.end.muted { (n.total()) } } div.pad { (share(n)) } }
                section.panel { header { h2 { "Groups" } } (groups(&overview.groups)) }
            }
        }
    }
}

/// One sentence that says how it stands.
fn headline(n: &Counts) -> String {
    let many = |n: i64, one: &str| if n == 1 { format!("1 {one} is") } else { format!("{n} {one}s are") };
    match (n.critical, n.warning, n.unknown, n.total()) {
        (_, _, _, 0) => "Nothing is monitored yet".to_owned(),
        (0, 0, 0, _) => "Everything is normal".to_owned(),
        (0, 0, unknown, _) => format!("{} silent", many(unknown, "module")),
        (0, warning, _, _) => format!("{} in warning", many(warning, "module")),
        (critical, _, _, _) => format!("{} critical", many(critical, "module")),
    }
}

fn agents(overview: &Overview) -> String {
    let all: u32 = overview.agents.values().sum();
    let bad: u32 =
        overview.agents.iter().filter(|(shown, _)| **shown >= Shown::Unknown).map(|(_, n)| n).sum();
    match (all, bad) {
        (0, _) => "no agents".to_owned(),
        (1, 0) => "on 1 agent".to_owned(),
        (all, 0) => format!("on all {all} agents"),
        (all, bad) => format!("{bad} of {all} agents affected"),
    }
}

fn count_of(overview: &Overview) -> String {
    let n = &overview.modules;
    let all = n.critical + n.warning + n.unknown;
    let shown = i64::try_from(overview.problems.len()).unwrap_or(i64::MAX);
    if shown < all { format!("{shown} of {all}") } else { format!("{shown}") }
}

fn warnings(view: &View) -> Markup {
    let list = view.cluster.as_ref().map_or(&[][..], |status| status.warnings.as_slice());
    html! { @if !list.is_empty() { ul.note { @for text in list.iter().take(8) { li { (text) } } } } }
}

fn problems(now: i64, n: &Counts, list: &[ModuleRow]) -> Markup {
    if list.is_empty() {
        return html! {
            @if n.total() == 0 {
                div.empty { strong { "No modules yet" } "Send an agent file, or add a check: " code { "elpis check add \"ping 10.0.0.1\"" } }
            } @else {
                div.empty { strong { (mark_as("normal", "Nothing is broken")) } "All modules that have data are within their limits." }
            }
        };
    }
    html! {
        div.scroll { table {
            thead { tr { th { "State" } th { "Module" } th { "Agent" } th.num { "Value" } th.num { "For" } th.num { "Last seen" } } }
            tbody { @for row in list { tr {
                td { (mark(row.state.status.word())) }
                td.name { a href={"/modules/" (row.module.id)} title=(row.module.name) { (row.module.name) } }
                td.name { a href={"/agents/" (row.module.agent)} title=(row.agent) { (row.agent_alias) } }
                td.num.value title=(super::short(&row.state.data, 300)) { (value(&row.module, &row.state)) }
                td.num { (when(now, row.state.last_status_change)) }
                td.num.muted { (when(now, row.state.utimestamp)) }
            } } }
        } }
    }
}

/// How many nodes may die, and why not more.
fn survival(view: &View) -> Markup {
    let Some(status) = &view.cluster else {
        return html! { (mark_as("unknown", "The node agent does not answer")) p.muted { "Monitoring may go on; its state is not known here." } };
    };
    let state = match (status.master.is_none(), status.can_lose) {
        (true, _) => "critical",
        (_, 0) => "warning",
        _ => "normal",
    };
    let up = status.nodes.iter().filter(|node| node.state == "up").count();
    html! {
        p { (mark_as(state, &can_lose(status.can_lose))) }
        @if !status.reason.is_empty() { p.muted { (status.reason) } }
        dl.facts {
            dt { "Nodes up" } dd { (up) " of " (status.nodes.len()) }
            dt { "Master" } dd { (status.master.as_deref().unwrap_or("none")) }
            dt { "Work owned" } dd { (status.shards.owned) " of " (status.shards.total) " shards" }
        }
    }
}

/// How many modules are in a state.
type Count = fn(&Counts) -> i64;

const STATES: [(&str, Count); 5] = [
    ("critical", |n| n.critical),
    ("warning", |n| n.warning),
    ("unknown", |n| n.unknown),
    ("normal", |n| n.normal),
    ("not_init", |n| n.not_init),
];

/// A bar of all modules by state, with its numbers.
fn share(n: &Counts) -> Markup {
    let total = n.total().max(1) as f64;
    let mut at = 0.0;
    let parts: Vec<(&str, i64, f64, f64)> = STATES
        .iter()
        .map(|(word, of)| {
            let wide = of(n).max(0) as f64 / total * 100.0;
            at += wide;
            (*word, of(n), at - wide, wide)
        })
        .collect();
    html! {
        svg.share viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            @for (word, _, from, wide) in &parts { rect class=(word) x=(from) width=(wide) y="0" height="8" {} }
        }
        div.legend { @for (word, n, _, _) in &parts {
            span.zero[*n == 0] { (mark(word)) } span.num.zero[*n == 0] { (n) }
        } }
    }
}

fn groups(list: &[GroupRow]) -> Markup {
    html! {
        @if list.is_empty() { div.empty { "No group has an agent." } }
        @else { table { tbody { @for group in list.iter().take(20) { tr {
            td { (mark(group.shown.word())) }
            td.name { a href={"/agents?group=" (group.id)} { @if group.name.is_empty() { "group " (group.id) } @else { (group.name) } } }
            td.num.muted { (group.agents) @if group.agents == 1 { " agent" } @else { " agents" } }
        } } } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_says_the_worst() {
        let n = |critical, warning, unknown, normal| Counts {
            critical,
            warning,
            unknown,
            normal,
            ..Counts::default()
        };
        for (counts, text) in [
            (n(0, 0, 0, 0), "Nothing is monitored yet"),
            (n(0, 0, 0, 5), "Everything is normal"),
            (n(0, 0, 1, 5), "1 module is silent"),
            (n(0, 2, 1, 5), "2 modules are in warning"),
            (n(3, 2, 1, 5), "3 modules are critical"),
        ] {
            assert_eq!(headline(&counts), text);
        }
    }
}
