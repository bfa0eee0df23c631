//! One module: its state, its graph with the values as a table, its limits, and a run at once.

use super::layout::{Live, View};
use super::words::value;
use super::{Oops, mark, time_as, when};
use crate::api;
use crate::app::App;
use crate::auth::{Confirm, redirect};
use crate::graph::{self, Picture, Sample, Shape, number};
use crate::refusal::Refused;
use crate::sessions::Person;
use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::response::Response;
use elpis_monitor::{Kind, Module, ModuleId, Threshold, Value};
use elpis_store::{EventFilter, EventRow, ModuleRow, Samples};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// Rows read for one graph; beyond, the end is missing and it says so.
const ROWS: u32 = 50_000;
/// State events read for the unknown overlay.
const STATE_EVENTS: u32 = 500;
const SPANS: [(i64, &str); 5] =
    [(3600, "1 h"), (6 * 3600, "6 h"), (86_400, "24 h"), (7 * 86_400, "7 d"), (30 * 86_400, "30 d")];
const LONGEST: i64 = 366 * 86_400;

#[derive(Deserialize)]
pub(crate) struct Ask {
    /// Seconds up to now.
    span: Option<i64>,
    from: Option<i64>,
    to: Option<i64>,
}

impl Ask {
    /// The window, and its length when it ends now.
    fn window(&self, now: i64) -> ((i64, i64), Option<i64>) {
        match (self.from, self.to) {
            (Some(from), Some(to))
                if 0 <= from && from < to && to - from <= LONGEST && to <= now + LONGEST =>
            {
                ((from, to), None)
            }
            _ => {
                let span = self.span.unwrap_or(6 * 3600).clamp(300, LONGEST);
                ((now - span, now), Some(span))
            }
        }
    }
}

fn module_id(text: &str) -> Result<ModuleId, Oops> {
    text.parse().map(ModuleId).map_err(|_| Refused::missing(format!("there is no module {text}")).into())
}

pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(ask): Query<Ask>,
    view: View,
) -> Result<Response, Oops> {
    let (store, id) = (app.db.store()?, module_id(&id)?);
    let row = store.module(id).await?.ok_or_else(|| Refused::missing(format!("there is no module {id}")))?;
    let (span, length) = ask.window(view.now);
    let wanted = EventFilter { module: Some(id), limit: 10, ..EventFilter::default() };
    let (samples, states, events) = tokio::try_join!(
        store.samples(&row.module, span.0, span.1, ROWS),
        store.state_events(id, span.1, STATE_EVENTS),
        store.events(&wanted),
    )?;
    let plot = Plot::new(&row.module, &samples, span, view.now, &states);
    let body = body(&view, &row, &plot, length, &events);
    let live = Live::Refresh(if length.is_some() { 5 } else { 0 });
    Ok(view.show(&row.module.name, "Agents", &live, &body))
}

fn body(view: &View, row: &ModuleRow, plot: &Plot, length: Option<i64>, events: &[EventRow]) -> Markup {
    let module = &row.module;
    html! {
        nav.crumbs aria-label="Way" { a href="/agents" { "Agents" } " / " a href={"/agents/" (module.agent)} { (row.agent_alias) } }
        div.head {
            h1 { (module.name) } (mark(row.state.status.word()))
            @if module.check.is_some() {
                form.end method="post" action={"/modules/" (module.id) "/run"} {
                    (view.csrf())
                    button.button disabled[!view.writable] title="Has this check run once, at once" { "Run now" }
                }
            }
        }
        @if !row.state.last_error.is_empty() { p.note { strong { "Last try failed. " } (row.state.last_error) } }
        dl.tell {
            div { dt { "Value" } dd { (value(module, &row.state)) } }
            div { dt { "In this state for" } dd { (when(view.now, row.state.last_status_change)) } }
            div { dt { "Last seen" } dd { (when(view.now, row.state.utimestamp)) @if row.state.utimestamp > 0 { " ago" } } }
            div { dt { "Run by" } dd { @if row.running_by.is_empty() { "–" } @else { (row.running_by) } } }
        }
        div.cols {
            section.panel {
                header { h2 { "Graph" } nav.spans.end aria-label="Window" { @for (seconds, label) in SPANS {
                    a href={"?span=" (seconds)} aria-current=[(length == Some(seconds)).then_some("true")] { (label) }
                } } }
                (plot.show(module))
            }
            div.stack {
                section.panel { header { h2 { "Settings" } } div.pad { (settings(row)) } }
                section.panel { header { h2 { "Latest events" } } (super::events::brief(view.now, events)) }
            }
        }
    }
}

/// What the graph shows.
struct Plot {
    samples: Vec<Sample>,
    span: (i64, i64),
    unknown: Vec<(i64, i64)>,
    shape: Shape,
    cut: bool,
}

impl Plot {
    fn new(module: &Module, read: &Samples, span: (i64, i64), now: i64, states: &[(i64, String)]) -> Plot {
        let shape = match module.module_type.kind() {
            Kind::Text => Shape::Changes,
            _ if module.module_type.is_async() => Shape::Async,
            Kind::Boolean => Shape::Boolean,
            _ => Shape::Numeric,
        };
        let plain = |(at, value): &(i64, Value)| {
            (
                *at,
                match value {
                    Value::Number(number) => *number,
                    Value::Text(_) => 1.0,
                },
            )
        };
        let rows: Vec<(i64, f64)> = read.rows.iter().map(plain).collect();
        let samples = graph::samples(shape, read.before.as_ref().map(plain), &rows, span, now);
        Plot { samples, span, unknown: graph::unknown_spans(states, span), shape, cut: read.cut }
    }

