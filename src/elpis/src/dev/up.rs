//! `elpis dev up`: from an empty folder, or one that was stopped, to a cluster that works.

use super::layout::{Layout, NodePorts, Ports, local};
use super::{control, mariadb, process, supervisor, tail};
use crate::cli::Up;
use crate::find::Cluster;
use crate::operate::cluster as orders;
use crate::output;
use anyhow::{Context, Result, bail};
use elpis_watch::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const FIRST_NODES: usize = 3;
const LOOK: Duration = Duration::from_millis(50);
/// Time for MariaDB, and for a node agent.
const DATABASE: Duration = Duration::from_secs(30);
const AGENT: Duration = Duration::from_secs(20);

/// Lines with the seconds since the begin.
pub(crate) struct Steps {
    begin: Instant,
}

impl Steps {
    pub(crate) fn begin() -> Steps {
        Steps { begin: Instant::now() }
    }

    pub(crate) fn say(&self, text: &str) {
        output::line(&format!("{:6.1} s  {text}", self.begin.elapsed().as_secs_f32()));
    }
}

pub(crate) fn up(layout: &Layout, options: &Up) -> Result<()> {
    let runtime = crate::run::small_runtime()?;
    let running = layout.is_made() && control::is_up(layout)?;
    let ports = match bring_up(layout, options, &Steps::begin(), &runtime) {
        Err(e) if !running && layout.is_made() => {
            control::down(layout)?;
            return Err(e);
        }
        done => done?,
    };
    goodbye(layout, &ports, options.detach);
    if options.detach {
        return Ok(());
    }
    runtime.block_on(stay(layout))?;
    control::down(layout)
}

/// Until the cluster is ready; what runs already is used.
pub(crate) fn bring_up(
    layout: &Layout,
    options: &Up,
    steps: &Steps,
    runtime: &tokio::runtime::Runtime,
) -> Result<Ports> {
    let fresh = !layout.is_made();
    let asked = options.nodes.map_or(if fresh { FIRST_NODES } else { 0 }, usize::from);
    let running = !fresh && control::is_up(layout)?;
    if !fresh && !running {
        control::end_orphans(layout)?;
    }
    if !running {
        steps.say(if fresh { "making the cluster's folder" } else { "starting what is there" });
        if fresh {
            layout.choose_database(!options.one_database)?;
        }
        if !layout.is_managed() {
            mariadb::prepare(layout)?;
        }
    }
    let ports = layout.provide_ports(asked)?;
    if options.feed {
        fs::write(layout.feed_mark(), "").context("cannot switch the feed on")?;
    } else if !running {
        let _ = fs::remove_file(layout.feed_mark());
    }
    if !running {
        check_ports(&ports)?;
        start_supervisor(layout)?;
    }
    if !ports.managed {
        mariadb::wait_ready(layout, DATABASE)?;
        steps.say("MariaDB is up (one server outside the nodes: its availability is not the cluster's)");
    }
    runtime.block_on(form(layout, &ports, steps, Duration::from_secs(options.within)))?;
    Ok(ports)
}

/// A port that another program took while the cluster was down is named before anything starts.
fn check_ports(ports: &Ports) -> Result<()> {
    for node in &ports.nodes {
        for (what, port) in [
            ("cluster", node.cluster),
            ("spool", node.spool),
            ("Tentacle", node.tentacle),
            ("console", node.console),
            ("database gate", node.gate),
        ] {
            if let Err(e) = std::net::TcpListener::bind(local(port)) {
                bail!(
                    "the {what} port of {} ({}) cannot be used: {e}; `ss -ltnp` shows who has it: end that program, \
                     or start anew in another --dir",
                    node.name,
                    local(port)
                );
            }
        }
    }
    Ok(())
}

