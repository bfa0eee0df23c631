//! Three MariaDB servers of this machine, told what to do by the stock client.

use crate::scripts::Trio;
use elpis_sim::mariadb::{Outcome, Role, Stopped};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Without an answer for so long a statement hangs.
const HANGS: Duration = Duration::from_millis(800);
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// InnoDB flushes its log once a second.
const FLUSH: Duration = Duration::from_millis(1_200);

/// Accounts and the table; written to no binary log.
const FIRST: &str = "CREATE DATABASE d;\nCREATE TABLE d.t (id BIGINT PRIMARY KEY) ENGINE=InnoDB;\n\
    CREATE USER app@localhost IDENTIFIED BY 'a';\nGRANT SELECT, INSERT ON d.* TO app@localhost;\n\
    CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'r';\nGRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1';\n";

/// `ha.md` 2.7, small.
const SETTINGS: &str = "skip-name-resolve\nskip-slave-start\nread-only=ON\nlog-bin=bin\nlog-slave-updates=ON\n\
    relay-log=relay\nbinlog-format=ROW\nbinlog-row-image=FULL\nbinlog-annotate-row-events=OFF\ngtid-domain-id=0\n\
    gtid-strict-mode=ON\nsync-binlog=1\ninnodb-flush-log-at-trx-commit=1\nevent-scheduler=OFF\n\
    transaction-isolation=READ-COMMITTED\nrpl-semi-sync-slave-enabled=ON\nrpl-semi-sync-master-enabled=OFF\n\
    rpl-semi-sync-master-wait-point=AFTER_SYNC\nrpl-semi-sync-master-timeout=18446744073709551615\n\
    rpl-semi-sync-master-wait-no-slave=ON\nrpl-semi-sync-slave-kill-conn-timeout=1\nslave-net-timeout=2\n\
    slave-parallel-threads=2\nslave-parallel-mode=optimistic\n\
    innodb-buffer-pool-size=32M\ninnodb-log-file-size=16M\ninnodb-log-buffer-size=2M\nkey-buffer-size=1M\n\
    aria-pagecache-buffer-size=1M\nmax-connections=30\nquery-cache-size=0\nperformance-schema=OFF\n\
    innodb-buffer-pool-dump-at-shutdown=0\ninnodb-buffer-pool-load-at-startup=0\n";

pub(crate) struct Real {
    dir: tempfile::TempDir,
    round: u32,
    ports: [u16; 3],
    servers: [Option<Child>; 3],
    clients: BTreeMap<u64, Child>,
    outcomes: BTreeMap<u64, Outcome>,
    seen: Vec<String>,
}

fn user() -> Vec<String> {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root { vec!["--user=root".to_owned()] } else { Vec::new() }
}

