//! `node.sock`: HTTP/1.1 with JSON for the servers of this node and for the command line.

mod answer;
mod routes;
mod standing;
mod watch;

use super::{Agent, AgentError};
use answer::Body;
pub(super) use answer::No;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use standing::Standing;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Most connections at a time: four servers with a few each, and the command line.
const CONNECTIONS: usize = 128;
/// Time for the head of a request; an idle connection is closed after it.
const HEAD: Duration = Duration::from_secs(10);
/// Rights of the socket: owner and group.
const MODE: u32 = 0o660;

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: u32,
    pid: Option<u32>,
    standing: Standing,
}

/// Binds the socket; one that nobody answers any more is replaced.
///
/// # Errors
/// When another node agent answers there, or the folder cannot be used.
pub(super) async fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    let failed = |source| AgentError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(AgentError::SocketTaken(path.to_owned()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        // Something else lies there: binding says so.
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
    Ok(listener)
}

/// Serves until the node agent stops; then every connection is cut.
pub(super) async fn serve(agent: Arc<Agent>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = agent.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "node.sock cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("too many connections on node.sock; this one is closed");
            continue;
        };
        let agent = Arc::clone(&agent);
        agent.tasks.clone().spawn(async move {
            let stop = agent.stop.clone();
            stop.run_until_cancelled(connection(agent, stream)).await;
            drop(place);
        });
    }
}

async fn connection(agent: Arc<Agent>, stream: UnixStream) {
    let peer = match stream.peer_cred() {
        Ok(cred) => Peer {
            uid: cred.uid(),
            pid: cred.pid().and_then(|pid| u32::try_from(pid).ok()),
            standing: Standing::of(cred.uid(), nix::unistd::geteuid().as_raw(), &agent.config.users),
        },
        Err(error) => {
            tracing::debug!(%error, "a connection without a peer");
            return;
        }
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let agent = Arc::clone(&agent);
        async move { Ok::<Response<Body>, Infallible>(routes::answer(&agent, peer, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection on node.sock ended");
    }
}
