//! A support bundle of a real cluster has what it promises, and no secret: every byte of it is searched for every
//! password, key, token and join word of the cluster, in all forms in which they lie around.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "support/dev.rs"]
mod dev;
#[path = "support/web.rs"]
mod web;

use dev::Dev;
use elpis_watch::{Frame, Hello, Method, Role, VERSION, Welcome};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const COMMUNITY: &str = "c0mmunity-0f-a-switch";

/// The password that only the cluster and this server know: as that server, whose place a process takes that does nothing.
/// It falls silent, so the node agent kills it.
async fn account(socket: &Path, role: Role) -> String {
    let mut stand_in = Command::new("sleep").arg("60").spawn().unwrap();
    let hello = Hello { version: VERSION, role, pid: stand_in.id(), incarnation: None };
    let welcome: Welcome =
        elpis_watch::request(socket, Method::POST, "/v1/hello", Some(&hello)).await.unwrap();
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (role, incarnation) = (role.as_str(), welcome.incarnation);
    let ask = format!("GET /v1/watch?role={role}&incarnation={incarnation} HTTP/1.1\r\nhost: node\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let frame = loop {
        let line = lines.next_line().await.unwrap().expect("the node agent tells it a map");
        if line.starts_with('{') {
            break serde_json::from_str::<Frame>(&line).unwrap();
        }
    };
    let _ = stand_in.kill();
    stand_in.wait().unwrap();
    frame.map.unwrap().database.unwrap().password
}

/// Secrets by what they are.
#[derive(Default)]
struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// As it is, and as hexadecimal digits and numbers would show it in a debug line.
    fn add(&mut self, what: &str, secret: &[u8]) {
        assert!(secret.len() >= 6, "{what} is too short to be looked for");
        self.0.insert(what.to_owned(), secret.to_vec());
        self.0.insert(format!("{what} in hex"), hex(secret).into_bytes());
        let numbers: Vec<String> = secret.iter().take(16).map(u8::to_string).collect();
        self.0.insert(format!("{what} as numbers"), numbers.join(", ").into_bytes());
    }

    /// Passwords, tokens and keys that lie in the folder.
    fn of_folder(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let what = path.display().to_string();
            let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
            if path.is_dir() && path.file_name().unwrap() != "data" {
                self.of_folder(&path);
            } else if matches!(end, "password" | "token") {
                self.add(&what, std::fs::read_to_string(&path).unwrap().trim().as_bytes());
            } else if end == "key" {
                let pem = std::fs::read_to_string(&path).unwrap();
                let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
                for (number, line) in lines.iter().enumerate() {
                    self.add(&format!("{what}, line {number}"), line.as_bytes());
                }
                let der = base64(&lines.concat());
                // A private scalar stands near the begin of PKCS #8 for P-256; any part of it is too much.
                for (number, part) in der.chunks_exact(16).enumerate().skip(2) {
                    self.add(&format!("{what}, DER part {number}"), part);
                }
                self.add(&format!("{what}, DER"), &der);
            }
        }
    }

    /// Those that are in these bytes.
    fn found(&self, bytes: &[u8]) -> Vec<&str> {
        let within = |secret: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        self.0.iter().filter(|(_, secret)| within(secret)).map(|(what, _)| what.as_str()).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<usize> = text.chars().filter_map(|c| DIGITS.find(c)).collect();
    let whole = |four: &[usize]| {
        let n = four.iter().enumerate().fold(0, |n, (i, d)| n | d << (18 - 6 * i));
        [n >> 16, n >> 8, n].map(|n| u8::try_from(n & 0xff).unwrap())[..four.len() - 1].to_vec()
    };
    digits.chunks(4).flat_map(whole).collect()
}

