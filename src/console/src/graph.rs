//! PURE: samples of a graph, rebuilt from compressed rows, and the picture drawn from them.

use maud::{Markup, html};

/// Resolution factor; a graph has 50 times as many samples.
const RESOLUTION: i64 = 3;
/// A value older than this before the window is not carried into it.
const CARRY_S: i64 = 48 * 3600;

/// How rows become samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Least, mean and greatest of the rows; an empty sample takes the last known value.
    Numeric,
    /// Any 0 makes the sample 0.
    Boolean,
    /// As numeric, but an empty sample is 0: nothing is carried.
    Async,
    /// Number of stored changes.
    Changes,
}

/// One sample: from `at` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: i64,
    pub(crate) least: f64,
    pub(crate) mean: f64,
    pub(crate) greatest: f64,
}

impl Sample {
    fn flat(at: i64, value: f64) -> Sample {
        Sample { at, least: value, mean: value, greatest: value }
    }
}

/// Samples of `[from, to)`; empty without any row. `before` is the last row before `from`; after `now` there are none.
pub(crate) fn samples(
    shape: Shape,
    before: Option<(i64, f64)>,
    rows: &[(i64, f64)],
    (from, to): (i64, i64),
    now: i64,
) -> Vec<Sample> {
    samples_of(shape, before, rows, (from, to), now, 50 * RESOLUTION)
}

fn samples_of(
    shape: Shape,
    before: Option<(i64, f64)>,
    rows: &[(i64, f64)],
    (from, to): (i64, i64),
    now: i64,
    count: i64,
) -> Vec<Sample> {
    if (rows.is_empty() && before.is_none()) || to <= from {
        return Vec::new();
    }
    let width = ((to - from) / count).max(1);
    let mut known = before.filter(|(at, _)| *at >= from - CARRY_S).map_or(0.0, |(_, value)| value);
    let mut rest = &rows[rows.partition_point(|(at, _)| *at < from)..];
    let mut samples = Vec::new();
    for n in 0..count {
        let at = from + n * width;
        if at >= to || at > now {
            break;
        }
        let (here, after) = rest.split_at(rest.partition_point(|(time, _)| *time < at + width));
        rest = after;
        let empty = here.is_empty();
        let values = here.iter().map(|(_, value)| *value);
        samples.push(match shape {
            Shape::Changes => Sample::flat(at, values.count() as f64),
            Shape::Async if empty => Sample::flat(at, 0.0),
            Shape::Numeric | Shape::Boolean if empty => Sample::flat(at, known),
            Shape::Boolean => Sample::flat(at, if here.iter().any(|(_, v)| *v == 0.0) { 0.0 } else { 1.0 }),
            Shape::Numeric | Shape::Async => Sample {
                at,
                least: values.clone().fold(f64::INFINITY, f64::min),
                mean: values.clone().sum::<f64>() / here.len() as f64,
                greatest: values.fold(f64::NEG_INFINITY, f64::max),
            },
        });
        if let Some((_, last)) = here.last() {
            known = *last;
        }
    }
    samples
}

/// Spans in which the module was unknown, from its state events (time, type), ascending. Those before `from` say how the
/// window starts.
pub(crate) fn unknown_spans(events: &[(i64, String)], (from, to): (i64, i64)) -> Vec<(i64, i64)> {
    let mut spans = Vec::new();
    let mut since = None;
    for (at, kind) in events.iter().filter(|(at, _)| *at < to) {
        match (kind == "going_unknown", since) {
            (true, None) => since = Some(*at),
            (false, Some(begin)) => {
                since = None;
                spans.push((begin, *at));
            }
            _ => {}
        }
    }
    spans.extend(since.map(|begin| (begin, to)));
    spans.retain(|(_, end)| *end > from);
    spans.iter().map(|(begin, end)| ((*begin).max(from), *end)).collect()
}

/// What is drawn.
pub(crate) struct Picture<'a> {
    pub(crate) samples: &'a [Sample],
    pub(crate) span: (i64, i64),
    pub(crate) unknown: &'a [(i64, i64)],
    /// Range of warning and of critical values; an end may be infinite.
    pub(crate) warning: Option<(f64, f64)>,
    pub(crate) critical: Option<(f64, f64)>,
    /// Steps between 0 and 1, no band.
    pub(crate) boolean: bool,
    pub(crate) title: &'a str,
}

/// Values beyond are drawn at the end of the axis.
const FAR: f64 = 1e150;
const WIDE: f64 = 960.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 948.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 236.0;

