//! A newer version for all nodes: its image comes in here and goes through to the node agent, which looks at it and keeps
//! it; then it is begun and stopped here.

use crate::api::Answer;
use crate::app::App;
use crate::auth::Confirm;
use crate::orders::{ask, refusal};
use crate::pages::{Oops, View};
use crate::refusal::Refused;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Form, Multipart, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// For all of an image, over a slow line too.
const UPLOAD: Duration = Duration::from_secs(3600);
/// What may be said of where an image is.
const PLACE: usize = 4096;
/// So much of a form that is refused is read: no image is larger.
const REST: usize = 1 << 30;
/// Parts of an image on their way through.
const PARTS: usize = 4;

/// Routes of the API.
pub(crate) fn api() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/update", get(plan_by_api))
        .route("/api/v1/update/image", put(image_by_api).layer(DefaultBodyLimit::disable()))
        .route("/api/v1/update/fetch", post(fetch_by_api))
        .route("/api/v1/update/{order}", post(order_by_api))
}

/// Routes of the page.
pub(crate) fn pages() -> Router<Arc<App>> {
    Router::new()
        .route("/cluster/update", get(page))
        .route("/cluster/update/image", post(image).layer(DefaultBodyLimit::disable()))
        .route("/cluster/update/fetch", post(fetch_by_form).layer(DefaultBodyLimit::max(PLACE)))
        .route("/cluster/update/order", post(order))
}

/// What a node agent says of an update that may be begun.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Plan {
    pub(crate) version: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) seconds: u64,
    pub(crate) against: Vec<String>,
}

async fn send(app: &App, body: Body, who: &str) -> Result<Value, Refused> {
    let done = elpis_watch::upload::<Value, _>(&app.node.socket, "/v1/update/image", body, UPLOAD).await;
    tracing::info!(user = %who, done = done.is_ok(), "an image for an update");
    done.map_err(refusal)
}

/// An image that this node fetches from an address.
async fn fetch(app: &App, address: &str, who: &str) -> Result<Value, Refused> {
    let body = crate::fetch::fetch(address.trim()).await;
    let body = body.map_err(|why| {
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, format!("no image was fetched: {why}"))
    })?;
    // What stands behind the path may be a secret.
    let place = address.split(['?', '#']).next();
    tracing::info!(user = %who, place, "an image is fetched");
    send(app, Body::new(body), who).await
}

#[derive(Deserialize)]
struct Address {
    url: String,
}

/// `POST /api/v1/update/fetch {"url": "https://…/elpis-VERSION.iso"}`.
async fn fetch_by_api(State(app): State<Arc<App>>, body: Bytes) -> Answer {
    let Address { url } = crate::api::read(&body)?;
    Ok(Json(fetch(&app, &url, "api").await?).into_response())
}

async fn plan(app: &App) -> Result<Value, Refused> {
    ask(app, "/v1/update/start", &json!({ "dry": true })).await
}

async fn plan_by_api(State(app): State<Arc<App>>) -> Answer {
    Ok(Json(plan(&app).await?).into_response())
}

async fn image_by_api(State(app): State<Arc<App>>, body: Body) -> Answer {
    Ok(Json(send(&app, body, "api").await?).into_response())
}

/// `POST /api/v1/update/start|stop`.
async fn order_by_api(State(app): State<Arc<App>>, Path(order): Path<String>, body: Bytes) -> Answer {
    let body: Value = if body.is_empty() { json!({}) } else { crate::api::read(&body)? };
    let path = match order.as_str() {
        "start" => "/v1/update/start",
        "stop" => "/v1/update/stop",
        other => return Err(unknown(other)),
    };
    tracing::info!(user = "api", order, "an update");
    Ok(Json(ask(&app, path, &body).await?).into_response())
}

fn unknown(order: &str) -> Refused {
    Refused::missing(format!("there is no order {order:?}; there are fetch, start and stop"))
}

async fn page(view: View, State(app): State<Arc<App>>) -> Response {
    shown(&view, &app, "").await
}

async fn shown(view: &View, app: &App, error: &str) -> Response {
    let plan = match plan(app).await {
        Ok(plan) => serde_json::from_value(plan).map_err(|error| error.to_string()),
        Err(refused) => Err(refused.text),
    };
    view.update(plan.as_ref().map_err(String::as_str), error)
}

/// The image by a form: its token comes before the file.
async fn image(view: View, State(app): State<Arc<App>>, mut form: Multipart) -> Result<Response, Oops> {
    let odd = |error: axum::extract::multipart::MultipartError| Refused::bad(error.body_text());
    let token = match form.next_field().await.map_err(odd)? {
        Some(field) if field.name() == Some("csrf") => field.text().await.map_err(odd)?,
        _ => String::new(),
    };
    if let Err(refused) = Confirm::of(token).check(&view.person) {
        rest(form).await;
        return Err(refused.into());
    }
    let field = form.next_field().await.map_err(odd)?;
    let Some(mut field) = field.filter(|field| field.name() == Some("image")) else {
        return Ok(shown(&view, &app, "Choose the image's file first.").await);
    };
    let (parts, mut coming) = mpsc::channel::<Result<Bytes, Error>>(PARTS);
    let body = futures_util::stream::poll_fn(move |context| coming.poll_recv(context));
    let reading = async {
        loop {
            let part = match field.chunk().await {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => break,
                Err(error) => Err(Error::other(error.body_text())),
            };
            let over = part.is_err();
            if parts.send(part).await.is_err() || over {
                break;
            }
        }
        drop(parts);
    };
    let (done, ()) = tokio::join!(send(&app, Body::from_stream(body), &view.person.name), reading);
    Ok(match done {
        Ok(_) => Redirect::to("/cluster/update").into_response(),
        Err(refused) => (refused.status, shown(&view, &app, &refused.text).await).into_response(),
    })
}

#[derive(Deserialize)]
struct Fetched {
    url: String,
    #[serde(flatten)]
    confirm: Confirm,
}

async fn fetch_by_form(
    view: View,
    State(app): State<Arc<App>>,
    Form(form): Form<Fetched>,
) -> Result<Response, Oops> {
    form.confirm.check(&view.person)?;
    Ok(match fetch(&app, &form.url, &view.person.name).await {
        Ok(_) => Redirect::to("/cluster/update").into_response(),
        Err(refused) => (refused.status, shown(&view, &app, &refused.text).await).into_response(),
    })
}

/// A browser that still sends would show a connection that breaks, and not the reason.
async fn rest(mut form: Multipart) {
    let mut bytes = 0;
    while let Ok(Some(mut field)) = form.next_field().await {
        while let Ok(Some(chunk)) = field.chunk().await {
            bytes += chunk.len();
            if bytes > REST {
                return;
            }
        }
    }
}

#[derive(Deserialize)]
struct Ordered {
    order: String,
    with_pause: Option<String>,
    #[serde(flatten)]
    confirm: Confirm,
}

async fn order(view: View, State(app): State<Arc<App>>, Form(form): Form<Ordered>) -> Result<Response, Oops> {
    form.confirm.check(&view.person)?;
    let done = match form.order.as_str() {
        "start" => ask(&app, "/v1/update/start", &json!({ "with_pause": form.with_pause.is_some() })).await,
        "stop" => ask(&app, "/v1/update/stop", &json!({})).await,
        other => Err(unknown(other)),
    };
    tracing::info!(user = %view.person.name, order = form.order, done = done.is_ok(), "an update");
    Ok(match done {
        Ok(_) => Redirect::to("/cluster/update").into_response(),
        Err(refused) => (refused.status, shown(&view, &app, &refused.text).await).into_response(),
    })
}