/// Every file under a folder: path from there, content.
fn files(folder: &Path, top: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, top, into);
        } else {
            into.insert(path.strip_prefix(top).unwrap().display().to_string(), std::fs::read(&path).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_tells_all_but_secrets() {
    let dev = Dev::up(&["--nodes", "3", "--feed"]);
    let password = dev.read("admin.password").trim().to_owned();
    let certificate = dev.dir().join("n1/console.crt");
    let session = web::sign_in(&dev.env("ELPIS_CONSOLE_1"), &certificate, &password).await;
    let offer = dev.json(&["cluster", "add-node"]);
    // All that the logs can be made to say.
    for name in ["n1", "n2", "n3"] {
        dev.run(&["node", "log-level", name, "trace"]);
    }
    dev.run(&["check", "add", &format!("snmp 127.0.0.1 1.3.6.1.2.1.1.3.0 {COMMUNITY}"), "--interval", "1"]);
    let sink = dev.env("ELPIS_SINK");
    dev.run(&["check", "add", &format!("tcp {sink}"), "--interval", "1"]);
    dev.until("checks run", Duration::from_secs(30), &["ledger", "check", "--to", "0s"], |l| {
        l["recorded"].as_u64() >= Some(4)
    });
    dev.run(&["dev", "kill", "n3"]);
    // A program with a fault: what must never be in a log is in one.
    let slip = format!("{} and {}\n{}", dev.read("db.password").trim(), password, dev.read("n3/node.key"));
    std::fs::write(dev.dir().join("n3/log/slip.log"), slip).unwrap();

    let out = dev.dir().parent().unwrap().join(format!("bundle-{}.tar.gz", std::process::id()));
    let answer = dev.json(&["support-bundle", "--out", &out.display().to_string()]);
    let (again, text) = dev.command(&["support-bundle", "--out", &out.display().to_string()]);
    assert!(!again && text.contains("is there already"), "{text}");
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let unpacked = tempfile::tempdir().unwrap();
    let done = Command::new("tar").arg("-xzf").arg(&out).arg("-C").arg(unpacked.path()).status().unwrap();
    std::fs::remove_file(&out).unwrap();
    assert!(done.success());
    let top = std::fs::read_dir(unpacked.path()).unwrap().next().unwrap().unwrap().path();
    let mut found = BTreeMap::new();
    files(&top, &top, &mut found);

    // It holds what it says, and says what is missing.
    let said: Vec<&str> =
        answer["files"].as_array().unwrap().iter().filter_map(|file| file["name"].as_str()).collect();
    assert_eq!(said.len(), found.len(), "{answer}");
    for name in [
        "README.txt",
        "version.json",
        "machine/kernel.txt",
        "machine/cpu.txt",
        "machine/memory.txt",
        "machine/disk-free.json",
        "cluster/ledger.json",
        "cluster/ports.json",
        "cluster/mariadb.log",
        "nodes/n1/status.json",
        "nodes/n1/node-metrics.txt",
        "nodes/n1/console-metrics.txt",
        "nodes/n1/database.json",
        "nodes/n1/log-levels.json",
        "nodes/n1/processes.json",
        "nodes/n1/spool.json",
        "nodes/n2/status.json",
        "nodes/n3/logs/node.log",
    ] {
        assert!(found.get(name).is_some_and(|bytes| !bytes.is_empty()), "no {name} in {:?}", found.keys());
    }
    let json = |name: &str| serde_json::from_slice::<Value>(&found[name]).unwrap();
    assert_eq!(json("nodes/n1/status.json")["nodes"].as_array().unwrap().len(), 3);
    assert!(
        json("nodes/n1/database.json")["schema"].as_i64() >= Some(2),
        "{}",
        json("nodes/n1/database.json")
    );
    assert!(json("nodes/n1/database.json")["tables"].as_array().unwrap().len() > 15);
    assert_eq!(json("cluster/ledger.json")["recorded_twice"], 0);
    assert_eq!(
        String::from_utf8_lossy(&found["nodes/n3/logs/slip.log"]).trim(),
        "[removed] and [removed]\n[removed]"
    );
    let missing = answer["missing"].to_string();
    assert!(missing.contains("nodes/n3/status.json"), "{missing}");
    assert!(String::from_utf8_lossy(&found["README.txt"]).contains("nodes/n3/status.json"));

    // No secret is in it.
    let mut secrets = Secrets::default();
    secrets.of_folder(dev.dir());
    secrets.add("session", session.as_bytes());
    secrets.add("join words", offer["words"].as_str().unwrap().as_bytes());
    secrets.add("community", COMMUNITY.as_bytes());
    for name in ["n1", "n2"] {
        let socket = dev.dir().join(name).join("run/node.sock");
        for role in Role::ALL.into_iter().filter(|role| *role != Role::AddressKeeper) {
            let account = account(&socket, role).await;
            if !account.is_empty() {
                let what = format!("database account of {name} {}", role.as_str());
                secrets.add(&what, account.as_bytes());
            }
        }
    }
    for what in [
        "admin.password",
        "db.password",
        "n2/metrics.token",
        "n2/node.key",
        "n2/console.key",
        "n1 data-server",
    ] {
        assert!(secrets.0.keys().any(|key| key.contains(what)), "{what} is not among what is looked for");
    }
    let leaks: Vec<_> = found
        .iter()
        .flat_map(|(name, bytes)| {
            secrets.found(bytes).into_iter().map(move |what| format!("{what} in {name}"))
        })
        .collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    // The search finds what is there.
    assert_eq!(secrets.found(format!("x{password}y").as_bytes()).len(), 1);
}
