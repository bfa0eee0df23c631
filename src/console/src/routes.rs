//! What is served where.

use crate::app::App;
use crate::pages::{self, Oops};
use crate::refusal::Refused;
use crate::{again, api, assets, auth, live, orders, password, update};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use std::sync::Arc;

/// Bytes of a form.
const FORM: usize = 16 << 10;

/// For the command line: whoever may open the socket may do everything.
pub(crate) fn local(app: Arc<App>) -> Router {
    Router::new()
        .merge(api::routes())
        .route("/api/v1/users/{name}/password", post(password::reset))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .fallback(api::unknown)
        .layer(middleware::from_fn(again::ask))
        .layer(middleware::from_fn_with_state(app.clone(), measured))
        .with_state(app)
}

/// For browsers and programs, over TLS.
pub(crate) fn web(app: Arc<App>) -> Router {
    let pages = Router::new()
        .route("/", get(pages::overview::show))
        .route("/cluster", get(pages::cluster::show))
        .route("/cluster/orders", get(orders::page).post(orders::submit))
        .route("/live/cluster", get(live::cluster_stream))
        .route("/agents", get(pages::agents::list))
        .route("/agents/{key}", get(pages::agents::one))
        .route("/modules/{id}", get(pages::module::show))
        .route("/modules/{id}/run", post(pages::module::run))
        .route("/events", get(pages::events::list))
        .route("/sign-in", get(auth::sign_in_page).post(auth::sign_in))
        .route("/sign-out", post(auth::sign_out))
        .route("/account", get(password::page).post(password::submit))
        .route("/theme", post(pages::set_theme))
        .route("/static/{name}", get(assets::serve))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .merge(update::pages())
        .layer(DefaultBodyLimit::max(FORM));
    Router::new()
        .merge(pages)
        .merge(api::routes())
        .route("/api/v1/session", get(auth::session))
        .route("/api/v1/password", post(password::own))
        .route("/api/{*rest}", any(api::unknown))
        .fallback(nowhere)
        .layer(middleware::from_fn_with_state(app.clone(), auth::guard))
        .layer(middleware::from_fn(again::ask))
        .layer(middleware::from_fn_with_state(app.clone(), measured))
        .with_state(app)
}

async fn nowhere() -> Oops {
    Refused::missing("There is no such page.").into()
}

/// Counts and times an answer.
async fn measured(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begin = tokio::time::Instant::now();
    let mut response = next.run(request).await;
    let took = begin.elapsed();
    app.metrics.answered(response.status().as_u16(), took);
    if let Ok(value) = format!("app;dur={:.1}", took.as_secs_f64() * 1000.0).parse() {
        response.headers_mut().insert("server-timing", value);
    }
    response
}

async fn healthz(State(app): State<Arc<App>>) -> Response {
    match app.db.store() {
        Ok(_) => "ok\n".into_response(),
        Err(refused) => (refused.status, format!("{}\n", refused.text)).into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.db.can_write(), app.live_streams());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
