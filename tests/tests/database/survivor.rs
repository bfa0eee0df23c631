//! The majority is lost for good, and the operator's way on with one node.

use crate::dev;
use crate::world::{HEALED, World};
use crate::writers::well;
use elpis_watch::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Rows that are acknowledged before the disaster.
const ROWS: usize = 1_500;

/// What a node itself says, master or not.
async fn says(world: &World, node: &str) -> Value {
    let socket = world.dir().join(node).join("run/node.sock");
    let asked = elpis_watch::request::<Value>(&socket, Method::GET, "/v1/status", None::<&()>);
    timeout(Duration::from_secs(2), asked).await.ok().and_then(Result::ok).unwrap_or_default()
}

async fn until_says(world: &World, node: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let seen = says(world, node).await;
        if good(&seen) {
            return seen;
        }
        assert!(begin.elapsed() < HEALED, "not in time: {what}; last: {seen}{}", world.logs());
        sleep(Duration::from_millis(50)).await;
    }
}

async fn rows(world: &World, node: &str) -> BTreeSet<u64> {
    let mut server = world.server(node).await.unwrap();
    let rows: Vec<u64> =
        sqlx::query_scalar("SELECT id FROM elpis.fault_rows").fetch_all(&mut server).await.unwrap();
    rows.into_iter().collect()
}

