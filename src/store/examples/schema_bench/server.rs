//! A private MariaDB with durable settings and a pool of 1 GiB; ended and removed when dropped.

use elpis_store::testdb::LASTING;
use elpis_store::{Endpoint, Secret};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a restart with an empty pool needs beside [`LASTING`].
const SETTINGS: &[&str] = &[
    "--innodb-buffer-pool-dump-at-shutdown=0",
    "--innodb-buffer-pool-load-at-startup=0",
    "--max-binlog-size=128M",
    "--transaction-isolation=READ-COMMITTED",
    "--user=root",
];

pub(crate) struct Server {
    dir: PathBuf,
    child: Child,
}

impl Server {
    /// In a new folder under `place`.
    pub(crate) fn start(place: &str) -> Server {
        let dir = tempfile::Builder::new().prefix("elpis-schema-bench").tempdir_in(place).unwrap().keep();
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(["--user=root".to_owned(), format!("--datadir={}/data", dir.display())])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(installed.success(), "mariadb-install-db failed");
        let child = spawn(&dir);
        Server { dir, child }
    }

    /// Stops in order and starts again: nothing is in the pool.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.dir);
    }

    fn stop(&mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            epoch: 1,
            url: format!("mysql://localhost/bench?socket={}/s", self.dir.display()),
            user: "root".to_owned(),
            password: Secret::new(""),
        }
    }

    /// Microseconds of CPU that the server has used.
    pub(crate) fn cpu_us(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // utime and stime, in hundredths of a second.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
    }

    /// MiB on disk of a table, all its partitions.
    pub(crate) fn table_mib(&self, table: &str) -> u64 {
        let files = std::fs::read_dir(self.dir.join("data/bench")).unwrap().filter_map(Result::ok);
        let ours = files.filter(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            name.strip_prefix(table).is_some_and(|rest| rest == ".ibd" || rest.starts_with("#P#"))
        });
        ours.map(|file| file.metadata().unwrap().len()).sum::<u64>() >> 20
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(dir: &std::path::Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let child = Command::new("mariadbd")
        .arg("--no-defaults")
        .arg(format!("--datadir={}/data", dir.display()))
        .arg(format!("--socket={}/s", dir.display()))
        .arg(format!("--pid-file={}/pid", dir.display()))
        .args(LASTING)
        .args(SETTINGS)
        .stderr(log)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while std::os::unix::net::UnixStream::connect(dir.join("s")).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "mariadbd does not start; see {}", dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