fn start_supervisor(layout: &Layout) -> Result<()> {
    let path = control::supervisor_log(layout);
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    let mut child = std::process::Command::new(supervisor::own_program()?)
        .args(["dev", "supervise", "--dir"])
        .arg(layout.path(""))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    let begin = Instant::now();
    while process::find(&supervisor::pid_file(layout), &layout.path("")).is_none() {
        if let Some(status) = child.try_wait()? {
            bail!("the supervisor ended ({status}):\n{}", tail(&path, 5));
        }
        if begin.elapsed() > AGENT {
            bail!("the supervisor does not start; see {}", path.display());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Database schema, cluster of one, the other nodes, servers.
async fn form(layout: &Layout, ports: &Ports, steps: &Steps, within: Duration) -> Result<()> {
    let wanted: Vec<&NodePorts> =
        ports.nodes.iter().filter(|node| !layout.down_mark(&node.name).exists()).collect();
    if !ports.managed {
        let password = layout.database_password()?;
        crate::operate::database::migrate(&mariadb::url(layout), mariadb::USER, password).await?;
        steps.say("the database has its schema");
    }
    for (index, node) in wanted.iter().enumerate() {
        let state = wait_agent(layout, node).await?;
        if state == "no-cluster" {
            if index == 0 && !ports.nodes.iter().any(|n| layout.member_mark(&n.name).exists()) {
                init(layout, node).await?;
                steps.say(&format!("{} formed the cluster", node.name));
            } else {
                join(layout, ports, node).await?;
                steps.say(&format!("{} joined", node.name));
            }
        }
        fs::write(layout.member_mark(&node.name), "")?;
    }
    wait_ready(layout, &wanted, steps, within).await
}

async fn wait_agent(layout: &Layout, node: &NodePorts) -> Result<String> {
    let asked = Cluster::of(layout.clone(), Some(node.name.clone()));
    let begin = Instant::now();
    loop {
        match asked.node(Method::GET, "/v1/status", None).await {
            Ok(status) if status["state"] != "joining" => {
                return Ok(status["state"].as_str().unwrap_or("member").to_owned());
            }
            Ok(_) if begin.elapsed() > AGENT => bail!("{} does not finish joining", node.name),
            Err(e) if begin.elapsed() > AGENT => {
                let log = layout.node(&node.name).join("log/node.log");
                bail!(
                    "the node agent of {} does not answer: {e:#}; end of {}:\n{}",
                    node.name,
                    log.display(),
                    tail(&log, 5)
                );
            }
            _ => sleep(LOOK).await,
        }
    }
}

async fn init(layout: &Layout, node: &NodePorts) -> Result<()> {
    let password = layout.database_password()?;
    let body = if layout.is_managed() {
        json!({ "name": "dev", "managed": { "password": password } })
    } else {
        let database = json!({ "url": mariadb::url(layout), "user": mariadb::USER, "password": password });
        json!({ "name": "dev", "database": database })
    };
    let first = Cluster::of(layout.clone(), Some(node.name.clone()));
    first.node(Method::POST, "/v1/cluster/init", Some(&body)).await?;
    Ok(())
}

async fn join(layout: &Layout, ports: &Ports, node: &NodePorts) -> Result<()> {
    let member =
        ports.nodes.iter().find(|n| layout.member_mark(&n.name).exists()).context("no member to join")?;
    let member = Cluster::of(layout.clone(), Some(member.name.clone()));
    let offer = patient(&member, Method::POST, "/v1/cluster/add-node", &json!({})).await?;
    let joiner = Cluster::of(layout.clone(), Some(node.name.clone()));
    let body = json!({ "address": offer["address"], "words": offer["words"] });
    joiner.node(Method::POST, "/v1/cluster/join", Some(&body)).await?;
    orders::follow_join(&joiner, |_, _| {}).await.with_context(|| format!("{} could not join", node.name))
}

/// Repeats an order that a cluster without a master refuses.
async fn patient(cluster: &Cluster, method: Method, path: &str, body: &Value) -> Result<Value> {
    let begin = Instant::now();
    loop {
        match cluster.node(method.clone(), path, Some(body)).await {
            Err(e) if begin.elapsed() > AGENT => return Err(e),
            Err(_) => sleep(LOOK * 4).await,
            done => return done,
        }
    }
}

/// Waits until all shards are owned and every server of every node is up.
async fn wait_ready(layout: &Layout, wanted: &[&NodePorts], steps: &Steps, within: Duration) -> Result<()> {
    let cluster = Cluster::of(layout.clone(), None);
    let begin = Instant::now();
    let mut last = String::new();
    loop {
        let missing = match cluster.node(Method::GET, "/v1/status", None).await {
            Ok(status) => missing(&status, wanted),
            Err(e) => Some(format!("{e:#}")),
        };
        let missing = match missing {
            None => silent(layout, wanted).await,
            missing => missing,
        };
        let Some(missing) = missing else { break };
        if begin.elapsed() > within {
            bail!(
                "the cluster is not ready after {} s: {missing}; logs: {}/n*/log",
                within.as_secs(),
                layout.dir.display()
            );
        }
        if missing != last && begin.elapsed() > Duration::from_secs(2) {
            steps.say(&format!("waiting: {missing}"));
            last = missing;
        }
        sleep(LOOK * 2).await;
    }
    steps.say("every shard has an owner, every server is up, every API answers");
    Ok(())
}

/// A node whose API has not got into the database yet: who is told that all is ready would be refused there.
async fn silent(layout: &Layout, wanted: &[&NodePorts]) -> Option<String> {
    for node in wanted {
        let asked = Cluster::of(layout.clone(), Some(node.name.clone()));
        if let Err(e) = asked.api(Method::GET, "/api/v1/agents", None).await {
            return Some(format!("the API of {}: {e:#}", node.name));
        }
    }
    None
}

/// What is not ready yet.
fn missing(status: &Value, wanted: &[&NodePorts]) -> Option<String> {
    let (owned, total) = (status["shards"]["owned"].as_u64(), status["shards"]["total"].as_u64());
    if status["master"].is_null() {
        return Some("no master yet".into());
    }
    if owned != total || owned.is_none() {
        return Some(format!("{} of {} shards have an owner", owned.unwrap_or(0), total.unwrap_or(0)));
    }
    let database = &status["database"];
    if database["ready"] != true {
        return Some("the database has no schema yet".into());
    }
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    if !database["primary"].is_null() && wanted.len() > 1 && database["mode"] != "sync" {
        return Some("no second copy of the database yet".into());
    }
    for node in wanted {
        let Some(seen) = nodes.iter().find(|n| n["name"] == node.name.as_str()) else {
            return Some(format!("{} is not in the cluster yet", node.name));
        };
        // A primary and two that acknowledge: what comes beyond may take its time.
        let copies = seen["database"]["in_s"] == true || seen["database"]["main"] == "primary";
        let enough = database["ack_set"].as_array().is_some_and(|set| set.len() >= 2);
        if seen["database"].is_object() && !copies && !enough {
            return Some(format!("{} has no whole copy of the database yet", node.name));
        }
        for (service, state) in seen["services"].as_object().into_iter().flatten() {
            if state != "up" {
                return Some(format!(
                    "{service} of {} is {}",
                    node.name,
                    state.as_str().unwrap_or("unknown")
                ));
            }
        }
    }
    None
}

fn goodbye(layout: &Layout, ports: &Ports, detach: bool) {
    let dir = layout.dir.display();
    let mut text = String::from("\n");
    for node in &ports.nodes {
        text.push_str(&format!("  console of {}  https://{}/\n", node.name, local(node.console)));
    }
    if layout.path("admin.password").is_file() {
        text.push_str(&format!("  sign in as admin; the password is in {dir}/admin.password\n"));
    }
    text.push_str(&format!(
        "\n  next:  elpis --dir {dir} cluster status --watch\n         elpis --dir {dir} check add \"tcp {}\"\n         \
         elpis --dir {dir} dev kill n1\n  stop:  ",
        local(ports.sink)
    ));
    text.push_str(&if detach { format!("elpis --dir {dir} dev down\n") } else { "Ctrl-C\n".to_owned() });
    output::print(&text);
}

/// Until Ctrl-C, SIGTERM, or the end of the supervisor.
async fn stay(layout: &Layout) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = sleep(LOOK * 10) => {}
        }
        if process::find(&supervisor::pid_file(layout), &layout.path("")).is_none() {
            output::line("the cluster was stopped from elsewhere");
            return Ok(());
        }
    }
    output::line(&format!("{}: stopping", Signal::SIGINT));
    Ok(())
}
