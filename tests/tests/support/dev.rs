//! A development cluster of real processes in a folder of its own, and orders to it by the command line.
#![allow(dead_code)] // each test uses its part

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The program next to this test; `cargo build --workspace` makes it.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("elpis");
    assert!(program.is_file(), "{} is not built: cargo build --workspace", program.display());
    program
}

/// A development cluster; ends with the test, however that ends.
pub(crate) struct Dev {
    dir: tempfile::TempDir,
}

impl Dev {
    /// With one database outside of the nodes: up sooner. With these options of `elpis dev up`.
    pub(crate) fn up(options: &[&str]) -> Dev {
        Dev::managed(&[&["--one-database"], options].concat())
    }

    /// The nodes run the database.
    pub(crate) fn managed(options: &[&str]) -> Dev {
        let dev = Dev { dir: tempfile::tempdir().unwrap() };
        dev.run(&[&["dev", "up", "--detach"], options].concat());
        dev
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> (bool, String) {
        let done =
            Command::new(program()).args(arguments).arg("--dir").arg(self.dir.path()).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success(), text + &String::from_utf8_lossy(&done.stderr))
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let (good, text) = self.command(arguments);
        assert!(good, "elpis {}: {text}{}", arguments.join(" "), self.logs());
        text
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let all = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.run(&all)).unwrap()
    }

    /// Asks until the answer is good; returns how long that took.
    pub(crate) fn until(
        &self,
        what: &str,
        limit: Duration,
        arguments: &[&str],
        good: impl Fn(&Value) -> bool,
    ) -> Duration {
        let begin = Instant::now();
        let all = [arguments, &["--json"]].concat();
        let mut last = String::new();
        while begin.elapsed() < limit {
            let (done, text) = self.command(&all);
            if done && serde_json::from_str(&text).is_ok_and(|value| good(&value)) {
                return begin.elapsed();
            }
            last = text;
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("not within {limit:?}: {what}; last answer: {last}{}", self.logs());
    }

    /// Waits until it is so.
    pub(crate) fn wait(&self, what: &str, limit: Duration, so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !so() {
            assert!(begin.elapsed() < limit, "not within {limit:?}: {what}{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A file of the folder; empty when it is not there.
    pub(crate) fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A line of `elpis dev env`.
    pub(crate) fn env(&self, name: &str) -> String {
        let text = self.run(&["dev", "env"]);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim_matches('\'').to_owned()
    }

    /// Ends of all logs.
    fn logs(&self) -> String {
        let script = "tail -n 5 n*/log/*.log supervisor.log mariadb/log 2>/dev/null";
        let done = Command::new("sh").args(["-c", script]).current_dir(self.dir.path()).output().unwrap();
        format!("\n{}", String::from_utf8_lossy(&done.stdout))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.command(&["dev", "down"]);
    }
}

/// Every shard is owned by a node with a live lease.
pub(crate) fn all_owned(status: &Value) -> bool {
    !status["master"].is_null() && status["shards"]["owned"].as_u64() == status["shards"]["total"].as_u64()
}

/// A node of the status.
pub(crate) fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["nodes"].as_array().unwrap().iter().find(|n| n["name"] == name).unwrap()
}
