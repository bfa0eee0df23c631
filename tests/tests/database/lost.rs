//! Nodes that never come back, and the operator's choice.

use crate::dev;
use crate::world::{HEALED, World};
use crate::writers::well;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use std::time::{Duration, Instant};

/// Both replicas are killed, so the primary goes on alone; its node is lost with its disk before the others have all.
/// Nobody is promoted by itself; an operator gives it up by name, the cluster writes again, the third follows, and what
/// comes back under the old name is a new node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_primary_is_given_up() {
    let _machine = crate::MACHINE.lock().await;
    let mut world = World::up(&dev::program(), 3, None).unwrap();
    world.write(3).await.unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    world.healed().await.unwrap();
    let primary = world.primary().await.unwrap();
    let others = world.ackers().await.unwrap();
    let (stays, late) = (others[0].clone(), others[1].clone());
    let refused = |arguments: &[&str], why: &str| {
        let error = world.run(arguments).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&["database", "adopt", &stays, "--without", &primary, "--confirm", &primary], "lives");
    // Their nodes vote on, their servers hang.
    for node in [&stays, &late] {
        world.signal(node, "mariadbd", SIGSTOP).unwrap();
    }
    world
        .until("the primary goes on alone", HEALED, |status| status["database"]["mode"] == "single")
        .await
        .unwrap();
    world.written_again(Instant::now(), HEALED).await.unwrap();
    world.run(&["dev", "kill", &primary]).unwrap();
    std::fs::remove_dir_all(world.dir().join(&primary).join("database")).unwrap();
    for node in [&stays, &late] {
        world.signal(node, "mariadbd", SIGCONT).unwrap();
    }
    let waits =
        |status: &serde_json::Value| status["database"]["waits"]["nodes"] == serde_json::json!([primary]);
    let waiting = world.until("the wait is said", HEALED, waits).await.unwrap();
    let epoch = waiting["database"]["epoch"].as_u64().unwrap();
    let known = &waiting["database"]["waits"]["positions"][0];
    assert!(known["node"] == primary.as_str() && known["position"].as_u64() > Some(0), "{known}");
    assert_eq!(waiting["database"]["waits"]["command"], "", "too early for a way out");
    let text = world.run(&["cluster", "status"]).unwrap();
    assert!(text.contains("NO PRIMARY") && text.contains("must come back"), "{text}");

    // Nobody promotes anything by itself.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.status().await.unwrap()["database"]["epoch"].as_u64(), Some(epoch));
    refused(&["database", "adopt", &stays, "--without", &primary], "nothing was changed");
    refused(&["database", "adopt", &stays, "--without", &primary, "--confirm", &stays], "to confirm");
    refused(&["database", "adopt", &stays, "--without", &late, "--confirm", &primary], "lives");
    // The one that has most; the other is refused when it has less.
    let status = world.status().await.unwrap();
    let of = |name: &str| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).unwrap()["database"]["position"].as_u64().unwrap_or(0)
    };
    let (best, less) = if of(&stays) >= of(&late) { (&stays, &late) } else { (&late, &stays) };
    if of(best) > of(less) {
        refused(
            &["database", "adopt", less, "--without", &primary, "--confirm", &primary],
            "has received more",
        );
    }
    let begin = Instant::now();
    let done =
        world.json(&["database", "adopt", best, "--without", &primary, "--confirm", &primary]).unwrap();
    assert_eq!((&done["done"], &done["primary"]), (&true.into(), &primary.as_str().into()), "{done}");
    let again = world.written_again(begin, HEALED).await.unwrap();
    println!("adopted: written again after {again:?}; {}", done["text"]);
    let both = |status: &serde_json::Value| {
        status["database"]["primary"] == best.as_str() && status["database"]["mode"] == "sync"
    };
    let status = world.until("the third follows and acknowledges", HEALED, both).await.unwrap();
    assert_eq!(status["database"]["ack_set"], serde_json::json!([less]), "{status}");
    assert!(status["database"]["waits"].is_null(), "{status}");

    // The node is back without its copy: it takes one from the new primary, and never leads by itself.
    world.run(&["dev", "start", &primary]).unwrap();
    world.until("all three", HEALED, well).await.unwrap();
    assert_eq!(&world.primary().await.unwrap(), best);
}
