//! A node agent that gives whatever lease and map the test sets.

use bytes::Bytes;
use elpis_store::{Endpoint, testdb::TestDb};
use elpis_watch::{
    Database, Frame, Heartbeat, Hello, Lease, Map, Move, Node, Owner, Released, SHARDS, VERSION, Welcome,
    boottime_ms,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

type Body = BoxBody<Bytes, Infallible>;

/// Id of the node that the servers under test run on.
pub(crate) const ME: u64 = 5;
/// Another node, which the test plays.
pub(crate) const OTHER: u64 = 6;

pub(crate) struct NodeAgent {
    pub(crate) socket: PathBuf,
    frame: watch::Sender<Frame>,
    released: Mutex<Vec<(u16, u64)>>,
    pub(crate) beats: Mutex<Vec<Heartbeat>>,
    incarnations: Mutex<u64>,
    _dir: tempfile::TempDir,
}

struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

impl NodeAgent {
    /// Node 5, named n5, session 1; owns all shards in epoch 1.
    pub(crate) fn start(db: &TestDb) -> Arc<NodeAgent> {
        // What the servers say is shown when a test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        NodeAgent::serve(db.endpoint())
    }

    /// The same for any database.
    pub(crate) fn serve(endpoint: Endpoint) -> Arc<NodeAgent> {
        let dir = tempfile::tempdir().unwrap();
        let node = |name: &str| Node {
            name: name.into(),
            session: 1,
            live: true,
            spool_address: String::new(),
            gate_address: String::new(),
            spki: String::new(),
        };
        let map = Map {
            revision: 10,
            nodes: [(ME, node("n5")), (OTHER, node("n6"))].into(),
            shards: vec![Owner { node: ME, epoch: 1 }; SHARDS],
            database: Some(Database {
                epoch: endpoint.epoch,
                url: endpoint.url,
                user: endpoint.user,
                password: endpoint.password.expose().to_owned(),
                mode: "endpoint".into(),
                ready: true,
                primary: 0,
            }),
            ..Map::default()
        };
        let lease = Lease {
            session: 1,
            until_boot_ms: boottime_ms() + 600_000,
            cluster_offset_ms: jiff::Timestamp::now().as_millisecond() - boottime_ms(),
            term: 1,
            master: Some(ME),
        };
        let agent = Arc::new(NodeAgent {
            socket: dir.path().join("node.sock"),
            frame: watch::Sender::new(Frame {
                version: VERSION,
                lease,
                map: Some(map),
                log: None,
                traffic: None,
            }),
            released: Mutex::default(),
            beats: Mutex::default(),
            incarnations: Mutex::new(40),
            _dir: dir,
        });
        let listener = tokio::net::UnixListener::bind(&agent.socket).unwrap();
        let serving = agent.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let agent = serving.clone();
                let service = hyper::service::service_fn(move |request| handle(agent.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        // A stream without lines for three seconds counts as dead.
        let beating = agent.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                beating.frame.send_modify(|_| ());
            }
        });
        agent
    }

    /// Changes the map (as a new revision) or the lease.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Map, &mut Lease)) {
        self.frame.send_modify(|frame| {
            let map = frame.map.as_mut().unwrap();
            map.revision += 1;
            change(map, &mut frame.lease);
        });
    }

    /// A planned move of a shard away from here: ordered, acknowledged, done.
    pub(crate) async fn take_away(&self, shard: u16) {
        let epoch = self.frame.borrow().map.as_ref().unwrap().shards[usize::from(shard)].epoch + 1;
        self.change(|map, _| map.moves = vec![Move { shard, from: ME, to: OTHER, epoch }]);
        until("the release", async || self.released.lock().unwrap().contains(&(shard, epoch))).await;
        self.change(|map, _| {
            map.moves.clear();
            map.shards[usize::from(shard)] = Owner { node: OTHER, epoch };
        });
    }

    /// The shard is ours again.
    pub(crate) fn give_back(&self, shard: u16) {
        self.change(|map, _| {
            let owner = &mut map.shards[usize::from(shard)];
            *owner = Owner { node: ME, epoch: owner.epoch + 1 };
        });
    }
}

fn json(status: u16, value: &impl serde::Serialize) -> Response<Body> {
    let body = Full::new(Bytes::from(serde_json::to_vec(value).unwrap())).boxed();
    Response::builder().status(status).body(body).unwrap()
}

async fn handle(agent: Arc<NodeAgent>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_string();
    if path == "/v1/watch" {
        let (lines, body) = mpsc::channel(4);
        let mut frames = agent.frame.subscribe();
        tokio::spawn(async move {
            loop {
                let mut line = serde_json::to_vec(&*frames.borrow_and_update()).unwrap();
                line.push(b'\n');
                if lines.send(line.into()).await.is_err() || frames.changed().await.is_err() {
                    return;
                }
            }
        });
        return Ok(Response::new(Lines(body).boxed()));
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let empty = serde_json::json!({});
    Ok(match path.as_str() {
        "/v1/hello" => {
            let hello: Hello = serde_json::from_slice(&body).unwrap();
            let mut next = agent.incarnations.lock().unwrap();
            let incarnation = hello.incarnation.unwrap_or_else(|| {
                *next += 1;
                *next
            });
            let (cluster, name) = ("c".to_string(), "n5".to_string());
            json(200, &Welcome { version: VERSION, cluster, generation: 1, node: ME, name, incarnation })
        }
        "/v1/heartbeat" => {
            agent.beats.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            json(200, &empty)
        }
        "/v1/released" => {
            let released: Released = serde_json::from_slice(&body).unwrap();
            agent.released.lock().unwrap().extend(released.shards);
            json(200, &empty)
        }
        _ => json(200, &empty),
    })
}

/// Waits for a condition, 20 seconds at most.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come within 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One number from the database.
pub(crate) async fn number(db: &TestDb, sql: &str) -> i64 {
    db.rows(sql).await.unwrap()[0].parse().unwrap_or(0)
}
