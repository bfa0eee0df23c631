//! A machine's console and API, as a person or a program meets them.

use crate::SOON;
use crate::guest::Guest;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Hashing a password takes seconds in emulation.
const SIGN_IN: Duration = Duration::from_secs(120);
/// What the tests change the first password to.
pub(crate) const CHOSEN: &str = "correct-horse-battery";

/// A session of the console, as curl keeps it.
pub(crate) struct Api<'a> {
    guest: &'a Guest,
    csrf: String,
}

impl Api<'_> {
    /// With the password that one's screen shows, through another's console: it must be changed first, and the screen
    /// forgets it.
    pub(crate) fn first<'a>(shown: &Guest, guest: &'a Guest) -> Api<'a> {
        let password = shown.until_word("admin, password ", SOON);
        let api = Api::sign_in(guest, &password);
        let refused = api.get("/api/v1/modules");
        assert!(refused["error"].as_str().is_some_and(|text| text.contains("must be changed")), "{refused}");
        api.choose(&password);
        shown.until("the screen forgets it", SOON, || !shown.screen().contains("admin, password "));
        api
    }

    /// Changes the first password to [`CHOSEN`].
    pub(crate) fn choose(&self, first: &str) {
        let body = json!({ "current": first, "new": CHOSEN });
        self.guest.until("the first password is changed", SIGN_IN, || {
            self.send("/api/v1/password", &body);
            self.get("/api/v1/session")["must_change_password"] == false
        });
    }

    pub(crate) fn sign_in<'a>(guest: &'a Guest, password: &str) -> Api<'a> {
        let form = [
            "--show-error",
            "--include",
            "--data-urlencode",
            "name=admin",
            "--data-urlencode",
            &format!("password={password}"),
        ];
        let mut api = Api { guest, csrf: String::new() };
        // A console that has just started may ask to be asked again.
        let mut said = String::new();
        let begin = Instant::now();
        while !api.get("/api/v1/session")["csrf"].is_string() {
            assert!(begin.elapsed() < SIGN_IN, "no session; the console said {}", said);
            said = api.curl("/sign-in", &form);
        }
        api.csrf = api.get("/api/v1/session")["csrf"].as_str().unwrap().to_owned();
        api
    }

    /// SHA-256 of the certificate that whoever connects gets, as OpenSSL writes it.
    pub(crate) fn certificate(&self) -> String {
        let at = self.guest.console;
        let order = format!(
            "openssl s_client -connect 127.0.0.1:{at} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256"
        );
        let done = Command::new("sh").args(["-c", &order]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        said.trim().split('=').nth(1).unwrap_or_else(|| panic!("no fingerprint in {said:?}")).to_owned()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.curl(path, &[])).unwrap_or(Value::Null)
    }

    /// Whether a module has a value that begins so.
    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        let modules = self.get("/api/v1/modules");
        let rows = modules.as_array().cloned().unwrap_or_default();
        rows.iter()
            .any(|row| row["name"] == name && row["value"].as_str().is_some_and(|v| v.starts_with(value)))
    }

    /// A module's value; 0 = none.
    pub(crate) fn number(&self, name: &str) -> u32 {
        let modules = self.get("/api/v1/modules");
        let rows = modules.as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["name"] == name);
        let value = row.and_then(|row| row["value"].as_str()?.parse::<f64>().ok()).unwrap_or(0.0);
        // A whole number that this test sent.
        format!("{value:.0}").parse().unwrap_or(0)
    }

    /// When a module ran last, Unix seconds; 0 = never.
    pub(crate) fn ran(&self, name: &str) -> i64 {
        let modules = self.get("/api/v1/modules");
        let rows = modules.as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["name"] == name);
        row.and_then(|row| row["timestamp"].as_i64()).unwrap_or(0)
    }

    /// Sends an order until it is taken: emulated, a console may be late with its first ones.
    pub(crate) fn post(&self, path: &str, body: &Value) {
        self.guest.until(&format!("{path} is taken"), SOON, || {
            serde_json::from_str::<Value>(&self.send(path, body))
                .is_ok_and(|answer| answer["error"].is_null())
        });
    }

    /// Sends a file.
    pub(crate) fn put(&self, path: &str, file: &Path) -> Value {
        let (token, file) = (format!("X-CSRF-Token: {}", self.csrf), file.display().to_string());
        let text = self.curl(path, &["-H", &token, "--max-time", "900", "--upload-file", &file]);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path} answers {text:?}"))
    }

    pub(crate) fn send(&self, path: &str, body: &Value) -> String {
        let (token, body) = (format!("X-CSRF-Token: {}", self.csrf), body.to_string());
        self.curl(path, &["-H", &token, "-H", "Content-Type: application/json", "-d", &body])
    }

    pub(crate) fn curl(&self, path: &str, more: &[&str]) -> String {
        let jar = self.guest.folder().join("cookies");
        let url = format!("https://127.0.0.1:{}{path}", self.guest.console);
        let done = Command::new("curl")
            .args(["--silent", "--insecure", "--max-time", "20", "--cookie-jar"])
            .arg(&jar)
            .arg("--cookie")
            .arg(&jar)
            .args(more)
            .arg(&url)
            .output()
            .expect("curl is installed by make setup");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}
