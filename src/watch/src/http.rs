//! One HTTP/1.1 exchange over a unix socket, with limits: what the watch client and the command line speak.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::types::Refusal;

/// Longest answer read whole.
const MAX_ANSWER: usize = 8 << 20;
/// Time for one exchange of the watch client.
pub(crate) const EXCHANGE: Duration = Duration::from_secs(2);
/// Time for one request of the command line: an order may wait for a Raft commit.
const REQUEST: Duration = Duration::from_secs(30);

/// Why an exchange with the node agent failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot reach the node agent at {path}: {source}; is `elpis node` running on this machine?")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("the node agent did not answer {what} within {seconds} s; it hangs or the machine is overloaded")]
    Timeout { what: String, seconds: u64 },
    #[error("the exchange with the node agent broke off: {0}; it may be restarting, try again")]
    Broken(String),
    #[error("the node agent refused ({status}): {error}")]
    Refused { status: u16, error: String },
    #[error(
        "the node agent sent something that this program does not understand: {0}; use programs of one version"
    )]
    Malformed(String),
    #[error("this process is not wanted any more: {0}; it must exit")]
    Superseded(String),
}

/// Sends a JSON request to `node.sock` and returns the JSON answer.
pub async fn request<A: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
) -> Result<A, LinkError> {
    exchange(socket, method, path, body, REQUEST).await
}

/// Asks for text; the answer is not looked into.
pub async fn request_text(socket: &Path, path: &str) -> Result<String, LinkError> {
    let work = async {
        let bytes = read_all(send(socket, Method::GET, path, None::<&()>).await?).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match timeout(REQUEST, work).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::Timeout { what: format!("GET {path}"), seconds: REQUEST.as_secs() }),
    }
}

/// Sends a large body as it comes, for example a file, and returns the JSON answer. `patience`: for all of it.
pub async fn upload<A, B>(socket: &Path, path: &str, body: B, patience: Duration) -> Result<A, LinkError>
where
    A: DeserializeOwned,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let work = async {
        let response = send_body(socket, Method::PUT, path, body).await?;
        let bytes = read_all(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| LinkError::Malformed(e.to_string()))
    };
    match timeout(patience, work).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::Timeout { what: format!("PUT {path}"), seconds: patience.as_secs() }),
    }
}

/// A file as a body, read as it goes.
pub fn file_body(file: tokio::fs::File) -> impl Body<Data = Bytes, Error = std::io::Error> + Send + Unpin {
    use futures_util::TryStreamExt;
    http_body_util::StreamBody::new(tokio_util::io::ReaderStream::new(file).map_ok(Frame::data))
}

pub(crate) async fn exchange<A: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
    limit: Duration,
) -> Result<A, LinkError> {
    let what = format!("{method} {path}");
    let work = async {
        let response = send(socket, method, path, body).await?;
        let bytes = read_all(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| LinkError::Malformed(e.to_string()))
    };
    match timeout(limit, work).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::Timeout { what, seconds: limit.as_secs() }),
    }
}

/// Opens an answer that goes on (the watch stream); a refusal is read and returned as an error.
pub(crate) async fn open(socket: &Path, path: &str) -> Result<Response<Incoming>, LinkError> {
    match timeout(EXCHANGE, send(socket, Method::GET, path, None::<&()>)).await {
        Ok(response) => response,
        Err(_) => Err(LinkError::Timeout { what: format!("GET {path}"), seconds: EXCHANGE.as_secs() }),
    }
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
) -> Result<Response<Incoming>, LinkError> {
    let bytes = match body {
        Some(body) => serde_json::to_vec(body).map_err(|e| LinkError::Malformed(e.to_string()))?,
        None => Vec::new(),
    };
    send_body(socket, method, path, Full::new(Bytes::from(bytes))).await
}

async fn send_body<B>(
    socket: &Path,
    method: Method,
    path: &str,
    body: B,
) -> Result<Response<Incoming>, LinkError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| LinkError::Connect { path: socket.to_path_buf(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends by itself when the sender and the answer are dropped.
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "connection to the node agent ended");
        }
    });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "node")
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|e| LinkError::Malformed(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = read_all(response).await?;
    let error = match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(refusal) => refusal.error,
        Err(_) => String::from_utf8_lossy(&bytes).chars().take(500).collect(),
    };
    if status == StatusCode::CONFLICT {
        return Err(LinkError::Superseded(error));
    }
    Err(LinkError::Refused { status: status.as_u16(), error })
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, LinkError> {
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) => Err(LinkError::Broken(e.to_string())),
    }
}

#[allow(clippy::needless_pass_by_value)] // the shape that map_err wants
fn broken(e: hyper::Error) -> LinkError {
    LinkError::Broken(e.to_string())
}
