//! Three nodes in network namespaces on one bridge, and the MariaDB of a development cluster behind a unix socket.

mod addresses;
mod clock;
mod database;
mod links;
mod own_database;

use elpis_watch::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NODES: u8 = 3;
const ROLES: [&str; 7] =
    ["node", "db-gate", "tentacle-server", "data-server", "network-server", "console", "address-keeper"];
/// Of the account through which the nodes' own database is administered.
const PASSWORD: &str = "of-no-worth-in-any-case";
const LOOK: Duration = Duration::from_millis(50);
const QUESTION: Duration = Duration::from_millis(800);

pub(crate) struct World {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    children: BTreeMap<(u8, &'static str), Child>,
    /// The nodes run the database themselves.
    managed: bool,
    /// The nodes hold virtual addresses. Set before the cluster is formed.
    pub(crate) addresses: bool,
    /// Nodes whose processes start with a library that sets their wall clock wrong.
    clocks: BTreeMap<u8, PathBuf>,
}

/// The program next to this test; `cargo build --workspace` makes it.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("elpis");
    assert!(program.is_file(), "{} is not built: cargo build --workspace", program.display());
    program
}

/// Every shard is owned by a node with a live lease.
pub(crate) fn all_owned(status: &Value) -> bool {
    !status["master"].is_null() && status["shards"]["owned"].as_u64() == status["shards"]["total"].as_u64()
}

/// As the cluster calls it.
pub(crate) fn name(node: u8) -> String {
    format!("f{node}")
}

