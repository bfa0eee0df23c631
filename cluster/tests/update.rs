//! A newer image over three node agents with real sockets and files; their machines are stand-ins that do as an
//! appliance does: one starts anew by ending its node agent and starting it with the other version.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside #[test]

#[path = "support/agents.rs"]
mod agents;

use agents::{LIMIT, Node, joined};
use bytes::Bytes;
use elpis_cluster::agent::Status;
use elpis_cluster::agent::accounts::Maker;
use elpis_cluster::agent::update::{Look, Machine};
use elpis_cluster::update::Act;
use elpis_watch::{Method, upload};
use http_body_util::Full;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default)]
struct World {
    look: Look,
    /// The new version does not work here.
    bad: bool,
    /// It was told to start anew.
    restarts: bool,
}

/// An image is a text, its first word the version.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<World>>);

impl Machine for Fake {
    fn check(&self, image: &Path) -> Result<String, String> {
        let text = std::fs::read_to_string(image).map_err(|error| error.to_string())?;
        let version = text.split(' ').next().unwrap_or_default().to_owned();
        if version.is_empty() { Err("it is not signed".to_owned()) } else { Ok(version) }
    }

    fn look(&self) -> Look {
        self.0.lock().unwrap().look.clone()
    }

    fn order(&self, act: Act, _: i64) -> Result<(), String> {
        let mut world = self.0.lock().unwrap();
        match act {
            Act::Take => return Err("nobody orders that of a machine".to_owned()),
            Act::Write => {
                (world.look.written, world.look.fell_back) = ("2".to_owned(), String::new());
            }
            Act::Restart => world.restarts = true,
        }
        Ok(())
    }
}

impl Fake {
    fn starts(&self) -> bool {
        self.0.lock().unwrap().restarts
    }

    /// As after a start.
    fn started(&self) {
        let mut world = self.0.lock().unwrap();
        let written = std::mem::take(&mut world.look.written);
        if world.bad {
            world.look.fell_back = written;
        } else {
            world.look.runs = written;
        }
        world.restarts = false;
    }
}

fn three(folder: &Path) -> (Vec<Node>, Vec<Fake>) {
    let machines: Vec<Fake> = (0..3)
        .map(|_| {
            let look = Look { runs: "1".to_owned(), kept: true, ..Look::default() };
            Fake(Arc::new(Mutex::new(World { look, ..World::default() })))
        })
        .collect();
    let nodes = ["n1", "n2", "n3"].into_iter().zip(&machines);
    let node = |(name, machine): (&str, &Fake)| {
        Node::of(folder, name, Maker::new(|_| async { Ok(()) }), Some(Arc::new(machine.clone())))
    };
    (nodes.map(node).collect(), machines)
}

async fn send(node: &Node, image: String) -> Result<Value, String> {
    let body = Full::new(Bytes::from(image));
    upload(&node.socket(), "/v1/update/image", body, LIMIT).await.map_err(|error| error.to_string())
}