/// Empties a node's data folder and lets it join under its old name, with the words of this command.
pub(crate) async fn join_anew(world: &World, node: &str, command: &[&str]) {
    let folder = world.dir().join(node);
    fs::remove_dir_all(&folder).unwrap();
    for name in ["run", "log"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    until_says(world, node, "it starts empty", |seen| seen["state"] == "no-cluster").await;
    let offer = world.json(command).unwrap();
    let words: Vec<&str> = offer["words"].as_str().unwrap().split(' ').collect();
    let join = [&["join", "--on", node, offer["address"].as_str().unwrap()], words.as_slice()].concat();
    world.run(&join).unwrap();
    // The supervisor of the test starts its servers then.
    fs::write(folder.join("member"), "").unwrap();
}

/// Three nodes, their copies and all their servers.
pub(crate) fn all_work(status: &Value) -> bool {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let up = |node: &Value| {
        let services = node["services"].as_object().cloned().unwrap_or_default();
        let votes = node["voter"] == true && node["unfit"] == "";
        votes && services.len() == 5 && services.values().all(|state| state == "up")
    };
    well(status) && nodes.len() == 3 && nodes.iter().all(up) && status["can_lose"] == 1
}

/// Two of three nodes are lost under writers, one of them with its disk. Nothing happens by itself; by order the third goes
/// on alone with every row that it had. The other one comes back with its old disk and is refused in words; reset, both
/// join again under their old names, and work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_survivor_goes_on_when_the_majority_is_lost() {
    let _machine = crate::MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 3, None).unwrap();
    world.write(3).await.unwrap();
    world.healed().await.unwrap();
    let begin = Instant::now();
    while world.writers.count() < ROWS {
        assert!(begin.elapsed() < HEALED, "only {} rows{}", world.writers.count(), world.logs());
        sleep(Duration::from_millis(20)).await;
    }
    let primary = world.primary().await.unwrap();
    let ackers = world.ackers().await.unwrap();
    let (stays, burnt) = (ackers[0].clone(), ackers[1].clone());
    let (epoch, revision) = {
        let status = world.status().await.unwrap();
        (status["database"]["epoch"].as_u64().unwrap(), status["revision"].as_u64().unwrap())
    };
    let refused = |arguments: &[&str], why: &str| {
        let recover = [&["cluster", "recover", "--on", &stays, "--survivors"], arguments].concat();
        let error = world.run(&recover).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    };
    let lost = format!("{primary},{burnt}");
    refused(&[&stays, "--confirm", &lost], "there is a master");

    for node in [&primary, &burnt] {
        world.run(&["dev", "kill", node]).unwrap();
    }
    let missing = |seen: &Value| {
        let names = seen["majority"]["missing"].as_array().cloned().unwrap_or_default();
        names.len() == 2 && seen["master"].is_null()
    };
    let seen = until_says(&world, &stays, "who is missing is said", missing).await;
    assert_eq!(seen["majority"]["command"], "", "too early for a way out: {seen}");
    assert!(seen["reason"].as_str().unwrap().contains("1 of 3 voters answers"), "{seen}");
    let text = world.run(&["cluster", "status", "--on", &stays]).unwrap();
    assert!(text.contains("NO MAJORITY") && text.contains(&burnt), "{text}");
    // Nothing happens by itself.
    sleep(Duration::from_secs(4)).await;
    let seen = says(&world, &stays).await;
    assert_eq!((&seen["master"], &seen["database"]["epoch"]), (&Value::Null, &epoch.into()), "{seen}");
    let had = rows(&world, &stays).await;
    let acknowledged: Vec<u64> = world.writers.acknowledged().iter().map(|one| one.row).collect();

    refused(&[&burnt, "--confirm", &lost], "run it on");
    refused(&[&lost, "--confirm", &lost], "name one survivor");
    refused(&[&stays], "nothing was changed");
    refused(&[&stays, "--confirm", &primary], "to confirm that they are powered off");
    refused(&[&stays, "--confirm", &format!("{lost},{stays}")], "to confirm that they are powered off");
    assert_eq!(says(&world, &stays).await["generation"], 1);

    let begin = Instant::now();
    let order = ["cluster", "recover", "--on", &stays, "--survivors", &stays, "--confirm", &lost];
    let done = world.json(&order).unwrap();
    assert_eq!((&done["done"], &done["generation"]), (&true.into(), &2.into()), "{done}");
    assert!(done["may_lose"].is_u64(), "{done}");
    let again = world.written_again(begin, HEALED).await.unwrap();
    println!("recovered: written again after {again:?}; {}", done["text"]);
    let status = world
        .until("it leads alone", HEALED, |status| {
            status["database"]["primary"] == stays.as_str() && status["shards"]["owned"] == 4096
        })
        .await
        .unwrap();
    assert_eq!((&status["generation"], &status["master"]), (&2.into(), &stays.as_str().into()), "{status}");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1, "{status}");
    assert!(status["revision"].as_u64().unwrap() > revision + (1 << 32), "{status}");
    assert!(status["database"]["epoch"].as_u64().unwrap() > epoch, "{status}");
    assert!(world.dir().join(&stays).join("raft.redb.before-recovery-2").is_file());
    assert!(!world.dir().join(&stays).join("recovery.json").exists());
    let after = rows(&world, &stays).await;
    assert!(had.is_subset(&after), "{} rows that it had are gone", had.difference(&after).count());
    let gone: BTreeSet<u64> = acknowledged.iter().copied().filter(|row| !after.contains(row)).collect();
    println!("{} rows acknowledged before, {} of them on lost nodes alone", acknowledged.len(), gone.len());
    assert!(gone.is_disjoint(&had));
    world.writers.forget(&gone);

    // It comes back with its old disk.
    world.run(&["dev", "start", &primary]).unwrap();
    let given_up = |seen: &Value| seen["state"] == "given-up";
    let out = until_says(&world, &primary, "it knows that it was given up", given_up).await;
    assert!(out["reason"].as_str().unwrap().contains("empty its data folder and join it again"), "{out}");
    let text = world.run(&["cluster", "status", "--on", &primary]).unwrap();
    assert!(text.contains("it is in generation 2 now"), "{text}");
    assert!(world.server(&primary).await.is_err(), "its database server is started");
    let log = fs::read_to_string(world.dir().join(&stays).join("log/node.log")).unwrap();
    assert!(log.contains("refused a node of an earlier generation"), "{log}");
    world.written_again(Instant::now(), HEALED).await.unwrap();
    assert_eq!(world.status().await.unwrap()["nodes"].as_array().unwrap().len(), 1);

    // Both machines, reset, under their old names.
    fs::write(world.dir().join(&burnt).join("down"), "").unwrap();
    join_anew(&world, &burnt, &["cluster", "add-node"]).await;
    world
        .until("the first newcomer acknowledges", HEALED, |status| {
            status["database"]["ack_set"] == serde_json::json!([burnt])
                && status["database"]["mode"] == "sync"
        })
        .await
        .unwrap();
    world.run(&["dev", "kill", &primary]).unwrap();
    join_anew(&world, &primary, &["cluster", "add-node"]).await;
    world.until("three nodes work", Duration::from_secs(180), all_work).await.unwrap();
    world.judge().await.unwrap();
    // The new cluster survives the loss of the one that recovered it.
    let begin = Instant::now();
    world.run(&["dev", "kill", &stays]).unwrap();
    let again = world.written_again(begin, HEALED).await.unwrap();
    println!("the survivor itself killed: written again after {again:?}");
}
