use super::*;
use crate::boottime_ms;
use crate::types::{Heartbeat, Lease, Move, Owner, Refusal, SHARDS};
use bytes::Bytes;
use http_body_util::{Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

type Body = BoxBody<Bytes, Infallible>;

/// A node agent that gives whatever lease and map the test sets.
struct Fake {
    hellos: Mutex<Vec<Hello>>,
    beats: mpsc::Sender<Heartbeat>,
    released: mpsc::Sender<Released>,
    frame: watch::Sender<Frame>,
    supersede: AtomicBool,
    refuse_released: AtomicBool,
}

struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|o| o.map(|b| Ok(hyper::body::Frame::data(b))))
    }
}

fn json(status: u16, value: &impl serde::Serialize) -> Response<Body> {
    let body = Full::new(Bytes::from(serde_json::to_vec(value).unwrap())).boxed();
    Response::builder().status(status).body(body).unwrap()
}

async fn handle(fake: Arc<Fake>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_string();
    if path == "/v1/watch" {
        assert_eq!(request.uri().query(), Some("role=network-server&incarnation=41"));
        let (lines, body) = mpsc::channel(4);
        let mut frames = fake.frame.subscribe();
        tokio::spawn(async move {
            loop {
                let frame = frames.borrow_and_update().clone();
                let mut line = serde_json::to_vec(&frame).unwrap();
                line.push(b'\n');
                // In two parts, so that lines arrive torn.
                let rest = line.split_off(line.len() / 2);
                if lines.send(line.into()).await.is_err() || lines.send(rest.into()).await.is_err() {
                    return;
                }
                if frames.changed().await.is_err() {
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
            let incarnation = hello.incarnation.unwrap_or(41);
            fake.hellos.lock().unwrap().push(hello);
            if fake.supersede.load(Ordering::SeqCst) {
                let error = "another process has this role".to_string();
                return Ok(json(409, &Refusal { version: VERSION, error }));
            }
            let (cluster, name) = ("c".to_string(), "n5".to_string());
            json(200, &Welcome { version: VERSION, cluster, generation: 1, node: 5, name, incarnation })
        }
        "/v1/heartbeat" => {
            let _ = fake.beats.try_send(serde_json::from_slice(&body).unwrap());
            json(200, &empty)
        }
        "/v1/released" => {
            if fake.refuse_released.swap(false, Ordering::SeqCst) {
                return Ok(json(503, &Refusal { version: VERSION, error: "not now".into() }));
            }
            let _ = fake.released.try_send(serde_json::from_slice(&body).unwrap());
            json(200, &empty)
        }
        other => json(404, &Refusal { version: VERSION, error: format!("no {other}") }),
    })
}

/// Serves until the token is cancelled; then every connection is cut, as by a killed node agent.
async fn serve(fake: Arc<Fake>, socket: PathBuf, stop: CancellationToken) {
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    stop.clone()
        .run_until_cancelled(async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = fake.clone();
                let service = hyper::service::service_fn(move |r| handle(fake.clone(), r));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    let _ = connection.await;
                }));
            }
        })
        .await;
}

fn frame(revision: u64, session: u64, lease_ms: i64) -> Frame {
    let mut shards = vec![Owner { node: 6, epoch: 1 }; SHARDS];
    shards[7] = Owner { node: 5, epoch: 3 };
    shards[9] = Owner { node: 5, epoch: 4 };
    let lease = Lease {
        session,
        until_boot_ms: boottime_ms() + lease_ms,
        cluster_offset_ms: 1_700_000_000_000 - boottime_ms(),
        term: 2,
        master: Some(5),
    };
    let moves = vec![Move { shard: 9, from: 5, to: 6, epoch: 5 }];
    Frame {
        version: VERSION,
        lease,
        map: Some(Map { revision, shards, moves, ..Map::default() }),
        log: None,
        traffic: None,
    }
}

#[tokio::test]
async fn follows_orders_through_a_restart_of_the_node_agent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("node.sock");
    let (beats, mut beats_in) = mpsc::channel(64);
    let (released, mut released_in) = mpsc::channel(64);
    let fake = Arc::new(Fake {
        hellos: Mutex::new(vec![]),
        beats,
        released,
        frame: watch::Sender::new(frame(10, 3, 60_000)),
        supersede: AtomicBool::new(false),
        refuse_released: AtomicBool::new(true),
    });
    let first = CancellationToken::new();
    tokio::spawn(serve(fake.clone(), socket.clone(), first.clone()));

    let link = Link::connect(&socket, Role::NetworkServer).await.unwrap();
    assert_eq!((link.welcome().node, link.welcome().incarnation), (5, 41));
    let mut map = link.map();
    assert_eq!(link.owned(&map.borrow_and_update()), vec![(7, 3)]);
    assert_eq!(link.releasing(&map.borrow()), vec![(9, 5)]);
    assert_eq!(link.gate().session_if_valid(), Some(3));
    assert!((link.cluster_now_ms() - 1_700_000_000_000).abs() < 60_000);

    // Acknowledged although the first try is refused.
    link.released(&[(9, 5)]);
    assert_eq!(released_in.recv().await.unwrap().shards, vec![(9, 5)]);

    link.progress().bump();
    link.progress().set_unfit("spool disk full");
    link.progress().stored(123, 10);
    let beat = loop {
        let beat = beats_in.recv().await.unwrap();
        if !beat.unfit.is_empty() {
            break beat;
        }
    };
    assert_eq!((beat.incarnation, beat.progress, beat.stored_ms, beat.stored_revision), (41, 1, 123, 10));

    // A lease that is over closes the gate although the stream stands.
    fake.frame.send_replace(frame(11, 3, -1));
    map.changed().await.unwrap();
    assert_eq!(link.gate().session_if_valid(), None);

    // The node agent is killed and comes back: same incarnation, new session.
    first.cancel();
    fake.frame.send_replace(frame(12, 4, 60_000));
    let second = CancellationToken::new();
    tokio::spawn(serve(fake.clone(), socket.clone(), second.clone()));
    map.changed().await.unwrap();
    assert_eq!(map.borrow().revision, 12);
    assert_eq!(link.gate().session_if_valid(), Some(4));
    assert_eq!(fake.hellos.lock().unwrap().last().unwrap().incarnation, Some(41));

    // Another process took the role: this one learns that it must go, its gate closed.
    fake.supersede.store(true, Ordering::SeqCst);
    second.cancel();
    tokio::spawn(serve(fake.clone(), socket.clone(), CancellationToken::new()));
    link.superseded().await;
    assert_eq!(link.gate().session_if_valid(), None);
}

#[tokio::test]
async fn a_refusal_keeps_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("node.sock");
    let error = crate::request::<Value>(&socket, Method::GET, "/v1/x", None::<&()>).await.unwrap_err();
    assert!(matches!(error, LinkError::Connect { .. }), "{error}");
    let fake = Arc::new(Fake {
        hellos: Mutex::new(vec![]),
        beats: mpsc::channel(1).0,
        released: mpsc::channel(1).0,
        frame: watch::Sender::new(frame(1, 1, 1)),
        supersede: AtomicBool::new(false),
        refuse_released: AtomicBool::new(false),
    });
    tokio::spawn(serve(fake, socket.clone(), CancellationToken::new()));
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let error = crate::request::<Value>(&socket, Method::GET, "/v1/x", None::<&()>).await.unwrap_err();
    assert!(matches!(&error, LinkError::Refused { status: 404, error } if error == "no /v1/x"), "{error}");
}
