//! A headless Chromium, spoken to by WebDriver over plain HTTP. Ends with its drop. The tests of the whole product use
//! it, too (`tests/tests/browser.rs`).
#![allow(dead_code)] // each test uses its part

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

/// Longest wait for a page to say something.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Driver {
    _child: Child,
    /// Kept open: the driver ends when nobody reads it.
    _output: Lines<BufReader<ChildStdout>>,
    port: u16,
    session: String,
    artefacts: PathBuf,
    _profile: tempfile::TempDir,
}

impl Driver {
    /// Pictures go to `target/artefacts` under this name. `None` = there is no browser on this machine.
    pub(crate) async fn start(name: &str) -> Option<Driver> {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(child.stdout.take()?).lines();
        let port = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(port) = line.split("successfully on port ").nth(1) {
                    return port.trim_end_matches('.').parse::<u16>().ok();
                }
            }
            None
        });
        let port = port.await.ok()??;
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--window-size=1360,900".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let artefacts = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../artefacts").join(name);
        std::fs::create_dir_all(&artefacts).unwrap();
        let artefacts = artefacts.canonicalize().unwrap();
        let mut driver = Driver {
            _child: child,
            _output: lines,
            port,
            session: String::new(),
            artefacts,
            _profile: profile,
        };
        let answer = driver.call("POST", "/session", Some(wanted)).await;
        driver.session = answer["sessionId"].as_str()?.to_owned();
        Some(driver)
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = body.map_or_else(String::new, |body| body.to_string());
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let bytes =
            sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&bytes).unwrap()["value"].take()
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body).await
    }

    pub(crate) async fn go(&self, address: &str) {
        let answer = self.ask("POST", "/url", Some(json!({"url": address}))).await;
        assert!(answer.is_null(), "{address}: {answer}");
    }

    async fn element(&self, css: &str) -> String {
        let found = self.ask("POST", "/element", Some(json!({"using": "css selector", "value": css}))).await;
        let id = found.as_object().and_then(|o| o.values().next()).and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("no {css}: {found}")).to_owned()
    }

    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let id = self.element(css).await;
        self.ask("POST", &format!("/element/{id}/value"), Some(json!({"text": text}))).await;
    }

    pub(crate) async fn click(&self, css: &str) {
        let id = self.element(css).await;
        let answer = self.ask("POST", &format!("/element/{id}/click"), Some(json!({}))).await;
        assert!(answer.is_null(), "{css}: {answer}");
    }

    pub(crate) async fn keys(&self, keys: &str) {
        let id = self.element("body").await;
        self.ask("POST", &format!("/element/{id}/value"), Some(json!({"text": keys}))).await;
    }

    /// Waits until the page shows this text.
    pub(crate) async fn wait_text(&self, text: &str) {
        self.wait_in("body", text).await;
    }

    /// Waits until this part of the page shows this text.
    pub(crate) async fn wait_in(&self, css: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let read = "return document.querySelector(arguments[0])?.innerText ?? ''";
            let script = json!({"script": read, "args": [css]});
            let seen = self.ask("POST", "/execute/sync", Some(script)).await;
            let seen = seen.as_str().unwrap_or("");
            if seen.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{css} never said {text:?}; it says\n{seen}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What this script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", Some(json!({"script": script, "args": []}))).await
    }

    /// Waits until what the script returns is good.
    pub(crate) async fn until(
        &self,
        what: &str,
        limit: Duration,
        script: &str,
        good: impl Fn(&Value) -> bool,
    ) {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.run(script).await;
            if good(&seen) {
                return;
            }
            assert!(Instant::now() < deadline, "not within {limit:?}: {what}; the page says {seen}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where the pictures are.
    pub(crate) fn artefacts(&self) -> &Path {
        &self.artefacts
    }

    /// A picture of the window, kept as an artefact of the build.
    pub(crate) async fn screenshot(&self, name: &str) {
        let picture = self.ask("GET", "/screenshot", None).await;
        std::fs::write(self.artefacts.join(format!("{name}.png")), base64(picture.as_str().unwrap()))
            .unwrap();
    }

    /// What the browser itself found wrong.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.ask("POST", "/se/log", Some(json!({"type": "browser"}))).await;
        let severe = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap_or("").to_owned()).collect()
    }

    pub(crate) async fn end(&self) {
        self.ask("DELETE", "", None).await;
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u32> = text.bytes().filter_map(digit).map(u32::from).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let n = four.iter().enumerate().fold(0, |n, (i, d)| n | d << (18 - 6 * i));
        bytes.extend(&n.to_be_bytes()[1..four.len()]);
    }
    bytes
}