/// Starts machines anew as they are told, until the status shows it; looked at through a node that does not.
async fn until(
    nodes: &mut Vec<Node>,
    machines: &[Fake],
    what: &str,
    wanted: impl Fn(&Status) -> bool,
) -> (Status, Vec<String>) {
    let (begun, mut restarted) = (Instant::now(), Vec::new());
    loop {
        for (at, machine) in machines.iter().enumerate() {
            if machine.starts() {
                let node = nodes.remove(at);
                let config = node.end().await;
                machine.started();
                restarted.push(config.raft.name.clone());
                nodes.insert(at, Node::start(config));
            }
        }
        for node in nodes.iter() {
            if let Some(status) = node.status().await
                && status.master.is_some()
                && wanted(&status)
            {
                return (status, restarted);
            }
        }
        assert!(begun.elapsed() < LIMIT * 4, "not in time: {what}; {:#?}", nodes[0].status().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_updated_one_after_the_other_and_the_master_last() {
    let folder = tempfile::tempdir().unwrap();
    let (nodes, machines) = three(folder.path());
    let mut nodes = joined(nodes).await;
    let master = nodes[0].status().await.unwrap().master.unwrap();

    // What is no image, and one that nobody brought.
    let refused = send(&nodes[1], " nothing".repeat(100_000)).await.unwrap_err();
    assert!(refused.contains("the image is not taken: it is not signed"), "{refused}");
    let start = |node: &Node, body: Value| {
        let socket = node.socket();
        async move { elpis_watch::request::<Value>(&socket, Method::POST, "/v1/update/start", Some(&body)).await }
    };
    let refused = start(&nodes[1], json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("no node has an image"), "{refused}");

    // Larger than one part of what goes from node to node.
    let image = format!("2 {}", "x".repeat(3 << 20));
    let taken = send(&nodes[1], image.clone()).await.unwrap();
    assert_eq!((taken["version"].as_str(), taken["bytes"].as_u64()), (Some("2"), Some(image.len() as u64)));
    let plan = start(&nodes[1], json!({ "dry": true })).await.unwrap();
    assert_eq!(
        (plan["against"].as_array().unwrap().len(), plan["begun"].as_bool()),
        (0, Some(false)),
        "{plan}"
    );
    assert_eq!(plan["nodes"].as_array().unwrap().last().unwrap().as_str(), Some(master.as_str()));
    start(&nodes[1], json!({ "watch_s": 1 })).await.unwrap();
    let again = start(&nodes[0], json!({})).await.unwrap_err().to_string();
    assert!(again.contains("an update to 2 goes on"), "{again}");
    let (status, restarted) = until(&mut nodes, &machines, "all are updated", |status| {
        status.update.as_ref().is_some_and(|update| update.state != "going")
    })
    .await;
    let update = status.update.clone().unwrap();
    assert_eq!((update.state.as_str(), update.why.clone()), ("done", None), "{update:?}");
    assert_eq!((restarted.len(), restarted.last()), (3, Some(&master)), "{restarted:?}");
    assert!(status.nodes.iter().all(|node| node.program == "2" && node.state != "draining"), "{status:#?}");
    // Images that nobody needs go.
    let begun = Instant::now();
    while nodes.iter().any(|node| node.config.raft.data_dir.join("update/image.iso").exists()) {
        assert!(begun.elapsed() < LIMIT, "an image stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for node in nodes {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_does_not_work_on_one_stops_all_and_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (nodes, machines) = three(folder.path());
    let mut nodes = joined(nodes).await;
    machines.iter().for_each(|machine| machine.0.lock().unwrap().bad = true);
    send(&nodes[0], "2 bad".to_owned()).await.unwrap();
    let started = nodes[0].ask(Method::POST, "/v1/update/start", json!({ "watch_s": 1 })).await.unwrap();
    assert_eq!(started["begun"], true);
    let (status, restarted) = until(&mut nodes, &machines, "it stopped", |status| {
        status.update.as_ref().is_some_and(|update| update.state == "stopped")
            && status.nodes.iter().all(|node| node.state == "up")
    })
    .await;
    let why = status.update.unwrap().why.unwrap();
    assert!(why.contains(&format!("2 did not work on {}, which runs 1 again", restarted[0])), "{why}");
    assert_eq!(restarted.len(), 1, "{restarted:?}");
    assert!(status.nodes.iter().all(|node| node.program == "1"), "{:#?}", status.nodes);

    // A person stops one that goes on; the next may begin.
    nodes[0].ask(Method::POST, "/v1/update/start", json!({ "watch_s": 3600 })).await.unwrap();
    nodes[0].ask(Method::POST, "/v1/update/stop", json!({})).await.unwrap();
    let status = nodes[0].status().await.unwrap();
    assert_eq!(status.update.unwrap().why.as_deref(), Some("somebody stopped it"));
    let refused = nodes[0].ask(Method::POST, "/v1/update/stop", json!({})).await.unwrap_err();
    assert!(refused.contains("no update goes on"), "{refused}");
    for node in nodes {
        node.end().await;
    }
}
