//! Sends and fetches files, as `tentacle_client` does. Any refusal is an error.

use crate::protocol::{digest, file_name};
use crate::tls::{self, TlsError};
use rustls::pki_types::ServerName;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Whether and how to use TLS.
#[derive(Clone, Debug)]
pub enum Tls {
    /// Plain.
    Off,
    /// TLS, the server is not verified.
    Unverified,
    /// TLS, the server's chain and name are verified against this CA (PEM).
    Verified(PathBuf),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port`.
    pub address: String,
    /// TLS.
    pub tls: Tls,
    /// Password of the server, if it has one.
    pub password: Option<String>,
    /// Longest silence of the server.
    pub idle: Duration,
    /// Largest file fetched.
    pub size: u64,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A local file.
    #[error("cannot use the file {0}")]
    File(PathBuf, #[source] io::Error),
    /// Its name.
    #[error("{0} has no name that the protocol allows; rename it")]
    Name(PathBuf),
    /// The connection.
    #[error("connection with {0} failed; check address, port and TLS")]
    Connection(String, #[source] io::Error),
    /// The server said no.
    #[error("the server refused {what}: {reply}")]
    Refused {
        /// What was asked.
        what: String,
        /// What it said; empty = it closed.
        reply: String,
    },
    /// TLS files.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Sends files in order; stops at the first failure.
pub async fn send(config: &ClientConfig, files: &[PathBuf]) -> Result<(), ClientError> {
    let mut contents = Vec::new();
    for path in files {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| file_name(name.as_bytes()).is_some());
        let name = name.ok_or_else(|| ClientError::Name(path.clone()))?;
        let content = tokio::fs::read(path).await.map_err(|e| ClientError::File(path.clone(), e))?;
        contents.push((name.to_owned(), content));
    }
    send_contents(config, &contents).await
}

/// Sends contents under their names, in order; stops at the first failure.
pub async fn send_contents(config: &ClientConfig, files: &[(String, Vec<u8>)]) -> Result<(), ClientError> {
    let mut peer = connect(config).await?;
    for (name, content) in files {
        peer.say(format!("SEND <{name}> SIZE {}\n", content.len()).as_bytes()).await?;
        peer.expect("SEND OK", name).await?;
        peer.say(content).await?;
        peer.expect("SEND OK", name).await?;
    }
    peer.say(b"QUIT\n").await
}

/// Fetches files by name into a folder; stops at the first failure.
pub async fn fetch(
    config: &ClientConfig,
    names: &[String],
    into: &std::path::Path,
) -> Result<(), ClientError> {
    let mut peer = connect(config).await?;
    for name in names {
        file_name(name.as_bytes()).ok_or_else(|| ClientError::Name(name.into()))?;
        peer.say(format!("RECV <{name}>\n").as_bytes()).await?;
        let reply = peer.line().await?;
        let size = reply.strip_prefix("RECV SIZE ").and_then(|size| size.parse().ok());
        let refused = || ClientError::Refused { what: name.clone(), reply: reply.clone() };
        let size: u64 = size.filter(|size| *size <= config.size).ok_or_else(refused)?;
        peer.say(b"RECV OK\n").await?;
        let content = peer.bytes(size).await?;
        let path = into.join(name);
        tokio::fs::write(&path, content).await.map_err(|e| ClientError::File(path, e))?;
    }
    peer.say(b"QUIT\n").await
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Peer<'a> {
    config: &'a ClientConfig,
    stream: Box<dyn Stream>,
}

async fn connect(config: &ClientConfig) -> Result<Peer<'_>, ClientError> {
    let failed = |e| ClientError::Connection(config.address.clone(), e);
    let opened = timeout(config.idle, TcpStream::connect(&config.address)).await;
    let tcp = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    let _ = tcp.set_nodelay(true);
    let ca = match &config.tls {
        Tls::Off => return greet(Peer { config, stream: Box::new(tcp) }).await,
        Tls::Unverified => None,
        Tls::Verified(ca) => Some(ca.as_path()),
    };
    let host = config.address.rsplit_once(':').map_or(config.address.as_str(), |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    let shaken = timeout(config.idle, TlsConnector::from(tls::sender(ca)?).connect(name, tcp)).await;
    let stream = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    greet(Peer { config, stream: Box::new(stream) }).await
}

async fn greet(mut peer: Peer<'_>) -> Result<Peer<'_>, ClientError> {
    if let Some(password) = &peer.config.password {
        peer.say(format!("PASS {}\n", digest(password)).as_bytes()).await?;
        peer.expect("PASS OK", "the password").await?;
    }
    Ok(peer)
}

impl Peer<'_> {
    fn failed(&self, error: io::Error) -> ClientError {
        ClientError::Connection(self.config.address.clone(), error)
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let limit = self.config.idle * 4;
        let said = timeout(limit, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        said.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|e| self.failed(e))
    }

    async fn expect(&mut self, reply: &str, what: &str) -> Result<(), ClientError> {
        let said = self.line().await?;
        if said == reply {
            return Ok(());
        }
        let _ = self.say(b"QUIT\n").await;
        Err(ClientError::Refused { what: what.to_owned(), reply: said })
    }

    async fn line(&mut self) -> Result<String, ClientError> {
        let mut line = Vec::new();
        while line.len() < 1024 {
            match timeout(self.config.idle, self.stream.read_u8()).await {
                Ok(Ok(b'\n')) => break,
                Ok(Ok(byte)) => line.push(byte),
                // The original closes without a word, and without TLS's closing message.
                Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Ok(Err(e)) => return Err(self.failed(e)),
                Err(_) => return Err(self.failed(io::ErrorKind::TimedOut.into())),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    async fn bytes(&mut self, size: u64) -> Result<Vec<u8>, ClientError> {
        let mut content = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        while (content.len() as u64) < size {
            let room = chunk.len().min((size - content.len() as u64) as usize);
            let read = timeout(self.config.idle, self.stream.read(&mut chunk[..room])).await;
            match read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|e| self.failed(e))? {
                0 => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                n => content.extend_from_slice(&chunk[..n]),
            }
        }
        Ok(content)
    }
}
