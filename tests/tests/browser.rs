//! A person with a real browser in front of a real cluster: signs in on one node, sees values follow, opens the cluster
//! page of another node, and watches there how the first node is killed and its work moves. Screenshots are kept.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "support/dev.rs"]
mod dev;
#[path = "../../src/console/tests/support/driver.rs"]
mod driver;

use dev::{Dev, all_owned, node};
use driver::Driver;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

const CHECKS: u8 = 40;
const SOON: Duration = Duration::from_secs(30);
/// A page that was loaded again has forgotten it.
const MARK: &str = "window.elpisTest = 1";
const STILL: &str = "return window.elpisTest === 1";
const VALUES: &str = "return [...document.querySelectorAll('td.value')].map((cell) => cell.title).join('|')";

/// What the row of a node on the cluster page says: state, and shards as its last number but one.
fn row(name: &str) -> String {
    format!("tr[data-node={name}]")
}

fn shards(name: &str) -> String {
    format!("return Number(document.querySelector('tr[data-node={name}] td:nth-child(5)').innerText)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_watches_a_real_node_die() {
    let Some(driver) = Driver::start("cluster").await else {
        // Past the test harness, which keeps what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: chromium or chromedriver is not installed; `make setup` installs them"
        );
        return;
    };
    let _ = writeln!(std::io::stderr(), "screenshots: {}", driver.artefacts().display());
    let dev = tokio::task::spawn_blocking(|| Dev::up(&["--feed"])).await.unwrap();
    let console = |number: u8| format!("https://{}", dev.env(&format!("ELPIS_CONSOLE_{number}")));
    let sink = dev.env("ELPIS_SINK");
    let port = sink.rsplit(':').next().unwrap();
    for number in 1..=CHECKS {
        dev.run(&["check", "add", &format!("tcp 127.1.0.{number}:{port}"), "--interval", "2"]);
    }
    let ledger = ["ledger", "check", "--to", "0s"];
    dev.until("every check ran", SOON, &ledger, |l| l["recorded"].as_u64() >= Some(u64::from(CHECKS)));

    // The first node: signing in, this machine's own figures, which follow without a reload.
    let (first, second) = (console(1), console(2));
    driver.go(&format!("{first}/agents")).await;
    driver.wait_text("Sign in to this cluster").await;
    driver.screenshot("1-sign-in").await;
    driver.fill("input[name=name]", "admin").await;
    driver.fill("input[name=password]", dev.read("admin.password").trim()).await;
    driver.click("button.main").await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    driver.wait_text(&host).await;
    driver.screenshot("2-agents").await;
    driver.go(&format!("{first}/agents/{host}")).await;
    driver.wait_text("Last contact").await;
    driver.run(MARK).await;
    let before = driver.run(VALUES).await;
    assert!(before.as_str().is_some_and(|values| values.contains('|')), "{before}");
    driver.until("a value follows", SOON, VALUES, |now| *now != before).await;
    assert_eq!(driver.run(STILL).await, true, "the page was loaded again");
    driver.screenshot("3-agent-live").await;

    // The second node's cluster page, with the session of the first: three nodes share the work.
    driver.go(&format!("{second}/cluster")).await;
    driver.wait_text("gives out leases").await;
    driver.wait_in("#live-state", "live").await;
    driver.run(MARK).await;
    for name in ["n1", "n2", "n3"] {
        driver.until(name, SOON, &shards(name), |n| n.as_u64() > Some(0)).await;
    }
    driver.screenshot("4-cluster").await;

    // The first node dies, the one that was signed in on. The page says so by itself.
    dev.run(&["dev", "kill", "n1"]);
    driver.until("its work moves", SOON, &shards("n1"), |n| n.as_u64() == Some(0)).await;
    driver.screenshot("5-killed").await;
    driver.wait_in(&row("n1"), "down").await;
    driver.wait_in("ol.timeline li[data-lost=n1]", "first result").await;
    driver.wait_in("ol.timeline li[data-lost=n1]", " ms").await;
    let (two, three) = (driver.run(&shards("n2")).await, driver.run(&shards("n3")).await);
    assert_eq!(two.as_u64().unwrap() + three.as_u64().unwrap(), 4096, "{two} + {three}");
    let course =
        "return document.querySelector('ol.timeline li[data-lost=n1] svg').getAttribute('aria-label')";
    let course: Value = driver.run(course).await;
    let _ = writeln!(std::io::stderr(), "the page of n2 tells of n1: {course}");
    driver.screenshot("6-failover").await;

    // It comes back and gets work again, before the same eyes.
    dev.run(&["dev", "start", "n1"]);
    driver.wait_in(&row("n1"), "all 5 up").await;
    driver.until("it works again", SOON, &shards("n1"), |n| n.as_u64() > Some(0)).await;
    driver.screenshot("7-back").await;
    assert_eq!(driver.run(STILL).await, true, "the page was loaded again");
    assert_eq!(driver.complaints().await, Vec::<String>::new(), "the browser complains (content security?)");

    let status = dev.json(&["cluster", "status"]);
    assert!(all_owned(&status) && node(&status, "n1")["state"] == "up", "{status}");
    assert_eq!(dev.json(&["ledger", "check"])["recorded_twice"], 0);
    driver.end().await;
}
