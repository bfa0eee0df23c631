//! Between nodes: one request, one reply, each a length, a line of JSON and content, over TLS with pinned keys.

use crate::spool::{EntryId, Header, Intake, SpoolError, Stored};
use crate::tls::NodeKey;
use elpis_watch::{Node, NodeId};
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Version of the messages.
const VERSION: u32 = 1;
/// Largest message.
const MESSAGE_BYTES: usize = 32 << 20;
/// Most ids in a list's reply.
const LIST_MAX: usize = 20_000;
/// Idle connections kept to a node.
const POOL: usize = 8;

/// What a node asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Keep this; the content follows.
    Put(Header),
    /// These are committed.
    Delete(Vec<(u16, EntryId)>),
    /// What is there of these shards, after that place?
    List { shards: Vec<u16>, after: Option<(u16, EntryId)> },
    /// Give me this.
    Fetch(u16, EntryId),
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// It stands here; false: it had been committed here already.
    Kept(bool),
    Deleted,
    /// Sorted; true: there is more.
    Listed(Vec<(u16, EntryId)>, bool),
    /// The content follows.
    Content(Header),
    Gone,
    Refused(String),
}

#[derive(Serialize, Deserialize)]
struct Message<T> {
    version: u32,
    body: T,
}

/// Answers one request; blocks on the disk.
pub(crate) fn serve(intake: &Intake, request: Request, content: &[u8]) -> (Reply, Vec<u8>) {
    let spool = intake.spool();
    let done = match request {
        Request::Put(header) => intake
            .take_copy(&header, content)
            .map(|taken| (Reply::Kept(taken || spool.has(header.shard, header.id())), Vec::new())),
        Request::Delete(items) => items
            .into_iter()
            .try_for_each(|(shard, id)| intake.delete(&spool.entry(shard, id)))
            .map(|()| (Reply::Deleted, Vec::new())),
        Request::List { shards, after } => list(intake, shards, after),
        Request::Fetch(shard, id) => match spool.read(&spool.entry(shard, id)) {
            Ok(Stored { header, content }) => Ok((Reply::Content(header), content)),
            Err(error) if error.is_gone() => Ok((Reply::Gone, Vec::new())),
            Err(error) => Err(error),
        },
    };
    done.unwrap_or_else(|error| (Reply::Refused(error.to_string()), Vec::new()))
}

fn list(
    intake: &Intake,
    mut shards: Vec<u16>,
    after: Option<(u16, EntryId)>,
) -> Result<(Reply, Vec<u8>), SpoolError> {
    shards.sort_unstable();
    let mut ids = Vec::new();
    for shard in shards {
        let entries = intake.spool().entries(shard)?.into_iter().map(|entry| (shard, entry.id));
        ids.extend(entries.filter(|item| after.is_none_or(|after| *item > after)));
        if ids.len() > LIST_MAX {
            ids.truncate(LIST_MAX);
            return Ok((Reply::Listed(ids, true), Vec::new()));
        }
    }
    Ok((Reply::Listed(ids, false), Vec::new()))
}

pub(crate) async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    body: T,
    content: &[u8],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Message { version: VERSION, body })?;
    line.push(b'\n');
    let size = line.len() + content.len();
    let size = u32::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    stream.write_u32(size).await?;
    stream.write_all(&line).await?;
    stream.write_all(content).await?;
    stream.flush().await
}

pub(crate) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(T, Vec<u8>)> {
    let size = stream.read_u32().await? as usize;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if size > MESSAGE_BYTES {
        return Err(invalid("a message from another node is too large"));
    }
    let mut bytes = Vec::new();
    stream.take(size as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let end =
        bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| invalid("a message without its line"))?;
    let message: Message<T> = serde_json::from_slice(&bytes[..end])?;
    if message.version != VERSION {
        return Err(invalid("a message of another version; update the older node"));
    }
    Ok((message.body, bytes.split_off(end + 1)))
}

/// Idle connections by node and pin.
type Idle = HashMap<(NodeId, String), Vec<TlsStream<TcpStream>>>;

/// Connections to the other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    key: NodeKey,
    idle: Mutex<Idle>,
}

impl Peers {
    pub(crate) fn new(key: NodeKey) -> Peers {
        Peers { key, idle: Mutex::default() }
    }

    /// One request within a time.
    pub(crate) async fn ask(
        &self,
        id: NodeId,
        node: &Node,
        request: &Request,
        content: &[u8],
        within: Duration,
    ) -> io::Result<(Reply, Vec<u8>)> {
        let asked = timeout(within, self.ask_once(id, node, request, content)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
            (Reply::Refused(why), _) => Err(io::Error::other(why)),
            reply => Ok(reply),
        }
    }

    async fn ask_once(
        &self,
        id: NodeId,
        node: &Node,
        request: &Request,
        content: &[u8],
    ) -> io::Result<(Reply, Vec<u8>)> {
        let place = (id, format!("{} {}", node.spool_address, node.spki));
        let kept =
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&place).and_then(Vec::pop);
        if let Some(mut stream) = kept {
            // Closed meanwhile by the other side? Every request is safe to repeat.
            if let Ok(reply) = exchange(&mut stream, request, content).await {
                self.keep(place, stream);
                return Ok(reply);
            }
        }
        let tcp = TcpStream::connect(&node.spool_address).await?;
        tcp.set_nodelay(true)?;
        let config = self.key.towards(&node.spki).map_err(io::Error::other)?;
        let name = ServerName::try_from("elpis").map_err(io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await?;
        let reply = exchange(&mut stream, request, content).await?;
        self.keep(place, stream);
        Ok(reply)
    }

    fn keep(&self, place: (NodeId, String), stream: TlsStream<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = idle.entry(place).or_default();
        if streams.len() < POOL {
            streams.push(stream);
        }
    }
}

async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    request: &Request,
    content: &[u8],
) -> io::Result<(Reply, Vec<u8>)> {
    write(stream, request, content).await?;
    read(stream).await
}
