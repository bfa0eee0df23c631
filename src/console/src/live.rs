//! Server-sent events: the cluster page, every half second, while it changes.

use crate::app::App;
use crate::pages::{cluster, layout};
use crate::refusal::Refused;
use crate::sessions::{self, Person};
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

const TICK: Duration = Duration::from_millis(500);
/// Ticks between two looks at the session: who has signed out gets no more.
const LOOK: u32 = 20;

struct Watcher {
    app: Arc<App>,
    person: Person,
    last: String,
    ticks: u32,
    _permit: OwnedSemaphorePermit,
}

pub(crate) async fn cluster_stream(
    State(app): State<Arc<App>>,
    Extension(person): Extension<Person>,
) -> Response {
    let Ok(permit) = app.live.clone().try_acquire_owned() else {
        return Refused::unavailable(
            "too many live pages are open on this node; close some, or use another node",
        )
        .into_response();
    };
    let stop = app.stop.clone();
    let watcher = Watcher { app, person, last: String::new(), ticks: 0, _permit: permit };
    let parts = stream::unfold(watcher, next).take_until(stop.cancelled_owned());
    Sse::new(parts).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response()
}

/// The next part that differs from the last one; `None` when the session is over.
async fn next(mut watcher: Watcher) -> Option<(Result<Event, Infallible>, Watcher)> {
    loop {
        if watcher.ticks > 0 {
            tokio::time::sleep(TICK).await;
        }
        if watcher.ticks % LOOK == LOOK - 1 {
            let found = sessions::find(&watcher.app, watcher.person.token.clone()).await;
            if matches!(found, Ok(None)) {
                return None;
            }
        }
        watcher.ticks = watcher.ticks.wrapping_add(1);
        let status = watcher.app.node.get().await;
        let body = cluster::body(status.as_deref(), watcher.app.link.cluster_now_ms());
        let part = layout::pill_now(status.as_deref().ok()).into_string() + &body.into_string();
        if part != watcher.last {
            // A carriage return would end a field.
            let event = Event::default().event("part").data(part.replace('\r', " "));
            watcher.last = part;
            return Some((Ok(event), watcher));
        }
    }
}
