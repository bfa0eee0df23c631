//! A private MariaDB for tests: one server a test process, one migrated database a test.

use crate::{AccessRole, Endpoint, Gate, Secret, Store, migrate};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Executor, Row, ValueRef};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Server and its babysitter: a shell that waits for the end of its input, which comes when this process ends in any
/// way, and then ends the server and removes the folder.
struct Server {
    _babysitter: Child,
    socket: PathBuf,
}

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
static DURABLE: OnceLock<Result<Server, String>> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// No flushing to disk: tests do not cut the power.
const SETTINGS: &[&str] = &[
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-log-buffer-size=2M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=OFF",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--max-connections=200",
    "--table-open-cache=1000",
    "--query-cache-size=0",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-dump-at-shutdown=0",
    "--innodb-buffer-pool-load-at-startup=0",
    "--skip-networking",
    "--skip-name-resolve",
    // What MySQL always demands.
    "--sql-mode=STRICT_TRANS_TABLES,ONLY_FULL_GROUP_BY,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
];

/// As a small production server: what is committed stands after a power cut, in the tables and in the binary log.
pub const LASTING: &[&str] = &[
    "--innodb-buffer-pool-size=1G",
    "--innodb-log-file-size=512M",
    "--innodb-flush-log-at-trx-commit=1",
    "--log-bin=binlog",
    "--server-id=1",
    "--sync-binlog=1",
    "--binlog-format=ROW",
    "--binlog-annotate-row-events=OFF",
    "--max-allowed-packet=64M",
    "--query-cache-size=0",
    "--performance-schema=OFF",
    "--skip-networking",
    "--skip-name-resolve",
];

const BABYSITTER: &str = r#"dir=$1; shift
setpriv --pdeathsig KILL -- mariadbd "$@" >"$dir/log" 2>&1 &
pid=$!
read -r line
{ kill -9 $pid; wait $pid; } 2>/dev/null; rm -rf "$dir""#;

/// A migrated database of its own.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    socket: PathBuf,
    user: String,
}

impl TestDb {
    /// Starts the server where it is not running yet and makes a migrated database.
    pub async fn fresh() -> Result<TestDb, String> {
        let db = TestDb::empty().await?;
        migrate(&db.endpoint()).await.map_err(|e| e.to_string())?;
        Ok(db)
    }

    /// A migrated database on a server with durable settings and a pool of 1 GiB, for measuring.
    pub async fn durable() -> Result<TestDb, String> {
        let db = TestDb::on(&DURABLE, LASTING).await?;
        migrate(&db.endpoint()).await.map_err(|e| e.to_string())?;
        Ok(db)
    }

    /// As [`TestDb::fresh`], without the database.
    pub async fn empty() -> Result<TestDb, String> {
        TestDb::on(&SERVER, SETTINGS).await
    }

    /// A database of a server that runs already, through its socket and without a password.
    pub fn of(name: &str, socket: PathBuf, user: &str) -> TestDb {
        TestDb { name: name.to_owned(), socket, user: user.to_owned() }
    }

    async fn on(
        server: &'static OnceLock<Result<Server, String>>,
        settings: &'static [&'static str],
    ) -> Result<TestDb, String> {
        let begin = move || server.get_or_init(|| start(settings)).as_ref().map_err(Clone::clone);
        let server = tokio::task::spawn_blocking(begin).await.map_err(|e| e.to_string())??;
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(TestDb { name, socket: server.socket.clone(), user: "root".to_owned() })
    }

    /// Its address, epoch 1.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            epoch: 1,
            url: format!("mysql://localhost/{}?socket={}", self.name, self.socket.display()),
            user: self.user.clone(),
            password: Secret::new(""),
        }
    }

    /// A store whose lease is always valid, in session 1.
    pub async fn store(&self) -> Result<Store, String> {
        self.store_with(Arc::new(|| Some(1))).await
    }

    /// A store with a gate of its own.
    pub async fn store_with(&self, gate: Gate) -> Result<Store, String> {
        Store::connect(&self.endpoint(), 8, gate).await.map_err(|e| e.to_string())
    }

    /// A bare connection, for looking and for doing what the product never does.
    pub async fn connection(&self) -> Result<MySqlConnection, String> {
        self.endpoint().options().map_err(|e| e.to_string())?.connect().await.map_err(|e| e.to_string())
    }

    /// Runs SQL as it stands.
    pub async fn execute(&self, sql: &str) -> Result<(), String> {
        let mut conn = self.connection().await?;
        conn.execute(AssertSqlSafe(sql)).await.map_err(|e| format!("{sql}: {e}"))?;
        conn.close().await.map_err(|e| e.to_string())
    }

    /// Rows as text, columns separated by `|`, NULL as `-`.
    pub async fn rows(&self, sql: &str) -> Result<Vec<String>, String> {
        let mut conn = self.connection().await?;
        let rows = conn.fetch_all(AssertSqlSafe(sql)).await.map_err(|e| format!("{sql}: {e}"))?;
        Ok(rows.iter().map(text).collect())
    }
}

/// Every statement of the crate, for the test that prepares them: name, text.
pub fn statements() -> Vec<(String, String)> {
    crate::statements::all()
}

/// The statements of a role, and its privileges: table, privilege.
#[allow(clippy::type_complexity)] // two plain lists
pub fn role(role: AccessRole) -> (Vec<(String, String)>, Vec<(&'static str, &'static str)>) {
    (crate::statements::of_role(role), crate::access::privileges(role))
}

/// The text protocol brings every value as text.
fn text(row: &sqlx::mysql::MySqlRow) -> String {
    let cell = |i: usize| match row.try_get_raw(i) {
        Ok(value) if value.is_null() => "-".to_owned(),
        Ok(_) => row.try_get_unchecked::<Vec<u8>, _>(i).map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8(bytes).unwrap_or_else(|e| hex(e.as_bytes())),
        ),
        Err(error) => error.to_string(),
    };
    row.columns().iter().map(|c| cell(c.ordinal())).collect::<Vec<_>>().join("|")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn start(settings: &[&str]) -> Result<Server, String> {
    let what = |what: &'static str| {
        move |e: std::io::Error| format!("{what}: {e} (is mariadb-server-core installed?)")
    };
    // Short, because a socket's path is limited to 107 bytes.
    let dir = tempfile::Builder::new().prefix("elpis-db").tempdir().map_err(what("temporary folder"))?.keep();
    let root = std::fs::metadata(&dir).map_err(what("temporary folder"))?.uid() == 0;
    let data = dir.join("data");
    let socket = dir.join("s");
    let user: &[&str] = if root { &["--user=root"] } else { &[] };
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .args(user)
        .stdin(Stdio::null())
        .output()
        .map_err(what("mariadb-install-db"))?;
    if !installed.status.success() {
        return Err(format!("mariadb-install-db: {}", String::from_utf8_lossy(&installed.stderr)));
    }
    let babysitter = Command::new("sh")
        .args(["-c", BABYSITTER, "sh"])
        .arg(&dir)
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .args(user)
        .args(settings)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(what("sh"))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if Instant::now() > deadline {
            let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            return Err(format!("mariadbd did not start within 30 s:\n{log}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Server { _babysitter: babysitter, socket })
}