/// Namespaces of this process: of a node, and 0 = of the bridge.
fn space(node: u8) -> String {
    format!("elpis-{}-{node}", std::process::id())
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).output().map_err(|e| e.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

fn must(arguments: &str) {
    ip(arguments).unwrap_or_else(|error| panic!("ip {arguments}: {error}"));
}

impl World {
    /// Why namespaces cannot be made here; `None` = they can.
    pub(crate) fn impossible() -> Option<String> {
        // Several tests of this process look at once.
        static LOOKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let look = LOOKS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let probe = format!("elpis-{}-probe-{look}", std::process::id());
        let made = ip(&format!("netns add {probe}"));
        let filtered = ip(&format!("netns exec {probe} nft list ruleset"));
        let _ = ip(&format!("netns del {probe}"));
        if let Err(error) = made {
            return Some(format!("network namespaces cannot be made: {}", error.trim()));
        }
        filtered.err().map(|error| format!("nftables cannot be used: {}", error.trim()))
    }

    /// With a database outside of the nodes.
    pub(crate) fn new() -> World {
        let world = World::bare(false);
        // Its node is stopped at once: what stays is a MariaDB with a schema and an account.
        world.dev(&["dev", "up", "--detach", "--one-database", "--nodes", "1"]);
        world.dev(&["dev", "stop", "n1"]);
        world
    }

    /// With a copy of the database on each node.
    pub(crate) fn managed() -> World {
        World::bare(true)
    }

    fn bare(managed: bool) -> World {
        let dir = tempfile::Builder::new().prefix("elpis-faults").tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = World {
            dir,
            runtime,
            children: BTreeMap::new(),
            managed,
            addresses: false,
            clocks: BTreeMap::new(),
        };
        must(&format!("netns add {}", space(0)));
        must(&format!("-n {} link add br0 type bridge", space(0)));
        must(&format!("-n {} link set br0 up", space(0)));
        must(&format!("-n {} addr add 10.99.0.254/24 dev br0", space(0)));
        for node in 1..=NODES {
            must(&format!("netns add {}", space(node)));
            must(&format!("-n {} link add v0 type veth peer name p{node} netns {}", space(node), space(0)));
            must(&format!("-n {} addr add 10.99.0.{node}/24 dev v0", space(node)));
            must(&format!("-n {} link set v0 up", space(node)));
            must(&format!("-n {} link set lo up", space(node)));
            must(&format!("-n {} link set p{node} master br0", space(0)));
            must(&format!("-n {} link set p{node} up", space(0)));
            std::fs::create_dir_all(world.folder(node).join("run")).unwrap();
        }
        world
    }

    /// Processes of a node.
    fn roles(&self) -> impl Iterator<Item = &'static str> + use<> {
        let (managed, addresses) = (self.managed, self.addresses);
        ROLES.into_iter().filter(move |role| match *role {
            "db-gate" => managed,
            "address-keeper" => addresses,
            _ => true,
        })
    }

    fn dev(&self, arguments: &[&str]) -> String {
        let done = Command::new(program())
            .args(arguments)
            .arg("--dir")
            .arg(self.dir.path().join("dev"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "elpis {arguments:?}: {text}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        text
    }

    fn folder(&self, node: u8) -> PathBuf {
        self.dir.path().join(name(node))
    }

    fn socket(&self, node: u8, which: &str) -> PathBuf {
        self.folder(node).join("run").join(which)
    }

    /// Starts a process of a node.
    pub(crate) fn start(&mut self, node: u8, role: &'static str) {
        let folder = self.folder(node);
        let data = folder.display().to_string();
        let socket = self.socket(node, "node.sock").display().to_string();
        let at = |port: u16| format!("10.99.0.{node}:{port}");
        let gate = at(7004);
        let mut more: Vec<&str> = Vec::new();
        if self.managed {
            more.extend(["--gate-address", &gate, "--database-memory", "64"]);
        }
        if self.addresses {
            more.push("--virtual-addresses");
        }
        let arguments: Vec<String> = match role {
            "node" => [
                "--data",
                &data,
                "--name",
                &name(node),
                "--listen",
                &at(7000),
                "--spool-address",
                &at(7001),
                "--console-address",
                &at(7002),
            ]
            .iter()
            .chain(&more)
            .map(|word| (*word).to_owned())
            .collect(),
            "db-gate" => {
                ["--socket", &socket, "--data", &data, "--listen", &gate].map(str::to_owned).to_vec()
            }
            "tentacle-server" => [
                "--socket",
                &socket,
                "--data",
                &data,
                "--listen",
                "0.0.0.0:7003",
                "--spool-listen",
                &at(7001),
            ]
            .map(str::to_owned)
            .to_vec(),
            "console" => {
                let password = self.dir.path().join("admin.password").display().to_string();
                ["--socket", &socket, "--data", &data, "--listen", &at(7002), "--admin-password", &password]
                    .map(str::to_owned)
                    .to_vec()
            }
            "data-server" => ["--socket", &socket, "--data", &data].map(str::to_owned).to_vec(),
            _ => ["--socket", &socket].map(str::to_owned).to_vec(),
        };
        let log = File::options().create(true).append(true).open(folder.join(format!("{role}.log"))).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space(node)]);
        if let Some(library) = self.clocks.get(&node) {
            command.arg("env").arg(format!("LD_PRELOAD={}", library.display()));
        }
        let child = command
            .arg(program())
            .arg(role)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.insert((node, role), child);
    }

    /// Node agents, a cluster of all three, servers.
    pub(crate) fn form(&mut self) {
        for node in 1..=NODES {
            self.start(node, "node");
        }
        self.until("node agents answer", Duration::from_secs(20), |world| {
            (1..=NODES).all(|node| world.status(node).is_some())
        });
        let order = match self.managed {
            true => json!({ "name": "faults", "managed": { "password": PASSWORD } }),
            false => json!({ "name": "faults", "database": self.outside_database() }),
        };
        self.ask(1, Method::POST, "/v1/cluster/init", Some(&order)).unwrap();
        for node in 2..=NODES {
            let mut offer = None;
            self.until("a node may be added", Duration::from_secs(20), |world| {
                offer = world.ask(1, Method::POST, "/v1/cluster/add-node", Some(&json!({}))).ok();
                offer.is_some()
            });
            let offer = offer.unwrap();
            let body = json!({ "address": offer["address"], "words": offer["words"] });
            self.ask(node, Method::POST, "/v1/cluster/join", Some(&body)).unwrap();
            self.until("it has joined", Duration::from_secs(60), |world| {
                let progress = world.ask(node, Method::GET, "/v1/cluster/join", None).unwrap_or_default();
                assert!(progress["error"].as_str().is_none_or(str::is_empty), "{progress}");
                progress["done"] == true
            });
        }
        for node in 1..=NODES {
            for role in self.roles().skip(1) {
                self.start(node, role);
            }
        }
        for node in 1..=NODES {
            self.until_back(node);
        }
    }

    fn outside_database(&self) -> Value {
        let env = self.dev(&["dev", "env"]);
        let of = |name: &str| {
            let line = env.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap();
            line.trim_matches('\'').to_owned()
        };
        let password = std::fs::read_to_string(of("ELPIS_DATABASE_PASSWORD_FILE")).unwrap();
        json!({
            "url": of("ELPIS_DATABASE_URL"), "user": of("ELPIS_DATABASE_USER"), "password": password.trim_end(),
        })
    }

    pub(crate) fn add_checks(&self, count: u32, interval_s: u32) {
        let checks: Vec<Value> = (1..=count)
            .map(|n| json!({ "check": format!("tcp 127.1.0.{n}:7003"), "name": "port", "interval_s": interval_s }))
            .collect();
        let body = json!({ "checks": checks });
        self.until("checks can be added", Duration::from_secs(20), |world| {
            world
                .request(&world.socket(1, "api.sock"), Method::POST, "/api/v1/checks/bulk", Some(&body))
                .is_ok()
        });
        let from = self.unix_s();
        self.until("every check has run", Duration::from_secs(30), |world| {
            world.ledger(from, world.unix_s() + 1)["recorded"].as_u64() >= Some(u64::from(count))
        });
    }

    pub(crate) fn ledger(&self, from: i64, to: i64) -> Value {
        let path = format!("/api/v1/ledger?from={from}&to={to}");
        (1..=NODES).find_map(|node| self.api(node, &path).ok()).expect("no node says what the ledger holds")
    }

    /// Asks the API of a node.
    pub(crate) fn api(&self, node: u8, path: &str) -> Result<Value, String> {
        self.request(&self.socket(node, "api.sock"), Method::GET, path, None)
    }

    fn request(
        &self,
        socket: &Path,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let limit = if method == Method::GET { QUESTION } else { Duration::from_secs(30) };
        self.runtime.block_on(async {
            let asked = elpis_watch::request::<Value>(socket, method, path, body);
            match tokio::time::timeout(limit, asked).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            }
        })
    }

    fn ask(&self, node: u8, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        self.request(&self.socket(node, "node.sock"), method, path, body)
    }

    pub(crate) fn status(&self, node: u8) -> Option<Value> {
        self.ask(node, Method::GET, "/v1/status", None).ok()
    }

    /// Of a node that knows a master.
    pub(crate) fn any_status(&self) -> Option<Value> {
        (1..=NODES).filter_map(|node| self.status(node)).find(|status| !status["master"].is_null())
    }

    /// The master's number.
    pub(crate) fn master(&self) -> u8 {
        let begin = Instant::now();
        loop {
            let found = self
                .any_status()
                .and_then(|status| (1..=NODES).find(|node| status["master"] == name(*node).as_str()));
            if let Some(node) = found {
                return node;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "no master{}", self.logs());
            std::thread::sleep(LOOK);
        }
    }

    /// The node with the most work that is not this one.
    pub(crate) fn busiest_but(&self, not: Option<u8>) -> u8 {
        let status = self.any_status().unwrap();
        let node = (1..=NODES)
            .filter(|node| Some(*node) != not)
            .max_by_key(|node| self.shards(&status, *node))
            .unwrap();
        assert!(self.shards(&status, node) > 0, "{status}");
        node
    }

    /// The node of this id.
    pub(crate) fn numbered(&self, id: u64) -> u8 {
        let status = self.any_status().unwrap();
        let lines = status["nodes"].as_array().unwrap();
        let line = lines.iter().find(|line| line["id"] == id).unwrap();
        (1..=NODES).find(|node| line["name"] == name(*node).as_str()).unwrap()
    }

    pub(crate) fn shards(&self, status: &Value, node: u8) -> u64 {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().find(|line| line["name"] == name(node).as_str()).unwrap()["shards"].as_u64().unwrap()
    }

    /// How many failovers moved shards of a node.
    pub(crate) fn reassignments(&self, node: u8) -> usize {
        let status = self.any_status().unwrap();
        let failovers = status["failovers"].as_array().unwrap();
        let of_it = |line: &&Value| line["node"] == name(node).as_str() && line["moved"].as_u64() > Some(0);
        failovers.iter().filter(of_it).count()
    }

    /// Waits; returns how long it took.
    pub(crate) fn until(
        &self,
        what: &str,
        limit: Duration,
        mut good: impl FnMut(&World) -> bool,
    ) -> Duration {
        let begin = Instant::now();
        while !good(self) {
            assert!(
                begin.elapsed() < limit,
                "not within {limit:?}: {what}; status: {:?}{}",
                self.any_status(),
                self.logs()
            );
            std::thread::sleep(LOOK);
        }
        begin.elapsed()
    }

    /// Waits until the others own everything.
    pub(crate) fn until_lost(&self, node: u8, limit: Duration) -> Duration {
        self.until("the others own every shard", limit, |world| {
            let others = (1..=NODES).filter(|other| *other != node);
            others
                .filter_map(|other| world.status(other))
                .any(|s| all_owned(&s) && world.shards(&s, node) == 0)
        })
    }

    /// Waits until a node is up, fit, holds a lease, and nothing is without an owner.
    pub(crate) fn until_back(&self, node: u8) {
        self.until("the node is back", Duration::from_secs(40), |world| {
            world.any_status().is_some_and(|status| {
                let lines = status["nodes"].as_array().unwrap();
                let line = lines.iter().find(|line| line["name"] == name(node).as_str());
                all_owned(&status)
                    && line.is_some_and(|line| {
                        let services = line["services"].as_object();
                        line["state"] == "up"
                            && line["lease_ms_left"].as_i64() > Some(0)
                            && services
                                .is_some_and(|all| !all.is_empty() && all.values().all(|one| one == "up"))
                    })
            })
        });
    }

    /// Starts a process again, as a supervisor would, and waits until its node works with it.
    pub(crate) fn start_again(&mut self, node: u8, role: &'static str) {
        self.start(node, role);
        let process = format!("process {},", self.children[&(node, role)].id());
        self.until("the process is registered", Duration::from_secs(20), |world| {
            let status = world.status(node).unwrap_or_default();
            let events = status["events"].as_array().cloned().unwrap_or_default();
            events.iter().any(|event| event["text"].as_str().is_some_and(|text| text.starts_with(&process)))
        });
        self.until_back(node);
    }

    /// Every process of a node dies at once.
    pub(crate) fn kill_all(&mut self, node: u8) {
        let theirs = self.children.iter_mut().filter(|((of, _), _)| *of == node);
        let mut theirs: Vec<&mut Child> = theirs.map(|(_, child)| child).collect();
        theirs.iter_mut().for_each(|child| child.kill().unwrap());
        for child in theirs {
            child.wait().unwrap();
        }
    }

    pub(crate) fn start_all(&mut self, node: u8) {
        self.roles().for_each(|role| self.start(node, role));
        self.until_back(node);
    }

    /// Sends KILL, STOP or CONT.
    pub(crate) fn signal(&self, node: u8, role: &'static str, signal: &str) {
        let pid = self.children[&(node, role)].id().to_string();
        let done = Command::new("kill").args([format!("-{signal}"), pid]).status().unwrap();
        assert!(done.success(), "{role} of {} does not run", name(node));
    }

    pub(crate) fn runs(&self, node: u8, role: &'static str) -> bool {
        let pid = self.children[&(node, role)].id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[allow(clippy::disallowed_methods)] // the namespaces of this machine share its clock
    pub(crate) fn unix_s(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(since.as_secs()).unwrap()
    }

    /// Ends of all logs.
    fn logs(&self) -> String {
        let done = Command::new("sh")
            .args(["-c", "tail -n 4 f*/*.log"])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        format!("\n{}", String::from_utf8_lossy(&done.stdout))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.end_databases();
        for node in 0..=NODES {
            let _ = ip(&format!("netns del {}", space(node)));
        }
    }
}
