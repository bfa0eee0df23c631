//! A real browser: signs in, sees live data, watches a node go. Screenshots are kept in `target/artefacts`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may stop at the first surprise

#[path = "support/driver.rs"]
mod driver;
#[path = "support/fill.rs"]
mod fill;
#[path = "support/node.rs"]
mod node;

use driver::Driver;
use node::World;
use serde_json::json;
use std::io::Write;

async fn browser(name: &str) -> Option<Driver> {
    let driver = Driver::start(name).await;
    if driver.is_none() {
        // Past the test harness, which keeps what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: chromium or chromedriver is not installed; `make setup` installs them"
        );
    }
    driver
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_chooses_a_password_before_anything_else() {
    let Some(driver) = browser("first-password").await else { return };
    let world = World::start_anew().await;
    let password = world.password().await;
    let base = format!("https://{}", world.listen);
    driver.go(&format!("{base}/cluster")).await;
    driver.fill("input[name=name]", "admin").await;
    driver.fill("input[name=password]", &password).await;
    driver.click("button.main").await;
    driver.wait_text("Choose a password of your own").await;
    driver.screenshot("1-must-change").await;
    // Neither an address nor the keys lead elsewhere.
    driver.go(&format!("{base}/agents")).await;
    driver.wait_text("Choose a password of your own").await;
    driver.keys("go").await;
    driver.wait_text("Choose a password of your own").await;
    driver.fill("input[name=current]", &password).await;
    driver.fill("input[name=new]", "correct-horse").await;
    driver.fill("input[name=again]", "correct-horse").await;
    driver.click("button.main").await;
    driver.wait_text("have ended").await;
    driver.screenshot("2-changed").await;
    driver.keys("gc").await;
    driver.wait_text("gives out leases").await;
    assert_eq!(driver.complaints().await, Vec::<String>::new(), "the browser complains (content security?)");
    driver.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_and_watches_a_node_go() {
    let Some(driver) = browser("console").await else { return };
    let world = World::start().await;
    fill::fill(&world, 60).await;
    let password = world.password().await;
    let base = format!("https://{}", world.listen);
    driver.go(&format!("{base}/cluster")).await;
    driver.wait_text("Sign in to this cluster").await;
    driver.screenshot("1-sign-in").await;
    driver.fill("input[name=name]", "admin").await;
    driver.fill("input[name=password]", &password).await;
    driver.click("button.main").await;
    driver.wait_text("gives out leases").await;
    driver.screenshot("2-cluster").await;

    // Node n3 dies: the page says so by itself.
    {
        let mut status = world.status.lock().unwrap();
        status["nodes"][2]["state"] = json!("down");
        status["nodes"][2]["lease_ms_left"] = json!(0);
        status["nodes"][2]["shards"] = json!(0);
        status["nodes"][2]["services"] = json!({});
        status["can_lose"] = json!(0);
        status["reason"] = json!("2 of 3 voters live, 2 are needed");
        let older = status["failovers"][0].clone();
        status["failovers"] = json!([
            {"node": "n3", "at": world.now() * 1000 - 4000, "detected_ms": 1012, "reassigned_ms": 1071,
             "first_result_ms": 1390, "moved": 1365, "missed": null, "recorded_twice": null, "reason": "silent"},
            older
        ]);
    }
    driver.wait_text("1390 ms").await;
    driver.wait_text("2 of 3 voters live").await;
    driver.wait_in("#pill", "can lose 0 nodes").await;
    driver.screenshot("3-cluster-node-lost").await;

    driver.go(&base).await;
    driver.wait_text("Broken now").await;
    driver.screenshot("4-overview").await;
    // Values follow without a reload.
    world.db.execute("UPDATE tmodule_state SET data='91.70000', status=1, last_status_change=utimestamp WHERE id_agent_module=20").await.unwrap();
    world.db.execute("UPDATE tagent_count SET critical_count=critical_count+1, warning_count=warning_count-1 WHERE id_agent=1").await.unwrap();
    driver.wait_text("91.7 %").await;
    driver.click("button[name=to]").await;
    driver.wait_text("Broken now").await;
    for (name, path) in [
        ("5-overview-dark", "/"),
        ("6-cluster-dark", "/cluster"),
        ("7-agents-dark", "/agents"),
        ("8-agent-dark", "/agents/1"),
        ("9-module-dark", "/modules/20?span=86400"),
        ("10-events-dark", "/events"),
    ] {
        driver.go(&format!("{base}{path}")).await;
        driver.wait_text("Times are UTC").await;
        driver.screenshot(name).await;
    }
    driver.click("button[name=to]").await;
    for (name, path) in [
        ("11-module", "/modules/20"),
        ("12-agents", "/agents"),
        ("13-agent", "/agents/1"),
        ("14-events", "/events"),
    ] {
        driver.go(&format!("{base}{path}")).await;
        driver.wait_text("Times are UTC").await;
        driver.screenshot(name).await;
    }
    // Keys lead from page to page.
    driver.keys("go").await;
    driver.wait_text("Broken now").await;
    assert_eq!(driver.complaints().await, Vec::<String>::new(), "the browser complains (content security?)");
    driver.end().await;
}
