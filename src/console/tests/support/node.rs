//! A node agent that says what a test wants, a database, and a console in between.
#![allow(dead_code)] // each test file uses its part

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use elpis_console::ConsoleConfig;
use elpis_store::testdb::TestDb;
use elpis_watch::{Database, Frame, Lease, Map, VERSION, Welcome, boottime_ms};
use futures_util::stream;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Cluster time of the tests minus the machine's boot clock: 2026-01-01 at start.
const OFFSET_MS: i64 = 1_767_225_600_000;

#[derive(Clone)]
struct Agent {
    map: Arc<Mutex<Map>>,
    status: Arc<Mutex<Value>>,
    lease: Arc<Mutex<bool>>,
}

/// A console under test. Ends with its drop.
pub(crate) struct World {
    pub(crate) db: TestDb,
    pub(crate) dir: tempfile::TempDir,
    /// Address of its TLS port.
    pub(crate) listen: std::net::SocketAddr,
    /// What the node agent answers.
    pub(crate) status: Arc<Mutex<Value>>,
    map: Arc<Mutex<Map>>,
    /// Whether the node holds a lease.
    pub(crate) lease: Arc<Mutex<bool>>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    /// Node agent, database and console, ready for requests. The administrator has chosen the password.
    pub(crate) async fn start() -> World {
        World::started(true).await
    }

    /// As a machine starts for the first time: the administrator's password was made by it.
    pub(crate) async fn start_anew() -> World {
        World::started(false).await
    }

    async fn started(admin_password_stands: bool) -> World {
        let db = TestDb::fresh().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let endpoint = db.endpoint();
        let database = Database {
            epoch: 1,
            url: endpoint.url,
            user: endpoint.user,
            password: String::new(),
            mode: "endpoint".into(),
            ready: true,
            primary: 0,
        };
        let map = Map { revision: 1, database: Some(database), ..Map::default() };
        let map = Arc::new(Mutex::new(map));
        let status = Arc::new(Mutex::new(healthy()));
        let lease = Arc::new(Mutex::new(true));
        let agent = Agent { map: map.clone(), status: status.clone(), lease: lease.clone() };
        let socket = dir.path().join("node.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let stop = CancellationToken::new();
        let end = stop.clone();
        tokio::spawn(async move {
            let served = axum::serve(listener, routes(agent));
            end.run_until_cancelled(async { served.await.unwrap() }).await;
        });
        let listen = free_address();
        let config = ConsoleConfig {
            listen,
            admin_password_stands,
            ..ConsoleConfig::new(socket, dir.path().to_path_buf())
        };
        let end = stop.clone();
        tokio::spawn(async move { elpis_console::run(config, end).await.unwrap() });
        let world = World { db, dir, listen, status, map, lease, stop };
        world.ready().await;
        world
    }

    /// The database has moved (to where it is), or is on its way.
    pub(crate) fn move_database(&self) {
        let mut map = self.map.lock().unwrap();
        map.revision += 1;
        map.database.as_mut().unwrap().epoch += 1;
    }

    pub(crate) fn api(&self) -> PathBuf {
        self.dir.path().join("run/api.sock")
    }

    /// Cluster time in Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        (boottime_ms() + OFFSET_MS) / 1000
    }

    /// The first user's password, once he can sign in.
    pub(crate) async fn password(&self) -> String {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.db.rows("SELECT COUNT(*) FROM tuser").await.unwrap() != ["1"] {
            assert!(tokio::time::Instant::now() < deadline, "no first user");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::read_to_string(self.dir.path().join("admin.password")).unwrap().trim().to_owned()
    }

    /// Waits until changes are possible.
    async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if self.api().exists()
                && let (200, text) = ask(&self.api(), "GET", "/metrics", "").await
                && text.contains("elpis_console_writable 1")
            {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the console did not get ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One request to a unix socket: status and body.
pub(crate) async fn ask(socket: &std::path::Path, method: &str, path: &str, body: &str) -> (u16, String) {
    use http_body_util::{BodyExt, Full};
    let Ok(stream) = tokio::net::UnixStream::connect(socket).await else { return (0, String::new()) };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::builder().method(method).uri(path).header("host", "x");
    let answer =
        sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn routes(agent: Agent) -> Router {
    Router::new()
        .route("/v1/hello", post(hello))
        .route("/v1/watch", get(watch))
        .route("/v1/heartbeat", post(async || Json(json!({}))))
        .route("/v1/event", post(async || Json(json!({}))))
        .route(
            "/v1/status",
            get(async |State(agent): State<Agent>| Json(agent.status.lock().unwrap().clone())),
        )
        .route(
            "/v1/cluster/add-node",
            post(async || Json(json!({ "address": "n1:7946", "words": "six words" }))),
        )
        .route("/v1/node/drain", post(drain))
        .route("/v1/update/image", put(image).layer(DefaultBodyLimit::disable()))
        .route("/v1/update/start", post(start))
        .route("/v1/update/stop", post(async || no("no update goes on")))
        .with_state(agent)
}

async fn drain(body: Bytes) -> (StatusCode, Json<Value>) {
    let asked: Value = serde_json::from_slice(&body).unwrap();
    match asked["node"].as_str() {
        Some("n2") => (StatusCode::OK, Json(json!({ "node": "n2" }))),
        _ => (StatusCode::NOT_FOUND, Json(json!({ "version": VERSION, "error": "no such node" }))),
    }
}

fn no(why: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "version": VERSION, "error": why })))
}

