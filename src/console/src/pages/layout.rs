//! The frame around each page, the sign-in page, errors as pages, the choice of light or dark.

use crate::app::App;
use crate::assets;
use crate::auth::{self, cookie, redirect};
use crate::refusal::Refused;
use crate::sessions::Person;
use crate::status::Status;
use axum::extract::{Form, FromRequestParts};
use axum::http::header::{CONTENT_TYPE, LOCATION, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use elpis_store::StoreError;
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;
use std::sync::Arc;

const THEME: &str = "elpis-theme";

/// Who looks, at what, when.
pub(crate) struct View {
    pub(crate) person: Person,
    pub(crate) theme: Option<&'static str>,
    /// What the node agent says; `None` = it does not answer.
    pub(crate) cluster: Option<Arc<Status>>,
    pub(crate) writable: bool,
    pub(crate) now: i64,
    /// Only the live part is wanted.
    part: bool,
    way: String,
}

fn wants_part(headers: &HeaderMap) -> bool {
    headers.contains_key("x-live")
}

impl FromRequestParts<Arc<App>> for View {
    type Rejection = Oops;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<View, Oops> {
        let person = parts.extensions.get::<Person>().cloned();
        let person = person.ok_or_else(|| Refused::new(StatusCode::UNAUTHORIZED, "sign in first"))?;
        Ok(View {
            person,
            theme: theme(&parts.headers),
            cluster: app.node.get().await.ok(),
            writable: app.db.can_write(),
            now: app.now(),
            part: wants_part(&parts.headers),
            way: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), |way| way.as_str().to_owned()),
        })
    }
}

fn theme(headers: &HeaderMap) -> Option<&'static str> {
    match cookie(headers, THEME) {
        Some("dark") => Some("dark"),
        Some("light") => Some("light"),
        _ => None,
    }
}

fn page(markup: Markup) -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], markup.into_string()).into_response()
}

fn frame(title: &str, theme: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-theme=[theme] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Elpis" }
                link rel="icon" type="image/svg+xml" href=(assets::icon());
                link rel="stylesheet" href=(assets::style());
                script src=(assets::script()) defer {}
            }
            (body)
        }
    }
}

/// How a page follows what changes.
pub(crate) enum Live {
    /// Read again every so many seconds.
    Refresh(u32),
    /// Server-sent events.
    Stream(&'static str),
}

impl View {
    /// The whole page, or its live part alone.
    pub(crate) fn show(&self, title: &str, tab: &str, live: &Live, body: &Markup) -> Response {
        let (refresh, stream) = match live {
            Live::Refresh(seconds) => (Some(*seconds), None),
            Live::Stream(path) => (None, Some(*path)),
        };
        let part = html! { div #live data-refresh=[refresh] data-stream=[stream] { (pill_now(self.cluster.as_deref())) (self.banner()) (body) } };
        if self.part {
            return page(part);
        }
        let whole = html! {
            body {
                a.skip href="#main" { "Skip to the content" }
                (self.bar(tab))
                main #main { (part) }
                footer.foot {
                    span { "Times are UTC. " (super::time_as(self.now, "%Y-%m-%d %H:%M:%S")) }
                    span #live-state aria-live="polite" {}
                    span.end {
                        kbd { "g" } " then " kbd { "o" } " " kbd { "c" } " " kbd { "a" } " " kbd { "e" } " pages · "
                        kbd { "/" } " search"
                    }
                }
            }
        };
        page(frame(title, self.theme, &whole))
    }

    fn bar(&self, tab: &str) -> Markup {
        let name = self.cluster.as_ref().map_or("", |status| status.cluster.as_str());
        let other = if self.theme == Some("dark") { "light" } else { "dark" };
        html! {
            header.bar {
                div {
                    a.brand href="/" { img src=(assets::icon()) alt=""; "Elpis" @if !name.is_empty() { small { (name) } } }
                    nav aria-label="Pages" {
                        @if !self.person.must_change {
                            @for (path, label) in [("/", "Overview"), ("/cluster", "Cluster"), ("/agents", "Agents"), ("/events", "Events")] {
                                a href=(path) aria-current=[(tab == label).then_some("page")] { (label) }
                            }
                        }
                    }
                    div.side {
                        a #pill href="/cluster" { (pill(self.cluster.as_deref())) }
                        form method="post" action="/theme" {
                            input type="hidden" name="back" value=(self.way);
                            button name="to" value=(other) title={"Show it " (other)} { @if other == "dark" { "Dark" } @else { "Light" } }
                        }
                        a href="/account" title="Account and password" { (self.person.name) }
                        form method="post" action="/sign-out" {
                            input type="hidden" name="csrf" value=(self.person.token.csrf());
                            button { "Sign out" }
                        }
                    }
                }
            }
        }
    }

    fn banner(&self) -> Markup {
        html! {
            @if self.person.must_change {
                p.note { strong { "Choose a password of your own. " } "A machine made the one that you have, and an appliance shows it on its screen: all other pages open when it is changed." }
            }
            @if !self.writable {
                p.note { strong { "Read-only. " } "This node holds no lease, or has no database, right now. Pages show what can be read; changes are made on another node." }
            }
        }
    }

    /// The hidden field that every form of this page brings.
    pub(crate) fn csrf(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.person.token.csrf()); }
    }
}