/// Waits for the end of a process; `None` = it goes on.
fn ended(child: &mut Child, limit: Duration) -> Option<bool> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        if begin.elapsed() > limit {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

impl Real {
    /// Makes the folder that all servers start from.
    pub(crate) fn new() -> Result<Real, String> {
        let dir = tempfile::Builder::new().prefix("elpis-twin").tempdir().unwrap();
        let first = dir.path().join("first");
        let made = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", first.display()))
            .args(user())
            .output()
            .map_err(|error| format!("mariadb-install-db cannot be started: {error}"))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(dir.path().join("first.sql"), FIRST).unwrap();
        // All at once: a port that is closed again may be given out twice.
        let free: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = [0, 1, 2].map(|at: usize| free[at].local_addr().unwrap().port());
        drop(free);
        let servers = [None, None, None];
        let (clients, outcomes, seen) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut real = Real { dir, round: 0, ports, servers, clients, outcomes, seen };
        let init = format!("--init-file={}", real.dir.path().join("first.sql").display());
        let socket = real.dir.path().join("first.sock");
        let mut server = Command::new("mariadbd")
            .arg("--no-defaults")
            .args(["--skip-networking", "--innodb-log-file-size=16M", &init])
            .arg(format!("--datadir={}", first.display()))
            .arg(format!("--socket={}", socket.display()))
            .args(user())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("mariadbd cannot be started: {error}"))?;
        let begin = Instant::now();
        while !real.answers(&socket) {
            assert!(begin.elapsed() < PATIENCE, "the first server does not start");
            std::thread::sleep(LOOK);
        }
        real.signal(&server, "TERM");
        assert_eq!(ended(&mut server, PATIENCE), Some(true));
        real.fresh();
        Ok(real)
    }

    /// New servers without rows.
    pub(crate) fn fresh(&mut self) {
        self.end();
        (self.outcomes, self.seen) = (BTreeMap::new(), Vec::new());
        self.round += 1;
        for server in 0..3 {
            let folder = self.folder(server);
            std::fs::create_dir_all(&folder).unwrap();
            let copied = Command::new("cp")
                .arg("-a")
                .arg(self.dir.path().join("first"))
                .arg(folder.join("data"))
                .status()
                .unwrap();
            assert!(copied.success());
        }
    }

    fn end(&mut self) {
        let children = self.servers.iter_mut().filter_map(Option::take);
        for mut child in children.chain(std::mem::take(&mut self.clients).into_values()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(self.dir.path().join(self.round.to_string()));
    }

    fn folder(&self, server: usize) -> PathBuf {
        self.dir.path().join(self.round.to_string()).join(server.to_string())
    }

    fn socket(&self, server: usize) -> PathBuf {
        self.folder(server).join("s")
    }

    fn signal(&self, child: &Child, signal: &str) {
        let sent =
            Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn client(socket: &Path, user: &str, sql: &str) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--skip-column-names", "--batch", "--connect-timeout=2"]);
        client.arg(format!("--user={user}")).arg(format!("--socket={}", socket.display()));
        client.args(["-e", sql]).env("MYSQL_PWD", if user == "app" { "a" } else { "" });
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client
    }

    fn answers(&self, socket: &Path) -> bool {
        Real::client(socket, "root", "SELECT 1").output().is_ok_and(|done| done.status.success())
    }

    fn sql(&self, server: usize, sql: &str) -> String {
        let done = Real::client(&self.socket(server), "root", sql).output().unwrap();
        assert!(done.status.success(), "{sql} at {server}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn slave_status(&self, server: usize) -> String {
        // With the names of the columns, which the other questions do without.
        let mut client = Real::client(&self.socket(server), "root", "SHOW ALL SLAVES STATUS\\G");
        let done = client.arg("--column-names").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// A line of `SHOW ALL SLAVES STATUS`.
    fn replica(&self, server: usize, name: &str) -> String {
        let text = self.slave_status(server);
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:")));
        line.unwrap_or_default().trim().to_owned()
    }

    /// Everything that replication moves.
    fn standing(&self) -> Vec<String> {
        let up = (0..3).filter(|server| self.servers[*server].is_some());
        let names =
            ["Gtid_IO_Pos", "Slave_IO_Running", "Slave_SQL_Running", "Last_IO_Errno", "Last_SQL_Errno"];
        up.map(|server| {
            let own = self.sql(server, "SELECT @@gtid_binlog_pos, @@gtid_slave_pos, COUNT(*) FROM d.t");
            let text = self.slave_status(server);
            let lines = text.lines().filter(|line| names.iter().any(|name| line.contains(name)));
            own + &lines.collect::<String>()
        })
        .collect()
    }
}

fn sequence(gtid: &str) -> u64 {
    gtid.rsplit('-').next().unwrap_or_default().parse().unwrap_or(0)
}

impl Trio for Real {
    fn start(&mut self, server: usize, role: Role, id: u32) {
        let folder = self.folder(server);
        let settings = format!(
            "[mariadbd]\n{SETTINGS}server-id={id}\nport={}\nbind-address=127.0.0.1\ndatadir={}\nsocket={}\n",
            self.ports[server],
            folder.join("data").display(),
            self.socket(server).display(),
        );
        std::fs::write(folder.join("my.cnf"), settings).unwrap();
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let role = if role == Role::Master { "MASTER" } else { "SLAVE" };
        // Ends with this test, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "mariadbd"])
            .arg(format!("--defaults-file={}", folder.join("my.cnf").display()))
            .arg(format!("--init-rpl-role={role}"))
            .args(user())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.servers[server] = Some(child);
        let begin = Instant::now();
        while !self.answers(&self.socket(server)) {
            assert!(
                begin.elapsed() < PATIENCE,
                "server {server} does not start: {}",
                std::fs::read_to_string(folder.join("log")).unwrap_or_default()
            );
            std::thread::sleep(LOOK);
        }
    }

    fn kill(&mut self, server: usize) {
        let mut child = self.servers[server].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn terminate(&mut self, server: usize) {
        let mut child = self.servers[server].take().unwrap();
        self.signal(&child, "TERM");
        assert!(ended(&mut child, PATIENCE).is_some(), "server {server} does not end");
    }

    fn insert(&mut self, server: usize, row: u64) -> Outcome {
        let sql = format!("INSERT INTO d.t VALUES ({row})");
        let client = Real::client(&self.socket(server), "app", &sql).spawn().unwrap();
        self.clients.insert(row, client);
        self.outcome(row)
    }

    fn outcome(&mut self, row: u64) -> Outcome {
        let Some(client) = self.clients.get_mut(&row) else { return self.outcomes[&row] };
        let outcome = match ended(client, HANGS) {
            None => return Outcome::Hangs,
            Some(true) => Outcome::Acknowledged,
            Some(false) => {
                let mut error = String::new();
                client.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                // 1290: read_only; 2002: nobody listens.
                let refused = error.contains("ERROR 1290") || error.contains("ERROR 2002");
                if refused { Outcome::Refused } else { Outcome::Unknown }
            }
        };
        self.clients.remove(&row);
        self.outcomes.insert(row, outcome);
        outcome
    }

    fn read_only(&mut self, server: usize, on: bool) -> bool {
        let sql = format!("SET GLOBAL read_only={}", u8::from(on));
        let mut client = Real::client(&self.socket(server), "root", &sql).spawn().unwrap();
        let done = ended(&mut client, HANGS);
        if done.is_none() {
            let _ = client.kill();
            let _ = client.wait();
        }
        done == Some(true)
    }

    fn semi_master(&mut self, server: usize, on: bool) {
        self.sql(server, &format!("SET GLOBAL rpl_semi_sync_master_enabled={}", u8::from(on)));
    }

    fn set_id(&mut self, server: usize, id: u32) {
        self.sql(server, &format!("SET GLOBAL server_id={id}"));
    }

    fn semi_slave(&mut self, server: usize, on: bool) {
        self.sql(server, &format!("SET GLOBAL rpl_semi_sync_slave_enabled={}", u8::from(on)));
    }

    fn follow(&mut self, server: usize, source: usize, demote: bool) {
        // Not MASTER_DEMOTE_TO_SLAVE: that looks for transactions of the present server_id alone.
        let demote = if demote { "SET GLOBAL gtid_slave_pos=@@gtid_binlog_pos;" } else { "" };
        self.sql(
            server,
            &format!(
                "STOP SLAVE; {demote} CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='repl', \
                 MASTER_PASSWORD='r', MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=0.5, \
                 MASTER_USE_GTID=slave_pos; START SLAVE",
                self.ports[source]
            ),
        );
    }

    fn start_io(&mut self, server: usize) {
        self.sql(server, "START SLAVE IO_THREAD");
    }

    fn start_sql(&mut self, server: usize) {
        self.sql(server, "START SLAVE SQL_THREAD");
    }

    fn stop_io(&mut self, server: usize) {
        self.sql(server, "STOP SLAVE IO_THREAD");
    }

    fn stop_sql(&mut self, server: usize) {
        self.sql(server, "STOP SLAVE SQL_THREAD");
    }

    fn stop_slave(&mut self, server: usize) {
        self.sql(server, "STOP SLAVE");
    }

    fn reset_slave(&mut self, server: usize) {
        self.sql(server, "RESET SLAVE ALL");
    }

    fn rows(&mut self, server: usize) -> Vec<u64> {
        let text = self.sql(server, "SELECT id FROM d.t ORDER BY id");
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn positions(&mut self, server: usize) -> (u64, u64) {
        let applied = self.sql(server, "SELECT @@gtid_slave_pos");
        (sequence(&self.replica(server, "Gtid_IO_Pos")), sequence(&applied))
    }

    fn binlog(&mut self, server: usize) -> Option<(u64, u32)> {
        let text = self.sql(server, "SELECT @@gtid_binlog_pos");
        let id = text.split('-').nth(1)?.parse().ok()?;
        Some((sequence(&text), id))
    }

    fn error(&mut self, server: usize) -> Option<Stopped> {
        let (io, sql) = (self.replica(server, "Last_IO_Errno"), self.replica(server, "Last_SQL_Errno"));
        match (io.as_str(), sql.as_str()) {
            ("1236", _) => Some(Stopped::Diverged),
            (_, "1950") => Some(Stopped::OutOfOrder),
            ("0" | "", "0" | "") => None,
            other => panic!("unexpected errors of replication: {other:?}"),
        }
    }

    fn settle(&mut self) {
        let begin = Instant::now();
        let mut before = self.standing();
        loop {
            // Longer than a replica waits before it connects again.
            std::thread::sleep(FLUSH);
            let now = self.standing();
            if now == before {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "replication does not come to rest: {now:?}");
            before = now;
        }
    }

    fn see(&mut self, what: String) {
        self.seen.push(what);
    }

    fn seen(&self) -> &[String] {
        &self.seen
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.end();
    }
}