/// Takes what begins with an I.
async fn image(body: Bytes) -> (StatusCode, Json<Value>) {
    match body.first() {
        Some(b'I') => (StatusCode::OK, Json(json!({ "version": "2", "sha256": "ab", "bytes": body.len() }))),
        _ => no("the image is not taken: it is no image of Elpis"),
    }
}

async fn start(body: Bytes) -> (StatusCode, Json<Value>) {
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let (dry, pause) = (asked["dry"] == true, asked["with_pause"] == true);
    if !dry && !pause {
        return no("the cluster cannot lose a node now; `--with-pause` allows that");
    }
    let against = json!(["the cluster cannot lose a node now; `--with-pause` allows that"]);
    let plan =
        json!({ "version": "2", "nodes": ["n1", "n2"], "seconds": 360, "against": against, "begun": !dry });
    (StatusCode::OK, Json(plan))
}

async fn hello() -> Json<Welcome> {
    Json(Welcome {
        version: VERSION,
        cluster: "test".into(),
        generation: 1,
        node: 1,
        name: "n1".into(),
        incarnation: 1,
    })
}

async fn watch(State(agent): State<Agent>) -> Body {
    let frames = stream::unfold((0u64, agent), |(sent, agent)| async move {
        if sent > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let held = *agent.lease.lock().unwrap();
        let lease = Lease {
            session: 7,
            until_boot_ms: if held { boottime_ms() + 1_000 } else { 0 },
            cluster_offset_ms: OFFSET_MS,
            term: 3,
            master: Some(1),
        };
        let map = agent.map.lock().unwrap().clone();
        let revision = map.revision;
        let frame = Frame {
            version: VERSION,
            lease,
            map: (revision > sent).then_some(map),
            log: None,
            traffic: None,
        };
        let line = format!("{}\n", serde_json::to_string(&frame).unwrap());
        Some((Ok::<_, std::convert::Infallible>(line), (revision, agent)))
    });
    Body::from_stream(frames)
}

/// A status as three healthy nodes give it, with one failover behind them.
pub(crate) fn healthy() -> Value {
    let services =
        json!({"tentacle-server": "up", "data-server": "up", "network-server": "up", "console": "up"});
    let node = |id: u64, name: &str, shards: u64| {
        json!({"id": id, "name": name, "address": format!("127.0.0.1:{}", 7000 + id), "state": "up", "voter": true,
               "session": id + 4, "shards": shards, "lease_ms_left": 812, "services": services, "unfit": "",
               "skew_ms": 0, "program": "0.1.0"})
    };
    json!({
        "version": 1, "state": "member", "cluster": "site", "uuid": "u", "generation": 4, "node": 1, "master": "n2",
        "term": 3, "can_lose": 1, "reason": "", "nodes": [node(1, "n1", 1366), node(4, "n2", 1365), node(9, "n3", 1365)],
        "shards": {"total": 4096, "owned": 4096}, "moves": 0,
        "database": {"mode": "endpoint", "url": "mysql://localhost/x", "epoch": 1, "ready": true},
        "jobs": {"purge": "n1"},
        "failovers": [{"node": "n3", "at": OFFSET_MS + 60_000, "detected_ms": 1104, "reassigned_ms": 1189,
                       "first_result_ms": 1512, "moved": 1365, "missed": 2, "recorded_twice": 0, "reason": "silent"}],
        "warnings": [], "events": [],
    })
}
