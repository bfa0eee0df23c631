//! Where MariaDB's files lie, its settings, and a first copy from nothing.

use crate::{Config, Error};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Where Debian puts the server: not in the PATH of plain users.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];

/// The places of a node's server.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    node: PathBuf,
}

impl Folder {
    pub(crate) fn new(config: &Config) -> Folder {
        Folder { node: config.data.clone() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.node.join("database").join(name)
    }

    /// The copy.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The server's socket, for its supervisor and its gate only.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.node)
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.node.join("run/mariadbd.pid")
    }

    /// Where the gate brings the primary's copy.
    pub(crate) fn copy_in_socket(&self) -> PathBuf {
        crate::copy::in_socket(&self.node)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.node.join("log/mariadbd.log")
    }

    /// A whole copy is here.
    pub(crate) fn has_copy(&self) -> bool {
        self.data().join("mysql").is_dir()
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        let own = [self.path(""), self.path("tmp"), self.node.join("run"), self.node.join("log")];
        for folder in own.into_iter().chain([gate_folder(&self.node)]) {
            make_own(&folder).map_err(|e| Error::File(format!("cannot make {}", folder.display()), e))?;
        }
        Ok(())
    }

    /// Writes the settings.
    pub(crate) fn write_settings(&self, config: &Config) -> Result<PathBuf, Error> {
        self.make()?;
        let path = self.path("my.cnf");
        let disk = crate::disk::measure(&self.path("")).map_or(0, |disk| disk.1);
        let text = self.settings(config.memory_mib, disk);
        if fs::read_to_string(&path).is_ok_and(|held| held == text) {
            return Ok(path);
        }
        // On a full disk what is there stays whole: a server without settings would open other files.
        let new = self.path("my.cnf.new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(|e| Error::File(format!("cannot write {}", path.display()), e))?;
        Ok(path)
    }

    /// A commit survives the loss of power; every start is a replica's; no network but the gate's. Binary logs are purged
    /// by the supervisor; the server's own limit of 14 days is for one that nobody supervises.
    ///
    /// A binary log is a fortieth of the disk at most: whole ones are thrown away. The system table space grows by 8 MiB, not
    /// 64: every new copy fetches all of it. `disk`: bytes, 0 = not known.
    fn settings(&self, memory_mib: u32, disk: u64) -> String {
        let (data, tmp) = (self.data(), self.path("tmp"));
        let redo_mib = (memory_mib / 4).clamp(48, 1024);
        let log_mib = if disk == 0 { 256 } else { ((disk / 40) >> 20).clamp(16, 256) };
        // Single commits are applied by many at once: each waits for the disk.
        let threads = std::thread::available_parallelism().map_or(8, |count| (count.get() * 4).clamp(8, 32));
        format!(
            "[mariadbd]\n\
             datadir={}\ntmpdir={}\nsocket={}\npid-file={}\n\
             skip-networking\nskip-name-resolve\nskip-slave-start\nread-only=ON\nevent-scheduler=OFF\n\
             log-bin=binlog\nlog-slave-updates=ON\nrelay-log=relay\n\
             binlog-format=ROW\nbinlog-row-image=FULL\nbinlog-annotate-row-events=OFF\n\
             binlog-expire-logs-seconds=1209600\nmax-binlog-size={log_mib}M\nsync-binlog=1\n\
             gtid-domain-id=0\ngtid-strict-mode=ON\n\
             rpl-semi-sync-slave-enabled=ON\nrpl-semi-sync-master-enabled=OFF\n\
             rpl-semi-sync-master-wait-point=AFTER_SYNC\nrpl-semi-sync-master-timeout=18446744073709551615\n\
             rpl-semi-sync-master-wait-no-slave=ON\nrpl-semi-sync-slave-kill-conn-timeout=1\n\
             slave-net-timeout=2\nslave-parallel-threads={threads}\nslave-parallel-mode=optimistic\n\
             innodb-flush-log-at-trx-commit=1\ninnodb-buffer-pool-size={memory_mib}M\n\
             innodb-log-file-size={redo_mib}M\ninnodb-buffer-pool-dump-at-shutdown=0\n\
             innodb-buffer-pool-load-at-startup=0\ninnodb-autoextend-increment=8\ntransaction-isolation=READ-COMMITTED\n\
             max-allowed-packet=64M\nmax-connections=400\nquery-cache-size=0\nperformance-schema=OFF\n",
            data.display(),
            tmp.display(),
            self.socket().display(),
            self.pid_file().display(),
        )
    }

    /// Makes an empty copy: the first of a group.
    pub(crate) async fn install(&self) -> Result<(), Error> {
        self.make()?;
        let new = self.path("new");
        let _ = fs::remove_dir_all(&new);
        let user = user_name()?;
        let mut command = tokio::process::Command::new(program("mariadb-install-db")?);
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", new.display()))
            .arg(format!("--tmpdir={}", self.path("tmp").display()))
            .arg("--auth-root-authentication-method=socket")
            .arg(format!("--auth-root-socket-user={user}"))
            .arg("--skip-test-db")
            .args(as_user());
        finished("mariadb-install-db", &mut command).await?;
        self.replace(&new)
    }

    /// Puts a new copy in the place of what was there.
    pub(crate) fn replace(&self, new: &Path) -> Result<(), Error> {
        let (data, old) = (self.data(), self.path("old"));
        let failed =
            |e| Error::File(format!("cannot put {} in the place of {}", new.display(), data.display()), e);
        let _ = fs::remove_dir_all(&old);
        // Not every file of a new copy was synced by who wrote it: a name that survives a loss of power must hold all.
        fs::File::open(new).and_then(|folder| Ok(nix::unistd::syncfs(folder)?)).map_err(failed)?;
        if data.exists() {
            fs::rename(&data, &old).map_err(failed)?;
        }
        fs::rename(new, &data).map_err(failed)?;
        elpis_watch::durable::sync_folder_of(&data).map_err(failed)?;
        let _ = fs::remove_dir_all(&old);
        Ok(())
    }

    /// Appends to the server's log.
    pub(crate) fn open_log(&self) -> Result<fs::File, Error> {
        let path = self.log();
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        log.map_err(|e| Error::File(format!("cannot open {}", path.display()), e))
    }
}

/// Where the server, its supervisor and the gate meet: their sockets, and nothing else. Where the gate is another user, it
/// sees no more of the database than this.
pub(crate) fn gate_folder(node: &Path) -> PathBuf {
    node.join("database/gate")
}

/// The server's socket in a node's data folder.
pub(crate) fn socket(node: &Path) -> PathBuf {
    gate_folder(node).join("s")
}

/// Makes a folder for its owner alone; one that is there stays as it is.
pub(crate) fn make_own(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Runs a helper to its end.
pub(crate) async fn finished(what: &str, command: &mut tokio::process::Command) -> Result<(), Error> {
    let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let done = done.map_err(|e| Error::File(format!("cannot start {what}"), e))?;
    if done.status.success() {
        return Ok(());
    }
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let tail: Vec<&str> = text.trim().lines().rev().take(6).collect();
    Err(Error::Other(format!(
        "{what} failed ({}): {}",
        done.status,
        tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
    )))
}

/// Where a program of MariaDB's packages lies.
///
/// # Errors
/// When it is not installed.
pub fn program(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from));
    let found = places.map(|place| place.join(name)).find(|candidate| candidate.is_file());
    found.ok_or_else(|| {
        Error::Other(format!(
            "{name} is not installed; `make setup` installs it (Debian: mariadb-server-core, mariadb-client-core, mariadb-backup)"
        ))
    })
}

/// A program that stands back behind the servers: copies are made while they work.
pub(crate) fn modest(name: &str) -> Result<tokio::process::Command, Error> {
    let mut command = tokio::process::Command::new(program("nice")?);
    command.args(["-n", "10"]).arg(program(name)?);
    Ok(command)
}

/// MariaDB's programs run as root only when told so.
pub(crate) fn as_user() -> Vec<OsString> {
    if nix::unistd::geteuid().is_root() { vec!["--user=root".into()] } else { Vec::new() }
}

/// The account of the operating system, under which the supervisor goes in by the socket.
///
/// # Errors
/// When the user has no name.
pub fn user_name() -> Result<String, Error> {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => Ok(user.name),
        _ => {
            Err(Error::Other(format!("user id {uid} has no name; MariaDB needs one: add it to /etc/passwd")))
        }
    }
}
