//! Listeners and connections, each bounded: how many, how long a handshake, how long a head may take.

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at the same time, each listener.
const CONNECTIONS: usize = 512;
const HEAD: Duration = Duration::from_secs(15);
/// Pause after a refused accept (no file handles left).
const PAUSE: Duration = Duration::from_millis(100);
/// How long requests in flight may take once the process is told to stop.
const FAREWELL: Duration = Duration::from_secs(2);

/// Binds the local socket: for root and the group alone.
pub(crate) fn bind_socket(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Left behind by a process that was killed; one that lives is superseded by us.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves the local socket until told to stop.
pub(crate) async fn local(listener: UnixListener, routes: Router, stop: CancellationToken) {
    let (open, tracker) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    while let Some(permit) = next(&open, &stop).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        match accepted {
            Ok((stream, _)) => {
                tracker.spawn(connection(stream, routes.clone(), permit, stop.clone()));
            }
            Err(error) => refused(&error).await,
        }
    }
    farewell(tracker).await;
}

async fn next(open: &Arc<Semaphore>, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    stop.run_until_cancelled(open.clone().acquire_owned()).await?.ok()
}

async fn refused(error: &std::io::Error) {
    tracing::warn!(%error, "cannot take a connection");
    tokio::time::sleep(PAUSE).await;
}

async fn farewell(tracker: TaskTracker) {
    tracker.close();
    let _ = tokio::time::timeout(FAREWELL, tracker.wait()).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let service = routes.map_request(|request: hyper::Request<hyper::body::Incoming>| request.map(Body::new));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
    drop(permit);
}
