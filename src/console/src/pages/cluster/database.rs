//! The database that the nodes run: who leads, who acknowledges, how far the copies are, and how the primary moved.

use super::NEWEST;
use crate::pages::{mark_as, time_as, when};
use crate::status::{Copy, Database, Disk, Moved, Node, Status, Waits};
use maud::{Markup, html};

/// What the head of the page says; one sentence that holds at 3 a.m.
pub(super) fn tell(database: &Database) -> Markup {
    if database.primary.is_none() {
        let ready = database.ready;
        return html! {
            (mark_as(if ready { "normal" } else { "warning" }, if ready { "ready" } else { "not ready" }))
            small { @if database.mode == "endpoint" { "one endpoint outside of the nodes" } @else { (database.mode) } ", epoch " (database.epoch) }
        };
    }
    if let Some(waits) = &database.waits {
        return html! { (mark_as("critical", "no primary")) small { (waits_for(waits)) } };
    }
    let set = database.ack_set.join(", ");
    let (mark, word, say) = match database.mode.as_str() {
        _ if database.failing_over => ("critical", "no primary", "the next one is being made".to_owned()),
        "sync" => ("normal", "safe", format!("every commit is also on one of {set}")),
        "waiting" => ("warning", "catching up", format!("{set} follow; not proved yet that they hold all")),
        _ => ("critical", "one copy", "its loss is a loss of data: add a node".to_owned()),
    };
    html! { (mark_as(mark, word)) small { (say) ", epoch " (database.epoch) } }
}

/// Who is waited for, what each copy has, and the way out.
fn waits_for(waits: &Waits) -> String {
    let mut text = waits.text.clone();
    if waits.since > 0 {
        text.push_str(&format!("; since {}", time_as(waits.since / 1000, "%Y-%m-%d %H:%M:%S")));
    }
    for one in &waits.positions {
        let lives = if one.lives { "lives" } else { "away" };
        text.push_str(&match one.position {
            Some(position) => {
                let heard = time_as(one.heard / 1000, "%H:%M:%S");
                format!("; {} ({lives}) has {position}, heard {heard}", one.node)
            }
            None => format!("; {} ({lives}): position not known", one.node),
        });
    }
    if !waits.command.is_empty() {
        text.push_str(&format!("; if they are lost for good: {}", waits.command));
    }
    text
}

/// A node's copy in its row.
pub(super) fn copy(node: &Node) -> Markup {
    let Some(Copy { main, lag_ms, in_s, works }) = &node.database else {
        return html! { span.muted { "none" } };
    };
    let lag =
        lag_ms.filter(|ms| *ms >= 1000).map(|ms| format!(", {} s behind", ms / 1000)).unwrap_or_default();
    match (main.as_str(), *in_s, *works) {
        ("primary", _, true) => mark_as("normal", "primary"),
        ("primary", ..) => mark_as("critical", "primary, closed"),
        ("replica", true, true) => mark_as("normal", &format!("acknowledges{lag}")),
        ("replica", true, false) => mark_as("critical", "does not acknowledge"),
        ("replica", ..) => mark_as("warning", &format!("follows{lag}")),
        ("joining", ..) => mark_as("not_init", "is being copied"),
        (other, ..) => html! { span.muted { (other) } },
    }
}

/// Room for it.
pub(super) fn disk(node: &Node) -> Markup {
    let Some(Disk { room, free_bytes, reserve_bytes, reserve_wanted_bytes, .. }) = &node.disk else {
        return html! { span.muted { "not known" } };
    };
    let free = match free_bytes {
        0..0x4000_0000 => format!("{} MiB free", free_bytes >> 20),
        _ => format!("{} GiB free", free_bytes >> 30),
    };
    let used = if reserve_bytes < reserve_wanted_bytes { ", reserve in use" } else { "" };
    match room.as_str() {
        "enough" => html! { (free) },
        "low" => mark_as("warning", &format!("low: {free}{used}")),
        short => mark_as("critical", &format!("{short}: {free}{used}")),
    }
}

/// How the primary moved.
pub(super) fn moves(status: &Status, now: i64) -> Markup {
    let row = |one: &Moved| {
        html! { tr {
            td.nowrap.muted { (when(now, one.at / 1000)) }
            td.nowrap { (time_as(one.at / 1000, "%Y-%m-%d %H:%M:%S")) }
            td.nowrap { (one.from) @if one.from == one.to { " again" } @else { " → " strong { (one.to) } } }
            td.num { (one.epoch) }
            td.num { (one.promoted_ms) " ms" }
            td.num { (one.opened_ms) " ms" }
            td.text { (one.reason) }
        } }
    };
    html! {
        @if status.database.moved.is_empty() {
            div.empty { strong { "The primary has not moved" } "When it does, its course stands here in milliseconds. By hand: " code { "elpis database switchover NODE" } "." }
        } @else {
            div.scroll { table {
                thead { tr { th {} th { "At" } th { "Primary" } th.num { "Epoch" } th.num { "Agreed" } th.num { "Open" } th { "Why" } } }
                tbody { @for one in status.database.moved.iter().take(NEWEST) { (row(one)) } }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Position;

    #[test]
    fn what_is_wrong_is_said() {
        let mut database =
            Database { primary: Some("n1".into()), mode: "sync".into(), ..Database::default() };
        database.ack_set = vec!["n2".into(), "n3".into()];
        let said = |database: &Database| tell(database).into_string();
        assert!(said(&database).contains("every commit is also on one of n2, n3"));
        database.mode = "single".into();
        assert!(said(&database).contains("its loss is a loss of data"));
        database.failing_over = true;
        assert!(said(&database).contains("no primary"));
        database.waits = Some(Waits {
            text: "n1 must come back".into(),
            since: 1_000,
            positions: vec![Position { node: "n<1>".into(), position: Some(7), ..Position::default() }],
            command: "elpis database adopt n2 --without n1".into(),
        });
        let waiting = said(&database);
        for words in ["n1 must come back", "n&lt;1&gt; (away) has 7", "elpis database adopt n2"] {
            assert!(waiting.contains(words), "{waiting}");
        }
        let copy_of = |held: Option<Copy>| copy(&Node { database: held, ..Node::default() }).into_string();
        assert!(copy_of(None).contains("none"));
        let behind = Copy { main: "replica".into(), in_s: true, works: true, lag_ms: Some(4_200) };
        assert!(copy_of(Some(behind.clone())).contains("acknowledges, 4 s behind"));
        assert!(copy_of(Some(Copy { works: false, ..behind })).contains("does not acknowledge"));
        let disk_of = |held: Option<Disk>| disk(&Node { disk: held, ..Node::default() }).into_string();
        assert!(disk_of(None).contains("not known"));
        let held =
            Disk { room: "enough".into(), free_bytes: 7 << 30, reserve_wanted_bytes: 9, ..Disk::default() };
        assert!(disk_of(Some(held.clone())).contains("7 GiB free"));
        let short = disk_of(Some(Disk { room: "full".into(), free_bytes: 5 << 20, ..held }));
        assert!(short.contains("full: 5 MiB free, reserve in use"), "{short}");
        let moved = Moved { from: "n1".into(), to: "n<2>".into(), opened_ms: 700, ..Moved::default() };
        let status = Status { database: Database { moved: vec![moved], ..database }, ..Status::default() };
        let shown = moves(&status, 0).into_string();
        assert!(shown.contains("n&lt;2&gt;") && shown.contains("700 ms"), "{shown}");
    }
}