    fn show(&self, module: &Module) -> Markup {
        let (from, to) = self.span;
        if self.samples.is_empty() {
            return html! { div.empty { strong { "No data in this window" } "The first value draws the graph." } };
        }
        let numbers = self.shape == Shape::Numeric || self.shape == Shape::Async;
        let title = format!(
            "{} from {} to {} UTC",
            module.name,
            time_as(from, "%Y-%m-%d %H:%M"),
            time_as(to, "%Y-%m-%d %H:%M")
        );
        let picture = Picture {
            samples: &self.samples,
            span: self.span,
            unknown: &self.unknown,
            warning: range(&module.warning).filter(|_| numbers),
            critical: range(&module.critical).filter(|_| numbers),
            boolean: self.shape == Shape::Boolean,
            title: &title,
        };
        let key = |class: &str, label: &str| html! { span { i class=(class) {} (label) } };
        html! {
            figure.graph { (picture.draw()) div.read aria-hidden="true" {} }
            div.keys {
                @match self.shape {
                    Shape::Changes => (key("k-curve", "changes stored in a sample")),
                    Shape::Boolean => (key("k-curve", "1 good, 0 failed within the sample")),
                    _ => { (key("k-curve", "mean")) (key("k-band", "least to greatest")) }
                }
                @if picture.warning.is_some() { (key("k-warning", "warning")) }
                @if picture.critical.is_some() { (key("k-critical", "critical")) }
                @if !self.unknown.is_empty() { (key("k-gap", "unknown")) }
                span { (time_as(from, "%Y-%m-%d %H:%M")) " to " (time_as(to, "%Y-%m-%d %H:%M")) " UTC" }
                @if self.cut { span.stale { "too many values: the end of the window is missing; choose a shorter one" } }
            }
            details #value-table { summary { "Values as a table" } div.scroll { table #values {
                thead { tr { th { "From (UTC)" } th.num { "Least" } th.num { "Mean" } th.num { "Greatest" } } }
                tbody { @for sample in self.samples.iter().rev() { (sample_row(sample, &module.unit)) } }
            } } }
        }
    }
}

fn sample_row(sample: &Sample, unit: &str) -> Markup {
    let time = time_as(sample.at, "%Y-%m-%d %H:%M:%S");
    let mean = number(sample.mean);
    let text = match sample.least == sample.greatest {
        true => format!("{time}  {mean} {unit}"),
        false => format!("{time}  {mean} {unit} ({} to {})", number(sample.least), number(sample.greatest)),
    };
    html! {
        tr data-at=(sample.at) data-text=(text) {
            td { (time) } td.num { (number(sample.least)) } td.num { (mean) } td.num { (number(sample.greatest)) }
        }
    }
}

/// The range of a threshold as drawn; `None` = off, or not a plain range.
fn range(t: &Threshold) -> Option<(f64, f64)> {
    if t.inverse || t.percentage || t.min == t.max {
        return None;
    }
    Some((t.min, if t.max > t.min { t.max } else { f64::INFINITY }))
}

/// A threshold in words.
fn limits(t: &Threshold) -> String {
    let unit = if t.percentage { " %" } else { "" };
    let of = match (t.text.as_str().is_empty(), t.min == t.max) {
        (false, _) => format!("text matches {}", super::short(t.text.as_str(), 60)),
        (true, true) => return "off".to_owned(),
        (true, false) if t.max < t.min => format!("from {}{unit}", number(t.min)),
        (true, false) => format!("{} to {}{unit}", number(t.min), number(t.max)),
    };
    if t.inverse { format!("unless {of}") } else { of }
}

fn settings(row: &ModuleRow) -> Markup {
    let module = &row.module;
    html! {
        dl.facts {
            dt { "Kind" } dd { (module.module_type.name()) }
            @if let Some(check) = &module.check {
                dt { "Target" } dd.mono { (api::target(row)) }
                @if !check.oid.is_empty() { dt { "Object" } dd.mono { (check.oid) } }
                @if !check.send.is_empty() && check.oid.is_empty() { dt { "Sends" } dd.mono { (super::short(&check.send, 120)) } }
                @if !check.expect.is_empty() { dt { "Expects" } dd.mono { (super::short(&check.expect, 120)) } }
            }
            dt { "Interval" } dd { @if !module.cron.is_empty() { (module.cron) } @else if module.interval_s == 0 { "the agent's" } @else { (module.interval_s) " s" } }
            dt { "Warning" } dd { (limits(&module.warning)) }
            dt { "Critical" } dd { (limits(&module.critical)) }
            dt { "Last value" } dd { (super::short(&row.state.data, 500)) }
            @if !module.description.is_empty() { dt { "Description" } dd { (super::short(&module.description, 500)) } }
            dt { "Id" } dd { (module.id) }
        }
    }
}

pub(crate) async fn run(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Extension(person): Extension<Person>,
    Form(form): Form<Confirm>,
) -> Result<Response, Oops> {
    form.check(&person)?;
    let id = module_id(&id)?;
    api::run(&app, id).await?;
    tracing::info!(user = %person.name, module = id.0, "forced run");
    Ok(redirect(&format!("/modules/{id}")))
}