/// The state of the cluster in three words.
fn pill(cluster: Option<&Status>) -> Markup {
    match cluster {
        None => super::mark_as("unknown", "node agent silent"),
        Some(status) if status.master.is_none() => super::mark_as("critical", "no master"),
        Some(status) if status.shards.owned < status.shards.total => {
            super::mark_as("critical", "work without owner")
        }
        Some(status) if status.can_lose == 0 => super::mark_as("warning", "can lose 0 nodes"),
        Some(status) => super::mark_as("normal", &can_lose(status.can_lose)),
    }
}

/// The same within a live part: the script puts it into the bar, which is not read again.
pub(crate) fn pill_now(cluster: Option<&Status>) -> Markup {
    html! { template #pill-now { (pill(cluster)) } }
}

/// `can lose 1 node`.
pub(crate) fn can_lose(n: u64) -> String {
    format!("can lose {n} node{}", if n == 1 { "" } else { "s" })
}

/// The sign-in page; `error` is empty or says why it did not work.
pub(crate) fn sign_in(headers: &HeaderMap, next: &str, name: &str, error: &str) -> Response {
    let body = html! {
        body.door {
            main.card {
                h1.mark { img src=(assets::icon()) alt=""; span { "Elpis" small { "Sign in to this cluster" } } }
                @if !error.is_empty() { p.error role="alert" { (super::mark_as("critical", "")) " " (error) } }
                form method="post" action="/sign-in" {
                    input type="hidden" name="next" value=(next);
                    label { "Name" input type="text" name="name" value=(name) autocomplete="username" required autofocus[name.is_empty()]; }
                    label { "Password" input type="password" name="password" autocomplete="current-password" required autofocus[!name.is_empty()]; }
                    button.button.main { "Sign in" }
                }
            }
        }
    };
    page(frame("Sign in", theme(headers), &body))
}

#[derive(Deserialize)]
pub(crate) struct ThemeChoice {
    to: String,
    back: Option<String>,
}

pub(crate) async fn set_theme(Form(choice): Form<ThemeChoice>) -> Response {
    let to = if choice.to == "light" { "light" } else { "dark" };
    let back = auth::inside(choice.back.as_deref()).to_owned();
    let value = format!("{THEME}={to}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=31536000");
    let mut response = redirect(&back);
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(SET_COOKIE, value);
    }
    debug_assert!(response.headers().contains_key(LOCATION));
    response
}

/// A refusal as a page.
#[derive(Debug)]
pub(crate) struct Oops(pub(crate) Refused);

impl From<Refused> for Oops {
    fn from(refused: Refused) -> Oops {
        Oops(refused)
    }
}
impl From<StoreError> for Oops {
    fn from(error: StoreError) -> Oops {
        Oops(error.into())
    }
}

impl IntoResponse for Oops {
    fn into_response(self) -> Response {
        let title = match self.0.status {
            StatusCode::NOT_FOUND => "Not here",
            StatusCode::SERVICE_UNAVAILABLE => "Not right now",
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => "Not allowed",
            _ => "That did not work",
        };
        let body = html! {
            body.door {
                main.card {
                    h1.mark { img src=(assets::icon()) alt=""; span { (title) small { (self.0.status.as_u16()) } } }
                    p { (self.0.text) }
                    p { br; a href="/" { "Overview" } " · " a href="/cluster" { "Cluster" } }
                }
            }
        };
        self.0.mark((self.0.status, page(frame(title, None, &body))).into_response())
    }
}
