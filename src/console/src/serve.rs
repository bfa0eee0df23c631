//! Listeners and connections, each bounded: how many, how long a handshake, how long a head may take.

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at the same time, each listener.
const CONNECTIONS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(15);
/// Pause after a refused accept (no file handles left).
const PAUSE: Duration = Duration::from_millis(100);
/// How long requests in flight may take once the process is told to stop.
const FAREWELL: Duration = Duration::from_secs(2);

/// Address of the other side; in every request's extensions. `None` = the local socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

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
                tracker.spawn(connection(stream, Peer(None), routes.clone(), permit, stop.clone()));
            }
            Err(error) => refused(&error).await,
        }
    }
    farewell(tracker).await;
}

/// Serves TLS until told to stop.
pub(crate) async fn tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    routes: Router,
    stop: CancellationToken,
) {
    let (open, tracker) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    while let Some(permit) = next(&open, &stop).await {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { break };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        tracker.spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    connection(stream, Peer(Some(from.ip().to_canonical())), routes, permit, stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, %from, "handshake failed"),
                Err(_) => tracing::debug!(%from, "handshake took too long"),
            }
        });
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
    peer: Peer,
    routes: Router,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let service = routes.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        request.map(Body::new)
    });
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
