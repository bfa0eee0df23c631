//! A log server for a guest: `openssl s_server`, with a certificate that nobody vouches for.

use super::guest::free_port;
use std::fs::{File, read_to_string};
use std::process::{Child, Command, Stdio};

/// Where the guest reaches it: its network leads to one program of this machine and nowhere else.
pub(crate) const ADDRESS: &str = "10.0.2.100:6514";

pub(crate) struct LogServer {
    server: Child,
    folder: tempfile::TempDir,
    /// Of its certificate, as openssl writes it.
    pub(crate) sha256: String,
    port: u16,
}

impl LogServer {
    pub(crate) fn start() -> LogServer {
        let folder = tempfile::Builder::new().prefix("elpis-logs").tempdir().unwrap();
        let port = free_port();
        let openssl = |line: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(folder.path()).args(line.split(' '));
            command
        };
        let made = openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=log -keyout key -out cert",
        );
        let done = { made }.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let print = openssl("x509 -noout -fingerprint -sha256 -in cert").output().unwrap();
        let print = String::from_utf8(print.stdout).unwrap();
        let sha256 = print.trim().split_once('=').unwrap().1.to_owned();
        let server = openssl(&format!("s_server -quiet -accept 127.0.0.1:{port} -cert cert -key key"))
            // It ends with its input.
            .stdin(Stdio::piped())
            .stdout(File::create(folder.path().join("records")).unwrap())
            .stderr(File::create(folder.path().join("said")).unwrap())
            .spawn()
            .unwrap();
        let way = format!("exec 3<>/dev/tcp/127.0.0.1/{port}\ncat <&3 &\ncat >&3\nkill %1\n");
        std::fs::write(folder.path().join("way"), way).unwrap();
        LogServer { server, folder, sha256, port }
    }

    /// QEMU's option for it.
    pub(crate) fn way(&self) -> String {
        format!(",guestfwd=tcp:{ADDRESS}-cmd:bash {}", self.folder.path().join("way").display())
    }

    /// What came, frames and all.
    pub(crate) fn records(&self) -> String {
        read_to_string(self.folder.path().join("records")).unwrap_or_default()
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        let said = read_to_string(self.folder.path().join("said")).unwrap_or_default();
        println!("log server on port {}: {} bytes {said}", self.port, self.records().len());
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
