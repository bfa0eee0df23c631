//! The private MariaDB of a development cluster: one server, one folder, reached by a unix socket only. As in a real
//! cluster it has an administration account, with which the nodes make their own.

use super::layout::{Layout, write_whole};
use anyhow::{Context, Result, bail};
use elpis_cluster::agent::accounts::socket_url;
use elpis_database::{program, user_name};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Administration account of the cluster.
pub(crate) const USER: &str = "elpis";
/// Name of the database.
const DATABASE: &str = "elpis";

pub(crate) fn folder(layout: &Layout) -> PathBuf {
    layout.path("mariadb")
}

pub(crate) fn socket(layout: &Layout) -> PathBuf {
    folder(layout).join("s")
}

pub(crate) fn pid_file(layout: &Layout) -> PathBuf {
    folder(layout).join("mariadbd.pid")
}

pub(crate) fn log_file(layout: &Layout) -> PathBuf {
    folder(layout).join("log")
}

/// `mysql://localhost/elpis?socket=…`
pub(crate) fn url(layout: &Layout) -> String {
    socket_url(&socket(layout))
}

/// Makes data folder, settings and account where they are missing. The account is made anew at each start of the
/// server, by a file: no password is ever on a command line.
pub(crate) fn prepare(layout: &Layout) -> Result<()> {
    let folder = folder(layout);
    if !folder.join("data/mysql").is_dir() {
        install(&folder)?;
    }
    fs::create_dir_all(folder.join("tmp"))
        .with_context(|| format!("cannot make {}/tmp", folder.display()))?;
    let password = layout.database_password()?;
    let accounts = format!(
        "CREATE USER IF NOT EXISTS '{USER}'@'localhost';\n\
         ALTER USER '{USER}'@'localhost' IDENTIFIED BY '{password}';\n\
         GRANT CREATE USER ON *.* TO '{USER}'@'localhost';\n\
         GRANT ALL ON `{DATABASE}`.* TO '{USER}'@'localhost' WITH GRANT OPTION;\n"
    );
    let file = folder.join("accounts.sql");
    let _ = fs::remove_file(&file);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
    std::io::Write::write_all(&mut out, accounts.as_bytes())?;
    write_whole(&folder.join("my.cnf"), settings(&folder).as_bytes())
}

/// Durable (a commit survives the loss of power), small, no network.
fn settings(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "[mariadbd]\n\
         datadir={folder}/data\n\
         tmpdir={folder}/tmp\n\
         socket={folder}/s\n\
         pid-file={folder}/mysql.pid\n\
         init-file={folder}/accounts.sql\n\
         skip-networking\n\
         server-id=1\n\
         log-bin={folder}/data/binlog\n\
         binlog-format=ROW\n\
         binlog-annotate-row-events=OFF\n\
         binlog-expire-logs-seconds=3600\n\
         max-binlog-size=128M\n\
         sync-binlog=1\n\
         innodb-flush-log-at-trx-commit=1\n\
         innodb-buffer-pool-size=256M\n\
         innodb-log-file-size=96M\n\
         innodb-buffer-pool-dump-at-shutdown=0\n\
         innodb-buffer-pool-load-at-startup=0\n\
         transaction-isolation=READ-COMMITTED\n\
         max-allowed-packet=64M\n\
         max-connections=300\n\
         query-cache-size=0\n\
         performance-schema=OFF\n\
         event-scheduler=OFF\n\
         skip-name-resolve\n"
    )
}

fn install(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder.join("data"));
    fs::create_dir_all(folder.join("data")).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    // Not /tmp: servers of other process namespaces would take each other's temporary tables.
    fs::create_dir_all(folder.join("tmp"))?;
    let user = user_name()?;
    let mut command = Command::new(program("mariadb-install-db")?);
    command
        .arg("--no-defaults")
        .arg(format!("--datadir={}", folder.join("data").display()))
        .arg(format!("--tmpdir={}", folder.join("tmp").display()))
        .arg("--auth-root-authentication-method=socket")
        .arg(format!("--auth-root-socket-user={user}"))
        .arg("--skip-test-db");
    if user == "root" {
        command.arg("--user=root");
    }
    let done = command.stdin(Stdio::null()).output().context("cannot start mariadb-install-db")?;
    if !done.status.success() {
        let _ = fs::remove_dir_all(folder.join("data"));
        let text = [done.stdout, done.stderr].concat();
        bail!("mariadb-install-db failed:\n{}", String::from_utf8_lossy(&text).trim());
    }
    Ok(())
}

/// The command that runs the server.
pub(crate) fn command(layout: &Layout) -> Result<(PathBuf, Vec<String>)> {
    let mut arguments = vec![format!("--defaults-file={}", folder(layout).join("my.cnf").display())];
    if nix::unistd::geteuid().is_root() {
        arguments.push("--user=root".to_owned());
    }
    Ok((program("mariadbd")?, arguments))
}

/// Waits until the server greets on its socket: then its accounts are there.
pub(crate) fn wait_ready(layout: &Layout, limit: Duration) -> Result<()> {
    let begin = Instant::now();
    while !greets(&socket(layout)) {
        let keeper = super::supervisor::pid_file(layout);
        if super::process::find(&keeper, &layout.path("")).is_none() {
            bail!("the cluster was stopped from elsewhere while it started");
        }
        if begin.elapsed() > limit {
            bail!(
                "MariaDB did not start within {} s; its log is {}:\n{}",
                limit.as_secs(),
                log_file(layout).display(),
                super::tail(&log_file(layout), 8)
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Protocol version 10 at the fifth byte of the greeting.
fn greets(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut greeting = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && greeting[4] == 10
}
