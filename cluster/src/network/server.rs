//! The cluster port.

use super::{FRAME_MAX, GREETING_MAX, HANDSHAKE, Hello, Kind, read_frame, write_frame};
use crate::identity::spki_pin;
use crate::tls;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most connections at a time: 64 nodes × 6 lanes, and some that join.
const CONNECTIONS: usize = 400;

/// What the port does with frames.
pub trait Service: Send + Sync + 'static {
    /// The member with this key.
    fn pinned(&self, spki: &str) -> Option<u64>;
    /// Asks the other members about a key that this node does not know: it may have been admitted while it was away.
    fn learn(self: Arc<Self>, spki: String) -> BoxFuture<'static, Option<u64>>;
    /// The node with this key that was a member and is none any more.
    fn former(&self, spki: &str) -> Option<u64>;
    /// What a former member hears instead of an answer: the greeting of a later generation, else words.
    fn turn_away(&self, hello: &[u8], former: u64) -> Result<Vec<u8>, String>;
    /// `None` when the greeting fits, else why not.
    fn greet(&self, hello: &[u8], peer: u64) -> Result<Vec<u8>, String>;
    /// Answers a frame of a member.
    fn answer(
        self: Arc<Self>,
        peer: u64,
        kind: Kind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    /// Serves a node that joins.
    fn join(self: Arc<Self>, stream: TlsStream<TcpStream>, from: SocketAddr) -> BoxFuture<'static, ()>;
}

/// Serves the port until cancelled.
pub async fn serve<S: Service>(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    service: Arc<S>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the cluster port cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%from, "too many connections on the cluster port; this one is closed");
            continue;
        };
        let (acceptor, service, stop) = (acceptor.clone(), Arc::clone(&service), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                served = connection(tcp, from, &acceptor, service) => if let Err(error) = served {
                    tracing::debug!(%from, %error, "connection on the cluster port ended");
                },
            }
            drop(place);
        });
    }
}

async fn connection<S: Service>(
    tcp: TcpStream,
    from: SocketAddr,
    acceptor: &TlsAcceptor,
    service: Arc<S>,
) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5));
    socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    let mut stream =
        tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await.map_err(std::io::Error::other)??;
    let (_, tls_state) = stream.get_ref();
    if tls_state.alpn_protocol() == Some(tls::ALPN_JOIN) {
        service.join(stream, from).await;
        return Ok(());
    }
    let spki = tls_state.peer_certificates().and_then(|chain| chain.first()).and_then(|cert| spki_pin(cert));
    let spki = spki.unwrap_or_default();
    let known = match service.pinned(&spki) {
        None if service.former(&spki).is_some() => None,
        None => Arc::clone(&service).learn(spki.clone()).await,
        known => known,
    };
    let Some(peer) = known else {
        if let Some(former) = service.former(&spki) {
            return turn_away(&mut stream, from, former, &*service).await;
        }
        let why = "your key is not that of a member; join first, or wait until this node has caught up";
        write_frame(&mut stream, Kind::Error, why.as_bytes()).await?;
        return Ok(());
    };
    let (kind, hello) = tokio::time::timeout(HANDSHAKE, read_frame(&mut stream, GREETING_MAX))
        .await
        .map_err(std::io::Error::other)??;
    let greeted =
        if kind == Kind::Hello { service.greet(&hello, peer) } else { Err("no greeting".to_owned()) };
    match greeted {
        Ok(mine) => write_frame(&mut stream, Kind::Hello, &mine).await?,
        Err(why) => {
            tracing::warn!(%from, peer, why, "refused a member");
            return write_frame(&mut stream, Kind::Error, why.as_bytes()).await;
        }
    }
    loop {
        let (kind, body) = read_frame(&mut stream, FRAME_MAX).await?;
        if service.pinned(&spki) != Some(peer) {
            return Ok(());
        }
        match Arc::clone(&service).answer(peer, kind, body).await {
            Ok(answer) => write_frame(&mut stream, Kind::Answer, &answer).await?,
            Err(why) => write_frame(&mut stream, Kind::Error, why.as_bytes()).await?,
        }
    }
}

/// A former member is heard before it is turned away: one of an earlier generation learns from the answer that it was
/// given up.
async fn turn_away<S: Service>(
    stream: &mut TlsStream<TcpStream>,
    from: SocketAddr,
    former: u64,
    service: &S,
) -> std::io::Result<()> {
    let greeting = tokio::time::timeout(HANDSHAKE, read_frame(stream, GREETING_MAX));
    let (kind, hello) = greeting.await.map_err(std::io::Error::other)??;
    let hello = if kind == Kind::Hello { hello } else { Vec::new() };
    match service.turn_away(&hello, former) {
        Ok(mine) => {
            tracing::warn!(%from, node = former, "refused a node of an earlier generation");
            write_frame(stream, Kind::Hello, &mine).await
        }
        Err(why) => write_frame(stream, Kind::Error, why.as_bytes()).await,
    }
}

/// Reads a greeting.
pub(crate) fn parse(hello: &[u8]) -> Result<Hello, String> {
    serde_json::from_slice(hello).map_err(|e| format!("the greeting is odd: {e}"))
}
