//! Web pages and the API.
//!
//! One process a node. It reads the database directly and changes it under its own fence row (`<node>/console`);
//! without a lease it is read-only and says so. What concerns the cluster it asks the node agent, so that the cluster
//! page works without the database. The API is served twice: on the local socket `run/api.sock` for the command line
//! (whoever may open the socket may do everything), and over TLS for people and programs that have signed in.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api;
mod app;
mod db;
mod metrics;
pub mod parse_check;
mod refusal;
mod serve;

use app::App;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use elpis_watch::{Link, LinkError, Role};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the console process is told.
#[derive(Clone, Debug)]
pub struct ConsoleConfig {
    /// `node.sock` of this node.
    pub socket: PathBuf,
    /// Folder of this node; `run/api.sock`, certificate and key are in it.
    pub data: PathBuf,
    /// Address for browsers and programs (TLS).
    pub listen: SocketAddr,
}

impl ConsoleConfig {
    /// The usual settings for a node with this socket and folder.
    pub fn new(socket: PathBuf, data: PathBuf) -> ConsoleConfig {
        ConsoleConfig { socket, data, listen: SocketAddr::from(([0, 0, 0, 0], 443)) }
    }
}

/// Why the console ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The node agent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A socket or an address.
    #[error(
        "cannot listen on {what}: {source}; is it in use by another process, or out of reach for this user?"
    )]
    Listen {
        /// Which one.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Registers at the node agent and serves until told to stop. Ends with [`LinkError::Superseded`] when another process
/// has taken its place.
pub async fn run(config: ConsoleConfig, stop: CancellationToken) -> Result<(), ConsoleError> {
    let Some(link) = stop.run_until_cancelled(Link::connect(&config.socket, Role::Console)).await else {
        return Ok(());
    };
    let link = link?;
    let app = Arc::new(App::new(link.clone()));
    let path = config.data.join("run/api.sock");
    let local = serve::bind_socket(&path)
        .map_err(|source| ConsoleError::Listen { what: path.display().to_string(), source })?;
    tracing::info!(socket = %path.display(), "console is ready");
    let end = stop.child_token();
    let work = async {
        tokio::join!(
            app.db.clone().follow(link.clone(), end.clone()),
            serve::local(local, local_routes(app.clone()), end.clone()),
        );
    };
    tokio::select! {
        () = work => Ok(()),
        () = link.superseded() => {
            end.cancel();
            Err(LinkError::Superseded("another process registered as this node's console".into()).into())
        }
    }
}

/// For the command line: whoever may open the socket may do everything.
fn local_routes(app: Arc<App>) -> Router {
    Router::new()
        .merge(api::routes())
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .fallback(api::unknown)
        .layer(middleware::from_fn_with_state(app.clone(), measured))
        .with_state(app)
}

/// Counts and times an answer.
async fn measured(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begin = tokio::time::Instant::now();
    let response = next.run(request).await;
    app.metrics.answered(response.status().as_u16(), begin.elapsed());
    response
}

async fn healthz(State(app): State<Arc<App>>) -> Response {
    match app.db.store() {
        Ok(_) => "ok\n".into_response(),
        Err(refused) => (refused.status, format!("{}\n", refused.text)).into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.db.can_write());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