impl Picture<'_> {
    /// Ends of the value axis, and the distance of its lines.
    fn scale(&self) -> (f64, f64, f64) {
        if self.boolean {
            return (-0.1, 1.1, 1.0);
        }
        let low = self.samples.iter().map(|s| s.least).fold(f64::INFINITY, f64::min);
        let high = self.samples.iter().map(|s| s.greatest).fold(f64::NEG_INFINITY, f64::max);
        if !low.is_finite() || !high.is_finite() {
            return (0.0, 1.0, 0.5);
        }
        // Far ends are held, so that their distance is a number too.
        let (low, high) = (low.clamp(-FAR, FAR), high.clamp(-FAR, FAR));
        // Zero belongs to it unless the values move far away from it.
        let low = if low > 0.0 && low < (high - low) * 3.0 { 0.0 } else { low };
        let room = (high - low).max(high.abs().max(low.abs()) * 0.02).max(1e-9);
        let step = round_step(room / 4.0);
        ((low / step).floor() * step, ((high + room * 0.04) / step).ceil() * step, step)
    }

    pub(crate) fn draw(&self) -> Markup {
        let (from, to) = self.span;
        let (low, high, step) = self.scale();
        let x = |at: i64| LEFT + (at - from) as f64 / ((to - from).max(1)) as f64 * (RIGHT - LEFT);
        let y = |value: f64| BOTTOM - (value.clamp(low, high) - low) / (high - low) * (BOTTOM - TOP);
        let lines: Vec<f64> = match self.boolean {
            true => vec![0.0, 1.0],
            false => {
                (0..12).map(|n| low + f64::from(n) * step).take_while(|v| *v <= high + step * 0.01).collect()
            }
        };
        let width = self.samples.get(1).zip(self.samples.first()).map_or(1, |(b, a)| b.at - a.at);
        let steps = |value: fn(&Sample) -> f64| {
            let points = self.samples.iter().flat_map(|s| {
                let v = y(value(s));
                [(x(s.at), v), (x((s.at + width).min(to)), v)]
            });
            points.collect::<Vec<_>>()
        };
        let mut around = steps(|s| s.greatest);
        around.extend(steps(|s| s.least).into_iter().rev());
        let zone = |range: Option<(f64, f64)>| {
            let (a, b) = range?;
            let (top, bottom) = (y(b.min(high)).max(TOP), y(a.max(low)).min(BOTTOM));
            (bottom - top > 0.3).then_some((top, bottom - top))
        };
        let (every, format) = time_step(to - from);
        let times = (0..24).map(|n| (from.div_euclid(every) + 1 + n) * every).take_while(|at| *at < to);
        html! {
            svg viewBox={"0 0 " (WIDE) " 262"} role="img" aria-label=(self.title)
                data-from=(from) data-to=(to) data-left=(LEFT) data-right=(RIGHT) data-top=(TOP) data-bottom=(BOTTOM) {
                @for (kind, range) in [("zone-warning", self.warning), ("zone-critical", self.critical)] {
                    @if let Some((top, tall)) = zone(range) {
                        rect class=(kind) x=(LEFT) width=(RIGHT - LEFT) y=(px(top)) height=(px(tall)) {}
                    }
                }
                @for (a, b) in self.unknown {
                    rect class="gap" x=(px(x(*a))) width=(px((x(*b) - x(*a)).max(1.0))) y=(TOP) height=(BOTTOM - TOP) {}
                }
                @for line in &lines {
                    line class="grid" x1=(LEFT) x2=(RIGHT) y1=(px(y(*line))) y2=(px(y(*line))) {}
                    text x=(LEFT - 8.0) y=(px(y(*line) + 4.0)) text-anchor="end" { (number(*line)) }
                }
                @for at in times {
                    line class="grid" x1=(px(x(at))) x2=(px(x(at))) y1=(TOP) y2=(BOTTOM) {}
                    text x=(px(x(at))) y="254" text-anchor="middle" { (crate::pages::time_as(at, format)) }
                }
                line class="axis" x1=(LEFT) x2=(RIGHT) y1=(BOTTOM) y2=(BOTTOM) {}
                @if !self.boolean { polygon class="band" points=(points(&around)) {} }
                polyline class="curve" points=(points(&steps(|s| s.mean))) {}
            }
        }
    }
}

fn points(list: &[(f64, f64)]) -> String {
    list.iter().map(|(x, y)| format!("{},{}", px(*x), px(*y))).collect::<Vec<_>>().join(" ")
}

/// A tenth of a pixel is enough.
fn px(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The next of 1, 2, 2.5, 5 × 10^n.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(10.0 * power)
}

fn time_step(span: i64) -> (i64, &'static str) {
    [300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 2 * 86_400, 7 * 86_400]
        .into_iter()
        .find(|step| span / step <= 10)
        .map_or((30 * 86_400, "%d %b"), |step| (step, if step < 43_200 { "%H:%M" } else { "%d %b" }))
}

/// A number as people read it: few digits, large ones with a letter.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let (short, letter) = match size {
        s if s >= 1e15 => return format!("{value:.2e}"),
        s if s >= 1e12 => (value / 1e12, "T"),
        s if s >= 1e9 => (value / 1e9, "G"),
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match short.abs() {
        s if s >= 100.0 => 1,
        s if s >= 1.0 || s == 0.0 => 2,
        s if s >= 0.001 => 4,
        _ => 6,
    };
    let text = format!("{short:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let text = if text == "-0" { "0" } else { text };
    format!("{text}{letter}")
}

#[cfg(test)]
mod tests;
